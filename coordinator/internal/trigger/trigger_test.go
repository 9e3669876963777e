package trigger

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/mirror"
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

func TestUnreachableRepository(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRepo("a")
		s := newStage(t, app("hello", r))
		s.run()
		s.work()
		r.push("b", "a")
		r.cut(errUnreachable)
		r.forget()
		s.deliver("d1", "b")
		time.Sleep(30 * time.Minute)
		s.expect("d1", "accepted")
		if got, want := gaps(r.times()), "1s 2s 4s 8s 16s 32s 1m4s 2m8s 4m16s 5m0s 5m0s 5m0s 5m0s"; got != want {
			t.Errorf("tried after %s, expected %s", got, want)
		}
		// The next delivery does not wait.
		r.cut(nil)
		s.deliver("d2", "b")
		s.expect("d1", "deployed hello-2")
		s.expect("d2", "deployed hello-2")
		// Nor is what failed before held against the repository.
		r.forget()
		r.cut(errUnreachable)
		time.Sleep(64 * time.Second)
		if got, want := gaps(r.times()), "1s 2s"; got != want {
			t.Errorf("tried after %s, expected %s", got, want)
		}
	})
}

func TestPollingFindsWhatNoDeliveryToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRepo("a")
		s := newStage(t, app("hello", r))
		s.run()
		s.work()
		fetches := len(r.times())
		time.Sleep(10 * time.Minute)
		if n := len(r.times()); n != fetches {
			t.Errorf("fetched %d times while nothing moved", n-fetches)
		}
		r.push("b", "a")
		time.Sleep(time.Minute + time.Second)
		if l := s.app("hello").Live; l == nil || l.Cause != "found by polling" || !l.Automatic {
			t.Errorf("live: %+v", l)
		}
		s.work()
		s.expectCurrent("hello", "b")
		// The delivery was only late.
		s.deliver("d1", "b")
		s.expect("d1", "refused: already_deployed: ")
		s.expectRollouts("hello", 2)
	})
}

func TestBranchLagsBehindItsDelivery(t *testing.T) {
	for name, c := range map[string]struct {
		lag  int
		want string
		took string
	}{
		"at once":       {0, "deployed hello-2", ""},
		"three seconds": {3, "deployed hello-2", "1s 1s 1s"},
		"too long":      {9, "refused: already_deployed: ", "1s 1s 1s 1s 1s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRepo("a")
				s := newStage(t, app("hello", r))
				s.run()
				s.work()
				var old []string
				for range c.lag {
					old = append(old, sha("a"))
				}
				r.push("b", "a", old...)
				r.forget()
				s.deliver("d1", "b")
				time.Sleep(10 * time.Second)
				s.expect("d1", c.want)
				if got := gaps(r.times()); got != c.took {
					t.Errorf("looked again after %q, expected %q", got, c.took)
				}
			})
		})
	}
}

func TestHistoryThatWasRewritten(t *testing.T) {
	back := func(r *repo) string { r.show("a"); return "a" }
	aside := func(r *repo) string { r.push("c", "a"); return "c" }
	for name, c := range map[string]struct {
		rewrite func(*repo) string
		forced  bool
		want    string
	}{
		"back to an ancestor":                {back, false, "refused: older: "},
		"back to an ancestor, forced":        {back, true, "refused: older: "},
		"aside":                              {aside, false, "refused: diverged: "},
		"aside, where forced pushes deploy":  {aside, true, "deployed hello-3"},
		"the same, pushed again under force": {func(*repo) string { return "b" }, true, "refused: already_deployed: "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRepo("a")
				a := app("hello", r)
				a.DeployForced = c.forced
				s := newStage(t, a)
				s.run()
				s.work()
				r.push("b", "a")
				s.deliver("d1", "b")
				s.work()
				s.expectCurrent("hello", "b")
				s.deliver("d2", c.rewrite(r))
				s.expect("d2", c.want)
				time.Sleep(10 * time.Minute)
				if s.app("hello").Number != 2 && c.want != "deployed hello-3" {
					t.Error("deployed by polling all the same")
				}
			})
		})
	}
}

func TestBadReleaseIsNotDeployedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRepo("a")
		s := newStage(t, app("hello", r))
		s.run()
		s.work()
		s.bad("b")
		r.push("b", "a")
		s.deliver("d1", "b")
		s.work()
		s.expect("d1", "deployed hello-2")
		if l := s.app("hello").Last; l.ID != "hello-2" || l.Status != rollout.RolledBack {
			t.Errorf("last: %+v", l)
		}
		s.expectCurrent("hello", "a")
		time.Sleep(time.Hour)
		s.work()
		s.deliver("d2", "b")
		s.expect("d2", "refused: bad_release: ")
		s.reopen()
		s.run()
		s.work()
		time.Sleep(time.Hour)
		s.expectRollouts("hello", 2)
		s.expectCurrent("hello", "a")
		r.push("c", "b")
		s.deliver("d3", "c")
		s.work()
		s.expectCurrent("hello", "c")
	})
}

// TestRestartLeavesAPersonsChoice: what a person deployed in place of the
// branch's head stays when the coordinator starts anew.
func TestRestartLeavesAPersonsChoice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRepo("a", "b")
		s := newStage(t, app("hello", r))
		s.run()
		s.work()
		s.expectCurrent("hello", "b")
		id, err := s.Deploy(t.Context(), "hello", sha("a"), "ann")
		if err != nil || id != "hello-2" {
			t.Fatalf("deploy: %q, %v", id, err)
		}
		s.work()
		s.expectCurrent("hello", "a")
		s.reopen()
		s.run()
		s.work()
		time.Sleep(time.Hour)
		s.work()
		s.expectCurrent("hello", "a")
		r.push("c", "b")
		time.Sleep(2 * time.Minute)
		s.work()
		s.expectCurrent("hello", "c")
	})
}

// TestPollingFindsACommitThatWasDeployedBefore: a person tried it from another
// branch, and now it was merged.
func TestPollingFindsACommitThatWasDeployedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRepo("a")
		r.push("b", "a")
		r.show("a")
		s := newStage(t, app("hello", r))
		s.run()
		s.work()
		for _, c := range []string{"b", "a"} {
			if _, err := s.Deploy(t.Context(), "hello", sha(c), "ann"); err != nil {
				t.Fatal(err)
			}
			s.work()
			s.expectCurrent("hello", c)
		}
		time.Sleep(10 * time.Minute)
		s.expectRollouts("hello", 3)
		r.show("b")
		time.Sleep(2 * time.Minute)
		s.work()
		s.expectCurrent("hello", "b")
	})
}

func TestResolvingIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRepo("a")
		s := newStage(t, app("hello", r))
		s.run()
		s.work()
		r.push("b", "a")
		r.cut(errUnreachable)
		s.deliver("d1", "b")
		s.deliver("d2", "b")
		r.cut(nil)
		s.store.failNext(errors.New("the disk is full"), nil)
		time.Sleep(time.Minute)
		s.expect("d1", "deployed hello-2")
		s.expect("d2", "deployed hello-2")
		s.expectRollouts("hello", 2)
		if n := len(s.progress); n != 0 {
			t.Errorf("%d deliveries are still followed", n)
		}
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

func TestDeployByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRepo("a", "b")
		s := newStage(t, app("hello", r))
		if id, err := s.Deploy(t.Context(), "hello", sha("a"), "ann"); err != nil || id != "hello-1" {
			t.Fatalf("%q, %v", id, err)
		}
		if l := s.app("hello").Live; l.Automatic || l.By != "ann" || l.Cause != sha("a") {
			t.Errorf("live: %+v", l)
		}
		s.work()
		s.expectCurrent("hello", "a")
		if id, err := s.Deploy(t.Context(), "hello", "", "ann"); err != nil || id != "hello-2" {
			t.Fatalf("%q, %v", id, err)
		}
		s.work()
		s.expectCurrent("hello", "b")

		req, c, _, err := s.Preview(t.Context(), "hello", sha("a"))
		if err != nil || c.SHA != sha("a") || req.App != "hello" || req.Automatic || req.Release.SHA != sha("a") {
			t.Errorf("preview: %+v %+v, %v", req, c, err)
		}
		s.expectRollouts("hello", 2)

		var refused *rollout.Refused
		if _, err := s.Deploy(t.Context(), "hello", "", "ann"); !errors.As(err, &refused) || refused.Code != rollout.RefusedSame {
			t.Errorf("again: %v", err)
		}
		if _, err := s.Deploy(t.Context(), "bye", "", "ann"); !errors.As(err, &refused) || refused.Code != rollout.RefusedUnknownApp {
			t.Errorf("no such app: %v", err)
		}
		if _, err := s.Deploy(t.Context(), "hello", "nowhere", "ann"); !errors.Is(err, mirror.ErrUnknownRef) {
			t.Errorf("no such ref: %v", err)
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

// A commit whose own recipe cannot be used is refused, by whomever it is asked for.
func TestARecipeThatCannotBeUsedRefusesTheDeployment(t *testing.T) {
	refusal := &rollout.Refused{Code: rollout.RefusedRecipe, Text: "aaaaaaaaaaaa:lockstep.yaml:1:1: unit: unknown key"}
	a := App{
		Name: "hello", ReleaseID: func(string) string { return "r" },
		RecipeOf: func(_ context.Context, commit string) (api.Recipe, error) {
			if commit == sha("a") {
				return api.Recipe{}, refusal
			}
			return api.Recipe{ReleaseCommand: []string{"bin/migrate"}, ReleaseTimeout: api.Duration(time.Minute)}, nil
		},
	}
	if _, _, err := a.release(t.Context(), mirror.Commit{SHA: sha("a")}); !errors.Is(err, error(refusal)) {
		t.Errorf("got %v", err)
	}
	rel, recipe, err := a.release(t.Context(), mirror.Commit{SHA: sha("b")})
	if err != nil || rel.Command != time.Minute || len(recipe.ReleaseCommand) != 1 {
		t.Errorf("%+v, %+v, %v", rel, recipe, err)
	}
}
