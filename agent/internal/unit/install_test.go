package unit_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/unitfile"
)

// A generated unit is what its command and variables say, whatever they hold.
func TestInstall(t *testing.T) {
	w := newWorld(t)
	ctx, apps := within(t), realDir(t)
	current := filepath.Join(apps, "hello", "current-80-a")
	for _, dir := range []string{current, filepath.Join(apps, "hello", "shared")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(apps, "hello", "shared", ".env"), []byte("FROM_FILE=yes\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	host := api.Host{Apps: apps, Scope: "user"}
	run := api.Run{
		Command: "printf '<%s>' \"a b\" '${HOME}' \"$MODE\" 50% '%h' '\\' {instance} $FROM_FILE > out\nmv out said\nexec sleep 1000",
		Env:     map[string]string{"MODE": `50% "off" $HOME \o/ 'x' {instance}`},
	}
	const file, unit = "lockstep-hello@.service", "lockstep-hello@80-a.service"
	if unitfile.Template(unit) != file || unitfile.Name("hello", true) != file {
		t.Fatal("another name")
	}
	if text, err := w.units.File(ctx, file); text != "" || err != nil {
		t.Fatalf("before: %q, %v", text, err)
	}
	text := unitfile.Text("hello", true, run, host)
	for range 2 { // as after a crash
		if err := w.units.Install(ctx, file, text, unit); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := w.units.File(ctx, file); got != text || err != nil {
		t.Errorf("the file is %q, %v", got, err)
	}
	st, err := w.units.Restart(ctx, unit)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has said what it was given", func() bool { _, err := os.Stat(current + "/said"); return err == nil })
	b, err := os.ReadFile(current + "/said")
	want := `<a b><${HOME}><50% "off" $HOME \o/ 'x' 80-a><50%><%h><\><80-a><yes>`
	if err != nil || string(b) != want {
		t.Errorf("it was given\n%s, want\n%s (%v)", b, want, err)
	}
	// Another text is for the next start.
	run.Command = "exec sleep 1001"
	if err := w.units.Install(ctx, file, unitfile.Text("hello", true, run, host), unit); err != nil {
		t.Fatal(err)
	}
	if after, err := w.units.Status(ctx, unit); err != nil || after.InvocationID != st.InvocationID {
		t.Errorf("what runs was touched: %+v, %v", after, err)
	}
	again, err := w.units.Restart(ctx, unit)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new command runs", func() bool {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(again.MainPID) + "/cmdline")
		return err == nil && strings.Contains(string(b), "1001")
	})
	// It comes back with the machine.
	if links, err := filepath.Glob(filepath.Join(w.RuntimeDir, "home/.config/systemd/user/default.target.wants", unit)); err != nil || len(links) != 1 {
		t.Errorf("it is not enabled: %v, %v", links, err)
	}
}
