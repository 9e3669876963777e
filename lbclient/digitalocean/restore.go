package digitalocean

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

const restoreVersion = 1

// record is what [lbclient.Restore] carries. A membership by id has no
// attributes, so that it was one is all there is to put back.
type record struct {
	LoadBalancer string `json:"load_balancer"`
	Droplet      int    `json:"droplet"`
	Mode         Mode   `json:"mode"`
}

func (p *provider) providerName() string { return "digitalocean/" + p.cfg.Name }

func (p *provider) encode(rec record, serving bool) (lbclient.Restore, error) {
	data, err := json.Marshal(rec)
	if err != nil {
		return lbclient.Restore{}, err
	}
	return lbclient.Restore{
		Provider: p.providerName(), Target: p.cfg.Target, Version: restoreVersion,
		WasServing: serving, Data: data,
	}, nil
}

// decode reads a journaled record and checks that it is of this target.
func (p *provider) decode(op string, r lbclient.Restore) (record, error) {
	invalid := func(err error) (record, error) {
		return record{}, &lbclient.Error{Class: lbclient.ClassInvalid, Op: op, Text: "the recorded state cannot be used", Err: err}
	}
	if r.Provider != p.providerName() || r.Target != p.cfg.Target {
		return invalid(fmt.Errorf("it is of %s in %s, want %s in %s", r.Target, r.Provider, p.cfg.Target, p.providerName()))
	}
	if r.Version != restoreVersion {
		return invalid(fmt.Errorf("it has version %d, want %d", r.Version, restoreVersion))
	}
	rec, err := decodeRecord(r.Data)
	if err != nil {
		return invalid(err)
	}
	if !strings.EqualFold(rec.LoadBalancer, p.cfg.LoadBalancer) {
		return invalid(fmt.Errorf("it is of load balancer %s, want %s", rec.LoadBalancer, p.cfg.LoadBalancer))
	}
	if id := p.cfg.Droplets[p.cfg.Target]; id != 0 && id != rec.Droplet {
		return invalid(fmt.Errorf("it is of droplet %d, want %d", rec.Droplet, id))
	}
	return rec, nil
}

func decodeRecord(data []byte) (record, error) {
	var rec record
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&rec); err != nil {
		return record{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return record{}, errors.New("something follows it")
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
