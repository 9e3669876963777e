// Package examples_test follows the page of every example to the letter, on
// machines that are made for it: it deploys, deploys again under load, and rolls
// back, and no request may fail.
package examples_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/deploy/internal/fleet"
)

// top is the top of the repository.
const top = "../.."

// bin is the directory of the three programs.
var bin string

var all = flag.Bool("all", false, "follow every example, also those that take long or need npm or PyPI")

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "post-receive" {
		exit(fleet.PostReceive(os.Args[2:], os.Stdin))
	}
	if dir := os.Getenv(machineDir); dir != "" {
		exit(hold(os.Args[1], dir))
	}
	var err error
	if bin, err = os.MkdirTemp("", "lockstep-bin-"); err != nil {
		exit(err)
	}
	if out, err := exec.Command("go", "build", "-o", bin+"/", top+"/cmd/...").CombinedOutput(); err != nil {
		exit(fmt.Errorf("%w: %s", err, out))
	}
	code := m.Run()
	if err := os.RemoveAll(bin); err != nil {
		exit(err)
	}
	os.Exit(code)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// example is what the test has to know of an example besides its page.
type example struct {
	name    string
	cheap   bool                       // followed in every run of the tests
	nodes   int                        // servers; with one, it is the coordinator's machine, too
	repos   []string                   // names at GitHub
	needs   []string                   // programs
	goApps  []string                   // that are written in Go
	visits  map[string]answer          // by path
	loses   []fleet.Class              // what its balancer is known to lose
	without func(t *testing.T, l *lab) // skips, or does otherwise, where something else is missing
}

// answer is what the two versions say.
type answer struct{ first, second string }

var examples = []example{
	{name: "go-service", cheap: true, nodes: 2, repos: []string{"greeter"}, goApps: []string{"greeter"}, visits: map[string]answer{"/gopher": {"Hello, gopher", "Good day, gopher"}}},
	{name: "five-instances", cheap: true, nodes: 1, repos: []string{"tally"}, goApps: []string{"tally"}, visits: map[string]answer{"/": {"visits, says", "calls, says"}},
		loses: []fleet.Class{fleet.Reset}},
	{name: "three-apps", nodes: 2, repos: []string{"store"}, goApps: []string{"shop", "api", "admin"}, visits: map[string]answer{
		"/": {"Everything for the garden", "Everything for the balcony"}, "/api": {`{"stock": 12}`, `{"stock": 12}`}, "/admin": {"Staff only", "Staff only"}}},
	{name: "static-site", nodes: 2, repos: []string{"handbook"}, needs: []string{"npm"}, visits: map[string]answer{"/": {">Everything that", "Nearly everything that"}},
		without: needsRegistry("registry.npmjs.org")},
	{name: "python-app", nodes: 2, repos: []string{"notes"}, visits: map[string]answer{"/": {"12 notes are kept here", "12 notes and two letters"}},
		without: needsPyPI},
	{name: "node-site", nodes: 2, repos: []string{"clock"}, needs: []string{"npm"}, visits: map[string]answer{"/": {"What time is it?", "Is it late?"}, "/page.js": {"HH:mm:ss", "HH:mm:ss"}},
		without: needsRegistry("registry.npmjs.org")},
}

func TestExamples(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make the machines")
	}
	for _, e := range examples {
		t.Run(e.name, func(t *testing.T) {
			if !e.cheap && !*all {
				t.Skip("make examples follows this one")
			}
			for _, p := range e.needs {
				if _, err := exec.LookPath(p); err != nil {
					t.Skipf("%s is not installed", p)
				}
			}
			l := &lab{}
			if e.without != nil {
				e.without(t, l)
			}
			follow(t, e, l)
		})
	}
}

// needsRegistry skips where no connection to a registry can be made.
func needsRegistry(host string) func(*testing.T, *lab) {
	return func(t *testing.T, _ *lab) {
		if err := reachable(host); err != nil {
			t.Skipf("its packages cannot be had: %v", err)
		}
	}
}

func reachable(host string) error {
	c, err := net.DialTimeout("tcp", host+":443", 10*time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}

// needsPyPI has Debian's gunicorn take the place of the one that pip would
// install, where PyPI cannot be reached: all but the download is followed then.
func needsPyPI(t *testing.T, l *lab) {
	if reachable("pypi.org") == nil {
		return
	}
	if err := exec.Command("/usr/bin/python3", "-c", "import gunicorn").Run(); err != nil {
		t.Skip("PyPI cannot be reached, and Debian's python3-gunicorn is not installed")
	}
	t.Log("PyPI cannot be reached: NOTHING IS INSTALLED BY pip; Debian's gunicorn runs instead")
	l.instead = map[string]string{"-m venv .venv": "-m venv --system-site-packages .venv", "gunicorn==23.0.0\n": "gunicorn\n"}
}

// lab is the machines of one example.
type lab struct {
	network      string // the first three parts of the machines' addresses
	repositories string
	home         string // of the developer
	coordinator  *machine
	servers      []*machine
	trees        map[*machine]string // nil is the developer's
	instead      map[string]string   // what is written otherwise in the example's files
}

func (l *lab) start(t *testing.T, e example) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "lockstep-example-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil { // builds have users of their own
		t.Fatal(err)
	}
	// All of 127/8 is this machine, and no other test picks the same.
	l.network = fmt.Sprintf("127.%d.%d", 20+rand.IntN(200), rand.IntN(250))
	l.repositories, l.home, l.trees = filepath.Join(dir, "git"), filepath.Join(dir, "dev"), map[*machine]string{}
	hosts := []string{"lb", "web1", "web2"}[:e.nodes+1]
	if e.nodes == 1 {
		hosts = []string{"web1"}
	}
	for i, name := range hosts {
		m := newMachine(t, name, fmt.Sprintf("%s.1%d", l.network, i), filepath.Join(dir, name), e.goApps)
		if i == 0 {
			l.coordinator = m
		}
		if i > 0 || e.nodes == 1 {
			l.servers = append(l.servers, m)
		}
		l.trees[m] = filepath.Join(dir, name, "lockstep")
		l.tree(t, m, l.trees[m], "examples", "deploy/systemd")
	}
	l.trees[nil] = filepath.Join(dir, "lockstep")
	l.tree(t, nil, l.trees[nil], "examples")
	for m := range l.trees {
		if m != nil {
			l.wrap(t, m.path("/usr/local/bin"))
		}
	}
	for _, r := range e.repos {
		l.remote(t, r)
	}
}

// wrap puts the commands that work otherwise here before the true ones.
func (l *lab) wrap(t *testing.T, dir string) {
	t.Helper()
	for name, script := range map[string]string{
		"systemctl": `exec /usr/bin/systemctl --user "$@"`,
		"scp":       `exec cp ` + l.coordinator.path(`/"${1#*:}"`) + ` "$2"`,
		"apt-get": `shift 2; for p; do dpkg-query -W -f '${Status}' "$p" | grep -q 'ok installed' || ` +
			`{ echo "$p is not installed: see deploy/packages" >&2; exit 1; }; done`,
	} {
		write(t, filepath.Join(dir, name), "#!/bin/sh\n"+script+"\n", 0o755)
	}
}

// remote makes a repository whose hook tells the coordinator of every push.
func (l *lab) remote(t *testing.T, name string) {
	t.Helper()
	repo := filepath.Join(l.repositories, name+".git")
	if out, err := exec.Command("git", "init", "-q", "--bare", "-b", "main", repo).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(repo, "hooks", "post-receive"), fmt.Sprintf("#!/bin/sh\nexec '%s' post-receive 'http://%s:7400/webhook/github' '%s' '%s'\n",
		self, l.coordinator.address, l.coordinator.path("/etc/lockstep/webhook-secret"), repo), 0o755)
}

func write(t *testing.T, file, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// develop runs a script as a developer does, on a machine of his own.
func (l *lab) develop(ctx context.Context, script string) (string, error) {
	if err := os.MkdirAll(l.home, 0o755); err != nil {
		return "", err
	}
	c := exec.CommandContext(ctx, "bash", "-euc", script)
	c.Dir = l.home
	c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=url."+l.repositories+"/.insteadOf", "GIT_CONFIG_VALUE_0=git@github.com:me/",
		"GIT_AUTHOR_NAME=Dev", "GIT_AUTHOR_EMAIL=dev@localhost", "GIT_COMMITTER_NAME=Dev", "GIT_COMMITTER_EMAIL=dev@localhost")
	out, err := c.CombinedOutput()
	return string(out), err
}

// follow does what the pages say.
func follow(t *testing.T, e example, l *lab) {
	l.start(t, e)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 8*time.Minute, fmt.Errorf("the example took longer than 8 minutes"))
	defer cancel()
	v := l.visit(ctx, e)
	defer v.end()
	page := "examples/" + e.name + "/README.md"
	for _, s := range append(steps(t, top+"/examples/README.md"), steps(t, top+"/"+page)...) {
		if s.needs != "" {
			if _, err := os.Stat(filepath.Join(top, "examples", e.name, s.needs)); err != nil {
				continue
			}
		}
		l.step(ctx, t, e, s)
		v.begin(t)
	}
	v.judge(t)
}

// step runs a block of commands where it belongs.
func (l *lab) step(ctx context.Context, t *testing.T, e example, s step) {
	t.Helper()
	where := map[string][]*machine{"coordinator": {l.coordinator}, "servers": l.servers, "dev": {nil}}[s.where]
	for _, m := range where {
		on := "dev"
		if m != nil {
			on = m.name
		}
		began := time.Now()
		script := l.translate(m, "", s.script)
		var out string
		var err error
		if m == nil {
			script = strings.ReplaceAll(script, "examples/", l.trees[nil]+"/examples/")
			out, err = l.develop(ctx, script)
		} else {
			out, err = m.run(ctx, l.trees[m], "example="+e.name+"\n"+script)
		}
		t.Logf("%s on %s (%.1f s):\n%s%s", s.at, on, time.Since(began).Seconds(), s.script, out)
		if err != nil {
			for _, m := range append(l.servers, l.coordinator) {
				t.Log(m.logs())
			}
			t.Fatalf("%s on %s: %v (%v)", s.at, on, err, context.Cause(ctx))
		}
	}
}

// visitors are the load, from the moment at which the app first answers.
type visitors struct {
	e     example
	front string
	ctx   context.Context
	stop  context.CancelFunc
	load  *fleet.Load
}

func (l *lab) visit(ctx context.Context, e example) *visitors {
	v := &visitors{e: e, front: l.coordinator.address + ":80"}
	v.ctx, v.stop = context.WithCancel(ctx)
	return v
}

func (v *visitors) end() {
	v.stop()
	if v.load != nil {
		v.load.Wait()
	}
}

// get asks the balancer.
func (v *visitors) get(path string) (string, error) {
	resp, err := http.Get("http://" + v.front + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}

// begin lets the visitors in once the first version serves.
func (v *visitors) begin(t *testing.T) {
	if v.load != nil {
		return
	}
	var paths []string
	for p := range v.e.visits {
		if _, err := v.get(p); err != nil {
			return
		}
		paths = append(paths, p)
	}
	v.is(t, func(a answer) string { return a.first })
	v.load = fleet.Visit(v.ctx, fleet.Visited{
		Address: func() string { return v.front }, Pause: 5 * time.Millisecond,
		Loses: func(c fleet.Class) bool {
			for _, l := range v.e.loses {
				if c == l {
					return true
				}
			}
			return false
		},
	}, paths...)
}

// is checks what is served.
func (v *visitors) is(t *testing.T, which func(answer) string) {
	t.Helper()
	for p, a := range v.e.visits {
		if got, err := v.get(p); err != nil || !strings.Contains(got, which(a)) {
			t.Errorf("GET %s: %q, %v; expected %q", p, got, err, which(a))
		}
	}
}

// judge ends the visits after the way back and checks what came of them.
func (v *visitors) judge(t *testing.T) {
	if v.load == nil {
		t.Fatal("the app never answered")
	}
	v.is(t, func(a answer) string { return a.first })
	v.end()
	r := v.load.Result()
	t.Logf("%d requests, %d failed, %v lost as documented", r.All.Sent, r.All.Failed, r.All.Documented)
	for _, f := range r.Failures {
		t.Errorf("%v", f)
	}
	for p, a := range v.e.visits {
		seen := 0
		for body, n := range r.Served {
			if strings.Contains(body, a.second) {
				seen += n
			}
		}
		if seen == 0 {
			t.Errorf("nobody who asked for %s saw the second version, %q", p, a.second)
		}
	}
}
