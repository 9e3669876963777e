package digitalocean

import (
	"fmt"
	"strings"

	"github.com/lockstep-deploy/lockstep/internal/strictjson"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/internal/restore"
)

// record is what [lbclient.Restore] carries. A membership by id has no
// attributes, so that it was one is all there is to put back.
type record struct {
	LoadBalancer string `json:"load_balancer"`
	Droplet      int    `json:"droplet"`
	Mode         Mode   `json:"mode"`
}

func (p *provider) records() restore.Of {
	return restore.Of{Provider: "digitalocean/" + p.cfg.Name, Target: p.cfg.Target}
}

// decode reads a journaled record and checks that it is of this target.
func (p *provider) decode(op string, r lbclient.Restore) (record, error) {
	return restore.Take(p.records(), op, r, func(data []byte) (record, error) {
		rec, err := decodeRecord(data)
		if err != nil {
			return record{}, err
		}
		if !strings.EqualFold(rec.LoadBalancer, p.cfg.LoadBalancer) {
			return record{}, fmt.Errorf("it is of load balancer %s, want %s", rec.LoadBalancer, p.cfg.LoadBalancer)
		}
		if id := p.cfg.Droplets[p.cfg.Target]; id != 0 && id != rec.Droplet {
			return record{}, fmt.Errorf("it is of droplet %d, want %d", rec.Droplet, id)
		}
		return rec, nil
	})
}

func decodeRecord(data []byte) (record, error) {
	var rec record
	if err := strictjson.Decode(data, &rec); err != nil {
		return record{}, err
	}
	switch {
	case !uuid.MatchString(rec.LoadBalancer):
		return record{}, fmt.Errorf("it names the load balancer %q", rec.LoadBalancer)
	case rec.Droplet <= 0:
		return record{}, fmt.Errorf("it names the droplet %d", rec.Droplet)
	case rec.Mode != ModeGate && rec.Mode != ModeRemove:
		return record{}, fmt.Errorf("it has mode %q", rec.Mode)
	}
	return rec, nil
}
