package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/lfs"
	"github.com/lockstep-deploy/lockstep/internal/snapshot"
)

// largeFiles gets the files in Git LFS of one commit that is written. They stay in the
// store until another one is.
type largeFiles struct {
	from *snapshot.Repo
	sha  string

	mu   sync.Mutex
	used map[string]bool // by SHA-256
}

// write writes the content of the file at path, which p stands for.
func (l *largeFiles) write(ctx context.Context, path string, p lfs.Pointer, to io.Writer) error {
	l.mu.Lock()
	l.used[p.OID] = true
	l.mu.Unlock()
	f, err := l.from.Large(ctx, l.sha, path, p)
	if errors.Is(err, lfs.ErrNoProgram) {
		return fault.Errorf(api.ReasonBadTree, "it is kept in Git LFS, and its content cannot be had here: install git-lfs (and git), or put the file itself into git (git lfs migrate export --include=%s)",
			strconv.Quote(path))
	}
	if err != nil {
		return fmt.Errorf("it is kept in Git LFS: %w", err)
	}
	defer f.Close()
	_, err = io.Copy(to, struct{ io.Reader }{f})
	return err
}

// prune removes what was got for other commits.
func (l *largeFiles) prune() error {
	return l.from.PruneLarge(func(oid string, _ time.Time) bool { return l.used[oid] })
}
