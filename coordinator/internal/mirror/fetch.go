package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

const (
	// maxPacks is how many fetches are kept apart before all is fetched anew:
	// each leaves a pack, and the library cannot join them.
	maxPacks = 64
	// maxHaves bounds how many known commits are told to the remote.
	maxHaves = 512
	// maxBack is how far behind a branch's old head known commits are told of.
	// Of a history that a forced push cut further back, all is sent again.
	maxBack = 1 << 12
)

// fetch brings the copy up to where the remote is: all branches and tags, and
// none that the remote no longer has. Errors are explained.
func (m *Mirror) fetch(ctx context.Context, l *local) error {
	ctx, cancel := context.WithTimeoutCause(ctx, m.timeout, tooLong(m.timeout))
	defer cancel()
	err := m.update(ctx, l, !m.unfiltered)
	var r *refusal
	if errors.As(err, &r) && ctx.Err() == nil {
		// Some remotes know how to leave out files but do not want to.
		if err = m.update(ctx, l, false); err == nil {
			m.unfiltered = true
		}
	}
	if err != nil {
		return m.explain(ctx, err)
	}
	return nil
}

// refusal is an error of a remote that does not want to leave out anything.
type refusal struct{ err error }

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// update is one conversation with the remote. Filtered, only
// commits and tags are asked for, if the remote can leave out the rest.
func (m *Mirror) update(ctx context.Context, l *local, filtered bool) error {
	s, err := m.dial(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	wants, err := l.missing(s.refs)
	if err != nil {
		return err
	}
	var shallow []plumbing.Hash
	if s.adv != nil {
		shallow = s.adv.Shallows
	}
	if len(l.refs) > 0 && !maps.Equal(l.ends, hashSet(shallow)) {
		return &damage{errors.New("the remote's history now begins elsewhere")}
	}
	if len(wants) > 0 {
		packs, err := l.packs()
		if err != nil {
			return err
		}
		if packs >= m.packs {
			return &damage{fmt.Errorf("it is in %d pieces", packs)}
		}
		req := packp.NewUploadPackRequestFromCapabilities(s.adv.Capabilities)
		req.Wants, req.Haves = wants, l.haves(s.refs)
		if filtered {
			req.Filter = packp.FilterTreeDepth(0)
		}
		if err := l.receive(ctx, s, req); err != nil {
			return errors.Join(err, l.sweep())
		}
		if err := l.cut(shallow); err != nil {
			return err
		}
	}
	if maps.Equal(l.refs, s.refs) {
		return nil
	}
	return l.saveRefs(s.refs)
}

// missing returns what the refs point at and the copy does not have. What it
// has, it has with all its history: packs are complete or not there.
func (l *local) missing(refs map[string]plumbing.Hash) ([]plumbing.Hash, error) {
	var wants []plumbing.Hash
	for name, h := range refs {
		if l.refs[name] == h {
			continue
		}
		if has, err := l.has(h); err != nil {
			return nil, err
		} else if !has {
			wants = append(wants, h)
		}
	}
	plumbing.HashesSort(wants)
	return slices.Compact(wants), nil
}

// haves returns commits that the remote is likely to know too: where refs did
// not change, and, ever further apart, those behind where they did.
func (l *local) haves(refs map[string]plumbing.Hash) []plumbing.Hash {
	seen := map[plumbing.Hash]bool{}
	for name, h := range l.refs {
		if refs[name] == h && len(seen) < maxHaves/2 {
			if _, err := l.read(h); err == nil {
				seen[h] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.refs)) {
		h := l.refs[name]
		if refs[name] == h {
			continue
		}
		for back, next := 0, 0; back <= maxBack && len(seen) < maxHaves; back++ {
			c, err := l.read(h)
			if err != nil {
				break // a tag, or damage, which costs no more than bytes here
			}
			if back == next {
				seen[h] = true
				next = max(2*next, back+1)
			}
			if len(c.ParentHashes) == 0 {
				break
			}
			h = c.ParentHashes[0]
		}
	}
	return slices.Collect(maps.Keys(seen))
}

// receive asks, and stores what is sent. What a filter names is left out only by a
// remote that can; one that can and does not want to is a [refusal].
func (l *local) receive(ctx context.Context, s *session, req *packp.UploadPackRequest) (err error) {
	caps := s.adv.Capabilities
	if caps.Supports(capability.NoProgress) {
		if err := req.Capabilities.Set(capability.NoProgress); err != nil {
			return err
		}
	}
	if !caps.Supports(capability.Filter) {
		req.Filter = ""
	} else if req.Filter != "" {
		if err := req.Capabilities.Set(capability.Filter); err != nil {
			return err
		}
	}
	resp, err := s.UploadPack(ctx, req)
	if err != nil && req.Filter != "" && (strings.Contains(err.Error(), "filter") || gitremote.HungUp(err)) {
		return &refusal{err}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Close()) }()
	var pack io.Reader = resp
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		pack = sideband.NewDemuxer(sideband.Sideband64k, resp)
	case req.Capabilities.Supports(capability.Sideband):
		pack = sideband.NewDemuxer(sideband.Sideband, resp)
	}
	return packfile.WritePackfileToObjectStorage(l.st, pack)
}
