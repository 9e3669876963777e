package survey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/config"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// lookTimeout bounds all looks at the world outside; who asks waits longer.
const lookTimeout = api.LongPoll

// The areas of checks.
const (
	areaConfiguration = "configuration"
	areaSecrets       = "secrets"
	areaRepository    = "repository"
	areaNode          = "node"
	areaBuild         = "build"
	areaBalancer      = "balancer"
	areaCapacity      = "capacity"
	areaTimeouts      = "timeouts"
	areaBuilds        = "builds"
	areaUnit          = "unit"
)

// checks collects what is found about one area.
type checks struct {
	area string
	list []api.DoctorCheck
}

func (c *checks) add(result api.CheckResult, subject, format string, args ...any) {
	c.list = append(c.list, api.DoctorCheck{Area: c.area, Subject: subject, Result: result, Text: fmt.Sprintf(format, args...)})
}

// Doctor looks at everything that a deploy would need.
func (s *Survey) Doctor(ctx context.Context) api.Doctor {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var wg sync.WaitGroup
	looks := []func(context.Context) []api.DoctorCheck{s.configuration, s.repositories, s.nodes, s.builds, s.units, s.balancers}
	parts := make([][]api.DoctorCheck, len(looks))
	for i, look := range looks {
		wg.Go(func() { parts[i] = look(ctx) })
	}
	wg.Wait()
	d := api.Doctor{At: time.Now().UTC(), Version: s.cfg.Version, Checks: []api.DoctorCheck{}}
	for _, p := range parts {
		d.Checks = append(d.Checks, p...)
	}
	return d
}

// configuration reads the fleet file as a restarted coordinator would.
func (s *Survey) configuration(context.Context) []api.DoctorCheck {
	c := checks{area: areaConfiguration}
	fleet, err := s.cfg.Reload()
	if err != nil {
		var problems config.Problems
		if !errors.As(err, &problems) {
			c.add(api.CheckProblem, "fleet.yaml", "the coordinator could not start again: %v", err)
			return c.list
		}
		for _, p := range problems {
			c.add(api.CheckProblem, where(p), "the coordinator could not start again: %s", p.Text)
		}
		return c.list
	}
	for _, w := range fleet.Warnings {
		c.add(api.CheckWarning, where(w), "%s", w.Text)
	}
	switch {
	case !bytes.Equal(fleet.Defaults(), s.cfg.Fleet.Defaults()):
		c.add(api.CheckWarning, "fleet.yaml", "it was changed after the coordinator started; restart deploy-coordinator to use it")
	case len(fleet.Warnings) == 0:
		c.add(api.CheckOK, "fleet.yaml", "%s, %s", count(len(fleet.Apps), "app"), count(len(fleet.Nodes), "node"))
	}
	for _, b := range s.cfg.Fleet.Balancers {
		if fleet.Balancer(b.Name) != nil {
			continue
		}
		for _, p := range s.places(b) {
			state, _ := s.cfg.Engine.View(p.app)
			if t := state.Target(p.target); t != nil && t.Turn != 0 {
				c.add(api.CheckProblem, "fleet.yaml", "balancer %s is gone from it, and %s has its turn to be out of rotation there; put it back until the turn is over, for the coordinator does not start without it", b.Name, p.target)
			}
		}
	}
	secrets := checks{area: areaSecrets}
	if stale := changedSecrets(s.cfg.Fleet, fleet); len(stale) > 0 {
		secrets.add(api.CheckWarning, strings.Join(stale, ", "), "changed after the coordinator started; restart deploy-coordinator to use it")
	} else {
		secrets.add(api.CheckOK, "fleet.yaml", "every token and secret that it names is there")
	}
	return append(c.list, secrets.list...)
}

// where is the place of a problem in the fleet file.
func where(p config.Problem) string {
	at := fmt.Sprintf("%s:%d", p.File, p.Line)
	if p.Path != "" {
		at += " " + p.Path
	}
	return at
}

// changedSecrets names those that are not what the coordinator runs with.
func changedSecrets(running, now *config.Fleet) []string {
	var names []string
	compare := func(name string, a, b []config.Secret) {
		same := len(a) == len(b)
		for i := 0; same && i < len(a); i++ {
			same = bytes.Equal(a[i].Bytes(), b[i].Bytes())
		}
		if !same {
			names = append(names, name)
		}
	}
	compare("coordinator.admin_tokens", running.Coordinator.AdminTokens, now.Coordinator.AdminTokens)
	compare("github.webhook_secrets", running.GitHub.WebhookSecrets, now.GitHub.WebhookSecrets)
	for _, n := range running.Nodes {
		if o := now.Node(n.Name); o != nil {
			compare("nodes."+n.Name+".token", []config.Secret{n.Token}, []config.Secret{o.Token})
		}
	}
	return names
}

// nodes looks at when each agent was heard of, and which version it is.
func (s *Survey) nodes(context.Context) []api.DoctorCheck {
	c := checks{area: areaNode}
	for _, n := range s.cfg.Fleet.Nodes {
		contact := s.cfg.Engine.Contact(n.Name)
		silent := time.Since(contact.Seen)
		switch {
		case len(s.cfg.Fleet.AppsOn(n.Name)) == 0:
			c.add(api.CheckWarning, n.Name, "no app runs on it; add it to the nodes of an app, or remove it")
		case contact.Seen.IsZero():
			c.add(api.CheckProblem, n.Name, "its agent was not heard of since the coordinator started; is deploy-agent running there, and can it reach the coordinator?")
		case silent >= s.cfg.Fleet.Coordinator.NodeTimeout:
			c.add(api.CheckProblem, n.Name, "its agent was not heard of for %s; is deploy-agent running there, and can it reach the coordinator?", silent.Truncate(time.Second))
		case contact.Version != s.cfg.Version:
			c.add(api.CheckWarning, n.Name, "deploy-agent is %s, the coordinator %s; install the same version", orNone(contact.Version), orNone(s.cfg.Version))
		default:
			c.add(api.CheckOK, n.Name, "deploy-agent %s was just heard of", orNone(contact.Version))
		}
		for _, a := range s.cfg.Fleet.AppsOn(n.Name) {
			for _, text := range contact.Left(a.Name, n.Name) {
				c.add(api.CheckWarning, n.Name, "%s", text)
			}
		}
	}
	return append(c.list, s.sandboxes()...)
}

// sandboxes looks at how builds are held in on each node that was heard of.
func (s *Survey) sandboxes() []api.DoctorCheck {
	c := checks{area: areaBuild}
	for _, n := range s.cfg.Fleet.Nodes {
		b := s.cfg.Engine.Contact(n.Name).Sandbox
		if b == nil {
			continue
		}
		loose := ""
		if len(b.Unenforced) > 0 {
			loose = "; what does not hold there: " + strings.Join(b.Unenforced, ", ")
		}
		switch {
		case b.Problem != "":
			c.add(api.CheckProblem, n.Name, "no build can run: %s", b.Problem)
		case b.With != "systemd":
			c.add(api.CheckWarning, n.Name, "builds run as %s in a process group only%s; %s", b.User, loose, b.Why)
		case loose != "":
			c.add(api.CheckWarning, n.Name, "builds run as %s in units of systemd%s", b.User, loose)
		default:
			c.add(api.CheckOK, n.Name, "builds run as %s in units of systemd, and every limit holds", b.User)
		}
	}
	return c.list
}

// builds compares what the nodes have built of the current releases.
func (s *Survey) builds(context.Context) []api.DoctorCheck {
	c := checks{area: areaBuilds}
	for _, a := range s.cfg.Fleet.Apps {
		state, ok := s.cfg.Engine.View(a.Name)
		if !ok {
			continue
		}
		current := rollout.ReleaseID("")
		if app := state.App(a.Name); app != nil {
			current = app.Current
		}
		if text := state.BuildSkew(a.Name, current); text != "" {
			c.add(api.CheckWarning, a.Name, "its nodes hold different builds of the current release: %s; write build_on: first, or make the build repeatable", text)
		}
		for _, n := range a.Nodes {
			for _, r := range s.cfg.Engine.Contact(n).Apps {
				if r.App != a.Name {
					continue
				}
				for _, id := range slices.Sorted(maps.Keys(r.Edited)) {
					c.add(api.CheckWarning, a.Name+" on "+n, "release %s was edited after it was built: %s is not what it was; put it back, or deploy another release and remove its directory", id, r.Edited[id])
				}
			}
		}
	}
	return c.list
}

func orNone(version string) string {
	if version == "" {
		return "of no version"
	}
	return version
}

// balancers does the preflight of every target, and counts what serves.
func (s *Survey) balancers(ctx context.Context) []api.DoctorCheck {
	each := make([][]api.DoctorCheck, len(s.cfg.Fleet.Balancers))
	var wg sync.WaitGroup
	for i, b := range s.cfg.Fleet.Balancers {
		wg.Go(func() {
			places := s.places(b)
			if len(places) == 0 {
				return // the configuration's warning
			}
			c := checks{area: areaBalancer}
			timing := s.preflight(ctx, &c, b, places)
			notes := s.notes(b, places)
			if answers := len(c.list) > 0 && c.list[len(c.list)-1].Result == api.CheckOK; answers {
				notes = append(notes, credentials[b.Type]...)
			}
			for _, n := range notes {
				c.add(api.CheckNote, b.Name, "%s", n)
			}
			each[i] = append(c.list, s.capacity(s.balancer(ctx, b))...)
			if timing != nil {
				each[i] = append(each[i], timeouts(b, *timing)...)
			}
		})
	}
	wg.Wait()
	var all []api.DoctorCheck
	for _, list := range each {
		all = append(all, list...)
	}
	return all
}

// credentials says, by type, what the API does not tell of a token before a
// change is made with it.
var credentials = map[string][]string{
	"hetzner":      {"its token can read it; whether it may also change it Hetzner tells only at a change: it must be a Read & Write token of the balancer's project"},
	"digitalocean": {"its token can read it; whether it may also change it DigitalOcean tells only at a change: it needs the scopes load_balancer:read, load_balancer:update, and droplet:read"},
}

// Notes says what is good to know of a deploy behind the app's balancer: what its
// changes cost others, and what nobody documents of it.
func (s *Survey) Notes(app string) []string {
	a := s.cfg.Fleet.App(app)
	if a == nil || a.Balancer == nil {
		return nil
	}
	return s.notes(a.Balancer, s.places(a.Balancer))
}

func (s *Survey) notes(b *config.Balancer, places []place) []string {
	var caps lbclient.Caps
	if b.Via == config.ViaCoordinator && len(places) > 0 {
		caps = s.cfg.Broker.Caps(b.Name, places[0].server)
	}
	// A gate beside the coordinator's balancer is known to the agents.
	for _, p := range places {
		if r := s.report(p); r != nil && r.Caps != nil && caps == (lbclient.Caps{}) {
			caps = lbclient.Caps(*r.Caps)
		}
	}
	var notes []string
	if caps.Disturbs != "" {
		notes = append(notes, "what a turn costs: "+caps.Disturbs)
	}
	if caps.Undocumented != "" {
		notes = append(notes, "what nobody documents: "+caps.Undocumented)
	}
	return notes
}

// preflight says for each target whether it could be drained, and returns how
// the balancer checks its members, where it tells.
func (s *Survey) preflight(ctx context.Context, c *checks, b *config.Balancer, places []place) (timing *api.BalancerTiming) {
	done := map[string]bool{} // targets of several apps may be one server
	said := map[string]bool{} // an agent tells the same of all its instances
	fine := 0
	for _, p := range places {
		if done[p.server] {
			continue
		}
		done[p.server] = true
		subject := fmt.Sprintf("%s at %s", p.server, b.Name)
		if b.Via == config.ViaCoordinator {
			checked, err := s.cfg.Broker.Preflight(ctx, b.Name, p.server)
			if err != nil {
				c.add(resultOf(lbclient.ClassOf(err)), subject, "%v", err)
				continue
			}
			if t := checked.Timing; t != nil {
				timing = &api.BalancerTiming{DownWithin: api.Duration(t.DownWithin()), UpWithin: api.Duration(t.UpWithin())}
			}
			if b.Gate == nil {
				fine++
				continue
			}
		}
		r := s.report(p)
		switch {
		case r == nil || r.Checked.IsZero():
			if text := p.node + " not checked"; !said[text] {
				said[text] = true
				c.add(api.CheckUnknown, subject, "the agent of %s has not checked it yet", p.node)
			}
			continue
		case r.Refused != nil:
			text := p.node + r.Refused.Text
			if said[text] {
				continue
			}
			said[text] = true
			c.add(resultOf(lbclient.Class(r.Refused.Class)), subject, "%s (as %s found %s ago)", r.Refused.Text, p.node, max(time.Since(r.Checked), 0).Truncate(time.Second))
			continue
		}
		if r.Timing != nil {
			timing = r.Timing
		}
		fine++
	}
	if fine == len(done) {
		c.add(api.CheckOK, b.Name, "it answers, and %s can be drained there", count(fine, "target"))
	}
	return timing
}

// resultOf tells what could not be looked at from what would stop a drain.
func resultOf(c lbclient.Class) api.CheckResult {
	if c == lbclient.ClassBusy || c == lbclient.ClassRateLimited {
		return api.CheckUnknown
	}
	return api.CheckProblem
}

// capacity tells whether a target could be spared.
func (s *Survey) capacity(b api.BalancerStatus) []api.DoctorCheck {
	c := checks{area: areaCapacity}
	where := ""
	if x := s.cfg.Fleet.Balancer(b.Name); x != nil {
		where = at(x)
	}
	var serving, turns []string
	for _, m := range b.Members {
		if m.Phase == string(lbclient.PhaseServing) {
			serving = append(serving, m.Name)
		}
		if m.Turn {
			turns = append(turns, m.Name)
		}
	}
	switch n := len(serving); {
	case b.Seen == nil:
		c.add(api.CheckUnknown, b.Name, "how many serve is not known: %s", b.Problem)
	case n == 0:
		c.add(api.CheckProblem, b.Name, "nothing serves behind it")
	case n-1 < b.MinHealthy && len(turns) > 0:
		c.add(api.CheckOK, b.Name, "%d serve while %s has its turn", n, strings.Join(turns, ", "))
	case n == 1 && b.MinHealthy > 0:
		c.add(api.CheckProblem, b.Name, "%s is the only one that serves, so it is not drained (min_healthy: %d%s); `deployctl balancers %s` shows why the others do not", serving[0], b.MinHealthy, where, b.Name)
	case n == 1:
		c.add(api.CheckWarning, b.Name, "%s is the only one that serves: whenever it is drained, nothing does", serving[0])
	case n-1 < b.MinHealthy:
		c.add(api.CheckProblem, b.Name, "%d serve and min_healthy is %d%s, so none of them is drained; `deployctl balancers %s` shows why others do not serve", n, b.MinHealthy, where, b.Name)
	default:
		c.add(api.CheckOK, b.Name, "%d serve, one may leave, %s must stay", n, count(b.MinHealthy, "other"))
	}
	return c.list
}

// timeouts holds the balancer's own health check against what waits for it.
func timeouts(b *config.Balancer, t api.BalancerTiming) []api.DoctorCheck {
	c := checks{area: areaTimeouts}
	if up := t.UpWithin.D(); up >= b.RejoinTimeout {
		c.add(api.CheckProblem, b.Name, "it may take %s to call a healthy target healthy, and rejoin_timeout is %s; check more often there, or write rejoin_timeout: %s%s",
			up, b.RejoinTimeout, (2 * up).Round(time.Second), at(b))
	}
	if down := t.DownWithin.D(); down >= b.DrainTimeout {
		c.add(api.CheckWarning, b.Name, "it may take %s to notice that a target fails its check, and drain_timeout is %s; where a drain shows by the check, it is given up before; check more often there, or write drain_timeout: %s%s",
			down, b.DrainTimeout, (2 * down).Round(time.Second), at(b))
	}
	if len(c.list) == 0 {
		c.add(api.CheckOK, b.Name, "it notices a failed target within %s and a healthy one within %s", t.DownWithin, t.UpWithin)
	}
	return c.list
}

// at says where in the fleet file a balancer is.
func at(b *config.Balancer) string {
	if b.Where == "" {
		return ""
	}
	return fmt.Sprintf(" (%s)", b.Where)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
