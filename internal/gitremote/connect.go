package gitremote

import (
	"context"
	"errors"

	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/client"
)

// Connect begins a conversation, which the caller closes, and reads which refs
// and abilities the remote has; adv is nil when the repository is empty.
//
// It logs in as [Remote.With] says. Errors are to be [Remote.Diagnose]d.
func (r Remote) Connect(ctx context.Context) (s transport.UploadPackSession, adv *packp.AdvRefs, err error) {
	auth, err := r.auth()
	if err != nil {
		return nil, nil, err
	}
	cl, err := client.NewClient(r.endpoint)
	if err != nil {
		return nil, nil, err
	}
	if s, err = newSession(ctx, cl, *r.endpoint, auth); err != nil {
		return nil, nil, err
	}
	adv, err = s.AdvertisedReferencesContext(ctx)
	if errors.Is(err, transport.ErrEmptyRemoteRepository) {
		return s, nil, nil
	}
	if err != nil {
		_ = s.Close() // what went wrong is known
		return nil, nil, err
	}
	return s, adv, nil
}

// newSession gives up when ctx ends, which the library's connecting does not.
func newSession(ctx context.Context, cl transport.Transport, ep transport.Endpoint, auth transport.AuthMethod) (transport.UploadPackSession, error) {
	type result struct {
		s   transport.UploadPackSession
		err error
	}
	done := make(chan result)
	go func() {
		s, err := cl.NewUploadPackSession(&ep, auth) // which may change ep when it is redirected
		select {
		case done <- result{s, err}:
		case <-ctx.Done():
			if err == nil {
				_ = s.Close() // nobody waits for it any more
			}
		}
	}()
	select {
	case r := <-done:
		return r.s, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
