package nginx_test

import (
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient/lbtest"
)

// TestEveryFailureIsAccountedFor says where each known way to fail is tried.
func TestEveryFailureIsAccountedFor(t *testing.T) {
	lbtest.Account(t, `
 1 contract: round trip, a new provider at every step
 2 contract: answers lost
 3 contract: changes ignored; TestNotRead
 4 TestCommandThatHangs
 5 TestLocked
 6 cannot apply: there is no remote API
 7 TestMayNotWrite
 8 TestParseRefuses, FuzzParse
 9 contract: not a member, removed; TestWhatTheTargetIs, TestSymbolicLink
10 cannot apply: a server stands in a file
11 TestOnlyOwnLineIsTouched, TestMarkIsUndone
12 contract: capacity, all at once; TestNeverAllDown
13 contract: another hand
14 contract: forgets, readmitted
15 TestBusyWhileAnOldWorkerLives
16 TestBusyWhileAnOldWorkerLives
17 cannot apply: nginx has no health
18 TestNoRequestFails: a target is healthy before it rejoins
19 TestHalfDone; contract: restore outlives the provider
20 contract: cancelled, cut short
21 cannot apply: one nginx a provider, lbclient.Multi joins several
22 contract: unreachable
23 TestBrokenConfiguration, TestBrokenAfterTheEdit, TestHalfDone, TestEditOfOurLineStands, TestFileErrors, TestWriteOrNothing,
   TestSymbolicLink, TestHardLink
24 cannot apply: nginx has no health
25 elsewhere: the agent's activation leaves the target out
26 cannot apply: nginx has no health
27 TestNoRequestFails, which counts and names the idle resets; TestAnswerInPieces
`, harness())
}
