package sandbox_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/sandbox"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func asRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can run something as another user")
	}
}

// without is a sandbox where there is no systemd.
func without(t *testing.T) *sandbox.Sandbox {
	t.Helper()
	none := unit.NewUser(t.TempDir())
	t.Cleanup(none.Close)
	return sandbox.New(sandbox.Config{Units: none, System: true, Dir: t.TempDir()})
}

// builder makes a user for the test, and a directory that it can get at.
func builder(t *testing.T) (name, dir string) {
	t.Helper()
	asRoot(t)
	if _, err := exec.LookPath("useradd"); err != nil {
		t.Skipf("no user can be made: %v", err)
	}
	name = "lockstep-test-" + strconv.Itoa(os.Getpid())
	if out, err := exec.CommandContext(t.Context(), "useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name).CombinedOutput(); err != nil {
		t.Skipf("no user can be made: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("userdel", name).CombinedOutput(); err != nil {
			t.Errorf("userdel: %v: %s", err, out)
		}
	})
	dir = t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return name, dir
}

// A root agent without a systemd has nobody to run builds as.
func TestWithoutSystemdNothingRunsAsRootUnasked(t *testing.T) {
	asRoot(t)
	s, dir := without(t), t.TempDir()
	j := long(dir)
	j.Commands, j.User = []string{"touch ran"}, sandbox.Dynamic
	err := s.Run(t.Context(), j, io.Discard)
	if err == nil || fault.ReasonOf(err).CondemnsRelease() || !strings.Contains(err.Error(), "build: {user: lockstep-build}") {
		t.Errorf("error %v has reason %q", err, fault.ReasonOf(err))
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		t.Error("it ran as root")
	}
	got := s.Check(t.Context(), sandbox.Dynamic)
	if got.With != "process group" || !strings.Contains(got.Problem, "no systemd") || !strings.Contains(got.Problem, "build: {user: lockstep-build}") {
		t.Errorf("the trial found %+v", got)
	}
	// Whoever says so may.
	j.User = "root"
	if err := s.Run(t.Context(), j, io.Discard); err != nil {
		t.Error(err)
	}
	if got := s.Check(t.Context(), "root"); got.Problem != "" || got.User != "root" {
		t.Errorf("the trial found %+v", got)
	}
}

func TestAUserThatIsMissingIsNamed(t *testing.T) {
	asRoot(t)
	s := without(t)
	j := long(t.TempDir())
	j.User = "nobody-of-this-name"
	got := s.Check(t.Context(), j.User)
	err := s.Run(t.Context(), j, io.Discard)
	if err == nil || fault.ReasonOf(err).CondemnsRelease() {
		t.Errorf("error %v has reason %q", err, fault.ReasonOf(err))
	}
	for _, text := range []string{got.Problem, err.Error()} {
		if !strings.Contains(text, "nobody-of-this-name") || !strings.Contains(text, "useradd") {
			t.Errorf("it does not say what to do: %s", text)
		}
	}
}

// A named user holds in a process group as well: who it is, what it can write to,
// and how many tasks it may have. The release is the agent's in the end.
func TestANamedUserWithoutSystemd(t *testing.T) {
	name, dir := builder(t)
	s := without(t)
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	if err := os.Chmod(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	release := filepath.Join(dir, "release")
	if err := os.Mkdir(release, 0o755); err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(dir, "state", "cache", "app")
	var out bytes.Buffer
	err = s.Run(t.Context(), sandbox.Job{
		Name: "app.build.abc-1.1", What: "build", Reason: api.ReasonBuildFailed, Dir: release, Writable: []string{release}, User: name,
		Cache: cache, Limits: sandbox.Limits{Tasks: 40}, Grace: time.Second,
		Commands: []string{
			`id -un; id -Gn; echo x > made; echo x > "$HOME/kept"; ! touch ` + outside + `/x`,
			`n=0; while [ $n -lt 60 ]; do sleep 600 & n=$((n+1)); done; echo started $n`,
		},
	}, &out)
	if err == nil || !strings.Contains(err.Error(), "fork") || strings.Contains(out.String(), "\nstarted") {
		t.Errorf("sixty tasks were started where forty are allowed: %v", err)
	}
	if !strings.Contains(out.String(), "\n"+name+"\n"+name+"\n") {
		t.Errorf("it ran as another user, or in other groups:\n%s", out.String())
	}
	if st := owned(t, filepath.Join(release, "made")); int(st.Uid) != os.Getuid() {
		t.Errorf("what it made belongs to %d in the end", st.Uid)
	}
	if st := owned(t, filepath.Join(cache, "kept")); strconv.Itoa(int(st.Uid)) != u.Uid {
		t.Errorf("its cache belongs to %d", st.Uid)
	}
	got := s.Check(t.Context(), name)
	if got.Problem != "" || got.User != name || strings.Contains(strings.Join(got.Unenforced, " "), "tasks") {
		t.Errorf("the trial found %+v", got)
	}
}

func owned(t *testing.T, path string) *syscall.Stat_t {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t)
}

// An app's own commands run as its unit does, and write what that user may.
func TestTheAppsCommandsRunAsTheApp(t *testing.T) {
	name, dir := builder(t)
	machine := os.Getenv(ofMachine) != ""
	sandboxes := map[string]*sandbox.Sandbox{"process group": without(t)}
	accounts := map[string]*unit.Account{"named": {User: name, Groups: []string{"daemon"}}}
	if machine {
		units := unit.New(unit.System)
		t.Cleanup(units.Close)
		sandboxes["systemd of the machine"] = sandbox.New(sandbox.Config{Units: units, System: true, Dir: t.TempDir()})
		accounts["made"] = &unit.Account{User: "lockstep-test-made", Dynamic: true, State: []string{"lockstep-test"}, StateMode: 0o755}
		t.Cleanup(func() { os.RemoveAll("/var/lib/private/lockstep-test"); os.Remove("/var/lib/lockstep-test") })
	}
	for with, s := range sandboxes {
		for kind, account := range accounts {
			if account.Dynamic && with == "process group" {
				continue
			}
			t.Run(with+", "+kind, func(t *testing.T) {
				release, shared := filepath.Join(dir, t.Name(), "release"), filepath.Join(dir, t.Name(), "shared")
				for _, d := range []string{release, shared} {
					if err := os.MkdirAll(d, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.WriteFile(filepath.Join(shared, "db"), nil, 0o644); err != nil {
					t.Fatal(err)
				}
				writes := `test ! -w db && touch "$STATE_DIRECTORY/db"`
				if !account.Dynamic {
					writes = `echo more >> db && touch db-journal`
					u, err := user.Lookup(name)
					if err != nil {
						t.Fatal(err)
					}
					uid, err := strconv.Atoi(u.Uid)
					for _, f := range []string{shared, filepath.Join(shared, "db")} {
						if err := errors.Join(err, os.Chown(f, uid, -1)); err != nil {
							t.Fatal(err)
						}
					}
				}
				var out bytes.Buffer
				for n := 1; n <= 2; n++ {
					err := s.Run(t.Context(), sandbox.Job{
						Name: "app.release.abc-1." + strconv.Itoa(n), What: "release", Reason: api.ReasonCommandFailed, Dir: release, App: account, User: sandbox.Dynamic,
						Open: []string{shared, filepath.Join(shared, "not-there")}, Cache: filepath.Join(dir, t.Name(), "state", "cache", "app"), Grace: time.Second,
						Commands: []string{
							`echo "as $(id -un), $(id -Gn)"; ! touch ` + release + `/x`, `cd ` + shared + ` && ` + writes,
							`echo x >> "$HOME/n"; test $(wc -l < "$HOME/n") = ` + strconv.Itoa(n),
						},
					}, &out)
					if err != nil {
						t.Fatalf("%v\n%s", err, out.String())
					}
				}
				want := "\nas " + account.User + ", " + account.User + " daemon\n"
				if account.Dynamic {
					want = "\nas " + account.User + ", " + account.User + "\n"
				}
				if !strings.Contains(out.String(), want) {
					t.Errorf("it ran as another user, or in other groups:\n%s", out.String())
				}
				if st := owned(t, filepath.Join(shared, "db")); (int(st.Uid) == os.Getuid()) != account.Dynamic {
					t.Errorf("what is shared belongs to %d afterwards", st.Uid)
				}
			})
		}
	}
}
