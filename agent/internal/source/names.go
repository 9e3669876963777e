package source

import (
	"strings"

	"github.com/lockstep-deploy/lockstep/internal/gitstore"
)

// checkNames refuses names in one directory that would not be what they seem.
//
// Names that differ only in case are allowed, as in the kernel's own repository:
// where a file system does not tell them apart, making the second fails. Only
// beside a symbolic link are they refused, since what was meant for a directory
// could go where the link leads.
func checkNames(dir string, tree []gitstore.TreeEntry) error {
	taken := make(map[string]bool, len(tree))
	folded := make(map[string]gitstore.TreeEntry, len(tree)) // the first of those that differ only in case
	for _, e := range tree {
		path := join(dir, e.Name)
		if why := badName(e.Name); why != "" {
			return bad(path, why)
		}
		if len(path) > maxPath {
			return bad(path[:80]+"...", "is a path longer than Linux allows")
		}
		if taken[e.Name] {
			return bad(path, "is in the tree twice")
		}
		taken[e.Name] = true
		key := strings.ToLower(e.Name)
		twin, found := folded[key]
		if found && (twin.Mode == gitstore.ModeLink || e.Mode == gitstore.ModeLink) {
			return bad(path, "differs only in case from "+quote(join(dir, twin.Name))+", and one of them is a symbolic link; rename one of them")
		}
		if !found {
			folded[key] = e
		}
	}
	return nil
}

func badName(name string) string {
	switch {
	case name == "" || name == "." || name == "..":
		return "is not a file name"
	case strings.ContainsAny(name, "/\x00"):
		return "contains a character that file names cannot have"
	case len(name) > maxName:
		return "is a name longer than Linux allows"
	}
	for _, part := range strings.Split(name, `\`) {
		if isDotGit(part) {
			return "would be taken for a git repository, here or where it is copied to; rename it"
		}
	}
	return ""
}

// isDotGit tells whether a name is ".git" to some file system: in any case, with
// characters that HFS+ ignores, or as NTFS would also open it. They are those
// that git refuses (core.protectHFS, core.protectNTFS).
func isDotGit(name string) bool {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 0x200c && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x206a && r <= 0x206f, r == 0xfeff:
			return -1
		}
		return r
	}, name)
	name, _, _ = strings.Cut(name, ":") // a stream of a file
	name = strings.TrimRight(name, " .")
	return strings.EqualFold(name, ".git") || strings.EqualFold(name, "git~1")
}
