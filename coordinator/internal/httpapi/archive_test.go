package httpapi_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/depot"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/httpapi"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
	"github.com/lockstep-deploy/lockstep/internal/archive"
)

// sharing is a stage whose web2 is asked to share the release that it returns.
func sharing(t *testing.T, told *atomic.Int32) (s *stage, release string) {
	t.Helper()
	s = newStage(t)
	dir := filepath.Join(t.TempDir(), "archives")
	s.stop()
	s.start(func(c *httpapi.Config) {
		c.Depot = depot.Open(dir)
		c.Archived = func(context.Context, string) error { told.Add(1); return nil }
	})
	state, _ := s.engine.View("hello")
	policy := state.App("hello").Policy
	policy.BuildOnce = true
	_, err := s.engine.Apply(t.Context(), "hello", func(at time.Time) rollout.Event {
		return rollout.Configured{At: at, Pool: "edge", MaxUnavailable: 1, Apps: []rollout.AppConfig{
			{Name: "hello", Nodes: []string{"web1", "web2"}, Policy: policy, Revision: "2"},
		}}
	})
	if err != nil {
		t.Fatal(err)
	}
	r := s.deploy("hello", "")
	for range 3 { // it learns what it is to do, and tells that it knows
		s.sync(s.agents[1])
	}
	state, _ = s.engine.View("hello")
	if w, _, _ := state.Wanted("hello", "web2"); !w.Share {
		t.Fatalf("web2 is not asked to share: %+v", w)
	}
	return s, r.Release.ID
}

// content is an archive of several pieces.
func content(t *testing.T) (dir, digest string, b []byte) {
	t.Helper()
	dir = t.TempDir()
	noise := make([]byte, 3*api.ArchivePiece)
	_, _ = rand.Read(noise)
	if err := os.WriteFile(filepath.Join(dir, "noise"), noise, 0o644); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	sum, err := archive.Pack(t.Context(), dir, nil, &out)
	if err != nil {
		t.Fatal(err)
	}
	return dir, sum.Digest, out.Bytes()
}

// cutting is a way to the server that breaks every connection after so many bytes
// in either direction, the first so many times.
func cutting(t *testing.T, to string, after int64, times int32) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	var cuts atomic.Int32
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			carry := func(dst, src net.Conn) {
				defer dst.Close()
				defer src.Close()
				if cuts.Load() < times {
					if n, _ := io.CopyN(dst, src, after); n == after {
						cuts.Add(1)
						return
					}
				}
				_, _ = io.Copy(dst, src)
			}
			go carry(in, out)
			go carry(out, in)
		}
	}()
	return "http://" + ln.Addr().String()
}

// TestArchiveSurvivesCuts carries an archive to the coordinator and from there to
// another node over a line that breaks again and again.
func TestArchiveSurvivesCuts(t *testing.T) {
	var told atomic.Int32
	s, release := sharing(t, &told)
	dir, digest, want := content(t)
	client := func(node string, cuts int32, retries int) *api.Client {
		c, err := api.NewClient(cutting(t, strings.TrimPrefix(s.server.URL, "http://"), 3<<20, cuts), "token-of-"+node,
			api.WithBackoff(time.Millisecond, 10*time.Millisecond), api.WithRetries(retries))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	err := client("web2", 5, 4).ShareArchive(t.Context(), "hello", release, digest, func(w io.Writer) error {
		_, err := archive.Pack(t.Context(), dir, nil, w)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if told.Load() == 0 {
		t.Error("the engine was not told")
	}
	// And one that has no more retries goes on all the same.
	r := client("web1", 2, 0).Archive(t.Context(), "hello", digest)
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d came out, %v", len(got), len(want), err)
	}
}

// TestArchiveIsResumed is of an agent that died in the middle of sharing: the next
// one sends only the rest.
func TestArchiveIsResumed(t *testing.T) {
	var told atomic.Int32
	s, release := sharing(t, &told)
	dir, digest, want := content(t)
	c := s.agent("web2")
	died := func(w io.Writer) error {
		if _, err := w.Write(want[:2*api.ArchivePiece+100]); err != nil {
			return err
		}
		return io.ErrClosedPipe
	}
	if err := c.ShareArchive(t.Context(), "hello", release, digest, died); err == nil {
		t.Fatal("it did not die")
	}
	if st, err := c.ArchiveState(t.Context(), "hello", digest); err != nil || st.Held != 2*api.ArchivePiece || st.Complete {
		t.Fatalf("%+v, %v", st, err)
	}
	err := c.ShareArchive(t.Context(), "hello", release, digest, func(w io.Writer) error {
		_, err := archive.Pack(t.Context(), dir, nil, w)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := c.ArchiveState(t.Context(), "hello", digest); err != nil || !st.Complete || st.Held != int64(len(want)) {
		t.Errorf("%+v, %v", st, err)
	}
}

// TestArchiveOfOthers is of nodes that ask for what is not theirs, or send what
// they were not asked for.
func TestArchiveOfOthers(t *testing.T) {
	var told atomic.Int32
	s, release := sharing(t, &told)
	_, digest, want := content(t)
	send := func(w io.Writer) error { _, err := w.Write(want); return err }
	expectError(t, s.agent("web1").ShareArchive(t.Context(), "hello", release, digest, send), api.ErrorForbidden, "not asked to share")
	expectError(t, s.agent("web2").ShareArchive(t.Context(), "hello", "bbbbbbbbbbbb-111111", digest, send), api.ErrorForbidden, "not asked to share")
	expectError(t, s.agent("web3").ShareArchive(t.Context(), "hello", release, digest, send), api.ErrorForbidden, "no part in")
	expectError(t, s.agent("web2").ShareArchive(t.Context(), "../hello", release, digest, send), api.ErrorForbidden, "no part in")
	expectError(t, s.agent("web2").ShareArchive(t.Context(), "hello", release, "sha256:../../etc", send), api.ErrorInvalid, "not a digest")
	_, err := io.ReadAll(s.agent("web3").Archive(t.Context(), "hello", digest))
	expectError(t, err, api.ErrorForbidden, "no part in")
	_, err = io.ReadAll(s.agent("web1").Archive(t.Context(), "hello", digest))
	expectError(t, err, api.ErrorNotFound, "any more")
	// Something else under that digest.
	bad := func(w io.Writer) error { _, err := w.Write(want[:1000]); return err }
	expectError(t, s.agent("web2").ShareArchive(t.Context(), "hello", release, digest, bad), api.ErrorInvalid, "is not the archive")
	if told.Load() != 0 {
		t.Error("the engine was told of something")
	}
}
