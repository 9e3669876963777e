package hetzner

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/lockstep-deploy/lockstep/internal/strictjson"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/internal/restore"
)

// record is what [lbclient.Restore] carries: which member of which balancer,
// how it belonged, how it was to leave, and where it was healthy.
type record struct {
	LoadBalancer int64  `json:"load_balancer"`
	Mode         Mode   `json:"mode"`
	Server       int64  `json:"server,omitempty"`
	IP           string `json:"ip,omitempty"`
	Selector     string `json:"selector,omitempty"`
	UsePrivateIP bool   `json:"use_private_ip"`
	// Ports are those on which it must be healthy to count as back.
	Ports []int `json:"ports"`
}

func (rec record) key() key {
	if rec.Server != 0 {
		return key{server: rec.Server}
	}
	return ipKey(rec.IP)
}

func (p *provider) records() restore.Of {
	return restore.Of{Provider: "hetzner/" + p.cfg.Name, Target: p.cfg.Server}
}

// decode reads a journaled record and checks that it is of this target. What is
// in it stands, also where the configuration has changed since.
func (p *provider) decode(op string, r lbclient.Restore) (record, error) {
	return restore.Take(p.records(), op, r, decodeRecord)
}

func decodeRecord(data []byte) (record, error) {
	var rec record
	if err := strictjson.Decode(data, &rec); err != nil {
		return record{}, err
	}
	if rec.LoadBalancer <= 0 {
		return record{}, fmt.Errorf("it names load balancer %d", rec.LoadBalancer)
	}
	if rec.Mode != ModeGate && rec.Mode != ModeRemove {
		return record{}, fmt.Errorf("it has mode %q", rec.Mode)
	}
	if rec.Server < 0 || (rec.Server == 0) == (rec.IP == "") {
		return record{}, errors.New("it names no member, or two")
	}
	if rec.IP != "" {
		if _, err := netip.ParseAddr(rec.IP); err != nil {
			return record{}, fmt.Errorf("it has IP address %q", rec.IP)
		}
	}
	if rec.Mode == ModeRemove && rec.Selector != "" {
		return record{}, errors.New("it would remove what a selector picks")
	}
	if len(rec.Ports) == 0 || len(rec.Ports) > maxPorts {
		return record{}, fmt.Errorf("it names %d ports", len(rec.Ports))
	}
	for i, port := range rec.Ports {
		if port < 1 || port > 65535 || slices.Contains(rec.Ports[:i], port) {
			return record{}, fmt.Errorf("it has port %d, or has it twice", port)
		}
	}
	return rec, nil
}
