package haproxy_test

import (
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// TestEveryFailureIsAccountedFor says where each known way to fail is tried.
func TestEveryFailureIsAccountedFor(t *testing.T) {
	lbtest.Account(t, `
 1 contract: round trip, a new provider at every step
 2 contract: answers lost; TestReadingBackDecides
 3 contract: changes ignored; TestReadingBackDecides
 4 cannot apply: HAProxy obeys a command before it answers
 5 TestTwoAgentsAtOnce; cannot apply: HAProxy locks nothing
 6 cannot apply: the admin socket takes as many commands as come
 7 TestDrainIsUndoneWhenAnotherInstanceRefuses
 8 TestReadingBackDecides, TestErrorsOfTheSocket, TestParseRefuses, FuzzParseInfo, FuzzParseStat, FuzzParseState
 9 contract: not a member, removed; TestNotFoundNamesWhatExists, TestEveryBackendIsDrained
10 cannot apply: a server stands in haproxy.cfg
11 TestAnotherHandsWeightIsPutBack, TestWeightBack
12 contract: capacity, all at once; TestLastInOneBackendIsLastEnough, TestBackupsDoNotCount, TestTwoAgentsAtOnce
13 contract: another hand; TestOutByAnotherHand, TestMaintenanceInMidDrain
14 contract: forgets, readmitted; TestReloadInMidDrain
15 contract: in flight, force; TestStickyVisitors, TestForce
16 TestReloadInMidDrain, TestReloadBeforeTheDrain, TestFormer
17 contract: rejoin waits for the check; TestEveryKindOfServer, TestDrainedIsNotReadFromTheStatus
18 contract: rolling restart; TestEveryKindOfServer: out of maintenance a server is pending
19 contract: a new provider at every step, restore outlives the provider; TestRecordSurvivesTheJournal
20 contract: cancelled, cut short; TestDrainIsUndoneWhenCancelledHalfway
21 TestOneOfTwoInstancesDown, TestFailoverInMidDrain, TestDrainIsUndoneWhenAnotherInstanceRefuses
22 contract: unreachable, hangs; TestHangingSocketMeetsTheDeadline, TestErrorsOfTheSocket
23 cannot apply: no file is written
24 elsewhere: the agent's soak
25 elsewhere: the agent's activation leaves the target out
26 elsewhere: a rejoin that takes longer than its timeout is the agent's to judge
27 contract: rolling restart; TestNoRequestFails, with kept connections
`, harness(), harnessOfAPair())
}
