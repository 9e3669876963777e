package api

import "net/netip"

// Who speaks to a balancer, as [Balancer.Via] says.
const (
	ViaAgent       = ""            // the node's agent itself
	ViaCoordinator = "coordinator" // the coordinator, on the agent's behalf
)

// Balancer is a load balancer as an agent needs to know it.
type Balancer struct {
	Name string `json:"name"`
	Type string `json:"type"` // "haproxy", "nginx", "caddy", "gate", "exec", "hetzner", or "digitalocean"
	// Via is who speaks to it: [ViaAgent] or [ViaCoordinator].
	Via string `json:"via,omitempty"`
	// Endpoints are the admin sockets of every instance of HAProxy: unix:///path
	// or tcp://host:port. All must agree.
	Endpoints []string `json:"endpoints"`
	Backends  []string `json:"backends"`
	// AllowUnreachable is how many of them may be down without stopping a turn.
	AllowUnreachable int `json:"allow_unreachable,omitempty"`
	// Idle says how to tell from connections that nothing is in flight, nil as
	// usual.
	Idle *Idle `json:"idle,omitempty"`
	// What else must be known of a balancer of another type by who speaks to it,
	// save for credentials.
	Nginx *Nginx `json:"nginx,omitempty"`
	Caddy *Caddy `json:"caddy,omitempty"`
	Exec  *Exec  `json:"exec,omitempty"`
	Cloud *Cloud `json:"cloud,omitempty"`
	// Gate is the gate that the node keeps for the target, where the balancer
	// checks one. Whoever speaks to the balancer, the gate is the agent's.
	Gate *Gate `json:"gate,omitempty"`
	// MinHealthy is how many other targets the balancer itself must see serving
	// before one is drained.
	MinHealthy int `json:"min_healthy"`
	// DrainTimeout bounds the wait for requests in flight;
	// OnDrainTimeout says what then: "proceed", "abort", or "force", which ends what
	// remains and proceeds.
	DrainTimeout   Duration `json:"drain_timeout"`
	OnDrainTimeout string   `json:"on_drain_timeout"`
	RejoinTimeout  Duration `json:"rejoin_timeout"`
}

// Idle says which connections to a target count as work.
type Idle struct {
	Ports  []int          `json:"ports,omitempty"`  // empty: that of the health check
	Ignore []netip.Prefix `json:"ignore,omitempty"` // peers whose connections are none
	Window Duration       `json:"window,omitempty"` // of silence; 0: as usual
}

// Nginx is an nginx on the agent's own machine. What is empty is usual there.
type Nginx struct {
	File      string   `json:"file"` // with the server lines
	Upstreams []string `json:"upstreams,omitempty"`
	PIDFile   string   `json:"pid_file,omitempty"`
	Test      []string `json:"test,omitempty"` // commands with their arguments
	Reload    []string `json:"reload,omitempty"`
}

// Caddy is a Caddy whose admin API the agent can reach.
type Caddy struct {
	Endpoint string   `json:"endpoint"` // http://host:port or unix:///path
	Handlers []string `json:"handlers"` // the @id of each
	Parked   string   `json:"parked,omitempty"`
}

// Exec is a program on the agent's machine that speaks to the balancer.
type Exec struct {
	Command []string `json:"command"` // by its absolute path, with its arguments
}

// Gate is how a target's health gate answers the balancer that polls it.
type Gate struct {
	Port    int    `json:"port"`    // that the balancer polls
	Path    string `json:"path"`    // in an app's spec; that of an instance is below it, see [Spec.Of]
	Refusal int    `json:"refusal"` // status of a closed gate
	// Check is how the balancer was configured to poll; nil where it tells that
	// itself, to whoever speaks to it: see [OpTiming].
	Check *BalancerCheck `json:"check,omitempty"`
	// Pollers are the only address ranges whose polls count; empty for all.
	Pollers    []string `json:"pollers,omitempty"`
	MinPollers int      `json:"min_pollers"`
	// Peers are the URLs at which the gates of all members show their status, by
	// the members' names; empty where somebody else counts who serves.
	Peers map[string]string `json:"peers,omitempty"`
}

// Cloud is a load balancer of Hetzner or DigitalOcean for agents that have a token
// of their own.
type Cloud struct {
	LoadBalancer string            `json:"load_balancer"`      // name or id
	Endpoint     string            `json:"endpoint,omitempty"` // of the API; "" is the cloud's own
	Mode         string            `json:"mode"`               // "remove" or "gate"
	IPs          map[string]string `json:"ips,omitempty"`      // of targets that are addresses at Hetzner, by name
	Droplets     map[string]int    `json:"droplets,omitempty"` // at DigitalOcean, by name, where that differs
	Settle       Duration          `json:"settle,omitempty"`   // after a droplet has left DigitalOcean's list
}
