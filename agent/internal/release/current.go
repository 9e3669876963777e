package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/atomicfile"
)

// Instance is the releases of an app as one of its instances uses them: which of
// them is current is each instance's own.
type Instance struct {
	*Store
	link string
}

// Instance returns the instance of that name, "" for the only one. Its link is
// current-<name>, or current.
func (s *Store) Instance(name string) Instance {
	link := currentName
	if name != "" {
		link += "-" + name
	}
	return Instance{s, filepath.Join(s.dir, link)}
}

// Current returns the release that the instance's link names, present or not, and
// "" when there is no link. One that is not a link to a release is an error:
// somebody else put it there.
func (i Instance) Current() (id string, err error) { return i.current(i.link) }

// inUse returns the releases that are current for any instance, also for those
// that are not asked for any more: they may well run.
func (s *Store) inUse() ([]string, error) {
	id, err := s.current(filepath.Join(s.dir, currentName))
	if err != nil {
		return nil, err
	}
	ids := []string{id}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		// What else somebody put beside them refers to no release.
		if strings.HasPrefix(e.Name(), currentName+"-") && e.Type() == fs.ModeSymlink {
			if id, err := s.current(filepath.Join(s.dir, e.Name())); err == nil {
				ids = append(ids, id)
			} else if fault.ReasonOf(err) != api.ReasonInternal {
				return nil, err
			}
		}
	}
	return ids, nil
}

func (s *Store) current(link string) (id string, err error) {
	fi, err := os.Lstat(link)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the current release: %w", err)
	}
	if fi.Mode().Type() != fs.ModeSymlink {
		return "", foreign(link, "a "+kind(fi.Mode()))
	}
	target, err := os.Readlink(link)
	if err != nil {
		return "", fmt.Errorf("cannot read the current release: %w", err)
	}
	path := target
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.dir, path)
	}
	for _, releases := range []string{s.releases, s.resolved} {
		id, ok := strings.CutPrefix(filepath.Clean(path), releases+string(filepath.Separator))
		if ok && validID.MatchString(id) {
			return id, nil
		}
	}
	return "", foreign(link, "a link to "+target)
}

func foreign(link, what string) error {
	return fault.Errorf(api.ReasonInternal,
		"cannot use %s: it is %s, expected a symbolic link to releases/<id>; move it away and deploy again", link, what)
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m.IsRegular():
		return "file"
	}
	return "special file"
}

// Switch makes release id the instance's current one by one atomic rename: whoever opens the link
// finds the old or the new release, never neither. The switch is on disk when
// Switch returns. An empty id removes the link. A release that is not present is
// [api.ReasonReleaseMissing].
func (i Instance) Switch(id string) error {
	s := i.Store
	s.mu.Lock()
	defer s.mu.Unlock()
	if id != "" {
		if err := checkID(id); err != nil {
			return err
		}
		present, err := isDir(s.Path(id))
		if err != nil {
			return fmt.Errorf("cannot switch to release %s: %w", id, err)
		}
		if !present {
			return fault.Errorf(api.ReasonReleaseMissing, "cannot switch to release %s: %s does not exist", id, s.Path(id))
		}
	}
	// A foreign file in the link's place must not be replaced.
	current, err := i.Current()
	if err != nil {
		return fmt.Errorf("cannot switch the current release: %w", err)
	}
	if err := s.relink(i.link, current, id); err != nil {
		return fmt.Errorf("cannot switch from release %q to %q: %w", current, id, err)
	}
	return nil
}

func (s *Store) relink(link, from, to string) error {
	switch {
	case to == "" && from == "":
		return nil
	case to == "":
		if err := os.Remove(link); err != nil {
			return err
		}
	default:
		// Recorded first: failing here leaves things as they were.
		if err := s.recordOrder(to); err != nil {
			return err
		}
		if from == to {
			return nil
		}
		temp := filepath.Join(s.dir, newLinkName)
		if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		// Relative, so that the app's directory can be moved or mounted elsewhere.
		if err := os.Symlink(filepath.Join(releasesName, to), temp); err != nil {
			return err
		}
		if err := os.Rename(temp, link); err != nil {
			return err
		}
	}
	return atomicfile.SyncDir(s.dir)
}
