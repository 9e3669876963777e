package depot

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/archive"
)

const shop = "shop"

// packed is an archive of incompressible files and its digest.
func packed(t *testing.T, size int) ([]byte, string) {
	t.Helper()
	dir := t.TempDir()
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(size)})
	_, _ = r.Read(b)
	if err := os.WriteFile(filepath.Join(dir, "file"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	s, err := archive.Pack(t.Context(), dir, nil, &out)
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), s.Digest
}

func appendAll(t *testing.T, d *Depot, digest string, b []byte) {
	t.Helper()
	if _, err := d.Append(shop, digest, 0, int64(len(b)), bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
}

func refusal(t *testing.T, err error) *api.Error {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, expected a refusal", err)
	}
	return e
}

// TestResume is of a connection that breaks in the middle of a piece, which then
// comes again.
func TestResume(t *testing.T) {
	b, digest := packed(t, 3000)
	d := Open(t.TempDir())
	cut := io.MultiReader(bytes.NewReader(b[:700]), broken{})
	if _, err := d.Append(shop, digest, 0, 1000, cut); err == nil {
		t.Fatal("a cut was not noticed")
	}
	if st, err := d.State(shop, digest); err != nil || st.Held != 700 || st.Complete {
		t.Fatalf("after the cut: %+v, %v", st, err)
	}
	if all, _ := d.List(shop); len(all) != 0 {
		t.Errorf("what is not complete is listed: %v", all)
	}
	if e := refusal(t, second(d.Append(shop, digest, 800, 100, bytes.NewReader(b[800:900])))); e.Reason != api.ReasonOffset {
		t.Errorf("a gap: %+v", e)
	}
	for _, from := range []int{500, 500, 1500} { // the same piece twice
		to := min(from+1000, len(b))
		if from == 1500 {
			to = len(b)
		}
		if _, err := d.Append(shop, digest, int64(from), int64(to-from), bytes.NewReader(b[from:to])); err != nil {
			t.Fatal(err)
		}
	}
	st, err := d.Finish(t.Context(), shop, digest)
	if err != nil || !st.Complete {
		t.Fatalf("%+v, %v", st, err)
	}
	if st, err = d.Append(shop, digest, 1500, 10, bytes.NewReader([]byte("0123456789"))); err != nil || !st.Complete {
		t.Errorf("a piece that comes late: %+v, %v", st, err)
	}
	f, err := d.Open(shop, digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, _ := io.ReadAll(f); !bytes.Equal(got, b) {
		t.Error("other bytes come out")
	}
	if _, err := d.Open("mail", digest); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("another app's: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestBadArchive is of archives that are not what they are said to be: they leave
// nothing.
func TestBadArchive(t *testing.T) {
	b, digest := packed(t, 3000)
	other, _ := packed(t, 4000)
	for name, content := range map[string][]byte{"another": other, "cut short": b[:len(b)-10], "noise": bytes.Repeat([]byte("x"), 500), "nothing": {}} {
		d := Open(t.TempDir())
		appendAll(t, d, digest, content)
		_, err := d.Finish(t.Context(), shop, digest)
		if e := refusal(t, err); e.Reason != string(api.ReasonArchiveBad) {
			t.Errorf("%s: %+v", name, e)
		}
		if st, _ := d.State(shop, digest); st.Held != 0 {
			t.Errorf("%s: %d bytes are left", name, st.Held)
		}
	}
}

// TestNoRoom is of a disk that is nearly full.
func TestNoRoom(t *testing.T) {
	b, digest := packed(t, 100)
	d := Open(t.TempDir())
	d.free = func(string) (uint64, error) { return reserve + 50, nil }
	e := refusal(t, second(d.Append(shop, digest, 0, int64(len(b)), bytes.NewReader(b))))
	if e.Kind != api.ErrorNoSpace || e.Reason != string(api.ReasonDiskFull) || !strings.Contains(e.Text, d.dir) {
		t.Errorf("%+v", e)
	}
}

// TestDiskFull is of a disk that others fill while a piece is received: what came
// of it is kept, and the rest may follow when there is room.
func TestDiskFull(t *testing.T) {
	b, digest := packed(t, 200_000)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	d := Open(dir)
	d.free = func(string) (uint64, error) { return 1 << 40, nil } // so it was a moment ago
	e := refusal(t, second(d.Append(shop, digest, 0, int64(len(b)), bytes.NewReader(b))))
	if e.Kind != api.ErrorNoSpace || e.Reason != string(api.ReasonDiskFull) || !strings.Contains(e.Text, dir) {
		t.Errorf("%+v", e)
	}
	if all, _ := d.List(shop); len(all) != 0 {
		t.Errorf("what is not complete is listed: %v", all)
	}
	st, err := d.State(shop, digest)
	if err != nil || st.Held == 0 || st.Held >= int64(len(b)) {
		t.Fatalf("%+v, %v", st, err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Append(shop, digest, st.Held, int64(len(b)), bytes.NewReader(b[st.Held:])); err != nil {
		t.Fatal(err)
	}
	if st, err := d.Finish(t.Context(), shop, digest); err != nil || !st.Complete {
		t.Errorf("%+v, %v", st, err)
	}
}

// TestRetain is of archives that no release needs any more.
func TestRetain(t *testing.T) {
	d := Open(t.TempDir())
	var digests []string
	for _, size := range []int{1, 2, 3} {
		b, digest := packed(t, size)
		appendAll(t, d, digest, b)
		if _, err := d.Finish(t.Context(), shop, digest); err != nil {
			t.Fatal(err)
		}
		digests = append(digests, digest)
	}
	old := time.Now().Add(-time.Hour)
	for _, digest := range digests[:2] {
		if err := os.Chtimes(d.path(shop, digest, suffix), old, old); err != nil {
			t.Fatal(err)
		}
	}
	removed, err := d.Retain(shop, digests[:1])
	all, _ := d.List(shop)
	if err != nil || !removed || len(all) != 2 {
		t.Errorf("%t, %v: %v is left of %v, expected the first and, as it is new, the third", removed, err, all, digests)
	}
	if removed, err := d.Retain("none", nil); removed || err != nil {
		t.Errorf("an app without any: %t, %v", removed, err)
	}
}
