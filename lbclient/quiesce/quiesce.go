package quiesce

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// ErrNobodyListens is in the error of a Preflight that found nobody listening on
// one of the ports, which is right before an app's first start.
var ErrNobodyListens = errors.New("is it the app's port, and does the app run beside the agent and not in a container with a network of its own?")

// DefaultQuiet is the quiet window when [Config] does not say.
const DefaultQuiet = 3 * time.Second

// maxQuiet keeps a mistyped window from blocking every drain.
const maxQuiet = 10 * time.Minute

// Config says whose connections are looked at and when they are quiet.
type Config struct {
	// Ports are the local TCP ports on which the target takes work.
	Ports []uint16
	// Address is the local address at which all of the target's work arrives, for
	// machines on which several targets share a port, each at an address of its
	// own. Where a port is listened on at every address, it counts at every address.
	// The zero value means every address.
	Address netip.Addr
	// Quiet is how long a connection must have been silent, and nothing new must
	// have come, before the target is idle; 0 means [DefaultQuiet].
	Quiet time.Duration
	// Ignore are peers whose connections are no traffic: the node itself, where
	// its health checks come from, or a scraper of metrics.
	Ignore []netip.Prefix
	// Own tells whether a peer is a connection that this process opened itself,
	// such as a health check, and so is no traffic; nil means that there are none.
	// Unlike Ignore it lets through whoever else is on this machine, also who was given
	// a port that was ours: open says that the peer has not closed the connection.
	Own func(peer netip.AddrPort, open bool) bool
	// AnswerWithin is how long a peer that spoke last is taken to wait for an
	// answer; 0 means for ever. It is for protocols in which the peer has the
	// last word.
	AnswerWithin time.Duration
	// ChecksOnPort says that the balancer's checks come to the same ports, so
	// that a new connection proves nothing.
	ChecksOnPort bool
}

func (c Config) check() error {
	if len(c.Ports) == 0 {
		return fmt.Errorf("no ports: name the ports on which the target takes work")
	}
	for i, p := range c.Ports {
		if p == 0 || slices.Contains(c.Ports[:i], p) {
			return fmt.Errorf("port %d: want different ports from 1 to 65535", p)
		}
	}
	if c.Quiet < 0 || c.Quiet > maxQuiet {
		return fmt.Errorf("quiet window %s: want more than 0 and at most %s", c.Quiet, maxQuiet)
	}
	if c.AnswerWithin < 0 {
		return fmt.Errorf("answer within %s: want 0, for as long as it takes, or more", c.AnswerWithin)
	}
	for _, p := range c.Ignore {
		if !p.IsValid() {
			return fmt.Errorf("an ignored peer is no address range: want one such as 127.0.0.0/8")
		}
	}
	return nil
}

// Wrap returns p with the kernel's evidence. A drain that p calls busy without
// a count is looked at: it is idle once nothing works for the quiet window, and
// accepted again when a new connection shows that it is not effective. Every
// other answer is p's own. The result is a [lbclient.Forcer], a
// [lbclient.Describer] and a [lbclient.Timed] as far as p is. Its errors are of
// class [lbclient.ClassInvalid].
//
// A connection that comes and goes between two looks and is closed by the peer
// leaves no trace: look once in a second or more often.
func Wrap(p lbclient.Provider, c Config) (lbclient.Provider, error) {
	if err := c.check(); err != nil {
		return nil, &lbclient.Error{Class: lbclient.ClassInvalid, Op: "watch the target's connections", Err: err}
	}
	c.Ports, c.Ignore = slices.Clone(c.Ports), slices.Clone(c.Ignore)
	if c.Address = c.Address.Unmap().WithZone(""); c.Address.IsUnspecified() {
		c.Address = netip.Addr{}
	}
	if c.Quiet == 0 {
		c.Quiet = DefaultQuiet
	}
	for i, prefix := range c.Ignore {
		if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
			c.Ignore[i] = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
		}
	}
	return &provider{Provider: p, cfg: c, list: sockets, watch: watch{cfg: c}}, nil
}

type provider struct {
	lbclient.Provider
	cfg   Config
	list  func(ports []uint16) ([]socket, error)
	watch watch
	epoch string // of the balancer when watch began
}

// again forgets what was seen, for it was of another drain.
func (p *provider) again() { p.watch = watch{cfg: p.cfg} }

// Preflight implements [lbclient.Provider]. It also wants somebody to listen on
// each port: silence on a port that is not the app's proves nothing.
func (p *provider) Preflight(ctx context.Context) error {
	if err := p.Provider.Preflight(ctx); err != nil {
		return err
	}
	list, err := p.list(p.cfg.Ports)
	if err != nil {
		return kernelError(err)
	}
	if err := listening(p.cfg.Ports, at(p.cfg.Address, list)); err != nil {
		return &lbclient.Error{Class: lbclient.ClassNotFound, Op: "watch the target's connections", Err: err}
	}
	return nil
}

// BeginRejoin implements [lbclient.Provider].
func (p *provider) BeginRejoin(ctx context.Context, r lbclient.Restore) error {
	p.again()
	return p.Provider.BeginRejoin(ctx, r)
}

// DrainStatus implements [lbclient.Provider].
func (p *provider) DrainStatus(ctx context.Context, r lbclient.Restore) (lbclient.DrainStatus, error) {
	st, err := p.Provider.DrainStatus(ctx, r)
	if err != nil {
		return st, err
	}
	if st.Stage != lbclient.DrainBusy || st.InFlight >= 0 {
		if st.Stage == lbclient.DrainNotAsked || st.Stage == lbclient.DrainAccepted {
			p.again()
		}
		return st, nil
	}
	if st.Epoch != p.epoch {
		p.again()
		p.epoch = st.Epoch
	}
	list, err := p.list(p.cfg.Ports)
	if err != nil {
		return lbclient.DrainStatus{}, kernelError(err)
	}
	f := p.watch.look(time.Now(), at(p.cfg.Address, list))
	st.InFlight = int64(len(f.working))
	switch {
	case len(f.fresh) > 0:
		st.Stage = lbclient.DrainAccepted
		st.Evidence += fmt.Sprintf("; but new connections still come: %s", peers(f.fresh))
	case len(f.working) > 0:
		st.Evidence += fmt.Sprintf("; %d connections work or were used less than %s ago: %s", len(f.working), p.cfg.Quiet, peers(f.working))
	case f.left > 0:
		st.Evidence += fmt.Sprintf("; no connection works, which must stay so for another %s", f.left.Round(time.Millisecond))
	default:
		st.Stage = lbclient.DrainIdle
		st.Evidence += fmt.Sprintf("; no connection worked and none came for %s (%d are open and idle)", p.cfg.Quiet, f.quiet)
	}
	return st, nil
}

// ForceIdle implements [lbclient.Forcer].
func (p *provider) ForceIdle(ctx context.Context, r lbclient.Restore) error {
	if f, ok := p.Provider.(lbclient.Forcer); ok {
		return f.ForceIdle(ctx, r)
	}
	return &lbclient.Error{Class: lbclient.ClassUnsupported, Op: "force idle",
		Text: "the balancer cannot end work by force; wait longer, or go on with on_drain_timeout: proceed"}
}

// Caps implements [lbclient.Describer]. The count is the kernel's, not the
// balancer's own.
func (p *provider) Caps() lbclient.Caps { return lbclient.CapsOf(p.Provider) }

// Timing implements [lbclient.Timed].
func (p *provider) Timing(ctx context.Context) (lbclient.Timing, error) {
	if t, ok := p.Provider.(lbclient.Timed); ok {
		return t.Timing(ctx)
	}
	return lbclient.Timing{}, &lbclient.Error{Class: lbclient.ClassUnsupported, Op: "read the timing of checks", Text: "the balancer cannot say"}
}
