package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const least = `
coordinator: {admin_tokens: [{file: admin}]}
github: {webhook_secrets: [{file: hook}]}
nodes: {web1: {token: {file: web1}}}
apps:
  hello:
    repo: /srv/git/hello.git
    branch: main
    nodes: [web1]
    unit: hello.service
    health: none
    balancer: none
`

// folder writes a fleet file and the files beside it.
func folder(t *testing.T, fleet string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "fleet.yaml")
	if err := os.WriteFile(path, []byte(fleet), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func goodSecrets() map[string]string {
	return map[string]string{
		"admin": "admin-0123456789abcdef\n",
		"hook":  "hook-0123456789abcdef\r\n",
		"web1":  " web1-0123456789abcdef",
	}
}

func TestSecretFiles(t *testing.T) {
	path := folder(t, least, goodSecrets())
	f, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(f.GitHub.WebhookSecrets[0].Bytes()); got != "hook-0123456789abcdef" {
		t.Errorf("webhook secret %q: the line end is not part of it", got)
	}
	if got := string(f.Node("web1").Token.Bytes()); got != " web1-0123456789abcdef" {
		t.Errorf("token %q: spaces are part of it", got)
	}
	if want := "file " + filepath.Join(filepath.Dir(path), "admin"); f.Coordinator.AdminTokens[0].Source() != want {
		t.Errorf("source %q, expected %q", f.Coordinator.AdminTokens[0].Source(), want)
	}
	if len(f.Warnings) != 0 {
		t.Errorf("warnings: %v", f.Warnings)
	}
}

func TestBadSecretFiles(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, dir string)
		want   string
	}{
		"absent":          {func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "hook"))) }, "no such file"},
		"empty":           {func(t *testing.T, dir string) { overwrite(t, dir, "") }, "is empty; make one with"},
		"only a line end": {func(t *testing.T, dir string) { overwrite(t, dir, " \n") }, "is empty; make one with"},
		"two lines":       {func(t *testing.T, dir string) { overwrite(t, dir, "a-long-enough-line\nanother\n") }, "expected one line"},
		"endless":         {func(t *testing.T, dir string) { overwrite(t, dir, strings.Repeat("a", maxSecret+1)) }, "larger than"},
		"for everybody":   {func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, "hook"), 0o644)) }, "run: chmod o-rwx "},
		"to be written":   {func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, "hook"), 0o642)) }, "run: chmod o-rwx "},
		"a directory": {func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "hook")))
			must(t, os.Mkdir(filepath.Join(dir, "hook"), 0o700))
		}, "expected a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := folder(t, least, goodSecrets())
			c.change(t, filepath.Dir(path))
			_, err := Load(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), ":3:35: github.webhook_secrets[0].file: ") {
				t.Errorf("got %v, expected %q at line 3", err, c.want)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, dir, content string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, "hook"), []byte(content), 0o640))
}

func TestShortSecretIsAWarning(t *testing.T) {
	secrets := goodSecrets()
	secrets["hook"] = "sesame"
	f, err := Load(folder(t, least, secrets))
	must(t, err)
	if len(f.Warnings) != 1 || !strings.Contains(f.Warnings[0].Text, "shorter than 16") || strings.Contains(f.Warnings[0].Text, "sesame") {
		t.Errorf("warnings: %v", f.Warnings)
	}
}

func TestSameTokenTwice(t *testing.T) {
	secrets := goodSecrets()
	secrets["web1"] = secrets["admin"]
	_, err := Load(folder(t, least, secrets))
	if err == nil || !strings.Contains(err.Error(), "the token of node web1 is the same as that of administrators") {
		t.Errorf("got %v", err)
	}
}

func TestCheckOnlyNeedsNoSecrets(t *testing.T) {
	absent := strings.NewReplacer("{file: admin}", "{env: TEST_NOT_SET}", "{token: {file: web1}}", "{}").Replace(least)
	path := folder(t, absent, nil)
	if _, err := Load(path); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("got %v, expected a problem for each of three secrets", err)
	}
	f, err := Load(path, CheckOnly)
	must(t, err)
	if len(f.Warnings) != 3 {
		t.Errorf("got %d warnings, expected 3: %v", len(f.Warnings), f.Warnings)
	}
	if !strings.Contains(fmt.Sprint(f.Warnings), "/etc/lockstep/tokens/web1 (the default)") {
		t.Errorf("the default is not named: %v", f.Warnings)
	}
	if f.Node("web1").Token.Bytes() != nil {
		t.Error("an absent secret has content")
	}
	// What is there is still judged.
	overwrite(t, filepath.Dir(path), "")
	if _, err := Load(path, CheckOnly); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("an empty secret: got %v", err)
	}
}

func TestSecretsDoNotShow(t *testing.T) {
	const content = "0123456789-do-not-show"
	secrets := goodSecrets()
	secrets["hook"] = content
	f, err := Load(folder(t, least, secrets))
	must(t, err)
	s := f.GitHub.WebhookSecrets[0]

	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "fleet", f, "github", f.GitHub)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s, "fleet", f, "github", f.GitHub)
	shown := log.String() + string(f.Defaults())
	b, err := json.Marshal(map[string]any{"s": s, "p": &s, "fleet": f})
	must(t, err)
	shown += string(b)
	hiding := struct{ inner Secret }{s}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		for _, v := range []any{s, &s, hiding, &hiding, f.GitHub, f, []Secret{s}} {
			shown += fmt.Sprintf(verb, v)
		}
	}
	for _, forbidden := range []string{content, fmt.Sprintf("%x", content), fmt.Sprintf("%X", content), strings.Trim(fmt.Sprint([]byte(content)), "[]"), fmt.Sprintf("%#v", []byte(content))} {
		if strings.Contains(shown, forbidden) {
			t.Errorf("shows as %q", forbidden)
		}
	}
	if s.String() != "[redacted]" || fmt.Sprint(s) != "[redacted]" {
		t.Errorf("shows as %q and %q", s.String(), fmt.Sprint(s))
	}
}
