package lbclient

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// side is a balancer that does as told, and fails as told.
type side struct {
	name    string
	log     *[]string // what was asked of all sides, in order
	drained bool
	stage   DrainStage // of a held drain; "" means idle
	flight  int64
	rejoin  RejoinStage // once put back; "" means serving
	fail    map[string]error
	caps    Caps
	timing  *Timing
}

func (s *side) ask(what string) error {
	*s.log = append(*s.log, what+" "+s.name)
	return s.fail[what]
}

func (s *side) Preflight(context.Context) error { return s.ask("preflight") }
func (s *side) Observe(context.Context) (Pool, error) {
	phase := PhaseServing
	if s.drained {
		phase = PhaseDraining
	}
	return Pool{Epoch: "e" + s.name, At: time.Now(), Members: []Member{
		{Name: "web1", Phase: phase, InFlight: s.flight, Detail: "by " + s.name}, {Name: "only-" + s.name, Phase: PhaseServing},
	}}, s.ask("observe")
}
func (s *side) Snapshot(context.Context) (Restore, error) {
	return Restore{Provider: s.name, Target: "web1", Version: 7, WasServing: !s.drained}, s.ask("snapshot")
}
func (s *side) BeginDrain(_ context.Context, r Restore, _ int) error {
	if r.Provider != s.name {
		return &Error{Class: ClassInvalid, Op: "drain", Text: "a restore of " + r.Provider}
	}
	if err := s.ask("drain"); err != nil {
		return err
	}
	s.drained = true
	return nil
}
func (s *side) DrainStatus(context.Context, Restore) (DrainStatus, error) {
	if err := s.fail["drain status"]; err != nil {
		return DrainStatus{}, err
	}
	out := DrainStatus{Stage: DrainNotAsked, InFlight: s.flight, Epoch: "e" + s.name, Evidence: "seen by " + s.name}
	if s.drained {
		out.Stage = s.stage
		if s.stage == "" {
			out.Stage = DrainIdle
		}
	}
	return out, nil
}
func (s *side) BeginRejoin(ctx context.Context, _ Restore) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.ask("rejoin"); err != nil {
		return err
	}
	s.drained = false
	return nil
}
func (s *side) RejoinStatus(context.Context, Restore) (RejoinStatus, error) {
	stage := s.rejoin
	switch {
	case s.drained:
		stage = RejoinNotAsked
	case stage == "":
		stage = RejoinServing
	}
	return RejoinStatus{Stage: stage, Evidence: "seen by " + s.name}, nil
}
func (s *side) Close() error { return s.ask("close") }
func (s *side) Caps() Caps   { return s.caps }
func (s *side) Timing(context.Context) (Timing, error) {
	if s.timing == nil {
		return Timing{}, &Error{Class: ClassUnsupported, Op: "tell"}
	}
	return *s.timing, nil
}

// forcible is a side that can end work by force.
type forcible struct{ *side }

func (f forcible) ForceIdle(context.Context, Restore) error {
	if err := f.ask("force"); err != nil {
		return err
	}
	f.stage = DrainIdle
	return nil
}

func three() (a, b, c *side, log *[]string, p Provider) {
	log = new([]string)
	a, b, c = &side{name: "a", log: log}, &side{name: "b", log: log}, &side{name: "c", log: log}
	return a, b, c, log, Multi(a, b, c)
}

func record(t *testing.T, p Provider) Restore {
	t.Helper()
	r, err := p.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestMultiOrder(t *testing.T) {
	_, _, _, log, p := three()
	r := record(t, p)
	*log = nil
	if err := p.BeginDrain(t.Context(), r, 1); err != nil {
		t.Fatal(err)
	}
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(*log, ", "), "drain a, drain b, drain c, rejoin c, rejoin b, rejoin a"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestMultiUndoesADrainHalfDone(t *testing.T) {
	refusal := &Error{Class: ClassUnsafe, Op: "drain web1", Text: "too few others"}
	t.Run("refused by the last", func(t *testing.T) {
		a, b, c, _, p := three()
		r := record(t, p)
		c.fail = map[string]error{"drain": refusal}
		err := p.BeginDrain(t.Context(), r, 1)
		if ClassOf(err) != ClassUnsafe || !errors.Is(err, refusal) {
			t.Errorf("got error %v, want the refusal", err)
		}
		for _, want := range []string{"balancer 3 of 3", "too few others", "undone at balancer 2, balancer 1"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not say %q", err, want)
			}
		}
		if a.drained || b.drained {
			t.Error("a side is left drained")
		}
	})
	t.Run("what was drained before stays so", func(t *testing.T) {
		a, b, c, _, p := three()
		r := record(t, p)
		a.drained = true
		c.fail = map[string]error{"drain": refusal}
		if err := p.BeginDrain(t.Context(), r, 1); err == nil {
			t.Fatal("no error")
		}
		if !a.drained || b.drained {
			t.Errorf("drained: a %t, b %t; want only a, as before", a.drained, b.drained)
		}
	})
	t.Run("even though the caller has left", func(t *testing.T) {
		a, _, c, _, p := three()
		r := record(t, p)
		ctx, cancel := context.WithCancel(t.Context())
		c.fail = map[string]error{"drain": context.Canceled}
		cancel()
		if err := p.BeginDrain(ctx, r, 1); err == nil {
			t.Fatal("no error")
		}
		if a.drained {
			t.Error("a side is left drained")
		}
	})
	t.Run("a side that cannot be put back is named", func(t *testing.T) {
		a, _, c, _, p := three()
		r := record(t, p)
		a.fail = map[string]error{"rejoin": errors.New("no route to host")}
		c.fail = map[string]error{"drain": refusal}
		err := p.BeginDrain(t.Context(), r, 1)
		if err == nil || !strings.Contains(err.Error(), "still be drained at balancer 1 (no route to host)") {
			t.Errorf("got error %v", err)
		}
	})
	t.Run("a side that does not answer costs nothing", func(t *testing.T) {
		_, _, c, log, p := three()
		r := record(t, p)
		c.fail = map[string]error{"drain status": errors.New("no answer")}
		*log = nil
		if err := p.BeginDrain(t.Context(), r, 1); err == nil {
			t.Fatal("no error")
		}
		if len(*log) > 0 {
			t.Errorf("sides were told to %v", *log)
		}
	})
}

func TestMultiRejoinsWhatItCan(t *testing.T) {
	a, b, c, _, p := three()
	r := record(t, p)
	if err := p.BeginDrain(t.Context(), r, 0); err != nil {
		t.Fatal(err)
	}
	b.fail = map[string]error{"rejoin": &Error{Class: ClassRateLimited, Op: "rejoin", Text: "slow down"}}
	err := p.BeginRejoin(t.Context(), r)
	if ClassOf(err) != ClassRateLimited || !strings.Contains(err.Error(), "balancer 2 of 3") {
		t.Errorf("got error %v, want the second side's", err)
	}
	if a.drained || c.drained {
		t.Errorf("still drained: a %t, c %t", a.drained, c.drained)
	}
}

func TestMultiWorstWins(t *testing.T) {
	type look struct {
		stage  DrainStage
		flight int64
	}
	for _, c := range []struct {
		a, b, want look
	}{
		{look{DrainIdle, 0}, look{DrainIdle, 0}, look{DrainIdle, 0}},
		{look{DrainIdle, 0}, look{DrainBusy, 3}, look{DrainBusy, 3}},
		{look{DrainBusy, 2}, look{DrainBusy, 3}, look{DrainBusy, 5}},
		{look{DrainBusy, -1}, look{DrainBusy, 3}, look{DrainBusy, -1}},
		{look{DrainAccepted, -1}, look{DrainIdle, 0}, look{DrainAccepted, -1}},
		{look{DrainBusy, 1}, look{DrainAccepted, 0}, look{DrainAccepted, 1}},
	} {
		a, b, _, _, _ := three()
		p := Multi(a, b)
		r := record(t, p)
		a.drained, a.stage, a.flight = true, c.a.stage, c.a.flight
		b.drained, b.stage, b.flight = true, c.b.stage, c.b.flight
		st, err := p.DrainStatus(t.Context(), r)
		if err != nil || (look{st.Stage, st.InFlight}) != c.want {
			t.Errorf("%v and %v: %+v (%v), want %v", c.a, c.b, st, err, c.want)
		}
		if st.Epoch != "ea|eb" || !strings.Contains(st.Evidence, "balancer 2: seen by b") {
			t.Errorf("epoch %q, evidence %q", st.Epoch, st.Evidence)
		}
		b.drained = false
		if st, err := p.DrainStatus(t.Context(), r); err != nil || st.Stage != DrainNotAsked {
			t.Errorf("with one side not asked: %+v (%v)", st, err)
		}
	}
	for _, c := range []struct{ a, b, want RejoinStage }{
		{RejoinServing, RejoinServing, RejoinServing},
		{RejoinServing, RejoinPending, RejoinPending},
		{RejoinUnhealthy, RejoinPending, RejoinUnhealthy},
		{RejoinNotAsked, RejoinUnhealthy, RejoinNotAsked},
	} {
		a, b, _, _, _ := three()
		a.rejoin, b.rejoin = c.a, c.b
		p := Multi(a, b)
		if st, err := p.RejoinStatus(t.Context(), record(t, p)); err != nil || st.Stage != c.want {
			t.Errorf("%s and %s: %+v (%v), want %s", c.a, c.b, st, err, c.want)
		}
	}
	a, _, _, _, p := three()
	r := record(t, p)
	a.drained, a.stage = true, "splendid"
	if st, err := p.DrainStatus(t.Context(), r); err == nil {
		t.Errorf("a word that is no stage gives %+v", st)
	}
}

func TestMultiObserve(t *testing.T) {
	a, b, _, _, _ := three()
	b.drained, a.flight, b.flight = true, 2, 1
	pool, err := Multi(a, b).Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(pool.Members) != 3 {
		t.Fatalf("got members %+v", pool.Members)
	}
	if m := pool.Members[0]; m.Phase != PhaseDraining || m.InFlight != 3 || m.Detail != "1: by a; 2: by b" {
		t.Errorf("got %+v", m)
	}
	b.fail = map[string]error{"observe": errors.New("no answer")}
	if _, err := Multi(a, b).Observe(t.Context()); err == nil {
		t.Error("one silent side is overlooked")
	}
}

func TestMultiRestore(t *testing.T) {
	a, b, _, _, p := three()
	b.drained = true
	good := record(t, p)
	if good.WasServing {
		t.Error("a target that one side holds out is said to have served")
	}
	two := record(t, Multi(a, b))
	newer, broken, renamed := good, good, good
	newer.Version++
	broken.Data = json.RawMessage(`{"sides":[]} x`)
	renamed.Target = "web2"
	for what, r := range map[string]Restore{"none": {}, "of two sides": two, "newer": newer, "broken": broken, "of another target": renamed} {
		if err := p.BeginRejoin(t.Context(), r); ClassOf(err) != ClassInvalid {
			t.Errorf("a restore %s: got error %v", what, err)
		}
	}
	if err := Multi().Preflight(t.Context()); ClassOf(err) != ClassInvalid {
		t.Errorf("no balancers at all: got error %v", err)
	}
	if Multi(a) != Provider(a) {
		t.Error("one provider alone is wrapped")
	}
}

func TestMultiPreflightNamesAll(t *testing.T) {
	a, _, c, _, p := three()
	a.fail = map[string]error{"preflight": &Error{Class: ClassDenied, Op: "check", Text: "read-only token"}}
	c.fail = map[string]error{"preflight": &Error{Class: ClassNotFound, Op: "check", Text: "no such pool"}}
	err := p.Preflight(t.Context())
	if ClassOf(err) != ClassDenied || !strings.Contains(err.Error(), "read-only token") || !strings.Contains(err.Error(), "no such pool") {
		t.Errorf("got error %v", err)
	}
}

func TestMultiForce(t *testing.T) {
	a, b, c, log, _ := three()
	p := Multi(a, forcible{b}, forcible{c})
	r := record(t, p)
	f := p.(Forcer)
	a.drained, b.drained, c.drained = true, true, true
	b.stage = DrainBusy
	*log = nil
	if err := f.ForceIdle(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(*log, []string{"force b"}) {
		t.Errorf("forced %v, want only the busy side", *log)
	}
	a.stage = DrainBusy
	if err := f.ForceIdle(t.Context(), r); ClassOf(err) != ClassUnsupported || err == nil {
		t.Errorf("got error %v, want that nobody can", err)
	}
	b.stage, b.fail = DrainBusy, map[string]error{"force": &Error{Class: ClassConflict, Op: "force"}}
	if err := f.ForceIdle(t.Context(), r); ClassOf(err) != ClassConflict {
		t.Errorf("got error %v, want the side's", err)
	}
}

func TestMultiDescribes(t *testing.T) {
	a, b, _, _, _ := three()
	a.caps = Caps{Health: true, InFlight: true, Disturbs: "idle connections"}
	b.caps = Caps{Health: true, Undocumented: "removal"}
	if got, want := CapsOf(Multi(a, b)), (Caps{Health: true, Disturbs: "idle connections", Undocumented: "removal"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	p := Multi(a, b).(Timed)
	if _, err := p.Timing(t.Context()); ClassOf(err) != ClassUnsupported || err == nil {
		t.Errorf("got error %v", err)
	}
	b.timing = &Timing{Interval: time.Second, Fall: 3, Rise: 2}
	if got, err := p.Timing(t.Context()); err != nil || got != *b.timing {
		t.Errorf("got %+v, %v", got, err)
	}
}

func FuzzMultiRestore(f *testing.F) {
	f.Add([]byte(`{"sides":[{"provider":"a","target":"web1","version":7,"was_serving":true}]}`))
	f.Add([]byte(`{"sides":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := decodeMulti(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeMulti(again); err != nil {
			t.Fatalf("%s is not read again: %v", again, err)
		}
	})
}
