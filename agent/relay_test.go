package agent_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// host is a server of repositories that wants a password and remembers who
// fetched what.
type host struct {
	*httptest.Server
	mu      sync.Mutex
	fetches []string // names of repositories
	denied  int
	large   map[string]string // files in Git LFS, by SHA-256
	loads   []string          // of them
}

// keep puts a file into the host's Git LFS and returns the pointer to it.
func (h *host) keep(content string) (pointer string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	oid := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
	h.large[oid] = content
	return fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", oid, len(content))
}

// lfs answers what git-lfs asks for.
func (h *host) lfs(w http.ResponseWriter, r *http.Request) (answered bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if oid, ok := strings.CutPrefix(r.URL.Path, "/large/"); ok {
		h.loads = append(h.loads, oid)
		_, _ = io.WriteString(w, h.large[oid])
		return true
	}
	if !strings.HasSuffix(r.URL.Path, ".git/info/lfs/objects/batch") {
		return false
	}
	type object struct {
		OID     string                       `json:"oid"`
		Size    int64                        `json:"size"`
		Actions map[string]map[string]string `json:"actions,omitempty"`
	}
	var batch struct {
		Objects []object `json:"objects"`
	}
	_ = json.NewDecoder(r.Body).Decode(&batch)
	for i, o := range batch.Objects {
		batch.Objects[i].Actions = map[string]map[string]string{"download": {"href": h.URL + "/large/" + o.OID}}
	}
	w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
	_ = json.NewEncoder(w).Encode(batch)
	return true
}

func newHost(t *testing.T, password string, repos ...repo) *host {
	t.Helper()
	root := t.TempDir()
	for _, r := range repos {
		if err := os.Symlink(r.dir, filepath.Join(root, filepath.Base(r.dir))); err != nil {
			t.Fatal(err)
		}
	}
	backend := &cgi.Handler{
		Path: filepath.Join(repos[0].git("--exec-path"), "git-http-backend"), Stderr: io.Discard,
		Env: append(os.Environ(), "GIT_PROJECT_ROOT="+root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
			"GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=uploadpack.allowAnySHA1InWant", "GIT_CONFIG_VALUE_0=true",
			"GIT_CONFIG_KEY_1=uploadpack.allowFilter", "GIT_CONFIG_VALUE_1=true"),
	}
	h := &host{large: map[string]string{}}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, got, _ := r.BasicAuth()
		name, fetch := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/"), "/git-upload-pack")
		h.mu.Lock()
		switch {
		case got != password:
			h.denied++
		case fetch:
			h.fetches = append(h.fetches, name)
		}
		h.mu.Unlock()
		if got != password {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		if !h.lfs(w, r) {
			backend.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(h.Close)
	return h
}

// fetched returns how often a repository was fetched since the last call.
func (h *host) fetched(r repo) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range h.fetches {
		if name == filepath.Base(r.dir) {
			n++
		}
	}
	return n
}

func (h *host) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fetches = nil
}

// awaitFile waits until a node serves a file with this content.
func (f *pair) awaitFile(node int, path, content string) {
	f.t.Helper()
	for deadline := time.Now().Add(4 * patience); ; time.Sleep(50 * time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(f.nodes[node].cfg.Apps, hello, "current", path))
		if string(b) == content {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("%s is %q on web%d, %v", path, b, node+1, err)
		}
	}
}

// TestNodesWithoutCredentialsGetCommits is of a private repository with a private
// submodule, of which only the coordinator has the token: it asks the host once
// for each push, however many nodes there are.
func TestNodesWithoutCredentialsGetCommits(t *testing.T) {
	t.Parallel()
	const token = "ghs_0123456789abcdef"
	app, lib := newRepo(t), newRepo(t)
	h := newHost(t, token, app, lib)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pin := func(content string) {
		t.Helper()
		sha := lib.release(map[string]string{"lib.txt": content}).SHA
		if err := os.MkdirAll(filepath.Join(app.dir, "lib"), 0o755); err != nil {
			t.Fatal(err)
		}
		app.git("config", "-f", ".gitmodules", "submodule.lib.path", "lib")
		app.git("config", "-f", ".gitmodules", "submodule.lib.url", "../"+filepath.Base(lib.dir))
		app.git("update-index", "--add", "--cacheinfo", "160000,"+sha+",lib")
	}
	pin("first")
	f := newPairOf(t, app, h.URL+"/"+filepath.Base(app.dir), `
    build: ["test -f lib/lib.txt"]
    source: {via: coordinator, token: {file: `+file+`}}`)
	f.converged()
	f.same("lib/lib.txt")

	h.forget()
	pin("second")
	r := app.release(map[string]string{"README": "again"})
	if _, err := f.admin.Deploy(t.Context(), hello, api.DeployRequest{Ref: r.SHA, By: "t"}); err != nil {
		t.Fatal(err)
	}
	for i := range f.nodes {
		f.awaitFile(i, "lib/lib.txt", "second")
	}
	// Once for the history, which has no files, and once for the files.
	if a, l := h.fetched(app), h.fetched(lib); a != 2 || l != 1 {
		t.Errorf("the host was asked %d times for the app and %d times for its submodule, want 2 and 1", a, l)
	}
	if h.denied > 0 {
		t.Errorf("%d requests came without the token", h.denied)
	}
}

// TestNodesWithoutCredentialsGetFilesInLFS is of a private repository that keeps a
// file in Git LFS, and so does its submodule: the coordinator asks for each once.
func TestNodesWithoutCredentialsGetFilesInLFS(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("git-lfs"); err != nil {
		t.Skip("git-lfs is not installed")
	}
	const token = "ghs_0123456789abcdef"
	app, lib := newRepo(t), newRepo(t)
	h := newHost(t, token, app, lib)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	model, weights := strings.Repeat("a large file\n", 300_000), "of the submodule\n"
	sha := lib.release(map[string]string{"weights": h.keep(weights)}).SHA
	if err := os.MkdirAll(filepath.Join(app.dir, "lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	app.git("config", "-f", ".gitmodules", "submodule.lib.path", "lib")
	app.git("config", "-f", ".gitmodules", "submodule.lib.url", "../"+filepath.Base(lib.dir))
	app.git("update-index", "--add", "--cacheinfo", "160000,"+sha+",lib")
	if err := os.WriteFile(filepath.Join(app.dir, "model.bin"), []byte(h.keep(model)), 0o644); err != nil {
		t.Fatal(err)
	}
	f := newPairOf(t, app, h.URL+"/"+filepath.Base(app.dir), `
    build: ["test -f lib/weights"]
    source: {via: coordinator, token: {file: `+file+`}}`)
	f.converged()
	for i := range f.nodes {
		f.awaitFile(i, "model.bin", model)
		f.awaitFile(i, "lib/weights", weights)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.loads) != 2 {
		t.Errorf("%d downloads of 2 files by 2 nodes, want 2", len(h.loads))
	}
}
