package broker_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/broker"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

func wantClass(t *testing.T, what string, err error, want lbclient.Class, says ...string) {
	t.Helper()
	if err == nil || lbclient.ClassOf(err) != want {
		t.Errorf("%s: got error %v, want class %s", what, err, want)
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%s: %q does not say %q", what, err, s)
		}
	}
}

func snapshot(t *testing.T, p lbclient.Provider) lbclient.Restore {
	t.Helper()
	r, err := p.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A node acts for its own targets and for nobody else's.
func TestOnlyOwnTargets(t *testing.T) {
	w := newWorld(t)
	r := api.BalancerRestore(snapshot(t, w.Provider("w2")))
	for _, tc := range []struct {
		name, token string
		rq          api.BalancerRequest
		says        string
	}{
		{"another node's name", "w1", api.BalancerRequest{Node: "w2", App: "hello", Target: "hello@w2"}, `belongs to node w1, not to "w2"`},
		{"another node's target", "w1", api.BalancerRequest{Node: "w1", App: "hello", Target: "hello@w2"}, `not for "hello@w2"`},
		{"no target", "w1", api.BalancerRequest{Node: "w1", App: "hello"}, `not for ""`},
		{"an app that is not there", "w1", api.BalancerRequest{Node: "w1", App: "shop", Target: "shop@w1"}, `"shop" is behind no balancer`},
		{"a node without the app", "stranger", api.BalancerRequest{Node: "stranger", App: "hello", Target: "hello@stranger"}, "has no target hello@stranger"},
	} {
		for _, op := range []api.BalancerOp{api.OpObserve, api.OpSnapshot, api.OpBeginDrain, api.OpBeginRejoin} {
			rq := tc.rq
			rq.Op, rq.Restore = op, &r
			_, err := w.client(tc.token).Balancer(t.Context(), rq)
			var e *api.Error
			if !errors.As(err, &e) || e.Kind != api.ErrorForbidden || !strings.Contains(e.Text, tc.says) {
				t.Errorf("%s, %s: %v", tc.name, op, err)
			}
		}
	}
	if p := w.phase("w2"); p != lbclient.PhaseServing {
		t.Errorf("w2 is %s", p)
	}
}

// A target whose app was taken out of the configuration in mid-turn comes back,
// and can do nothing else.
func TestTheWayBackOfAnAppThatIsGone(t *testing.T) {
	w := newWorld(t)
	r := snapshot(t, w.Provider("w1"))
	w.command("set server web/w1 state drain")
	p := agent.NewBrokered(w.client("w1"), "edge", "w1", "gone", "gone@w1")
	wantClass(t, "BeginDrain", p.BeginDrain(t.Context(), r, 0), lbclient.ClassDenied)
	_, err := p.Observe(t.Context())
	wantClass(t, "Observe", err, lbclient.ClassDenied)
	other := agent.NewBrokered(w.client("w2"), "edge", "w2", "gone", "gone@w2")
	wantClass(t, "BeginRejoin of another node's", other.BeginRejoin(t.Context(), r), lbclient.ClassInvalid)
	stranger := agent.NewBrokered(w.client("w1"), "edge", "w1", "gone", "gone@w2")
	wantClass(t, "BeginRejoin in another's name", stranger.BeginRejoin(t.Context(), r), lbclient.ClassDenied)
	if st, err := p.DrainStatus(t.Context(), r); err != nil || st.Stage != lbclient.DrainIdle {
		t.Errorf("DrainStatus: %+v, %v", st, err)
	}
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Error(err)
	}
	if st, err := p.RejoinStatus(t.Context(), r); err != nil || st.Stage != lbclient.RejoinServing {
		t.Errorf("RejoinStatus: %+v, %v", st, err)
	}
}

// Who has no turn is not drained, and may still come back.
func TestNoTurnNoDrain(t *testing.T) {
	w := newWorld(t)
	p := w.Provider("w1")
	r := snapshot(t, p)
	w.turns.take("w1")
	wantClass(t, "BeginDrain", p.BeginDrain(t.Context(), r, 0), lbclient.ClassUnsafe, "hello@w1", "no rollout gives it a turn")
	if got := w.phase("w1"); got != lbclient.PhaseServing {
		t.Errorf("w1 is %s", got)
	}
	w.command("set server web/w1 state drain")
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Error(err)
	}
	if got := w.phase("w1"); got != lbclient.PhaseServing {
		t.Errorf("after the rejoin w1 is %s", got)
	}
	if l := w.log.String(); !strings.Contains(l, "op=begin_drain") || !strings.Contains(l, "class=unsafe") || !strings.Contains(l, `msg="Balancer changed"`) {
		t.Errorf("not written down: %s", l)
	}
}

// How many others must serve is the configuration's to say.
func TestMinHealthyIsNotTheAgents(t *testing.T) {
	w := newWorld(t)
	p := w.Provider("w1")
	r := snapshot(t, p)
	w.command("set server web/w2 state maint")
	w.command("set server web/w3 state maint")
	err := p.BeginDrain(t.Context(), r, 0)
	wantClass(t, "BeginDrain of the last", err, lbclient.ClassUnsafe, "0 other members serve there and 1 must")
	// Rebuilt from what travelled, it is the provider's own error.
	direct, openErr := w.open("w1")
	if openErr != nil {
		t.Fatal(openErr)
	}
	defer direct.Close()
	if want := direct.BeginDrain(t.Context(), r, 1); want == nil || want.Error() != err.Error() {
		t.Errorf("got  %v\nwant %v", err, want)
	}
	w.command("set server web/w2 state ready")
	w.Await("w2 serves", func() bool { return w.phase("w2") == lbclient.PhaseServing })
	wantClass(t, "BeginDrain with an agent that wants more", p.BeginDrain(t.Context(), r, 2), lbclient.ClassUnsafe)
	if err := p.BeginDrain(t.Context(), r, 0); err != nil {
		t.Error(err)
	}
}

// A change whose answer was lost is not said to have failed, nor sent again.
func TestLostAnswer(t *testing.T) {
	w := newWorld(t)
	p := w.Provider("w1")
	r := snapshot(t, p)
	w.lose.Store(true)
	wantClass(t, "BeginDrain", p.BeginDrain(t.Context(), r, 1), lbclient.ClassAmbiguous, "not known")
	if st, err := p.DrainStatus(t.Context(), r); err != nil || st.Stage == lbclient.DrainNotAsked {
		t.Errorf("looking again: %+v (%v)", st, err)
	}
	if n := strings.Count(w.log.String(), "Balancer changed"); n != 1 {
		t.Errorf("carried out %d times", n)
	}
}

// slow is a balancer whose changes take until they are let go.
type slow struct {
	lbclient.Provider
	looks   *atomic.Int64
	changes chan string // a change has begun
	goOn    chan struct{}
	serving *atomic.Bool
}

func newSlow() slow {
	s := slow{looks: &atomic.Int64{}, changes: make(chan string, 10), goOn: make(chan struct{}), serving: &atomic.Bool{}}
	s.serving.Store(true)
	return s
}

func (s slow) Observe(context.Context) (lbclient.Pool, error) {
	s.looks.Add(1)
	phase := lbclient.PhaseDraining
	if s.serving.Load() {
		phase = lbclient.PhaseServing
	}
	return lbclient.Pool{Members: []lbclient.Member{{Name: "w1", Phase: phase}}, Epoch: "e", At: time.Now()}, nil
}

func (s slow) BeginDrain(ctx context.Context, _ lbclient.Restore, _ int) error {
	s.changes <- "drain"
	select {
	case <-s.goOn:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.serving.Store(false)
	return nil
}

func (s slow) BeginRejoin(context.Context, lbclient.Restore) error {
	s.changes <- "rejoin"
	s.serving.Store(true)
	return nil
}

func (slow) Close() error { return nil }

func (s slow) balancer() broker.Balancer {
	return broker.Balancer{Open: func(string) (lbclient.Provider, error) { return s, nil }, SameView: true}
}

// mindful is a balancer's provider that takes a drain for idle from its second
// look on, as one does that waits for a while.
type mindful struct {
	lbclient.Provider
	looked bool
}

func (*mindful) BeginDrain(context.Context, lbclient.Restore, int) error { return nil }
func (*mindful) BeginRejoin(context.Context, lbclient.Restore) error     { return nil }
func (*mindful) Close() error                                            { return nil }

func (m *mindful) DrainStatus(context.Context, lbclient.Restore) (lbclient.DrainStatus, error) {
	st := lbclient.DrainStatus{Stage: lbclient.DrainAccepted}
	if m.looked {
		st.Stage = lbclient.DrainIdle
	}
	m.looked = true
	return st, nil
}

// What a provider waited out for one drain it must wait out for the next one, too.
func TestEachDrainIsWaitedForAnew(t *testing.T) {
	h := newHouse(t, broker.Balancer{ReadsPerSecond: 1000, Open: func(string) (lbclient.Provider, error) { return &mindful{}, nil }})
	p := h.provider("w1")
	for drain := range 3 {
		if err := p.BeginDrain(t.Context(), lbclient.Restore{}, 0); err != nil {
			t.Fatal(err)
		}
		for look, want := range []lbclient.DrainStage{lbclient.DrainAccepted, lbclient.DrainIdle, lbclient.DrainIdle} {
			if st, err := p.DrainStatus(t.Context(), lbclient.Restore{}); err != nil || st.Stage != want {
				t.Errorf("drain %d, look %d: %s (%v), want %s", drain, look, st.Stage, err, want)
			}
		}
		if err := p.BeginRejoin(t.Context(), lbclient.Restore{}); err != nil {
			t.Fatal(err)
		}
	}
}

// One change at a time, looks meanwhile; one that takes long is not given up.
func TestChangesComeOneAfterTheOther(t *testing.T) {
	s := newSlow()
	h := newHouse(t, s.balancer(), func(c *broker.Config) { c.AnswerWithin = 200 * time.Millisecond })
	first := make(chan error, 1)
	go func() { first <- h.provider("w1").BeginDrain(t.Context(), lbclient.Restore{}, 0) }()
	if got := <-s.changes; got != "drain" {
		t.Fatal(got)
	}
	if _, err := h.provider("w2").Observe(t.Context()); err != nil {
		t.Errorf("a look during a change: %v", err)
	}
	err := h.provider("w2").BeginDrain(t.Context(), lbclient.Restore{}, 0)
	wantClass(t, "a second change", err, lbclient.ClassBusy, "begin_drain of hello@w1")
	wantClass(t, "the first", <-first, lbclient.ClassAmbiguous, "still being carried out")
	close(s.goOn)
	if err := h.provider("w2").BeginRejoin(t.Context(), lbclient.Restore{}); err != nil {
		t.Errorf("after the first has ended: %v", err)
	}
	if got := <-s.changes; got != "rejoin" {
		t.Errorf("%s began; the second drain was refused", got)
	}
	if l := h.log.String(); !strings.Contains(l, "Balancer changed") || !strings.Contains(l, "target=hello@w1 op=begin_drain") {
		t.Errorf("the first is not written down: %s", l)
	}
}

// What the asker gave up before its time came is not begun.
func TestGivenUpWhileWaiting(t *testing.T) {
	s := newSlow()
	h := newHouse(t, s.balancer())
	first := make(chan error, 1)
	go func() { first <- h.provider("w1").BeginDrain(t.Context(), lbclient.Restore{}, 0) }()
	<-s.changes
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := h.broker.Do(ctx, "w2", api.BalancerRequest{
		Node: "w2", App: "hello", Target: "hello@w2", Op: api.OpBeginDrain, Restore: &api.BalancerRestore{},
	})
	if err == nil {
		t.Error("the second: no error")
	}
	close(s.goOn)
	if err := <-first; err != nil {
		t.Error(err)
	}
	// One whose time comes at the moment that its asker is gone.
	for range 20 {
		if _, err := h.broker.Do(ctx, "w2", api.BalancerRequest{
			Node: "w2", App: "hello", Target: "hello@w2", Op: api.OpBeginDrain, Restore: &api.BalancerRestore{},
		}); err == nil {
			t.Error("the change of one who is gone: no error")
		}
	}
	if err := h.provider("w3").BeginRejoin(t.Context(), lbclient.Restore{}); err != nil {
		t.Error(err)
	}
	if got := <-s.changes; got != "rejoin" {
		t.Errorf("%s was begun for nobody", got)
	}
}

// Equal looks that come close together are one; none outlives a change.
func TestLooksAreShared(t *testing.T) {
	s := newSlow()
	close(s.goOn)
	h := newHouse(t, s.balancer(), func(c *broker.Config) { c.Fresh = time.Hour })
	var wg sync.WaitGroup
	for _, n := range []string{"w1", "w2", "w3", "w1", "w2", "w3"} {
		p := h.provider(n)
		wg.Go(func() {
			if pool, err := p.Observe(t.Context()); err != nil || len(pool.Members) != 1 {
				t.Errorf("%+v, %v", pool, err)
			}
		})
	}
	wg.Wait()
	if n := s.looks.Load(); n != 1 {
		t.Errorf("%d looks for six askers", n)
	}
	p := h.provider("w1")
	if err := p.BeginDrain(t.Context(), lbclient.Restore{}, 0); err != nil {
		t.Fatal(err)
	}
	if pool, err := p.Observe(t.Context()); err != nil || pool.Members[0].Phase != lbclient.PhaseDraining {
		t.Errorf("a look from before the drain is shown after it: %+v, %v", pool, err)
	}
}

func TestBudget(t *testing.T) {
	s := newSlow()
	lb := s.balancer()
	lb.ReadsPerSecond = 0.5 // two at once
	h := newHouse(t, lb, func(c *broker.Config) { c.AnswerWithin = 300 * time.Millisecond })
	p := h.provider("w1")
	for range 2 {
		if _, err := p.Observe(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	_, err := p.Observe(t.Context())
	wantClass(t, "a look too many", err, lbclient.ClassRateLimited, "0.5 looks a second")
	// The way back does not wait for anybody's looks.
	if err := p.BeginRejoin(t.Context(), lbclient.Restore{}); err != nil {
		t.Error(err)
	}
	if n := s.looks.Load(); n != 2 {
		t.Errorf("%d looks", n)
	}
}

// With the budget nearly spent, an older look is shown rather than none.
func TestScarceLooksAreSharedLonger(t *testing.T) {
	s := newSlow()
	lb := s.balancer()
	lb.ReadsPerSecond = 0.5
	h := newHouse(t, lb, func(c *broker.Config) { c.Fresh, c.AnswerWithin = time.Nanosecond, 300*time.Millisecond })
	p := h.provider("w1")
	for range 10 {
		if _, err := p.Observe(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.looks.Load(); n > 2 {
		t.Errorf("%d looks, and only two may be taken", n)
	}
}

// A request that was held up on its way does not undo what came after it.
func TestOvertaken(t *testing.T) {
	s := newSlow()
	close(s.goOn)
	h := newHouse(t, s.balancer())
	c := h.client("w1")
	send := func(op api.BalancerOp, session string, number uint64) error {
		_, err := c.Balancer(t.Context(), api.BalancerRequest{
			Node: "w1", App: "hello", Target: "hello@w1", Op: op, Restore: &api.BalancerRestore{}, Session: session, Number: number,
		})
		return err
	}
	for _, step := range []struct {
		what    string
		op      api.BalancerOp
		session string
		number  uint64
		late    bool
	}{
		{"a drain", api.OpBeginDrain, "a", 1, false},
		{"its rejoin", api.OpBeginRejoin, "a", 3, false},
		{"a drain of before", api.OpBeginDrain, "a", 2, true},
		{"the rejoin once more", api.OpBeginRejoin, "a", 3, true},
		{"the agent's next run", api.OpBeginDrain, "b", 1, false},
		{"a rejoin of the run before", api.OpBeginRejoin, "a", 9, true},
		{"an agent that does not count", api.OpBeginRejoin, "", 0, false},
	} {
		err := send(step.op, step.session, step.number)
		var e *api.Error
		if late := errors.As(err, &e) && e.Reason == string(lbclient.ClassConflict); late != step.late || err != nil && !late {
			t.Errorf("%s: %v", step.what, err)
		}
	}
}

func TestRequestsThatMakeNoSense(t *testing.T) {
	h := newHouse(t, newSlow().balancer())
	for _, tc := range []struct {
		rq   api.BalancerRequest
		want lbclient.Class
	}{
		{api.BalancerRequest{Op: api.OpBeginDrain}, lbclient.ClassInvalid},
		{api.BalancerRequest{Op: api.OpRejoinStatus}, lbclient.ClassInvalid},
		{api.BalancerRequest{Op: "reboot"}, lbclient.ClassUnsupported},
		{api.BalancerRequest{Op: api.OpForceIdle, Restore: &api.BalancerRestore{}}, lbclient.ClassUnsupported},
	} {
		tc.rq.Node, tc.rq.App, tc.rq.Target = "w1", "hello", "hello@w1"
		_, err := h.client("w1").Balancer(t.Context(), tc.rq)
		var e *api.Error
		if !errors.As(err, &e) || e.Reason != string(tc.want) || e.Kind != api.ErrorInvalid {
			t.Errorf("%s: %v", tc.rq.Op, err)
		}
	}
}
