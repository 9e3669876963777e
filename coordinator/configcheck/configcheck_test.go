package configcheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const fleet = `
github:
  webhook_secrets: [{file: /nowhere/webhook-secret}]
nodes:
  web1: {token: {file: /nowhere/web1}}
apps:
  hello: {repo: "https://github.com/me/hello.git", branch: main, nodes: [web1], unit: hello.service, health: none, balancer: none}
`

func check(t *testing.T, content string) (string, []string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fleet.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	effective, warnings, err := Check(path)
	return string(effective), warnings, err
}

func TestCheckNeedsNoSecrets(t *testing.T) {
	effective, _, err := check(t, fleet)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(effective, "poll_interval: 1m") {
		t.Errorf("no defaults in\n%s", effective)
	}
	// What is in effect is a fleet file with the same meaning.
	again, _, err := check(t, effective)
	if err != nil || again != effective {
		t.Errorf("checked again: %v\n%s", err, again)
	}
}

func TestCheckTellsEverything(t *testing.T) {
	_, _, err := check(t, strings.Replace(strings.Replace(fleet, "nodes: [web1]", "nodes: [web9]", 1), "health: none", "helth: none", 1))
	if err == nil || !strings.Contains(err.Error(), "web9") || !strings.Contains(err.Error(), "helth") || !strings.Contains(err.Error(), "fleet.yaml:7:") {
		t.Errorf("error %v", err)
	}
}
