package examples_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A step is a block of commands of a page.
type step struct {
	where  string // "coordinator", "servers", or "dev"
	needs  string // a file of the example without which it is left out; "" for none
	script string
	at     string // file and line
}

var fence = regexp.MustCompile("^```sh (coordinator|servers|dev)(?: (\\S+))?$")

// steps reads the blocks that say where they are to be run.
func steps(t *testing.T, file string) []step {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []step
	in := false
	for i, line := range strings.Split(string(b), "\n") {
		switch m := fence.FindStringSubmatch(line); {
		case m != nil:
			in = true
			all = append(all, step{where: m[1], needs: m[2], at: fmt.Sprintf("%s:%d", file, i+2)})
		case strings.HasPrefix(line, "```sh"):
			t.Fatalf("%s:%d: these commands are run nowhere; write ```sh coordinator, servers, or dev", file, i+1)
		case line == "```":
			in = false
		case in:
			all[len(all)-1].script += line + "\n"
		}
	}
	return all
}

var (
	address = regexp.MustCompile(`\b10\.0\.0\.(1\d)\b`)
	listens = regexp.MustCompile(`(?m)(LISTEN=|bind |listen ):?(\d{2,5})($|[;\s])`)
	soak    = regexp.MustCompile(`soak: \d+s`)
	checks  = regexp.MustCompile(`health: \{http: ("[^"]*")\}`)
	added   = map[string]string{"agent.yaml": "systemd: user\n"}
)

// translate makes text of an example fit for a machine of the test: all are on
// loopback, in one network, with a manager of a user's, and in a hurry.
func (l *lab) translate(m *machine, name, text string) string {
	text = strings.ReplaceAll(text, "https://github.com/me/", l.repositories+"/")
	for is, becomes := range l.instead {
		text = strings.ReplaceAll(text, is, becomes)
	}
	if m != nil {
		text = listens.ReplaceAllString(text, "${1}"+m.address+":${2}${3}")
		text = strings.ReplaceAll(text, "127.0.0.1", m.address)
	}
	text = address.ReplaceAllString(text, l.network+".${1}")
	text = checks.ReplaceAllString(text, "health: {http: ${1}, interval: 200ms}")
	return soak.ReplaceAllString(text, "soak: 1s") + added[name]
}

// tree copies what of this repository is named into a directory for a machine.
func (l *lab) tree(t *testing.T, m *machine, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		err := filepath.WalkDir(filepath.Join(top, name), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			to := filepath.Join(dir, strings.TrimPrefix(path, top+"/"))
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
			return os.WriteFile(to, []byte(l.translate(m, d.Name(), string(b))), 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(bin, filepath.Join(dir, "build")); err != nil {
		t.Fatal(err)
	}
}
