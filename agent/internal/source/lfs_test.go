package source_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/source"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

// pointerTo returns what git holds of a file in Git LFS, and its name there.
func pointerTo(content []byte) (text, oid string) {
	oid = fmt.Sprintf("%x", sha256.Sum256(content))
	return fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", oid, len(content)), oid
}

// serveLFS answers the batch calls of git-lfs and hands out files, by their names.
func serveLFS(t *testing.T, files map[string][]byte) func(http.Handler) http.Handler {
	return serveLFSFor(t, "SECRET", "", files)
}

// serveLFSFor is serveLFS for a password and at a path; "" is beside the repository.
func serveLFSFor(t *testing.T, want, at string, files map[string][]byte) func(http.Handler) http.Handler {
	if at == "" {
		at = ".git/info/lfs"
	}
	return func(git http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); user != "me" || password != want {
				if password != "" && password != "WRONG" {
					t.Errorf("the password %q came to a host that it is not for", password)
				}
				http.Error(w, "no", http.StatusUnauthorized)
				return
			}
			if oid, ok := strings.CutPrefix(r.URL.Path, "/large/"); ok {
				_, _ = w.Write(files[oid])
				return
			}
			if !strings.HasSuffix(r.URL.Path, at+"/objects/batch") {
				git.ServeHTTP(w, r)
				return
			}
			type object struct {
				OID     string                       `json:"oid"`
				Size    int64                        `json:"size"`
				Actions map[string]map[string]string `json:"actions,omitempty"`
				Error   map[string]any               `json:"error,omitempty"`
			}
			var batch struct {
				Objects []object `json:"objects"`
			}
			if err := json.NewDecoder(r.Body).Decode(&batch); err != nil {
				t.Error(err)
			}
			for i, o := range batch.Objects {
				if files[o.OID] == nil {
					batch.Objects[i].Error = map[string]any{"code": 404, "message": "no such object"}
					continue
				}
				batch.Objects[i].Actions = map[string]map[string]string{"download": {"href": "http://" + r.Host + "/large/" + o.OID}}
			}
			w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
			_ = json.NewEncoder(w).Encode(batch)
		})
	}
}

func TestFilesInLFSAreDownloaded(t *testing.T) {
	program, err := exec.LookPath("git-lfs")
	if err != nil {
		t.Skip("git-lfs is not installed")
	}
	// What the program is called with, and that the real one does the work.
	bin := t.TempDir()
	called := filepath.Join(bin, "called")
	must(t, os.WriteFile(filepath.Join(bin, "git-lfs"), fmt.Appendf(nil, "#!/bin/sh\necho \"$@\" >> %s\nexec %s \"$@\"\n", called, program), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))

	content := make([]byte, 300_000)
	_, _ = rand.Read(content)
	text, oid := pointerTo(content)
	gone, _ := pointerTo([]byte("never pushed"))
	other, otherOID := pointerTo([]byte("one thing"))
	u := newUpstream(t)
	u.git("config", "uploadpack.allowAnySHA1InWant", "true")
	good := u.commit(map[string]string{"a/model.bin": text, "b": "plain"})
	plain := u.commit(map[string]string{"a/model.bin": "-"})
	missing := u.commit(map[string]string{"gone.bin": gone})
	wrong := u.commit(map[string]string{"gone.bin": "-", "other.bin": other})
	srv := u.serveHTTP(serveLFS(t, map[string][]byte{oid: content, otherOID: []byte("an other!")}))
	store := filepath.Join(t.TempDir(), "store")
	write := func(sha, password string) (string, error) {
		t.Helper()
		origin, err := source.Git(srv.URL+"/"+u.name(), func(string) gitremote.Login {
			return gitremote.Login{From: "the test", User: "me", Password: func() (string, error) { return password, nil }}
		})
		must(t, err)
		r, err := source.Open(store, origin)
		must(t, err)
		if password == "SECRET" {
			must(t, r.Fetch(t.Context(), sha, nil))
		}
		dir := filepath.Join(t.TempDir(), "release")
		return dir, r.Write(t.Context(), sha, dir)
	}
	refused := func(sha, password string, want ...string) {
		t.Helper()
		_, err := write(sha, password)
		if fault.ReasonOf(err) != api.ReasonFetchFailed {
			t.Errorf("%v has reason %q, want fetch_failed", err, fault.ReasonOf(err))
		}
		for _, w := range want {
			if !strings.Contains(fmt.Sprint(err), w) {
				t.Errorf("error lacks %q: %v", w, err)
			}
		}
		if strings.Contains(fmt.Sprint(err), password) {
			t.Errorf("the error shows the password: %v", err)
		}
	}
	kept := func() int {
		found, err := filepath.Glob(filepath.Join(store, "large", "*"))
		must(t, err)
		return len(found)
	}

	_, err = write(plain, "SECRET")
	must(t, err)
	refused(missing, "SECRET", `"gone.bin"`, "git lfs push", "no such object")
	refused(wrong, "SECRET", `"other.bin"`)
	must(t, openRepo(t, store, u.dir).Fetch(t.Context(), good, nil))
	refused(good, "WRONG", `"a/model.bin"`, "the credentials of the test are wrong or expired")
	dir, err := write(good, "SECRET")
	must(t, err)
	same(t, tree(t, dir), map[string]string{"a": "dir", "a/model.bin": "600 " + string(content), "b": "600 plain"})
	calls, err := os.ReadFile(called)
	must(t, err)
	downloads := strings.Count(string(calls), "smudge")
	if kept() != 1 {
		t.Errorf("%d files are kept, want that of the commit", kept())
	}
	// What is there is not asked for again, unless it was damaged.
	for i, damage := range []bool{false, true} {
		if damage {
			each(t, store, "../large/*", flip)
		}
		dir, err := write(good, "SECRET")
		must(t, err)
		same(t, tree(t, dir), map[string]string{"a": "dir", "a/model.bin": "600 " + string(content), "b": "600 plain"})
		calls, err := os.ReadFile(called)
		must(t, err)
		if n := strings.Count(string(calls), "smudge"); n != downloads+i {
			t.Errorf("git-lfs was called %d times, want %d", n, downloads+i)
		}
	}
	_, err = write(plain, "SECRET")
	must(t, err)
	if kept() != 0 {
		t.Errorf("%d files are kept that no commit needs", kept())
	}

	args, err := os.ReadFile(called)
	must(t, err)
	for name, content := range tree(t, store) {
		if strings.Contains(content, "SECRET") || strings.Contains(content, "Authorization") {
			t.Errorf("the credentials are in %s", name)
		}
	}
	if strings.Contains(string(args), "SECRET") || strings.Contains(string(args), "Authorization") {
		t.Errorf("the credentials are among the arguments: %s", args)
	}
}

func TestFilesInLFSOfThisMachine(t *testing.T) {
	if _, err := exec.LookPath("git-lfs"); err != nil {
		t.Skip("git-lfs is not installed")
	}
	content := []byte("the large file")
	text, oid := pointerTo(content)
	u := newUpstream(t)
	sha := u.commit(map[string]string{"model.bin": text})
	at := filepath.Join(u.dir, ".git", "lfs", "objects", oid[:2], oid[2:4])
	must(t, os.MkdirAll(at, 0o755))
	must(t, os.WriteFile(filepath.Join(at, oid), content, 0o644))
	r := openRepo(t, filepath.Join(t.TempDir(), "store"), u.dir)
	must(t, r.Fetch(t.Context(), sha, nil))
	dir := filepath.Join(t.TempDir(), "release")
	must(t, r.Write(t.Context(), sha, dir))
	same(t, tree(t, dir), map[string]string{"model.bin": "600 the large file"})
}

func TestFilesInLFSNeedTheProgram(t *testing.T) {
	u, lib := newUpstream(t), newUpstream(t)
	sha := u.commit(map[string]string{"model.bin": lfsPointer})
	inLib := u.submodule("lib", "../"+lib.name(), lib.commit(map[string]string{"large": lfsPointer}))
	inLib = u.commitTree(u.object("tree", rawTree(t, [3]string{"100644", ".gitmodules", u.git("rev-parse", inLib+":.gitmodules")},
		[3]string{"160000", "lib", u.git("rev-parse", inLib+":lib")})))
	// A machine with git, and without git-lfs.
	bin := t.TempDir()
	for _, name := range []string{"git", "git-upload-pack", "sh"} {
		path, err := exec.LookPath(name)
		must(t, err)
		must(t, os.Symlink(path, filepath.Join(bin, name)))
	}
	u.git("config", "uploadpack.allowAnySHA1InWant", "true")
	t.Setenv("PATH", bin)
	for _, c := range []struct {
		sha  string
		want []string
	}{
		{sha, []string{`"model.bin"`, "install git-lfs", "git lfs migrate export"}},
		{inLib, []string{`"lib/large"`, "install git-lfs"}},
	} {
		r := openRepo(t, filepath.Join(t.TempDir(), "store"), u.dir)
		must(t, r.Fetch(t.Context(), c.sha, nil))
		err := r.Write(t.Context(), c.sha, filepath.Join(t.TempDir(), "release"))
		if fault.ReasonOf(err) != api.ReasonBadTree {
			t.Errorf("%v has reason %q, want bad_tree", err, fault.ReasonOf(err))
		}
		for _, w := range c.want {
			if !strings.Contains(fmt.Sprint(err), w) {
				t.Errorf("error lacks %q: %v", w, err)
			}
		}
	}
}

// One file is in the repository, and one in its submodule at another host, which
// has other credentials.
func TestFilesInLFSOfSubmodules(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("git-lfs"); err != nil {
		t.Skip("git-lfs is not installed")
	}
	u, lib := newUpstream(t), newUpstream(t)
	u.git("config", "uploadpack.allowAnySHA1InWant", "true")
	lib.git("config", "uploadpack.allowAnySHA1InWant", "true")
	text, oid := pointerTo([]byte("of the repository"))
	inLib, libOID := pointerTo([]byte("of the submodule"))
	host := u.serveHTTP(serveLFSFor(t, "HERE", "", map[string][]byte{oid: []byte("of the repository")}))
	other := lib.serveHTTP(serveLFSFor(t, "THERE", "", map[string][]byte{libOID: []byte("of the submodule")}))
	u.commit(map[string]string{"model.bin": text})
	sha := u.submodule("vendor/lib", other.URL+"/"+lib.name(), lib.commit(map[string]string{"deep/large": inLib}))
	origin, err := source.Git(host.URL+"/"+u.name(), func(url string) gitremote.Login {
		password := "HERE"
		if strings.HasPrefix(url, other.URL) {
			password = "THERE"
		}
		return gitremote.Login{From: "the test", User: "me", Password: func() (string, error) { return password, nil }}
	})
	must(t, err)
	r, err := source.Open(filepath.Join(t.TempDir(), "store"), origin)
	must(t, err)
	must(t, r.Fetch(t.Context(), sha, nil))
	dir := filepath.Join(t.TempDir(), "release")
	must(t, r.Write(t.Context(), sha, dir))
	got := tree(t, dir)
	if got["model.bin"] != "600 of the repository" || got["vendor/lib/deep/large"] != "600 of the submodule" {
		t.Errorf("the release has %q", got)
	}
}

func TestLFSConfig(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("git-lfs"); err != nil {
		t.Skip("git-lfs is not installed")
	}
	u := newUpstream(t)
	u.git("config", "uploadpack.allowAnySHA1InWant", "true")
	text, oid := pointerTo([]byte("the large file"))
	host := u.serveHTTP(serveLFSFor(t, "SECRET", "/elsewhere", map[string][]byte{oid: []byte("the large file")}))
	spy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("another host was asked: %s %s, %v", r.Method, r.URL, r.Header)
	}))
	t.Cleanup(spy.Close)
	local := filepath.Join(t.TempDir(), "local")
	at := filepath.Join(local, "lfs", "objects", oid[:2], oid[2:4])
	must(t, os.MkdirAll(at, 0o755))
	must(t, os.WriteFile(filepath.Join(at, oid), []byte("the large file"), 0o644))
	for _, c := range []struct {
		name, config string
		want         []string // of the error, nil for none
	}{
		{"elsewhere at the host", "[lfs]\n\turl = " + host.URL + "/elsewhere\n", nil},
		{"settings for people", "[lfs]\n\turl = " + host.URL + "/elsewhere\n\tconcurrenttransfers = 1\n[lfs \"customtransfer.x\"]\n\tpath = /bin/false\n", nil},
		{"another host", "[lfs]\n\turl = " + spy.URL + "/x\n", []string{".lfsconfig", spy.URL, "https"}},
		{"another host with TLS", "[lfs]\n\turl = " + strings.Replace(spy.URL, "http:", "https:", 1) + "/x\n", []string{".lfsconfig", "another host", "agent.yaml"}},
		{"a directory of this machine", "[lfs]\n\turl = file://" + local + "\n", []string{".lfsconfig", local}},
		{"a path", "[lfs]\n\turl = " + local + "\n", []string{".lfsconfig", local}},
		{"a program", "[lfs]\n\turl = ext::date\n", []string{".lfsconfig"}},
		{"over ssh", "[lfs]\n\turl = ssh://-oProxyCommand=date/x\n", []string{".lfsconfig", "https"}},
		{"with a password", "[lfs]\n\turl = " + withUser(t, host.URL, url.UserPassword("me", "s3cret")) + "/elsewhere\n", []string{".lfsconfig", "a user"}},
		{"garbled", "[lfs", []string{".lfsconfig", "cannot be read"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sha := u.commit(map[string]string{"model.bin": text, ".lfsconfig": c.config})
			origin, err := source.Git(host.URL+"/"+u.name(), func(at string) gitremote.Login {
				if !gitremote.Covers(host.URL, at) {
					return gitremote.Login{}
				}
				return gitremote.Login{From: "the test", User: "me", Password: func() (string, error) { return "SECRET", nil }}
			})
			must(t, err)
			r, err := source.Open(filepath.Join(t.TempDir(), "store"), origin)
			must(t, err)
			must(t, r.Fetch(t.Context(), sha, nil))
			dir := filepath.Join(t.TempDir(), "release")
			err = r.Write(t.Context(), sha, dir)
			if c.want == nil {
				must(t, err)
				if got := tree(t, dir)["model.bin"]; got != "600 the large file" {
					t.Errorf("the file is %q", got)
				}
				return
			}
			if fault.ReasonOf(err) != api.ReasonBadTree {
				t.Errorf("error %v has reason %q, want bad_tree", err, fault.ReasonOf(err))
			}
			for _, w := range append(c.want, `"model.bin"`) {
				if !strings.Contains(fmt.Sprint(err), w) {
					t.Errorf("error lacks %q: %v", w, err)
				}
			}
			if strings.Contains(fmt.Sprint(err), "s3cret") {
				t.Errorf("the error shows a password: %v", err)
			}
		})
	}
}

// Where a server of files in Git LFS points elsewhere, its credentials stay behind.
func TestCredentialsForLFSAreNotLedElsewhere(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("git-lfs"); err != nil {
		t.Skip("git-lfs is not installed")
	}
	u := newUpstream(t)
	u.git("config", "uploadpack.allowAnySHA1InWant", "true")
	text, _ := pointerTo([]byte("the large file"))
	sha := u.commit(map[string]string{"model.bin": text})
	spy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("the credentials went along: %s %s", r.Method, r.URL)
		}
		w.Header().Set("WWW-Authenticate", "Basic")
		http.Error(w, "who are you?", http.StatusUnauthorized)
	}))
	t.Cleanup(spy.Close)
	srv := u.serveHTTP(func(git http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch _, password, _ := r.BasicAuth(); {
			case password != "SECRET":
				http.Error(w, "who are you?", http.StatusUnauthorized)
			case strings.HasSuffix(r.URL.Path, "/objects/batch"):
				http.Redirect(w, r, spy.URL+r.URL.Path, http.StatusTemporaryRedirect)
			default:
				git.ServeHTTP(w, r)
			}
		})
	})
	origin, err := source.Git(srv.URL+"/"+u.name(), func(string) gitremote.Login {
		return gitremote.Login{From: "the test", User: "me", Password: func() (string, error) { return "SECRET", nil }}
	})
	must(t, err)
	r, err := source.Open(filepath.Join(t.TempDir(), "store"), origin)
	must(t, err)
	must(t, r.Fetch(t.Context(), sha, nil))
	err = r.Write(t.Context(), sha, filepath.Join(t.TempDir(), "release"))
	// That it looked for credentials of the other host shows that it was led there.
	if fault.ReasonOf(err) != api.ReasonFetchFailed || !strings.Contains(err.Error(), spy.Listener.Addr().String()) || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("led to %s: %v", spy.URL, err)
	}
}
