package mirror

import (
	"context"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
)

// session is one conversation with a remote.
type session struct {
	transport.UploadPackSession
	adv  *packp.AdvRefs // nil when the repository is empty
	refs map[string]plumbing.Hash
}

// dial connects and reads where the branches and tags are. The caller closes
// the session.
func (m *Mirror) dial(ctx context.Context) (*session, error) {
	ups, adv, err := m.remote.Connect(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{UploadPackSession: ups, adv: adv, refs: map[string]plumbing.Hash{}}
	if adv == nil {
		return s, nil
	}
	for name, h := range adv.References {
		if mirrored(name) {
			s.refs[name] = h
		}
	}
	return s, nil
}

// mirrored tells whether a ref is one of those that are kept. Hosts show many
// more, such as those of pull requests, which are not the owners' own.
func mirrored(name string) bool {
	return (strings.HasPrefix(name, "refs/heads/") || strings.HasPrefix(name, "refs/tags/")) &&
		plumbing.ReferenceName(name).Validate() == nil
}

// close ends the conversation. How the other side ends it tells nothing that
// was not told before.
func (s *session) close() { _ = s.Close() }
