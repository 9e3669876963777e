package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

const (
	// maxHaves is how many commits a remote is told of; it takes what it sends as
	// differences to their files.
	maxHaves = 16
	// maxThin bounds a pack of differences: go-git resolves it in memory. More
	// than that is cheaper to fetch whole.
	maxThin = 4 << 20
	// nearDepth is how far back branches and tags are searched for a commit that
	// the remote does not hand out by its SHA, before their whole history is.
	nearDepth = 50
)

var (
	errNothingToBuildOn = errors.New("no commit to build on")
	errTooLarge         = errors.New("the differences are too large")
	// errRefused is a remote's refusal to hand out a commit by its SHA.
	errRefused = errors.New("the remote does not hand out the commit by its SHA")
)

// ask is what one exchange asks a remote for.
type ask struct {
	wants []plumbing.Hash
	haves []plumbing.Hash // complete in the store, without their history
	depth int             // 0 is all history
}

// fetchSmall fetches the commit as differences to the commits in the store.
func (r *Repo) fetchSmall(ctx context.Context, sha string, say *lines) error {
	st := r.storage()
	defer st.Close()
	haves, err := r.recorded(st, maxHaves)
	if err != nil {
		return damaged(err)
	}
	if len(haves) == 0 {
		return errNothingToBuildOn
	}
	say.printf("Fetching commit %s from %s.", short(sha), r.remote)
	s, err := r.dial(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if !s.handsOut(plumbing.NewHash(sha)) {
		return errRefused
	}
	return s.fetch(st, ask{wants: []plumbing.Hash{plumbing.NewHash(sha)}, haves: haves, depth: 1}, say)
}

// fetchWhole fetches the commit without building on what the store has.
func (r *Repo) fetchWhole(ctx context.Context, sha string, say *lines) error {
	want := plumbing.NewHash(sha)
	say.printf("Fetching all files of commit %s from %s.", short(sha), r.remote)
	s, err := r.dial(ctx)
	if err != nil {
		return err
	}
	tips := s.tips()
	err = errRefused
	if s.handsOut(want) {
		err = r.fetchInto(s, ask{wants: []plumbing.Hash{want}, depth: 1}, say)
	}
	s.close()
	if !errors.Is(err, errRefused) {
		return err
	}

	say.printf("The remote does not hand out commits by SHA: fetching its branches and tags to look for the commit. " +
		"Setting uploadpack.allowReachableSHA1InWant there makes this faster.")
	for _, depth := range []int{nearDepth, 0} {
		s, err := r.dial(ctx)
		if err != nil {
			return err
		}
		err = r.fetchInto(s, ask{wants: tips, depth: depth}, say)
		s.close()
		if err != nil {
			return err
		}
		if r.holds(want) {
			return nil
		}
	}
	return fmt.Errorf("%w: no branch or tag of the remote leads to it", ErrUnknownCommit)
}

func (r *Repo) fetchInto(s *session, a ask, say *lines) error {
	st := r.storage()
	defer st.Close()
	err := s.fetch(st, a, say)
	if err != nil {
		// What arrived so far is of no use.
		return errors.Join(err, r.sweep())
	}
	return nil
}

func (r *Repo) holds(h plumbing.Hash) bool {
	st := r.storage()
	defer st.Close()
	return lookup(st, h) == nil
}

// session is one exchange with a remote.
type session struct {
	transport.UploadPackSession
	ctx    context.Context
	cancel context.CancelFunc
	refs   *packp.AdvRefs
}

// dial connects and reads which refs and abilities the remote has.
func (r *Repo) dial(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithCancel(ctx)
	ups, refs, err := r.remote.Connect(ctx, nil)
	if err != nil {
		cancel()
		return nil, classify(err)
	}
	s := &session{UploadPackSession: ups, ctx: ctx, cancel: cancel, refs: refs}
	if refs == nil {
		s.close()
		return nil, fmt.Errorf("%w: it is empty", ErrUnknownCommit)
	}
	return s, nil
}

func (s *session) close() {
	s.cancel()
	// It says only how the other side ended, which the exchange has told already.
	_ = s.Close()
}

// handsOut tells whether the remote may give commit h when asked by SHA.
func (s *session) handsOut(h plumbing.Hash) bool {
	caps := s.refs.Capabilities
	if caps.Supports(capability.AllowReachableSHA1InWant) || caps.Supports(capability.AllowTipSHA1InWant) {
		return true
	}
	for _, tip := range s.refs.References {
		if tip == h {
			return true
		}
	}
	return s.refs.Head != nil && *s.refs.Head == h
}

// tips returns what branches and tags point at.
func (s *session) tips() []plumbing.Hash {
	var tips []plumbing.Hash
	for name, tip := range s.refs.References {
		if strings.HasPrefix(name, "refs/heads/") || strings.HasPrefix(name, "refs/tags/") {
			tips = append(tips, tip)
		}
	}
	plumbing.HashesSort(tips)
	return slices.Compact(tips)
}

// fetch asks and puts the answer into st.
func (s *session) fetch(st *filesystem.Storage, a ask, say *lines) error {
	req, band, err := s.request(a, say)
	if err != nil {
		return err
	}
	resp, err := s.UploadPack(s.ctx, req)
	if err != nil {
		return s.refusal(a, classify(err))
	}
	pack := &counted{r: resp, cancel: s.cancel}
	if len(a.haves) > 0 {
		pack.max = maxThin
	}
	var rd io.Reader = pack
	if band != 0 {
		demuxer := sideband.NewDemuxer(band, pack)
		demuxer.Progress = say
		rd = demuxer
	}
	err = receive(st, rd, len(a.haves) > 0)
	if err != nil {
		// The other side may be stuck writing to us; when the context is done, the
		// next read ends it.
		s.cancel()
		_, _ = io.Copy(io.Discard, resp)
	}
	closeErr := resp.Close()
	switch {
	case pack.exceeded:
		return errTooLarge
	case err != nil && len(a.haves) > 0:
		// It may also be what it builds on that is damaged, so this must not be
		// taken for a fault of the remote.
		return err
	case err != nil:
		return classify(err)
	case closeErr != nil && s.ctx.Err() == nil:
		return classify(closeErr)
	}
	return setShallow(st, req.Shallows, resp)
}

func (s *session) request(a ask, say *lines) (*packp.UploadPackRequest, sideband.Type, error) {
	adv := s.refs.Capabilities
	req := packp.NewUploadPackRequest()
	// Shared, or else encoding would sort what belongs to the caller.
	req.Wants, req.Haves = slices.Clone(a.wants), slices.Clone(a.haves)
	var caps []capability.Capability
	var band sideband.Type
	switch {
	case adv.Supports(capability.Sideband64k):
		caps, band = append(caps, capability.Sideband64k), sideband.Sideband64k
	case adv.Supports(capability.Sideband):
		caps, band = append(caps, capability.Sideband), sideband.Sideband
	}
	if adv.Supports(capability.OFSDelta) {
		caps = append(caps, capability.OFSDelta)
	}
	if say.out == nil && adv.Supports(capability.NoProgress) {
		caps = append(caps, capability.NoProgress)
	}
	if adv.Supports(capability.Shallow) {
		caps = append(caps, capability.Shallow)
		req.Depth = packp.DepthCommits(a.depth)
		req.Shallows = slices.Clone(a.haves)
	}
	if len(a.haves) > 0 {
		// Without a thin pack, a remote sends every file again. go-git removes
		// the ability from what it reports; all remotes since git 1.6.6 have it,
		// and others ignore the word.
		caps = append(caps, capability.ThinPack)
	}
	for _, c := range caps {
		if err := req.Capabilities.Set(c); err != nil {
			return nil, 0, err
		}
	}
	if adv.Supports(capability.Agent) {
		if err := req.Capabilities.Set(capability.Agent, "lockstep"); err != nil {
			return nil, 0, err
		}
	}
	return req, band, nil
}

// refusal tells a commit that the remote lacks from one that it only does not hand
// out by SHA. The text is the protocol's (git's upload-pack.c); there is no code.
func (s *session) refusal(a ask, err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "not our ref") && s.refs.Capabilities.Supports(capability.AllowReachableSHA1InWant):
		return fmt.Errorf("%w: %w", ErrUnknownCommit, err)
	case strings.Contains(text, "not our ref"):
		return fmt.Errorf("%w: %w", errRefused, err)
	case strings.Contains(text, "broken pipe") && a.depth == 1:
		// It may have said so and gone before it had read the whole request. If it
		// is gone altogether, the next way of asking will tell.
		return fmt.Errorf("%w: %s", errRefused, text)
	}
	return err
}

// receive stores the objects of a pack. A thin one, which lacks the objects that
// its differences refer to, is resolved into loose objects.
func receive(st *filesystem.Storage, pack io.Reader, thin bool) error {
	if !thin {
		return packfile.UpdateObjectStorage(st, pack)
	}
	parser, err := packfile.NewParserWithStorage(packfile.NewScanner(pack), st)
	if err != nil {
		return err
	}
	_, err = parser.Parse()
	return err
}

// setShallow records which commits came without their parents, for git's sake.
func setShallow(st *filesystem.Storage, had []plumbing.Hash, resp *packp.UploadPackResponse) error {
	shallow, err := st.Shallow()
	if err != nil {
		return damaged(err)
	}
	shallow = append(append(shallow, had...), resp.Shallows...)
	shallow = slices.DeleteFunc(shallow, func(h plumbing.Hash) bool { return slices.Contains(resp.Unshallows, h) })
	plumbing.HashesSort(shallow)
	return st.SetShallow(slices.Compact(shallow))
}

// counted ends the exchange when more than max bytes come.
type counted struct {
	r        io.Reader
	cancel   context.CancelFunc
	n, max   int64 // max 0 is no limit
	exceeded bool
}

func (c *counted) Read(p []byte) (int, error) {
	if c.exceeded {
		return 0, errTooLarge
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.max > 0 && c.n > c.max {
		c.exceeded = true
		c.cancel()
		return n, errTooLarge
	}
	return n, err
}
