package gate

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-deploy/lockstep/internal/strictjson"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/internal/restore"
)

// Config says which gate a provider closes and opens.
type Config struct {
	// Name is the balancer's name in fleet.yaml, used in messages and to tell a
	// [lbclient.Restore] of this balancer from others.
	Name string
	// Server is the target's name among the members.
	Server string
	// File is the gate's state file, on this node.
	File string
	// Gate shows the gate: the [*Gate] itself, or [Remote].
	Gate Viewer
	// Peers are the gates of the other members by name, to count who serves.
	Peers map[string]Viewer
	// CapacityElsewhere says that somebody else sees to it that enough others
	// serve, such as the balancer beside the gate in a [lbclient.Multi]. Peers are
	// not counted then.
	CapacityElsewhere bool
}

// provider is the [lbclient.Provider] for one target's gate.
type provider struct{ cfg Config }

// New returns the provider. It looks at nothing: Preflight does. Its errors are
// of class [lbclient.ClassInvalid].
func New(c Config) (lbclient.Provider, error) {
	p := &provider{cfg: c}
	fail := func(text string, args ...any) (lbclient.Provider, error) {
		return nil, &lbclient.Error{Class: lbclient.ClassInvalid, Op: p.op("use"), Text: fmt.Sprintf(text, args...)}
	}
	switch {
	case c.Name == "":
		return fail("the balancer has no name")
	case c.Server == "":
		return fail("the target has no name")
	case !filepath.IsAbs(c.File):
		return fail("state file %q: want an absolute path", c.File)
	case c.Gate == nil:
		return fail("it is not said where the gate can be looked at")
	}
	if _, itself := c.Peers[c.Server]; itself {
		return fail("the target is named among its own peers")
	}
	for name, v := range c.Peers {
		if name == "" || v == nil {
			return fail("peer %q has no name or no gate", name)
		}
	}
	p.cfg.Peers = maps.Clone(c.Peers)
	return p, nil
}

func (p *provider) op(verb string) string {
	return fmt.Sprintf("%s the gate of %s of balancer %s", verb, p.cfg.Server, p.cfg.Name)
}

// look takes a fresh look at the target's own gate.
func (p *provider) look(ctx context.Context, op string) (Status, error) {
	st, err := p.cfg.Gate.Status(ctx)
	if err != nil {
		return Status{}, &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Err: err}
	}
	if st.Server != p.cfg.Server {
		return Status{}, &lbclient.Error{Class: lbclient.ClassNotFound, Op: op, Text: fmt.Sprintf("that gate is of target %s", st.Server)}
	}
	if st.File != p.cfg.File {
		return Status{}, &lbclient.Error{Class: lbclient.ClassInvalid, Op: op,
			Text: fmt.Sprintf("the gate reads its state from %s, and this provider writes it to %s", st.File, p.cfg.File)}
	}
	return st, nil
}

// Preflight implements [lbclient.Provider]. ClassNotFound when nobody polls.
func (p *provider) Preflight(ctx context.Context) error {
	op := p.op("check")
	st, err := p.look(ctx, op)
	if err != nil {
		return err
	}
	if dir := filepath.Dir(p.cfg.File); unix.Access(dir, unix.W_OK|unix.X_OK) != nil {
		return &lbclient.Error{Class: lbclient.ClassDenied, Op: op, Text: fmt.Sprintf("the state file's directory %s cannot be written to; create it and give it to the agent's user", dir)}
	}
	if st.Unreadable != "" {
		return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: op,
			Text: st.Unreadable + "; the gate is closed for that reason, remove the file if the target is meant to serve"}
	}
	if st.polled() {
		return nil
	}
	e := &lbclient.Error{Class: lbclient.ClassNotFound, Op: op,
		Text: "no balancer polls it; let the balancer's check of this member be an HTTP check of the gate's port and path, and its firewall let it"}
	if wait := silence(st.Check) - st.At.Sub(st.Started); wait > 0 {
		e.Class = lbclient.ClassTransient
		e.Text = fmt.Sprintf("no balancer has polled it yet; it has only just started, look again in %s", round(wait))
	}
	return e
}

// polled tells whether anybody polls the gate.
func (s Status) polled() bool {
	return slices.ContainsFunc(s.Pollers, func(p Poller) bool { return s.At.Sub(p.Last) <= silence(s.Check) })
}

// Observe implements [lbclient.Provider]: the target and its peers. A peer whose
// gate does not answer is unknown.
func (p *provider) Observe(ctx context.Context) (lbclient.Pool, error) {
	st, err := p.look(ctx, p.op("look at"))
	if err != nil {
		return lbclient.Pool{}, err
	}
	out := lbclient.Pool{Epoch: st.Epoch, At: time.Now()}
	out.Members = append(p.peers(ctx), lbclient.Member{Name: p.cfg.Server, Phase: st.Phase(), InFlight: -1, Detail: st.words()})
	slices.SortFunc(out.Members, func(a, b lbclient.Member) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out, nil
}

// peerTimeout bounds a look at a peer: a node that has gone silently must not
// use up the time of the look at all.
const peerTimeout = 2 * time.Second

func (p *provider) peers(ctx context.Context) []lbclient.Member {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	out := make([]lbclient.Member, len(p.cfg.Peers))
	var wg sync.WaitGroup
	for i, name := range slices.Collect(maps.Keys(p.cfg.Peers)) {
		wg.Go(func() { out[i] = peer(ctx, name, p.cfg.Peers[name]) })
	}
	wg.Wait()
	return out
}

func peer(ctx context.Context, name string, v Viewer) lbclient.Member {
	m := lbclient.Member{Name: name, Phase: lbclient.PhaseUnknown, InFlight: -1}
	switch st, err := v.Status(ctx); {
	case err != nil:
		m.Detail = err.Error()
	case st.Server != name:
		m.Detail = fmt.Sprintf("that gate is of target %s", st.Server)
	default:
		m.Phase, m.Detail = st.Phase(), st.words()
	}
	return m
}

// Snapshot implements [lbclient.Provider]. A drain counts as another hand's too:
// one of ours was journaled, and its Restore is used again.
func (p *provider) Snapshot(ctx context.Context) (lbclient.Restore, error) {
	op := p.op("record")
	st, err := p.look(ctx, op)
	if err != nil {
		return lbclient.Restore{}, err
	}
	if st.Held || st.Drained || st.Unreadable != "" {
		return lbclient.Restore{}, p.foreign(op, st)
	}
	return p.records().Put(op, record{File: p.cfg.File}, st.Phase() == lbclient.PhaseServing)
}

func (p *provider) foreign(op string, st Status) error {
	return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: op,
		Text: "it is out already: " + st.words() + "; put it back, or leave it out of the deploy"}
}

// record is what a Restore carries. An open gate has nothing else to restore.
type record struct {
	File string `json:"file"`
}

func (p *provider) records() restore.Of {
	return restore.Of{Provider: "gate/" + p.cfg.Name, Target: p.cfg.Server}
}

// decode checks that a journaled Restore is of this gate.
func (p *provider) decode(ctx context.Context, op string, r lbclient.Restore) error {
	_, err := restore.Take(p.records(), op, r, func(data []byte) (record, error) {
		rec, err := decodeRecord(data)
		if err == nil && rec.File != p.cfg.File {
			err = fmt.Errorf("it is of the state file %s, and %s is configured now", rec.File, p.cfg.File)
		}
		return rec, err
	})
	if err == nil && ctx.Err() != nil {
		err = &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Err: ctx.Err()}
	}
	return err
}

func decodeRecord(data []byte) (record, error) {
	var rec record
	if err := strictjson.Decode(data, &rec); err != nil {
		return record{}, err
	}
	return rec, nil
}

// Caps implements [lbclient.Describer].
func (p *provider) Caps() lbclient.Caps {
	return lbclient.Caps{Undocumented: "that the balancer took the target out or in is concluded from its polls, not read from it"}
}

// Timing implements [lbclient.Timed] with what the gate was told.
func (p *provider) Timing(ctx context.Context) (lbclient.Timing, error) {
	st, err := p.look(ctx, p.op("read the timing at"))
	return st.Check, err
}

// Close implements [lbclient.Provider]. Nothing outlives a look.
func (p *provider) Close() error { return nil }
