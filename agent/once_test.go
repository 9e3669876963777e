package agent_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent"
	root "github.com/lockstep-deploy/lockstep/coordinator"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// TestOneNodeBuildsForAll is of two agents and a coordinator, with a build that
// makes other files each time: both nodes serve the same, and only the artifact.
// Then the coordinator loses the archive and a node its release.
func TestOneNodeBuildsForAll(t *testing.T) {
	t.Parallel()
	f := newPair(t, `
    build: ["mkdir -p dist tmp && date +%s%N > dist/stamp && head -c 9000000 /dev/urandom > dist/large && ln -s stamp dist/link && echo x > tmp/scrap"]
    build_on: first
    artifact: [dist/]`)
	f.converged()
	f.same("dist/stamp")
	f.same("dist/large")
	for i := range f.nodes {
		dir := filepath.Join(f.nodes[i].cfg.Apps, hello, "current")
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 {
			t.Errorf("web%d holds %v besides the artifact (%v)", i+1, entries, err)
		}
		if to, err := os.Readlink(filepath.Join(dir, "dist/link")); to != "stamp" {
			t.Errorf("web%d: the link leads to %q, %v", i+1, to, err)
		}
	}
	found, _ := filepath.Glob(filepath.Join(f.dir, "archives", hello, "*.tar.zst"))
	if len(found) != 1 {
		t.Fatalf("archives: %v", found)
	}

	// web2 comes back with an empty disk, and the coordinator without archives:
	// web1 shares what it built then once more.
	f.nodes[1].stop()
	f.stopCoordinator()
	if err := os.Remove(found[0]); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{f.nodes[1].cfg.Apps, f.nodes[1].cfg.State} {
		if err := os.RemoveAll(d); err != nil {
			t.Fatal(err)
		}
	}
	f.units[1].forget()
	f.startCoordinator()
	f.startNode(1)
	f.converged()
	f.same("dist/stamp")
}

// TestBuildsThatDiffer is of nodes that build each for itself: that the builds
// differ is told.
func TestBuildsThatDiffer(t *testing.T) {
	t.Parallel()
	f := newPair(t, `
    build: ["date +%s%N > stamp"]`)
	f.converged()
	page, err := f.admin.Events(t.Context(), "hello-1", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range page.Events {
		if e.Kind == "build_skew" && strings.Contains(e.Text, "web1") && strings.Contains(e.Text, "web2") {
			st, err := f.admin.Status(t.Context())
			if err != nil || !strings.Contains(st.Apps[0].BuildSkew, "web2") {
				t.Errorf("status does not tell of it: %+v, %v", st.Apps[0], err)
			}
			return
		}
	}
	t.Errorf("nothing in the timeline tells of it: %+v", page.Events)
}

// TestEditedReleaseIsNotShared is of a release that somebody edited by hand: the
// other nodes do not get it.
func TestEditedReleaseIsNotShared(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	shares := &archives{}
	s.deps.Archives = shares
	s.start(t)
	r := s.repo.release(map[string]string{"app.conf": "right"})
	s.prepare(r, 1)
	s.c.awaitPresent(t, hello, r.ID)
	if err := os.WriteFile(filepath.Join(s.cfg.Apps, hello, "releases", r.ID, "app.conf"), []byte("wrong!"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.c.set(hello, func(a *api.Assignment) { a.Prepare = &api.Prepare{Release: r.ID, Attempt: 2, Share: true} })
	got := s.c.awaitApp(t, hello, "sharing fails", func(a api.AppReport) bool { return a.Prepare != nil && a.Prepare.Attempt == 2 && a.Prepare.Failed })
	if got.Prepare.Reason != api.ReasonReleaseEdited || !strings.Contains(got.Prepare.Text, "app.conf") || shares.count() != 0 {
		t.Errorf("%+v, %d shared", got.Prepare, shares.count())
	}
}

// TestEditedReleaseIsNamed is of an edit by hand that an agent finds when it looks.
func TestEditedReleaseIsNamed(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.start(t)
	r := s.repo.release(map[string]string{"app.conf": "right"})
	s.prepare(r, 1)
	s.c.awaitPresent(t, hello, r.ID)
	s.stop()
	if err := os.WriteFile(filepath.Join(s.cfg.Apps, hello, "releases", r.ID, "log"), []byte("its own"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(s.cfg.Apps, hello, "releases", r.ID, "app.conf")); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	s.c.awaitApp(t, hello, "the edit is named", func(a api.AppReport) bool { return a.Edited[r.ID] == "app.conf" })
}

// pair is a coordinator with two agents.
type pair struct {
	t     *testing.T
	dir   string
	repo  repo
	admin *api.Client
	url   string
	nodes []*node
	units []*fakeUnits
	stop  func()
}

func newPair(t *testing.T, settings string) *pair {
	t.Helper()
	r := newRepo(t)
	return newPairOf(t, r, "file://"+r.dir, settings)
}

// newPairOf is newPair with a repository that is read at another URL. The nodes are
// made ready by before.
func newPairOf(t *testing.T, r repo, url, settings string, before ...func(*node)) *pair {
	t.Helper()
	f := &pair{t: t, dir: t.TempDir(), repo: r}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.url = "http://" + ln.Addr().String()
	ln.Close()
	for _, name := range []string{"webhook", "admin", "web1", "web2"} {
		if err := os.WriteFile(filepath.Join(f.dir, name), []byte("secret-token-of-"+name+"-0123456789"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.repo.release(map[string]string{"README": "hello"})
	fleet := fmt.Sprintf(`
coordinator: {listen: %q, database: %s/lockstep.db, mirrors: %s/mirrors, admin_tokens: [{file: %s/admin}], poll_interval: 1h}
github: {webhook_secrets: [{file: %s/webhook}]}
nodes:
  web1: {token: {file: %s/web1}}
  web2: {token: {file: %s/web2}}
apps:
  hello:
    repo: %q
    branch: main
    nodes: [web1, web2]
    unit: hello.service
    health: {tcp: %q, interval: 100ms}
    balancer: none
    soak: 0s%s
`, strings.TrimPrefix(f.url, "http://"), f.dir, f.dir, f.dir, f.dir, f.dir, f.dir, url, alive(t), settings)
	if err := os.WriteFile(filepath.Join(f.dir, "fleet.yaml"), []byte(fleet), 0o600); err != nil {
		t.Fatal(err)
	}
	f.admin = f.client("admin")
	f.startCoordinator()
	for i := range 2 {
		units := &fakeUnits{runs: map[string]string{}}
		c := f.client(fmt.Sprintf("web%d", i+1))
		n := newNode(t, c, units)
		n.cfg.Name, n.deps.Archives, n.deps.Sources = fmt.Sprintf("web%d", i+1), c, c
		units.apps = n.cfg.Apps
		for _, ready := range before {
			ready(n)
		}
		f.nodes, f.units = append(f.nodes, n), append(f.units, units)
		f.startNode(i)
	}
	return f
}

// alive is an address that accepts connections: apps that are healthy as soon as
// they run. Without a health check, the agents would look at each for seconds.
func alive(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return l.Addr().String()
}

func (f *pair) startNode(i int) { f.nodes[i].start(f.t) }

func (f *pair) client(who string) *api.Client {
	c, err := api.NewClient(f.url, "secret-token-of-"+who+"-0123456789", api.WithBackoff(50*time.Millisecond, time.Second))
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func (f *pair) startCoordinator() {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- root.Run(ctx, root.Options{
			Config: filepath.Join(f.dir, "fleet.yaml"), Log: logger(f.t), Ready: func(net.Addr) { close(ready) },
		})
	}()
	select {
	case <-ready:
	case err := <-ended:
		f.t.Fatal(err)
	}
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			f.t.Error(err)
		}
	})
	f.t.Cleanup(f.stop)
}

func (f *pair) stopCoordinator() { f.stop() }

// converged waits until both nodes serve the branch, which the coordinator deploys
// by itself.
func (f *pair) converged() {
	f.t.Helper()
	deadline := time.Now().Add(4 * patience)
	for {
		st, err := f.admin.Status(f.t.Context())
		if err == nil && st.Converged() {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("not everywhere in time: %+v, %v", st, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// same sees that both nodes serve the same content.
func (f *pair) same(path string) {
	f.t.Helper()
	var all []string
	for _, n := range f.nodes {
		b, err := os.ReadFile(filepath.Join(n.cfg.Apps, hello, "current", path))
		if err != nil {
			f.t.Fatal(err)
		}
		all = append(all, string(b))
	}
	if all[0] != all[1] {
		f.t.Errorf("%s differs between the nodes", path)
	}
}

// forget stops every unit, as a node does that was installed anew.
func (u *fakeUnits) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	clear(u.runs)
}

// archives counts what is shared.
type archives struct {
	agent.Archives
	mu sync.Mutex
	n  int
}

func (a *archives) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n
}
