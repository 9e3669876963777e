package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Plan is one made world and all that happens in it.
type Plan struct {
	Seed           uint64
	Nodes          int
	Apps           int
	Instances      int // of each app on each node
	MaxUnavailable int
	Retries        int
	AutoRollback   bool
	Canary         bool
	BuildOnce      bool
	Builder        int // the node that builds for all; -1: the first that can
	RefuseSkew     bool
	Attach         bool // a release command outlives the agent's process
	// Chances out of 1000, while faults last.
	Loss, Repeat, Late int
	Ops                []Op
	Faulty             time.Duration // after it everything heals
}

// OpKind names what an operation does.
type OpKind string

// Operations. Those of the first group are requests, of the second faults.
const (
	OpPush       OpKind = "push"       // a new commit, on top of the branch
	OpOldPush    OpKind = "old-push"   // an older commit is asked for by automation
	OpForcePush  OpKind = "force-push" // a commit beside the branch
	OpDeploy     OpKind = "deploy"     // a person asks for a commit
	OpRollback   OpKind = "rollback"
	OpPause      OpKind = "pause"
	OpResume     OpKind = "resume"
	OpAbort      OpKind = "abort"
	OpRetry      OpKind = "retry"
	OpHold       OpKind = "hold"
	OpUnhold     OpKind = "unhold"
	OpRemoveNode OpKind = "remove-node"
	OpAddNode    OpKind = "add-node"
	OpRemoveInst OpKind = "remove-instance" // on every node, of every app
	OpAddInst    OpKind = "add-instance"

	OpAgentCrash  OpKind = "agent-crash"
	OpCrashAtStep OpKind = "agent-crash-at-step"
	OpPower       OpKind = "power-loss"
	OpWipe        OpKind = "disk-replaced"
	OpCut         OpKind = "link-cut"
	OpCoordinator OpKind = "coordinator-crash"
	OpDiskFull    OpKind = "disk-full"
	OpRefuse      OpKind = "balancer-refuses"
	OpAway        OpKind = "balancer-away"
	OpLie         OpKind = "balancer-lies"
	OpStale       OpKind = "balancer-stale"
	OpForget      OpKind = "balancer-forgets"
	OpAppCrash    OpKind = "app-crash"
	OpArchives    OpKind = "archives-lost"
	OpLast        OpKind = "asks-to-be-last"
	OpHooksFail   OpKind = "hooks-fail"
	OpHooksHang   OpKind = "hooks-hang"
	OpSpoil       OpKind = "goes-bad" // a commit that was good

	// A person on the node itself, whatever Lockstep does meanwhile.
	OpHandRoll     OpKind = "rolled-by-hand" // its current is moved, and it is restarted
	OpHandRollNode OpKind = "node-rolled-by-hand"
	OpHandLink     OpKind = "relinked-by-hand" // its current is moved, no more
	OpHandRestart  OpKind = "restarted-by-hand"
	OpHandStop     OpKind = "stopped-by-hand"
	OpHandForeign  OpKind = "runs-from-elsewhere" // something that is no release
)

// Op is one operation of a plan.
type Op struct {
	At      time.Duration
	Kind    OpKind
	Node    int
	App     int
	Inst    int           // which instance
	For     time.Duration // how long the fault lasts
	Back    int           // how many commits before the head, or which release on the disk
	Bad     badness       // of a pushed commit
	Vary    bool          // every build of it makes other files
	Command bool          // it has a release command
	Hooks   hooks         // that it has
	On      uint          // the nodes on which it is bad, as a bit set
	Step    step          // at which the agent crashes
	Late    bool          // crash after the action instead of before it
}

// badness is what is wrong with a commit.
type badness string

const (
	good       badness = ""
	noBuild    badness = "does-not-build"
	noCommand  badness = "its-command-fails"
	noEnd      badness = "its-command-hangs"
	noStart    badness = "does-not-start"
	unhealthy  badness = "never-healthy"
	failsSoak  badness = "fails-in-soak"
	failsLater badness = "fails-later"
)

// NewPlan makes the plan of a seed.
func NewPlan(seed uint64) Plan {
	r := rand.New(rand.NewPCG(seed, 0x10c5))
	p := Plan{
		Seed: seed, Nodes: 1 + r.IntN(5), Apps: 1 + r.IntN(2), MaxUnavailable: 1,
		Retries: r.IntN(3), AutoRollback: r.IntN(8) > 0, Canary: r.IntN(3) == 0,
		Faulty: time.Duration(4+r.IntN(7)) * time.Minute,
	}
	if r.IntN(3) == 0 {
		p.MaxUnavailable = 2
	}
	most := 12
	if big := rand.New(rand.NewPCG(seed, 0xb16)); big.IntN(oneBig) == 0 {
		p.Nodes, p.MaxUnavailable, most = 5+big.IntN(8), 1+big.IntN(4), 40
	}
	p.BuildOnce, p.Builder, p.RefuseSkew = r.IntN(2) == 0, r.IntN(2*p.Nodes)-p.Nodes, r.IntN(8) == 0
	if p.Builder < 0 {
		p.Builder = -1
	}
	if r.IntN(2) == 0 {
		p.Loss, p.Repeat, p.Late = r.IntN(250), r.IntN(200), r.IntN(250)
	}
	for app := range p.Apps {
		if r.IntN(10) > 0 {
			p.Ops = append(p.Ops, Op{At: time.Duration(1+r.IntN(20)) * time.Second, Kind: OpPush, App: app, Vary: r.IntN(3) == 0})
		}
	}
	for range 3 + r.IntN(14) {
		p.Ops = append(p.Ops, randomOp(r, &p))
	}
	// Each of these is drawn apart, so that a plan without it is what it was before.
	p.drawInstances(rand.New(rand.NewPCG(seed, 0x1257)), most)
	p.drawCommands(rand.New(rand.NewPCG(seed, 0xc0de)))
	p.drawHands(rand.New(rand.NewPCG(seed, 0x4a4d)))
	p.drawHooks(rand.New(rand.NewPCG(seed, 0x4007)))
	p.drawDisks(rand.New(rand.NewPCG(seed, 0xd15c)))
	slices.SortStableFunc(p.Ops, func(a, b Op) int { return int(a.At - b.At) })
	return p
}

// oneBig: one world of so many is a big one. Almost all that many targets do, a
// dozen do, in a tenth of the time.
const oneBig = 100

func (p *Plan) drawInstances(r *rand.Rand, most int) {
	p.Instances = []int{1, 1, 2, 3}[r.IntN(4)]
	for p.Instances > 1 && p.Nodes*p.Apps*p.Instances > most {
		p.Instances--
	}
	for i := range p.Ops {
		p.Ops[i].Inst = r.IntN(p.Instances)
	}
	if p.Instances > 1 && r.IntN(3) == 0 {
		at, inst := p.randomTime(r), r.IntN(p.Instances)
		p.Ops = append(p.Ops, Op{At: at, Kind: OpRemoveInst, Inst: inst})
		if r.IntN(2) == 0 {
			p.Ops = append(p.Ops, Op{At: at + time.Duration(r.IntN(90))*time.Second, Kind: OpAddInst, Inst: inst})
		}
	}
	if r.IntN(2) == 0 {
		for range 1 + r.IntN(3) {
			p.Ops = append(p.Ops, Op{At: p.randomTime(r), Kind: OpLast, Node: r.IntN(p.Nodes), For: time.Duration(20+r.IntN(300)) * time.Second})
		}
	}
}

// pushes are the operations that make a commit.
func (p *Plan) pushes() (some []*Op) {
	for i := range p.Ops {
		if o := &p.Ops[i]; o.Kind == OpPush || o.Kind == OpForcePush {
			some = append(some, o)
		}
	}
	return some
}

func (p *Plan) drawCommands(r *rand.Rand) {
	p.Attach = r.IntN(2) == 0
	if r.IntN(2) > 0 {
		return
	}
	for _, o := range p.pushes() {
		if o.Command = r.IntN(3) > 0; o.Command && o.Bad == good && r.IntN(5) == 0 {
			o.Bad, o.On = []badness{noCommand, noCommand, noEnd}[r.IntN(3)], uint(1<<p.Nodes-1)
		}
	}
	if r.IntN(3) == 0 {
		p.Ops = append(p.Ops, Op{
			At: p.randomTime(r), Kind: OpCrashAtStep, Node: r.IntN(p.Nodes), Step: []step{claimCommand, beginCommand}[r.IntN(2)],
			Late: r.IntN(2) == 0, For: time.Duration(1+r.IntN(90)) * time.Second,
		})
	}
}

// drawHands has people at work on the nodes themselves.
func (p *Plan) drawHands(r *rand.Rand) {
	if r.IntN(3) > 0 {
		return
	}
	kinds := []OpKind{OpHandRoll, OpHandRoll, OpHandRollNode, OpHandLink, OpHandLink, OpHandRestart, OpHandStop, OpHandForeign}
	for range 1 + r.IntN(4) {
		o := Op{
			At: p.randomTime(r), Kind: kinds[r.IntN(len(kinds))], Node: r.IntN(p.Nodes), App: r.IntN(p.Apps), Inst: r.IntN(p.Instances), Back: r.IntN(4),
		}
		p.Ops = append(p.Ops, o)
		if o.At += time.Duration(30+r.IntN(90)) * time.Second; r.IntN(3) == 0 && o.At < p.Faulty {
			p.Ops = append(p.Ops, o) // and means it
		}
	}
}

// drawDisks has nodes come back with an empty disk that is too small.
func (p *Plan) drawDisks(r *rand.Rand) {
	if r.IntN(6) > 0 {
		return
	}
	at, node, away := p.randomTime(r), r.IntN(p.Nodes), time.Duration(1+r.IntN(20))*time.Second
	p.Ops = append(p.Ops, Op{At: at, Kind: OpWipe, Node: node, For: away},
		Op{At: at, Kind: OpDiskFull, Node: node, For: away + time.Duration(30+r.IntN(200))*time.Second})
}

// drawHooks gives commits hooks, and has some of them fail: for their commit is
// bad, or for what they need on a node is away for a while.
func (p *Plan) drawHooks(r *rand.Rand) {
	if r.IntN(3) == 0 {
		p.Ops = append(p.Ops, Op{
			At: p.randomTime(r), Kind: OpSpoil, App: r.IntN(p.Apps), Back: r.IntN(3), On: uint(1<<p.Nodes - 1),
			Bad: []badness{noStart, unhealthy, failsSoak, failsLater}[r.IntN(4)],
		})
	}
	if r.IntN(3) > 0 {
		return
	}
	for _, o := range p.pushes() {
		o.Hooks.At = uint(r.IntN(1 << len(hookSteps)))
		if o.Hooks.At != 0 && r.IntN(4) == 0 {
			o.Hooks.Fails, o.Hooks.Hangs = hookSteps[r.IntN(len(hookSteps))], r.IntN(3) == 0
			if o.On = uint(1<<p.Nodes - 1); r.IntN(3) == 0 {
				o.On = 1 << r.IntN(p.Nodes)
			}
		}
	}
	for range r.IntN(4) {
		kind := []OpKind{OpHooksFail, OpHooksHang, OpCrashAtStep}[r.IntN(3)]
		o := Op{At: p.randomTime(r), Kind: kind, Node: r.IntN(p.Nodes), For: time.Duration(1+r.IntN(150)) * time.Second}
		if kind == OpCrashAtStep {
			steps := append(slices.Clone(hookSteps), undoBeforeRejoin, undoAfterRejoin)
			o.Step, o.Late = steps[r.IntN(len(steps))], r.IntN(2) == 0
		}
		p.Ops = append(p.Ops, o)
	}
}

// weights says how often each kind of operation is drawn.
var weights = []struct {
	kind OpKind
	n    int
}{
	{OpPush, 34}, {OpOldPush, 4}, {OpForcePush, 3}, {OpDeploy, 8}, {OpRollback, 8}, {OpPause, 4}, {OpResume, 4},
	{OpAbort, 8}, {OpRetry, 6}, {OpHold, 4}, {OpUnhold, 4}, {OpRemoveNode, 4}, {OpAddNode, 4},
	{OpAgentCrash, 8}, {OpCrashAtStep, 12}, {OpPower, 12}, {OpWipe, 4}, {OpCut, 12}, {OpCoordinator, 14},
	{OpDiskFull, 5}, {OpRefuse, 6}, {OpAway, 5}, {OpLie, 4}, {OpStale, 5}, {OpForget, 4}, {OpAppCrash, 9},
	{OpArchives, 5},
}

// randomTime is an instant before everything heals.
func (p *Plan) randomTime(r *rand.Rand) time.Duration {
	return 20*time.Second + time.Duration(r.Int64N(int64(p.Faulty-20*time.Second))).Truncate(100*time.Millisecond)
}

func randomOp(r *rand.Rand, p *Plan) Op {
	total := 0
	for _, w := range weights {
		total += w.n
	}
	n := r.IntN(total)
	op := Op{Node: r.IntN(p.Nodes), App: r.IntN(p.Apps), On: uint(1<<p.Nodes - 1)}
	for _, w := range weights {
		if n -= w.n; n < 0 {
			op.Kind = w.kind
			break
		}
	}
	op.At = p.randomTime(r)
	switch op.Kind {
	case OpPush, OpForcePush:
		op.Vary = r.IntN(3) == 0
		if r.IntN(2) == 0 {
			op.Bad = []badness{noBuild, noStart, unhealthy, unhealthy, failsSoak, failsLater}[r.IntN(6)]
			if r.IntN(3) == 0 {
				op.On = 1 << r.IntN(p.Nodes)
			}
		}
	case OpOldPush, OpDeploy:
		op.Back = r.IntN(4)
	case OpHold:
		if r.IntN(2) == 0 {
			op.For = time.Duration(10+r.IntN(120)) * time.Second
		}
	case OpCrashAtStep:
		steps := []step{stepSnapshot, stepDrain, stepSwitch, stepRestart, stepVerify, stepRejoin, stepSoak}
		op.Step, op.Late = steps[r.IntN(len(steps))], r.IntN(2) == 0
		op.For = time.Duration(1+r.IntN(90)) * time.Second
	case OpCoordinator:
		op.Late = r.IntN(2) == 0
		op.For = time.Duration(1+r.IntN(40)) * time.Second
	default:
		op.For = time.Duration(1+r.IntN(150)) * time.Second
	}
	return op
}

// String renders the plan as a script that can be read.
func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d nodes, %d apps, %d instances each, max_unavailable %d, retries %d, auto_rollback %t, canary %t\n",
		p.Seed, p.Nodes, p.Apps, p.Instances, p.MaxUnavailable, p.Retries, p.AutoRollback, p.Canary)
	if p.BuildOnce {
		on := "first"
		if p.Builder >= 0 {
			on = nodeName(p.Builder)
		}
		fmt.Fprintf(&b, "build_on %s\n", on)
	}
	fmt.Fprintf(&b, "messages, of 1000: %d lost, %d repeated, %d late; everything heals at %s\n", p.Loss, p.Repeat, p.Late, p.Faulty)
	for _, o := range p.Ops {
		fmt.Fprintf(&b, "  %8s  %s\n", o.At, o)
	}
	return b.String()
}

// String renders the operation as one line of a script.
func (o Op) String() string {
	s := string(o.Kind)
	switch o.Kind {
	case OpPush, OpForcePush:
		s += " " + appName(o.App)
		if o.Bad != good {
			s += fmt.Sprintf(" %s on nodes %b", o.Bad, o.On)
		}
		if o.Vary {
			s += ", whose builds differ"
		}
		if o.Command {
			s += ", with a release command"
		}
		s += o.Hooks.String()
	case OpSpoil:
		s += fmt.Sprintf(" %s, %d commits back: %s", appName(o.App), o.Back, o.Bad)
	case OpOldPush, OpDeploy:
		s += fmt.Sprintf(" %s, %d commits back", appName(o.App), o.Back)
	case OpRollback, OpPause, OpResume, OpAbort, OpRetry, OpUnhold:
		s += " " + appName(o.App)
	case OpHold, OpArchives:
		s += " " + appName(o.App)
	case OpCoordinator:
		s += when(o.Late) + "the commit"
	case OpAway:
	case OpCrashAtStep:
		s += " " + nodeName(o.Node) + when(o.Late) + string(o.Step)
	case OpHandRoll, OpHandLink:
		s += fmt.Sprintf(" %s@%s, instance %d, to the %d. on its disk", appName(o.App), nodeName(o.Node), o.Inst, o.Back)
	case OpHandRollNode:
		s += fmt.Sprintf(" %s@%s, to the %d. on its disk", appName(o.App), nodeName(o.Node), o.Back)
	case OpAppCrash, OpLie, OpStale, OpForget, OpRefuse, OpHandRestart, OpHandStop, OpHandForeign:
		s += fmt.Sprintf(" %s@%s, instance %d", appName(o.App), nodeName(o.Node), o.Inst)
	case OpRemoveInst, OpAddInst:
		s += fmt.Sprintf(" %d", o.Inst)
	default:
		s += " " + nodeName(o.Node)
	}
	if o.For > 0 {
		s += " for " + o.For.String()
	}
	return s
}

func when(late bool) string {
	if late {
		return " after "
	}
	return " before "
}

func nodeName(i int) string { return fmt.Sprintf("web%d", i+1) }

// instanceName is "" where there is only one.
func (p Plan) instanceName(k int) string {
	if p.Instances == 1 {
		return ""
	}
	return fmt.Sprint(8000 + k)
}

func appName(i int) string { return []string{"shop", "mail"}[i] }
