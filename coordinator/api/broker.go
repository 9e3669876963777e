package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// BalancerOp is one operation on a target's place in its balancer.
type BalancerOp string

// Operations. Those of [BalancerOp.Changes] change the balancer.
const (
	OpPreflight    BalancerOp = "preflight"
	OpObserve      BalancerOp = "observe"
	OpSnapshot     BalancerOp = "snapshot"
	OpBeginDrain   BalancerOp = "begin_drain"
	OpDrainStatus  BalancerOp = "drain_status"
	OpForceIdle    BalancerOp = "force_idle"
	OpBeginRejoin  BalancerOp = "begin_rejoin"
	OpRejoinStatus BalancerOp = "rejoin_status"
	OpTiming       BalancerOp = "timing"
)

// Changes tells whether the operation changes the balancer.
func (o BalancerOp) Changes() bool {
	return o == OpBeginDrain || o == OpForceIdle || o == OpBeginRejoin
}

// BalancerRequest is what an agent posts to /agent/v1/balancer to have one
// operation carried out by the coordinator, which holds the credentials. The
// target must be one of the node's own. A refusal is an [Error] whose Reason is
// the class of the balancer's error (transient, busy, unsafe, …).
type BalancerRequest struct {
	Node   string     `json:"node"`
	App    string     `json:"app"`
	Target string     `json:"target"`
	Op     BalancerOp `json:"op"`
	// Balancer is its name, for a target on its way back of an app that the
	// configuration names no more.
	Balancer string `json:"balancer,omitempty"`
	// Restore is what a snapshot answered; every operation that follows it needs it.
	Restore *BalancerRestore `json:"restore,omitempty"`
	// MinHealthy can only make a drain stricter than the coordinator's own
	// configuration does.
	MinHealthy int `json:"min_healthy,omitempty"`
	// Session names a run of the agent, and Number counts its changes in it, so
	// that a change that was overtaken by a later one is not carried out.
	Session string `json:"session,omitempty"`
	Number  uint64 `json:"number,omitempty"`
}

// BalancerAnswer answers a [BalancerRequest] with what the operation returns.
type BalancerAnswer struct {
	Restore *BalancerRestore `json:"restore,omitempty"`
	Drain   *BalancerDrain   `json:"drain,omitempty"`
	Rejoin  *BalancerRejoin  `json:"rejoin,omitempty"`
	Pool    *BalancerPool    `json:"pool,omitempty"`
	Check   *BalancerCheck   `json:"check,omitempty"`
	// Caps comes with every answer: it is the provider's own word for all of them.
	Caps *BalancerCaps `json:"caps,omitempty"`
}

// BalancerCaps is what a balancer's answers are worth and what a change costs.
type BalancerCaps struct {
	Health       bool   `json:"health,omitempty"`       // "serving" is the balancer's own word
	InFlight     bool   `json:"in_flight,omitempty"`    // "idle" is the balancer's own count
	Disturbs     string `json:"disturbs,omitempty"`     // what a change costs other clients
	Undocumented string `json:"undocumented,omitempty"` // what nobody documents about the product
}

// BalancerCheck is how a balancer checks the health of its members.
type BalancerCheck struct {
	Interval Duration `json:"interval"` // from one check to the next
	Timeout  Duration `json:"timeout"`  // of one check
	Fall     int      `json:"fall"`     // failures in a row that take a member out
	Rise     int      `json:"rise"`     // passes in a row that take it back in
}

// BalancerRestore is how a target stood in its balancer before a drain. It
// holds no secret.
type BalancerRestore struct {
	Provider   string          `json:"provider"`
	Target     string          `json:"target"`
	Version    int             `json:"version"`
	WasServing bool            `json:"was_serving"`
	Data       json.RawMessage `json:"data,omitempty"`
}

// BalancerDrain is one look at a drain.
type BalancerDrain struct {
	Stage    string `json:"stage"`     // not_asked, accepted, busy, idle
	InFlight int64  `json:"in_flight"` // -1 when the balancer cannot say
	Epoch    string `json:"epoch"`
	Evidence string `json:"evidence"`
}

// BalancerRejoin is one look at a rejoin.
type BalancerRejoin struct {
	Stage    string `json:"stage"` // not_asked, pending, unhealthy, serving
	Evidence string `json:"evidence"`
}

// BalancerPool is every member of a balancer at one look.
type BalancerPool struct {
	Members []BalancerMember `json:"members"`
	Epoch   string           `json:"epoch"`
	At      time.Time        `json:"at"`
}

// BalancerMember is one member as its balancer sees it.
type BalancerMember struct {
	Name     string `json:"name"`
	Phase    string `json:"phase"`            // unknown, absent, foreign_out, unhealthy, pending, draining, serving
	InFlight int64  `json:"in_flight"`        // -1 when the balancer cannot say
	Detail   string `json:"detail,omitempty"` // the balancer's own words
}

// Bounds of a [BalancerReport].
const (
	MaxReportedMembers = 100
	MaxReportedDetail  = 300
)

// BalancerReport is what an agent that speaks to a balancer itself last learned
// of it.
type BalancerReport struct {
	// At is when Members were seen; zero before the first look that succeeded.
	At      time.Time        `json:"at,omitzero"`
	Members []BalancerMember `json:"members,omitempty"`
	Omitted int              `json:"omitted,omitempty"` // members beyond MaxReportedMembers
	// Failed says why the last look brought nothing.
	Failed *BalancerFailure `json:"failed,omitempty"`
	// Checked is when the preflight was last carried out, Refused what it found.
	Checked time.Time        `json:"checked,omitzero"`
	Refused *BalancerFailure `json:"refused,omitempty"`
	// Timing is the balancer's own health check, where it tells.
	Timing *BalancerTiming `json:"timing,omitempty"`
	// Caps is what the balancer's answers are worth and what a change costs.
	Caps *BalancerCaps `json:"caps,omitempty"`
}

// BalancerFailure is a balancer's error in a report.
type BalancerFailure struct {
	Class string `json:"class"`
	Text  string `json:"text"`
}

// BalancerTiming is how long a balancer takes to notice what changed.
type BalancerTiming struct {
	DownWithin Duration `json:"down_within"` // until a member that fails its check gets nothing new
	UpWithin   Duration `json:"up_within"`   // until one that passes it is back
}

// Balancers is the answer of GET /v1/balancers.
type Balancers struct {
	At        time.Time        `json:"at"`
	Balancers []BalancerStatus `json:"balancers"`
}

// BalancerStatus is one balancer of fleet.yaml, as it was last seen.
type BalancerStatus struct {
	Name       string   `json:"name"`
	Type       string   `json:"type"`
	Via        string   `json:"via"` // agent or coordinator: who speaks to it
	Apps       []string `json:"apps"`
	MinHealthy int      `json:"min_healthy"`
	// Source is who saw it: the coordinator, or the node of an agent.
	Source string     `json:"source,omitempty"`
	Seen   *time.Time `json:"seen,omitempty"` // absent when it was not seen yet
	// Members are all that the balancer has. A target of ours that is none of
	// them is listed as absent, or as unknown when nothing was seen.
	Members []BalancerMemberStatus `json:"members"`
	// Problem says why Members are missing or old.
	Problem string `json:"problem,omitempty"`
}

// BalancerMemberStatus is one member, with the targets that it is.
type BalancerMemberStatus struct {
	BalancerMember
	Targets []string `json:"targets"` // empty: none of this fleet's
	// Turn tells that a rollout holds it out just now.
	Turn bool `json:"turn,omitempty"`
}

// Serving counts the members that get new work.
func (b BalancerStatus) Serving() int {
	n := 0
	for _, m := range b.Members {
		if m.Phase == "serving" {
			n++
		}
	}
	return n
}

// Doctor is the answer of GET /v1/doctor: everything that a deploy would need,
// looked at now. Nothing is changed by it.
type Doctor struct {
	At      time.Time     `json:"at"`
	Version string        `json:"version"` // of the coordinator
	Checks  []DoctorCheck `json:"checks"`
}

// Findings counts the checks that did not pass.
func (d Doctor) Findings() int {
	n := 0
	for _, c := range d.Checks {
		if c.Result != CheckOK && c.Result != CheckNote {
			n++
		}
	}
	return n
}

// DoctorCheck is one thing that was looked at.
type DoctorCheck struct {
	Area    string      `json:"area"` // configuration, secrets, repository, node, balancer, capacity, timeouts
	Subject string      `json:"subject"`
	Result  CheckResult `json:"result"`
	Text    string      `json:"text"` // what was found, and what to do
}

// CheckResult is what a check came to.
type CheckResult string

// Check results.
const (
	CheckOK      CheckResult = "ok"
	CheckNote    CheckResult = "note"    // good to know, and no finding
	CheckWarning CheckResult = "warning" // allowed, and hardly meant
	CheckProblem CheckResult = "problem" // stops a deploy, or makes it unsafe
	CheckUnknown CheckResult = "unknown" // could not be looked at
)

// Balancer has one operation carried out by the coordinator. One that changes
// the balancer is never sent twice by itself: after any error but a refusal
// whether it was carried out is not known.
func (c *Client) Balancer(ctx context.Context, rq BalancerRequest) (BalancerAnswer, error) {
	var out BalancerAnswer
	err := c.do(ctx, call{
		method: http.MethodPost, path: "/agent/v1/balancer", body: rq, limit: MaxSyncBytes,
		repeatable: !rq.Op.Changes(),
	}, &out)
	return out, err
}

// Balancers returns every balancer with its members, or the one that is named.
// It waits for those that the coordinator itself speaks to.
func (c *Client) Balancers(ctx context.Context, name string) (Balancers, error) {
	var out Balancers
	q := url.Values{}
	if name != "" {
		q.Set("name", name)
	}
	err := c.do(ctx, call{method: http.MethodGet, path: "/v1/balancers", query: q, repeatable: true, waits: true}, &out)
	return out, err
}

// Doctor looks at everything that a deploy would need.
func (c *Client) Doctor(ctx context.Context) (Doctor, error) {
	var out Doctor
	err := c.do(ctx, call{method: http.MethodGet, path: "/v1/doctor", repeatable: true, waits: true}, &out)
	return out, err
}
