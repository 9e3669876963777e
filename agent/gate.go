package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/gates"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/gate"
)

// gateSocket is the name under which systemd passes the gates' socket
// ("FileDescriptorName=").
const gateSocket = "gate"

// RunGate serves the health gates of the node, as its agent wrote them down,
// until ctx is done: at the socket that systemd passed, or else where
// configuration c says. It is a process of its own, so that nothing that happens
// to the agent takes a serving target out. ready is called when it answers.
func RunGate(ctx context.Context, c Config, log *slog.Logger, ready func()) error {
	if c.GateListen == "" {
		return fmt.Errorf("cannot serve health gates: %s does not say where; write gate: {listen: \":9101\"}", c.File)
	}
	l, err := gate.Inherited(gateSocket)
	if err != nil {
		return err
	}
	passed := l != nil
	if !passed {
		if l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", c.GateListen); err != nil {
			return fmt.Errorf("cannot serve health gates: %w; gate.listen in %s says where", err, c.File)
		}
	}
	dir := gates.Dir(c.State)
	set := gates.Open(dir, log)
	log.Info("gates started", "listen", l.Addr().String(), "socket_of_systemd", passed, "definitions", dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var watching sync.WaitGroup
	watching.Go(func() { set.Watch(ctx) })
	ready()
	err = gate.Serve(ctx, l, set)
	cancel()
	watching.Wait()
	log.Info("gates stopped")
	return err
}

// recheckTiming is how often a balancer is asked anew how it checks.
const recheckTiming = 10 * time.Minute

// keeper keeps the definition of a target's gate as it should be, and looks at
// the gate, which another process serves.
type keeper struct {
	files  gates.Files
	is     gates.Definition
	check  func() api.HealthCheck // of the release that runs
	timed  lbclient.Timed         // tells the check; nil where the definition has it
	asked  time.Time              // when it last told
	remote gate.Viewer
}

// newGate makes the provider of a target's gate. Where the balancer itself tells
// how it checks, timed does, and counts who serves.
func (a *Agent) newGate(spec api.Spec, target, server string, check func() api.HealthCheck, timed lbclient.Timed) (lbclient.Provider, error) {
	b := *spec.Balancer
	invalid := func(format string, args ...any) (lbclient.Provider, error) {
		return nil, &lbclient.Error{Class: lbclient.ClassInvalid, Op: fmt.Sprintf("use balancer %s for %s", b.Name, target), Text: fmt.Sprintf(format, args...)}
	}
	if a.cfg.GateListen == "" {
		return invalid("it polls a health gate on this node, and there is none; write gate: {listen: \":%d\"} in %s, and start deploy-gate.socket and deploy-agent again",
			b.Gate.Port, a.cfg.File)
	}
	host, port, err := net.SplitHostPort(a.cfg.GateListen)
	if err != nil {
		return invalid("gate.listen in %s: %v", a.cfg.File, err)
	}
	if port != fmt.Sprint(b.Gate.Port) {
		return invalid("fleet.yaml says that it polls port %d (balancers.%s.port), and gate.listen in %s is %q; write the same port", b.Gate.Port, b.Name, a.cfg.File, a.cfg.GateListen)
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	k := &keeper{timed: timed, check: check, is: gates.Definition{Server: server, Gate: *b.Gate, Health: spec.Health}}
	k.is.Gate.Peers = nil // nobody's business but this agent's
	dir := gates.Dir(a.cfg.State)
	// The gate reads there, perhaps as another user.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the directory of the gates: %w", err)
	}
	if k.files, err = gates.FilesOf(dir, target); err != nil {
		return invalid("%v", err)
	}
	if timed == nil {
		if err := k.is.Check(k.files); err != nil {
			return nil, err
		}
	}
	if k.remote, err = gate.Remote("http://" + net.JoinHostPort(host, port) + gate.StatusPath(b.Gate.Path)); err != nil {
		return nil, err
	}
	c := gate.Config{
		Name: b.Name, Server: server, File: k.files.State, Gate: k, Peers: map[string]gate.Viewer{}, CapacityElsewhere: timed != nil,
	}
	for name, url := range b.Gate.Peers {
		if name == server {
			continue
		}
		if c.Peers[name], err = gate.Remote(url); err != nil {
			return nil, err
		}
	}
	return gate.New(c)
}

// Status implements [gate.Viewer].
func (k *keeper) Status(ctx context.Context) (gate.Status, error) {
	if err := k.define(ctx); err != nil {
		return gate.Status{}, err
	}
	st, err := k.remote.Status(ctx)
	if err != nil {
		return st, fmt.Errorf("%w; is deploy-gate.service running on this node?", err)
	}
	return st, nil
}

// define writes the definition, if it is not there already.
func (k *keeper) define(ctx context.Context) error {
	if k.timed != nil && (k.is.Gate.Check == nil || time.Since(k.asked) >= recheckTiming) {
		if err := k.askTiming(ctx); err != nil {
			return err
		}
	}
	k.is.Health = k.check()
	if err := k.is.Check(k.files); err != nil {
		return err
	}
	if err := gates.Write(k.files.Definition, k.is); err != nil {
		return fmt.Errorf("cannot write the definition of the gate: %w", err)
	}
	return nil
}

// askTiming learns how the balancer checks. While it cannot be asked, what was
// learned last stands.
func (k *keeper) askTiming(ctx context.Context) error {
	t, err := k.timed.Timing(ctx)
	if err == nil {
		k.asked = time.Now()
		k.is.Gate.Check = &api.BalancerCheck{Interval: api.Duration(t.Interval), Timeout: api.Duration(t.Timeout), Fall: t.Fall, Rise: t.Rise}
		return nil
	}
	if k.is.Gate.Check != nil {
		return nil
	}
	was, e := gates.Load(k.files.Definition)
	if e != nil || was.Gate.Check == nil {
		return errors.Join(fmt.Errorf("how the balancer checks is not known yet: %w", err), ctx.Err())
	}
	k.is.Gate.Check = was.Gate.Check
	return nil
}
