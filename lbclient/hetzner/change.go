package hetzner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/hetznercloud/hcloud-go/v2/hcloud"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// remove removes the member and waits for the action, within bounds. Like add
// it leaves it to its caller to read back, which decides.
func (p *provider) remove(ctx context.Context, op string, rec record) error {
	lb := &hcloud.LoadBalancer{ID: rec.LoadBalancer}
	if k := rec.key(); k.server != 0 {
		a, resp, err := p.cloud.LoadBalancer.RemoveServerTarget(ctx, lb, &hcloud.Server{ID: k.server})
		return p.carried(ctx, op, a, resp, err)
	}
	a, resp, err := p.cloud.LoadBalancer.RemoveIPTarget(ctx, lb, net.ParseIP(rec.IP))
	return p.carried(ctx, op, a, resp, err)
}

// add makes the member a target again, as the record has it.
func (p *provider) add(ctx context.Context, op string, rec record) error {
	lb := &hcloud.LoadBalancer{ID: rec.LoadBalancer}
	if k := rec.key(); k.server != 0 {
		// Said even when false, for the default is the cloud's to change.
		opts := hcloud.LoadBalancerAddServerTargetOpts{Server: &hcloud.Server{ID: k.server}, UsePrivateIP: &rec.UsePrivateIP}
		a, resp, err := p.cloud.LoadBalancer.AddServerTarget(ctx, lb, opts)
		return p.carried(ctx, op, a, resp, err)
	}
	a, resp, err := p.cloud.LoadBalancer.AddIPTarget(ctx, lb, hcloud.LoadBalancerAddIPTargetOpts{IP: net.ParseIP(rec.IP)})
	return p.carried(ctx, op, a, resp, err)
}

// carried waits for the action that a change was answered with.
func (p *provider) carried(ctx context.Context, op string, a *hcloud.Action, resp *hcloud.Response, err error) error {
	if err != nil {
		return p.fault(op, http.MethodPost, resp, err)
	}
	if a == nil || a.ID == 0 {
		return &lbclient.Error{Class: lbclient.ClassAmbiguous, Op: op, Text: "the API accepted the change and named no action"}
	}
	return p.await(ctx, op, a)
}

// await waits until an action has ended, for as long as ActionWait allows.
func (p *provider) await(ctx context.Context, op string, a *hcloud.Action) error {
	giveUp := time.Now().Add(p.cfg.ActionWait)
	for {
		switch a.Status {
		case hcloud.ActionStatusSuccess:
			return nil
		case hcloud.ActionStatusError:
			return p.faultOfAction(op, a)
		}
		if time.Now().Add(p.cfg.ActionPoll).After(giveUp) {
			return &lbclient.Error{Class: lbclient.ClassBusy, Op: op,
				Text: fmt.Sprintf("action %d (%s) is %s at %d %% after %s; it goes on", a.ID, a.Command, a.Status, a.Progress, p.cfg.ActionWait)}
		}
		select {
		case <-ctx.Done():
			return &lbclient.Error{Class: lbclient.ClassAmbiguous, Op: op,
				Text: fmt.Sprintf("action %d (%s) goes on, nobody waits for it any more", a.ID, a.Command), Err: ctx.Err()}
		case <-time.After(p.cfg.ActionPoll):
		}
		next, resp, err := p.cloud.Action.GetByID(ctx, a.ID)
		switch {
		case err != nil:
			// The change was accepted, so that no failure to look is its refusal.
			e := p.fault(op, http.MethodGet, resp, err)
			e.Text = fmt.Sprintf("action %d (%s) was begun and cannot be followed", a.ID, a.Command)
			if !e.Class.Retryable() || ctx.Err() != nil {
				return e
			}
		case next == nil:
			return &lbclient.Error{Class: lbclient.ClassAmbiguous, Op: op,
				Text: fmt.Sprintf("action %d (%s) is gone", a.ID, a.Command)}
		default:
			a = next
		}
	}
}

// settled refuses with ClassBusy while an action that changes targets runs:
// what the balancer lists may be half of it.
func (p *provider) settled(ctx context.Context, op string, rec record) error {
	opts := hcloud.ActionListOpts{Status: []hcloud.ActionStatus{hcloud.ActionStatusRunning}}
	running, resp, err := p.cloud.LoadBalancer.Action.ListFor(ctx, &hcloud.LoadBalancer{ID: rec.LoadBalancer}, opts)
	if err != nil {
		return p.fault(op, http.MethodGet, resp, err)
	}
	for _, a := range running {
		if a.Status == hcloud.ActionStatusRunning && (a.Command == "add_target" || a.Command == "remove_target") {
			return &lbclient.Error{Class: lbclient.ClassBusy, Op: op,
				Text: fmt.Sprintf("action %d (%s) of the balancer is still running at %d %%", a.ID, a.Command, a.Progress)}
		}
	}
	return nil
}

// undecided tells whether reading back decides over a failed change: when its
// answer was lost, or says that the balancer already is as it should be.
func undecided(err error) bool {
	switch lbclient.ClassOf(err) {
	case lbclient.ClassAmbiguous, lbclient.ClassNotFound:
		return true
	case lbclient.ClassConflict:
		return hcloud.IsError(err, hcloud.ErrorCodeTargetAlreadyDefined)
	}
	return false
}

// orElse is err, or where there is none an error that says what was read back.
func orElse(err error, op, text string) error {
	var e *lbclient.Error
	if errors.As(err, &e) {
		told := *e
		if told.Text != "" {
			told.Text += "; "
		}
		told.Text += text
		return &told
	}
	return &lbclient.Error{Class: lbclient.ClassConflict, Op: op, Text: text}
}
