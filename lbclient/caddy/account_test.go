package caddy_test

import (
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient/caddy/caddytest"
	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// TestEveryFailureIsAccountedFor says where each known way to fail is tried.
func TestEveryFailureIsAccountedFor(t *testing.T) {
	lbtest.Account(t, `
 1 contract: round trip, a new provider at every step
 2 contract: answers lost
 3 contract: changes ignored
 4 contract: hangs
 5 TestChangedInBetween: refused with 412, a conflict
 6 cannot apply: Caddy has no limit
 7 contract: denied
 8 TestStrangeAnswers, TestParseHandler, FuzzParseHandler, FuzzParseStatuses, FuzzParseMetrics
 9 contract: not a member; TestPreflight, TestPutBackAsItStood
10 cannot apply: an upstream stands in a list
11 TestPutBackAsItStood, TestWithIsUndone
12 contract: capacity, all at once; TestOneHandlerFails, TestUnhealthy
13 cannot apply: Caddy can only remove, which is no member
14 contract: forgets, readmitted; TestForgotten
15 TestCaddyThatForgetsRequests
16 contract: in flight
17 cannot apply: health is only taken as a reason against
18 TestRollingRestart: a target is healthy before it rejoins
19 contract: a new provider at every step, restore outlives the provider
20 contract: cancelled, cut short
21 cannot apply: one Caddy a provider, lbclient.Multi joins several
22 contract: unreachable, hangs; TestUnixSocket
23 cannot apply: no file is written
24 TestUnhealthy: a failing upstream shows as unhealthy
25 elsewhere: the agent's activation leaves the target out
26 cannot apply: a rejoin does not wait for Caddy's checks
27 TestRollingRestart, which counts and names what Caddy resets
`, harness(caddytest.Options{}, true))
}
