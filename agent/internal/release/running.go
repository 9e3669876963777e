package release

import (
	"os"
	"path/filepath"
)

// running returns the releases that the executable or the working directory of a
// process lies in: a worker that an app's reload left behind, say. Of processes
// that the agent may not look at it knows nothing.
func (s *Store) running() (map[string]bool, error) {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, p := range processes {
		for _, link := range []string{"exe", "cwd"} {
			// It may be gone by now, or another user's.
			if path, err := os.Readlink(filepath.Join(p, link)); err == nil {
				if id, ok := s.Of(path); ok {
					found[id] = true
				}
			}
		}
	}
	return found, nil
}
