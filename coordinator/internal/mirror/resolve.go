package mirror

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

// minShort is how many hex digits name a commit at least.
const minShort = 7

// resolveKnown is resolve for a commit named by its digits, unless the name is
// that of a branch or tag.
func (l *local) resolveKnown(ref string) (Commit, error) {
	if !isDigits(ref) {
		return Commit{}, ErrUnknownRef
	}
	return l.resolve(ref)
}

// resolve looks a ref up in the copy.
func (l *local) resolve(ref string) (Commit, error) {
	if h, ok := l.refs[ref]; ok {
		return l.commit(h)
	}
	branch, isBranch := l.refs["refs/heads/"+ref]
	tag, isTag := l.refs["refs/tags/"+ref]
	switch {
	case isBranch && isTag:
		b, err := l.commit(branch)
		if err != nil {
			return Commit{}, err
		}
		if t, err := l.commit(tag); err != nil || t.SHA == b.SHA {
			return t, err
		}
		return Commit{}, fmt.Errorf("%w: %q is a branch and a tag; write refs/heads/%s or refs/tags/%s", ErrAmbiguous, ref, ref, ref)
	case isBranch:
		return l.commit(branch)
	case isTag:
		return l.commit(tag)
	case isDigits(ref):
		return l.resolveDigits(strings.ToLower(ref))
	}
	return Commit{}, ErrUnknownRef
}

func isDigits(ref string) bool {
	return len(ref) >= minShort && len(ref) <= 40 && strings.Trim(ref, "0123456789abcdefABCDEF") == ""
}

func (l *local) resolveDigits(digits string) (Commit, error) {
	if len(digits) == 40 {
		h := plumbing.NewHash(digits)
		if has, err := l.has(h); err != nil {
			return Commit{}, err
		} else if !has {
			return Commit{}, ErrUnknownRef
		}
		return l.commit(h)
	}
	prefix, err := hex.DecodeString(digits[:len(digits)&^1])
	if err != nil {
		return Commit{}, err
	}
	hashes, err := l.st.HashesWithPrefix(prefix)
	if err != nil {
		return Commit{}, l.check(err)
	}
	var found []plumbing.Hash
	for _, h := range hashes {
		if !strings.HasPrefix(h.String(), digits) {
			continue
		}
		o, err := l.st.EncodedObject(plumbing.AnyObject, h)
		if err != nil {
			return Commit{}, l.check(fmt.Errorf("cannot read object %s: %w", h, err))
		}
		if o.Type() == plumbing.CommitObject {
			found = append(found, h)
		}
	}
	switch len(found) {
	case 0:
		return Commit{}, ErrUnknownRef
	case 1:
		return l.commit(found[0])
	}
	return Commit{}, fmt.Errorf("%w: %d commits begin with %s; write more digits, as of %s", ErrAmbiguous, len(found), digits, found[0])
}
