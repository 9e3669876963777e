package trigger

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
	"github.com/lockstep-deploy/lockstep/webhook"
)

func TestPushIsDeployed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRepo("a")
		s := newStage(t, app("hello", r))
		s.run()
		s.work()
		s.expectCurrent("hello", "a") // found at start

		r.push("b", "a")
		a := s.deliver("d1", "b")
		if a.Duplicate || a.Decision != "accepted" || len(a.Apps) != 1 || a.Apps[0] != "hello" {
			t.Errorf("answered %+v", a)
		}
		s.expect("d1", "deployed hello-2")
		l := s.app("hello").Live
		if l == nil || l.ID != "hello-2" || l.By != Automation || !l.Automatic || l.Cause != "push" {
			t.Errorf("live: %+v", l)
		}
		recorded, err := s.store.Releases(t.Context(), "hello", string(l.Release))
		if err != nil || len(recorded) != 1 {
			t.Fatalf("recorded: %+v, %v", recorded, err)
		}
		if rel := recorded[0]; rel.SHA != sha("b") || rel.Subject != "change b" || rel.Recipe.Build[0] != "make" || rel.Committed.IsZero() {
			t.Errorf("recorded: %+v", rel)
		}
		s.work()
		s.expectCurrent("hello", "b")
	})
}

func TestDeliveriesThatConcernNobody(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*webhook.Delivery)
		want   string
	}{
		"another branch": {func(d *webhook.Delivery) { d.Ref, d.Branch = "refs/heads/dev", "dev" }, "ignored: branch dev is not deployed; apps of this repository deploy [main]"},
		"another repository": {func(d *webhook.Delivery) {
			d.Repository = webhook.Repository{FullName: "me/bye", Canonical: "github.com/me/bye"}
		}, "ignored: no app has the repository me/bye"},
		"a tag":            {func(d *webhook.Delivery) { d.Ref, d.Branch, d.Ignored = "refs/tags/main", "", webhook.IgnoredTag }, "ignored: a tag was pushed; only branches are deployed"},
		"a deleted branch": {func(d *webhook.Delivery) { d.After, d.Ignored = webhook.ZeroSHA, webhook.IgnoredDeletion }, "ignored: the branch was deleted"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRepo("a")
				s := newStage(t, app("hello", r))
				s.run()
				asked := r.questions()
				d := push("d1", "b")
				c.change(&d)
				a, err := s.Receive(t.Context(), d)
				if err != nil || a.Decision != "ignored" || a.Reason == "" || a.Apps != nil {
					t.Errorf("answered %+v, %v", a, err)
				}
				s.expect("d1", c.want)
				if r.questions() != asked {
					t.Error("the repository was asked all the same")
				}
			})
		})
	}
}

func TestRepeatedDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRepo("a")
		s := newStage(t, app("hello", r))
		s.run()
		r.push("b", "a")
		s.deliver("d1", "b")
		s.work()
		s.expect("d1", "deployed hello-2")
		asked := r.questions()
		if a := s.deliver("d1", "b"); !a.Duplicate {
			t.Errorf("answered %+v", a)
		}
		s.work()
		s.expect("d1", "deployed hello-2")
		s.expectRollouts("hello", 2)
		if r.questions() != asked {
			t.Error("the repository was asked again")
		}
	})
}

// TestDeliveryRecordedByACallThatFailed: GitHub was told that it failed, so it
// comes again, and is known.
func TestDeliveryRecordedByACallThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRepo("a")
		s := newStage(t, app("hello", r))
		s.run()
		s.work()
		r.push("b", "a")
		s.store.failNext(nil, errors.New("too slow"))
		if _, err := s.Receive(t.Context(), push("d1", "b")); err == nil {
			t.Fatal("no error")
		}
		s.expect("d1", "accepted")
		if a := s.deliver("d1", "b"); !a.Duplicate {
			t.Errorf("answered %+v", a)
		}
		s.expect("d1", "deployed hello-2")
	})
}

func TestPendingDeliveriesAreTakenUpAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRepo("a")
		s := newStage(t, app("hello", r))
		s.run()
		s.work()
		r.cut(errUnreachable)
		r.push("b", "a")
		s.deliver("d1", "b")
		s.expect("d1", "accepted")
		s.reopen()
		r.cut(nil)
		s.run()
		s.expect("d1", "deployed hello-2")
		s.work()
		s.expectCurrent("hello", "b")
	})
}

// TestDeliveryBeforeTheWatchBegins is in the store and in memory.
func TestDeliveryBeforeTheWatchBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, app("hello", newRepo("a")), app("bye", newRepo("a")))
		s.deliver("d1", "a")
		s.run()
		if got := s.became("d1"); got != "deployed hello-1 bye-1" && got != "deployed bye-1 hello-1" {
			t.Errorf("delivery d1: %q", got)
		}
	})
}

// TestRepeatedWhileItIsResolved: the first one's answer stays.
func TestRepeatedWhileItIsResolved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRepo("a")
		s := newStage(t, app("hello", r))
		s.run()
		s.work()
		r.push("b", "a")
		r.cut(errUnreachable)
		s.deliver("d1", "b")
		synctest.Wait()
		s.store.received = func() {
			r.cut(nil)
			time.Sleep(5 * time.Second)
			s.expect("d1", "deployed hello-2")
			s.work()
			s.expectCurrent("hello", "b")
		}
		s.deliver("d1", "b")
		time.Sleep(5 * time.Second)
		s.expect("d1", "deployed hello-2")
		if n := len(s.progress); n != 0 {
			t.Errorf("%d deliveries are still followed", n)
		}
	})
}

func TestPendingDeliveryOfAnAppThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, app("hello", newRepo("a")), app("bye", newRepo("a")))
		s.deliver("d1", "a")
		s.apps[0].Name = "hi"
		s.apps = s.apps[:1]
		s.reopen()
		s.run()
		s.expect("d1", "ignored: its apps are no longer configured")
	})
}

func TestTwoAppsOfOneRepository(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newRepo("a"), newRepo("a")
		s := newStage(t, app("hello", near), app("bye", far))
		s.run()
		s.work()
		near.push("b", "a")
		far.push("b", "a")
		far.cut(errUnreachable)
		if a := s.deliver("d1", "b"); len(a.Apps) != 2 {
			t.Errorf("answered %+v", a)
		}
		s.expect("d1", "accepted")
		if s.app("hello").Live == nil {
			t.Error("hello waits for bye's repository")
		}
		far.cut(nil)
		time.Sleep(2 * time.Second)
		s.expect("d1", "deployed hello-2 bye-2")
		s.work()
		s.expectCurrent("hello", "b")
		s.expectCurrent("bye", "b")
	})
}

func TestTwoAppsOneRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newRepo("a"), newRepo("a", "b")
		s := newStage(t, app("hello", near), app("bye", far))
		s.run()
		s.work()
		near.push("b", "a")
		s.deliver("d1", "b")
		s.expect("d1", "deployed hello-2: already_deployed: ")
	})
}

// TestReceiveDoesNotWaitForTheRepository: GitHub gives up after ten seconds.
func TestReceiveDoesNotWaitForTheRepository(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRepo("a")
		s := newStage(t, app("hello", r))
		s.run()
		s.work()
		w := s.watchers["hello"]
		w.mu.Lock() // a request that is under way, and takes long
		defer w.mu.Unlock()
		begun := time.Now()
		s.deliver("d1", "a")
		if d := time.Since(begun); d != 0 {
			t.Errorf("took %s", d)
		}
	})
}

// TestConcerned: a step may end and begin more than was asked for.
func TestConcerned(t *testing.T) {
	for name, c := range map[string]struct {
		before func(s *stage)
		event  rollout.Event
		want   rollout.RolloutID
	}{
		"a deployment": {
			nil, rollout.DeployRequested{App: "hello", Release: rollout.Release{ID: "x", SHA: sha("x")}, By: "ann"}, "hello-2",
		},
		"one that takes another's place": {
			func(s *stage) { s.deploy("hello", "x") },
			rollout.DeployRequested{App: "hello", Release: rollout.Release{ID: "y", SHA: sha("d")}, By: "ann"}, "hello-3",
		},
		"a pause":   {func(s *stage) { s.deploy("hello", "x") }, rollout.PauseRequested{App: "hello", By: "ann"}, "hello-2"},
		"a retry":   {func(s *stage) { s.deploy("hello", "x") }, rollout.RetryRequested{App: "hello", By: "ann"}, "hello-2"},
		"an abort":  {func(s *stage) { s.deploy("hello", "x") }, rollout.AbortRequested{App: "hello", By: "ann"}, "hello-2"},
		"a resumed": {func(s *stage) { s.deploy("hello", "x"); s.apply(rollout.PauseRequested{App: "hello", By: "ann"}) }, rollout.ResumeRequested{App: "hello", By: "ann"}, "hello-2"},
		"an abort that lets the next begin": {
			func(s *stage) {
				s.deploy("hello", "x")
				s.apply(rollout.DeployRequested{App: "hello", Release: rollout.Release{ID: "y", SHA: sha("d")}, By: Automation, Automatic: true})
			},
			rollout.AbortRequested{App: "hello", By: "ann"}, "hello-2",
		},
		"a rollback": {
			func(s *stage) { s.deploy("hello", "x"); s.work(); s.deploy("hello", "y") },
			rollout.RollbackRequested{App: "hello", By: "ann"}, "hello-4",
		},
		"a retry of what was aborted": {
			func(s *stage) { s.deploy("hello", "x"); s.apply(rollout.AbortRequested{App: "hello", By: "ann"}) },
			rollout.RetryRequested{App: "hello", By: "ann"}, "hello-3",
		},
		"a step in which another app catches up": {
			func(s *stage) {
				// bye strayed while it was on hold; the hold ends with the step.
				s.apply(rollout.HoldRequested{App: "bye", By: "ann", Reason: "wait", Until: time.Now().Add(time.Second)})
				s.agents[0].Run("bye", "another")
				s.work()
				time.Sleep(2 * time.Second)
			},
			rollout.DeployRequested{App: "hello", Release: rollout.Release{ID: "x", SHA: sha("x")}, By: "ann"}, "hello-2",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, app("hello", newRepo("a")), app("bye", newRepo("a")))
				s.run()
				s.work()
				if c.before != nil {
					c.before(s)
				}
				if got := Concerned("hello", s.apply(c.event)); got != c.want {
					t.Errorf("concerned %q, expected %q", got, c.want)
				}
			})
		})
	}
	other := []rollout.Effect{rollout.Noted{App: "bye", Rollout: "bye-1"}, rollout.Noted{App: "hello", Text: "held"}, rollout.Noted{App: "hello", Rollout: "hello-7"}}
	if got := Concerned("hello", other); got != "hello-7" {
		t.Errorf("concerned %q", got)
	}
}

func TestReceiveFails(t *testing.T) {
	s := newStage(t, app("hello", newRepo("a")))
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Receive(t.Context(), push("d1", "a")); !errors.Is(err, store.ErrClosed) {
		t.Errorf("error %v", err)
	}
}
