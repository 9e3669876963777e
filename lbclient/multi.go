package lbclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/internal/strictjson"
)

// multiName is the [Restore]'s provider of [Multi].
const multiName = "multi"

const multiVersion = 1

// undoTimeout bounds how long a drain half done is undone after its caller left.
const undoTimeout = 30 * time.Second

// Multi joins providers that all stand before the same target, such as a cloud's
// balancer and the gate that it checks, into one. It implements [Forcer],
// [Describer] and [Timed] as far as its sides do.
//
// A drain goes through the sides in the order given; when one refuses, those
// that this call had drained are put back. A rejoin goes in reverse order, to
// every side even when another fails. Looks ask all sides, and the worst answer
// stands: a side that does not answer is an error, for unknown is never good. In
// flight is the sum, and -1 when one side cannot say. Each side judges for
// itself whether enough others serve. Errors name the side by its place.
func Multi(providers ...Provider) Provider {
	if len(providers) == 1 {
		return providers[0]
	}
	return &multi{sides: slices.Clone(providers)}
}

type multi struct{ sides []Provider }

// multiRecord is what a Restore of Multi carries, side by side.
type multiRecord struct {
	Sides []Restore `json:"sides"`
}

// at says which side an error is of.
func (m *multi) at(i int, verb string, err error) error {
	return &Error{Class: ClassOf(err), Op: fmt.Sprintf("%s at balancer %d of %d", verb, i+1, len(m.sides)), Err: err, After: AfterOf(err)}
}

func (m *multi) check(verb string) error {
	if len(m.sides) == 0 {
		return &Error{Class: ClassInvalid, Op: verb, Text: "no balancer was named"}
	}
	return nil
}

// Preflight implements [Provider]. It asks every side and returns all that is
// wrong, with the class of the first.
func (m *multi) Preflight(ctx context.Context) error {
	return m.each("check", slices.Values(m.order()), func(i int) error { return m.sides[i].Preflight(ctx) })
}

func (m *multi) order() []int {
	out := make([]int, len(m.sides))
	for i := range out {
		out[i] = i
	}
	return out
}

// each calls f for every side and joins what went wrong, the first in front.
func (m *multi) each(verb string, order func(func(int) bool), f func(i int) error) error {
	if err := m.check(verb); err != nil {
		return err
	}
	var errs []error
	for i := range order {
		if err := f(i); err != nil {
			errs = append(errs, m.at(i, verb, err))
		}
	}
	if len(errs) < 2 {
		return errors.Join(errs...)
	}
	return &Error{Class: ClassOf(errs[0]), Op: fmt.Sprintf("%s at %d of %d balancers", verb, len(errs), len(m.sides)), Err: errors.Join(errs...)}
}

// Observe implements [Provider]. A member that only some sides list stands as
// those say.
func (m *multi) Observe(ctx context.Context) (Pool, error) {
	const verb = "observe"
	if err := m.check(verb); err != nil {
		return Pool{}, err
	}
	var out Pool
	var epochs []string
	index := make(map[string]int)
	for i, s := range m.sides {
		p, err := s.Observe(ctx)
		if err != nil {
			return Pool{}, m.at(i, verb, err)
		}
		epochs = append(epochs, p.Epoch)
		if i == 0 || p.At.Before(out.At) {
			out.At = p.At
		}
		for _, o := range p.Members {
			detail := fmt.Sprintf("%d: %s", i+1, o.Detail)
			at, known := index[o.Name]
			if !known {
				index[o.Name] = len(out.Members)
				o.Detail = detail
				out.Members = append(out.Members, o)
				continue
			}
			was := &out.Members[at]
			was.Phase = Worst(was.Phase, o.Phase)
			was.InFlight = addInFlight(was.InFlight, o.InFlight)
			was.Detail += "; " + detail
		}
	}
	out.Epoch = strings.Join(epochs, "|")
	return out, nil
}

func addInFlight(a, b int64) int64 {
	if a < 0 || b < 0 {
		return -1
	}
	return a + b
}

// Snapshot implements [Provider]. The target served if it did at every side.
func (m *multi) Snapshot(ctx context.Context) (Restore, error) {
	const verb = "record the state"
	if err := m.check(verb); err != nil {
		return Restore{}, err
	}
	out := Restore{Provider: multiName, Version: multiVersion, WasServing: true}
	var rec multiRecord
	for i, s := range m.sides {
		r, err := s.Snapshot(ctx)
		if err != nil {
			return Restore{}, m.at(i, verb, err)
		}
		rec.Sides = append(rec.Sides, r)
		out.WasServing = out.WasServing && r.WasServing
	}
	out.Target = rec.Sides[0].Target
	data, err := json.Marshal(rec)
	if err != nil {
		return Restore{}, &Error{Class: ClassInvalid, Op: verb, Err: err}
	}
	out.Data = data
	return out, nil
}

// decode returns the Restore of each side. Each side checks its own.
func (m *multi) decode(verb string, r Restore) ([]Restore, error) {
	if err := m.check(verb); err != nil {
		return nil, err
	}
	invalid := func(err error) ([]Restore, error) {
		return nil, &Error{Class: ClassInvalid, Op: verb, Text: "the recorded state cannot be used", Err: err}
	}
	if r.Provider != multiName {
		return invalid(fmt.Errorf("it is of %s, want one of several balancers together", r.Provider))
	}
	if r.Version != multiVersion {
		return invalid(fmt.Errorf("it has version %d, want %d", r.Version, multiVersion))
	}
	rec, err := decodeMulti(r.Data)
	if err != nil {
		return invalid(err)
	}
	if len(rec.Sides) != len(m.sides) {
		return invalid(fmt.Errorf("it is of %d balancers and %d are configured now; record it again", len(rec.Sides), len(m.sides)))
	}
	if r.Target != rec.Sides[0].Target {
		return invalid(fmt.Errorf("it is of %s, but what the first balancer recorded is of %s", r.Target, rec.Sides[0].Target))
	}
	return rec.Sides, nil
}

func decodeMulti(data []byte) (multiRecord, error) {
	var rec multiRecord
	if err := strictjson.Decode(data, &rec); err != nil {
		return multiRecord{}, err
	}
	return rec, nil
}

// BeginDrain implements [Provider]. It looks at every side before it changes
// one, so that a side that does not answer costs nothing.
func (m *multi) BeginDrain(ctx context.Context, r Restore, minHealthy int) error {
	const verb = "drain"
	rs, err := m.decode(verb, r)
	if err != nil {
		return err
	}
	fresh := make([]bool, len(m.sides)) // not drained before this call
	for i, s := range m.sides {
		st, err := s.DrainStatus(ctx, rs[i])
		if err != nil {
			return m.at(i, verb, err)
		}
		fresh[i] = st.Stage == DrainNotAsked
	}
	for i, s := range m.sides {
		if err := s.BeginDrain(ctx, rs[i], minHealthy); err != nil {
			return m.undo(ctx, rs, fresh[:i+1], m.at(i, verb, err))
		}
	}
	return nil
}

// undo puts back what this call had drained, the last first, and returns cause
// with what became of it. It works on after ctx has ended, for a drain half done
// has nobody in charge.
func (m *multi) undo(ctx context.Context, rs []Restore, fresh []bool, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	var undone, stuck []string
	failed := len(fresh) - 1
	for i := failed; i >= 0; i-- {
		if !fresh[i] {
			continue
		}
		name := fmt.Sprintf("balancer %d", i+1)
		// The side that refused may have been told nothing, and may be held out by
		// another hand that a rejoin would run into.
		if i == failed {
			st, err := m.sides[i].DrainStatus(ctx, rs[i])
			if err == nil && st.Stage == DrainNotAsked {
				continue
			}
		}
		if err := m.sides[i].BeginRejoin(ctx, rs[i]); err != nil {
			stuck = append(stuck, fmt.Sprintf("%s (%v)", name, err))
			continue
		}
		undone = append(undone, name)
	}
	var notes []string
	if len(undone) > 0 {
		notes = append(notes, "the drain was undone at "+strings.Join(undone, ", "))
	}
	if len(stuck) > 0 {
		notes = append(notes, "it may still be drained at "+strings.Join(stuck, ", ")+", so a rejoin must follow")
	}
	return Noted(cause, notes...)
}

var drainBadness = map[DrainStage]int{DrainNotAsked: 4, DrainAccepted: 3, DrainBusy: 2, DrainIdle: 1}

// DrainStatus implements [Provider].
func (m *multi) DrainStatus(ctx context.Context, r Restore) (DrainStatus, error) {
	const verb = "look at the drain"
	rs, err := m.decode(verb, r)
	if err != nil {
		return DrainStatus{}, err
	}
	out := DrainStatus{Stage: DrainIdle}
	var epochs, evidence []string
	for i, s := range m.sides {
		st, err := s.DrainStatus(ctx, rs[i])
		if err != nil {
			return DrainStatus{}, m.at(i, verb, err)
		}
		if drainBadness[st.Stage] == 0 {
			return DrainStatus{}, m.at(i, verb, &Error{Class: ClassInvalid, Op: verb, Text: fmt.Sprintf("the word %q is no stage of a drain", st.Stage)})
		}
		if drainBadness[st.Stage] > drainBadness[out.Stage] {
			out.Stage = st.Stage
		}
		out.InFlight = addInFlight(out.InFlight, st.InFlight)
		epochs = append(epochs, st.Epoch)
		evidence = append(evidence, fmt.Sprintf("balancer %d: %s", i+1, st.Evidence))
	}
	out.Epoch, out.Evidence = strings.Join(epochs, "|"), strings.Join(evidence, "; ")
	return out, nil
}

// BeginRejoin implements [Provider].
func (m *multi) BeginRejoin(ctx context.Context, r Restore) error {
	const verb = "rejoin"
	rs, err := m.decode(verb, r)
	if err != nil {
		return err
	}
	order := m.order()
	slices.Reverse(order)
	return m.each(verb, slices.Values(order), func(i int) error { return m.sides[i].BeginRejoin(ctx, rs[i]) })
}

var rejoinBadness = map[RejoinStage]int{RejoinNotAsked: 4, RejoinUnhealthy: 3, RejoinPending: 2, RejoinServing: 1}

// RejoinStatus implements [Provider].
func (m *multi) RejoinStatus(ctx context.Context, r Restore) (RejoinStatus, error) {
	const verb = "look at the rejoin"
	rs, err := m.decode(verb, r)
	if err != nil {
		return RejoinStatus{}, err
	}
	out := RejoinStatus{Stage: RejoinServing}
	var evidence []string
	for i, s := range m.sides {
		st, err := s.RejoinStatus(ctx, rs[i])
		if err != nil {
			return RejoinStatus{}, m.at(i, verb, err)
		}
		if rejoinBadness[st.Stage] == 0 {
			return RejoinStatus{}, m.at(i, verb, &Error{Class: ClassInvalid, Op: verb, Text: fmt.Sprintf("the word %q is no stage of a rejoin", st.Stage)})
		}
		if rejoinBadness[st.Stage] > rejoinBadness[out.Stage] {
			out.Stage = st.Stage
		}
		evidence = append(evidence, fmt.Sprintf("balancer %d: %s", i+1, st.Evidence))
	}
	out.Evidence = strings.Join(evidence, "; ")
	return out, nil
}

// Close implements [Provider].
func (m *multi) Close() error {
	var errs []error
	for i, s := range m.sides {
		if err := s.Close(); err != nil {
			errs = append(errs, m.at(i, "close", err))
		}
	}
	return errors.Join(errs...)
}
