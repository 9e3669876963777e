// Package configcheck reads a fleet file as the coordinator would. It is apart
// from package coordinator so that a command which only checks files need not
// carry a coordinator within.
package configcheck

import "github.com/lockstep-deploy/lockstep/coordinator/internal/config"

// Check reads the fleet file at path, without needing the secrets that it
// names. It returns the complete configuration in effect, as a fleet file with
// every default filled in, and what is allowed but hardly meant. The error
// lists everything that is wrong, each with file and line.
func Check(path string) (effective []byte, warnings []string, err error) {
	fleet, err := config.Load(path, config.CheckOnly)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range fleet.Warnings {
		warnings = append(warnings, w.String())
	}
	return fleet.Defaults(), warnings, nil
}
