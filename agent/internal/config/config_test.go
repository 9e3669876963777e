package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/agent/internal/config"
)

func TestAFullFile(t *testing.T) {
	got, err := config.Parse("/etc/lockstep/agent.yaml", []byte(`
coordinator: http://10.0.0.1:7400
name: web1
token: {file: agent-token}
state: /srv/state
apps: /srv/apps
systemd: user
units: ["app-*.service", hello.service]
gate: {listen: "10.0.0.11:9101"}
generate_units: true
build: {user: lockstep-build}
secrets:
  NPM_TOKEN: {file: npm-token}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Config{
		File: "/etc/lockstep/agent.yaml", GateListen: "10.0.0.11:9101",
		Coordinator: "http://10.0.0.1:7400", Name: "web1", TokenFile: "/etc/lockstep/agent-token",
		State: "/srv/state", Apps: "/srv/apps", Systemd: "user", Units: []string{"app-*.service", "hello.service"},
		GenerateUnits: true, BuildUser: "lockstep-build", Secrets: map[string]string{"NPM_TOKEN": "/etc/lockstep/npm-token"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for unit, may := range map[string]bool{"app-1.service": true, "hello.service": true, "sshd.service": false} {
		if got.MayRestart(unit) != may {
			t.Errorf("MayRestart(%s) = %v", unit, !may)
		}
	}
}

func TestDefaults(t *testing.T) {
	got, err := config.Parse("agent.yaml", []byte("name: n1\ncoordinator: https://deploy.example.com\ntoken:\n  file: /run/token\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got.State != config.DefaultState || got.Apps != config.DefaultApps || got.Systemd != "system" || !got.MayRestart("any.service") || got.BuildUser != config.DefaultBuildUser {
		t.Errorf("defaults: %+v", got)
	}
}

func TestMistakesNameTheLineAndWhatToWrite(t *testing.T) {
	const ok = "coordinator: http://c:1\ntoken: {file: /t}\nname: web1\n"
	cases := map[string]struct {
		yaml string
		want []string
	}{
		"empty":              {"", []string{"agent.yaml:1:", "coordinator:"}},
		"no coordinator":     {"token: {file: /t}\n", []string{"coordinator: it is missing"}},
		"no token":           {"coordinator: http://c:1\n", []string{"token: it is missing"}},
		"unknown key":        {ok + "colour: red\n", []string{"agent.yaml:4:", `"colour"`, "expected one of apps"}},
		"twice":              {ok + "name: web2\n", []string{"agent.yaml:4:", "name"}},
		"token inline":       {"coordinator: http://c:1\ntoken: hunter2\n", []string{"agent.yaml:2:", "token"}},
		"token without file": {"coordinator: http://c:1\ntoken: {env: X}\n", []string{"agent.yaml:2:", "env"}},
		"address":            {"coordinator: 10.0.0.1:7400\ntoken: {file: /t}\n", []string{"agent.yaml:1:", "http://10.0.0.1:7400"}},
		"password in it":     {"coordinator: http://u:hunter2@c:1\ntoken: {file: /t}\n", []string{"agent.yaml:1:", "token"}},
		"name":               {"coordinator: http://c:1\ntoken: {file: /t}\nname: Web_1\n", []string{"agent.yaml:3:", "Web_1"}},
		"scope":              {ok + "systemd: root\n", []string{"agent.yaml:4:", `"system" or "user"`}},
		"units":              {ok + "units: hello.service\n", []string{"agent.yaml:4:", "list"}},
		"pattern":            {ok + "units:\n  - a.service\n  - '[.service'\n", []string{"agent.yaml:6:", "pattern"}},
		"short unit":         {ok + "units: [hello]\n", []string{"hello.service"}},
		"gate without port":  {ok + "gate: {listen: 10.0.0.11}\n", []string{"agent.yaml:4:", "gate.listen", `write ":9101"`}},
		"gate at a name":     {ok + "gate: {listen: \"web1:9101\"}\n", []string{"agent.yaml:4:", "gate.listen", `"web1:9101"`}},
		"gate at no port":    {ok + "gate: {listen: \":0\"}\n", []string{"agent.yaml:4:", "gate.listen"}},
		"gate without place": {ok + "gate: {}\n", []string{"agent.yaml:4:", "gate", "listen"}},
		"credentials":        {ok + "credentials: {url: x}\n", []string{"agent.yaml:4:", "credentials", "list"}},
		"secret inline":      {ok + "credentials:\n  - {url: https://github.com/, token: hunter2}\n", []string{"agent.yaml:5:", "never written here"}},
		"secret in a URL":    {ok + "credentials:\n  - {url: https://x:hunter2@github.com/, token: {file: /t}}\n", []string{"agent.yaml:5:", "never written here"}},
		"secret over http":   {ok + "credentials:\n  - {url: http://github.com/, token: {file: /t}}\n", []string{"agent.yaml:5:", "https://"}},
		"half a password":    {ok + "credentials:\n  - {url: https://github.com/, username: me}\n", []string{"agent.yaml:5:", "password"}},
		"key for https":      {ok + "credentials:\n  - {url: https://github.com/, ssh_key: /k}\n", []string{"agent.yaml:5:", "ssh"}},
		"key without hosts":  {ok + "credentials:\n  - {url: \"ssh://git@github.com/\", ssh_key: /k}\n", []string{"agent.yaml:5:", "known_hosts"}},
		"token for ssh":      {ok + "credentials:\n  - {url: \"ssh://git@github.com/\", token: {file: /t}}\n", []string{"agent.yaml:5:", "https"}},
		"generate units":     {ok + "generate_units: sometimes\n", []string{"agent.yaml:4:", "true or false"}},
		"run user":           {ok + "run_user: Root Toor\n", []string{"agent.yaml:4:", "run_user", "leave it out"}},
		"a user's run user":  {ok + "systemd: user\nrun_user: web\n", []string{"agent.yaml:5:", "run_user", "leave it out"}},
		"build user":         {ok + "build: {user: Root Toor}\n", []string{"agent.yaml:4:", "build.user", "dynamic"}},
		"build":              {ok + "build: {usr: x}\n", []string{"agent.yaml:4:", `"usr"`, "user"}},
		"build secret":       {ok + "secrets:\n  NPM_TOKEN: hunter2\n", []string{"agent.yaml:5:", "secrets.NPM_TOKEN", "file"}},
		"secret's name":      {ok + "secrets: {npm-token: {file: /t}}\n", []string{"agent.yaml:4:", "NPM_TOKEN"}},
		"secret of ours":     {ok + "secrets:\n  LOCKSTEP_SHA: {file: /t}\n", []string{"agent.yaml:5:", "LOCKSTEP_"}},
		"balancer's token":   {ok + "balancers: {front: {token: hunter2}}\n", []string{"agent.yaml:4:", "balancers.front.token", "file"}},
		"balancer, no token": {ok + "balancers: {front: {}}\n", []string{"agent.yaml:4:", "balancers.front", "token"}},
		"secrets as a list":  {ok + "secrets: [hunter2]\n", []string{"agent.yaml:4:", "names and files"}},
		"list":               {"- a\n", []string{"agent.yaml:1:", "keys and values"}},
		"not yaml":           {"a: [\n", []string{"agent.yaml"}},
		"two mistakes":       {ok + "systemd: root\ncolour: red\n", []string{":4:", ":5:"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := config.Parse("agent.yaml", []byte(c.yaml))
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q tells a secret", err)
			}
		})
	}
}

func TestTokenFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	c := config.Config{TokenFile: path}
	if _, err := c.Token(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a missing file gave %v", err)
	}
	for _, tc := range []struct {
		content string
		mode    os.FileMode
		want    string // of the error; "" for none
	}{
		{"secret\n", 0o600, ""},
		{"secret", 0o640, ""},
		{"secret\n", 0o644, "chmod 0640 " + path},
		{"secret\n", 0o660, "chmod 0640 " + path},
		{" \n", 0o600, "empty"},
	} {
		if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, tc.mode); err != nil {
			t.Fatal(err)
		}
		got, err := c.Token()
		switch {
		case tc.want == "" && (err != nil || got != "secret"):
			t.Errorf("mode %04o: %q, %v; want the secret", tc.mode, got, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("mode %04o, %q: %v; want an error that says %q", tc.mode, tc.content, err, tc.want)
		case err != nil && strings.Contains(err.Error(), "secret"):
			t.Errorf("%q tells the token", err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("coordinator: http://10.0.0.1:7400\nname: web1\ntoken: {file: /t}\nunits: [a.service]\n"))
	f.Add([]byte("token:\n"))
	f.Add([]byte("units: [[a]]\n--- \nx: 1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := config.Parse("agent.yaml", b)
		if err != nil {
			return
		}
		if c.Coordinator == "" || c.TokenFile == "" || !config.IsName(c.Name) || !filepath.IsAbs(c.State) {
			t.Errorf("accepted %q as %+v", b, c)
		}
	})
}

func TestTheLongestURLDecidesHowToLogIn(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"all": "all-token\n", "acme": "acme-token\n", "two": "a\nb\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := config.Parse(filepath.Join(dir, "agent.yaml"), []byte(`
coordinator: http://c:1
token: {file: /t}
name: web1
credentials:
  - {url: https://github.com/acme/, token: {file: acme}}
  - {url: https://github.com/, token: {file: all}}
  - {url: https://git.example.com/, username: me, password: {file: two}}
  - {url: "ssh://git@github.com/", ssh_key: key, known_hosts: known}
`))
	if err != nil {
		t.Fatal(err)
	}
	for repo, want := range map[string]string{
		"https://github.com/acme/app.git":   "x-access-token all: acme-token",
		"https://github.com/acmes/app.git":  "x-access-token all: all-token",
		"https://git.example.com/a.git":     "me: more than one line",
		"git@github.com:acme/app.git":       "key " + filepath.Join(dir, "key") + " known " + filepath.Join(dir, "known"),
		"https://elsewhere.example.com/app": "",
	} {
		l := c.Login(repo)
		got := ""
		if l.Key != "" {
			got = "key " + l.Key + " known " + l.KnownHosts
		}
		if l.Password != nil {
			p, err := l.Password()
			if err != nil {
				p = "more than one line"
			}
			got = strings.TrimSpace(l.User + ": " + p)
		}
		if want = strings.Replace(want, " all: ", ": ", 1); got != want {
			t.Errorf("%s: %q, want %q", repo, got, want)
		}
	}
}
