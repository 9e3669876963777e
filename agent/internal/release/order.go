package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lockstep-deploy/lockstep/internal/atomicfile"
)

const orderName = ".order"

// order returns the present releases, least recently used first. It is the order
// file, without what is gone; a release that the file does not name was committed
// just before a crash, so it is the most recent.
func (s *Store) order() ([]string, error) {
	present, err := s.Present()
	if err != nil {
		return nil, err
	}
	recorded, err := s.recorded()
	if err != nil {
		return nil, err
	}
	var order []string
	for _, id := range recorded {
		if slices.Contains(present, id) && !slices.Contains(order, id) {
			order = append(order, id)
		}
	}
	for _, id := range present {
		if !slices.Contains(order, id) {
			order = append(order, id)
		}
	}
	return order, nil
}

func (s *Store) recorded() ([]string, error) {
	data, err := os.ReadFile(filepath.Join(s.releases, orderName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the order of releases: %w", err)
	}
	return strings.Fields(string(data)), nil
}

// recordOrder brings the order file up to date, with newest (unless "") as the
// most recently used release.
func (s *Store) recordOrder(newest string) error {
	order, err := s.order()
	if err != nil {
		return err
	}
	if newest != "" {
		order = append(slices.DeleteFunc(order, func(id string) bool { return id == newest }), newest)
	}
	recorded, err := s.recorded()
	if err != nil {
		return err
	}
	if slices.Equal(order, recorded) {
		return nil
	}
	if err := s.writeOrder(order); err != nil {
		return fmt.Errorf("cannot record the order of releases: %w", err)
	}
	return nil
}

func (s *Store) writeOrder(order []string) error {
	text := strings.Join(append(order, ""), "\n")
	return atomicfile.Write(filepath.Join(s.releases, orderName), []byte(text), 0o644)
}
