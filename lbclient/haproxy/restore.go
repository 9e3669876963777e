package haproxy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-deploy/lockstep/internal/strictjson"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/internal/restore"
)

// record is what [lbclient.Restore] carries: how the target stood in every
// place, and which process said so.
type record struct {
	Instances []instanceRecord `json:"instances"`
}

type instanceRecord struct {
	Endpoint string        `json:"endpoint"`
	Process  process       `json:"process"`
	Places   []placeRecord `json:"places"`
	// Unreachable: it gave no answer, so that how the target stood there is not
	// known. Places is empty.
	Unreachable bool `json:"unreachable,omitempty"`
}

type placeRecord struct {
	Backend    string     `json:"backend"`
	Admin      adminState `json:"admin_state"`
	Weight     int64      `json:"weight"`
	Configured int64      `json:"configured_weight"`
}

// maxWeight is the largest that HAProxy accepts.
const maxWeight = 256

func (p *provider) records() restore.Of {
	return restore.Of{Provider: "haproxy/" + p.cfg.Name, Target: p.cfg.Server}
}

// decode reads a journaled record and checks that it is of this target.
func (p *provider) decode(op string, r lbclient.Restore) (record, error) {
	return restore.Take(p.records(), op, r, decodeRecord)
}

func decodeRecord(data []byte) (record, error) {
	var rec record
	if err := strictjson.Decode(data, &rec); err != nil {
		return record{}, err
	}
	if len(rec.Instances) == 0 {
		return record{}, errors.New("it names no instance")
	}
	if !slices.ContainsFunc(rec.Instances, func(i instanceRecord) bool { return !i.Unreachable }) {
		return record{}, errors.New("it names no instance that answered")
	}
	for _, i := range rec.Instances {
		// Checked again because commands are made of them.
		if _, err := parseEndpoint(i.Endpoint); err != nil {
			return record{}, err
		}
		if (len(i.Places) == 0) != i.Unreachable {
			return record{}, fmt.Errorf("it names no backend at %s", i.Endpoint)
		}
		for _, pl := range i.Places {
			if err := checkName("backend", pl.Backend); err != nil {
				return record{}, err
			}
			if pl.Weight < 1 || pl.Weight > maxWeight {
				return record{}, fmt.Errorf("it has weight %d in backend %s, want 1 to %d", pl.Weight, pl.Backend, maxWeight)
			}
		}
	}
	return rec, nil
}

// questions ask what the record speaks of.
func (rec record) questions() []question {
	var out []question
	var backends []string // the same in every instance
	for _, i := range rec.Instances {
		if len(backends) == 0 {
			for _, pl := range i.Places {
				backends = append(backends, pl.Backend)
			}
		}
	}
	for _, i := range rec.Instances {
		e, err := parseEndpoint(i.Endpoint)
		if err != nil {
			continue // decodeRecord has seen to it
		}
		q := question{endpoint: e}
		for _, pl := range i.Places {
			q.backends = append(q.backends, pl.Backend)
		}
		if i.Unreachable {
			q.backends = backends
		}
		out = append(out, q)
	}
	return out
}

// covers tells whether the record speaks of exactly the configured places.
func (rec record) covers(p *provider) bool {
	return slices.EqualFunc(rec.questions(), p.questions(), func(a, b question) bool {
		return a.endpoint == b.endpoint && slices.Equal(a.backends, b.backends)
	})
}

// instance returns the record of one endpoint.
func (rec record) instance(e endpoint) instanceRecord {
	for _, i := range rec.Instances {
		if i.Endpoint == e.text {
			return i
		}
	}
	return instanceRecord{}
}

// was is how the place stood. Of an instance that gave no answer then it is not
// known; what it has now stands, and a weight of 0 is the mark of our own force.
func (rec record) was(pl place) placeRecord {
	if was, known := rec.instance(pl.instance.endpoint).place(pl.pool.name); known {
		return was
	}
	s := pl.server
	was := placeRecord{Backend: pl.pool.name, Weight: s.weight, Configured: s.configured}
	if s.weight == 0 {
		was.Weight = s.configured
	}
	return was
}

func (i instanceRecord) place(backend string) (placeRecord, bool) {
	for _, pl := range i.Places {
		if pl.Backend == backend {
			return pl, true
		}
	}
	return placeRecord{}, false
}
