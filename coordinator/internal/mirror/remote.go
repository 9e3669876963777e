package mirror

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/transport"
)

// damage is the error of a mirror that cannot be read and is to be made again.
type damage struct{ err error }

func (d *damage) Error() string { return d.err.Error() }
func (d *damage) Unwrap() error { return d.err }

// damaged tells whether the error shows the mirror itself to be at fault.
func damaged(err error) bool {
	var d *damage
	return errors.As(err, &d) || errors.Is(err, plumbing.ErrObjectNotFound)
}

// remoteError says which remote failed and what to do about it.
func (m *Mirror) remoteError(err error) error {
	if damaged(err) {
		return err
	}
	remedy := "check that this machine can reach it"
	switch {
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		remedy = "the remote denies access: check the credentials"
	case errors.Is(err, transport.ErrRepositoryNotFound):
		remedy = "check the app's repo, and that the coordinator may read it"
	}
	return fmt.Errorf("cannot fetch %s: %w (%s)", public(m.url), hidden{err, m.url}, remedy)
}

func (m *Mirror) noBranch(branch string) error {
	return fmt.Errorf("%s has no branch %q; check the app's branch: %w", public(m.url), branch, ErrUnknownRef)
}

// hidden is an error whose text does not show the credentials of a URL.
type hidden struct {
	err error
	url string
}

func (h hidden) Error() string { return strings.ReplaceAll(h.err.Error(), h.url, public(h.url)) }
func (h hidden) Unwrap() error { return h.err }

// public is the URL without user and password.
func public(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.User == nil || u.Host == "" {
		return raw
	}
	u.User = nil
	return u.String()
}
