package sim

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

var mutate = flag.Bool("sim.mutate", false, "break the engine on purpose, and see that it is noticed (takes minutes)")

// edit replaces the one place of a file of the engine that reads like old.
type edit struct{ file, old, new string }

// mutants are deliberate mistakes. Each must be caught by a check of the made
// world, or by a scenario or a test of the engine.
var mutants = []struct {
	name  string
	edits []edit
}{
	{"turns without number", []edit{{"turn.go", "case turns >= m.MaxUnavailable:", "case false:"}}},
	{"others that are down are not counted", []edit{{"turn.go", "case others+1 > m.MaxUnavailable:", "case false:"}}},
	{"a target of unknown rotation is drained as if it were out", []edit{{"turn.go", "case !t.InService || t.Seen.out():", "case !t.InService || m.down(t):"}}},
	{"unknown rotation counts as in rotation", []edit{{"look.go", "t.Seen.Rotation != RotationIn || t.Seen.Health == Unhealthy", "t.Seen.out()"}}},
	{"any outcome ends a turn", []edit{{"apply.go", "if t.Turn != 0 && o.Turn == t.Turn {", "if t.Turn != 0 {"}}},
	{"succeeds without proof", []edit{{"roll.go", "done = done && t.Turn == 0 && m.present(t) && t.Proved(r.Release)", "done = done && t.Turn == 0"}}},
	{"rolls when the first node is prepared", []edit{{"prepare.go", "if waiting > 0 || ready == 0 || r.Paused != nil {", "if ready == 0 || r.Paused != nil {"}}},
	{"what a node held before it was asked is believed", []edit{{"prepare.go", "p.Accepted >= p.Asked && m.holds", "m.holds"}}},
	{"a rollback is rolled back", []edit{
		{"turn.go", "if r.Status == Rolling && r.Kind == Deploy && o.Fault == ReleaseFault && a.Policy.AutoRollback {", "if r.Status == Rolling && o.Fault == ReleaseFault && a.Policy.AutoRollback {"},
		{"life.go", "if r.Kind == Deploy {\n\t\tr.From = ", "{\n\t\tr.From = "},
	}},
	{"automation deploys a bad release again", []edit{{"request.go", "if e.Automatic && known != nil && known.Bad != nil {", "if e.Automatic && known != nil && known.Bad != nil && false {"}}},
	{"automation goes back to an older commit", []edit{{"request.go", "if newer == id {", "if true || newer == id {"}}},
	{"a forced push is deployed", []edit{{"request.go", "if e.Diverged {", "if e.Diverged && false {"}}},
	{"a generation is not raised", []edit{{"effects.go", "m.Generation++\n", ""}}},
	{"a lost node loses its turn", []edit{{"apply.go", "case t.Turn != 0:\n", "case t.Turn != 0:\n\t\t\tt.Turn = 0\n"}}},
	{"a lost node still counts as serving", []edit{{"look.go", "n == nil || n.Reach != Reachable || !t.Seen.Known ||", "n == nil ||"}}},
	{"a failed turn is tried without end", []edit{
		{"turn.go", "if t.Tries <= a.Policy.Retries {", "if true {"},
		{"turn.go", "if t.Tries > a.Policy.Retries {", "if false {"},
	}},
	{"the turn that is out is not turned round", []edit{{"goback.go", "if t.Turn != 0 {\n\t\t\t\tm.giveTurn(a, t)\n\t\t\t}", ""}}},
	{"a start does not forget what was seen", []edit{{"apply.go", "m.Nodes[i].Reach = ReachUnknown", "_ = i"}, {"apply.go", "t.Seen.Known = false\n\t\tif a := ", "if a := "}}},
	{"a target that was left out is called active", []edit{{"life.go", "default:\n\t\tm.rest(t, TargetWaiting)\n\t}\n}\n\nfunc (p *Placement)", "default:\n\t\tm.rest(t, TargetActive)\n\t}\n}\n\nfunc (p *Placement)"}}},
	{"nothing catches up", []edit{{"step.go", "if a.Waiting != nil || a.Hold != nil || a.Current == \"\" {", "if true || a.Hold != nil {"}}},
	{"what another hand changed is fought without end", []edit{{"step.go", "if hand && t.Mended {", "if false {"}}},
	{"what another hand changed is never brought back", []edit{{"step.go", "if hand && t.Mended {", "if hand {"}}},
	{"what a person stopped is taken for another hand's", []edit{{"drift.go", "id != a.Current && id != t.Release", "id != a.Current"}}},
	{"a current link that was moved is overlooked", []edit{{"drift.go", "m.byHand(a, t, s.Linked) ||", ""}}},
	{"the clock is set to the past", []edit{{"step.go", "\tm.forgetPast()\n", ""}}},
	{"a waiting rollout is forgotten", []edit{{"request.go", "m.drop(a, w, Superseded, ReasonSupersededBy, fmt.Sprintf(\"superseded by %s\", r.ID))\n\t}\n\ta.Waiting = r", "_ = w\n\t}\n\ta.Waiting = r"}}},
	{"a late return waits for a person", []edit{{"goback.go", "case r.Paused == nil || r.alarmed():", "case r.Paused == nil:"}}},
	{"who asks to be last is not", []edit{{"turn.go", "t.Seen.Last && t.InService && !m.down(t)", "false"}}},
	{"who asks to be last is only put at the end", []edit{{"turn.go", "if !m.last(t) {\n\t\treturn nil", "if true {\n\t\treturn nil"}}},
	{"others wait for one that asks to be last and is out", []edit{{"turn.go", "t.Seen.Last && t.InService && !m.down(t)", "t.Seen.Last"}}},
	{"what fails on a node fails for one of its targets", []edit{{"prepare.go", "for _, t := range waiting {\n\t\t\tm.quarantine(a, t)\n\t\t}", "m.quarantine(a, waiting[0])"}}},
	{"one that is out and in no rollout stands in the way for ever", []edit{{"request.go", "\t\tm.adopt(a)\n", ""}}},
	{"a hold does not hold", []edit{{"step.go", "if w == nil || (w.Automatic && a.Hold != nil) {", "if w == nil {"}}},
	{"a step writes into the state that it was given", []edit{{"state.go", "\ts.Targets = slices.Clone(s.Targets)\n", ""}}},
	{"what another build made is taken for the same", []edit{{"once.go", `has == "" || has == rel.Digest`, `has == "" || true`}}},
	{"every node builds, although one builds for all", []edit{{"once.go", "\t\t\tp.become(HowWait, \"\")\n\t\t}\n\t}\n\tm.watchBuilder", "\t\t\tp.become(HowBuild, \"\")\n\t\t}\n\t}\n\tm.watchBuilder"}}},
	{"a builder that is lost is waited for", []edit{{"once.go", "m.Node(p.Node).Reach == Reachable && !slices", "!slices"}}},
	{"an archive that the coordinator lost is asked for", []edit{{"once.go", `rel.Digest != "" && slices.Contains(a.Archives, rel.Digest):`, `rel.Digest != "":`}}},
	{"a node that could not build is chosen again", []edit{{"once.go", "\tr.Unfit = append(r.Unfit, p.Node)\n", ""}}},
	{"differing builds are deployed, although they are refused", []edit{{"once.go", "case !a.Policy.RefuseSkew || r.Kind == Rollback:", "case true:"}}},
	{"a release command that failed is taken for one that went well", []edit{{"command.go", "\tcase f.OK:\n", "\tcase f.OK || f.Fault == ReleaseFault:\n"}}},
	{"a release command that was lost is given to another node", []edit{{"command.go", "m.commandUnknown(a, node+\" was lost, and it may still run there\")", "r.Command = nil"}}},
	{"a release command whose end is unknown is run again when resumed", []edit{{"command.go", "m.pauseForCommand(a) // also when it was merely resumed", "r.Command = nil"}}},
	{"turns are given while the release command runs", []edit{{"prepare.go", "if !m.settleCommand(a) {", "if !m.settleCommand(a) && r.Command == nil {"}}},
	{"a turn that failed after its rollout leaves its target to nobody", []edit{{"turn.go", "\t\tt.Phase, t.Reason, t.Text = TargetQuarantined, o.Reason, o.Text\n", ""}}},
	{"what a rollout leaves out is the next one's, even if that touches nothing", []edit{{"turn.go", "\t\tt.Before = &Standing{Phase: TargetQuarantined, Reason: o.Reason, Text: o.Text}\n", ""}}},
	{"a target that comes back into the configuration is well for ever", []edit{{"apply.go", "\t\t\t\tm.finishForgotten(a, t, o)\n", ""}}},
	{"the clock of a command that nobody knows the end of never rests", []edit{{"command.go", "\tif r.Command.Phase == CommandUnknown {\n\t\tm.pauseForCommand(a) // it was", "\tif r.Command.Phase == CommandUnknown {\n\t\treturn true // it was"}}},
	{"who fails in the report of its return is waited for", []edit{{"prepare.go", "if anew && r.Status != RollingBack {", "if anew && false {"}}},
	{"of two builds that nobody shared each is taken for the one", []edit{{"once.go", "\t\tm.chooseDigest(rel, mine)\n", ""}}},
	{"a return waits for one that waits for its end", []edit{{"goback.go", "if t.Phase == TargetWaiting && m.present(t) && m.down(t) {", "if false {"}}},
	{"all is well as long as nobody restarts it", []edit{{"look.go", ` && t.Seen.Linked == ""`, ""}}},
	{"who comes back late may have built something else", []edit{{"once.go", "if has == \"\" || theirs == \"\" || has == theirs {", "if true {"}}},
	{"what a person runs is taken away", []edit{{"step.go", "return !t.Seen.elsewhere() && (", "return (true || "}}},
	{"what could not be brought back is forgotten", []edit{{"turn.go", "case !o.Reverted || r.Kind == CatchUp:\n\t\tm.quarantine(a, t)\n", "case !o.Reverted || r.Kind == CatchUp:\n\t\tm.rest(t, TargetWaiting)\n"}}},
	{"a rollout ends unrecorded", []edit{{"life.go", "m.gone = append(m.gone, m.Changed(r))", ""}}},
}

// caught says for each mutant which seed catches it, so that not all mutants play
// hundreds of schedules until one does. A change of the engine or of the world
// may make a seed miss its mutant; then another is looked for, and printed. 0: no
// seed does, but a test of the engine.
var caught = map[string]uint64{
	"turns without number":                                                      1,
	"others that are down are not counted":                                      13,
	"a target of unknown rotation is drained as if it were out":                 31,
	"unknown rotation counts as in rotation":                                    31,
	"any outcome ends a turn":                                                   1,
	"succeeds without proof":                                                    21,
	"rolls when the first node is prepared":                                     1,
	"what a node held before it was asked is believed":                          3647,
	"a rollback is rolled back":                                                 648,
	"automation deploys a bad release again":                                    10,
	"automation goes back to an older commit":                                   40,
	"a forced push is deployed":                                                 117,
	"a generation is not raised":                                                1,
	"a lost node loses its turn":                                                13,
	"a lost node still counts as serving":                                       13,
	"a failed turn is tried without end":                                        10,
	"the turn that is out is not turned round":                                  4304,
	"a start does not forget what was seen":                                     2,
	"a target that was left out is called active":                               130,
	"nothing catches up":                                                        5,
	"what another hand changed is fought without end":                           1354,
	"what another hand changed is never brought back":                           565,
	"what a person stopped is taken for another hand's":                         1345,
	"a current link that was moved is overlooked":                               241,
	"the clock is set to the past":                                              1786,
	"a waiting rollout is forgotten":                                            9,
	"a late return waits for a person":                                          531,
	"who asks to be last is not":                                                13,
	"who asks to be last is only put at the end":                                255,
	"others wait for one that asks to be last and is out":                       205,
	"what fails on a node fails for one of its targets":                         28,
	"one that is out and in no rollout stands in the way for ever":              0,
	"a hold does not hold":                                                      4,
	"a step writes into the state that it was given":                            2,
	"what another build made is taken for the same":                             338,
	"every node builds, although one builds for all":                            7,
	"a builder that is lost is waited for":                                      39,
	"an archive that the coordinator lost is asked for":                         28,
	"a node that could not build is chosen again":                               67,
	"differing builds are deployed, although they are refused":                  36,
	"a release command that failed is taken for one that went well":             10,
	"a release command that was lost is given to another node":                  157,
	"a release command whose end is unknown is run again when resumed":          173,
	"turns are given while the release command runs":                            5,
	"a turn that failed after its rollout leaves its target to nobody":          31,
	"what a rollout leaves out is the next one's, even if that touches nothing": 0,
	"a target that comes back into the configuration is well for ever":          13884,
	"the clock of a command that nobody knows the end of never rests":           19505,
	"who fails in the report of its return is waited for":                       204012,
	"of two builds that nobody shared each is taken for the one":                414027,
	"a return waits for one that waits for its end":                             4384,
	"all is well as long as nobody restarts it":                                 0,
	"who comes back late may have built something else":                         4956,
	"what a person runs is taken away":                                          153,
	"what could not be brought back is forgotten":                               11,
	"a rollout ends unrecorded":                                                 1,
}

// TestMutants is `make mutate`. For each mutant it builds the tests against an
// engine with that one mistake in it, and prints what noticed.
func TestMutants(t *testing.T) {
	if !*mutate {
		t.Skip("run with -sim.mutate; it takes minutes")
	}
	// Else whatever fails already would seem to catch them all.
	if out, failed := runTests(t, "go", "test", "-vet=off", "-count=1", ".."); failed {
		t.Fatalf("the engine as it is fails:\n%s", out)
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			overlay := breakEngine(t, m.edits)
			engine := func() bool {
				out, failed := runTests(t, "go", "test", "-vet=off", "-count=1", "-overlay="+overlay, "..")
				if failed {
					t.Logf("caught by the engine's tests: %s", first(out, `--- FAIL: \S+/\S+|--- FAIL: \S+`))
				}
				return failed
			}
			seed, known := caught[m.name]
			if known && seed == 0 && engine() {
				return
			}
			world := filepath.Join(filepath.Dir(overlay), "world.test")
			if out, failed := runTests(t, "go", "test", "-c", "-vet=off", "-overlay="+overlay, "-o", world, "."); failed {
				t.Fatalf("the mutant does not build:\n%s", out)
			}
			play := func(from, n uint64) bool {
				out, failed := runTests(t, world, "-test.run=^TestSeeds$", fmt.Sprintf("-sim.from=%d", from), fmt.Sprintf("-sim.seeds=%d", n), "-sim.shrink=false")
				if failed {
					t.Logf("caught by the made world: %s", judged(t, out))
				}
				return failed
			}
			switch {
			case seed != 0 && play(seed, 1):
			case play(1, 2000) || (seed != 0 || !known) && engine():
				t.Log("it was not known to be caught so: bring the table up to date")
			default:
				t.Error("nothing notices")
			}
		})
	}
}

// judged returns what the seed that failed says, if it is the mutant's fault.
func judged(t *testing.T, out string) string {
	t.Helper()
	m := regexp.MustCompile(`seed (\d+): .*`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no seed failed, and yet:\n%s", out)
	}
	seed, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Run(NewPlan(seed), nil); err != nil {
		t.Fatalf("seed %d catches the engine as it is, too: %v", seed, err)
	}
	return m[0]
}

// breakEngine returns an overlay in which the edits are made.
func breakEngine(t *testing.T, edits []edit) string {
	t.Helper()
	dir, replace := t.TempDir(), map[string]string{}
	for _, e := range edits {
		path, err := filepath.Abs(filepath.Join("..", e.file))
		if err != nil {
			t.Fatal(err)
		}
		from := path
		if r, ok := replace[path]; ok {
			from = r
		}
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(data), e.old); n != 1 {
			t.Fatalf("%s has %d places that read %q, expected one: bring the mutant up to date", e.file, n, e.old)
		}
		replace[path] = filepath.Join(dir, e.file)
		if err := os.WriteFile(replace[path], []byte(strings.Replace(string(data), e.old, e.new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// runTests runs a program and tells whether it failed.
func runTests(t *testing.T, program string, args ...string) (string, bool) {
	t.Helper()
	const most = 10 * time.Minute
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("the tests did not end within %s, which tells nothing:\n%s", most, out)
	}
	if strings.Contains(string(out), "[build failed]") || strings.Contains(string(out), "[setup failed]") {
		t.Fatalf("the mutant does not build:\n%s", out)
	}
	return string(out), err != nil
}

func first(out, pattern string) string {
	if s := regexp.MustCompile(pattern).FindString(out); s != "" {
		return s
	}
	return strings.TrimSpace(out)
}
