package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstep-deploy/lockstep/agent"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/archive"
)

// TestTakingOnAFullDisk is of built files for which the node has no room, when
// they come or only as they are written: the disk is named, nothing half-made is
// left, and with room for it the release comes.
func TestTakingOnAFullDisk(t *testing.T) {
	for name, c := range map[string]struct {
		files   map[string]string
		small   string
		roomier string
	}{
		// The agent leaves 64 MB to others.
		"bytes":  {map[string]string{"large": strings.Repeat("x", 4<<20)}, "size=66m", "size=80m"},
		"inodes": {empties(3000), "size=80m,nr_inodes=2000", "size=80m,nr_inodes=20000"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSmall(t)
			if err := os.Mkdir(s.cfg.Apps, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mount("tmpfs", s.cfg.Apps, "tmpfs", 0, c.small); err != nil {
				t.Skipf("cannot mount a small file system: %v", err)
			}
			t.Cleanup(func() { _ = syscall.Unmount(s.cfg.Apps, syscall.MNT_DETACH) })
			held, digest := packedOf(t, c.files)
			s.deps.Archives = held
			s.start(t)
			r := s.repo.release(map[string]string{"f": "1"})
			s.c.set(hello, func(a *api.Assignment) {
				a.Releases = append(slices.Clone(a.Releases), r)
				a.Prepare = &api.Prepare{Release: r.ID, Attempt: 1, Archive: digest}
			})
			got := s.c.awaitApp(t, hello, "taking fails", func(a api.AppReport) bool { return a.Prepare != nil && a.Prepare.Failed })
			if got.Prepare.Reason != api.ReasonDiskFull || slices.Contains(got.Present, r.ID) {
				t.Errorf("%+v, present %v", got.Prepare, got.Present)
			}
			err := filepath.WalkDir(s.cfg.Apps, func(at string, d os.DirEntry, err error) error {
				if err == nil && (d.Name() == "large" || strings.HasPrefix(d.Name(), "empty")) {
					t.Errorf("%s is left", at)
					return filepath.SkipAll
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
			if err := syscall.Mount("tmpfs", s.cfg.Apps, "tmpfs", syscall.MS_REMOUNT, c.roomier); err != nil {
				t.Fatal(err)
			}
			s.c.set(hello, func(a *api.Assignment) { a.Prepare = &api.Prepare{Release: r.ID, Attempt: 2, Archive: digest} })
			s.c.awaitApp(t, hello, "the release is there", func(a api.AppReport) bool { return a.Digests[r.ID] == digest })
		})
	}
}

func empties(n int) map[string]string {
	files := map[string]string{}
	for i := range n {
		files[fmt.Sprintf("empty%d", i)] = ""
	}
	return files
}

// holds is a coordinator that has one archive.
type holds struct {
	agent.Archives
	b []byte
}

func (h holds) Archive(context.Context, string, string) io.ReadCloser {
	return io.NopCloser(bytes.NewReader(h.b))
}

func packedOf(t *testing.T, files map[string]string) (held holds, digest string) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	sum, err := archive.Pack(t.Context(), dir, nil, &b)
	if err != nil {
		t.Fatal(err)
	}
	return holds{b: b.Bytes()}, sum.Digest
}
