package nginx

import (
	"context"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// provider is the [lbclient.Provider] for one target of nginx.
type provider struct {
	cfg  Config
	proc procfs
}

func (p *provider) op(verb string) string {
	return fmt.Sprintf("%s %s in nginx balancer %s", verb, p.cfg.Server, p.cfg.Name)
}

// Caps implements [lbclient.Describer]. nginx counts nothing: a drain is idle
// when processes end, and those hold the requests of all targets.
func (p *provider) Caps() lbclient.Caps {
	return lbclient.Caps{
		Health:   false,
		InFlight: false,
		Disturbs: "each drain and each rejoin reloads nginx, which closes the idle keep-alive connections of all its clients; " +
			"a client that sends a request at that very moment sees its connection reset (from nginx 1.27.4 on, keepalive_min_timeout prevents that), " +
			"and an answer of which nginx has read exactly one buffer is cut off (buffers as its page advises prevent that)",
		Undocumented: "nginx does not say which configuration runs; it is concluded from the births of its worker processes",
	}
}

// Preflight implements [lbclient.Provider]. It also finds a file that nginx does
// not read or that could not be replaced. What a reload costs other clients is
// in Caps.
func (p *provider) Preflight(ctx context.Context) error {
	op := p.op("check")
	ctx, cancel := p.bounded(ctx)
	defer cancel()
	if _, err := p.look(ctx, op); err != nil {
		return err
	}
	f, err := p.read(ctx, op)
	if err != nil {
		return err
	}
	if _, err := p.find(op, f); err != nil {
		return err
	}
	if err := f.changeable(op); err != nil {
		return err
	}
	return p.test(ctx, op, f, lbclient.ClassInvalid)
}

// bounded ends a context after the reload timeout.
func (p *provider) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	d := p.cfg.ReloadTimeout
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("nginx took longer than %s", d))
}

// epoch changes when nginx may have forgotten what it was told, which is to say
// when the file has other text or another master has read it.
func epoch(r *running, f *file) string {
	return fmt.Sprintf("%d@%d %08x", r.master.pid, r.master.born, crc32.ChecksumIEEE([]byte(f.src)))
}

// Observe implements [lbclient.Provider]: every server of the configured
// upstreams, as the file says. A server that is not down counts as serving,
// because nginx does not tell what it finds.
func (p *provider) Observe(ctx context.Context) (lbclient.Pool, error) {
	op := p.op("look at")
	r, err := p.look(ctx, op)
	if err != nil {
		return lbclient.Pool{}, err
	}
	f, err := p.read(ctx, op)
	if err != nil {
		return lbclient.Pool{}, err
	}
	if err := p.whole(op, f); err != nil {
		return lbclient.Pool{}, err
	}
	out := lbclient.Pool{Epoch: epoch(r, f), At: time.Now()}
	index := make(map[string]int)
	for _, b := range f.blocks {
		if !p.concerns(b) {
			continue
		}
		own := b.find(p.cfg.Server)
		for _, s := range b.servers {
			name := s.address()
			if len(own) == 1 && own[0] == s {
				name = p.cfg.Server
			}
			i, known := index[name]
			if !known {
				i = len(out.Members)
				index[name] = i
				out.Members = append(out.Members, lbclient.Member{Name: name, Phase: s.phase(), InFlight: -1})
			}
			m := &out.Members[i]
			m.Phase = lbclient.Worst(m.Phase, s.phase())
			if m.Detail != "" {
				m.Detail += "; "
			}
			m.Detail += s.words(r, f)
		}
	}
	return out, nil
}

func (s *server) phase() lbclient.Phase {
	switch {
	case s.drained():
		return lbclient.PhaseDraining
	case s.down():
		return lbclient.PhaseForeignOut
	}
	return lbclient.PhaseServing
}

// drained tells whether the server is down by our hand.
func (s *server) drained() bool { return s.down() && s.mark.word == markDrained }

// words are nginx's own: the directive, and whether it is in force.
func (s *server) words(r *running, f *file) string {
	w := s.directive()
	if s.upstream != "" {
		w = s.upstream + ": " + w
	}
	if !s.inForce(r, f) {
		w += " (not yet read by nginx)"
	}
	return w
}

// inForce tells whether nginx runs with the line as it stands in the file.
func (s *server) inForce(r *running, f *file) bool {
	if s.drained() || !s.down() && s.mark.word == markRejoining {
		return r.tookUp(s.mark.at)
	}
	return r.tookUpFile(f.info.ModTime())
}

// Snapshot implements [lbclient.Provider]. A line marked down counts as another
// hand's even with our mark: a drain of ours was journaled, and its Restore is
// used again.
func (p *provider) Snapshot(ctx context.Context) (lbclient.Restore, error) {
	op := p.op("record how the balancer holds")
	_, f, servers, err := p.stands(ctx, op)
	if err != nil {
		return lbclient.Restore{}, err
	}
	rec := record{File: p.cfg.File}
	for _, s := range servers {
		if s.down() {
			return lbclient.Restore{}, f.foreign(op, s)
		}
		rec.Lines = append(rec.Lines, lineRecord{Upstream: s.upstream, Address: s.address(), Text: s.unmarked()})
	}
	return p.records().Put(op, rec, true)
}

// foreign refuses a server that another hand holds out.
func (f *file) foreign(op string, s *server) error {
	return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: op,
		Text: fmt.Sprintf(`another hand holds it out: line %d of %s is %q; take "down" off and reload nginx, or leave it out of the deploy`,
			s.line, f.path, strings.TrimSpace(s.text))}
}

// Close implements [lbclient.Provider]. Nothing is kept open between calls.
func (p *provider) Close() error { return nil }
