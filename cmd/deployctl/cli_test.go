package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestMain is deployctl itself when a test runs it as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("LOCKSTEP_TEST_DEPLOYCTL") != "" {
		main()
	}
	os.Exit(m.Run())
}

// result is what one run of the program left.
type result struct {
	code           int
	stdout, stderr string
}

// setup returns a program that talks to f.
func setup(t *testing.T, f *fake, stdout, stderr *bytes.Buffer) *cli {
	t.Helper()
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte(adminToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{envCoordinator: f.url, envTokenFile: tokenFile, "USER": "ann"}
	return &cli{
		stdout: stdout, stderr: stderr,
		getenv:     func(name string) string { return env[name] },
		now:        func() time.Time { return noon },
		tick:       time.Hour,
		retryPause: time.Millisecond,
	}
}

// deployctl runs one command line against f.
func deployctl(t *testing.T, f *fake, args ...string) result {
	t.Helper()
	return deployctlContext(t, t.Context(), f, args...)
}

func deployctlContext(t *testing.T, ctx context.Context, f *fake, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := setup(t, f, &stdout, &stderr)
	clean := strings.NewReplacer(f.url, "http://coordinator:7400", c.getenv(envTokenFile), "/etc/lockstep/admin-token")
	code := c.run(ctx, args)
	return result{code, clean.Replace(stdout.String()), clean.Replace(stderr.String())}
}

// golden compares what a command line left with a file that reads like a
// terminal's.
func golden(t *testing.T, name string, f *fake, args ...string) {
	t.Helper()
	r := deployctl(t, f, args...)
	var b strings.Builder
	b.WriteString("$ deployctl " + strings.Join(args, " ") + "\n" + r.stdout)
	if r.stderr != "" {
		b.WriteString("--- standard error ---\n" + r.stderr)
	}
	b.WriteString("--- exit " + strconv.Itoa(r.code) + " ---\n")
	compare(t, name, b.String())
}

func compare(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if got != string(want) {
		t.Errorf("%s differs.\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

// mustSay fails unless every part is in text.
func mustSay(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("lacks %q:\n%s", p, text)
		}
	}
}
