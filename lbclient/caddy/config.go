package caddy

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// DefaultTimeout bounds one request when [Config] does not say.
const DefaultTimeout = 5 * time.Second

// maxTimeout keeps a silent Caddy from stalling a whole step.
const maxTimeout = time.Minute

// maxSocketPath is what a Unix socket address can hold on Linux.
const maxSocketPath = 107

// Config says where one target stands in Caddy.
type Config struct {
	// Name is the balancer's name in fleet.yaml, used in messages and to tell a
	// [lbclient.Restore] of this balancer from others.
	Name string
	// Endpoint is the admin API, http://host:port or unix:///path.
	Endpoint string
	// Handlers are the @id of every reverse_proxy handler that sends work to the
	// target.
	Handlers []string
	// Server is the target's address as the upstream's "dial" gives it, such as
	// 10.0.0.11:8080, or its host alone where that tells it from the others.
	Server string
	// Parked is the @id of a reverse_proxy handler that no request reaches and
	// that has every target. It makes a Caddy before 2.11.2 count the requests of
	// a target that was removed elsewhere; "" means there is none.
	Parked string
	// CountsRemoved tells that Caddy is of version 2.11.2 or newer. Where Caddy
	// says its version itself this is not needed.
	CountsRemoved bool
	// Timeout bounds each request, from connecting to the last byte; 0 means
	// [DefaultTimeout].
	Timeout time.Duration
}

// endpoint is where the admin API listens.
type endpoint struct {
	text    string // as configured
	network string // "unix" or "tcp"
	address string
}

func (e endpoint) String() string { return e.text }

func parseEndpoint(text string) (endpoint, error) {
	const want = `want http://host:port or unix:///path/to/socket`
	u, err := url.Parse(text)
	if err != nil {
		return endpoint{}, fmt.Errorf("endpoint %q: %s", text, want)
	}
	if u.User != nil || strings.ContainsAny(text, "?#") {
		return endpoint{}, fmt.Errorf("endpoint %q has more than an address: %s", text, want)
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || !path.IsAbs(u.Path) || path.Clean(u.Path) != u.Path || u.Path == "/" {
			return endpoint{}, fmt.Errorf("endpoint %q is no absolute path: %s", text, want)
		}
		if strings.ContainsRune(u.Path, 0) || len(u.Path) > maxSocketPath {
			return endpoint{}, fmt.Errorf("endpoint %q: a socket path holds at most %d bytes", text, maxSocketPath)
		}
		return endpoint{text, "unix", u.Path}, nil
	case "http":
		if u.Path != "" && u.Path != "/" {
			return endpoint{}, fmt.Errorf("endpoint %q has more than an address: %s", text, want)
		}
		if err := checkHostPort(u.Host); err != nil {
			return endpoint{}, fmt.Errorf("endpoint %q: %w; %s", text, err, want)
		}
		return endpoint{text, "tcp", u.Host}, nil
	}
	return endpoint{}, fmt.Errorf("endpoint %q: %s", text, want)
}

func checkHostPort(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return fmt.Errorf("%q is no host:port", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q has no port from 1 to 65535", address)
	}
	return nil
}

// plainID is an @id that needs no escaping in a path.
var plainID = regexp.MustCompile(`^[A-Za-z0-9_.~-]{1,128}$`)

func checkID(id string) error {
	if !plainID.MatchString(id) || strings.Trim(id, ".") == "" {
		return fmt.Errorf("handler %q: want the @id of a reverse_proxy handler, made of letters, digits, '-', '_', '.' and '~'", id)
	}
	return nil
}

// plainServer is a host, or a host with a port.
var plainServer = regexp.MustCompile(`^[A-Za-z0-9_.:/\[\]-]{1,255}$`)

// check returns the parsed endpoint, or the first thing that is wrong.
func (c Config) check() (endpoint, error) {
	if c.Name == "" {
		return endpoint{}, fmt.Errorf("the balancer has no name")
	}
	if !plainServer.MatchString(c.Server) {
		return endpoint{}, fmt.Errorf("server %q: want the host:port that the upstream dials", c.Server)
	}
	if len(c.Handlers) == 0 {
		return endpoint{}, fmt.Errorf("no handlers: give every reverse_proxy handler that sends work to %s an @id and name it", c.Server)
	}
	for i, id := range c.Handlers {
		if err := checkID(id); err != nil {
			return endpoint{}, err
		}
		if slices.Contains(c.Handlers[:i], id) {
			return endpoint{}, fmt.Errorf("handler %s is named twice", id)
		}
	}
	if c.Parked != "" {
		if err := checkID(c.Parked); err != nil {
			return endpoint{}, err
		}
		if slices.Contains(c.Handlers, c.Parked) {
			return endpoint{}, fmt.Errorf("handler %s cannot be parked and in use", c.Parked)
		}
	}
	if c.Timeout < 0 || c.Timeout > maxTimeout {
		return endpoint{}, fmt.Errorf("timeout %s: want more than 0 and at most %s", c.Timeout, maxTimeout)
	}
	return parseEndpoint(c.Endpoint)
}

// New returns the provider for one target. It does not connect: Preflight does.
// Its errors are of class [lbclient.ClassInvalid].
func New(c Config) (lbclient.Provider, error) {
	e, err := c.check()
	if err != nil {
		return nil, &lbclient.Error{
			Class: lbclient.ClassInvalid,
			Op:    fmt.Sprintf("use Caddy balancer %q", c.Name),
			Err:   err,
		}
	}
	c.Handlers = slices.Clone(c.Handlers)
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	var d net.Dialer
	transport := &http.Transport{
		// Caddy closes its connections at every change of its configuration.
		DisableKeepAlives: true,
		DialContext:       dialOnly(&d, e),
	}
	return &provider{cfg: c, client: client{endpoint: e, timeout: c.Timeout, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}}, nil
}
