package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

// ErrNoFile tells that a commit has a file at a path, but none that can be read:
// a link, a directory, or more than the limit.
var ErrNoFile = errors.New("no file that can be read")

// File returns the content of one file of a commit, which the remote is asked
// for: the mirror itself holds no files. Where the remote can leave out what lies
// deeper, it is asked to. Errors: [fs.ErrNotExist], [ErrNoFile], [*RemoteError], and
// those of the local disk.
func (m *Mirror) File(ctx context.Context, sha, path string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, m.timeout, tooLong(m.timeout))
	defer cancel()
	dir, err := os.MkdirTemp("", "lockstep-file-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := m.create(dir); err != nil {
		return nil, err
	}
	l := openLocal(dir)
	defer l.close()
	depth := strings.Count(path, "/") + 2
	err = m.snapshot(ctx, l, sha, depth)
	var r *refusal
	if errors.As(err, &r) && ctx.Err() == nil {
		err = m.snapshot(ctx, l, sha, 0)
	}
	if err != nil {
		return nil, m.explain(ctx, err)
	}
	b, err := l.file(sha, path, limit)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read %s of commit %s in %s: %w", gitremote.Clean(path), sha, m.remote, err)
	}
	return b, err
}

// snapshot fetches one commit without its history, and of its files those that
// are no deeper than depth, or all if that is 0.
func (m *Mirror) snapshot(ctx context.Context, l *local, sha string, depth int) error {
	s, err := m.dial(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if s.adv == nil {
		return fmt.Errorf("the repository is empty")
	}
	req := packp.NewUploadPackRequestFromCapabilities(s.adv.Capabilities)
	req.Wants = []plumbing.Hash{plumbing.NewHash(sha)}
	if s.adv.Capabilities.Supports(capability.Shallow) {
		req.Depth = packp.DepthCommits(1)
		if err := req.Capabilities.Set(capability.Shallow); err != nil {
			return err
		}
	}
	if depth > 0 {
		req.Filter = packp.FilterTreeDepth(uint64(depth))
	}
	return l.receive(ctx, s, req)
}

// file reads a file of a commit that was fetched with its files.
func (l *local) file(sha, path string, limit int64) ([]byte, error) {
	c, err := object.GetCommit(l.st, plumbing.NewHash(sha))
	if err != nil {
		return nil, err
	}
	root, err := object.GetTree(l.st, c.TreeHash)
	if err != nil {
		return nil, err
	}
	e, err := root.FindEntry(path)
	switch {
	case errors.Is(err, object.ErrEntryNotFound), errors.Is(err, object.ErrDirectoryNotFound):
		return nil, fs.ErrNotExist
	case err != nil:
		return nil, err
	case e.Mode != filemode.Regular && e.Mode != filemode.Executable && e.Mode != filemode.Deprecated:
		return nil, fmt.Errorf("%w: it is a link or a directory", ErrNoFile)
	}
	blob, err := object.GetBlob(l.st, e.Hash)
	if err != nil {
		return nil, err
	}
	if blob.Size > limit {
		return nil, fmt.Errorf("%w: it is larger than %d bytes", ErrNoFile, limit)
	}
	r, err := blob.Reader()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
