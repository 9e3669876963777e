package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/source"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/gitremote"
	"github.com/lockstep-deploy/lockstep/internal/gitstore"
	"github.com/lockstep-deploy/lockstep/internal/lfs"
	"github.com/lockstep-deploy/lockstep/internal/snapshot"
)

// origin is where the commit of a release is fetched from.
func (p *app) origin(spec api.Spec, release string) (snapshot.Origin, error) {
	if spec.SourceVia == api.ViaCoordinator {
		return relayed{p.a.deps.Sources, p.name, release}, nil
	}
	return source.Git(spec.Repo, p.a.cfg.Login)
}

// Sources sends commits; [api.Client] does.
type Sources interface {
	Source(ctx context.Context, app, release string, haves []string) (io.ReadCloser, error)
	LargeFile(ctx context.Context, app, release, path string, offset int64) (io.ReadCloser, error)
}

// relayed is the commit of one release, which the coordinator fetches and sends,
// so that this node needs no way to the repository.
type relayed struct {
	sources      Sources
	app, release string
}

func (relayed) String() string { return "the coordinator" }

var _ snapshot.Lender = relayed{}

// Dial implements [snapshot.Origin].
func (r relayed) Dial(ctx context.Context) (snapshot.Conversation, error) {
	ctx, cancel := context.WithCancel(ctx)
	return relaying{r, ctx, cancel}, nil
}

type relaying struct {
	relayed
	ctx    context.Context
	cancel context.CancelFunc
}

func (r relaying) Close() { r.cancel() }

func (relaying) HandsOut(gitstore.Hash) bool { return true }
func (relaying) Tips() []gitstore.Hash       { return nil }

// Ask implements [snapshot.Conversation].
func (r relaying) Ask(a gitremote.Ask) (*snapshot.Answer, error) {
	haves := make([]string, len(a.Haves))
	for i, h := range a.Haves {
		haves[i] = h.String()
	}
	body, err := r.sources.Source(r.ctx, r.app, r.release, haves)
	if err != nil {
		return nil, relayFailure(err)
	}
	return &snapshot.Answer{ReadCloser: body, Shallow: a.Wants}, nil
}

// Lend implements [snapshot.Lender]. It goes on where a connection broke, as long as
// something comes.
func (r relayed) Lend(ctx context.Context, path string, p lfs.Pointer, w io.Writer) error {
	to := &counted{w: w}
	for failed := 0; ; {
		before := to.n
		err := r.lend(ctx, path, to)
		if err == nil || to.err != nil || ctx.Err() != nil {
			return err
		}
		if failed++; to.n > before {
			failed = 0
		}
		if failed == fetchTries || !errors.Is(err, gitremote.ErrUnreachable) {
			return err
		}
		rest(ctx, time.Second)
	}
}

func (r relayed) lend(ctx context.Context, path string, to *counted) error {
	body, err := r.sources.LargeFile(ctx, r.app, r.release, path, to.n)
	if err != nil {
		return relayFailure(err)
	}
	defer body.Close()
	if _, err = io.Copy(to, body); err != nil && to.err == nil && ctx.Err() == nil {
		err = &gitremote.Failure{Kind: gitremote.ErrUnreachable, Err: err, Remedy: "check the network, and that the coordinator is up"}
	}
	return err
}

// counted tells how much was written, and whether it failed.
type counted struct {
	w   io.Writer
	n   int64
	err error
}

func (c *counted) Write(p []byte) (n int, err error) {
	n, c.err = c.w.Write(p)
	c.n += int64(n)
	return n, c.err
}

// relayFailure gives an error of the coordinator the kind that it has there.
func relayFailure(err error) error {
	var e *api.Error
	var unreachable *api.UnreachableError
	switch {
	case errors.As(err, &e) && e.Reason == api.SourceBad:
		return fmt.Errorf("%w: %w", snapshot.ErrBad, e)
	case errors.As(err, &e):
		kind := map[string]error{
			api.SourceUnknownCommit: gitremote.ErrUnknownCommit, api.SourceDenied: gitremote.ErrDenied,
			api.SourceNoRepository: gitremote.ErrNoRepository, api.SourceHostKey: gitremote.ErrHostKey,
			api.SourceUnreachable: gitremote.ErrUnreachable,
		}[e.Reason]
		if kind == nil && e.Kind == api.ErrorUnavailable {
			kind = gitremote.ErrUnreachable
		}
		return &gitremote.Failure{Kind: kind, Err: e}
	case errors.As(err, &unreachable):
		return &gitremote.Failure{Kind: gitremote.ErrUnreachable, Err: err}
	}
	return err
}
