package hetzner

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hetznercloud/hcloud-go/v2/hcloud"
	"github.com/hetznercloud/hcloud-go/v2/hcloud/metadata"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/internal/cloudhttp"
)

// Mode is how a target leaves rotation.
type Mode string

// Modes.
const (
	ModeGate   Mode = "gate"   // the target fails its check; nothing is changed at the cloud
	ModeRemove Mode = "remove" // the membership is removed, and put back
)

// Defaults of [Config].
const (
	DefaultCallTimeout = cloudhttp.DefaultAttemptTimeout
	DefaultActionWait  = 15 * time.Second
	DefaultActionPoll  = time.Second
	DefaultGateStatus  = 503
)

// maxWait keeps one call of the provider from stalling a whole step.
const maxWait = 2 * time.Minute

// maxPorts is far more services than any balancer has.
const maxPorts = 100

// Config says where one target stands in a Hetzner Cloud Load Balancer.
type Config struct {
	// Name is the balancer's name in fleet.yaml, used in messages and to tell a
	// [lbclient.Restore] of this balancer from others.
	Name string
	// LoadBalancer is the balancer's name at Hetzner, or its id in digits.
	LoadBalancer string
	// Token is an API token of the project. Gate mode needs to read only.
	Token string
	// Endpoint is the API's base address; "" means Hetzner's own.
	Endpoint string

	// Server is the target's name, and without one of the next three also the
	// name of its server at Hetzner, or the server's id in digits.
	Server string
	// ServerID is the server's id where its name differs; 0 when not used.
	ServerID int64
	// IP is the address of a target of type ip; "" when not used.
	IP string
	// FromMetadata asks the metadata service of the machine on which this runs
	// for the server's id. It is of use only on the target's own node.
	FromMetadata bool
	// MetadataEndpoint is that service's base address; "" means the usual one.
	MetadataEndpoint string

	// Names are what members are called in Observe, by server id in digits or by
	// IP address. Others go by the name of their server at Hetzner, or their
	// address.
	Names map[string]string

	// Mode is how the target leaves rotation.
	Mode Mode
	// Ports are the listen ports that count; empty means those on which any
	// member is healthy, so that a service that nobody serves holds up nothing.
	Ports []int
	// GatePort and GatePath say where the target's gate answers, for Preflight
	// to compare with the health checks; 0 and "" mean not to compare.
	GatePort int
	GatePath string
	// GateStatus is what a closed gate answers; 0 means 503.
	GateStatus int

	// CallTimeout bounds each attempt of an API call; 0 means
	// [DefaultCallTimeout].
	CallTimeout time.Duration
	// ActionWait bounds how long a call of the provider waits for an action of
	// the cloud; 0 means [DefaultActionWait]. After it the call fails with
	// ClassBusy, to be made again.
	ActionWait time.Duration
	// ActionPoll is the pause between looks at an action; 0 means
	// [DefaultActionPoll].
	ActionPoll time.Duration
	// RetryWait is the first pause between attempts of a call; 0 means the
	// policy's own.
	RetryWait time.Duration
}

// check returns the first thing that is wrong.
func (c Config) check() error {
	switch {
	case c.Name == "":
		return fmt.Errorf("the balancer has no name")
	case c.LoadBalancer == "" || strings.ContainsAny(c.LoadBalancer, " /?#\n"):
		return fmt.Errorf("load balancer %q: want its name at Hetzner, or its id", c.LoadBalancer)
	case c.Token == "":
		return fmt.Errorf("there is no API token; make one in the project's security settings (reading is enough in gate mode)")
	case strings.ContainsFunc(c.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("the API token has characters that no token has; is there more in its file?")
	case c.Server == "":
		return fmt.Errorf("the target has no name")
	case c.Mode != ModeGate && c.Mode != ModeRemove:
		return fmt.Errorf("mode %q: want %q or %q", c.Mode, ModeGate, ModeRemove)
	case c.ServerID < 0:
		return fmt.Errorf("server id %d: want a positive number", c.ServerID)
	case c.GateStatus != 0 && (c.GateStatus < 400 || c.GateStatus > 599):
		return fmt.Errorf("gate status %d: want 400 to 599", c.GateStatus)
	case c.GatePort < 0 || c.GatePort > 65535:
		return fmt.Errorf("gate port %d: want 1 to 65535", c.GatePort)
	case c.GatePath != "" && !strings.HasPrefix(c.GatePath, "/"):
		return fmt.Errorf("gate path %q: want one that begins with /", c.GatePath)
	}
	ways := 0
	for _, used := range []bool{c.ServerID != 0, c.IP != "", c.FromMetadata} {
		if used {
			ways++
		}
	}
	if ways > 1 {
		return fmt.Errorf("more than one of server id, IP address and metadata service says which member the target is; keep one")
	}
	if c.IP != "" {
		if _, err := netip.ParseAddr(c.IP); err != nil {
			return fmt.Errorf("IP address %q: want an IPv4 or IPv6 address", c.IP)
		}
	}
	for _, e := range []string{c.Endpoint, c.MetadataEndpoint} {
		if err := checkEndpoint(e); err != nil {
			return err
		}
	}
	if len(c.Ports) > maxPorts {
		return fmt.Errorf("%d ports: want at most %d", len(c.Ports), maxPorts)
	}
	for i, port := range c.Ports {
		if port < 1 || port > 65535 {
			return fmt.Errorf("port %d: want 1 to 65535", port)
		}
		if slices.Contains(c.Ports[:i], port) {
			return fmt.Errorf("port %d is named twice", port)
		}
	}
	for what, d := range map[string]time.Duration{
		"call timeout": c.CallTimeout, "action wait": c.ActionWait, "action poll": c.ActionPoll, "retry wait": c.RetryWait,
	} {
		if d < 0 || d > maxWait {
			return fmt.Errorf("%s %s: want more than 0 and at most %s", what, d, maxWait)
		}
	}
	return nil
}

func checkEndpoint(text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		// Not the text, for it may hold a password.
		return fmt.Errorf("the endpoint is no base address: want https://host/path")
	}
	return nil
}

func (c Config) withDefaults() Config {
	c.Ports = slices.Sorted(slices.Values(c.Ports))
	c.Names = maps.Clone(c.Names)
	if id, err := strconv.ParseInt(c.Server, 10, 64); err == nil && id > 0 && c.ServerID == 0 && c.IP == "" && !c.FromMetadata {
		c.ServerID = id
	}
	if c.Endpoint == "" {
		c.Endpoint = hcloud.Endpoint
	}
	if c.MetadataEndpoint == "" {
		c.MetadataEndpoint = metadata.Endpoint
	}
	if c.GateStatus == 0 {
		c.GateStatus = DefaultGateStatus
	}
	if c.CallTimeout == 0 {
		c.CallTimeout = DefaultCallTimeout
	}
	if c.ActionWait == 0 {
		c.ActionWait = DefaultActionWait
	}
	if c.ActionPoll == 0 {
		c.ActionPoll = DefaultActionPoll
	}
	return c
}

// New returns the provider for one target. It calls nobody: Preflight does. Its
// errors are of class [lbclient.ClassInvalid].
func New(c Config) (lbclient.Provider, error) {
	if err := c.check(); err != nil {
		return nil, &lbclient.Error{
			Class: lbclient.ClassInvalid,
			Op:    fmt.Sprintf("use Hetzner balancer %q", c.Name),
			Err:   err,
		}
	}
	c = c.withDefaults()
	policy := cloudhttp.Config{Token: c.Token, AttemptTimeout: c.CallTimeout, MinWait: c.RetryWait}
	carrier := cloudhttp.NewClient(policy)
	return &provider{
		cfg:     c,
		carrier: carrier,
		cloud: hcloud.NewClient(
			hcloud.WithEndpoint(c.Endpoint),
			hcloud.WithApplication("lockstep", ""),
			hcloud.WithHTTPClient(carrier),
			hcloud.WithRetryOpts(hcloud.RetryOpts{MaxRetries: 0}),
		),
		names: make(map[int64]string),
	}, nil
}
