package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/archive"
)

// end follows a rollout until it is over.
func (f *pair) end(id string) (api.Rollout, []api.Event) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 4*patience)
	defer cancel()
	var events []api.Event
	for after := int64(0); ; {
		page, err := f.admin.Events(ctx, id, after, 5*time.Second)
		if err != nil {
			f.t.Fatalf("%s: %v; so far %+v", id, err, events)
		}
		for _, e := range page.Events {
			events, after = append(events, e), e.Number
		}
		if p := page.Rollout.Paused; p != nil {
			f.t.Fatalf("%s is paused: %+v", id, p)
		}
		if page.Rollout.Done && len(page.Events) == 0 {
			return page.Rollout, events
		}
	}
}

// deploy commits files and deploys them until the rollout is over.
func (f *pair) deploy(files map[string]string) (api.Rollout, []api.Event) {
	f.t.Helper()
	sha := f.repo.release(files).SHA
	r, err := f.admin.Deploy(f.t.Context(), hello, api.DeployRequest{Ref: sha, By: "ann"})
	if err != nil {
		f.t.Fatal(err)
	}
	return f.end(r.ID)
}

// output is what a step said on each node in a rollout. It arrives a moment after.
func (f *pair) output(id string, step api.Step, enough func(map[string]string) bool) map[string]string {
	f.t.Helper()
	said, after := map[string]string{}, int64(0)
	for deadline := time.Now().Add(patience); !enough(said); time.Sleep(20 * time.Millisecond) {
		page, err := f.admin.Logs(f.t.Context(), id, api.LogQuery{Step: step, After: after})
		if err != nil {
			f.t.Fatal(err)
		}
		for _, l := range page.Lines {
			said[l.Node] += l.Data
			after = l.Position
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("%s of %s said only %q", step, id, said)
		}
	}
	return said
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

func kinds(events []api.Event, kind string) int {
	n := 0
	for _, e := range events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// steps are commands of the steps that a recipe may have, each of which writes down
// that it ran.
func steps(book string) string {
	line := func(step string) string {
		return fmt.Sprintf(`'echo %[1]s $LOCKSTEP_NODE >> %[2]s; echo "%[1]s says $(cat word)"'`, step, book)
	}
	return fmt.Sprintf(`
    release_command: %s
    hooks: {before_drain: %s, after_drain: %s, before_rejoin: %s, after_rejoin: %s}`,
		line("release_command"), line("before_drain"), line("after_drain"), line("before_rejoin"), line("after_rejoin"))
}

// In a rollout, the release command runs once and before the first turn, and the
// hooks at each target in order, from the new release, with their output on record.
// A command that fails touches nothing.
func TestWhatARolloutRuns(t *testing.T) {
	t.Parallel()
	book := filepath.Join(t.TempDir(), "book")
	r := newRepo(t)
	r.release(map[string]string{"word": "one"})
	f := newPairOf(t, r, "file://"+r.dir, steps(book)+`
    recipe: {may_set: [release_command]}`)
	f.converged()
	hooks := func(node string) []string {
		return []string{"before_drain " + node, "after_drain " + node, "before_rejoin " + node, "after_rejoin " + node}
	}
	ran := func() []string { return strings.Split(strings.TrimSuffix(read(t, book), "\n"), "\n") }
	if got := ran(); len(got) != 9 || !strings.HasPrefix(got[0], "release_command web") {
		t.Fatalf("the first rollout ran %q", got)
	}
	if err := os.Remove(book); err != nil {
		t.Fatal(err)
	}

	second, events := f.deploy(map[string]string{"word": "two"})
	got := ran()
	want := append(append([]string{got[0]}, hooks("web1")...), hooks("web2")...)
	if second.Status != "succeeded" || !strings.HasPrefix(got[0], "release_command ") || !slices.Equal(got, want) {
		t.Errorf("%s %s; it ran %q, want %q", second.ID, second.Status, got, want)
	}
	turn := slices.IndexFunc(events, func(e api.Event) bool { return e.Kind == "turn" })
	command := -1
	for i, e := range events {
		if e.Kind == "command" {
			command = i
		}
	}
	if command < 0 || command > turn {
		t.Errorf("the command is over at line %d of the timeline, the first turn begins at %d: %+v", command, turn, events)
	}
	for _, step := range []api.Step{api.StepBeforeDrain, api.StepAfterDrain, api.StepBeforeRejoin, api.StepAfterRejoin} {
		f.output(second.ID, step, func(said map[string]string) bool {
			text := string(step) + " says two\n"
			return strings.Contains(said["web1"], text) && strings.Contains(said["web2"], text)
		})
	}

	restarts := []int{f.units[0].count(), f.units[1].count()}
	third, events := f.deploy(map[string]string{"word": "three", "lockstep.yaml": "release_command: echo no such column; exit 3\n"})
	if third.Status != "failed" || third.Reason != string(api.ReasonCommandFailed) || !strings.Contains(third.Text, "exit status 3") {
		t.Errorf("a command that fails: %s (%s: %s)", third.Status, third.Reason, third.Text)
	}
	if n := kinds(events, "turn"); n != 0 || !slices.Equal(ran(), want) {
		t.Errorf("it began %d turns, and ran %q", n, ran()[len(want):])
	}
	for i, u := range f.units {
		if got := read(t, filepath.Join(f.nodes[i].cfg.Apps, hello, "current", "word")); u.count() != restarts[i] || got != "two" {
			t.Errorf("web%d was touched: %d restarts after %d, serving %q", i+1, u.count(), restarts[i], got)
		}
	}
	f.output(third.ID, api.StepCommand, func(said map[string]string) bool {
		return strings.Contains(said["web1"]+said["web2"], "no such column")
	})
}

// A commit's own lockstep.yaml counts for that commit, as far as fleet.yaml permits.
func TestARecipeOfACommit(t *testing.T) {
	t.Parallel()
	f := newPair(t, `
    build: ["echo fleet > built-by"]
    recipe: {may_set: [build, hooks]}`)
	f.converged()
	built := func(want string) {
		t.Helper()
		for i, n := range f.nodes {
			if got := read(t, filepath.Join(n.cfg.Apps, hello, "current", "built-by")); got != want+"\n" {
				t.Errorf("web%d was built by %q, want %q", i+1, got, want)
			}
		}
	}
	built("fleet")
	book := filepath.Join(t.TempDir(), "book")
	own, _ := f.deploy(map[string]string{"lockstep.yaml": "build: [echo commit > built-by]\nhooks: {after_drain: 'echo drained >> " + book + "'}\n"})
	built("commit")
	if got := read(t, book); own.Status != "succeeded" || got != "drained\ndrained\n" {
		t.Errorf("%s; the commit's hook ran %q", own.Status, got)
	}

	sha := f.repo.release(map[string]string{"lockstep.yaml": "build: [echo commit > built-by]\nshared: [.env]\n"}).SHA
	_, err := f.admin.Deploy(t.Context(), hello, api.DeployRequest{Ref: sha, By: "ann"})
	var refused *api.Error
	want := []string{sha[:12] + ":lockstep.yaml:2", "add shared to apps.hello.recipe.may_set"}
	if !errors.As(err, &refused) || refused.Kind != api.ErrorConflict {
		t.Fatalf("a commit that sets what it may not: %v", err)
	}
	p, err := f.admin.Plan(t.Context(), hello, sha)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range want {
		if !strings.Contains(refused.Text, w) || !strings.Contains(p.Refused, w) {
			t.Errorf("%q or the plan's %q lacks %q", refused.Text, p.Refused, w)
		}
	}
	built("commit")

	f.repo.git("rm", "-q", "lockstep.yaml")
	if back, _ := f.deploy(nil); back.Status != "succeeded" {
		t.Errorf("a commit without a recipe: %s %s", back.Status, back.Text)
	}
	built("fleet")
	if got := read(t, book); got != "drained\ndrained\n" {
		t.Errorf("the hook of the commit before ran again: %q", got)
	}
}

// What releases share on a node survives a deploy and a rollback, and stays out of
// what one node builds for the other.
func TestSharedFilesOfReleasesThatAreBuiltOnce(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.release(map[string]string{"word": "one", ".env": "FROM=commit\n"})
	nodes := 0
	f := newPairOf(t, r, "file://"+r.dir, `
    build: ["date +%s%N > stamp", "mkdir -p public/uploads", "echo from the build > public/uploads/scrap"]
    build_on: first
    shared: [.env, public/uploads/]`, func(n *node) {
		nodes++
		at := filepath.Join(n.cfg.Apps, hello, "shared", ".env")
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, fmt.Appendf(nil, "PASSWORD=top-secret-of-web%d\n", nodes), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	f.converged()
	current := func(i int, path string) string {
		return filepath.Join(f.nodes[i].cfg.Apps, hello, "current", path)
	}
	shared := func(word string) {
		t.Helper()
		for i := range f.nodes {
			for path, want := range map[string]string{
				"word": word, ".env": fmt.Sprintf("PASSWORD=top-secret-of-web%d\n", i+1),
				"public/uploads/photo": fmt.Sprintf("photo of web%d", i+1), "public/uploads/scrap": "",
			} {
				if got := read(t, current(i, path)); got != want {
					t.Errorf("%s of web%d is %q, want %q", path, i+1, got, want)
				}
			}
		}
		f.same("stamp")
	}
	for i := range f.nodes {
		if err := os.WriteFile(current(i, "public/uploads/photo"), fmt.Appendf(nil, "photo of web%d", i+1), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	shared("one")
	if d, _ := f.deploy(map[string]string{"word": "two"}); d.Status != "succeeded" {
		t.Fatalf("%s: %s", d.Status, d.Text)
	}
	shared("two")
	back, err := f.admin.Rollback(t.Context(), hello, api.RollbackRequest{By: "ann"})
	if err != nil || len(back.Warnings) > 0 {
		t.Fatalf("%+v, %v", back, err)
	}
	if back, _ = f.end(back.ID); back.Status != "succeeded" {
		t.Fatalf("%s: %s", back.Status, back.Text)
	}
	shared("one")

	archives, err := filepath.Glob(filepath.Join(f.dir, "archives", hello, "*.tar.zst"))
	if err != nil || len(archives) != 2 {
		t.Fatalf("archives %v, %v", archives, err)
	}
	for _, path := range archives {
		packed, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		_, err = archive.Unpack(t.Context(), packed, dir, archive.Limits{Bytes: 1 << 30, Files: 1000})
		packed.Close()
		if err != nil {
			t.Fatal(err)
		}
		if read(t, filepath.Join(dir, "stamp")) == "" {
			t.Errorf("%s does not hold what was built", path)
		}
		for _, own := range []string{".env", "public/uploads"} {
			if _, err := os.Lstat(filepath.Join(dir, own)); !os.IsNotExist(err) {
				t.Errorf("%s holds %s, which is each node's own (%v)", path, own, err)
			}
		}
	}
	st, err := f.admin.Status(t.Context())
	if err != nil || st.Apps[0].BuildSkew != "" {
		t.Errorf("the nodes hold different builds: %q, %v", st.Apps[0].BuildSkew, err)
	}
}
