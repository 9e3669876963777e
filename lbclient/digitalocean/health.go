package digitalocean

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/digitalocean/godo"

	"github.com/lockstep-deploy/lockstep/lbclient/gate"
)

// Verdict is how a member's health check goes.
type Verdict string

// Verdicts.
const (
	VerdictUnknown Verdict = ""       // could not be seen; counts as nothing
	VerdictPasses  Verdict = "passes" // would pass
	VerdictFails   Verdict = "fails"  // would fail
)

// Check is what the balancer checks, as it says itself.
type Check struct {
	Protocol string // http, https, tcp
	Port     int
	Path     string
	Timeout  time.Duration
}

func (c Check) String() string {
	if c.Protocol == "tcp" {
		return fmt.Sprintf("tcp port %d", c.Port)
	}
	return fmt.Sprintf("%s :%d%s", tidy(c.Protocol), c.Port, tidy(c.Path))
}

// HealthSource tells how a member's health check goes, for DigitalOcean does
// not. It must be safe for use by several goroutines at once, and should not
// take much longer than the check's own timeout.
type HealthSource interface {
	Health(ctx context.Context, droplet int, c Check) (v Verdict, detail string)
}

// looker looks at what the balancer looks at, once, from here.
type looker struct {
	p    *provider
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu        sync.Mutex
	addresses map[int]string
	answered  map[int]bool // the way there is known to be open
}

func newLooker(p *provider, dial func(context.Context, string, string) (net.Conn, error)) *looker {
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	return &looker{p: p, dial: dial, addresses: make(map[int]string), answered: make(map[int]bool)}
}

// maxLook bounds a look at a member whose check is very patient.
const maxLook = 5 * time.Second

// Health implements [HealthSource]. Silence counts as failing only where there
// was an answer before: elsewhere a firewall may stand between.
func (l *looker) Health(ctx context.Context, droplet int, c Check) (Verdict, string) {
	address, err := l.address(ctx, droplet)
	if err != nil {
		return VerdictUnknown, err.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, min(c.Timeout, maxLook))
	defer cancel()
	where := net.JoinHostPort(address, strconv.Itoa(c.Port))
	ok, said, err := l.ask(ctx, where, c)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil || errors.Is(err, syscall.ECONNREFUSED) {
		l.answered[droplet] = true
	}
	switch {
	case err == nil && ok:
		return VerdictPasses, said
	case err == nil:
		return VerdictFails, said
	case errors.Is(err, syscall.ECONNREFUSED):
		return VerdictFails, "it refuses connections"
	case l.answered[droplet]:
		return VerdictFails, "it does not answer"
	}
	return VerdictUnknown, fmt.Sprintf("%s cannot be reached from here", where)
}

// userAgent tells a health gate that this is not the balancer's probe.
const userAgent = gate.OwnAgent + "look"

func (l *looker) ask(ctx context.Context, where string, c Check) (ok bool, said string, err error) {
	if c.Protocol == "tcp" {
		conn, err := l.dial(ctx, "tcp", where)
		if err != nil {
			return false, "", err
		}
		conn.Close()
		return true, "it accepts connections", nil
	}
	t := &http.Transport{
		DialContext:       l.dial,
		DisableKeepAlives: true,
		// Only the status is looked at, and certificates are rarely made out to
		// the private address that is checked.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Protocol+"://"+where+c.Path, nil)
	if err != nil {
		return false, "", err
	}
	req.Header.Set("User-Agent", userAgent)
	resp, err := t.RoundTrip(req)
	if err != nil {
		return false, "", err
	}
	defer resp.Body.Close()
	const enough = 64 << 10
	_, _ = io.CopyN(io.Discard, resp.Body, enough) // the status is what counts
	// Pages of DigitalOcean differ on whether 3xx is healthy; 2xx is without doubt.
	return resp.StatusCode/100 == 2, fmt.Sprintf("it answers %d", resp.StatusCode), nil
}

// address is where the balancer reaches the droplet: in its private network.
func (l *looker) address(ctx context.Context, droplet int) (string, error) {
	l.mu.Lock()
	known := l.addresses[droplet]
	l.mu.Unlock()
	if known != "" {
		return known, nil
	}
	op := fmt.Sprintf("read the addresses of droplet %d", droplet)
	d, resp, err := l.p.api.Droplets.Get(ctx, droplet)
	if err != nil {
		return "", failed(op, http.MethodGet, resp, err)
	}
	address, err := addressOf(d)
	if err != nil {
		return "", fmt.Errorf("cannot %s: %w", op, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addresses[droplet] = address
	return address, nil
}

func addressOf(d *godo.Droplet) (string, error) {
	if d == nil || d.Networks == nil {
		return "", errors.New("the answer has none")
	}
	for _, kind := range []string{"private", "public"} {
		for _, n := range d.Networks.V4 {
			if n.Type == kind && net.ParseIP(n.IPAddress) != nil {
				return n.IPAddress, nil
			}
		}
	}
	return "", errors.New("it has no IPv4 address")
}
