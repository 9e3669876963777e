package hetzner_test

// Where each way in which a balancer can fail is tried for Hetzner. "Contract"
// is the suite of lbtest, run by TestContract and TestContractOfASlowCloud.
//
//	 1 any step twice, rejoin without drain     contract: round trip
//	 2 a change carried out, its answer lost    contract: answers lost; TestUsePrivateIPIsPutBack
//	 3 accepted and never carried out           contract: changes ignored; TestWhatBecomesOfAnAction
//	 4 an action that sticks or vanishes        TestWhatBecomesOfAnAction
//	 5 locked, conflict                         TestRefusals, TestALockOrARateLimitPasses
//	 6 rate limit, Retry-After                  TestALockOrARateLimitPasses, package cloudhttp. Reset is never read
//	 7 token unknown, denied, read only         contract: denied; TestTokenThatMayOnlyRead
//	 8 5xx, HTML, half an answer, new words     TestRefusals, TestAnswersThatAreNone, FuzzRead
//	 9 no member, no balancer, deleted, double  contract: not a member; TestWhichMemberTheTargetIs,
//	                                            TestAServerThatWasDeleted, TestATargetTwiceOver
//	10 membership by label                      TestASelectorIsNeverRemoved; contract in gate mode. Labels are never written
//	11 attributes restored                      TestUsePrivateIPIsPutBack; a target has no other
//	12 last healthy, another lost meanwhile     contract: capacity, all at once; TestAnotherTurnsUnhealthyMeanwhile
//	13 held out by another hand                 Hetzner has neither maintenance nor weights
//	14 added again by another tool              contract: readmitted; TestUsePrivateIPIsPutBack
//	15 in flight never ends                     Hetzner counts nothing; TestWhatItSaysOfItself
//	16 a former process that still serves       Hetzner's own affair
//	17 health that is old, ports never healthy  TestHealthThatIsOld, TestAPortThatNobodyServes
//	18 traffic before health                    contract: rolling restart, with traffic before the first check
//	19 killed between any two steps             contract: a new provider at every step
//	20 cancelled in mid-step                    contract: cancelled, cut short
//	21 one of several instances                 a Hetzner balancer is one
//	22 unreachable, hanging                     contract: unreachable, hangs
//	23 configuration files                      there are none
//	24 flapping after the rejoin                the agent's soak
//	25 the deploy fails                         the agent's activation
//	26 checks slower than the timeouts          TestTimingIsRead, for those who know the timeouts
//	27 no failed request                        contract: rolling restart
