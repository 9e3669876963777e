package digitalocean

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/digitalocean/godo"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/internal/cloudhttp"
)

// Mode says how a droplet leaves rotation.
type Mode string

// Modes.
const (
	// ModeGate leaves the balancer as it is and waits for its check to fail,
	// which a health gate on the node sees to.
	ModeGate Mode = "gate"
	// ModeRemove takes the droplet's id out of the balancer and puts it back.
	ModeRemove Mode = "remove"
)

// DefaultEndpoint is DigitalOcean's API.
const DefaultEndpoint = "https://api.digitalocean.com"

// DefaultSettle is how long after a droplet has left the balancer's list new
// work may still arrive. DigitalOcean does not say how long that is.
const DefaultSettle = 15 * time.Second

// maxSettle keeps a slip of the pen from holding a target out for hours.
const maxSettle = 10 * time.Minute

// Config says where one target stands at DigitalOcean. It holds a secret and is
// not to be printed.
type Config struct {
	// Name is the balancer's name in fleet.yaml, used in messages and to tell a
	// [lbclient.Restore] of this balancer from others.
	Name string
	// Token is the API token. It needs load_balancer:read, for [ModeRemove]
	// load_balancer:update, and droplet:read unless Health is given and every
	// droplet is named by id.
	Token string
	// Endpoint is the API's scheme and host; "" means [DefaultEndpoint].
	Endpoint string
	// LoadBalancer is the balancer's id, a UUID.
	LoadBalancer string
	// Target is the target's name. It is the droplet's name too, unless
	// Droplets gives its id.
	Target string
	// Droplets are the droplet ids of targets, this one and others, by target
	// name. Members that are not among them are called "droplet ID".
	Droplets map[string]int
	// Mode says how the droplet leaves rotation. There is no default.
	Mode Mode
	// GatePort and GatePath, if set, are where the balancer's check must look
	// for the health gate to work. Preflight compares.
	GatePort int
	GatePath string
	// Health tells how members' checks go; nil means looks from here at what
	// the balancer checks, over the droplets' private addresses.
	Health HealthSource
	// Settle is how long after a droplet has left the balancer's list new work
	// may still arrive; 0 means [DefaultSettle].
	Settle time.Duration
	// Transport carries the calls to the API; nil means Go's own.
	Transport http.RoundTripper
	// Dial opens the connections for looks; nil means Go's own.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Format implements [fmt.Formatter]: a configuration prints without its token.
func (c Config) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "%s in DigitalOcean balancer %s (%s)", c.Target, c.Name, c.LoadBalancer)
}

// uuid keeps everything but an id out of the paths that are built from it.
var uuid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// check returns the endpoint, or the first thing that is wrong.
func (c Config) check() (string, error) {
	switch {
	case c.Name == "":
		return "", errors.New("the balancer has no name")
	case c.Target == "":
		return "", errors.New("the target has no name")
	case c.Token == "":
		return "", errors.New("there is no API token: name the file that holds it")
	case !uuid.MatchString(c.LoadBalancer):
		return "", fmt.Errorf("load balancer %q: want its id, a UUID such as 4de7ac8b-495b-4884-9a69-1050c6793cd6", c.LoadBalancer)
	case c.Mode != ModeGate && c.Mode != ModeRemove:
		return "", fmt.Errorf("mode %q: want %q or %q", c.Mode, ModeGate, ModeRemove)
	case c.Settle < 0 || c.Settle > maxSettle:
		return "", fmt.Errorf("settle %s: want more than 0 and at most %s", c.Settle, maxSettle)
	case c.GatePort < 0 || c.GatePort > 65535:
		return "", fmt.Errorf("gate port %d: want a number from 1 to 65535", c.GatePort)
	case c.GatePath != "" && c.GatePath[0] != '/':
		return "", fmt.Errorf("gate path %q: want one that begins with /", c.GatePath)
	}
	names := make(map[int]string)
	for name, id := range c.Droplets {
		if name == "" || id <= 0 {
			return "", fmt.Errorf("droplet %q: %d is no droplet id", name, id)
		}
		if other, twice := names[id]; twice {
			first, second := min(name, other), max(name, other)
			return "", fmt.Errorf("%s and %s have the same droplet id %d", first, second, id)
		}
		names[id] = name
	}
	return checkEndpoint(c.Endpoint)
}

// checkEndpoint allows no path, for the vendor's client would drop it, and
// plain HTTP only where the token does not leave the machine.
func checkEndpoint(text string) (string, error) {
	if text == "" {
		return DefaultEndpoint, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return "", errors.New("endpoint: want https://host or https://host:port")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" {
		return "", errors.New("endpoint: want https://host or https://host:port and nothing more")
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", fmt.Errorf("endpoint http://%s: the token would travel unencrypted; want https", u.Host)
	}
	return u.Scheme + "://" + u.Host, nil
}

// New returns the provider for one target. It does not connect: Preflight does.
// Its errors are of class [lbclient.ClassInvalid].
func New(c Config) (lbclient.Provider, error) {
	return build(c, time.Second)
}

// build is New with the length of DigitalOcean's second, which tests shorten.
func build(c Config, second time.Duration) (*provider, error) {
	invalid := func(err error) (*provider, error) {
		return nil, &lbclient.Error{Class: lbclient.ClassInvalid, Op: fmt.Sprintf("use DigitalOcean balancer %q", c.Name), Err: err}
	}
	endpoint, err := c.check()
	if err != nil {
		return invalid(err)
	}
	if c.Settle == 0 {
		c.Settle = time.Duration(DefaultSettle.Seconds() * float64(second))
	}
	calls := cloudhttp.Config{Token: c.Token, Transport: c.Transport, MinWait: second / 2, MaxWait: 8 * second}
	h := cloudhttp.NewClient(calls)
	c.Token = ""
	api, err := godo.New(h, godo.SetBaseURL(endpoint), godo.SetUserAgent("lockstep"))
	if err != nil {
		return invalid(err)
	}
	c.Droplets = maps.Clone(c.Droplets)
	p := &provider{cfg: c, http: h, api: api, second: second, names: make(map[int]string)}
	for name, id := range c.Droplets {
		p.names[id] = name
	}
	p.health = c.Health
	if p.health == nil {
		p.health = newLooker(p, c.Dial)
	}
	return p, nil
}
