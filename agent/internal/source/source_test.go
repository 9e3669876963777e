package source_test

import (
	"bytes"
	"compress/zlib"
	"crypto/rand"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lockstep-deploy/lockstep/agent/internal/source"
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

// damage is what may have happened to a store. first is in a pack, second in
// loose objects.
func TestADamagedStoreIsMended(t *testing.T) {
	t.Parallel()
	cases := map[string]func(t *testing.T, store string){
		"emptied packs":   func(t *testing.T, store string) { each(t, store, "pack/*.pack", truncate(0)) },
		"cut packs":       func(t *testing.T, store string) { each(t, store, "pack/*.pack", truncate(300)) },
		"missing packs":   func(t *testing.T, store string) { each(t, store, "pack/*.pack", os.Remove) },
		"emptied index":   func(t *testing.T, store string) { each(t, store, "pack/*.idx", truncate(0)) },
		"missing index":   func(t *testing.T, store string) { each(t, store, "pack/*.idx", os.Remove) },
		"flipped bits":    func(t *testing.T, store string) { each(t, store, "pack/*.pack", flip) },
		"emptied loose":   func(t *testing.T, store string) { each(t, store, "[0-9a-f][0-9a-f]/*", truncate(0)) },
		"missing loose":   func(t *testing.T, store string) { each(t, store, "[0-9a-f][0-9a-f]/*", os.Remove) },
		"everything gone": func(t *testing.T, store string) { must(t, os.RemoveAll(store)) },
		"no HEAD":         func(t *testing.T, store string) { must(t, os.RemoveAll(filepath.Join(store, "HEAD"))) },
		"other content": func(t *testing.T, store string) {
			each(t, store, "[0-9a-f][0-9a-f]/*", func(path string) error {
				return os.WriteFile(path, loose("blob 3\x00bad"), 0o644)
			})
		},
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

// go-git does not notice that an object is not what its name says.
func TestAChangedFileInTheStoreIsNotDeployed(t *testing.T) {
	u := newUpstream(t)
	u.git("config", "uploadpack.allowAnySHA1InWant", "true")
	first := u.commit(map[string]string{"a": "1"})
	second := u.commit(map[string]string{"a": "2"})
	store := filepath.Join(t.TempDir(), "store")
	r := openRepo(t, store, u.dir)
	must(t, r.Fetch(t.Context(), first, nil))
	must(t, r.Fetch(t.Context(), second, nil))
	blob := u.git("rev-parse", second+":a")
	path := filepath.Join(store, "objects", blob[:2], blob[2:])
	must(t, os.Chmod(path, 0o644))
	must(t, os.WriteFile(path, loose("blob 1\x003"), 0o644))
	dir := t.TempDir()
	must(t, r.Write(t.Context(), second, dir))
	same(t, tree(t, dir), u.archive(second))
}

// loose is the content of a file that holds one object.
func loose(object string) []byte {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	_, _ = w.Write([]byte(object))
	_ = w.Close()
	return b.Bytes()
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

func flip(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for i := len(data) / 2; i < len(data)/2+20 && i < len(data); i++ {
		data[i] ^= 0x55
	}
	return os.WriteFile(path, data, 0o644)
}

func TestTheStoreDoesNotGrowForEver(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	u.git("config", "uploadpack.allowAnySHA1InWant", "true")
	store := filepath.Join(t.TempDir(), "store")
	r := openRepo(t, store, u.dir)
	first := u.commit(map[string]string{"a": "1"})
	checkout(t, u, r, first)
	for i := range 2100 {
		path := filepath.Join(store, "objects", "aa", strings.Repeat("0", 34)+string([]rune{rune('a' + i%6), rune('a' + i/6%6), rune('a' + i/36%6), rune('a' + i/216%6), rune('a' + i/1296%6), '0'}))
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, nil, 0o644))
	}
	second := u.commit(map[string]string{"a": "2"})
	checkout(t, u, r, second)
	loose, err := filepath.Glob(filepath.Join(store, "objects", "aa", "*"))
	must(t, err)
	if len(loose) > 10 {
		t.Errorf("%d loose objects are still there", len(loose))
	}
	checkout(t, u, r, first)
}

func TestOpenSweepsInterruptedFetches(t *testing.T) {
	u := newUpstream(t)
	store := filepath.Join(t.TempDir(), "store")
	openRepo(t, store, u.dir)
	left := filepath.Join(store, "objects", "pack", "tmp_pack_123")
	must(t, os.WriteFile(left, []byte("PACK"), 0o600))
	if _, err := source.Open(store, u.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(left); err == nil {
		t.Error("the leftover is still there")
	}
}
