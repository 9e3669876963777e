package sqlite

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// crashFile, when set, makes the test binary the process that is killed.
const crashFile = "LOCKSTEP_TEST_STORE"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashFile); path != "" {
		if err := writeUntilKilled(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// writeUntilKilled commits steps and receives deliveries at once, and prints a
// line for each that was acknowledged.
func writeUntilKilled(path string) error {
	ctx := context.Background()
	s, err := Open(ctx, path)
	if err != nil {
		return err
	}
	_, version, err := s.Load(ctx, "web")
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	deliveries, err := s.Deliveries(ctx, 1)
	if err != nil {
		return err
	}
	var number int
	if len(deliveries) > 0 {
		if _, err := fmt.Sscanf(deliveries[0].ID, "d-%d", &number); err != nil {
			return err
		}
	}
	failed := make(chan error)
	go func() {
		for {
			number++
			_, _, err := s.Receive(ctx, store.Delivery{ID: fmt.Sprintf("d-%d", number), Received: time.Unix(int64(number), 0), Decision: store.Accepted})
			if err != nil {
				failed <- err
				return
			}
			fmt.Printf("delivery %d\n", number)
		}
	}()
	go func() {
		for {
			version, err = s.Commit(ctx, stepOf(version))
			if err != nil {
				failed <- err
				return
			}
			fmt.Printf("version %d\n", version)
		}
	}()
	return <-failed
}

// stepOf is a step whose every part tells the version that it leads to.
func stepOf(version int64) store.Commit {
	text := fmt.Sprint(version + 1)
	at := time.Unix(version+1, 0).UTC()
	r := rollout.Rollout{ID: "blog-1", App: "blog", Text: text, Status: rollout.Rolling, Created: at}
	return store.Commit{
		Version: version,
		State:   rollout.State{Pool: "web", Now: at, Generation: uint64(version + 1)},
		Event:   rollout.PauseRequested{At: at, App: "blog", Reason: text},
		Effects: []rollout.Effect{rollout.Changed{Rollout: r}, rollout.Noted{At: at, Rollout: "blog-1", App: "blog", Text: text}},
	}
}

// A coordinator that is killed at any instant has stored each step wholly or
// not at all, and lost nothing that it acknowledged.
func TestNothingAcknowledgedIsLostByAKill(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lockstep.db")
	var version, number int
	rounds := 0
	for begun := time.Now(); rounds < 5 || rounds < 25 && time.Since(begun) < 5*time.Second; rounds++ {
		acknowledged := killAfter(t, path, time.Duration(20+rand.IntN(130))*time.Millisecond)
		for _, line := range acknowledged {
			if _, err := fmt.Sscanf(line, "version %d", &version); err != nil {
				if _, err := fmt.Sscanf(line, "delivery %d", &number); err != nil {
					t.Fatalf("cannot read %q", line)
				}
			}
		}
		s := openTest(t, path)
		version = checkAgreement(t, s, version)
		number = checkDeliveries(t, s, number)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if version < rounds || number < rounds {
		t.Errorf("only %d steps and %d deliveries in %d rounds: the kills came too early to show anything", version, number, rounds)
	}
	t.Logf("%d steps and %d deliveries over %d kills", version, number, rounds)
}

// killAfter runs the writing process and kills it, a while after its first
// line, and returns the complete lines that it printed.
func killAfter(t *testing.T, path string, wait time.Duration) []string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashFile+"="+path)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	first, err := r.ReadString('\n')
	var timer *time.Timer
	if err == nil {
		timer = time.AfterFunc(wait, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	rest, err2 := io.ReadAll(r)
	_ = cmd.Wait() // the kill
	if err != nil || err2 != nil || stderr.Len() > 0 {
		t.Fatalf("the writing process ended by itself: %v, %v: %s", err, err2, stderr.String())
	}
	lines := strings.Split(first+string(rest), "\n")
	return lines[:len(lines)-1]
}

// checkAgreement returns the version that state, events, rollout, and timeline
// all tell of, which is the acknowledged one or the one that was under way.
func checkAgreement(t *testing.T, s *Store, acknowledged int) int {
	t.Helper()
	state, v, err := s.Load(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	version := int(v)
	if version < acknowledged || version > acknowledged+1 {
		t.Errorf("version %d, but %d was acknowledged", version, acknowledged)
	}
	if state.Generation != uint64(version) {
		t.Errorf("version %d has the state of %d", version, state.Generation)
	}
	c, err := s.Rollout(t.Context(), "blog-1")
	if err != nil || c.Rollout.Text != fmt.Sprint(version) {
		t.Errorf("version %d has the rollout of %s, %v", version, c.Rollout.Text, err)
	}
	lines, err := s.Timeline(t.Context(), "blog-1", 0, 1<<30)
	if err != nil || len(lines) != version {
		t.Fatalf("version %d has %d timeline lines, %v", version, len(lines), err)
	}
	for i, l := range lines {
		if l.Text != fmt.Sprint(i+1) {
			t.Errorf("timeline line %d is of version %s", i+1, l.Text)
		}
	}
	checkEvents(t, s, version)
	return version
}

func checkEvents(t *testing.T, s *Store, version int) {
	t.Helper()
	type stored struct {
		version        int
		event, effects string
	}
	rows, err := query(t.Context(), s, func(r scanner) (e stored, err error) {
		err = r.Scan(&e.version, &e.event, &e.effects)
		return e, err
	}, `SELECT version, event_json, effects_json FROM events WHERE pool = 'web' ORDER BY version`)
	if err != nil || len(rows) != version {
		t.Fatalf("version %d has %d events, %v", version, len(rows), err)
	}
	for i, row := range rows {
		var ev struct {
			Type string
			Data rollout.PauseRequested
		}
		err := json.Unmarshal([]byte(row.event), &ev)
		if err != nil || ev.Type != "pause_requested" || row.version != i+1 || ev.Data.Reason != fmt.Sprint(i+1) {
			t.Fatalf("event %d is %s of version %d, %v", i+1, row.event, row.version, err)
		}
	}
	if version == 0 {
		return
	}
	var effects []struct {
		Type string
		Data struct{ Text string }
	}
	if err := json.Unmarshal([]byte(rows[version-1].effects), &effects); err != nil || len(effects) != 2 {
		t.Fatalf("effects %s, %v", rows[version-1].effects, err)
	}
	if e := effects[1]; e.Type != "noted" || e.Data.Text != fmt.Sprint(version) {
		t.Errorf("effect %+v of version %d", e, version)
	}
}

// checkDeliveries returns how many deliveries are stored: all up to one, which
// is the acknowledged one or the one that was under way.
func checkDeliveries(t *testing.T, s *Store, acknowledged int) int {
	t.Helper()
	pending, err := s.Pending(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(pending) < acknowledged || len(pending) > acknowledged+1 {
		t.Errorf("%d deliveries, but %d were acknowledged", len(pending), acknowledged)
	}
	for i, d := range pending {
		if d.ID != fmt.Sprintf("d-%d", i+1) {
			t.Fatalf("delivery %d is %s", i+1, d.ID)
		}
	}
	return len(pending)
}
