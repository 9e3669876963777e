package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/journal"
	"github.com/lockstep-deploy/lockstep/agent/internal/release"
	"github.com/lockstep-deploy/lockstep/agent/internal/sandbox"
	"github.com/lockstep-deploy/lockstep/agent/internal/source"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

const (
	// A fetch is not begun with less room than this.
	wantBytes, wantInodes = 64 << 20, 1000
	// fetchTries is how often an unreachable remote is tried in one attempt.
	fetchTries = 3
	buildGrace = 10 * time.Second
)

// attempt is the attempt at preparing a release that is in progress.
type attempt struct {
	release string
	want    api.Prepare
	number  int
	step    api.Step
	cancel  context.CancelCauseFunc
}

var errSuperseded = errors.New("another release is asked for")

// prepareLoop prepares whatever release is asked for.
func (p *app) prepareLoop() {
	for p.a.stop.Err() == nil {
		if err := p.prepareNext(); err != nil {
			p.log.Error("cannot prepare a release; trying again", "error", err)
			rest(p.a.stop, time.Second)
			continue
		}
		select {
		case <-p.toPrepare:
		case <-p.a.stop.Done():
		}
	}
}

// wanted returns the release that is asked for and not there yet; nil when
// there is none, or the attempt asked for has failed already.
func (p *app) wanted(d *journal.Doc) (*api.Prepare, error) {
	if d.Absent || d.Assignment == nil || d.Assignment.Prepare == nil {
		return nil, nil
	}
	want := d.Assignment.Prepare
	present, err := p.store.Present()
	if err != nil {
		return nil, err
	}
	t := d.Prepare
	done := t != nil && t.Release == want.Release && t.Done && t.Number >= want.Attempt
	if !slices.Contains(present, want.Release) {
		if done && t.Failed() {
			return nil, nil
		}
		return want, nil
	}
	digest, err := p.store.Digest(want.Release)
	if err != nil {
		return nil, err
	}
	if done || (!want.Share && (want.Archive == "" || want.Archive == digest)) {
		return nil, nil
	}
	return want, nil
}

// checkPreparing breaks off an attempt that is no longer asked for. The caller
// holds p.mu.
func (p *app) checkPreparing() {
	t := p.preparing
	if t == nil {
		return
	}
	d := p.file.Read()
	if d.Absent || d.Assignment == nil || d.Assignment.Prepare == nil || !sameWay(*d.Assignment.Prepare, t.want) {
		t.cancel(errSuperseded)
	}
}

// sameWay tells whether two requests ask for the same release, and to come to it
// in the same way.
func sameWay(a, b api.Prepare) bool {
	a.Attempt = b.Attempt
	return a == b
}

func (p *app) prepareNext() error {
	d := p.file.Read()
	want, err := p.wanted(d)
	if err != nil || want == nil {
		return err
	}
	runs := 1
	if t := d.Prepare; t != nil {
		runs = t.Runs + 1
	}
	err = p.file.Update(func(d *journal.Doc) error {
		d.Prepare = &journal.Attempt{Release: want.Release, Number: want.Attempt, Runs: runs}
		return nil
	})
	if err != nil {
		return err
	}
	// A build outlives the agent where that is possible: what stops the agent is
	// told from what breaks off the attempt.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(p.a.stop))
	defer cancel(nil)
	defer context.AfterFunc(p.a.stop, func() { cancel(sandbox.ErrLeave) })()
	p.mu.Lock()
	p.preparing = &attempt{release: want.Release, want: *want, number: want.Attempt, step: api.StepFetch, cancel: cancel}
	p.checkPreparing()
	p.mu.Unlock()
	p.a.notify()

	log := p.log.With("release", want.Release, "attempt", want.Attempt)
	log.Info("preparing")
	begun := time.Now()
	failure := p.prepare(ctx, d.Assignment, want.Release, runs)

	brokenOff := ctx.Err() != nil && failure != nil
	if !brokenOff {
		// In one step for whoever reads a report: no longer running, and how it went.
		err = p.file.Update(func(d *journal.Doc) error {
			d.Prepare.Done = true
			if failure != nil {
				d.Prepare.Reason, d.Prepare.Text = fault.ReasonOf(failure), failure.Error()
			}
			return nil
		})
	}
	p.mu.Lock()
	p.preparing = nil
	p.mu.Unlock()
	p.a.notify()
	wake(p.toActivate) // a turn may wait for it; old releases may go
	switch {
	case p.a.stop.Err() != nil && brokenOff:
		return nil
	case brokenOff:
		log.Info("broke off preparing", "cause", context.Cause(ctx))
		wake(p.toPrepare)
	case failure != nil:
		log.Warn("cannot prepare the release", "reason", fault.ReasonOf(failure), "error", failure)
	default:
		log.Info("prepared", "took", time.Since(begun))
	}
	return err
}

func (p *app) setStep(s api.Step) {
	p.mu.Lock()
	p.preparing.step = s
	p.mu.Unlock()
	p.a.notify()
}

// prepare brings a release to this node, and to the coordinator if that is asked
// for. It appears among the present ones only when it is complete.
func (p *app) prepare(ctx context.Context, as *api.Assignment, id string, runs int) error {
	i := slices.IndexFunc(as.Releases, func(r api.Release) bool { return r.ID == id })
	if i < 0 {
		return fmt.Errorf("cannot prepare release %s: the assignment does not describe it", id)
	}
	r := as.Releases[i]
	err := p.make(ctx, as, r, runs)
	if err == nil && as.Prepare.Share {
		err = p.share(ctx, as, r, runs)
	}
	return err
}

// make fetches and builds a release, or takes what another node has built.
func (p *app) make(ctx context.Context, as *api.Assignment, r api.Release, runs int) error {
	id, want := r.ID, as.Prepare
	present, err := p.store.Present()
	if err != nil || (want.Archive == "" && slices.Contains(present, id)) {
		return err
	}
	// What cannot end well is not begun.
	if err := p.store.CheckShared(r.Recipe.Shared); err != nil {
		return err
	}
	// One at a time on this node: builds are the heaviest thing it does.
	select {
	case p.a.builds <- struct{}{}:
		defer func() { <-p.a.builds }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if want.Archive != "" {
		if err := p.a.deps.Sandbox.EndOthers(ctx, p.builds(), ""); err != nil {
			return err
		}
		return p.take(ctx, as, r, runs)
	}
	job, err := p.buildJob(r, want.Attempt)
	if err != nil {
		return err
	}
	resumes, err := p.resumes(ctx, job, id)
	if err != nil {
		return err
	}
	step := api.StepFetch
	if resumes {
		step = api.StepBuild
	}
	out := p.a.logs.stream(p.name, as.Rollout, step, runs)
	defer func() { out.close() }()
	dir := job.Dir
	if resumes {
		fmt.Fprintln(out, "[the agent was restarted here; a moment of output may be missing]")
	} else if dir, err = p.fetch(ctx, as.Spec, r, out); err == nil {
		out.close()
		out = p.a.logs.stream(p.name, as.Rollout, api.StepBuild, runs)
	}
	if err == nil {
		p.setStep(api.StepBuild)
		err = p.a.deps.Sandbox.Run(ctx, job, out)
	}
	if err == nil {
		err = p.keep(ctx, r, dir, want.Share, out)
	}
	// What goes on without the agent is the next one's.
	if err != nil && !errors.Is(err, sandbox.ErrLeave) {
		if fault.ReasonOf(err) == api.ReasonDiskFull {
			p.unstage(id) // kept, it would stand in the way of the next attempt
		} else {
			p.discard(id, dir)
		}
		fmt.Fprintf(out, "%v\n", err)
	}
	return err
}

// makeRoom sees to it that there is room for another release like the last one.
// Before it gives up, it removes the releases that are kept only for convenience.
func (p *app) makeRoom(out io.Writer) error {
	bytes, files, err := p.store.Estimate()
	if err != nil {
		return err
	}
	bytes, files = bytes+bytes/4+wantBytes, files+files/4+wantInodes
	short := release.CheckSpace(p.a.cfg.Apps, bytes, files)
	if short == nil {
		return nil
	}
	keep, ok := p.kept()
	if !ok {
		return short // what runs is not known yet
	}
	gone, err := p.store.Prune(keep, 0)
	if err != nil {
		return errors.Join(short, err)
	}
	if len(gone) == 0 {
		return short
	}
	p.log.Info("removed old releases for want of room", "releases", gone)
	fmt.Fprintf(out, "[removed for want of room: %s]\n", strings.Join(gone, ", "))
	p.a.notify()
	return release.CheckSpace(p.a.cfg.Apps, bytes, files)
}

// discard gives up what was staged in dir, unless that is "".
func (p *app) discard(id, dir string) {
	if dir == "" {
		return
	}
	if err := p.store.Discard(id); err != nil {
		p.log.Warn("cannot clear up after a failed preparation", "release", id, "error", err)
	}
}

// unstage removes all that was staged, which is not to be kept.
func (p *app) unstage(id string) {
	if err := p.store.Unstage(""); err != nil {
		p.log.Warn("cannot clear up after a failed preparation", "release", id, "error", err)
	}
}

// fetch brings the commit to this node and its tree into a staging directory;
// dir is empty until there is one.
func (p *app) fetch(ctx context.Context, spec api.Spec, r api.Release, out io.Writer) (dir string, err error) {
	if err := release.CheckSpace(p.a.cfg.State, wantBytes, wantInodes); err != nil {
		return "", err
	}
	if err := p.makeRoom(out); err != nil {
		return "", err
	}
	origin, err := p.origin(spec, r.ID)
	if err != nil {
		return "", err
	}
	repo, err := source.Open(filepath.Join(p.a.cfg.State, "git", p.name+".git"), origin)
	if err != nil {
		return "", err
	}
	if !repo.Has(r.SHA) {
		fmt.Fprintf(out, "fetching %s\n", r.SHA)
		wait := time.Second
		for n := 1; ; n++ {
			err = repo.Fetch(ctx, r.SHA, out)
			if err == nil || n == fetchTries || ctx.Err() != nil || !errors.Is(err, gitremote.ErrUnreachable) {
				break
			}
			fmt.Fprintf(out, "%v; trying again in %s\n", err, wait)
			rest(ctx, wait)
			wait *= 2
		}
		if err != nil {
			return "", err
		}
	}
	if dir, err = p.store.Stage(r.ID); err != nil {
		return "", err
	}
	return dir, repo.Write(ctx, r.SHA, dir)
}

// buildJob is the build of a release, in an attempt at preparing it.
func (p *app) buildJob(r api.Release, attempt int) (sandbox.Job, error) {
	dir, _, err := p.store.Staged(r.ID)
	if err != nil {
		return sandbox.Job{}, err
	}
	secrets := map[string]string{}
	for _, name := range r.Recipe.Secrets {
		if secrets[name], err = p.a.cfg.Secret(name); err != nil {
			return sandbox.Job{}, err
		}
	}
	return sandbox.Job{
		Name: fmt.Sprintf("%s%s.%d", p.builds(), r.ID, attempt), What: "build", Reason: api.ReasonBuildFailed,
		Commands: r.Recipe.Build, Dir: dir, Env: environment(r.Recipe.Env, p.ofRelease(r)), Secrets: secrets, User: p.a.cfg.BuildUser,
		Cache: filepath.Join(p.a.cfg.State, "cache", p.name), Writable: []string{dir},
		Limits: limitsOf(r.Recipe, r.Recipe.Timeout, "build_timeout"), Background: true, Grace: buildGrace,
	}, nil
}

// limitsOf are the limits of the recipe's commands; key is what their timeout is
// called in fleet.yaml.
func limitsOf(r api.Recipe, timeout api.Duration, key string) sandbox.Limits {
	limits := sandbox.Limits{Timeout: timeout.D(), TimeoutKey: key}
	if l := r.Limits; l != nil {
		limits.Memory, limits.CPUWeight, limits.IOWeight = l.Memory, l.CPUWeight, l.IOWeight
		limits.MemoryPercent, limits.Tasks, limits.Silence = l.MemoryPercent, l.Tasks, l.Silence.D()
	}
	return limits
}

// builds is what the names of the app's builds begin with. No app has a dot in
// its name, and several agents may be on a machine, each with an instance of its
// own.
func (p *app) builds() string { return p.name + "." + p.a.identity.Instance + ".build." }

// resumes tells whether the build runs already, or has ended, since an agent
// before this one began it. Others of the app's builds are ended: nobody waits
// for them any more.
func (p *app) resumes(ctx context.Context, job sandbox.Job, id string) (bool, error) {
	has, err := p.a.deps.Sandbox.Has(ctx, job.Name)
	if err != nil {
		return false, err
	}
	_, staged, err := p.store.Staged(id)
	if err != nil {
		return false, err
	}
	keep := ""
	if has && staged {
		keep = job.Name
	}
	if err := p.a.deps.Sandbox.EndOthers(ctx, p.builds(), keep); err != nil {
		return false, err
	}
	return keep != "", p.store.Unstage(id)
}
