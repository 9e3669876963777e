package atomicfile_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/internal/atomicfile"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	// What a crash left behind, longer and more private than the new content.
	if err := os.WriteFile(path+atomicfile.Suffix, bytes.Repeat([]byte("x"), 100), 0o600); err != nil {
		t.Fatal(err)
	}
	former := syscall.Umask(0o077)
	defer syscall.Umask(former)
	for _, text := range []string{"one", "", "two"} {
		if err := atomicfile.Write(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Fatalf("the file holds %q (%v), want %q", b, err, text)
		}
		if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o644 {
			t.Fatalf("its permissions are %v (%v), want 0644", fi.Mode(), err)
		}
	}
	only(t, dir, "state")
}

func TestFailedWriteLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	// Something that no file can be renamed over.
	path := filepath.Join(dir, "state")
	if err := os.MkdirAll(filepath.Join(path, "kept"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, []byte("new"), 0o644); err == nil {
		t.Fatal("a directory was replaced by a file")
	}
	only(t, dir, "state")
	only(t, path, "kept")
	if err := atomicfile.Write(filepath.Join(dir, "missing", "state"), nil, 0o644); !os.IsNotExist(err) {
		t.Fatalf("a write into a directory that is not there returned %v", err)
	}
}

func TestOverlappingWrites(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	var writers sync.WaitGroup
	for letter := range 4 {
		writers.Go(func() {
			for range 25 {
				if err := atomicfile.Write(path, bytes.Repeat([]byte{'a' + byte(letter)}, size), 0o644); err != nil {
					t.Error(err)
				}
				b, err := os.ReadFile(path)
				if err != nil {
					t.Error(err)
					return
				}
				whole(t, b)
			}
		})
	}
	writers.Wait()
	only(t, dir, "state")
}

func only(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != name {
		t.Fatalf("%s holds %v (%v), want only %s", dir, entries, err, name)
	}
}

// TestOrderOnDisk asks the kernel's view of a write: the content must be on the
// disk before its name is, and the name before Write returns, or a power cut
// leaves an empty file, or the former one after a success.
func TestOrderOnDisk(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("the Debian package strace is not installed")
	}
	dir := t.TempDir()
	trace := filepath.Join(dir, "trace")
	cmd := exec.CommandContext(t.Context(), strace, "-f", "-y", "-e", "trace=write,fsync,rename,renameat,renameat2", "-o", trace,
		os.Args[0], "-test.run=^TestWriteForOthers$")
	cmd.Env = append(os.Environ(), writeTo+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		if strings.Contains(string(out), "PTRACE") {
			t.Skipf("this machine lets nobody trace a process: %s", out)
		}
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	state := regexp.QuoteMeta(dir + "/state")
	order := regexp.MustCompile(`(?s)write\(\d+<` + state + `\.tmp>.*fsync\(\d+<` + state + `\.tmp>.*` +
		`rename[^\n]*` + state + `\.tmp"[^\n]*` + state + `".*fsync\(\d+<` + regexp.QuoteMeta(dir) + `>`)
	if !order.Match(b) {
		t.Fatalf("want the content written and synced, then renamed, then the directory synced; there was:\n%s", b)
	}
}

// TestKilledWhileWriting kills a process that writes as fast as it can. Whatever
// it was doing, the file is one of those that it wrote.
func TestKilledWhileWriting(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	for range 10 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWriteForOthers$")
		cmd.Env = append(os.Environ(), writeTo+"="+dir, "LOCKSTEP_TEST_ENDLESS=1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		is, _ := os.Stat(path)
		for end := time.Now().Add(30 * time.Second); ; {
			now, err := os.Stat(path)
			if err == nil && (is == nil || !os.SameFile(is, now)) {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the process has written nothing")
			}
			b, err := os.ReadFile(path)
			if err == nil {
				whole(t, b)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		whole(t, b)
	}
}

func whole(t *testing.T, b []byte) {
	t.Helper()
	if len(b) != size || bytes.Count(b, b[:1]) != size {
		t.Errorf("the file is torn: it has %d bytes of %d, or several letters", len(b), size)
	}
}

const (
	writeTo = "LOCKSTEP_TEST_WRITE_TO"
	size    = 1 << 20
)

// TestWriteForOthers is no test: the others run it as a process of its own.
func TestWriteForOthers(t *testing.T) {
	dir := os.Getenv(writeTo)
	if dir == "" {
		t.Skip("this is what another test runs")
	}
	for i := 0; ; i++ {
		if err := atomicfile.Write(filepath.Join(dir, "state"), bytes.Repeat([]byte{'a' + byte(i%26)}, size), 0o644); err != nil {
			t.Fatal(err)
		}
		if os.Getenv("LOCKSTEP_TEST_ENDLESS") == "" {
			return
		}
	}
}
