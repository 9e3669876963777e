package mirror

import (
	"errors"
	"time"
)

// Commit is a commit of the repository.
type Commit struct {
	SHA       string // 40 hex digits
	Subject   string // first line of the message
	Committed time.Time
}

// Errors that callers branch on.
var (
	ErrUnknownRef    = errors.New("unknown ref")    // no branch, tag, or commit of the name
	ErrAmbiguous     = errors.New("ambiguous ref")  // several commits begin like it
	ErrUnknownCommit = errors.New("unknown commit") // not in the mirror
)
