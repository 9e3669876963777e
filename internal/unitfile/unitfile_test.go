package unitfile_test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/unitfile"
)

var update = flag.Bool("update", false, "write the golden files anew")

var run = api.Run{Command: "bin/server --port {instance}", Env: map[string]string{"MODE": `50% "off" \o/`, "PORT": "{instance}"}, Memory: 512 << 20}

// Whatever is written must be a unit that systemd takes, without a word against
// it.
func TestText(t *testing.T) {
	system := api.Host{Apps: "/var/lib/lockstep/apps", Scope: "system"}
	for name, tc := range map[string]struct {
		instances bool
		host      api.Host
	}{
		"system":    {false, system},
		"instances": {true, system},
		"as-user":   {true, api.Host{Apps: "/home/me/apps", Scope: "system", User: "daemon"}},
		"in-tmp":    {false, api.Host{Apps: "/tmp/apps", Scope: "system"}},
		"user":      {false, api.Host{Apps: "/home/me/50% off/apps", Scope: "user"}},
	} {
		t.Run(name, func(t *testing.T) {
			text := unitfile.Text("hello", tc.instances, run, tc.host)
			golden := filepath.Join("testdata", name+".service")
			if *update {
				if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || text != string(want) {
				t.Errorf("got\n%s\nwant %s (%v)", text, golden, err)
			}
			if !unitfile.Ours("hello", text) || unitfile.Ours("hell", text) || unitfile.Ours("hello", "[Unit]\n") {
				t.Error("it is not told from other units")
			}
			if _, err := exec.LookPath("systemd-analyze"); err != nil {
				t.Skip("no systemd-analyze to judge it")
			}
			unit := unitfile.Name("hello", tc.instances)
			file := filepath.Join(t.TempDir(), strings.Replace(unit, "@", "@8000", 1))
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			args := []string{"verify", "--man=no", "--recursive-errors=no", file}
			if tc.host.Scope == "user" {
				args = append([]string{"--user"}, args...)
			}
			cmd := exec.Command("systemd-analyze", args...)
			cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir())
			if out, err := cmd.CombinedOutput(); strings.Contains(string(out), filepath.Base(file)) {
				t.Errorf("systemd-analyze: %v\n%s", err, out)
			}
		})
	}
}

func TestNames(t *testing.T) {
	for unit, want := range map[string]string{
		unitfile.Name("a", false):                    "lockstep-a.service",
		unitfile.Name("a", true):                     "lockstep-a@.service",
		unitfile.Template("lockstep-a@8000.service"): "lockstep-a@.service",
		unitfile.Template("lockstep-a.service"):      "lockstep-a.service",
		unitfile.Instance("lockstep-a@8000.service"): "8000",
		unitfile.Instance("lockstep-a.service"):      "",
	} {
		if unit != want {
			t.Errorf("%s, want %s", unit, want)
		}
	}
}
