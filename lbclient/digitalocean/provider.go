package digitalocean

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/digitalocean/godo"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// provider is the [lbclient.Provider] for one droplet. What it remembers are
// times since when something holds. A new process knows none of them and waits
// anew, which makes a wait longer and never shorter.
type provider struct {
	cfg    Config
	http   *http.Client
	api    *godo.Client
	health HealthSource
	second time.Duration
	names  map[int]string // of droplets
	id     int            // of the target, once it was looked up

	drain  drainClock
	rejoin rejoinClock
}

var (
	_ lbclient.Describer = (*provider)(nil)
	_ lbclient.Timed     = (*provider)(nil)
)

// op names an operation, for messages.
func (p *provider) op(verb string) string {
	return fmt.Sprintf("%s %s in DigitalOcean balancer %s", verb, p.cfg.Target, p.cfg.Name)
}

// Caps implements [lbclient.Describer].
func (p *provider) Caps() lbclient.Caps {
	c := lbclient.Caps{Undocumented: "how soon the balancer acts on its check, beyond interval and threshold, and what it does with connections to a droplet that fails it"}
	if p.cfg.Mode == ModeRemove {
		c.Undocumented = "what becomes of connections to a droplet that is removed, and how long new ones may still arrive"
	}
	return c
}

// Timing implements [lbclient.Timed].
func (p *provider) Timing(ctx context.Context) (lbclient.Timing, error) {
	op := p.op("read the health check of")
	b, err := p.look(ctx, op)
	if err != nil {
		return lbclient.Timing{}, err
	}
	t, err := b.timing(p.second)
	if err != nil {
		return lbclient.Timing{}, &lbclient.Error{Class: lbclient.ClassUnsupported, Op: op, Err: err}
	}
	return t, nil
}

// droplet is the target's droplet id, as configured or by its name.
func (p *provider) droplet(ctx context.Context, op string) (int, error) {
	if id := p.cfg.Droplets[p.cfg.Target]; id != 0 {
		return id, nil
	}
	if p.id != 0 {
		return p.id, nil
	}
	found, resp, err := p.api.Droplets.ListByName(ctx, p.cfg.Target, &godo.ListOptions{PerPage: 200})
	if err != nil {
		return 0, failed(op, http.MethodGet, resp, err)
	}
	var ids []int
	for _, d := range found {
		// Names are compared without regard to case by DigitalOcean.
		if strings.EqualFold(d.Name, p.cfg.Target) && d.ID > 0 {
			ids = append(ids, d.ID)
		}
	}
	switch len(ids) {
	case 0:
		return 0, &lbclient.Error{Class: lbclient.ClassNotFound, Op: op,
			Text: fmt.Sprintf("the account has no droplet named %s; give the droplet's id", p.cfg.Target)}
	case 1:
		p.id = ids[0]
		p.names[p.id] = p.cfg.Target
		return p.id, nil
	}
	return 0, &lbclient.Error{Class: lbclient.ClassInvalid, Op: op,
		Text: fmt.Sprintf("%d droplets are named %s (%s); give the droplet's id", len(ids), p.cfg.Target, strings.Trim(fmt.Sprint(ids), "[]"))}
}

func (p *provider) name(droplet int) string {
	if n := p.names[droplet]; n != "" {
		return n
	}
	return fmt.Sprintf("droplet %d", droplet)
}

// member looks at the balancer and makes sure that the target is its member.
func (p *provider) member(ctx context.Context, op string) (*balancer, int, error) {
	id, err := p.droplet(ctx, op)
	if err != nil {
		return nil, 0, err
	}
	b, err := p.look(ctx, op)
	if err != nil {
		return nil, 0, err
	}
	if err := b.suits(op, p.cfg.Mode); err != nil {
		return nil, 0, err
	}
	if !b.has(id) {
		return nil, 0, p.noMember(op, b, id)
	}
	return b, id, nil
}

func (p *provider) noMember(op string, b *balancer, id int) error {
	var names []string
	for _, m := range b.members {
		names = append(names, p.name(m))
	}
	has := "it has no droplets"
	if len(names) > 0 {
		has = "it has " + strings.Join(names, ", ")
	}
	if b.tag != "" {
		has += fmt.Sprintf(", chosen by the tag %s", b.tag)
	}
	return &lbclient.Error{Class: lbclient.ClassNotFound, Op: op,
		Text: fmt.Sprintf("droplet %d is no member of load balancer %s; %s", id, b.id, has)}
}

// Preflight implements [lbclient.Provider]. It also finds checks that miss the
// gate, tokens that may not change the balancer, and members whose health
// cannot be seen.
func (p *provider) Preflight(ctx context.Context) error {
	op := p.op("check")
	b, id, err := p.member(ctx, op)
	if err != nil {
		return err
	}
	e := &lbclient.Error{Class: lbclient.ClassUnsupported, Op: op}
	c := b.check
	switch {
	case b.status == "new":
		e.Class, e.Text = lbclient.ClassBusy, "DigitalOcean is still building the load balancer"
		return e
	case b.status != "active":
		e.Class, e.Text = lbclient.ClassUnsafe, fmt.Sprintf("the load balancer's status is %q, want active; see DigitalOcean's control panel", b.status)
		return e
	case p.cfg.Mode == ModeGate && (p.cfg.GatePort != 0 && p.cfg.GatePort != c.Port || p.cfg.GatePath != "" && p.cfg.GatePath != c.Path):
		e.Class = lbclient.ClassInvalid
		e.Text = fmt.Sprintf("the health gate is at port %d and path %q, but the balancer checks port %d and path %q; set its health check to the gate",
			p.cfg.GatePort, p.cfg.GatePath, c.Port, c.Path)
		return e
	}
	if p.cfg.Mode == ModeRemove {
		if err := p.mayChange(ctx, op); err != nil {
			return err
		}
	}
	if v, detail := p.verdict(ctx, b, id); v == VerdictUnknown {
		e.Text = fmt.Sprintf("how its check (%s) goes cannot be seen: %s; DigitalOcean does not tell, "+
			"so allow looks from here, or run the balancer through the agent", p.checkOf(b), detail)
		return e
	}
	return nil
}

// mayChange asks to add droplets and names none (the client then leaves out even
// the list, which is not allowed), so that whatever the answer is nothing
// changes. A token that may not change anything is refused as such.
func (p *provider) mayChange(ctx context.Context, op string) error {
	resp, err := p.api.LoadBalancers.AddDroplets(ctx, p.cfg.LoadBalancer)
	if err == nil {
		return nil
	}
	e := failed(op, http.MethodPost, resp, err)
	switch {
	case e.Class == lbclient.ClassDenied, e.Class == lbclient.ClassRateLimited, resp == nil:
		return e
	}
	return nil
}

func (p *provider) checkOf(b *balancer) Check {
	return Check{Protocol: b.check.Protocol, Port: b.check.Port, Path: b.check.Path,
		Timeout: time.Duration(b.check.ResponseTimeoutSeconds) * p.second}
}

// verdict asks how one member's check goes.
func (p *provider) verdict(ctx context.Context, b *balancer, id int) (Verdict, string) {
	c := p.checkOf(b)
	switch c.Protocol {
	case "http", "https", "tcp":
	default:
		return VerdictUnknown, fmt.Sprintf("the balancer checks in a way that is not known: %q", tidy(c.Protocol))
	}
	if c.Timeout <= 0 || c.Port < 1 || c.Port > 65535 {
		return VerdictUnknown, "the balancer does not say what it checks"
	}
	return p.health.Health(ctx, id, c)
}

// members asks how the checks of all members go, all at once.
func (p *provider) members(ctx context.Context, b *balancer) []lbclient.Member {
	out := make([]lbclient.Member, len(b.members))
	var wg sync.WaitGroup
	for i, id := range b.members {
		wg.Go(func() {
			v, detail := p.verdict(ctx, b, id)
			out[i] = lbclient.Member{
				Name: p.name(id), Phase: phase(b, v), InFlight: -1,
				Detail: fmt.Sprintf("droplet %d is a member; its check (%s), looked at by us: %s", id, p.checkOf(b), detail),
			}
		})
	}
	wg.Wait()
	return out
}

// phase is how a member stands. The verdict is ours, for DigitalOcean has none.
func phase(b *balancer, v Verdict) lbclient.Phase {
	switch {
	case b.status == "new":
		return lbclient.PhasePending
	case b.status != "active":
		return lbclient.PhaseUnknown
	}
	switch v {
	case VerdictPasses:
		return lbclient.PhaseServing
	case VerdictFails:
		return lbclient.PhaseUnhealthy
	}
	return lbclient.PhaseUnknown
}

// Observe implements [lbclient.Provider]. The target is draining while this
// provider holds it out, and absent when another hand or an earlier process has
// removed it; the provider of another target does not list it then.
func (p *provider) Observe(ctx context.Context) (lbclient.Pool, error) {
	op := p.op("look at the members beside")
	b, err := p.look(ctx, op)
	if err != nil {
		return lbclient.Pool{}, err
	}
	// Where the target does not exist its pool still does. That it does is to be
	// known first, for members are called by the names that were looked up.
	id, err := p.droplet(ctx, op)
	if err != nil && lbclient.ClassOf(err) != lbclient.ClassNotFound {
		return lbclient.Pool{}, err
	}
	out := lbclient.Pool{Epoch: b.epoch(), At: time.Now()}
	out.Members = p.members(ctx, b)
	if err := ctx.Err(); err != nil {
		return lbclient.Pool{}, &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Err: err}
	}
	if id == 0 {
		id = p.drain.droplet
	}
	i := slices.Index(b.members, id)
	switch {
	case id == 0:
	case i >= 0:
		if p.drain.held && p.cfg.Mode == ModeGate {
			out.Members[i].Phase = lbclient.PhaseDraining
		}
	case p.drain.held && p.cfg.Mode == ModeRemove:
		out.Members = append(out.Members, lbclient.Member{Name: p.cfg.Target, Phase: lbclient.PhaseDraining, InFlight: -1,
			Detail: fmt.Sprintf("droplet %d was removed by us and is no member until it is put back", id)})
	default:
		out.Members = append(out.Members, lbclient.Member{Name: p.cfg.Target, Phase: lbclient.PhaseAbsent, InFlight: -1,
			Detail: fmt.Sprintf("droplet %d is no member", id)})
	}
	return out, nil
}

// Snapshot implements [lbclient.Provider]. DigitalOcean knows no maintenance
// and no weights: a droplet is a member or it is not.
func (p *provider) Snapshot(ctx context.Context) (lbclient.Restore, error) {
	op := p.op("record the place of")
	b, id, err := p.member(ctx, op)
	if err != nil {
		return lbclient.Restore{}, err
	}
	v, _ := p.verdict(ctx, b, id)
	if err := ctx.Err(); err != nil {
		return lbclient.Restore{}, &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Err: err}
	}
	// A look that could not be taken says nothing against it: it counts as
	// serving, so that its leaving is counted too.
	return p.records().Put(op, record{LoadBalancer: b.id, Droplet: id, Mode: p.cfg.Mode}, v != VerdictFails)
}

// Close implements [lbclient.Provider].
func (p *provider) Close() error {
	p.http.CloseIdleConnections()
	return nil
}
