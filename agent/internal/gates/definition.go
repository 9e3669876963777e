// Package gates keeps the health gates of a node: which there are, as the agent
// writes it down for each target, and one handler that serves them all.
//
// The agent writes, and the process that balancers poll reads: they share the
// directory and nothing else, so that an agent that stops, crashes or is
// replaced takes nobody out of rotation.
package gates

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/lockstep-deploy/lockstep/agent/internal/health"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/atomicfile"
	"github.com/lockstep-deploy/lockstep/internal/strictjson"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/gate"
)

// version is of the definitions' form.
const version = 1

// Definition is all that serving the gate of one target takes.
type Definition struct {
	Version int    `json:"version"`
	Server  string `json:"server"` // the target's name among the balancer's members
	// Gate is as the assignment has it, with the check always there.
	Gate   api.Gate        `json:"gate"`
	Health api.HealthCheck `json:"health"` // of the app
}

// Files are where the gate of a target is kept.
type Files struct {
	Definition string // written by the agent
	State      string // whether it is closed; written by the agent
	Hold       string // while it exists the gate is closed; for people
}

const suffix = ".json"

// FilesOf returns the files of a target in the directory of the gates. It
// refuses a target whose name is no file's.
func FilesOf(dir, target string) (Files, error) {
	if target == "" || target[0] == '.' || strings.ContainsAny(target, "/\x00") || len(target) > 200 {
		return Files{}, fmt.Errorf("cannot keep a gate for target %q: it cannot name a file", target)
	}
	base := filepath.Join(dir, target)
	return Files{Definition: base + suffix, State: base + ".state", Hold: base + ".hold"}, nil
}

// Dir is the directory of the gates in an agent's state directory.
func Dir(state string) string { return filepath.Join(state, "gates") }

// maxDefinition bounds what is read of a file that somebody else may have written.
const maxDefinition = 256 << 10

// Load reads a definition. The error of a file that is not there is
// [fs.ErrNotExist].
func Load(file string) (Definition, error) {
	f, err := os.Open(file)
	if err != nil {
		return Definition{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDefinition+1))
	if err != nil {
		return Definition{}, err
	}
	return parse(b)
}

func parse(b []byte) (Definition, error) {
	var d Definition
	if len(b) > maxDefinition {
		return d, fmt.Errorf("it is longer than %d bytes", maxDefinition)
	}
	if err := strictjson.Decode(b, &d); err != nil {
		return Definition{}, err
	}
	if d.Version != version {
		return Definition{}, fmt.Errorf("it has version %d, want %d", d.Version, version)
	}
	return d, nil
}

// Write makes d the definition in the file, unless it is already: whenever the
// machine stops, the file says what it said or what d says.
func Write(file string, d Definition) error {
	d.Version = version
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	switch is, err := os.ReadFile(file); {
	case err == nil && bytes.Equal(is, b):
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return atomicfile.Write(file, b, 0o644) // the gate may run as another user
}

// open makes the gate that d describes. Its errors are of class
// [lbclient.ClassInvalid].
func (d Definition) open(f Files) (*gate.Gate, error) {
	invalid := func(text string, err error) error {
		return &lbclient.Error{Class: lbclient.ClassInvalid, Op: "make the gate of " + d.Server, Text: text, Err: err}
	}
	check := health.FromAPI(d.Health)
	if check.None() {
		return nil, invalid("the app has no health check that it could ask; write health: {http: …} or {tcp: …} in fleet.yaml", nil)
	}
	if d.Gate.Check == nil {
		return nil, invalid("it does not say how the balancer checks", nil)
	}
	o := gate.Options{
		Server: d.Server, File: f.State, HoldFile: f.Hold, Path: d.Gate.Path, Refusal: d.Gate.Refusal, MinPollers: d.Gate.MinPollers,
		Check: lbclient.Timing{Interval: d.Gate.Check.Interval.D(), Timeout: d.Gate.Check.Timeout.D(), Fall: d.Gate.Check.Fall, Rise: d.Gate.Check.Rise},
		App: func(ctx context.Context) error {
			if p := check.Probe(ctx); !p.OK {
				return errors.New(p.Text)
			}
			return nil
		},
	}
	for _, s := range d.Gate.Pollers {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, invalid("a poller is no address range", err)
		}
		o.Pollers = append(o.Pollers, p)
	}
	return gate.Open(o)
}

// Check tells whether a gate can be made of d. Its errors are of class
// [lbclient.ClassInvalid].
func (d Definition) Check(f Files) error {
	_, err := d.open(f)
	return err
}
