package exec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/lockstep-deploy/lockstep/internal/strictjson"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/internal/restore"
)

// provider is the [lbclient.Provider] for one target.
type provider struct{ cfg Config }

func (p *provider) op(verb string) string {
	return fmt.Sprintf("%s %s through %s of balancer %s", verb, p.cfg.Server, p.cfg.Command[0], p.cfg.Name)
}

// noEpoch stands for a program that does not tell.
const noEpoch = "-"

func epoch(l line) string {
	if l.Epoch == "" {
		return noEpoch
	}
	return l.Epoch
}

func busy(op string, a answer) error {
	e := &lbclient.Error{Class: lbclient.ClassBusy, Op: op, Text: fmt.Sprintf("it says not yet (exit code %d)", exitNotYet)}
	if a.said != "" {
		e.Text += ": " + a.said
	}
	return e
}

func unsupported(err error) bool {
	return err != nil && lbclient.ClassOf(err) == lbclient.ClassUnsupported
}

// Preflight implements [lbclient.Provider]. Where the program observes, the
// target must be among the members.
func (p *provider) Preflight(ctx context.Context) error {
	a, err := p.run(ctx, stagePreflight)
	if err != nil && !unsupported(err) {
		return err
	}
	if a.notYet {
		return busy(p.op(string(stagePreflight)), a)
	}
	pool, err := p.Observe(ctx)
	if unsupported(err) {
		return nil
	}
	if err == nil {
		_, err = p.member(pool, "check")
	}
	return err
}

// Observe implements [lbclient.Provider]. ClassUnsupported when the program
// does not observe.
func (p *provider) Observe(ctx context.Context) (lbclient.Pool, error) {
	a, err := p.run(ctx, stageObserve)
	if err != nil {
		return lbclient.Pool{}, err
	}
	if a.notYet {
		return lbclient.Pool{}, busy(p.op(string(stageObserve)), a)
	}
	out := lbclient.Pool{Epoch: epoch(a.line), At: time.Now()}
	for _, m := range a.Members {
		o := lbclient.Member{Name: m.Name, Phase: m.Phase, InFlight: -1, Detail: printable(m.Detail)}
		if m.InFlight != nil {
			o.InFlight = *m.InFlight
		}
		if o.Detail == "" {
			o.Detail = "the program says " + string(m.Phase)
		}
		out.Members = append(out.Members, o)
	}
	return out, nil
}

// member finds the target.
func (p *provider) member(pool lbclient.Pool, verb string) (lbclient.Member, error) {
	var names []string
	for _, m := range pool.Members {
		if m.Name == p.cfg.Server && m.Phase != lbclient.PhaseAbsent {
			return m, nil
		}
		names = append(names, m.Name)
	}
	return lbclient.Member{}, &lbclient.Error{Class: lbclient.ClassNotFound, Op: p.op(verb),
		Text: fmt.Sprintf("the balancer has no member %s; it has %q", p.cfg.Server, names)}
}

func (p *provider) foreign(verb string, m lbclient.Member) error {
	return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: p.op(verb),
		Text: fmt.Sprintf("another hand holds it out: it is %s (%s); put it back, or leave it out of the deploy", m.Phase, m.Detail)}
}

// Snapshot implements [lbclient.Provider]. A drain counts as another hand's too:
// one of ours was journaled, and its Restore is used again.
func (p *provider) Snapshot(ctx context.Context) (lbclient.Restore, error) {
	const verb = "record the state of"
	serving := true
	pool, err := p.Observe(ctx)
	if err != nil && !unsupported(err) {
		return lbclient.Restore{}, err
	}
	if err == nil {
		m, err := p.member(pool, verb)
		if err != nil {
			return lbclient.Restore{}, err
		}
		if m.Phase == lbclient.PhaseForeignOut || m.Phase == lbclient.PhaseDraining {
			return lbclient.Restore{}, p.foreign(verb, m)
		}
		serving = m.Phase == lbclient.PhaseServing
	}
	a, err := p.run(ctx, stageSnapshot)
	if err != nil && !unsupported(err) {
		return lbclient.Restore{}, err
	}
	if a.notYet {
		return lbclient.Restore{}, busy(p.op(string(stageSnapshot)), a)
	}
	if a.WasServing != nil {
		serving = serving && *a.WasServing
	}
	return p.records().Put(p.op(verb), record{Data: a.Data}, serving)
}

// record is what a Restore carries: whatever the program said.
type record struct {
	Data json.RawMessage `json:"data"`
}

func (p *provider) records() restore.Of {
	return restore.Of{Provider: "exec/" + p.cfg.Name, Target: p.cfg.Server}
}

// decode checks that a journaled Restore is of this target.
func (p *provider) decode(verb string, r lbclient.Restore) (record, error) {
	return restore.Take(p.records(), p.op(verb), r, decodeRecord)
}

func decodeRecord(data []byte) (record, error) {
	var rec record
	if err := strictjson.Decode(data, &rec); err != nil {
		return record{}, err
	}
	return rec, nil
}

// with runs the program with what the snapshot said in a file.
func (p *provider) with(ctx context.Context, s stage, rec record, extra ...string) (answer, error) {
	fail := func(err error) (answer, error) {
		return answer{}, &lbclient.Error{Class: lbclient.ClassTransient, Op: p.op(string(s)), Text: "what was recorded cannot be handed over", Err: err}
	}
	f, err := os.CreateTemp("", "lockstep-restore")
	if err != nil {
		return fail(err)
	}
	defer os.Remove(f.Name())
	data := []byte(rec.Data)
	if len(data) == 0 {
		data = []byte("null")
	}
	_, err = f.Write(append(bytes.Clone(data), '\n'))
	if err := errors.Join(err, f.Close()); err != nil {
		return fail(err)
	}
	return p.run(ctx, s, append(extra, "LB_RESTORE_FILE="+f.Name())...)
}

// Caps implements [lbclient.Describer].
func (p *provider) Caps() lbclient.Caps { return p.cfg.Caps }

// Close implements [lbclient.Provider]. No run outlives its question.
func (p *provider) Close() error { return nil }
