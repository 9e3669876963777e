package haproxy

import (
	"context"
	"fmt"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// Caps implements [lbclient.Describer].
func (p *provider) Caps() lbclient.Caps { return lbclient.Caps{Health: true, InFlight: true} }

// forced tells whether the server stands as ForceIdle leaves it: in maintenance
// by command, with weight 0. Its record had a weight, and another hand that puts
// a server into maintenance does not touch that: so the two are told apart, also
// by a process that has only the record.
func (s *server) forced() bool {
	return s.admin&forcedMaint != 0 && s.admin&disabledInFile == 0 && s.weight == 0
}

// held tells whether the server is out by our hand.
func (s *server) held() bool { return s.admin.drained() || s.forced() }

// ForceIdle implements [lbclient.Forcer] in two steps. The first puts the target
// into maintenance, in which HAProxy also sends those visitors elsewhere who stick
// to it; what is in flight is finished. Called again, it closes the connections
// that are left, which their clients notice.
func (p *provider) ForceIdle(ctx context.Context, r lbclient.Restore) error {
	const verb = "end by force the work of"
	rec, err := p.decode(p.op(verb), r)
	if err != nil {
		return err
	}
	places, err := p.seek(ctx, verb, rec.questions())
	if err != nil {
		return err
	}
	for _, pl := range places {
		if !pl.server.held() {
			return &lbclient.Error{Class: lbclient.ClassConflict, Op: p.at(verb, pl.pool.name, pl.instance.endpoint),
				Text: fmt.Sprintf("it is %s: the drain must come first", pl.server.admin)}
		}
	}
	for _, pl := range places {
		commands := []string{
			// The mark first: what has it and is drained is put back like any other.
			fmt.Sprintf("set server %s weight 0%%", pl.server.place()),
			fmt.Sprintf("set server %s state maint", pl.server.place()),
		}
		switch {
		case !pl.server.forced():
		case pl.server.inFlight() > 0:
			commands = []string{"shutdown sessions server " + pl.server.place()}
		default:
			continue
		}
		op := p.at(verb, pl.pool.name, pl.instance.endpoint)
		for _, c := range commands {
			err := p.client.change(ctx, pl.instance.endpoint, op, c)
			if err != nil && lbclient.ClassOf(err) != lbclient.ClassAmbiguous {
				return err
			}
		}
	}
	if places, err = p.seek(ctx, verb, rec.questions()); err != nil {
		return err
	}
	for _, pl := range places {
		if !pl.server.forced() {
			return &lbclient.Error{Class: lbclient.ClassConflict, Op: p.at(verb, pl.pool.name, pl.instance.endpoint),
				Text: fmt.Sprintf("it was told to be in maintenance with weight 0 but is %s with weight %d: HAProxy was reloaded or another hand changed it",
					pl.server.admin, pl.server.weight)}
		}
	}
	return nil
}

// unjudged tells whether HAProxy would send work to the server before it has
// checked it: maintenance ends with the server up, whatever it was before.
func (s *server) unjudged() bool {
	_, checked := s.checked()
	return checked && s.op != opStopped && !s.healthy()
}

// endForce takes a place out of forced maintenance. It is drained until its check
// has been made once; it tells whether that is so and the rest may follow.
func (p *provider) endForce(ctx context.Context, pl place, op string) (ready bool, err error) {
	_, checked := pl.server.checked()
	if pl.server.forced() && checked {
		err := p.client.change(ctx, pl.instance.endpoint, op, "set server "+pl.server.place()+" state drain")
		if err != nil && lbclient.ClassOf(err) != lbclient.ClassAmbiguous {
			return false, err
		}
	} else if !checked || !pl.server.unjudged() {
		return true, nil
	}
	return false, &lbclient.Error{Class: lbclient.ClassBusy, Op: op,
		Text: "it is out of maintenance and drained until HAProxy has checked it once; ask again"}
}
