package haproxy

import (
	"fmt"
	"net"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// DefaultSocketTimeout bounds one command when [Config] does not say.
const DefaultSocketTimeout = 5 * time.Second

// maxSocketTimeout keeps one silent instance from stalling a whole step.
const maxSocketTimeout = time.Minute

// maxSocketPath is what a Unix socket address can hold on Linux.
const maxSocketPath = 107

// Config says where one target stands in HAProxy.
type Config struct {
	// Name is the balancer's name in fleet.yaml, used in messages and to tell a
	// [lbclient.Restore] of this balancer from others.
	Name string
	// Endpoints are the admin sockets of every instance, unix:///path or
	// tcp://host:port. All of them must agree before anything counts as done.
	Endpoints []string
	// Backends are all backends in which the target is a server.
	Backends []string
	// Server is the target's server name, the same in every backend.
	Server string
	// AllowUnreachable is how many instances may give no answer without keeping the
	// target from being drained and put back at the others; 0 means that all must
	// answer. See the README for what that risks.
	AllowUnreachable int
	// SocketTimeout bounds each command, from connecting to the last byte;
	// 0 means [DefaultSocketTimeout].
	SocketTimeout time.Duration
}

// haproxyName is what HAProxy accepts as a proxy or server name. Being strict
// here also keeps separators out of the command lines that are built from it.
var haproxyName = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,255}$`)

// endpoint is one instance's admin socket.
type endpoint struct {
	text    string // as configured
	network string // "unix" or "tcp"
	address string
}

func (e endpoint) String() string { return e.text }

func parseEndpoint(text string) (endpoint, error) {
	const want = `want unix:///path/to/socket or tcp://host:port`
	u, err := url.Parse(text)
	if err != nil {
		return endpoint{}, fmt.Errorf("endpoint %q: %s", text, want)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.ContainsAny(text, "?#") {
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
		return endpoint{text: text, network: "unix", address: u.Path}, nil
	case "tcp":
		host, port, err := net.SplitHostPort(u.Host)
		if err != nil || host == "" || u.Path != "" {
			return endpoint{}, fmt.Errorf("endpoint %q: %s", text, want)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return endpoint{}, fmt.Errorf("endpoint %q: the port must be a number from 1 to 65535", text)
		}
		return endpoint{text: text, network: "tcp", address: u.Host}, nil
	}
	return endpoint{}, fmt.Errorf("endpoint %q: %s", text, want)
}

func checkName(what, name string) error {
	if !haproxyName.MatchString(name) {
		return fmt.Errorf("%s name %q: HAProxy names are made of letters, digits, '-', '_', '.' and ':'", what, name)
	}
	return nil
}

// check returns the parsed endpoints, or the first thing that is wrong.
func (c Config) check() ([]endpoint, error) {
	if c.Name == "" {
		return nil, fmt.Errorf("the balancer has no name")
	}
	if err := checkName("server", c.Server); err != nil {
		return nil, err
	}
	if len(c.Endpoints) == 0 {
		return nil, fmt.Errorf("no endpoints: name the admin socket of every instance, such as unix:///run/haproxy/admin.sock")
	}
	endpoints := make([]endpoint, 0, len(c.Endpoints))
	for _, text := range c.Endpoints {
		e, err := parseEndpoint(text)
		if err != nil {
			return nil, err
		}
		if slices.Contains(endpoints, e) {
			return nil, fmt.Errorf("endpoint %s is named twice", text)
		}
		endpoints = append(endpoints, e)
	}
	if c.AllowUnreachable < 0 || c.AllowUnreachable > 0 && c.AllowUnreachable >= len(endpoints) {
		return nil, fmt.Errorf("%d may be unreachable of %d endpoints: one at least must answer", c.AllowUnreachable, len(endpoints))
	}
	if len(c.Backends) == 0 {
		return nil, fmt.Errorf("no backends: name every backend of haproxy.cfg that sends work to %s", c.Server)
	}
	for i, b := range c.Backends {
		if err := checkName("backend", b); err != nil {
			return nil, err
		}
		if slices.Contains(c.Backends[:i], b) {
			return nil, fmt.Errorf("backend %s is named twice", b)
		}
	}
	if c.SocketTimeout < 0 || c.SocketTimeout > maxSocketTimeout {
		return nil, fmt.Errorf("socket timeout %s: want more than 0 and at most %s", c.SocketTimeout, maxSocketTimeout)
	}
	return endpoints, nil
}

// New returns the provider for one target. It does not connect: Preflight does.
// Its errors are of class [lbclient.ClassInvalid].
func New(c Config) (lbclient.Provider, error) {
	endpoints, err := c.check()
	if err != nil {
		return nil, &lbclient.Error{
			Class: lbclient.ClassInvalid,
			Op:    fmt.Sprintf("use HAProxy balancer %q", c.Name),
			Err:   err,
		}
	}
	c.Backends = slices.Clone(c.Backends)
	if c.SocketTimeout == 0 {
		c.SocketTimeout = DefaultSocketTimeout
	}
	return &provider{
		cfg:       c,
		endpoints: endpoints,
		client:    client{timeout: c.SocketTimeout},
		seen:      make(map[endpoint]process),
		proc:      procfs{root: "/proc"},
	}, nil
}
