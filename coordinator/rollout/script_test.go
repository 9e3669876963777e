package rollout_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// The language of the scenarios, one command a line; # begins a comment.
//
//	pool max_unavailable=2                 before the first app; anew: a changed configuration
//	app shop web1 web2 [retries=1 canary=web1 canary_soak=30s auto_rollback=off ...]
//	push shop r2 [contained_in=r3] [diverged] [command]      asked for by automation;
//	                                                         command: r2 has a release command
//	deploy shop r2                                           asked for by ann
//	rollback shop [r1] | pause shop | resume shop | abort shop | retry shop
//	hold shop [10m] | unhold shop
//	app shop web1 web2 instances=8000,8001  several targets a node; below, web1:8000 is one of them
//	fail web2 r2 unhealthy [once|twice] [out]   its activation fails; out: it stays out
//	fail-build all r2 build_failed [once]       preparing it fails
//	fail-share web1 r2 share_failed [once]      handing over what it built fails
//	fail-command web1 r2 command_failed [once]  its release command fails
//	varies r2                                   every build of it makes other files
//	drop-archives shop                          the coordinator loses its archives
//	mend                                        nothing fails any more
//	lose web2 | return web2                     the node is not heard of
//	hang web2 | free web2                       the turn does not end
//	sick web2 [app] | well web2 [app]           it becomes unhealthy by itself
//	last web2 | not-last web2                   it asks to be last
//	hand web2 r1 | relink web2 r1 | stop web2   somebody rolls it, moves its current, stops it
//	forget web2 r1                              a release is gone from its disk
//	coordinator-restart
//	wait 30s | run | until <words of a sentence>
func (s *stage) do(words []string) error {
	verb, args := words[0], words[1:]
	if !slices.Contains([]string{"pool", "wait", "run", "until"}, verb) {
		s.print("> %s", strings.Join(words, " "))
	}
	switch verb {
	case "wait":
		d, err := time.ParseDuration(args[0])
		for end := s.now.Add(d); err == nil && s.now.Before(end); {
			err = s.second()
		}
		return err
	case "run":
		return s.until(s.idle, 2*time.Hour)
	case "until":
		s.noted = ""
		return s.until(func() bool { return strings.Contains(s.noted, strings.Join(args, " ")) }, time.Hour)
	case "pool":
		n, err := strconv.Atoi(strings.TrimPrefix(args[0], "max_unavailable="))
		s.config.MaxUnavailable = n
		if err == nil && len(s.config.Apps) > 0 {
			return s.configure()
		}
		return err
	case "app":
		return s.app(args)
	case "fail", "fail-build", "fail-share", "fail-command":
		f := &failure{node: args[0], release: rollout.ReleaseID(args[1]), reason: args[2], of: verb, undone: true, times: 1000}
		for _, w := range args[3:] {
			switch w {
			case "once":
				f.times = 1
			case "twice":
				f.times = 2
			case "out":
				f.undone = false
			default:
				return fmt.Errorf("unknown word %q", w)
			}
		}
		s.fails = append(s.fails, f)
		return nil
	case "varies":
		s.varies = append(s.varies, rollout.ReleaseID(args[0]))
		return nil
	case "drop-archives":
		s.archives = nil
		return s.step(rollout.Archived{At: s.now, App: args[0]})
	case "mend":
		s.fails = nil
		return nil
	case "coordinator-restart":
		for _, a := range s.actors {
			a.told = ""
			s.heard[a.node] = s.now
		}
		return s.step(rollout.Started{At: s.now})
	case "lose", "return", "hang", "free", "sick", "well", "last", "not-last", "forget", "hand", "relink", "stop":
		return s.change(verb, args)
	}
	return s.request(verb, args)
}

func (s *stage) change(verb string, args []string) error {
	found := false
	for _, a := range s.actors {
		if verb != "forget" && verb != "hand" && verb != "relink" && len(args) > 1 && a.app != args[1] {
			continue
		}
		if a.node == args[0] {
			found = true
			switch verb {
			case "lose", "return":
				a.away = verb == "lose"
			case "forget":
				a.disk = slices.DeleteFunc(a.disk, func(id rollout.ReleaseID) bool { return string(id) == args[1] })
			}
		}
		for _, t := range a.targets {
			if a.node != args[0] && t.place != args[0] {
				continue
			}
			found = true
			switch verb {
			case "hang", "free":
				t.stuck = verb == "hang"
			case "sick", "well":
				t.sick = verb == "sick"
			case "hand": // somebody restarts it on another release
				t.release, t.linked = rollout.ReleaseID(strings.TrimPrefix(args[1], "none")), ""
				t.elsewhere = t.release == ""
			case "stop": // somebody stops it, or it does not start
				t.release, t.sick = "", true
			case "relink": // somebody moves its current link
				t.linked = rollout.ReleaseID(args[1])
			case "last", "not-last":
				t.last = verb == "last"
			}
		}
	}
	if !found {
		return errors.New("no such node")
	}
	return nil
}

func (s *stage) request(verb string, args []string) error {
	if len(args) == 0 {
		return errors.New("no such command, or no app")
	}
	at, app, by := s.now, args[0], "ann"
	switch verb {
	case "push", "deploy":
		ev := rollout.DeployRequested{At: at, App: app, By: by, Release: rollout.Release{ID: rollout.ReleaseID(args[1]), SHA: args[1]}}
		if verb == "push" {
			ev.By, ev.Cause, ev.Automatic = "github", "push to main", true
		}
		for _, w := range args[2:] {
			if id, ok := strings.CutPrefix(w, "contained_in="); ok {
				ev.ContainedIn = append(ev.ContainedIn, rollout.ReleaseID(id))
			}
			ev.Diverged = ev.Diverged || w == "diverged"
			if w == "command" {
				ev.Release.Command = 10 * time.Minute
			}
		}
		return s.step(ev)
	case "rollback":
		ev := rollout.RollbackRequested{At: at, App: app, By: by}
		if len(args) > 1 {
			ev.To = rollout.ReleaseID(args[1])
		}
		return s.step(ev)
	case "pause":
		return s.step(rollout.PauseRequested{At: at, App: app, By: by})
	case "resume":
		return s.step(rollout.ResumeRequested{At: at, App: app, By: by})
	case "abort":
		return s.step(rollout.AbortRequested{At: at, App: app, By: by})
	case "retry":
		return s.step(rollout.RetryRequested{At: at, App: app, By: by})
	case "hold":
		ev := rollout.HoldRequested{At: at, App: app, By: by, Reason: "maintenance"}
		if len(args) > 1 {
			d, err := time.ParseDuration(args[1])
			if err != nil {
				return err
			}
			ev.Until = at.Add(d)
		}
		return s.step(ev)
	case "balancer":
		ev := rollout.BalancerAsked{At: at, App: app, Target: rollout.TargetName(app, args[1], ""), Text: args[1] + " asked for " + args[2]}
		if len(args) > 3 {
			ev.Class, ev.Text = rollout.Reason(args[3]), ev.Text+": not done"
		}
		return s.step(ev)
	case "unhold":
		return s.step(rollout.UnholdRequested{At: at, App: app, By: by})
	}
	return errors.New("no such command")
}

// app configures an app, or configures it anew.
func (s *stage) app(args []string) error {
	c := rollout.AppConfig{Name: args[0], Revision: "1", Policy: rollout.Policy{
		Soak: 10 * time.Second, TargetTimeout: 5 * time.Minute, ProgressTimeout: 10 * time.Minute,
		PrepareTimeout: 5 * time.Minute, Retries: 1, RetryBackoff: 30 * time.Second, AutoRollback: true, KeepReleases: 5,
	}}
	for _, w := range args[1:] {
		name, value, option := strings.Cut(w, "=")
		var err error
		switch {
		case !option:
			c.Nodes = append(c.Nodes, w)
		case name == "retries":
			c.Policy.Retries, err = strconv.Atoi(value)
		case name == "instances":
			c.Instances = strings.Split(value, ",")
		case name == "canary":
			c.Policy.Canary = value
		case name == "canary_soak":
			c.Policy.CanarySoak, err = time.ParseDuration(value)
		case name == "auto_rollback":
			c.Policy.AutoRollback = value == "on"
		case name == "target_timeout":
			c.Policy.TargetTimeout, err = time.ParseDuration(value)
		case name == "build_on":
			c.Policy.BuildOnce = true
			if value != "first" {
				c.Policy.Builder = value
			}
		case name == "build_skew":
			c.Policy.RefuseSkew = value == "refuse"
		case name == "retry_backoff":
			c.Policy.RetryBackoff, err = time.ParseDuration(value)
		case name == "progress_timeout":
			c.Policy.ProgressTimeout, err = time.ParseDuration(value)
		default:
			err = errors.New("unknown option " + name)
		}
		if err != nil {
			return err
		}
	}
	s.config.Apps = slices.DeleteFunc(s.config.Apps, func(o rollout.AppConfig) bool { return o.Name == c.Name })
	s.config.Apps = append(s.config.Apps, c)
	instances := c.Instances
	if instances == nil {
		instances = []string{""}
	}
	for _, node := range c.Nodes {
		i := slices.IndexFunc(s.actors, func(a *actor) bool { return a.app == c.Name && a.node == node })
		if i < 0 {
			i = len(s.actors)
			s.actors = append(s.actors, &actor{app: c.Name, node: node, digests: map[rollout.ReleaseID]string{}})
			s.heard[node] = s.now
		}
		for _, instance := range instances {
			id := string(rollout.TargetName(c.Name, node, instance))
			if a := s.actors[i]; !slices.ContainsFunc(a.targets, func(t *target) bool { return t.id == id }) {
				a.targets = append(a.targets, &target{id: id, place: strings.TrimPrefix(id, c.Name+"@")})
			}
		}
	}
	return s.configure()
}

func (s *stage) configure() error {
	s.config.At = s.now
	return s.step(s.config)
}

// idle tells whether nothing goes on by itself any more.
func (s *stage) idle() bool {
	for i := range s.state.Apps {
		a := &s.state.Apps[i]
		if (a.Live != nil && a.Live.Paused == nil) || (a.Live == nil && a.Waiting != nil && a.Hold == nil) {
			return false
		}
	}
	for _, t := range s.state.Targets {
		if t.Turn != 0 && !s.held(t) {
			return false
		}
	}
	return true
}

// held tells whether the turn of the target does not end.
func (s *stage) held(t rollout.Target) bool {
	for _, a := range s.actors {
		if a.node == t.Node && (a.away || slices.ContainsFunc(a.targets, func(x *target) bool { return x.stuck && x.place == t.Place() })) {
			return true
		}
	}
	return false
}

func (s *stage) until(so func() bool, limit time.Duration) error {
	for end := s.now.Add(limit); ; {
		if err := s.second(); err != nil {
			return err
		}
		if so() {
			return nil
		}
		if s.now.After(end) {
			return fmt.Errorf("not so after %s", limit)
		}
	}
}
