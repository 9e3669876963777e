// Package deploy_test checks that what the README tells an operator to do works.
package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/configcheck"
)

func readme(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// bin is the directory of the three programs.
var bin string

func TestMain(m *testing.M) {
	var err error
	if bin, err = os.MkdirTemp("", "lockstep-bin-"); err != nil {
		panic(err)
	}
	if out, err := exec.Command("go", "build", "-o", bin+"/", "../cmd/...").CombinedOutput(); err != nil {
		panic(string(out))
	}
	code := m.Run()
	if err := os.RemoveAll(bin); err != nil {
		panic(err)
	}
	os.Exit(code)
}

func run(t *testing.T, c *exec.Cmd) string {
	t.Helper()
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", c, err, out)
	}
	return string(out)
}

// block returns the fenced block whose text contains the mark.
func block(t *testing.T, text, language, mark string) string {
	t.Helper()
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(text, -1) {
		if strings.Contains(m[1], mark) {
			return m[1]
		}
	}
	t.Fatalf("the README has no %s block with %q", language, mark)
	return ""
}

// TestQuickStartFiles makes the secrets with the README's own commands, then
// checks its fleet.yaml and agent.yaml with them.
func TestQuickStartFiles(t *testing.T) {
	text, root := readme(t), t.TempDir()
	local := strings.NewReplacer("/etc/lockstep", root+"/etc", "/var/lib/lockstep", root+"/var")
	if err := os.MkdirAll(root+"/etc", 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, body string) string {
		path := filepath.Join(root, "etc", name)
		if err := os.WriteFile(path, []byte(local.Replace(body)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fleet := write("fleet.yaml", block(t, text, "yaml", "webhook_secrets"))

	i := strings.Index(text, "    install -d -m 700")
	j := strings.Index(text, "    deployctl config check")
	if i < 0 || j < i {
		t.Fatal("the README no longer shows how to make the secrets")
	}
	run(t, exec.Command("sh", "-euc", local.Replace(text[i:j])))
	for _, name := range []string{"webhook-secret", "admin-token", "tokens/web1", "tokens/web2", "tokens/web3"} {
		if fi, err := os.Stat(filepath.Join(root, "etc", name)); err != nil || fi.Mode().Perm() != 0o600 || fi.Size() < 40 {
			t.Errorf("%s: %v %v", name, fi, err)
		}
	}

	effective, warnings, err := configcheck.Check(fleet)
	if err != nil {
		t.Errorf("fleet.yaml of the README: %v", err)
	}
	for _, w := range warnings {
		// The tokens' default places are not on this machine.
		if !strings.Contains(w, "(the default): no such file") {
			t.Errorf("fleet.yaml of the README: %s", w)
		}
	}
	if out := run(t, exec.Command(bin+"/deployctl", "config", "check", fleet)); out == "" {
		t.Error("deployctl config check says nothing")
	}
	if !strings.Contains(string(effective), "drain_timeout: 30s") {
		t.Errorf("the defaults are not filled in:\n%s", effective)
	}

	token, err := os.ReadFile(root + "/etc/tokens/web1")
	if err != nil {
		t.Fatal(err)
	}
	write("agent-token", string(token))
	agent := write("agent.yaml", block(t, text, "yaml", "name: web1"))
	run(t, exec.Command(bin+"/deploy-agent", "--check", "--config", agent))
}

// TestDefaultsInReadme checks each default of the configuration table against
// the configuration in effect.
func TestDefaultsInReadme(t *testing.T) {
	text := readme(t)
	path := filepath.Join(t.TempDir(), "fleet.yaml")
	if err := os.WriteFile(path, []byte(block(t, text, "yaml", "webhook_secrets")), 0o600); err != nil {
		t.Fatal(err)
	}
	b, _, err := configcheck.Check(path)
	if err != nil {
		t.Fatal(err)
	}
	effective := string(b)
	rows := regexp.MustCompile("(?m)^\\| `([^|]*)` \\| `([^|]*)` \\|").FindAllStringSubmatch(text, -1)
	if len(rows) < 15 {
		t.Fatalf("found only %d rows with defaults", len(rows))
	}
	for _, row := range rows {
		keys, values := strings.Split(row[1], "`, `"), strings.Split(row[2], "`, `")
		if len(keys) != len(values) {
			t.Errorf("%s has %d keys and %d defaults", row[0], len(keys), len(values))
			continue
		}
		for i, key := range keys {
			key = key[strings.LastIndex(key, ".")+1:]
			value := strings.ReplaceAll(values[i], "<node>", "web1")
			if !regexp.MustCompile(`(^|[\s{,])` + regexp.QuoteMeta(key) + `: \[?"?` + regexp.QuoteMeta(strings.Trim(value, "[]"))).MatchString(effective) {
				t.Errorf("the README says that %s is %s; in effect is:\n%s", key, value, effective)
			}
		}
	}
}

// TestCommandsExist checks that every deployctl command and flag that the
// README names is one.
func TestCommandsExist(t *testing.T) {
	text := readme(t)
	seen := map[string]bool{}
	for _, m := range regexp.MustCompile("deployctl ([a-z]+( check)?)").FindAllStringSubmatch(text, -1) {
		if seen[m[1]] || m[1] == "on" {
			continue
		}
		seen[m[1]] = true
		out := run(t, exec.Command(bin+"/deployctl", append(strings.Fields(m[1]), "--help")...))
		if !strings.Contains(out, "Usage:\n  deployctl "+m[1]) {
			t.Errorf("deployctl %s is no command:\n%s", m[1], out)
		}
		line := regexp.MustCompile("(?m)^\\| `deployctl " + m[1] + "[^|]*\\|").FindString(text)
		for _, flag := range regexp.MustCompile(`--[a-z-]+`).FindAllString(line, -1) {
			if !strings.Contains(out, flag) {
				t.Errorf("deployctl %s has no %s", m[1], flag)
			}
		}
	}
	for _, more := range []string{"resume", "abort", "retry", "unhold", "show", "completion"} {
		run(t, exec.Command(bin+"/deployctl", more, "--help"))
	}
	if len(seen) < 9 {
		t.Errorf("found only %d commands: %v", len(seen), seen)
	}
}

// TestUnits lets systemd itself read the unit files that we ship.
func TestUnits(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	dir := t.TempDir()
	// What is in their directories is verified with them.
	if err := os.CopyFS(dir, os.DirFS("systemd")); err != nil {
		t.Fatal(err)
	}
	units, err := filepath.Glob("systemd/*.*[^d]")
	if err != nil || len(units) != 4 {
		t.Fatalf("%v %v", units, err)
	}
	for _, u := range units {
		b, err := os.ReadFile(u)
		if err != nil {
			t.Fatal(err)
		}
		// systemd-analyze wants the program to be there, and units that another needs.
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(u)), []byte(strings.ReplaceAll(string(b), "/usr/local/bin", bin)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, u := range units {
		path := filepath.Join(dir, filepath.Base(u))
		if out := run(t, exec.Command("systemd-analyze", "verify", path)); strings.Contains(out, filepath.Base(u)) {
			t.Errorf("%s", out)
		}
	}
}
