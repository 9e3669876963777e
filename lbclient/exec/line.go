package exec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lockstep-deploy/lockstep/internal/strictjson"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// maxLine bounds what a program may say on its standard output.
const maxLine = 64 << 10

// line is what a program says. Which fields count depends on the stage.
type line struct {
	// When it failed.
	Class lbclient.Class `json:"class,omitempty"`
	Error string         `json:"error,omitempty"`
	// observe; Epoch also with drain-status
	Members []member `json:"members,omitempty"`
	Epoch   string   `json:"epoch,omitempty"`
	// snapshot
	WasServing *bool           `json:"was_serving,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"`
	// drain-status, rejoin-status
	Stage    string `json:"stage,omitempty"`
	InFlight *int64 `json:"in_flight,omitempty"`
	Evidence string `json:"evidence,omitempty"`
}

type member struct {
	Name     string         `json:"name"`
	Phase    lbclient.Phase `json:"phase"`
	InFlight *int64         `json:"in_flight,omitempty"`
	Detail   string         `json:"detail,omitempty"`
}

// parseLine reads a program's standard output: nothing, or one JSON object on
// one line. Unknown keys are refused, for a mistyped one would be lost.
func parseLine(out []byte) (line, error) {
	out = bytes.TrimSpace(out)
	if len(out) == 0 {
		return line{}, nil
	}
	if len(out) > maxLine {
		return line{}, fmt.Errorf("it is longer than %d bytes", maxLine)
	}
	if bytes.ContainsAny(out, "\n\r") {
		return line{}, errors.New("it is more than one line; write messages to standard error")
	}
	if out[0] != '{' {
		return line{}, errors.New("it is no JSON object; write messages to standard error")
	}
	var l line
	if err := strictjson.Decode(out, &l); err != nil {
		return line{}, err
	}
	return l, l.check()
}

func (l line) check() error {
	if l.Class != "" && !classes[l.Class] {
		return fmt.Errorf("%q is no class of errors", l.Class)
	}
	if err := checkCount("in_flight", l.InFlight); err != nil {
		return err
	}
	names := make(map[string]bool)
	for _, m := range l.Members {
		switch {
		case m.Name == "":
			return errors.New("a member has no name")
		case names[m.Name]:
			return fmt.Errorf("member %s is listed twice", m.Name)
		case !phases[m.Phase]:
			return fmt.Errorf("member %s: %q is no phase", m.Name, m.Phase)
		}
		if err := checkCount("in_flight of member "+m.Name, m.InFlight); err != nil {
			return err
		}
		names[m.Name] = true
	}
	return nil
}

func checkCount(what string, n *int64) error {
	if n != nil && *n < -1 {
		return fmt.Errorf("%s is %d, want 0 or more, or -1 when it is not known", what, *n)
	}
	return nil
}

var classes = map[lbclient.Class]bool{
	lbclient.ClassTransient: true, lbclient.ClassBusy: true, lbclient.ClassRateLimited: true, lbclient.ClassConflict: true,
	lbclient.ClassAmbiguous: true, lbclient.ClassNotFound: true, lbclient.ClassDenied: true, lbclient.ClassUnsupported: true,
	lbclient.ClassUnsafe: true, lbclient.ClassInvalid: true,
}

var phases = map[lbclient.Phase]bool{
	lbclient.PhaseUnknown: true, lbclient.PhaseAbsent: true, lbclient.PhaseForeignOut: true, lbclient.PhaseUnhealthy: true,
	lbclient.PhasePending: true, lbclient.PhaseDraining: true, lbclient.PhaseServing: true,
}
