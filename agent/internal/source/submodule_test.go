package source_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/source"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

// submodule adds a submodule by hand, at any commit and with any URL, and
// returns the SHA of the new commit.
func (u *upstream) submodule(path, url, sha string) string {
	u.t.Helper()
	must(u.t, os.MkdirAll(filepath.Join(u.dir, path), 0o755))
	u.git("config", "-f", ".gitmodules", "submodule."+path+".path", path)
	u.git("config", "-f", ".gitmodules", "submodule."+path+".url", url)
	u.git("add", ".gitmodules")
	u.git("update-index", "--add", "--cacheinfo", "160000,"+sha+","+path)
	u.git("commit", "-q", "-m", "submodule")
	return u.git("rev-parse", "HEAD")
}

// cloned returns what git itself makes of a commit with its submodules.
func (u *upstream) cloned(url, sha string) map[string]string {
	u.t.Helper()
	dir := filepath.Join(u.t.TempDir(), "clone")
	gitIn(u.t, u.dir, "", "clone", "-q", url, dir)
	gitIn(u.t, dir, "", "checkout", "-q", sha)
	gitIn(u.t, dir, "", "submodule", "-q", "update", "--init", "--recursive")
	found := tree(u.t, dir)
	for name := range found {
		if name == ".git" || strings.HasPrefix(name, ".git/") || strings.HasSuffix(name, "/.git") {
			delete(found, name)
		}
	}
	return found
}

func TestSubmodulesArriveAsGitWouldWriteThem(t *testing.T) {
	t.Parallel()
	u, lib, deep := newUpstream(t), newUpstream(t), newUpstream(t)
	var asked atomic.Int64
	srv := u.serveHTTP(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			h.ServeHTTP(w, r)
		})
	})
	deepSHA := deep.commit(map[string]string{"deep.txt": "deep", "bin/x": "+x x"})
	deep.commit(map[string]string{"deep.txt": "newer than what is pinned"})
	lib.commit(map[string]string{"lib.txt": "1"})
	libOld := lib.submodule("in/deep", "../"+deep.name(), deepSHA)
	libNew := lib.commit(map[string]string{"lib.txt": "2"})
	u.commit(files())
	u.submodule("vendor/lib", "../"+lib.name(), libOld)
	first := u.submodule("again", srv.URL+"/"+lib.name(), libNew)
	second := u.submodule("vendor/lib", "../"+lib.name()+"/", libNew)

	url := srv.URL + "/" + u.name()
	store := filepath.Join(t.TempDir(), "store")
	r := openRepo(t, store, url)
	for _, sha := range []string{first, second} {
		must(t, r.Fetch(t.Context(), sha, nil))
		dir := filepath.Join(t.TempDir(), "new")
		must(t, r.Write(t.Context(), sha, dir))
		same(t, tree(t, dir), u.cloned(url, sha))
	}

	// What is here is not asked for again; a submodule that is missing is.
	asked.Store(0)
	must(t, openRepo(t, store, url).Fetch(t.Context(), second, nil))
	if n := asked.Load(); n != 0 {
		t.Errorf("%d requests for what is here", n)
	}
	each(t, store, "pack/*.pack", truncate(300))
	dir := filepath.Join(t.TempDir(), "new")
	must(t, r.Write(t.Context(), second, dir))
	same(t, tree(t, dir), u.cloned(url, second))
}

func TestACommitIsNotCompleteWithoutItsSubmodules(t *testing.T) {
	t.Parallel()
	u, lib := newUpstream(t), newUpstream(t)
	sha := lib.commit(map[string]string{"lib.txt": "1"})
	head := u.submodule("lib", "../"+lib.name(), sha)
	r := openRepo(t, filepath.Join(t.TempDir(), "store"), u.dir)
	must(t, os.Rename(lib.dir, lib.dir+"-away"))
	err := r.Fetch(t.Context(), head, nil)
	if fault.ReasonOf(err) != api.ReasonFetchFailed || !strings.Contains(fmt.Sprint(err), `submodule "lib"`) || !strings.Contains(err.Error(), lib.name()) {
		t.Errorf("Fetch without the submodule: %v (%s)", err, fault.ReasonOf(err))
	}
	if r.Has(head) {
		t.Error("Has without the submodule")
	}
	must(t, os.Rename(lib.dir+"-away", lib.dir))
	must(t, r.Fetch(t.Context(), head, nil))
	if !r.Has(head) {
		t.Error("Has is false after Fetch")
	}
}

func TestAHostileSubmoduleIsRefused(t *testing.T) {
	t.Parallel()
	u, lib := newUpstream(t), newUpstream(t)
	u.git("config", "uploadpack.allowAnySHA1InWant", "true")
	pinned := lib.commit(map[string]string{"secret": "of this machine"})
	srv := u.serveHTTP(nil)
	blob := u.object("blob", "content\n")
	commit := func(modules [3]string, entries ...[3]string) string {
		return u.commitTree(u.object("tree", rawTree(t, append([][3]string{modules}, entries...)...)))
	}
	link := [3]string{"160000", "lib", pinned}
	gitmodules := func(text string) [3]string { return [3]string{"100644", ".gitmodules", u.object("blob", text)} }
	url := func(url string) [3]string {
		return gitmodules("[submodule \"lib\"]\n\tpath = lib\n\turl = " + url + "\n")
	}
	for _, c := range []struct {
		name string
		sha  string
		want []string
	}{
		{"a path of this machine", commit(url(lib.dir), link), []string{`"lib"`, lib.dir, "on this machine"}},
		{"a file URL", commit(url("file://"+lib.dir), link), []string{`"lib"`, "on this machine"}},
		{"a program", commit(url("ext::sh -c date"), link), []string{`"lib"`, "program"}},
		{"a program by URL", commit(url("ext::https://x/y"), link), []string{`"lib"`, "program"}},
		{"an option", commit(url("--upload-pack=date"), link), []string{`"lib"`, "dash"}},
		{"an option as a host", commit(url("ssh://-oProxyCommand=date/x"), link), []string{`"lib"`, "dash"}},
		{"a line break", commit(url(`"https://host/x\ny"`), link), []string{`"lib"`, "control characters"}},
		{"an unknown scheme", commit(url("gopher://host/x"), link), []string{`"lib"`, "gopher"}},
		{"above the host", commit(url("../../../../x"), link), []string{`"lib"`, "above"}},
		{"no URL", commit(gitmodules(""), link), []string{`"lib"`, "no URL"}},
		{"another path", commit(gitmodules("[submodule \"x\"]\npath = other\nurl = ../"+lib.name()+"\n"), link), []string{`"lib"`, "no URL"}},
		{"a path above", commit(gitmodules("[submodule \"x\"]\npath = ../../lib\nurl = ../"+lib.name()+"\n"), link), []string{"../../lib", "out of the repository"}},
		{"a file that is a link", commit([3]string{"120000", ".gitmodules", u.object("blob", "f")}, link, [3]string{"100644", "f", blob}), []string{`"lib"`, "no URL"}},
		{"a file that cannot be read", commit(gitmodules("[submodule"), link), []string{".gitmodules", "cannot be read"}},
		{"a name like git's", commit(gitmodules("[submodule \"x\"]\npath = .git\nurl = ../"+lib.name()+"\n"), [3]string{"160000", ".git", pinned}), []string{`".git"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := openRepo(t, filepath.Join(t.TempDir(), "store"), srv.URL+"/"+u.name())
			parent := t.TempDir()
			err := r.Fetch(t.Context(), c.sha, nil)
			if err == nil { // what is wrong with names is seen when they are written
				err = r.Write(t.Context(), c.sha, filepath.Join(parent, "release"))
			}
			if fault.ReasonOf(err) != api.ReasonBadTree {
				t.Fatalf("error %v has reason %q, want bad_tree", err, fault.ReasonOf(err))
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error lacks %s: %v", w, err)
				}
			}
			if got := tree(t, parent); len(got) > 1 {
				t.Errorf("something was written: %v", got)
			}
		})
	}
}

func TestSubmodulesInOneAnotherHaveABound(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	sha := u.commit(map[string]string{"a": "1"})
	for range 11 { // each commit has the one before it as a submodule
		sha = u.submodule("self", "./", sha)
	}
	err := openRepo(t, filepath.Join(t.TempDir(), "store"), u.dir).Fetch(t.Context(), sha, nil)
	if fault.ReasonOf(err) != api.ReasonBadTree {
		t.Errorf("a submodule without a name: %v", err)
	}
	for range 11 {
		sha = u.submodule("self", "../"+u.name(), sha)
	}
	u.git("config", "uploadpack.allowAnySHA1InWant", "true")
	err = openRepo(t, filepath.Join(t.TempDir(), "store"), u.dir).Fetch(t.Context(), sha, nil)
	if fault.ReasonOf(err) != api.ReasonBadTree || !strings.Contains(err.Error(), "10 deep") {
		t.Errorf("submodules 11 deep: %v (%s)", err, fault.ReasonOf(err))
	}
}

func TestCredentialsGoOnlyWhereTheyAreFor(t *testing.T) {
	t.Parallel()
	u, lib := newUpstream(t), newUpstream(t)
	pinned := lib.commit(map[string]string{"lib.txt": "1"})
	with := func(password string) func(http.Handler) http.Handler {
		return func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, got, ok := r.BasicAuth()
				switch {
				case ok && got != password:
					t.Errorf("%s was sent the password %q", r.Host, got)
					fallthrough
				case !ok:
					http.Error(w, "no", http.StatusUnauthorized)
				default:
					h.ServeHTTP(w, r)
				}
			})
		}
	}
	parent, other := u.serveHTTP(with("one")), lib.serveHTTP(with("two"))
	head := u.submodule("lib", other.URL+"/"+lib.name(), pinned)
	fetch := func(known map[*httptest.Server]string) error {
		origin, err := source.Git(parent.URL+"/"+u.name(), func(url string) gitremote.Login {
			for srv, password := range known {
				if gitremote.Covers(srv.URL, url) {
					return gitremote.Login{From: "the test", User: "x", Password: func() (string, error) { return password, nil }}
				}
			}
			return gitremote.Login{}
		})
		must(t, err)
		r, err := source.Open(filepath.Join(t.TempDir(), "store"), origin)
		must(t, err)
		return r.Fetch(t.Context(), head, nil)
	}
	must(t, fetch(map[*httptest.Server]string{parent: "one", other: "two"}))
	err := fetch(map[*httptest.Server]string{parent: "one"})
	if fault.ReasonOf(err) != api.ReasonFetchFailed || !strings.Contains(fmt.Sprint(err), `submodule "lib"`) || !strings.Contains(err.Error(), ".gitmodules") {
		t.Errorf("without credentials for the submodule: %v", err)
	}
}
