package gitremote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"

	"github.com/lockstep-deploy/lockstep/internal/gitstore"
)

// ErrRefused is a remote's refusal to hand out a commit by its SHA. Others may
// still lead to it.
var ErrRefused = errors.New("the remote does not hand out the commit by its SHA")

// Ask is what a remote is asked for in one exchange.
type Ask struct {
	Wants []gitstore.Hash
	// Haves are commits that are complete on this side, without their history.
	// What is sent may build on them.
	Haves []gitstore.Hash
	Depth int // commits of history, from the wants; 0 is all
	// Progress gets what the remote says for people; nil asks it to be silent.
	Progress io.Writer
}

// Answer is a pack that arrives. It is to be closed.
type Answer struct {
	// Shallow commits come without their parents; Unshallow ones no longer do.
	Shallow, Unshallow []gitstore.Hash

	pack  io.Reader
	body  io.ReadCloser
	talk  *Conversation
	whole bool
}

// Conversation is one exchange with a remote, which has told its refs and
// abilities. Its errors are [*Failure] with clean texts, or of this machine.
type Conversation struct {
	remote  Remote
	ctx     context.Context
	cancel  context.CancelFunc
	session transport.UploadPackSession
	refs    *packp.AdvRefs
}

// Dial begins an exchange with a remote. An empty one is [ErrUnknownCommit].
func (r Remote) Dial(ctx context.Context) (*Conversation, error) {
	ctx, cancel := context.WithCancel(ctx)
	session, refs, err := r.Connect(ctx)
	if err == nil && refs == nil {
		_ = session.Close()
		err = &Failure{Kind: ErrUnknownCommit, Err: errors.New("it is empty")}
	}
	if err != nil {
		cancel()
		return nil, r.failure(err)
	}
	return &Conversation{remote: r, ctx: ctx, cancel: cancel, session: session, refs: refs}, nil
}

// failure is an error of a conversation as it may be shown. It does not wrap
// what the library says, which may hold credentials.
func (r Remote) failure(err error) error {
	var f *Failure
	if !errors.As(err, &f) {
		f = r.Diagnose(err)
	}
	var errno syscall.Errno
	kept := error(nil)
	if f.Kind == nil && errors.As(err, &errno) {
		kept = errno
	}
	return &Failure{Kind: f.Kind, Remedy: f.Remedy, Err: &clean{r.Clean(f.Err.Error()), kept}}
}

// clean is an error's text without credentials.
type clean struct {
	text string
	is   error // or nil
}

func (c *clean) Error() string { return c.text }
func (c *clean) Unwrap() error { return c.is }

// Close ends the exchange.
func (c *Conversation) Close() {
	c.cancel()
	// It says only how the other side ended, which the exchange has told already.
	_ = c.session.Close()
}

// HandsOut tells whether the remote may give the commit when asked by its SHA.
func (c *Conversation) HandsOut(h gitstore.Hash) bool {
	caps := c.refs.Capabilities
	if caps.Supports(capability.AllowReachableSHA1InWant) || caps.Supports(capability.AllowTipSHA1InWant) {
		return true
	}
	for _, tip := range c.refs.References {
		if tip == plumbing.Hash(h) {
			return true
		}
	}
	return c.refs.Head != nil && *c.refs.Head == plumbing.Hash(h)
}

// Tips returns what branches and tags point at.
func (c *Conversation) Tips() []gitstore.Hash {
	var tips []gitstore.Hash
	for name, tip := range c.refs.References {
		if strings.HasPrefix(name, "refs/heads/") || strings.HasPrefix(name, "refs/tags/") {
			tips = append(tips, gitstore.Hash(tip))
		}
	}
	slices.SortFunc(tips, func(a, b gitstore.Hash) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(tips)
}

// Ask asks. Errors are also [ErrRefused] and [ErrUnknownCommit].
func (c *Conversation) Ask(a Ask) (*Answer, error) {
	req, band, err := c.request(a)
	if err != nil {
		return nil, err
	}
	resp, err := c.session.UploadPack(c.ctx, req)
	if err != nil {
		return nil, c.remote.failure(c.refusal(a, err))
	}
	ans := &Answer{pack: resp, body: resp, talk: c, Shallow: hashes(resp.Shallows), Unshallow: hashes(resp.Unshallows)}
	if band != 0 {
		demuxer := sideband.NewDemuxer(band, resp)
		demuxer.Progress = a.Progress
		ans.pack = demuxer
	}
	return ans, nil
}

// Read reads the pack. Its errors are explained as those of [Conversation].
func (a *Answer) Read(p []byte) (int, error) {
	n, err := a.pack.Read(p)
	if errors.Is(err, io.EOF) {
		a.whole = true
		return n, io.EOF
	}
	if err != nil {
		err = a.talk.remote.failure(err)
	}
	return n, err
}

// Close ends the answer, also one that was not read to its end. It fails when
// the other side says that what was read whole is not to be relied on.
func (a *Answer) Close() error {
	if !a.whole {
		// The other side may be stuck writing to us; when the context is done, the
		// next read ends it.
		a.talk.cancel()
		_, _ = io.Copy(io.Discard, a.body)
	}
	err := a.body.Close()
	if err != nil && a.talk.ctx.Err() == nil {
		return a.talk.remote.failure(err)
	}
	return nil
}

func (c *Conversation) request(a Ask) (*packp.UploadPackRequest, sideband.Type, error) {
	adv := c.refs.Capabilities
	req := packp.NewUploadPackRequest()
	req.Wants, req.Haves = plumbed(a.Wants), plumbed(a.Haves)
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
	if a.Progress == nil && adv.Supports(capability.NoProgress) {
		caps = append(caps, capability.NoProgress)
	}
	if adv.Supports(capability.Shallow) {
		caps = append(caps, capability.Shallow)
		req.Depth = packp.DepthCommits(a.Depth)
		req.Shallows = plumbed(a.Haves)
	}
	if len(a.Haves) > 0 {
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
func (c *Conversation) refusal(a Ask, err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "not our ref") && c.refs.Capabilities.Supports(capability.AllowReachableSHA1InWant):
		return &Failure{Kind: ErrUnknownCommit, Err: err}
	case strings.Contains(text, "not our ref"):
		return &Failure{Kind: ErrRefused, Err: err}
	case HungUp(err) && a.Depth == 1:
		// If it is gone altogether, the next way of asking will tell.
		return &Failure{Kind: ErrRefused, Err: fmt.Errorf("%w", err)}
	}
	return err
}

func hashes(hs []plumbing.Hash) []gitstore.Hash {
	out := make([]gitstore.Hash, len(hs))
	for i, h := range hs {
		out[i] = gitstore.Hash(h)
	}
	return out
}

func plumbed(hs []gitstore.Hash) []plumbing.Hash {
	out := make([]plumbing.Hash, len(hs))
	for i, h := range hs {
		out[i] = plumbing.Hash(h)
	}
	return out
}
