package haproxy

import (
	"context"
	"fmt"
	"slices"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// BeginRejoin implements [lbclient.Provider]. It puts back every place that can
// be reached, even when another cannot, and then returns the first error. It
// leaves alone what another hand put into maintenance meanwhile. After a force it
// is ClassBusy until HAProxy has checked the target once.
func (p *provider) BeginRejoin(ctx context.Context, r lbclient.Restore) error {
	const verb = "rejoin"
	rec, err := p.decode(p.op(verb), r)
	if err != nil {
		return err
	}
	var first error
	note := func(err error) {
		if first == nil {
			first = err
		}
	}
	glances := p.glances(ctx, rec.questions())
	p.away = p.excused(glances)
	for _, g := range glances {
		if slices.Contains(p.away, g.endpoint) {
			continue
		}
		if g.err != nil {
			note(g.err)
			continue
		}
		places, err := p.places(verb, []*instance{g.instance})
		if err != nil {
			note(err)
			continue
		}
		changed := false
		for _, pl := range places {
			was := rec.was(pl)
			did, err := p.putBack(ctx, pl, was)
			changed = changed || did
			if err != nil {
				note(err)
			}
		}
		if changed {
			if err := p.confirmBack(ctx, rec, g.endpoint); err != nil {
				note(err)
			}
		}
	}
	return first
}

// putBack tells one place what differs from the record.
func (p *provider) putBack(ctx context.Context, pl place, was placeRecord) (changed bool, err error) {
	op := p.at("rejoin", pl.pool.name, pl.instance.endpoint)
	var commands []string
	if weight, differs := weightBack(pl.server, was); differs {
		to := fmt.Sprint(weight)
		if weight == pl.server.configured {
			to = "100%" // which a backend with a static algorithm takes too
		}
		commands = append(commands, fmt.Sprintf("set server %s weight %s", pl.server.place(), to))
	}
	if pl.server.weight == 0 && pl.server.held() {
		if ready, err := p.endForce(ctx, pl, op); !ready {
			return false, err
		}
	}
	switch {
	case pl.server.forced():
		commands = append(commands, "set server "+pl.server.place()+" state ready")
	case pl.server.admin.maintenance():
		err = foreign(op, pl.server)
	case pl.server.admin.drained():
		// Last, so that the target takes work with its own weight only.
		commands = append(commands, "set server "+pl.server.place()+" state ready")
	}
	if err != nil {
		return false, err
	}
	for _, c := range commands {
		changed = true
		err := p.client.change(ctx, pl.instance.endpoint, op, c)
		if err != nil && lbclient.ClassOf(err) != lbclient.ClassAmbiguous {
			return changed, err
		}
	}
	return changed, nil
}

// weightBack returns the weight to put back, if it differs. When it followed
// the configuration before and does so now, the configuration was changed and
// its new weight stands.
func weightBack(s *server, was placeRecord) (weight int64, differs bool) {
	if s.weight == was.Weight || was.Weight == was.Configured && s.weight == s.configured {
		return 0, false
	}
	return was.Weight, true
}

// confirmBack reads one instance back.
func (p *provider) confirmBack(ctx context.Context, rec record, e endpoint) error {
	const verb = "confirm the rejoin of"
	for _, q := range rec.questions() {
		if q.endpoint != e {
			continue
		}
		places, err := p.seek(ctx, verb, []question{q})
		if err != nil {
			return err
		}
		for _, pl := range places {
			was := rec.was(pl)
			_, differs := weightBack(pl.server, was)
			if pl.server.held() || differs && !pl.server.admin.maintenance() {
				return &lbclient.Error{Class: lbclient.ClassConflict, Op: p.at(verb, pl.pool.name, e),
					Text: fmt.Sprintf("it was told to be ready with weight %d but is %s with weight %d: another hand changed it",
						was.Weight, pl.server.admin, pl.server.weight)}
			}
		}
	}
	return nil
}

// RejoinStatus implements [lbclient.Provider]. The target serves when, in every
// place, it is ready, runs, and its last check passed (or it has none).
func (p *provider) RejoinStatus(ctx context.Context, r lbclient.Restore) (lbclient.RejoinStatus, error) {
	const verb = "look at the rejoin of"
	rec, err := p.decode(p.op(verb), r)
	if err != nil {
		return lbclient.RejoinStatus{}, err
	}
	places, err := p.seek(ctx, verb, rec.questions())
	if err != nil {
		return lbclient.RejoinStatus{}, err
	}
	worst := lbclient.PhaseServing
	var clauses []string
	for _, pl := range places {
		phase := pl.server.phase()
		worst = lbclient.Worst(worst, phase)
		if phase != lbclient.PhaseServing {
			clauses = append(clauses, fmt.Sprintf("%s is %s (%s)", pl, pl.server.admin, pl.server.words()))
		}
	}
	if len(clauses) == 0 {
		clauses = append(clauses, fmt.Sprintf("serving in %s (%s)", places[0], places[0].server.words()))
		if len(places) > 1 {
			clauses = []string{fmt.Sprintf("serving in all %d places", len(places))}
		}
	}
	clauses = append(clauses, p.absent()...)
	// A drain that another place lost or kept weighs more than a missing verdict.
	for _, pl := range places {
		if ph := pl.server.phase(); ph == lbclient.PhaseDraining || ph == lbclient.PhaseForeignOut {
			return lbclient.RejoinStatus{Stage: lbclient.RejoinNotAsked, Evidence: sentence(clauses)}, nil
		}
	}
	stage := lbclient.RejoinPending
	switch worst {
	case lbclient.PhaseServing:
		stage = lbclient.RejoinServing
	case lbclient.PhaseUnhealthy:
		stage = lbclient.RejoinUnhealthy
	}
	return lbclient.RejoinStatus{Stage: stage, Evidence: sentence(clauses)}, nil
}
