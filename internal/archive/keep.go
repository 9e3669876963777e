package archive

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Keep removes from the tree in dir whatever none of the patterns names. A
// pattern is a path in which each part may hold wildcards as in [path.Match]; it
// stands for all below what it names. The first pattern that names nothing is
// returned, and then nothing was removed.
func Keep(dir string, patterns []string) (missing string, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", fmt.Errorf("cannot keep only the artifact: %w", err)
	}
	defer root.Close()
	matched := make([]bool, len(patterns))
	var doomed []string
	err = fs.WalkDir(root.FS(), ".", func(at string, d fs.DirEntry, err error) error {
		if err != nil || at == "." {
			return err
		}
		above, named := false, false
		for i, p := range patterns {
			switch matches(p, at) {
			case full:
				named, matched[i] = true, true
			case partly:
				above = true
			}
		}
		switch {
		case named && d.IsDir():
			return fs.SkipDir
		case named, above && d.IsDir():
		case d.IsDir():
			doomed = append(doomed, at)
			return fs.SkipDir
		default:
			doomed = append(doomed, at)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("cannot keep only the artifact: %w", err)
	}
	if i := slices.Index(matched, false); i >= 0 {
		return patterns[i], nil
	}
	for _, at := range doomed {
		if err := root.RemoveAll(filepath.FromSlash(at)); err != nil {
			return "", fmt.Errorf("cannot keep only the artifact: %w", err)
		}
	}
	return "", nil
}

type match int

const (
	none   match = iota
	partly       // the pattern may name something below the path
	full
)

func matches(pattern, at string) match {
	want, have := strings.Split(pattern, "/"), strings.Split(at, "/")
	for i, name := range have {
		if i == len(want) {
			return full
		}
		if ok, err := path.Match(want[i], name); err != nil || !ok {
			return none
		}
	}
	if len(have) < len(want) {
		return partly
	}
	return full
}
