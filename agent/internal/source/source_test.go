package source_test

import (
	"bytes"
	"crypto/rand"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// files has all that a plain repository may hold.
func files() map[string]string {
	big := make([]byte, 1<<20+1000) // large enough to be streamed
	_, _ = rand.Read(big)
	return map[string]string{
		"README.md":          "hello\n",
		"empty":              "",
		"bin/run":            "+x #!/bin/sh\n",
		"a/b/c/d/deep":       "deep",
		"big.bin":            string(big),
		"compressible":       strings.Repeat("lockstep ", 130_000),
		"with space/ümläut":  "u",
		"back\\slash\nline":  "odd",
		"link":               "->README.md",
		"a/b/up":             "->../../bin/run",
		"a/dir":              "->b",
		"dangling":           "->made/by/the/build",
		"crlf.txt":           "one\r\ntwo\r\n",
		".gitignore":         "node_modules\n",
		".gitmodules-is-not": "a submodule",
	}
}

func TestACommitArrivesAsGitWouldWriteIt(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	first := u.commit(files())
	second := u.commit(map[string]string{"README.md": "changed\n", "bin/run": "now plain", "empty": "-", "link": "->a"})
	third := u.commit(map[string]string{"new/file": "x"})
	u.git("tag", "-a", "-m", "tag", "v1", first)
	srv := u.serveHTTP(nil)
	daemon := u.serveDaemon()
	for _, c := range []struct{ name, url, allow string }{
		{"path", u.dir, "false"},
		{"path", u.dir, "true"},
		{"file", "file://" + u.dir, "false"},
		{"http", srv.URL + "/" + u.name(), "false"},
		{"http", srv.URL + "/" + u.name() + "/.git", "true"},
		{"git", daemon, "false"},
		{"git", daemon, "true"},
	} {
		t.Run(c.name+" allow="+c.allow, func(t *testing.T) {
			u.git("config", "uploadpack.allowReachableSHA1InWant", c.allow)
			r := openRepo(t, filepath.Join(t.TempDir(), "store"), c.url)
			if r.Has(second) {
				t.Error("Has before Fetch")
			}
			// Neither is the tip of a branch, and the second goes back in time.
			checkout(t, u, r, second)
			checkout(t, u, r, first)
			checkout(t, u, r, third)
		})
	}
}

func TestTheStoreIsSoundForGit(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	u.git("config", "uploadpack.allowAnySHA1InWant", "true")
	dir := filepath.Join(t.TempDir(), "store")
	r := openRepo(t, dir, u.dir)
	for i := range 4 {
		sha := u.commit(map[string]string{"n": strings.Repeat("x", i), "d/m": strings.Repeat("y", 1000*i)})
		checkout(t, u, r, sha)
		if got := gitIn(t, dir, "", "rev-list", "--all", "--count"); got != string(rune('1'+i)) {
			t.Errorf("after %d commits the store has %s", i+1, got)
		}
	}
	if out := gitIn(t, dir, "", "fsck", "--full", "--strict"); out != "" {
		t.Errorf("git fsck: %s", out)
	}
}

func TestOnlyWhatChangedIsSent(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	u.git("config", "uploadpack.allowAnySHA1InWant", "true")
	var sent atomic.Int64
	srv := u.serveHTTP(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(&countingWriter{w, &sent}, r)
		})
	})
	big := make([]byte, 2<<20)
	_, _ = rand.Read(big)
	first := u.commit(map[string]string{"big": string(big), "a": "1"})
	second := u.commit(map[string]string{"a": "2"})
	r := openRepo(t, filepath.Join(t.TempDir(), "store"), srv.URL+"/"+u.name())
	checkout(t, u, r, first)
	if sent.Load() < int64(len(big)) {
		t.Fatalf("the first fetch took only %d bytes", sent.Load())
	}
	sent.Store(0)
	checkout(t, u, r, second)
	if n := sent.Load(); n > 10_000 {
		t.Errorf("the second fetch took %d bytes for a one-byte change", n)
	}
	sent.Store(0)
	checkout(t, u, r, first)
	checkout(t, u, r, second)
	if n := sent.Load(); n != 0 {
		t.Errorf("fetching what is here took %d bytes", n)
	}
}

type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	w.n.Add(int64(len(p)))
	return w.ResponseWriter.Write(p)
}

// More than what is resolved in memory must still arrive, by the other way.
func TestALargeChangeArrives(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	u.git("config", "uploadpack.allowAnySHA1InWant", "true")
	first := u.commit(map[string]string{"a": "1"})
	big := make([]byte, 4<<20+100_000)
	_, _ = rand.Read(big)
	second := u.commit(map[string]string{"big": string(big)})
	srv := u.serveHTTP(nil)
	for name, url := range map[string]string{"path": u.dir, "http": srv.URL + "/" + u.name(), "git": u.serveDaemon()} {
		t.Run(name, func(t *testing.T) {
			store := filepath.Join(t.TempDir(), "store")
			r := openRepo(t, store, url)
			checkout(t, u, r, first)
			checkout(t, u, r, second)
			if packs, _ := filepath.Glob(filepath.Join(store, "objects", "pack", "*.pack")); len(packs) != 2 {
				t.Errorf("the change was resolved in memory; packs: %v", packs)
			}
			if left, _ := filepath.Glob(filepath.Join(store, "objects", "pack", "tmp_*")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestTheFallbackIsAnnounced(t *testing.T) {
	u := newUpstream(t)
	first := u.commit(map[string]string{"a": "1"})
	u.commit(map[string]string{"a": "2"})
	var said bytes.Buffer
	r := openRepo(t, filepath.Join(t.TempDir(), "store"), u.dir)
	must(t, r.Fetch(t.Context(), first, &said))
	if !strings.Contains(said.String(), "allowReachableSHA1InWant") {
		t.Errorf("nothing said of the slow way:\n%s", &said)
	}
}

func TestADeepCommitIsFoundThroughHistory(t *testing.T) {
	u := newUpstream(t)
	first := u.commit(map[string]string{"a": "1"})
	tree := u.git("rev-parse", "HEAD^{tree}")
	tip := first
	for range 60 {
		tip = u.git("commit-tree", "-m", "more", "-p", tip, tree)
	}
	u.git("update-ref", "refs/heads/main", tip)
	checkout(t, u, openRepo(t, filepath.Join(t.TempDir(), "store"), u.dir), first)
}

// Whatever happened to a store, the right files are written in the end.
func TestADamagedStoreIsMended(t *testing.T) {
	t.Parallel()
	cases := map[string]func(t *testing.T, store string){
		"emptied packs":   func(t *testing.T, store string) { each(t, store, "pack/*.pack", truncate(0)) },
		"cut packs":       func(t *testing.T, store string) { each(t, store, "pack/*.pack", truncate(300)) },
		"missing packs":   func(t *testing.T, store string) { each(t, store, "pack/*.pack", os.Remove) },
		"flipped trees":   func(t *testing.T, store string) { each(t, store, "pack/*.pack", flipAt(30)) },
		"flipped ends":    func(t *testing.T, store string) { each(t, store, "pack/*.pack", flipAt(-30)) },
		"flipped indexes": func(t *testing.T, store string) { each(t, store, "pack/*.idx", flipAt(1200)) },
		"cut indexes":     func(t *testing.T, store string) { each(t, store, "pack/*.idx", truncate(1100)) },
		"swapped packs":   swap,
		"emptied index":   func(t *testing.T, store string) { each(t, store, "pack/*.idx", truncate(0)) },
		"missing index":   func(t *testing.T, store string) { each(t, store, "pack/*.idx", os.Remove) },
		"flipped bits":    func(t *testing.T, store string) { each(t, store, "pack/*.pack", flip) },
		"everything gone": func(t *testing.T, store string) { must(t, os.RemoveAll(store)) },
		"no HEAD":         func(t *testing.T, store string) { must(t, os.RemoveAll(filepath.Join(store, "HEAD"))) },
		"broken shallow": func(t *testing.T, store string) {
			must(t, os.WriteFile(filepath.Join(store, "shallow"), []byte("zz"), 0o644))
		},
	}
	u := newUpstream(t)
	u.git("config", "uploadpack.allowAnySHA1InWant", "true")
	noise := make([]byte, 5000)
	_, _ = rand.Read(noise)
	first := u.commit(map[string]string{"a/x": "1", "b": string(noise), "c": "+x c"})
	second := u.commit(map[string]string{"a/x": "2"})
	third := u.commit(map[string]string{"a/x": "3", "d": "new"})
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			store := filepath.Join(t.TempDir(), "store")
			r := openRepo(t, store, u.dir)
			must(t, r.Fetch(t.Context(), first, nil))
			must(t, r.Fetch(t.Context(), second, nil))
			damage(t, store)
			// Written without a fetch before it, as when the fetch was of yesterday.
			dir := t.TempDir()
			if err := r.Write(t.Context(), second, dir); err != nil {
				t.Errorf("Write: %v", err)
			} else {
				same(t, tree(t, dir), u.archive(second))
			}
			must(t, r.Fetch(t.Context(), third, nil))
			damage(t, store)
			r = openRepo(t, store, u.dir)
			checkout(t, u, r, first)
			checkout(t, u, r, third)
		})
	}
}

func each(t *testing.T, store, pattern string, do func(path string) error) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(store, "objects", pattern))
	must(t, err)
	for _, path := range found {
		must(t, os.Chmod(path, 0o644))
		must(t, do(path))
	}
}

func truncate(size int64) func(string) error {
	return func(path string) error { return os.Truncate(path, size) }
}

// flipAt changes a few bytes at an offset, from the end when it is negative.
func flipAt(at int) func(string) error {
	return func(path string) error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if at < 0 {
			at += len(data)
		}
		for i := max(at, 0); i < at+5 && i < len(data); i++ {
			data[i] ^= 0x55
		}
		return os.WriteFile(path, data, 0o644)
	}
}

func flip(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return flipAt(int(info.Size() / 2))(path)
}

// swap gives two packs each other's names.
func swap(t *testing.T, store string) {
	t.Helper()
	packs, err := filepath.Glob(filepath.Join(store, "objects", "pack", "*.pack"))
	must(t, err)
	if len(packs) < 2 {
		t.Fatalf("there are only %d packs", len(packs))
	}
	must(t, os.Rename(packs[0], packs[0]+".x"))
	must(t, os.Rename(packs[1], packs[0]))
	must(t, os.Rename(packs[0]+".x", packs[1]))
}

func TestTheStoreDoesNotGrowForEver(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	u.git("config", "uploadpack.allowAnySHA1InWant", "true")
	store := filepath.Join(t.TempDir(), "store")
	r := openRepo(t, store, u.dir)
	for i := range 60 {
		must(t, r.Fetch(t.Context(), u.commit(map[string]string{"a": strings.Repeat("x", i)}), nil))
	}
	packs, err := filepath.Glob(filepath.Join(store, "objects", "pack", "*.pack"))
	must(t, err)
	if len(packs) >= 50 {
		t.Errorf("there are %d packs", len(packs))
	}
	checkout(t, u, r, u.commit(map[string]string{"b": "1"}))
}

func TestOpenSweepsInterruptedFetches(t *testing.T) {
	u := newUpstream(t)
	store := filepath.Join(t.TempDir(), "store")
	openRepo(t, store, u.dir)
	left := filepath.Join(store, "objects", "pack", "tmp_pack_123")
	must(t, os.WriteFile(left, []byte("PACK"), 0o600))
	openRepo(t, store, u.dir)
	if _, err := os.Lstat(left); err == nil {
		t.Error("the leftover is still there")
	}
}
