package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"github.com/lockstep-deploy/lockstep/internal/atomicfile"
	"github.com/lockstep-deploy/lockstep/internal/strictjson"
)

const stateVersion = 1

// state is what the file says: whether the target is meant to be out.
type state struct {
	Version int       `json:"version"`
	Server  string    `json:"server"`
	Drained bool      `json:"drained"`
	At      time.Time `json:"at"`
	// Pollers are those that polled when the gate was closed. All of them must be
	// told, even by a gate that starts later.
	Pollers []netip.Addr `json:"pollers,omitempty"`
}

// maxState bounds what is read of a file that somebody else may have written.
const maxState = 64 << 10

// errBadState is of a file that says nothing that could be understood.
var errBadState = errors.New("the state file cannot be understood")

// loadState reads the file. Without one the target was never drained.
func loadState(path, server string) (state, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return state{Version: stateVersion, Server: server}, nil
	}
	if err != nil {
		return state{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return state{}, err
	}
	s, err := parseState(data)
	if err == nil && s.Server != server {
		err = fmt.Errorf("%w: it is of target %q, want %q", errBadState, s.Server, server)
	}
	if err != nil {
		return state{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func parseState(data []byte) (state, error) {
	if len(data) > maxState {
		return state{}, fmt.Errorf("%w: it is longer than %d bytes", errBadState, maxState)
	}
	var s state
	if err := strictjson.Decode(data, &s); err != nil {
		return state{}, fmt.Errorf("%w: %w", errBadState, err)
	}
	if s.Version != stateVersion {
		return state{}, fmt.Errorf("%w: it has version %d, want %d", errBadState, s.Version, stateVersion)
	}
	return s, nil
}

// save writes the file so that, whenever the machine stops, either the former
// or the new state is found.
func (s state) save(path string) error {
	s.Version = stateVersion
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(data, '\n'), 0o644) // the gate may run as another user
}
