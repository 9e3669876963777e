package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	orderName = ".order"
	orderTemp = ".order-new"
)

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
	temp := filepath.Join(s.releases, orderTemp)
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	for _, id := range order {
		if _, err = f.WriteString(id + "\n"); err != nil {
			break
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, filepath.Join(s.releases, orderName)); err != nil {
		return err
	}
	return syncDir(s.releases)
}
