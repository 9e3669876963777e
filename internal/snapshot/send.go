package snapshot

import (
	"context"
	"errors"
	"io"

	"github.com/lockstep-deploy/lockstep/internal/gitstore"
)

// Sending is a commit with its tree, ready to be sent. It is to be closed.
type Sending struct {
	*gitstore.Pack
	view *gitstore.View
}

// Close frees what it holds open.
func (s *Sending) Close() { s.view.Close() }

var _ io.WriterTo = (*Sending)(nil)

// Send fetches the commit where that is needed and returns it for one who has
// the commits haves complete; such as are not here are ignored. Sending holds up
// nobody, however slow it is.
func (r *Repo) Send(ctx context.Context, sha string, haves []string) (*Sending, error) {
	if err := r.Fetch(ctx, sha, nil); err != nil {
		return nil, err
	}
	s, err := r.send(sha, haves)
	if Damaged(err) {
		if err := r.Refetch(ctx, sha, nil); err != nil {
			return nil, err
		}
		s, err = r.send(sha, haves)
	}
	return s, err
}

func (r *Repo) send(sha string, haves []string) (s *Sending, err error) {
	h, err := gitstore.ParseHash(sha)
	if err != nil {
		return nil, err
	}
	v, err := r.View()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			v.Close()
		}
	}()
	known := map[gitstore.Hash]bool{}
	for _, have := range haves[:min(len(haves), maxHaves)] {
		if c, err := gitstore.ParseHash(have); err == nil {
			if _, err := objects(v, c, known, false); err != nil && !Damaged(err) {
				return nil, err
			}
		}
	}
	list, err := objects(v, h, known, true)
	if err != nil {
		return nil, err
	}
	pack, err := v.Pack(list, known)
	if err != nil {
		return nil, err
	}
	return &Sending{pack, v}, nil
}

// objects returns what a commit consists of and is not in known. If it is not
// wanted, it is added to known instead, when all of it is here.
func objects(v *gitstore.View, commit gitstore.Hash, known map[gitstore.Hash]bool, wanted bool) ([]gitstore.Hash, error) {
	root, err := Root(v, commit)
	if err != nil {
		return nil, err
	}
	list := []gitstore.Hash{commit}
	seen := map[gitstore.Hash]bool{commit: true}
	add := func(h gitstore.Hash) bool {
		if known[h] || seen[h] {
			return false
		}
		seen[h] = true
		list = append(list, h)
		return true
	}
	var todo []gitstore.Hash
	if add(root) {
		todo = append(todo, root)
	}
	for len(todo) > 0 {
		tree := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		entries, err := ReadTree(v, tree)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			switch {
			case e.Mode == gitstore.ModeSubmodule:
			case add(e.Hash) && e.Mode == gitstore.ModeDir:
				todo = append(todo, e.Hash)
			}
		}
	}
	if !wanted {
		for _, h := range list {
			if !v.Has(h) {
				return nil, errors.Join(gitstore.ErrMissing)
			}
		}
		for _, h := range list {
			known[h] = true
		}
		return nil, nil
	}
	return list, nil
}
