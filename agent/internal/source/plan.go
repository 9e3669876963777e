package source

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/archive"
	"github.com/lockstep-deploy/lockstep/internal/gitstore"
	"github.com/lockstep-deploy/lockstep/internal/snapshot"
)

// Bounds of what is written: a tree may repeat itself and so be far larger than
// what was fetched. The lengths are those of the kernel.
const (
	maxEntries = 500_000
	maxName    = 255
	maxPath    = 4095
)

// plan is what writing a commit's tree amounts to, checked before anything is
// written.
type plan struct {
	dirs  []string // parents first
	files []file
	links []link
	total int64 // bytes that the files may have together
}

type file struct {
	dir, name string // the directory with slashes, "" is the root
	hash      gitstore.Hash
	perm      uint32
}

func (f file) path() string { return join(f.dir, f.name) }

type link struct {
	path, target string
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// newPlan reads the tree and refuses what cannot be written safely.
func newPlan(ctx context.Context, v *gitstore.View, root gitstore.Hash) (*plan, error) {
	p := &plan{total: maxTotal}
	type dir struct {
		path  string
		hash  gitstore.Hash
		depth int // of submodules in one another
	}
	entries := 0
	// Not recursive: how deep trees go is up to the remote.
	for todo := []dir{{"", root, 0}}; len(todo) > 0; {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		tree, err := snapshot.ReadTree(v, d.hash)
		if err != nil {
			return nil, err
		}
		if entries += len(tree); entries > maxEntries {
			return nil, bad(join(d.path, tree[0].Name), fmt.Sprintf("is beyond the %d files and directories that are supported; "+
				"keep what is generated out of the repository", maxEntries))
		}
		if err := checkNames(d.path, tree); err != nil {
			return nil, err
		}
		for _, e := range tree {
			sub := dir{join(d.path, e.Name), e.Hash, d.depth}
			if e.Mode == gitstore.ModeSubmodule {
				if sub.depth++; sub.depth > snapshot.MaxNesting {
					return nil, bad(sub.path, fmt.Sprintf("is a submodule more than %d deep in others", snapshot.MaxNesting))
				}
				if sub.hash, err = snapshot.Root(v, e.Hash); err != nil {
					return nil, fmt.Errorf("submodule %s: %w", quote(sub.path), err)
				}
			}
			if e.Mode == gitstore.ModeDir || e.Mode == gitstore.ModeSubmodule {
				p.dirs = append(p.dirs, sub.path)
				todo = append(todo, sub)
			} else if err := p.add(v, d.path, e); err != nil {
				return nil, err
			}
		}
	}
	return p, p.checkLinks()
}

// add plans what is no directory and no submodule.
func (p *plan) add(v *gitstore.View, dir string, e gitstore.TreeEntry) error {
	path := join(dir, e.Name)
	switch e.Mode {
	case gitstore.ModeFile, gitstore.ModeGroup:
		p.files = append(p.files, file{dir, e.Name, e.Hash, 0o644})
	case gitstore.ModeExecutable:
		p.files = append(p.files, file{dir, e.Name, e.Hash, 0o755})
	case gitstore.ModeLink:
		target, err := v.ReadAll(e.Hash, gitstore.Blob, maxPath)
		if errors.Is(err, gitstore.ErrTooLarge) || errors.Is(err, gitstore.ErrKind) {
			return bad(path, "is a symbolic link without a usable target")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", quote(path), err)
		}
		p.links = append(p.links, link{path, string(target)})
	default:
		return bad(path, fmt.Sprintf("has the unknown file mode %o", e.Mode))
	}
	return nil
}

// checkLinks refuses symbolic links that lead out of the release.
func (p *plan) checkLinks() error {
	targets := make(map[string]string, len(p.links))
	for _, l := range p.links {
		targets[l.path] = l.target
	}
	for _, l := range p.links {
		switch {
		case l.target == "" || strings.Contains(l.target, "\x00"):
			return bad(l.path, "is a symbolic link without a usable target")
		case archive.Escapes(l.path, targets):
			return bad(l.path, "is a symbolic link to "+quote(l.target)+
				", which leads out of the release; make it lead to a file in the repository, or create it in a build command")
		}
	}
	return nil
}

// bad refuses a path of the commit.
func bad(path, why string) error {
	return fault.Errorf(api.ReasonBadTree, "%s %s", quote(path), why)
}
