package hetzner

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/hetznercloud/hcloud-go/v2/hcloud"
	"github.com/hetznercloud/hcloud-go/v2/hcloud/schema"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

func TestStatusMatches(t *testing.T) {
	for _, c := range []struct {
		patterns []string
		want     bool
	}{
		{[]string{"2??", "3??"}, false},
		{[]string{"503"}, true},
		{[]string{"2??", "5??"}, true},
		{[]string{"???"}, true},
		{[]string{"50"}, false},
		{[]string{"5033"}, false},
		{nil, false},
	} {
		if got := statusMatches(c.patterns, 503); got != c.want {
			t.Errorf("%v match 503: %t", c.patterns, got)
		}
	}
}

// FuzzDecodeRecord wants every record that is taken to survive the journal and
// to say plainly which member it is of.
func FuzzDecodeRecord(f *testing.F) {
	for _, s := range []string{
		`{"load_balancer":1,"mode":"remove","server":42,"use_private_ip":true,"ports":[80,443]}`,
		`{"load_balancer":1,"mode":"gate","ip":"198.51.100.7","use_private_ip":false,"ports":[80]}`,
		`{"load_balancer":1,"mode":"gate","server":42,"selector":"env=prod","use_private_ip":false,"ports":[80]}`,
		`{"load_balancer":1,"mode":"remove","server":42,"selector":"env=prod","use_private_ip":false,"ports":[80]}`,
		`{"load_balancer":1,"mode":"gate","server":42,"ip":"::1","use_private_ip":false,"ports":[80]}`,
		`{"load_balancer":0}`, `{}`, `{} {}`, `null`, ``, `{"surprise":true}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := decodeRecord(data)
		if err != nil {
			return
		}
		if rec.key() == (key{}) || len(rec.Ports) == 0 || rec.Mode == ModeRemove && rec.Selector != "" {
			t.Errorf("took %s for %+v", data, rec)
		}
		again, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeRecord(again); err != nil || !reflect.DeepEqual(back, rec) {
			t.Errorf("%+v came back as %+v, error %v", rec, back, err)
		}
	})
}

// FuzzRead reads what the API may say of a balancer, which must never be taken
// for more than it is: no member serves that some place does not call healthy.
func FuzzRead(f *testing.F) {
	for _, s := range []string{
		`{"services":[{"listen_port":80,"protocol":"http"}],"targets":[
			{"type":"server","server":{"id":1},"use_private_ip":true,"health_status":[{"listen_port":80,"status":"healthy"}]},
			{"type":"ip","ip":{"ip":"198.51.100.7"},"health_status":[{"listen_port":80,"status":"unknown"}]},
			{"type":"label_selector","label_selector":{"selector":"a=b"},"targets":[
				{"type":"server","server":{"id":1},"health_status":[{"listen_port":80,"status":"unhealthy","detail":"unexpected_http_status","http_status_code":503}]}]}]}`,
		`{"targets":[{"type":"server"},{"type":"ip","ip":{"ip":"x"}},{"type":"label_selector"},{"type":"teapot"}]}`,
		`{}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var s schema.LoadBalancer
		if json.Unmarshal(data, &s) != nil {
			return
		}
		v := read(hcloud.LoadBalancerFromSchema(s))
		ports := v.ports(nil)
		for _, m := range v.members {
			if m.key == (key{}) || len(m.places) == 0 {
				t.Fatalf("a member that is none: %+v", m)
			}
			if m.words(ports) == "" || m.through() == "" {
				t.Errorf("no words for %+v", m)
			}
			if m.phase(ports) != lbclient.PhaseServing {
				continue
			}
			for _, port := range ports {
				for _, pl := range m.places {
					if pl.health[port].status != healthy {
						t.Errorf("%s serves on %d with %+v", m.key, port, pl)
					}
				}
			}
		}
	})
}
