package journal

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/lockstep-deploy/lockstep/internal/atomicfile"
)

// Identity tells one life of one state directory from every other.
type Identity struct {
	Version  int    `json:"version"`
	Instance string `json:"instance"` // random, written with the directory
	Epoch    uint64 `json:"epoch"`    // counts the starts
}

// NextEpoch begins a new epoch in the file at path, creating it when missing,
// and returns it once it is on disk.
func NextEpoch(path string) (Identity, error) {
	var id Identity
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		id = Identity{Version: Version, Instance: rand.Text()}
	case err != nil:
		return Identity{}, fmt.Errorf("cannot read the agent's identity: %w", err)
	default:
		if id, err = decodeIdentity(b); err != nil {
			return Identity{}, fmt.Errorf("cannot read the agent's identity from %s: %w; "+
				"move the file away, and the agent makes a new one", path, err)
		}
	}
	id.Epoch++
	if b, err = json.Marshal(id); err != nil {
		return Identity{}, fmt.Errorf("cannot encode the agent's identity: %w", err)
	}
	if err := atomicfile.Write(path, append(b, '\n'), 0o600); err != nil {
		return Identity{}, fmt.Errorf("cannot write the agent's identity: %w", err)
	}
	return id, nil
}

func decodeIdentity(b []byte) (Identity, error) {
	var id Identity
	if err := json.Unmarshal(b, &id); err != nil {
		return Identity{}, err
	}
	if id.Version != Version {
		return Identity{}, fmt.Errorf("it has format version %d, and this agent reads version %d", id.Version, Version)
	}
	if id.Instance == "" {
		return Identity{}, errors.New("it names no instance")
	}
	return id, nil
}
