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
)

const sharedName = "shared"

// SharedPath is where what all releases share as path is kept.
func (s *Store) SharedPath(path string) string { return filepath.Join(s.dir, sharedName, path) }

// SharedPaths is all that the app's own commands may write to for what is shared:
// the directory itself, in which programs put files beside theirs, and each of the
// paths, which may be a link to elsewhere.
func (s *Store) SharedPaths(paths []string) []string {
	all := []string{filepath.Join(s.dir, sharedName)}
	for _, p := range paths {
		all = append(all, s.SharedPath(p))
	}
	return all
}

// CheckShared makes the shared directories, those of the paths that end in a
// slash, and tells of a file that is missing; [api.ReasonSharedMissing].
func (s *Store) CheckShared(paths []string) error {
	for _, p := range paths {
		at := s.SharedPath(p)
		if err := checkShared(p); err != nil {
			return err
		}
		if strings.HasSuffix(p, "/") {
			if err := os.MkdirAll(at, 0o755); err != nil {
				return fmt.Errorf("cannot make the shared directory %s: %w", p, err)
			}
			continue
		}
		fi, err := os.Stat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// The way there is made, so that one command is enough to create it.
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				return fmt.Errorf("cannot make the directory of the shared file %s: %w", p, err)
			}
			return fault.Errorf(api.ReasonSharedMissing, "the shared file %s does not exist on this node: create %s, readable by whom the app runs as", p, at)
		case err != nil:
			return fmt.Errorf("cannot look at the shared file %s: %w", p, err)
		case fi.IsDir():
			return fault.Errorf(api.ReasonSharedMissing, "the shared file %s is a directory on this node: put a file in the place of %s, or write %s/ under shared", p, at, p)
		}
	}
	return nil
}

// LinkShared puts links to what is shared into what is staged in dir, in the place
// of what is there, and returns which paths it replaced.
func (s *Store) LinkShared(dir string, paths []string) (replaced []string, err error) {
	if err := s.CheckShared(paths); err != nil {
		return nil, err
	}
	for _, p := range paths {
		was, err := s.linkShared(dir, p)
		if err != nil {
			return replaced, fmt.Errorf("cannot link what is shared as %s: %w", p, err)
		}
		if was {
			replaced = append(replaced, p)
		}
	}
	return replaced, nil
}

func (s *Store) linkShared(dir, path string) (replaced bool, err error) {
	parts := strings.Split(filepath.Clean(path), "/")
	at := dir
	for _, part := range parts[:len(parts)-1] {
		at = filepath.Join(at, part)
		// What a link leads to is not of this release.
		fi, err := os.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if err := os.Mkdir(at, 0o755); err != nil {
				return false, err
			}
		case err != nil:
			return false, err
		case !fi.IsDir():
			return false, fault.Errorf(api.ReasonBadTree, "%s is no directory in the release", strings.TrimPrefix(at, dir+"/"))
		}
	}
	at = filepath.Join(at, parts[len(parts)-1])
	if _, err := os.Lstat(at); err == nil {
		replaced = true
		if err := removeTree(at); err != nil {
			return false, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	// Relative, so that the app's directory can be moved or mounted elsewhere. The
	// release is two directories below it, staged or complete.
	up := strings.Repeat("../", len(parts)+1)
	return replaced, os.Symlink(up+sharedName+"/"+strings.Join(parts, "/"), at)
}

func checkShared(path string) error {
	clean := filepath.Clean(path)
	if !filepath.IsLocal(clean) || clean == "." || strings.Contains(path, "\x00") {
		return fault.Errorf(api.ReasonBadTree, "cannot share %q: expected a path below the release", path)
	}
	return nil
}

// IsShared tells whether a path of a release is one of those that it shares, or
// lies below one.
func IsShared(path string, paths []string) bool {
	for _, p := range paths {
		p = filepath.Clean(p)
		if path == p || strings.HasPrefix(path, p+"/") {
			return true
		}
	}
	return false
}
