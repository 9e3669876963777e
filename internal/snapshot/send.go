package snapshot

import (
	"context"
	"io"

	"github.com/lockstep-deploy/lockstep/internal/gitstore"
)

// Sending is a commit with its tree and its submodules, ready to be sent. It is to be closed.
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
