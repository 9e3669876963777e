package webhook

import "time"

// Delivery is one verified webhook delivery. Its text is bounded in length and
// free of control characters. Of an event other than "push", only ID, Event,
// Repository (where the event has one), Sender, Ignored and Received are set.
type Delivery struct {
	ID         string // X-GitHub-Delivery; a redelivery carries the same one
	Event      string // X-GitHub-Event
	Repository Repository
	Ref        string // full name of the pushed ref
	Branch     string // of a ref below refs/heads/, else ""
	Before     string // 40 hex digits, all zero when the push created the ref
	After      string // 40 hex digits, all zero when the push deleted the ref
	Forced     bool   // as the sender says; only ancestry proves it
	Subject    string // first line of the head commit's message
	Sender     string // login of who pushed
	// Ignored says why there is nothing to deploy in it; "" when there may be.
	Ignored  Ignored
	Received time.Time
}

// Ignored is a typed reason why a delivery has nothing to deploy.
type Ignored string

// Reasons to ignore a delivery.
const (
	IgnoredEvent    Ignored = "other_event"    // not a push
	IgnoredTag      Ignored = "tag"            // below refs/tags/
	IgnoredRef      Ignored = "other_ref"      // neither a branch nor a tag
	IgnoredDeletion Ignored = "branch_deleted" // the branch is gone
)

// Text is the reason as a sentence.
func (i Ignored) Text() string {
	switch i {
	case IgnoredEvent:
		return "only push events are deployed"
	case IgnoredTag:
		return "a tag was pushed; only branches are deployed"
	case IgnoredRef:
		return "the pushed ref is no branch"
	case IgnoredDeletion:
		return "the branch was deleted"
	}
	return string(i)
}

// ZeroSHA stands for "no commit" in Before and After.
const ZeroSHA = "0000000000000000000000000000000000000000"
