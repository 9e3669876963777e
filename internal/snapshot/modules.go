package snapshot

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
	"github.com/lockstep-deploy/lockstep/internal/gitstore"
)

const (
	// MaxNesting is how deep submodules may be in one another.
	MaxNesting = 10
	maxModules = 500 // of one commit, in all
	// maxModuleFile bounds .gitmodules.
	maxModuleFile = 1 << 20
)

// Modular is an origin whose submodules are to be fetched from where they are.
// Others send them along with the commit.
type Modular interface {
	Origin
	// Module returns the origin of a submodule with this URL in .gitmodules. An
	// error tells that no such submodule is ever fetched.
	Module(url string) (Origin, error)
}

// part is a commit to be fetched: that which is asked for, or of a submodule.
type part struct {
	commit gitstore.Hash
	origin Origin
	path   string // "" for what is asked for
	depth  int
}

// group keeps apart what is recorded of different origins: one needs not know
// what was fetched from another.
func (p part) group() string {
	if p.path == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(p.origin.String()))
	return "module-" + hex.EncodeToString(sum[:8])
}

// fetchAll fetches a commit with its submodules, those in them too. What is here
// already is not asked for again. That it ends well does not mean that the store
// is sound.
func (r *Repo) fetchAll(ctx context.Context, h gitstore.Hash, afresh bool, say *lines) error {
	seen := map[gitstore.Hash]bool{h: true}
	for todo := []part{{commit: h, origin: r.origin}}; len(todo) > 0; todo = todo[1:] {
		p := todo[0]
		if err := r.fetchPart(ctx, p, afresh, say); err != nil {
			return err
		}
		from, ok := p.origin.(Modular)
		if !ok {
			continue
		}
		found, err := r.modules(p.commit)
		if Damaged(err) {
			return nil
		}
		if err != nil {
			return inModule(p.path, err)
		}
		for _, m := range found {
			path := join(p.path, m.path)
			if seen[m.commit] {
				continue
			}
			seen[m.commit] = true
			if p.depth == MaxNesting {
				return fmt.Errorf("%w: submodule %q is more than %d deep in others", ErrBad, path, MaxNesting)
			}
			if len(seen) > maxModules {
				return fmt.Errorf("%w: submodule %q is beyond the %d that are supported", ErrBad, path, maxModules)
			}
			origin, err := from.Module(m.url)
			if err != nil {
				return fmt.Errorf("%w: submodule %q cannot be fetched: %w", ErrBad, path, err)
			}
			todo = append(todo, part{m.commit, origin, path, p.depth + 1})
		}
	}
	return nil
}

// fetchPart fetches one commit and records it for the next to build on.
func (r *Repo) fetchPart(ctx context.Context, p part, afresh bool, say *lines) error {
	_, modular := p.origin.(Modular)
	here := func() error { return r.whole(p.commit, !modular) }
	err := here()
	if err != nil && !Damaged(err) {
		return fmt.Errorf("cannot read commit %s: %w", short(p.commit), err)
	}
	if err != nil {
		err = errNothingToBuildOn
		if !afresh {
			err = r.fetchSmall(ctx, p, say)
		}
		if (err == nil && here() != nil) || (err != nil && !final(ctx, err)) {
			err = r.fetchWhole(ctx, p, say)
		}
	}
	if err != nil {
		return inModule(p.path, explain(ctx, p, err))
	}
	if p.path != "" && here() == nil {
		return r.store.Record(p.group(), p.commit)
	}
	return nil
}

// inModule says of an error which submodule it is of.
func inModule(path string, err error) error {
	if path == "" || err == nil {
		return err
	}
	return fmt.Errorf("submodule %q: %w", path, err)
}

type module struct {
	path   string
	commit gitstore.Hash
	url    string
}

// modules returns the submodules of a commit, but not those in them.
func (r *Repo) modules(h gitstore.Hash) ([]module, error) {
	v, err := r.View()
	if err != nil {
		return nil, err
	}
	defer v.Close()
	var found []module
	var file *gitstore.TreeEntry
	seen := map[gitstore.Hash]bool{}
	err = walk(v, h, func(dir string, e gitstore.TreeEntry) (bool, error) {
		switch {
		case e.Mode == gitstore.ModeSubmodule:
			found = append(found, module{path: join(dir, e.Name), commit: e.Hash})
		case e.Mode == gitstore.ModeDir && !seen[e.Hash]:
			seen[e.Hash] = true
			return true, nil
		case dir == "" && e.Name == ".gitmodules":
			file = &e
		}
		return false, nil
	})
	if err != nil || len(found) == 0 {
		return nil, err
	}
	urls, err := moduleURLs(v, file)
	if err != nil {
		return nil, err
	}
	for i, m := range found {
		if found[i].url = urls[m.path]; found[i].url == "" {
			return nil, fmt.Errorf("%w: %q is a submodule that .gitmodules gives no URL for; write one there, or remove it: git rm --cached %s",
				ErrBad, m.path, m.path)
		}
	}
	slices.SortFunc(found, func(a, b module) int { return cmp.Compare(a.path, b.path) })
	return found, nil
}

// moduleURLs reads .gitmodules, nil for none: the URLs of submodules by their paths.
func moduleURLs(v *gitstore.View, file *gitstore.TreeEntry) (map[string]string, error) {
	if file == nil || file.Mode == gitstore.ModeLink { // git follows none either
		return nil, nil
	}
	content, err := v.ReadAll(file.Hash, gitstore.Blob, maxModuleFile)
	if err != nil {
		return nil, unlessBad(err)
	}
	urls, err := gitremote.ParseModules(content)
	if err != nil {
		return nil, fmt.Errorf("%w: .gitmodules: %w", ErrBad, err)
	}
	return urls, nil
}

// Git is the repository at a URL, and the submodules that it names, as an origin.
// The URL is what [gitremote.Parse] takes; login says how to log in to a
// repository by its URL, also one of a submodule; nil logs in to none.
func Git(url string, login func(url string) gitremote.Login) (Origin, error) {
	r, err := gitremote.Parse(url)
	if err != nil {
		return nil, err
	}
	if login != nil {
		r = r.With(login(url))
	}
	return remote{r, url, login}, nil
}

type remote struct {
	gitremote.Remote
	url   string // with what credentials there are in it
	login func(url string) gitremote.Login
}

var _ Modular = remote{}

// Module implements [Modular].
func (r remote) Module(raw string) (Origin, error) {
	url, err := gitremote.Submodule(r.url, raw)
	if err != nil {
		return nil, err
	}
	return Git(url, r.login)
}

// Dial implements [Origin].
func (r remote) Dial(ctx context.Context) (Conversation, error) {
	c, err := r.Remote.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return talk{c}, nil
}

type talk struct{ *gitremote.Conversation }

func (t talk) Ask(a gitremote.Ask) (*Answer, error) {
	ans, err := t.Conversation.Ask(a)
	if err != nil {
		return nil, err
	}
	return &Answer{ans, ans.Shallow, ans.Unshallow}, nil
}

var errNothingToBuildOn = errors.New("no commit to build on")
