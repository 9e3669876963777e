package caddy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

const restoreVersion = 1

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

func (p *provider) providerName() string { return "caddy/" + p.cfg.Name }

func (p *provider) encode(rec record, serving bool) (lbclient.Restore, error) {
	data, err := json.Marshal(rec)
	if err != nil {
		return lbclient.Restore{}, err
	}
	return lbclient.Restore{
		Provider: p.providerName(), Target: p.cfg.Server, Version: restoreVersion,
		WasServing: serving, Data: data,
	}, nil
}

// decode reads a journaled record and checks that it is of this target.
func (p *provider) decode(op string, r lbclient.Restore) (record, error) {
	invalid := func(err error) (record, error) {
		return record{}, &lbclient.Error{Class: lbclient.ClassInvalid, Op: op, Text: "the recorded state cannot be used", Err: err}
	}
	if r.Provider != p.providerName() || r.Target != p.cfg.Server {
		return invalid(fmt.Errorf("it is of %s in %s, want %s in %s", r.Target, r.Provider, p.cfg.Server, p.providerName()))
	}
	if r.Version != restoreVersion {
		return invalid(fmt.Errorf("it has version %d, want %d", r.Version, restoreVersion))
	}
	rec, err := decodeRecord(r.Data)
	if err != nil {
		return invalid(err)
	}
	var ids []string
	for _, h := range rec.Handlers {
		ids = append(ids, h.ID)
	}
	if !slices.Equal(ids, p.cfg.Handlers) {
		return invalid(errors.New("it is of other handlers than are configured now; record it again"))
	}
	return rec, nil
}

// decodeRecord checks what will be sent to Caddy, which checks nothing.
func decodeRecord(data []byte) (record, error) {
	var rec record
	if err := strict(data, &rec); err != nil {
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
