package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
	"github.com/lockstep-deploy/lockstep/internal/gitstore"
)

// fetchSmall fetches the commit as differences to the commits in the store.
func (r *Repo) fetchSmall(ctx context.Context, p part, say *lines) error {
	haves, err := r.store.Recorded(p.group())
	if err != nil {
		return err
	}
	if len(haves) == 0 {
		return errNothingToBuildOn
	}
	say.printf("Fetching commit %s from %s.", short(p.commit), p.origin)
	c, err := p.origin.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if !c.HandsOut(p.commit) {
		return gitremote.ErrRefused
	}
	return r.ask(c, gitremote.Ask{Wants: []gitstore.Hash{p.commit}, Haves: haves[:min(len(haves), maxHaves)], Depth: 1}, say)
}

// fetchWhole fetches the commit without building on what the store has.
func (r *Repo) fetchWhole(ctx context.Context, p part, say *lines) error {
	say.printf("Fetching all files of commit %s from %s.", short(p.commit), p.origin)
	c, err := p.origin.Dial(ctx)
	if err != nil {
		return err
	}
	tips := c.Tips()
	err = gitremote.ErrRefused
	if c.HandsOut(p.commit) {
		err = r.ask(c, gitremote.Ask{Wants: []gitstore.Hash{p.commit}, Depth: 1}, say)
	}
	c.Close()
	if !errors.Is(err, gitremote.ErrRefused) {
		return err
	}

	say.printf("The remote does not hand out commits by SHA: fetching its branches and tags to look for the commit. " +
		"Setting uploadpack.allowReachableSHA1InWant there makes this faster.")
	for _, depth := range []int{nearDepth, 0} {
		c, err := p.origin.Dial(ctx)
		if err != nil {
			return err
		}
		err = r.ask(c, gitremote.Ask{Wants: tips, Depth: depth}, say)
		c.Close()
		if err != nil {
			return err
		}
		if v, err := r.View(); err == nil {
			found := v.Has(p.commit)
			v.Close()
			if found {
				return nil
			}
		}
	}
	return &gitremote.Failure{Kind: gitremote.ErrUnknownCommit, Err: errors.New("no branch or tag of the remote leads to it")}
}

// ask asks and puts the answer into the store.
func (r *Repo) ask(c Conversation, a gitremote.Ask, say *lines) error {
	if say.out != nil {
		a.Progress = say
	}
	ans, err := c.Ask(a)
	if err != nil {
		return err
	}
	in := &failing{r: ans}
	err = r.store.Receive(in)
	closeErr := ans.Close()
	switch {
	case in.err != nil:
		return in.err // what became of it here says less
	case err != nil && len(a.Haves) > 0:
		// It may also be what it builds on that is damaged, so this must not be
		// taken for a fault of the remote.
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &gitremote.Failure{Kind: gitremote.ErrUnreachable, Err: err, Remedy: "check the network, and that the remote is up"}
	case err != nil:
		return err
	case closeErr != nil:
		return closeErr
	}
	return r.store.AddShallow(append(ans.Shallow, a.Haves...), ans.Unshallow)
}

// failing remembers the error of a reader.
type failing struct {
	r   io.Reader
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

// final tells whether another way of fetching would end the same.
func final(ctx context.Context, err error) bool {
	if err == nil {
		return false
	}
	var errno syscall.Errno
	var f *gitremote.Failure
	switch {
	case ctx.Err() != nil, errors.Is(err, ErrBad):
		return true
	case errors.As(err, &f) && f.Kind != nil:
		return !errors.Is(f.Kind, gitremote.ErrRefused)
	case errors.As(err, &errno):
		return errno != syscall.ENOENT && errno != syscall.EIO
	}
	return false
}

// explain renders why a fetch failed and what to do about it.
func explain(ctx context.Context, p part, err error) error {
	what := fmt.Sprintf("cannot fetch commit %s from %s", short(p.commit), p.origin)
	if ctx.Err() != nil {
		cause := context.Cause(ctx)
		if errors.Is(cause, context.DeadlineExceeded) {
			return &gitremote.Failure{Err: fmt.Errorf("%s: it took too long: %w", what, cause)}
		}
		return fmt.Errorf("%s: cancelled: %w", what, cause)
	}
	var errno syscall.Errno
	var f *gitremote.Failure
	switch {
	case errors.As(err, &f):
		remedy := f.Remedy
		if errors.Is(f.Kind, gitremote.ErrUnknownCommit) {
			remedy = "push it, or deploy a commit that is on the remote; a forced push may have removed it"
		}
		if p.path != "" {
			remedy = strings.Replace(remedy, "in fleet.yaml", "in .gitmodules", 1)
		}
		if remedy != "" {
			remedy = "; " + remedy
		}
		return &explained{fmt.Sprintf("%s: %v%s", what, f, remedy), f}
	case errors.As(err, &errno):
		return fmt.Errorf("%s: %w", what, err)
	}
	return &gitremote.Failure{Err: fmt.Errorf("%s: %w", what, err)}
}

// explained is a failure with the sentence that tells it to people.
type explained struct {
	text    string
	failure *gitremote.Failure
}

func (e *explained) Error() string { return e.text }
func (e *explained) Unwrap() error { return e.failure }
