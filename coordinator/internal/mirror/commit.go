package mirror

import (
	"fmt"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

// Commit is what a reader wants to know of a commit.
type Commit struct {
	SHA string // 40 hex digits
	// Subject is the first paragraph of the message on one printable line,
	// shortened when it is very long.
	Subject string
	// Committed is by the clock of whoever made the commit; zero when that is
	// no sensible instant.
	Committed time.Time
}

// commit returns what a reader wants to know of the commit at h, which may be
// an annotated tag of it.
func (l *local) commit(h plumbing.Hash) (Commit, error) {
	h, err := l.peel(h)
	if err != nil {
		return Commit{}, err
	}
	c, err := l.read(h)
	if err != nil {
		return Commit{}, err
	}
	at := c.Committer.When.UTC()
	if at.Unix() <= 0 || at.Year() > 9999 {
		at = time.Time{}
	}
	return Commit{SHA: h.String(), Subject: subject(c.Message), Committed: at}, nil
}

// peel follows tags to what they name.
func (l *local) peel(h plumbing.Hash) (plumbing.Hash, error) {
	for range 10 {
		o, err := l.st.EncodedObject(plumbing.AnyObject, h)
		if err != nil {
			return h, l.check(fmt.Errorf("cannot read object %s: %w", h, err))
		}
		switch o.Type() {
		case plumbing.CommitObject:
			return h, nil
		case plumbing.TagObject:
			t, err := object.DecodeTag(l.st, o)
			if err != nil {
				return h, l.check(fmt.Errorf("cannot read tag %s: %w", h, err))
			}
			h = t.Target
		default:
			return h, fmt.Errorf("%w: %s is no commit but a %s", ErrUnknownRef, h, o.Type())
		}
	}
	return h, fmt.Errorf("%w: the tag names a tag that names a tag, and so on", ErrUnknownRef)
}

// subject returns the first paragraph of a message as one line that does no
// harm to a terminal.
func subject(message string) string {
	message = strings.TrimLeft(message, "\r\n\t ")
	var lines []string
	for line := range strings.Lines(message) {
		line = strings.TrimSpace(line)
		if line == "" {
			break
		}
		lines = append(lines, line)
	}
	return gitremote.Clean(strings.Join(lines, " "))
}
