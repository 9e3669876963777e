package gate_test

import (
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// TestEveryFailureIsAccountedFor says where each known way to fail is tried.
func TestEveryFailureIsAccountedFor(t *testing.T) {
	lbtest.Account(t, `
 1 contract: round trip, a new provider at every step
 2 cannot apply: the write is a file; contract: unreachable
 3 contract: changes ignored; TestAnotherFile
 4 cannot apply: there are no actions
 5 cannot apply: there is no API
 6 cannot apply: there is no API
 7 TestPreflight
 8 FuzzStatus, FuzzState, TestRemote, TestUnreadableState
 9 contract: not a member; TestNobodyPolls; TestPolls: several addresses
10 cannot apply: membership is not changed, which is the gate's point
11 cannot apply: the balancer is not touched
12 contract: capacity, all at once
13 contract: another hand
14 contract: readmitted; TestReloadIsNoticed
15 TestInFlight
16 cannot apply: nothing is counted by the balancer
17 contract: rejoin waits for the check; TestPolls
18 contract: rolling restart
19 contract: a new provider at every step; TestRestartWhileDrained
20 contract: cancelled, cut short
21 TestPolls: everybody who polls must be told
22 contract: hangs, unreachable
23 TestUnreadableState, TestStateIsWrittenWhole
24 elsewhere: the agent's soak
25 elsewhere: the agent's activation leaves the target out
26 elsewhere: Timing says the bound, and the agent refuses
27 contract: rolling restart
`, harness())
}
