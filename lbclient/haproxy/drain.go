package haproxy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// BeginDrain implements [lbclient.Provider]. It drains all places or, when one
// of them cannot be drained, puts back those that this call had drained and
// says so. The count of other healthy members is taken in each place right
// before the drain and again right after it, because two agents may ask at the
// same time.
func (p *provider) BeginDrain(ctx context.Context, r lbclient.Restore, minHealthy int) error {
	const verb = "drain"
	rec, err := p.decode(p.op(verb), r)
	if err != nil {
		return err
	}
	if minHealthy < 0 {
		return &lbclient.Error{Class: lbclient.ClassInvalid, Op: p.op(verb),
			Text: fmt.Sprintf("the number of other members that must serve is %d, want 0 or more", minHealthy)}
	}
	if !rec.covers(p) {
		return &lbclient.Error{Class: lbclient.ClassInvalid, Op: p.op(verb),
			Text: "the recorded state is of other endpoints or backends than are configured now; record it again"}
	}
	places, err := p.seek(ctx, verb, rec.questions())
	if err != nil {
		return err
	}
	var todo, serving []place
	for _, pl := range places {
		op := p.at(verb, pl.pool.name, pl.instance.endpoint)
		// "drain" would end a maintenance, so this comes before anything is said.
		if pl.server.held() {
			continue
		}
		if pl.server.admin.maintenance() {
			return foreign(op, pl.server)
		}
		todo = append(todo, pl)
		if pl.server.takesWork() {
			if err := enough(op, pl, minHealthy); err != nil {
				return err
			}
			serving = append(serving, pl)
		}
	}
	if len(todo) == 0 {
		return nil
	}
	told, err := p.drain(ctx, todo)
	if err == nil {
		err = p.confirm(ctx, rec, serving, minHealthy)
	}
	if err != nil {
		return p.undo(ctx, told, err)
	}
	return nil
}

// enough refuses with ClassUnsafe when too few others serve beside the target.
func enough(op string, pl place, minHealthy int) error {
	n, why := pl.pool.othersServing(pl.server)
	if n >= minHealthy {
		return nil
	}
	return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: op,
		Text: fmt.Sprintf("%d other members serve there and %d must: %s", n, minHealthy, why)}
}

// drain tells every place, and returns those that may have heard it. A lost
// answer is no failure yet: reading back decides.
func (p *provider) drain(ctx context.Context, places []place) (told []place, err error) {
	for i, pl := range places {
		op := p.at("drain", pl.pool.name, pl.instance.endpoint)
		if err := ctx.Err(); err != nil {
			return places[:i], &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Err: err}
		}
		err := p.client.change(ctx, pl.instance.endpoint, op, "set server "+pl.server.place()+" state drain")
		if err != nil && lbclient.ClassOf(err) != lbclient.ClassAmbiguous {
			return places[:i], err
		}
	}
	return places, nil
}

// confirm reads back that every place holds the drain, and that those that gave
// up a serving target have enough others still.
func (p *provider) confirm(ctx context.Context, rec record, gave []place, minHealthy int) error {
	const verb = "confirm the drain of"
	places, err := p.seek(ctx, verb, rec.questions())
	if err != nil {
		return err
	}
	for _, pl := range places {
		op := p.at(verb, pl.pool.name, pl.instance.endpoint)
		if !pl.server.held() {
			return &lbclient.Error{Class: lbclient.ClassConflict, Op: op,
				Text: fmt.Sprintf("it was told to drain but is %s: HAProxy was reloaded or another hand changed it", pl.server.admin)}
		}
		for _, g := range gave {
			if g.instance.endpoint == pl.instance.endpoint && g.pool.name == pl.pool.name {
				if err := enough(op, pl, minHealthy); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// undo puts back the places that were drained when cause came up, and returns
// cause with what became of them. It works on after ctx has ended, within the
// socket timeout of each command, for a drain half done has nobody in charge.
func (p *provider) undo(ctx context.Context, drained []place, cause error) error {
	ctx = context.WithoutCancel(ctx)
	var undone, stuck []string
	for _, pl := range drained {
		did, err := p.undrain(ctx, pl)
		switch {
		case err != nil:
			stuck = append(stuck, fmt.Sprintf("%s (%v)", pl, err))
		case did:
			undone = append(undone, pl.String())
		}
	}
	var notes []string
	if len(undone) > 0 {
		notes = append(notes, "the drain was undone in "+strings.Join(undone, ", "))
	}
	if len(stuck) > 0 {
		notes = append(notes, "it may still be drained in "+strings.Join(stuck, ", ")+", so a rejoin must follow")
	}
	return lbclient.Noted(cause, notes...)
}

// undrain makes one place ready again if it is drained, leaving a maintenance
// alone, and reads back. It tells whether there was anything to do.
func (p *provider) undrain(ctx context.Context, pl place) (bool, error) {
	q := question{pl.instance.endpoint, []string{pl.pool.name}}
	s, err := p.lookOne(ctx, q)
	if err != nil {
		return false, err
	}
	if s.admin.maintenance() || !s.admin.drained() {
		return false, nil
	}
	op := p.at("undo the drain of", pl.pool.name, pl.instance.endpoint)
	err = p.client.change(ctx, q.endpoint, op, "set server "+pl.server.place()+" state ready")
	if err != nil && lbclient.ClassOf(err) != lbclient.ClassAmbiguous {
		return false, err
	}
	if s, err = p.lookOne(ctx, q); err != nil {
		return false, err
	}
	if s.admin.drained() {
		return false, &lbclient.Error{Class: lbclient.ClassConflict, Op: op, Text: "it is drained still"}
	}
	return true, nil
}

// lookOne reads the target in one backend of one instance.
func (p *provider) lookOne(ctx context.Context, q question) (*server, error) {
	places, err := p.seek(ctx, "read", []question{q})
	if err != nil {
		return nil, err
	}
	return places[0].server, nil
}

// DrainStatus implements [lbclient.Provider]. HAProxy obeys a drain at once, so
// the stage is never DrainAccepted. InFlight is -1 while a former process, out
// of reach of the socket, still finishes its requests.
func (p *provider) DrainStatus(ctx context.Context, r lbclient.Restore) (lbclient.DrainStatus, error) {
	const verb = "look at the drain of"
	rec, err := p.decode(p.op(verb), r)
	if err != nil {
		return lbclient.DrainStatus{}, err
	}
	instances, err := p.look(ctx, rec.questions())
	if err != nil {
		return lbclient.DrainStatus{}, err
	}
	places, err := p.places(verb, instances)
	if err != nil {
		return lbclient.DrainStatus{}, err
	}
	out := lbclient.DrainStatus{Stage: lbclient.DrainIdle, Epoch: epoch(instances)}
	var lost, busy []string
	for _, pl := range places {
		if !pl.server.held() {
			lost = append(lost, fmt.Sprintf("%s is %s", pl, pl.server.admin))
		}
		if n := pl.server.inFlight(); n > 0 {
			out.InFlight += n
			busy = append(busy, fmt.Sprintf("%d in flight in %s", n, pl))
		}
	}
	reloads, unseen := p.reloads(rec, instances)
	switch {
	case len(lost) > 0:
		out.Stage = lbclient.DrainNotAsked
		out.Evidence = sentence(slices.Concat(lost, reloads, p.absent()))
		return out, nil
	case unseen:
		out.Stage, out.InFlight = lbclient.DrainBusy, -1
	case out.InFlight > 0:
		out.Stage = lbclient.DrainBusy
	default:
		busy = []string{"nothing in flight"}
	}
	clauses := []string{fmt.Sprintf("drained in %d places", len(places))}
	if len(places) == 1 {
		clauses[0] = fmt.Sprintf("drained in %s", places[0])
	}
	if slices.ContainsFunc(places, func(pl place) bool { return pl.server.forced() }) {
		clauses[0] += ", by force"
	}
	out.Evidence = sentence(slices.Concat(clauses, busy, reloads, p.absent()))
	return out, nil
}

// reloads says which instances were reloaded since the record was taken and
// what is known of their former processes. Unseen means that one of those still
// lives, with requests that nobody can count.
func (p *provider) reloads(rec record, instances []*instance) (clauses []string, unseen bool) {
	for _, in := range instances {
		was := rec.instance(in.endpoint).Process
		reloaded := was.PID != 0 && !was.same(in.process) // or it was not there
		var more []int
		if reloaded {
			more = []int{was.PID}
			clauses = append(clauses, fmt.Sprintf("HAProxy at %s was reloaded or restarted since the drain was prepared (process %d, now %d)",
				in.endpoint, was.PID, in.process.PID))
		}
		var alive []int
		visible := false
		if in.endpoint.network == "unix" {
			alive, visible = p.proc.former(in.process.PID, more)
		}
		switch {
		case len(alive) > 0:
			unseen = true
			clauses = append(clauses, fmt.Sprintf("its former process %s still finishes requests that cannot be counted",
				strings.Trim(fmt.Sprint(alive), "[]")))
		case reloaded && !visible:
			clauses = append(clauses, "whether its former process still finishes requests cannot be seen from here")
		case reloaded:
			clauses = append(clauses, "its former process has ended")
		}
	}
	return clauses, unseen
}
