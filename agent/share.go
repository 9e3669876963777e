package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/release"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/archive"
)

// Archives carries built files between this node and the coordinator; it is
// implemented by [api.Client].
type Archives interface {
	ShareArchive(ctx context.Context, app, release, digest string, pack func(io.Writer) error) error
	Archive(ctx context.Context, app, digest string) io.ReadCloser
}

// maxFiles bounds what is taken from another node; it is more than a commit may hold.
const maxFiles = 1_000_000

// keep commits a release that was built in dir: what its recipe calls the
// artifact, under the digest of its files. If share, it must be fit to be taken
// by others.
func (p *app) keep(ctx context.Context, r api.Release, dir string, share bool, out io.Writer) error {
	if a := r.Recipe.Artifact; len(a) > 0 {
		missing, err := archive.Keep(dir, a)
		if err != nil {
			return err
		}
		if missing != "" {
			return fault.Errorf(api.ReasonBuildFailed, "the build made nothing that artifact calls %q; correct the build or artifact", missing)
		}
	}
	if err := p.link(r, dir, out); err != nil {
		return err
	}
	sum, err := archive.Digest(ctx, dir, shared(r))
	if err != nil {
		return err
	}
	if share && sum.Unfit != nil {
		return fault.Errorf(api.ReasonBadTree, "what was built cannot be handed to other nodes: %w; "+
			"let the build make a file of it, leave it out of artifact, or write build_on: each", sum.Unfit)
	}
	return p.store.CommitAs(r.ID, sum.Digest)
}

// link puts what the release shares with others into its staging directory, after
// the build, which has no business with it.
func (p *app) link(r api.Release, dir string, out io.Writer) error {
	replaced, err := p.store.LinkShared(dir, r.Recipe.Shared)
	for _, path := range replaced {
		fmt.Fprintf(out, "[%s of the release gives way to %s, which is shared]\n", path, p.store.SharedPath(path))
	}
	return err
}

// shared tells which paths are no part of the release's own files.
func shared(r api.Release) func(path string) bool {
	if len(r.Recipe.Shared) == 0 {
		return nil
	}
	return func(path string) bool { return release.IsShared(path, r.Recipe.Shared) }
}

// share hands the files of a release on disk to the coordinator.
func (p *app) share(ctx context.Context, as *api.Assignment, r api.Release, runs int) error {
	p.setStep(api.StepShare)
	out := p.a.logs.stream(p.name, as.Rollout, api.StepShare, runs)
	defer out.close()
	err := p.shareTo(ctx, r, out)
	if err != nil {
		fmt.Fprintf(out, "%v\n", err)
	}
	return err
}

func (p *app) shareTo(ctx context.Context, r api.Release, out io.Writer) error {
	if p.a.deps.Archives == nil {
		return fault.Errorf(api.ReasonShareFailed, "cannot share release %s: this agent has no way to", r.ID)
	}
	dir := p.store.Path(r.ID)
	path, err := p.store.Edited(r.ID)
	if err != nil {
		return err
	}
	if path != "" {
		return edited(r.ID, path)
	}
	digest, err := p.store.Digest(r.ID)
	if err == nil && digest == "" {
		// It was built before digests were kept.
		var sum archive.Summary
		if sum, err = archive.Digest(ctx, dir, shared(r)); err == nil {
			digest = sum.Digest
			err = p.store.Describe(r.ID, digest)
			p.a.notify()
		}
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "handing %s to the coordinator\n", digest)
	var packing error
	err = p.a.deps.Archives.ShareArchive(ctx, p.name, r.ID, digest, func(w io.Writer) error {
		var sum archive.Summary
		sum, packing = archive.Pack(ctx, dir, shared(r), w)
		if packing == nil && sum.Digest != digest {
			packing = edited(r.ID, "a file")
		}
		return packing
	})
	var bad *archive.BadError
	var typed *fault.Error
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case errors.As(err, &bad), errors.As(err, &typed), errors.Is(err, packing) && !isOfCoordinator(err):
		return err
	}
	return fault.Errorf(api.ReasonShareFailed, "cannot hand release %s to the coordinator: %w", r.ID, err)
}

func edited(id, path string) error {
	return fault.Errorf(api.ReasonReleaseEdited, "release %s was edited after it was built: %s is not what it was; "+
		"put it back, or remove the directory of the release so that it is made again", id, path)
}

// isOfCoordinator tells errors of calls to the coordinator from those of this node.
func isOfCoordinator(err error) bool {
	var refused *api.Error
	var away *api.UnreachableError
	var answer *api.AnswerError
	return errors.As(err, &refused) || errors.As(err, &away) || errors.As(err, &answer)
}

// take makes a release of the files that another node has built.
func (p *app) take(ctx context.Context, as *api.Assignment, r api.Release, runs int) error {
	p.setStep(api.StepUnpack)
	out := p.a.logs.stream(p.name, as.Rollout, api.StepUnpack, runs)
	defer out.close()
	fmt.Fprintf(out, "taking %s from the coordinator\n", as.Prepare.Archive)
	dir, err := p.unpack(ctx, r.ID, as.Prepare.Archive, out)
	if err == nil {
		err = p.link(r, dir, out)
	}
	if err == nil {
		err = p.store.CommitAs(r.ID, as.Prepare.Archive)
	}
	if err != nil {
		p.unstage(r.ID) // another node holds it: there is nothing to look into
		fmt.Fprintf(out, "%v\n", err)
	}
	return err
}

// unpack writes the files of a digest into a staging directory.
func (p *app) unpack(ctx context.Context, id, digest string, out io.Writer) (dir string, err error) {
	if p.a.deps.Archives == nil {
		return "", fault.Errorf(api.ReasonArchiveFailed, "cannot take release %s: this agent has no way to", id)
	}
	if p.runs(id) {
		return "", fault.Errorf(api.ReasonBuildSkew, "cannot take release %s: another build of it runs here; deploy another release first", id)
	}
	if err := p.makeRoom(out); err != nil {
		return "", err
	}
	free, err := release.Free(p.a.cfg.Apps)
	if err != nil {
		return "", err
	}
	if dir, err = p.store.Stage(id); err != nil {
		return "", err
	}
	from := p.a.deps.Archives.Archive(ctx, p.name, digest)
	defer from.Close()
	sum, err := archive.Unpack(ctx, from, dir, archive.Limits{Files: maxFiles, Bytes: int64(free - wantBytes)})
	var bad *archive.BadError
	switch {
	case errors.Is(err, archive.ErrNoRoom):
		return dir, fault.New(api.ReasonDiskFull, err)
	case errors.As(err, &bad):
		return dir, fault.New(api.ReasonArchiveBad, err)
	case isOfCoordinator(err):
		return dir, fault.New(api.ReasonArchiveFailed, err)
	case err != nil:
		return dir, err
	case sum.Digest != digest:
		return dir, fault.Errorf(api.ReasonArchiveBad, "the coordinator handed out other files (%s) than those that were asked for (%s); it asks for them again", sum.Digest, digest)
	}
	return dir, nil
}

// runs tells whether a target was last seen to run the release.
func (p *app) runs(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range p.views {
		if v.Release == id {
			return true
		}
	}
	return false
}

// editsEvery is how often releases are compared with what was built.
const editsEvery = 5 * time.Minute

// lookForEdits finds releases that were edited by hand, and reports them.
func (p *app) lookForEdits() {
	if time.Since(p.compared) < editsEvery {
		return
	}
	p.compared = time.Now()
	present, err := p.store.Present()
	found := map[string]string{}
	for _, id := range present {
		path, e := p.store.Edited(id)
		if path != "" {
			found[id] = path
		}
		err = errors.Join(err, e)
	}
	if err != nil {
		p.log.Warn("cannot compare the releases with what was built", "error", err)
	}
	p.mu.Lock()
	changed := !maps.Equal(found, p.edited)
	p.edited = found
	p.mu.Unlock()
	if changed {
		p.log.Warn("releases were edited after they were built", "files", found)
		p.a.notify()
	}
}

// digests are those of the releases, as far as they are known.
func (p *app) digests(ids []string) map[string]string {
	all := map[string]string{}
	for _, id := range ids {
		d, err := p.store.Digest(id)
		if err != nil {
			p.log.Warn("cannot tell what a release was built as", "release", id, "error", err)
		}
		if d != "" {
			all[id] = d
		}
	}
	return all
}
