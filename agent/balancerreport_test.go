package agent_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/quiesce"
)

// crowd is a balancer with many members, of which web1 is the first. One by the
// name of "sealed" does not let itself be changed.
type crowd struct {
	lbclient.Provider
	name string
}

func (c crowd) Preflight(context.Context) error {
	if c.name == "sealed" {
		return &lbclient.Error{Class: lbclient.ClassDenied, Op: "check the socket", Text: "it is sealed"}
	}
	if c.name == "quiet" {
		return &lbclient.Error{Class: lbclient.ClassNotFound, Op: "watch", Err: fmt.Errorf("nothing listens: %w", quiesce.ErrNobodyListens)}
	}
	return nil
}

func (crowd) Caps() lbclient.Caps { return lbclient.Caps{Disturbs: "a reload"} }

func (crowd) Observe(context.Context) (lbclient.Pool, error) {
	p := lbclient.Pool{Epoch: "e", At: time.Now()}
	for i := range api.MaxReportedMembers + 7 {
		p.Members = append(p.Members, lbclient.Member{Name: fmt.Sprintf("web%d", i+1), Phase: lbclient.PhaseServing, Detail: strings.Repeat("é", 1000)})
	}
	return p, nil
}

func (crowd) Timing(context.Context) (lbclient.Timing, error) {
	return lbclient.Timing{Interval: 2 * time.Second, Timeout: time.Second, Fall: 3, Rise: 2}, nil
}

func (crowd) Close() error { return nil }

// What would stop a turn is told before there is one, and is gone once mended.
func TestBalancerIsReported(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	s.deps.Balancer = func(b api.Balancer, node, _ string) (lbclient.Provider, error) {
		if node != s.cfg.Name {
			t.Errorf("the balancer is used for node %q", node)
		}
		return crowd{name: b.Name}, nil
	}
	use := func(b *api.Balancer) {
		s.c.set(hello, func(a *api.Assignment) { a.Spec.Balancer = b })
	}
	use(&api.Balancer{Name: "sealed", Type: "crowd"})
	s.start(t)
	s.c.awaitApp(t, hello, "the refusal is told", func(a api.AppReport) bool {
		b := a.Balancer
		return b != nil && !b.Checked.IsZero() && b.Refused != nil && b.Refused.Class == "denied" && strings.Contains(b.Refused.Text, "it is sealed")
	})
	// Before the first deployment nobody can listen yet.
	use(&api.Balancer{Name: "quiet", Type: "crowd"})
	s.c.awaitApp(t, hello, "there is no refusal before the first deployment", func(a api.AppReport) bool {
		return a.Balancer != nil && !a.Balancer.Checked.IsZero() && a.Balancer.Refused == nil
	})
	use(&api.Balancer{Name: "open", Type: "crowd"})
	a := s.c.awaitApp(t, hello, "the members are told, and no refusal", func(a api.AppReport) bool {
		return a.Balancer != nil && !a.Balancer.Checked.IsZero() && a.Balancer.Refused == nil && len(a.Balancer.Members) > 0
	})
	b := a.Balancer
	if len(b.Members) != api.MaxReportedMembers || b.Omitted != 7 || b.At.IsZero() || b.Failed != nil {
		t.Errorf("%d members, %d omitted, at %s: %+v", len(b.Members), b.Omitted, b.At, b.Failed)
	}
	if b.Caps == nil || b.Caps.Disturbs != "a reload" {
		t.Errorf("what a change costs: %+v", b.Caps)
	}
	if m := b.Members[0]; m.Name != "web1" || m.Phase != "serving" || len([]rune(m.Detail)) != api.MaxReportedDetail {
		t.Errorf("the first is %+v", m)
	}
	if b.Timing == nil || b.Timing.DownWithin.D() != 7*time.Second || b.Timing.UpWithin.D() != 5*time.Second {
		t.Errorf("timing %+v", b.Timing)
	}
	// The coordinator knows better how one stands that it speaks to itself.
	use(&api.Balancer{Name: "open", Type: "crowd", Via: "moon"})
	s.c.awaitApp(t, hello, "it is not told, and cannot be used", func(a api.AppReport) bool {
		return a.Balancer == nil && a.Targets[0].Rotation == api.RotationUnknown
	})
}
