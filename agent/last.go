package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/journal"
	"github.com/lockstep-deploy/lockstep/agent/internal/sandbox"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

const (
	// lastEvery is how often it is asked anew whether the app's targets are to be
	// last, while a rollout may give them their turn.
	lastEvery = 10 * time.Second
	// lastYes is the last line of output of a command that succeeded. One that
	// merely says no is told from one that could not be asked.
	lastYes    = "lockstep:last"
	lastScript = "if (\n%s\n); then echo " + lastYes + "; else s=$?; [ $s -le 125 ] || exit $s; fi"
)

// lastTimeout is how long the command may take; tests on a busy machine give it
// more.
var lastTimeout = 10 * time.Second

var errLastTimeout = errors.New("the command took too long")

// lastAnswer is what the app's last_if said last.
type lastAnswer struct {
	given bool // since a release is asked to be prepared
	yes   bool
	text  string // why there is no telling
}

// lastIf is the command to ask, "" while there is none, or no rollout that could
// give a turn.
func lastIf(d *journal.Doc) string {
	if d.Absent || d.Assignment == nil || d.Assignment.Prepare == nil {
		return ""
	}
	return d.Assignment.Spec.LastIf
}

// lastLoop asks the app's last_if again and again while a rollout may give a turn.
func (p *app) lastLoop() {
	for n := 1; p.a.stop.Err() == nil; n++ {
		wait := time.Hour
		if d := p.file.Read(); lastIf(d) != "" {
			p.answered(p.askLast(d, n))
			wait = lastEvery
		} else {
			p.answered(lastAnswer{})
		}
		timer := time.NewTimer(wait)
		select {
		case <-p.toAsk:
		case <-timer.C:
		case <-p.a.stop.Done():
		}
		timer.Stop()
	}
}

func (p *app) answered(l lastAnswer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == l || p.a.stop.Err() != nil {
		return
	}
	if l.text != "" && l.text != p.last.text {
		p.log.Warn("cannot tell whether the app's targets are to be last; they are not", "error", l.text)
	}
	p.last = l
	p.a.notify()
}

// askLast runs the command in what is current, as whom builds run as. It may write
// nowhere.
func (p *app) askLast(d *journal.Doc, n int) lastAnswer {
	ctx, cancel := context.WithTimeoutCause(p.a.stop, lastTimeout, errLastTimeout)
	defer cancel()
	var out bytes.Buffer
	err := p.a.deps.Sandbox.Run(ctx, sandbox.Job{
		Name: fmt.Sprintf("%s.%s.last_if.%d.%d", p.name, p.a.identity.Instance, p.a.identity.Epoch, n), What: "last_if",
		Reason: api.ReasonInternal, Commands: []string{fmt.Sprintf(lastScript, lastIf(d))}, Dir: p.currentDir(d),
		Env: environment(p.ofNode()), User: p.a.cfg.BuildUser, Grace: time.Second,
	}, &out)
	l := lastAnswer{given: true}
	switch {
	case errors.Is(err, errLastTimeout):
		l.text = fmt.Sprintf("order.last_if: no answer in %s", lastTimeout)
	case err != nil:
		l.text = clip("order.last_if: " + err.Error())
	default:
		l.yes = bytes.HasSuffix(bytes.TrimSpace(out.Bytes()), []byte("\n"+lastYes))
	}
	return l
}

// currentDir is the directory of the release that the app's first target is on,
// or the app's own before there is one.
func (p *app) currentDir(d *journal.Doc) string {
	for _, g := range goals(d) {
		if id, err := p.store.Instance(g.Instance).Current(); err == nil && id != "" {
			return p.store.Path(id)
		}
	}
	return filepath.Join(p.a.cfg.Apps, p.name)
}
