package caddy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-deploy/lockstep/internal/strictjson"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/internal/restore"
)

// record is what [lbclient.Restore] carries: the target's entries in every
// handler, and where they stood.
type record struct {
	Handlers []handlerRecord `json:"handlers"`
}

type handlerRecord struct {
	ID      string        `json:"id"`
	Address string        `json:"address"`
	Entries []entryRecord `json:"entries"`
	Order   []string      `json:"order"` // all addresses of the handler
}

type entryRecord struct {
	Index    int             `json:"index"`
	Upstream json.RawMessage `json:"upstream"`
}

func (h *handler) record(address string) handlerRecord {
	out := handlerRecord{ID: h.id, Address: address, Order: h.addresses()}
	for i, u := range h.upstreams {
		if u.address == address {
			out.Entries = append(out.Entries, entryRecord{i, u.raw})
		}
	}
	return out
}

func (p *provider) records() restore.Of {
	return restore.Of{Provider: "caddy/" + p.cfg.Name, Target: p.cfg.Server}
}

// decode reads a journaled record and checks that it is of this target.
func (p *provider) decode(op string, r lbclient.Restore) (record, error) {
	return restore.Take(p.records(), op, r, func(data []byte) (record, error) {
		rec, err := decodeRecord(data)
		if err != nil {
			return record{}, err
		}
		var ids []string
		for _, h := range rec.Handlers {
			ids = append(ids, h.ID)
		}
		if !slices.Equal(ids, p.cfg.Handlers) {
			return record{}, errors.New("it is of other handlers than are configured now; record it again")
		}
		return rec, nil
	})
}

// decodeRecord checks what will be sent to Caddy, which checks nothing.
func decodeRecord(data []byte) (record, error) {
	var rec record
	if err := strictjson.Decode(data, &rec); err != nil {
		return record{}, err
	}
	if len(rec.Handlers) == 0 {
		return record{}, errors.New("it names no handler")
	}
	for _, h := range rec.Handlers {
		if err := checkID(h.ID); err != nil {
			return record{}, err
		}
		if len(h.Entries) == 0 {
			return record{}, fmt.Errorf("it holds no upstream of handler %s", h.ID)
		}
		last := -1
		for _, e := range h.Entries {
			u, err := parseUpstream(e.Upstream)
			if err != nil {
				return record{}, err
			}
			if err := u.fixed(); err != nil {
				return record{}, err
			}
			if u.address != h.Address || e.Index <= last || e.Index >= len(h.Order) || h.Order[e.Index] != h.Address {
				return record{}, fmt.Errorf("its upstream %s of handler %s is not where it says", e.Upstream, h.ID)
			}
			last = e.Index
		}
	}
	return rec, nil
}
