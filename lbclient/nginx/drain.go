package nginx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// watch is how often nginx's processes are looked at while a reload is awaited.
const watch = 20 * time.Millisecond

// BeginDrain implements [lbclient.Provider]. It returns once the workers that
// take connections have read the change, and else puts the line back. Others
// are counted by their lines, under the lock that every agent on the machine
// takes; at least one must remain whatever minHealthy says, for nginx answers
// 502 when all are down.
func (p *provider) BeginDrain(ctx context.Context, r lbclient.Restore, minHealthy int) error {
	op := p.op("drain")
	if _, err := p.decode(op, r); err != nil {
		return err
	}
	if minHealthy < 0 {
		return &lbclient.Error{Class: lbclient.ClassInvalid, Op: op,
			Text: fmt.Sprintf("the number of other members that must serve is %d, want 0 or more", minHealthy)}
	}
	ctx, cancel := p.bounded(ctx)
	defer cancel()
	unlock, err := p.lock(ctx, op)
	if err != nil {
		return err
	}
	defer unlock()
	now, f, servers, err := p.stands(ctx, op)
	if err != nil {
		return err
	}
	todo := 0
	for _, s := range servers {
		if s.down() {
			if !s.drained() {
				return f.foreign(op, s)
			}
			continue
		}
		todo++
		if err := f.enough(op, now, s, minHealthy); err != nil {
			return err
		}
	}
	if todo == 0 {
		// Another process may have ended between the edit and the reload.
		if at := latest(servers); !now.tookUp(at) {
			_, err := p.apply(ctx, op, f, at)
			return err
		}
		return nil
	}
	if err := f.changeable(op); err != nil {
		return err
	}
	if err := p.test(ctx, op, f, lbclient.ClassInvalid); err != nil {
		return err
	}
	at, changed, err := p.moment(ctx, op)
	if err != nil {
		return err
	}
	if err := f.write(op, replace(f.src, servers, func(s *server) string { return s.marked(at) }), changed); err != nil {
		return err
	}
	if asked, err := p.apply(ctx, op, f, at); err != nil {
		return p.undo(ctx, f, at, asked, err)
	}
	return nil
}

// enough refuses with ClassUnsafe when too few others serve beside the target.
func (f *file) enough(op string, now *running, target *server, minHealthy int) error {
	var regular, any int
	var out []string
	for _, b := range f.blocks {
		if b.name != target.upstream {
			continue
		}
		for _, s := range b.servers {
			switch {
			case s == target:
			case s.down():
				out = append(out, s.address()+" is down")
			case s.mark.word == markRejoining && !s.inForce(now, f):
				out = append(out, s.address()+" is on its way back")
			default:
				any++
				if s.backup() {
					out = append(out, s.address()+" is a backup")
				} else {
					regular++
				}
			}
		}
		op = fmt.Sprintf("%s (%s)", op, f.describe(b))
	}
	why := strings.Join(out, ", ")
	if why == "" {
		why = "there are no more"
	}
	switch {
	case regular < minHealthy:
		return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: op,
			Text: fmt.Sprintf("%d other members are in use there and %d must be: %s", regular, minHealthy, why)}
	case any == 0:
		return &lbclient.Error{Class: lbclient.ClassUnsafe, Op: op,
			Text: "all members would be down, and nginx would answer 502: " + why}
	}
	return nil
}

// latest is the newest instant in the servers' marks.
func latest(servers []*server) instant {
	var out instant
	for _, s := range servers {
		if m := s.mark; m.word != "" && (m.at.boot != out.boot || m.at.ticks > out.ticks) {
			out = m.at
		}
	}
	return out
}

// errNotTaken is returned when a reload did nothing.
var errNotTaken = errors.New("no new worker processes took over")

// apply reloads nginx and waits until the workers that take connections have
// read what was on disk at an instant. A reload that succeeds proves nothing.
// Asked tells whether nginx was told to reload.
func (p *provider) apply(ctx context.Context, op string, f *file, at instant) (asked bool, err error) {
	if err := p.test(ctx, op, f, lbclient.ClassConflict); err != nil {
		return false, err
	}
	if out, words, err := run(ctx, p.cfg.Reload); err != nil {
		return true, commandError(ctx, op, p.cfg.Reload, words+out, err, lbclient.ClassTransient)
	}
	for {
		r, err := p.look(ctx, op)
		if err == nil && r.tookUp(at) {
			return true, nil
		}
		if ctx.Err() != nil {
			return true, &lbclient.Error{Class: lbclient.ClassTransient, Op: op,
				Text: fmt.Sprintf("%q succeeded, but nginx does not run with the change; see its error log", strings.Join(p.cfg.Reload, " ")),
				Err:  errors.Join(errNotTaken, context.Cause(ctx))}
		}
		if err != nil {
			return true, err
		}
		// Its error says no more than ctx does, which is looked at above.
		_ = pause(ctx, op, watch)
	}
}

// undo puts back the lines that were marked at an instant, and returns cause
// with what became of them, reloading again if a reload was asked for. It works on after ctx has ended, within the reload
// timeout, for a drain half done has nobody in charge.
func (p *provider) undo(ctx context.Context, before *file, at instant, asked bool, cause error) error {
	ctx, cancel := p.bounded(context.WithoutCancel(ctx))
	defer cancel()
	op := p.op("undo the drain of")
	note := fmt.Sprintf("its line in %s was put back", before.path)
	if err := p.unmark(ctx, op, before, at, asked); err != nil {
		note = fmt.Sprintf("and its line in %s may be marked down still (%v), so a rejoin must follow", before.path, err)
	}
	return lbclient.Noted(cause, note)
}

func (p *provider) unmark(ctx context.Context, op string, before *file, at instant, asked bool) error {
	f, err := p.read(ctx, op)
	if err != nil {
		return err
	}
	servers, err := p.find(op, f)
	if err != nil {
		return err
	}
	var ours []*server
	for _, s := range servers {
		if s.drained() && s.mark.at == at {
			ours = append(ours, s)
		}
	}
	if len(ours) == 0 {
		return nil
	}
	text := replace(f.src, ours, (*server).back)
	changed := time.Time{}
	switch {
	case asked:
		// Without nginx there is no telling when, and the line is put back all the same.
		if _, when, err := p.moment(ctx, op); err == nil {
			changed = when
		}
	case text == before.src:
		changed = before.info.ModTime()
	}
	if err := f.write(op, text, changed); err != nil {
		return err
	}
	if !asked {
		return nil
	}
	// The master may have read the mark after all, or be about to.
	if out, words, err := run(ctx, p.cfg.Reload); err != nil {
		return commandError(ctx, op, p.cfg.Reload, words+out, err, lbclient.ClassTransient)
	}
	return nil
}

// DrainStatus implements [lbclient.Provider]. The drain is busy while workers
// live that read the file before the mark was set, because one of them may hold
// a request for the target; how many, nobody can say.
func (p *provider) DrainStatus(ctx context.Context, r lbclient.Restore) (lbclient.DrainStatus, error) {
	op := p.op("look at the drain of")
	rec, err := p.decode(op, r)
	if err != nil {
		return lbclient.DrainStatus{}, err
	}
	now, f, servers, err := p.stands(ctx, op)
	if err != nil {
		return lbclient.DrainStatus{}, err
	}
	out := lbclient.DrainStatus{InFlight: -1, Epoch: epoch(now, f)}
	var lost []string
	for _, s := range servers {
		if !s.drained() {
			lost = append(lost, fmt.Sprintf("line %d of %s is %q", s.line, f.path, strings.TrimSpace(s.text)))
		}
	}
	if len(lost) > 0 {
		out.Stage, out.Evidence = lbclient.DrainNotAsked, strings.Join(lost, "; ")
		return out, nil
	}
	at := latest(servers)
	taking, finishing := now.old(at)
	where := fmt.Sprintf("marked down in line %d of %s", servers[0].line, f.path)
	switch {
	case !now.tookUp(at):
		out.Stage = lbclient.DrainAccepted
		where += fmt.Sprintf("; nginx has not read it: %d worker processes from before take connections", taking)
	case finishing > 0:
		out.Stage = lbclient.DrainBusy
		where += fmt.Sprintf("; %d worker processes from before still finish requests, of whichever target", finishing)
	default:
		out.Stage, out.InFlight = lbclient.DrainIdle, 0
		where += "; all worker processes from before have ended"
	}
	out.Evidence = strings.Join(append([]string{where}, rec.edited(servers)...), "; ")
	return out, nil
}
