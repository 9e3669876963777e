package hetznertest

import (
	"fmt"
	"maps"
	"net"
	"strconv"
	"time"
)

// Backend is where a machine's ports are really reached.
type Backend struct {
	// Host has the ports that Ports does not name; "" means 127.0.0.1.
	Host string
	// Ports are the addresses (host:port) of some ports.
	Ports map[int]string
}

func (b Backend) address(port int) string {
	if a, ok := b.Ports[port]; ok {
		return a
	}
	host := b.Host
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// Server is a cloud server.
type Server struct {
	ID      int64 // 0 means the next one that is free
	Name    string
	Labels  map[string]string
	Backend Backend
	// Private tells whether it is in the balancers' network, so that it can be a
	// target by its private address; NoPublic that it has no other.
	Private, NoPublic bool

	created time.Time
}

// AddServer adds a server and returns its id.
func (c *Cloud) AddServer(s Server) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.ID == 0 {
		s.ID = c.newID()
	}
	s.Labels = maps.Clone(s.Labels)
	if s.Labels == nil {
		s.Labels = make(map[string]string)
	}
	s.created = time.Now()
	c.servers[s.ID] = &s
	c.rewire()
	return s.ID
}

// AddAddress adds a dedicated server that the project's owner rents, which can
// be a target by its address.
func (c *Cloud) AddAddress(ip string, b Backend) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addresses[ip] = b
}

// SetLabels replaces a server's labels, as another hand would.
func (c *Cloud) SetLabels(server int64, labels map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers[server].Labels = maps.Clone(labels)
	c.rewire()
}

// Labels are a server's labels.
func (c *Cloud) Labels(server int64) map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.servers[server].Labels)
}

// DeleteServer deletes a server, with its place in all balancers.
func (c *Cloud) DeleteServer(id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.servers, id)
	for _, b := range c.balancers {
		b.targets = without(b.targets, Target{Server: id})
	}
	c.rewire()
}

// object is the server as the API shows it. What does not matter here has the
// same plausible value for all.
func (s *Server) object(balancers []int64) map[string]any {
	location := locationObject()
	public := map[string]any{"ipv4": nil, "ipv6": nil, "floating_ips": []int64{}, "firewalls": []any{}}
	if !s.NoPublic {
		public["ipv4"] = map[string]any{"id": s.ID + 1e6, "ip": fmt.Sprintf("203.0.113.%d", s.ID%250+1), "blocked": false, "dns_ptr": s.Name + ".example.com"}
	}
	private := []any{}
	if s.Private {
		private = append(private, map[string]any{"network": networkID, "ip": fmt.Sprintf("10.0.0.%d", s.ID%250+1), "alias_ips": []string{}, "mac_address": "86:00:ff:2a:7d:e1"})
	}
	return map[string]any{
		"id": s.ID, "name": s.Name, "status": "running", "created": s.created.UTC().Format(time.RFC3339),
		"public_net": public, "private_net": private,
		"server_type": map[string]any{
			"id": 22, "name": "cpx22", "description": "CPX 22", "cores": 2, "memory": 4.0, "disk": 80, "deprecated": false,
			"prices": []any{}, "storage_type": "local", "cpu_type": "shared", "category": "regular", "architecture": "x86",
			"deprecation": nil, "locations": []any{},
		},
		"datacenter": map[string]any{
			"id": 4, "name": "fsn1-dc14", "description": "Falkenstein 1 virtual DC 14", "location": location,
			"server_types": map[string]any{"supported": []int{22}, "available": []int{22}, "available_for_migration": []int{}},
		},
		"location": location, "image": nil, "iso": nil, "rescue_enabled": false, "locked": false, "backup_window": nil,
		"outgoing_traffic": 0, "ingoing_traffic": 0, "included_traffic": 20 << 40,
		"protection": map[string]any{"delete": false, "rebuild": false}, "labels": s.Labels, "volumes": []int64{},
		"load_balancers": balancers, "primary_disk_size": 80, "placement_group": nil,
	}
}

const networkID = 4711

// networkObject is the one private network. hcloud asks for it, and trusts that it
// is there, when it describes a server in it.
func networkObject() map[string]any {
	return map[string]any{
		"id": networkID, "name": "inside", "ip_range": "10.0.0.0/16", "subnets": []any{}, "routes": []any{}, "servers": []int64{},
		"load_balancers": []int64{}, "protection": map[string]any{"delete": false}, "labels": map[string]string{},
		"created": "2026-01-01T00:00:00Z", "expose_routes_to_vswitch": false,
	}
}

func locationObject() map[string]any {
	return map[string]any{
		"id": 1, "name": "fsn1", "description": "Falkenstein DC Park 1", "country": "DE", "city": "Falkenstein",
		"latitude": 50.47612, "longitude": 12.370071, "network_zone": "eu-central",
	}
}
