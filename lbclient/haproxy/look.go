package haproxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// process tells one HAProxy process from the next.
type process struct {
	PID   int   `json:"pid"`
	Start int64 `json:"start"` // Unix seconds
}

// same allows for a start that was computed from the uptime.
func (p process) same(o process) bool {
	d := p.Start - o.Start
	return p.PID == o.PID && -2 <= d && d <= 2
}

func (p process) String() string { return fmt.Sprintf("%d@%d", p.PID, p.Start) }

// instance is one consistent look at one HAProxy process.
type instance struct {
	endpoint endpoint
	process  process
	info     info
	pools    []*pool // in the order asked
}

func (i *instance) pool(name string) *pool {
	for _, p := range i.pools {
		if p.name == name {
			return p
		}
	}
	return nil
}

// glance is the look at one instance, or why there is none.
type glance struct {
	endpoint endpoint
	instance *instance
	err      error
}

// question names the backends to look at in one instance.
type question struct {
	endpoint endpoint
	backends []string
}

// questions are those of the configuration.
func (p *provider) questions() []question {
	var out []question
	for _, e := range p.endpoints {
		out = append(out, question{e, p.cfg.Backends})
	}
	return out
}

// glances looks at all instances at once, so that a silent one costs its timeout
// only once.
func (p *provider) glances(ctx context.Context, asked []question) []glance {
	out := make([]glance, len(asked))
	var wg sync.WaitGroup
	for i, q := range asked {
		wg.Go(func() {
			in, err := p.client.lookAt(ctx, q)
			out[i] = glance{q.endpoint, in, err}
		})
	}
	wg.Wait()
	for _, g := range out {
		if g.err != nil {
			continue
		}
		// A computed start wavers by a second; the first one seen stands.
		if known, ok := p.seen[g.endpoint]; ok && known.same(g.instance.process) {
			g.instance.process = known
		}
		p.seen[g.endpoint] = g.instance.process
	}
	return out
}

// look is glances where every instance must answer, but for those that may be
// unreachable and that nobody answers for at all.
func (p *provider) look(ctx context.Context, asked []question) ([]*instance, error) {
	glances := p.glances(ctx, asked)
	p.away = p.excused(glances)
	var out []*instance
	for _, g := range glances {
		switch {
		case g.err == nil:
			out = append(out, g.instance)
		case !slices.Contains(p.away, g.endpoint):
			return nil, g.err
		}
	}
	return out, nil
}

// excused are the instances that gave no answer and need not: no more than the
// configuration allows, while another answers. One that refuses, or that takes
// the question and says nothing, is there and may be sending work.
func (p *provider) excused(glances []glance) []endpoint {
	var away []endpoint
	answered := false
	for _, g := range glances {
		var gone nobody
		switch {
		case g.err == nil:
			answered = true
		case errors.As(g.err, &gone):
			away = append(away, g.endpoint)
		}
	}
	if !answered || len(away) > p.cfg.AllowUnreachable {
		return nil
	}
	return away
}

// absent says which instances the last look did without.
func (p *provider) absent() []string {
	var out []string
	for _, e := range p.away {
		out = append(out, fmt.Sprintf("nobody answers at %s, which allow_unreachable lets pass", e))
	}
	return out
}

// epoch changes when any instance may have forgotten what it was told.
func epoch(instances []*instance) string {
	var parts []string
	for _, i := range instances {
		parts = append(parts, i.endpoint.text+"="+i.process.String())
	}
	return strings.Join(parts, " ")
}

// lookAt reads the given backends of one instance, all from the same process.
func (c client) lookAt(ctx context.Context, q question) (*instance, error) {
	out := &instance{endpoint: q.endpoint}
	for _, name := range q.backends {
		p, err := c.lookIn(ctx, out, name)
		if err != nil {
			return nil, err
		}
		out.pools = append(out.pools, p)
	}
	if err := c.follow(ctx, out); err != nil {
		return nil, err
	}
	return out, nil
}

// lookIn reads one backend. Where a frontend has the same name, HAProxy tells the
// statistics of that, so they are asked for again by the backend's number.
func (c client) lookIn(ctx context.Context, in *instance, backend string) (*pool, error) {
	p, err := c.lookBy(ctx, in, backend, backend)
	if other := (*namesakeError)(nil); errors.As(err, &other) {
		return c.lookBy(ctx, in, backend, other.number)
	}
	return p, err
}

// lookBy is lookIn with the statistics of the proxy of the given name or number.
// One line of commands asks the process who it is, so that what comes of two
// processes is never mixed.
func (c client) lookBy(ctx context.Context, in *instance, backend, proxy string) (*pool, error) {
	op := fmt.Sprintf("read backend %s at %s", backend, in.endpoint)
	answer, err := c.read(ctx, in.endpoint, op,
		fmt.Sprintf("show info;show servers state %s;show stat %s 4 -1", backend, proxy))
	if err != nil {
		return nil, err
	}
	if words := firstLine(answer); strings.HasPrefix(words, "Permission denied") {
		return nil, refusal(op, words)
	}
	// Answers end with an empty line. The last is the one that may hold others.
	parts := strings.SplitN(answer, "\n\n", 3)
	if len(parts) != 3 || !strings.HasSuffix(answer, "\n\n") {
		return nil, &lbclient.Error{Class: lbclient.ClassTransient, Op: op,
			Text: fmt.Sprintf("the answer, which begins %q, is cut off or not HAProxy's", firstLine(answer))}
	}
	strange := func(err error) error {
		return &lbclient.Error{Class: lbclient.ClassUnsupported, Op: op,
			Text: "the answer is not as HAProxy 2.0 or newer gives it", Err: err}
	}
	seen, err := parseInfo(parts[0])
	if err != nil {
		return nil, strange(err)
	}
	if seen.start == 0 {
		seen.start = time.Now().Unix() - seen.uptime
	}
	now := process{seen.pid, seen.start}
	switch {
	case seen.stopping:
		return nil, &lbclient.Error{Class: lbclient.ClassTransient, Op: op,
			Text: fmt.Sprintf("the process %d that answered is stopping; its successor must be asked", seen.pid)}
	case in.process.PID == 0:
		in.process, in.info = now, seen
	case !in.process.same(now):
		return nil, &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Text: "HAProxy was reloaded while it was being read"}
	}
	for _, words := range parts[1:] {
		if w := firstLine(words); strings.HasPrefix(w, "Can't find backend") || strings.HasPrefix(w, "No such proxy") {
			return nil, &lbclient.Error{Class: lbclient.ClassNotFound, Op: op,
				Text: fmt.Sprintf("there is no backend %s; %s", backend, c.backends(ctx, in.endpoint))}
		} else if strings.HasPrefix(w, "Permission denied") {
			return nil, refusal(op, w)
		}
	}
	states, err := parseState(parts[1])
	if err != nil {
		return nil, strange(err)
	}
	stats, err := parseStat(parts[2])
	if err != nil {
		return nil, strange(err)
	}
	if len(stats) == 0 && len(states) > 0 && proxy == backend {
		return nil, &namesakeError{states[0].backend}
	}
	p, err := join(backend, states, stats)
	if err != nil {
		return nil, &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Err: err}
	}
	return p, nil
}

// namesakeError tells that the statistics by a backend's name are of another proxy.
type namesakeError struct{ number string } // of the backend

func (e *namesakeError) Error() string {
	return "the statistics are of another proxy than backend number " + e.number
}

// join brings the two tables together, by server name.
func join(backend string, states []stateRow, stats []statRow) (*pool, error) {
	byName := make(map[string]statRow, len(stats))
	for _, s := range stats {
		byName[s.server] = s
	}
	p := &pool{name: backend}
	for _, s := range states {
		stat, ok := byName[s.server]
		if !ok {
			return nil, fmt.Errorf("server %s has a state but no statistics", s.server)
		}
		delete(byName, s.server)
		p.servers = append(p.servers, &server{backend: backend, stateRow: s, statRow: stat})
	}
	if len(byName) > 0 {
		return nil, fmt.Errorf("%d servers have statistics but no state", len(byName))
	}
	return p, nil
}

// backends says which ones exist, for people.
func (c client) backends(ctx context.Context, e endpoint) string {
	answer, err := c.read(ctx, e, "list the backends", "show backend")
	if err != nil {
		return "which exist could not be read"
	}
	var names []string
	for line := range strings.Lines(answer) {
		if name := strings.TrimSpace(line); name != "" && name[0] != '#' {
			names = append(names, name)
		}
	}
	return listed("it has", names)
}

// listed names what exists, within reason.
func listed(intro string, names []string) string {
	if len(names) == 0 {
		return intro + " none"
	}
	slices.Sort(names)
	const most = 20
	more := ""
	if len(names) > most {
		more = fmt.Sprintf(" and %d more", len(names)-most)
		names = names[:most]
	}
	return intro + " " + strings.Join(names, ", ") + more
}

// follow resolves tracked servers to the one whose check counts, reading the
// backends of those that were not asked for.
func (c client) follow(ctx context.Context, in *instance) error {
	var extra instance
	extra.endpoint, extra.process = in.endpoint, in.process
	resolve := func(tracked string) (*server, error) {
		backend, name, _ := strings.Cut(tracked, "/")
		p := in.pool(backend)
		if p == nil {
			p = extra.pool(backend)
		}
		if p == nil {
			if !haproxyName.MatchString(backend) {
				return nil, nil
			}
			var err error
			if p, err = c.lookIn(ctx, &extra, backend); err != nil {
				return nil, err
			}
			extra.pools = append(extra.pools, p)
		}
		return p.find(name), nil
	}
	for _, p := range in.pools {
		for _, s := range p.servers {
			// Chains are short; the bound only guards against an endless one.
			next := s.tracked
			for range 16 {
				if next == "" {
					break
				}
				t, err := resolve(next)
				if err != nil {
					return err
				}
				if t == nil {
					return &lbclient.Error{Class: lbclient.ClassTransient,
						Op:   fmt.Sprintf("read %s at %s", s.place(), in.endpoint),
						Text: fmt.Sprintf("it tracks %s, which cannot be found", next)}
				}
				s.follows, next = t, t.tracked
			}
		}
	}
	return nil
}
