package source

import (
	"context"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Bounds of what is written: a tree may repeat itself and so be far larger than
// what was fetched. The lengths are those of the kernel.
const (
	maxEntries = 1_000_000
	maxName    = 255
	maxPath    = 4095
)

// plan is what writing a commit's tree amounts to, checked before anything is
// written.
type plan struct {
	dirs  []string // parents first
	files []entry
	links []link
}

type link struct {
	path, target string
}

// newPlan reads the tree and refuses what cannot be written safely.
func newPlan(ctx context.Context, st *filesystem.Storage, root plumbing.Hash) (*plan, error) {
	p := &plan{}
	targets := map[string]string{}
	// Names differ from their siblings also for file systems and programs that do
	// not tell upper from lower case.
	folded := map[string]string{}
	err := walk(st, root, func(e entry) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, context.Cause(ctx)
		}
		if why := badName(e.name); why != "" {
			return false, bad(e.path, why)
		}
		if len(e.path) > maxPath {
			return false, bad(e.path[:80]+"...", "is a path longer than Linux allows")
		}
		if len(folded) >= maxEntries {
			return false, bad(e.path, "is beyond the supported number of files")
		}
		key := strings.ToLower(e.path)
		if twin, taken := folded[key]; taken {
			if twin == e.path {
				return false, bad(e.path, "is in the tree twice")
			}
			return false, bad(e.path, "differs only in case from "+quote(twin)+"; rename one of them")
		}
		folded[key] = e.path

		switch e.mode {
		case filemode.Dir:
			p.dirs = append(p.dirs, e.path)
			return true, nil
		case filemode.Regular, filemode.Deprecated, filemode.Executable:
			p.files = append(p.files, e)
		case filemode.Symlink:
			target, err := readObject(st, plumbing.BlobObject, e.hash, maxPath)
			if err != nil {
				return false, err
			}
			p.links = append(p.links, link{e.path, string(target)})
			targets[e.path] = string(target)
		case filemode.Submodule:
			return false, bad(e.path, "is a submodule; submodules are not supported yet: "+
				"commit the files themselves, or get them in a build command")
		default:
			return false, bad(e.path, "has the unknown file mode "+e.mode.String())
		}
		return false, nil
	})
	if err != nil {
		return nil, err
	}
	for _, l := range p.links {
		switch {
		case l.target == "" || strings.Contains(l.target, "\x00"):
			return nil, bad(l.path, "is a symbolic link without a usable target")
		case escapes(l.path, targets):
			return nil, bad(l.path, "is a symbolic link to "+quote(l.target)+
				", which leads out of the release; make it lead to a file in the repository, or create it in a build command")
		}
	}
	return p, nil
}

func badName(name string) string {
	switch {
	case name == "" || name == "." || name == "..":
		return "is not a file name"
	case strings.ContainsAny(name, "/\x00"):
		return "contains a character that file names cannot have"
	case len(name) > maxName:
		return "is a name longer than Linux allows"
	case strings.EqualFold(name, ".git"):
		return "would be taken for a git repository"
	}
	return ""
}

// bad refuses a path of the commit.
func bad(path, why string) error {
	return fault.Errorf(api.ReasonBadTree, "%s %s", quote(path), why)
}

// maxLinks is how many symbolic links Linux follows before it gives up.
const maxLinks = 40

// escapes tells whether following the symbolic link at path leads, at any point,
// out of the root. Links are resolved as the kernel does it, one name after
// another, since "a/.." is not "." when a is a link. What does not exist is taken
// for a directory: a build may yet make it.
func escapes(path string, targets map[string]string) bool {
	at := strings.Split(path, "/")
	at = at[:len(at)-1]
	todo := []string{path[strings.LastIndexByte(path, '/')+1:]}
	for followed := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return true
			}
			at = at[:len(at)-1]
			continue
		}
		at = append(at, name)
		target, isLink := targets[strings.Join(at, "/")]
		if !isLink {
			continue
		}
		if strings.HasPrefix(target, "/") {
			return true
		}
		if followed++; followed > maxLinks {
			return false // the kernel follows it no further
		}
		at = at[:len(at)-1]
		todo = append(strings.Split(target, "/"), todo...)
	}
	return false
}
