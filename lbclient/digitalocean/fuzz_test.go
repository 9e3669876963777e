package digitalocean

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/godo"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

const sampleID = "4de7ac8b-495b-4884-9a69-1050c6793cd6"

func FuzzBalancer(f *testing.F) {
	f.Add([]byte(`{"id":"` + sampleID + `","size_unit":2,"status":"active","type":"REGIONAL","tag":"web","droplet_ids":[3,1,3],
		"health_check":{"protocol":"http","port":80,"path":"/","check_interval_seconds":10,"response_timeout_seconds":5,"healthy_threshold":5,"unhealthy_threshold":3}}`))
	f.Add([]byte(`{"id":"` + sampleID + `","droplet_ids":[-1]}`))
	f.Add([]byte(`{"id":"` + sampleID + `","health_check":{"check_interval_seconds":9223372036854775807,"healthy_threshold":1,"unhealthy_threshold":1,"response_timeout_seconds":1}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var lb *godo.LoadBalancer
		if json.Unmarshal(data, &lb) != nil {
			return
		}
		b, err := balancerOf(sampleID, lb)
		if err != nil {
			return
		}
		for i, id := range b.members {
			if id <= 0 || i > 0 && id <= b.members[i-1] {
				t.Errorf("members %v", b.members)
			}
		}
		if timing, err := b.timing(time.Second); err == nil && (timing.DownWithin() <= 0 || timing.UpWithin() <= 0) {
			t.Errorf("timing %+v", timing)
		}
		for _, m := range []Mode{ModeGate, ModeRemove} {
			if err := b.suits("try", m); err != nil && lbclient.ClassOf(err) != lbclient.ClassUnsupported {
				t.Errorf("mode %s: %v", m, err)
			}
		}
		if strings.ContainsAny(b.epoch()+b.status+b.kind, "\n\x1b") {
			t.Errorf("epoch %q, status %q, type %q", b.epoch(), b.status, b.kind)
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"load_balancer":"` + sampleID + `","droplet":1,"mode":"remove"}`))
	f.Add([]byte(`{"load_balancer":"../x","droplet":1,"mode":"gate"}`))
	f.Add([]byte(`{"load_balancer":"` + sampleID + `","droplet":0,"mode":"gate"}{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := decodeRecord(data)
		if err != nil {
			return
		}
		if strings.ContainsAny(rec.LoadBalancer, "/.?#%") || rec.Droplet <= 0 {
			t.Errorf("accepted %+v", rec)
		}
		again, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeRecord(again); err != nil || back != rec {
			t.Errorf("%+v became %+v, error %v", rec, back, err)
		}
	})
}

func FuzzRefusal(f *testing.F) {
	f.Add(403, "Load Balancer can't be updated while it processes previous actions", "r-1")
	f.Add(403, "You are not authorized to perform this operation", "")
	f.Add(500, "<html>\x00\x1b[31m", strings.Repeat("x", 5000))
	f.Fuzz(func(t *testing.T, status int, message, request string) {
		resp := &http.Response{StatusCode: status, Header: http.Header{}}
		e := failed("drain w1", http.MethodDelete, &godo.Response{Response: resp},
			&godo.ErrorResponse{Response: resp, Message: message, RequestID: request})
		if e.Class == "" || len([]rune(e.Text)) > 1200 {
			t.Errorf("class %q, text of %d runes", e.Class, len([]rune(e.Text)))
		}
		if strings.ContainsFunc(e.Text, func(r rune) bool { return r == '\n' || r == 0x1b }) {
			t.Errorf("the text is not one line: %q", e.Text)
		}
		if e.Class == lbclient.ClassBusy && status != http.StatusForbidden && status != http.StatusLocked {
			t.Errorf("status %d is busy", status)
		}
	})
}

func FuzzEndpoint(f *testing.F) {
	for _, s := range []string{"", "https://api.digitalocean.com", "http://127.0.0.1:1", "http://[::1]:1/", "https://a:b@c", "http://localhost.evil:1", "https://x?y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := checkEndpoint(text)
		if err != nil {
			return
		}
		again, err := checkEndpoint(got)
		if err != nil || again != got || strings.Contains(got, "@") {
			t.Errorf("%q became %q, then %q, error %v", text, got, again, err)
		}
	})
}
