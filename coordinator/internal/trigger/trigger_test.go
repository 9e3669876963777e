package trigger

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/mirror"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

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
