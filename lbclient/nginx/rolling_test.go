package nginx_test

import (
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest/traffic"
	"github.com/lockstep-deploy/lockstep/lbclient/nginx/nginxtest"
)

// TestNoRequestFails restarts every app in turn, as a rollout does, under
// visitors who keep their connections and whose posts nobody may send twice.
// nginx itself retries nothing here, so that one request to an app that is down
// would show. Only idle connections that a reload closes may be reset.
func TestNoRequestFails(t *testing.T) {
	w := newWorld(t, 3, nginxtest.Options{Workers: 2, Lines: []string{"proxy_next_upstream off;"}}, "web")
	var apps []*traffic.App
	for _, name := range w.Names {
		apps = append(apps, w.Apps[name])
	}
	visitors := traffic.Visit(w.lb.URL("web"), apps)
	for _, name := range w.Names {
		p := w.Provider(name)
		r := lbtest.Snapshot(t, p)
		if err := p.BeginDrain(t.Context(), r, 2); err != nil {
			t.Fatal(err)
		}
		w.await(name+" is idle", func() bool { return lbtest.DrainStatus(t, p, r).Stage == lbclient.DrainIdle })
		w.Apps[name].Restart(t, func() {
			if who, err := w.get("web"); err != nil || who == name {
				t.Errorf("while %s is down %q answers, error %v", name, who, err)
			}
		})
		if err := p.BeginRejoin(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if st, err := p.RejoinStatus(t.Context(), r); err != nil || st.Stage != lbclient.RejoinServing {
			t.Errorf("%+v, error %v", st, err)
		}
	}
	tallies := visitors.Stop()
	t.Logf("three apps restarted behind nginx, 6 reloads:\n%s", traffic.Table("visits", tallies))
	for kind, n := range tallies {
		if n.Sent < 6 {
			t.Errorf("%s: only %d requests were sent", kind, n.Sent)
		}
		if bad := n.Failed + n.NewResets + n.Lost; bad > 0 {
			t.Errorf("%s: %d of %d requests failed", kind, bad, n.Sent)
		}
	}
	if f := visitors.Failures(); len(f) > 0 {
		t.Errorf("%s", strings.Join(f, "\n"))
	}
}
