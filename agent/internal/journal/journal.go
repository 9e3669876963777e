// Package journal keeps what an agent must not forget: for each app the highest
// generation it accepted, the assignment it works on, how the last attempt at
// preparing went, and for each target the turn in progress and the outcome of
// the last one.
//
// A journal is one JSON document an app. It is replaced as a whole (temporary
// file, fsync, rename, fsync of the directory), so that after a crash at any
// instant it holds either all of a write or nothing of it. Whatever the agent
// is about to do is written first; what it finds there after a restart is then
// at most one step behind the world.
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/strictjson"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// Version is the format that this package writes and the only one it reads.
const Version = 1

// Doc is the journal of one app.
type Doc struct {
	Version    int    `json:"version"`
	App        string `json:"app"`
	Generation uint64 `json:"generation"` // highest accepted
	// Absent: the coordinator has stopped naming the app to this node. The
	// generation stays, in case that it comes back.
	Absent     bool               `json:"absent,omitempty"`
	Assignment *api.Assignment    `json:"assignment,omitempty"`
	Prepare    *Attempt           `json:"prepare,omitempty"`
	Command    *Command           `json:"command,omitempty"`
	Targets    map[string]*Target `json:"targets,omitempty"`
}

// Command is the release command that was claimed last. None of its number, or
// of a lower one, is ever begun again.
type Command struct {
	Release string `json:"release"`
	Number  uint64 `json:"number"`
	Rollout string `json:"rollout,omitempty"`
	// Begun is written before it is started, Done once its end is known, or is
	// known to be unknown.
	Begun  bool       `json:"begun,omitempty"`
	Since  time.Time  `json:"since,omitzero"`
	Runs   int        `json:"runs,omitempty"` // agents that waited for it
	Done   bool       `json:"done,omitempty"`
	OK     bool       `json:"ok,omitempty"`
	Reason api.Reason `json:"reason,omitempty"`
	Text   string     `json:"text,omitempty"`
}

// Attempt is the last attempt at preparing a release.
type Attempt struct {
	Release string `json:"release"`
	Number  int    `json:"number"`
	// Runs counts what was begun, of this and every release before: the output of
	// each has numbers of its own.
	Runs   int        `json:"runs"`
	Done   bool       `json:"done,omitempty"` // whatever the result
	Reason api.Reason `json:"reason,omitempty"`
	Text   string     `json:"text,omitempty"`
}

// Failed tells whether the attempt is over and brought no release.
func (a *Attempt) Failed() bool { return a.Done && a.Reason != "" }

// Target is what is kept of one target.
type Target struct {
	Turn    *Turn        `json:"turn,omitempty"`    // in progress
	Outcome *api.Outcome `json:"outcome,omitempty"` // of the last one that is over
	// Held is set while the target is out of rotation by the hand of a turn
	// that is over: how to put it back.
	Held *Held `json:"held,omitempty"`
}

// Held is how a target stood before a turn took it out and left it there.
type Held struct {
	Server   string           `json:"server"`
	Balancer api.Balancer     `json:"balancer"`
	Restore  lbclient.Restore `json:"restore"`
}

// Turn is a turn in progress. It carries all that it takes to finish or undo
// it, whatever the coordinator says meanwhile.
type Turn struct {
	Number   uint64       `json:"number"`
	Instance string       `json:"instance,omitempty"` // of the app; "" for the only one
	Release  string       `json:"release"`
	Fallback string       `json:"fallback,omitempty"`
	Server   string       `json:"server,omitempty"`
	Soak     api.Duration `json:"soak"`
	Rollout  string       `json:"rollout,omitempty"`
	Spec     api.Spec     `json:"spec"`
	// Recipes describe the release and the fallback, where they have hooks, a unit
	// that is generated, or a health check of their own.
	Recipes []api.Release `json:"recipes,omitempty"`

	// Step under way: written before its first effect.
	Step  api.Step  `json:"step"`
	Since time.Time `json:"since"`
	// Undo is set from the moment that the turn is given up: Step is then one
	// of going back to the fallback.
	Undo *Undo `json:"undo,omitempty"`

	// Restore is how the target stood in the balancer before the turn.
	Restore *lbclient.Restore `json:"restore,omitempty"`
	// OutSince is when it last left rotation, Out how long it was out before.
	OutSince *time.Time   `json:"out_since,omitempty"`
	Out      api.Duration `json:"out"`

	// Before is the unit's invocation that a restart is to replace; Running the
	// one that the restart brought about.
	Before  string `json:"before,omitempty"`
	Running string `json:"running,omitempty"`
	// Restarted: a restart was asked for in this turn, or the machine went down.
	Restarted bool `json:"restarted,omitempty"`
	// Boot names the boot of the machine in which the turn was begun or resumed last.
	Boot string `json:"boot,omitempty"`

	Steps []api.StepTime `json:"steps,omitempty"`
}

// Undo says why a turn is being undone.
type Undo struct {
	From   api.Step   `json:"from"` // the step that failed
	Reason api.Reason `json:"reason"`
	Text   string     `json:"text"`
}

// Decode reads a document of the given app and checks that it can be worked
// with.
func Decode(app string, b []byte) (*Doc, error) {
	// The version first: another one explains every other surprise.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, err
	}
	if head.Version != Version {
		return nil, fmt.Errorf("it has format version %d, and this agent reads version %d", head.Version, Version)
	}
	var d Doc
	if err := strictjson.Decode(b, &d); err != nil {
		return nil, err
	}
	if err := d.check(app); err != nil {
		return nil, err
	}
	return &d, nil
}

// Encode is the inverse of [Decode].
func Encode(d *Doc) ([]byte, error) {
	b, err := json.MarshalIndent(d, "", "\t")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

func (d *Doc) check(app string) error {
	if d.App != app {
		return fmt.Errorf("it is of app %q, expected %q", d.App, app)
	}
	if a := d.Assignment; a != nil {
		if a.App != app {
			return fmt.Errorf("its assignment is of app %q, expected %q", a.App, app)
		}
		if a.Generation != d.Generation {
			return fmt.Errorf("its assignment has generation %d, expected %d", a.Generation, d.Generation)
		}
	}
	if p := d.Prepare; p != nil && p.Release == "" {
		return errors.New("its attempt at preparing names no release")
	}
	if c := d.Command; c != nil && (c.Number == 0 || c.Release == "") {
		return errors.New("its release command has no number, or names no release")
	}
	for name, t := range d.Targets {
		if t == nil || name == "" {
			return fmt.Errorf("target %q is empty", name)
		}
		if t.Turn == nil {
			continue
		}
		if err := t.Turn.check(); err != nil {
			return fmt.Errorf("the turn of target %q %w", name, err)
		}
		if t.Outcome != nil && t.Outcome.Turn >= t.Turn.Number {
			return fmt.Errorf("the turn of target %q has number %d, and turn %d is over already", name, t.Turn.Number, t.Outcome.Turn)
		}
	}
	return nil
}

func (t *Turn) check() error {
	switch {
	case t.Number == 0:
		return errors.New("has no number")
	case t.Release == "":
		return errors.New("names no release")
	case t.Spec.Unit == "":
		return errors.New("names no unit")
	case t.Undo != nil && t.Undo.Reason == "":
		return errors.New("is being undone for no reason")
	case t.Undo != nil && !activating[t.Undo.From]:
		return fmt.Errorf("failed in %q, which is no step of activating", t.Undo.From)
	case !activating[t.Step]:
		return fmt.Errorf("stands at %q, which is no step of activating", t.Step)
	case needsRestore(t) && t.Restore == nil:
		return fmt.Errorf("stands at %q and does not tell how the target stood before", t.Step)
	}
	return nil
}

func needsRestore(t *Turn) bool {
	if t.Undo != nil {
		return t.Undo.From != api.StepSnapshot
	}
	return t.Step != api.StepSnapshot
}

var activating = map[api.Step]bool{
	api.StepSnapshot: true, api.StepDrain: true, api.StepSwitch: true, api.StepRestart: true,
	api.StepBeforeDrain: true, api.StepAfterDrain: true, api.StepWhileStopped: true, api.StepBeforeRejoin: true, api.StepAfterRejoin: true,
	api.StepVerify: true, api.StepRejoin: true, api.StepSoak: true, api.StepRevert: true,
}
