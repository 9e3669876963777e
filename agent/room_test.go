package agent_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// TestOldReleasesGiveWayOnAFullDisk is of a disk that is too small for another
// release beside all that are kept: those that nobody needs go first, and never
// one that is named, that is current, or that a process runs from. Where that is
// not enough, nothing is fetched.
func TestOldReleasesGiveWayOnAFullDisk(t *testing.T) {
	t.Parallel()
	// The agent wants room for another release and a quarter, and leaves 64 MiB to
	// others: with four releases it lacks half of one.
	const large = 6 << 20
	const most = 64<<20 + large + large/4 + 4*large - large/2
	s := newSmall(t)
	if err := os.Mkdir(s.cfg.Apps, 0o755); err != nil {
		t.Fatal(err)
	}
	resize := func(flags uintptr, size string) {
		t.Helper()
		if err := syscall.Mount("tmpfs", s.cfg.Apps, "tmpfs", flags, "size="+size); err != nil {
			t.Skipf("cannot mount a small file system: %v", err)
		}
	}
	resize(0, strconv.Itoa(most))
	t.Cleanup(func() { _ = syscall.Unmount(s.cfg.Apps, syscall.MNT_DETACH) })
	s.start(t)
	var ids []string
	prepare := func() api.AppReport {
		t.Helper()
		r := s.repo.release(map[string]string{"large": strings.Repeat(string(rune('a'+len(ids))), large)})
		ids = append(ids, r.ID)
		s.prepare(r, 1)
		return s.c.awaitApp(t, hello, "preparing ends", func(a api.AppReport) bool {
			return slices.Contains(a.Present, r.ID) || a.Prepare != nil && a.Prepare.Release == r.ID && a.Prepare.Failed
		})
	}
	holds := func(a api.AppReport, which ...int) {
		t.Helper()
		var want []string
		for _, i := range which {
			want = append(want, ids[i])
		}
		slices.Sort(want)
		if !slices.Equal(a.Present, want) {
			t.Errorf("the node holds %v of %v, want %v; %+v", a.Present, ids, want, a.Prepare)
		}
	}
	for range 4 {
		prepare()
	}
	s.c.set(hello, func(a *api.Assignment) { a.Keep = ids[:1] }) // that of the last rollout, say
	s.turn(1, ids[1], "")
	if o, _ := s.c.awaitTurn(t, hello, 1); !o.OK {
		t.Fatalf("%+v", o)
	}
	worker := exec.Command("sleep", "600")
	worker.Dir = filepath.Join(s.cfg.Apps, hello, "releases", ids[2])
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	end := func() { _ = worker.Process.Kill(); _ = worker.Wait() }
	t.Cleanup(end)

	holds(prepare(), 0, 1, 2, 4)
	s.c.await(t, "the log names what went", func() bool { return strings.Contains(s.c.logs["fetch"], "[removed for want of room: "+ids[3]+"]") })

	end()
	resize(syscall.MS_REMOUNT, strconv.Itoa(most-2*large))
	a := prepare()
	holds(a, 0, 1)
	if p := a.Prepare; p == nil || p.Reason != api.ReasonDiskFull || !strings.Contains(p.Text, s.cfg.Apps) || !strings.Contains(p.Text, "keep_releases") {
		t.Errorf("without room: %+v", p)
	}
	if got, err := os.Readlink(filepath.Join(s.cfg.Apps, hello, "current")); got != "releases/"+ids[1] {
		t.Errorf("current leads to %q, %v", got, err)
	}
}
