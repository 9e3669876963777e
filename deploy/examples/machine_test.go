package examples_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/internal/systemdtest"
)

// A machine has a file system view, a hostname and a service manager of its own:
// /etc, /usr/local/bin, /var/lib, /var/log and /run are as they are here until it
// changes them, and what it changes is gone with it. It shares the network.
type machine struct {
	name, address string
	pid           int    // of the process that holds it
	home          string // shared with everybody, as is all of /tmp
	env           []string
}

// machineDir makes the test program the process that holds a machine.
const machineDir = "EXAMPLES_MACHINE_DIR"

// These tell it where the go program keeps what it has compiled, and for which
// apps that is to be shared.
const (
	goCache = "EXAMPLES_GO_CACHE"
	goApps  = "EXAMPLES_GO_APPS"
)

// held is what that process says of its machine.
type held struct{ RuntimeDir, UnitPath, Error string }

// newMachine starts a machine that ends with the test. Of its apps those that are
// written in Go are named.
func newMachine(t *testing.T, name, address, dir string, apps []string) *machine {
	t.Helper()
	m := &machine{name: name, address: address, home: filepath.Join(dir, "home")}
	if err := os.MkdirAll(m.home, 0o755); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/proc/self/exe", name)
	c.Env = append(os.Environ(), machineDir+"="+dir, goCache+"="+compiled(t), goApps+"="+strings.Join(apps, " "))
	c.Stderr = os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS,
		Setsid:       true, // an interrupt at the terminal is not for it
	}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	m.pid = c.Process.Pid
	t.Cleanup(func() {
		in.Close() // which tells it to end
		if err := c.Wait(); err != nil {
			t.Errorf("machine %s: %v", name, err)
		}
	})
	var h held
	if err := json.NewDecoder(out).Decode(&h); err != nil || h.Error != "" {
		t.Fatalf("cannot start machine %s: %s %v", name, h.Error, err)
	}
	// Whoever is logged in there finds what was put on the machine first. Without the
	// path of units, systemctl looks for those that it enables where this machine has its own.
	m.env = append(os.Environ(), "PATH=/usr/local/bin:"+os.Getenv("PATH"), "HOME="+m.home,
		"XDG_RUNTIME_DIR="+h.RuntimeDir, "SYSTEMD_UNIT_PATH="+h.UnitPath)
	return m
}

func compiled(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// hold sets up the machine that this process is, and keeps it until standard
// input ends.
func hold(name, dir string) error {
	m, err := setUp(name, dir)
	h := held{}
	if err != nil {
		h.Error = err.Error()
	} else {
		h.RuntimeDir, h.UnitPath = m.RuntimeDir, m.UnitDir+":"+filepath.Join(m.RuntimeDir, "base")
	}
	if err := json.NewEncoder(os.Stdout).Encode(h); err != nil {
		return err
	}
	if m == nil {
		return nil
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, m.Stop())
}

func setUp(name, dir string) (*systemdtest.Manager, error) {
	if err := syscall.Sethostname([]byte(name)); err != nil {
		return nil, err
	}
	// It may lie below /run, which will be hidden.
	resolver, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil, err
	}
	own := filepath.Join(dir, "own")
	if err := os.MkdirAll(own, 0o755); err != nil {
		return nil, err
	}
	if err := syscall.Mount("tmpfs", own, "tmpfs", 0, "mode=755"); err != nil {
		return nil, fmt.Errorf("cannot mount a tmpfs: %w", err)
	}
	for _, d := range []string{"/etc", "/usr/local/bin", "/var/lib", "/var/log"} {
		up, work := filepath.Join(own, d, "up"), filepath.Join(own, d, "work")
		if err := errors.Join(os.MkdirAll(up, 0o755), os.MkdirAll(work, 0o755)); err != nil {
			return nil, err
		}
		if err := syscall.Mount("overlay", d, "overlay", 0, "lowerdir="+d+",upperdir="+up+",workdir="+work); err != nil {
			return nil, fmt.Errorf("cannot mount an overlay on %s: %w", d, err)
		}
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return nil, err
	}
	err = errors.Join(os.Remove("/etc/resolv.conf"), os.WriteFile("/etc/resolv.conf", resolver, 0o644),
		os.MkdirAll("/run/haproxy", 0o755), os.MkdirAll("/var/log/units", 0o755), os.MkdirAll("/var/lib/lockstep", 0o755))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := shareGoCache(os.Getenv(goCache), strings.Fields(os.Getenv(goApps))); err != nil {
		return nil, err
	}
	m, err := systemdtest.Start(ctx, "/run/manager") // not in /tmp, of which units have one of their own
	if err != nil {
		return nil, err
	}
	// A system's manager hears units whoever they run as.
	err = errors.Join(os.Chmod(m.RuntimeDir, 0o711), os.Chmod(filepath.Join(m.RuntimeDir, "systemd", "notify"), 0o777))
	return m, errors.Join(err, adapt(m), syscall.Mount(m.UnitDir, "/etc/systemd/system", "", syscall.MS_BIND, ""))
}

// shareGoCache puts what the go program of this machine has compiled where builds
// of the apps look for it: each would compile the standard library again.
func shareGoCache(cache string, apps []string) error {
	for _, app := range apps {
		at := filepath.Join("/var/lib/lockstep/agent/cache", app, "go-build")
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(cache, at, "", syscall.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// adapt makes room for units that are written for a system's manager, in which
// /tmp is not shared with everybody and there is a journal.
func adapt(m *systemdtest.Manager) error {
	for _, u := range []string{"haproxy.service", "nginx.service", "caddy.service"} {
		b, err := os.ReadFile(filepath.Join("/lib/systemd/system", u))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := errors.Join(err, m.WriteUnit(u, string(b))); err != nil {
			return err
		}
	}
	// What these cover a path with is not there either.
	every := "StandardOutput=append:/var/log/units/%n.log\nStandardError=inherit\nProtectHome=no\nProtectKernelTunables=no\nProtectKernelLogs=no\n"
	for u, more := range map[string]string{
		"service":                    every,
		"deploy-coordinator.service": "PrivateTmp=no\nProtectSystem=no\n",
		// Its StateDirectory is elsewhere, and this one not made writable by that.
		"deploy-agent.service": "ReadWritePaths=/var/lib/lockstep\n",
		"haproxy.service":      "BindReadOnlyPaths=\n",
		"caddy.service":        "PrivateTmp=no\nProtectSystem=no\nUser=\nGroup=\n",
	} {
		if err := os.MkdirAll(filepath.Join(m.UnitDir, u+".d"), 0o755); err != nil {
			return err
		}
		// Of drop-ins with one name only the most special counts.
		if err := m.WriteUnit(u+".d/"+u+".conf", "[Service]\n"+more); err != nil {
			return err
		}
	}
	return nil
}

// path is where others find a file of the machine.
func (m *machine) path(p string) string { return fmt.Sprintf("/proc/%d/root%s", m.pid, p) }

// run runs a script at the top of a tree, as a person would who is logged in on
// the machine: what one script exports is there for the next.
func (m *machine) run(ctx context.Context, tree, script string) (string, error) {
	c := exec.CommandContext(ctx, "nsenter", "-t", fmt.Sprint(m.pid), "-m", "-u", "--", "bash", "-euc", prologue+script)
	c.Env = append(m.env, "TREE="+tree)
	c.WaitDelay = 5 * time.Second
	out, err := c.CombinedOutput()
	return string(out), err
}

const prologue = `cd "$TREE"; [ ! -e ~/.exports ] || . ~/.exports; trap 'export -p >~/.exports' EXIT` + "\n"

// logs are how the machine's services are, and the last lines of what they wrote.
func (m *machine) logs() string {
	var all strings.Builder
	out, err := m.run(context.Background(), "/", "systemctl status --no-pager '*.service' || true")
	fmt.Fprintf(&all, "== %s: %v\n%s", m.name, err, out)
	files, _ := filepath.Glob(m.path("/var/log/units/*.log")) // the pattern is a good one
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			fmt.Fprintln(&all, err)
		}
		lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
		fmt.Fprintf(&all, "== %s: %s\n%s\n", m.name, filepath.Base(f), bytes.Join(lines[max(0, len(lines)-30):], []byte("\n")))
	}
	return all.String()
}
