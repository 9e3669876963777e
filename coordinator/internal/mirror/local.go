package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/lockstep-deploy/lockstep/internal/atomicfile"
	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

// local is the copy on disk, open for one call: between calls it costs neither
// memory nor files.
type local struct {
	dir  string
	st   *filesystem.Storage
	refs map[string]plumbing.Hash // as last fetched
	ends map[plumbing.Hash]bool   // where the remote's own history is cut off
}

func openLocal(dir string) *local {
	st := filesystem.NewStorageWithOptions(osfs.New(dir, osfs.WithBoundOS()), cache.NewObjectLRU(cache.MiByte),
		filesystem.Options{KeepDescriptors: true})
	return &local{dir: dir, st: st}
}

func (l *local) close() error { return l.st.Close() }

// marker is the first line of the configuration of a mirror, by which a
// directory is known to be one.
const marker = "# Kept by the coordinator of Lockstep, who deletes and fetches it anew at need.\n"

// configOf is the configuration of a mirror of the remote, for whoever looks at
// it with git. It holds no credentials.
func configOf(r gitremote.Remote) string {
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(r.String())
	return marker + "[core]\n\trepositoryformatversion = 0\n\tbare = true\n[remote \"origin\"]\n\turl = \"" + quoted + "\"\n"
}

// prepare makes sure that the directory is a mirror of the remote.
func (m *Mirror) prepare() error {
	for _, left := range []string{m.dir + ".next", m.dir + ".old"} {
		if err := removeMirror(left); err != nil {
			return err
		}
	}
	config, err := os.ReadFile(filepath.Join(m.dir, "config"))
	switch {
	case err == nil && string(config) == configOf(m.remote):
		return openLocal(m.dir).sweep()
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := removeMirror(m.dir); err != nil {
		return err
	}
	next := m.dir + ".next"
	if err := m.create(next); err != nil {
		return err
	}
	return os.Rename(next, m.dir)
}

// removeMirror deletes a mirror, or an empty directory, and nothing else.
func removeMirror(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	config, err := os.ReadFile(filepath.Join(dir, "config"))
	if len(entries) > 0 && (err != nil || !strings.HasPrefix(string(config), marker)) {
		return fmt.Errorf("%s exists and is no mirror; move it away", dir)
	}
	return os.RemoveAll(dir)
}

// create makes an empty mirror.
func (m *Mirror) create(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// The marker first: what is cut short after it can be deleted.
	if err := atomicfile.Write(filepath.Join(dir, "config"), []byte(configOf(m.remote)), 0o600); err != nil {
		return err
	}
	for _, sub := range []string{"objects/pack", "refs"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return err
		}
	}
	return atomicfile.Write(filepath.Join(dir, "HEAD"), []byte("ref: refs/heads/main\n"), 0o600)
}

// rebuild fetches everything into a new copy and puts it in place of the old,
// which stays when that fails.
func (m *Mirror) rebuild(ctx context.Context) (err error) {
	next, old := m.dir+".next", m.dir+".old"
	if err := errors.Join(removeMirror(next), removeMirror(old)); err != nil {
		return err
	}
	if err := m.create(next); err != nil {
		return err
	}
	l := openLocal(next)
	if err := errors.Join(m.fetch(ctx, l), l.close()); err != nil {
		return errors.Join(err, os.RemoveAll(next))
	}
	if err := os.Rename(m.dir, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(next, m.dir); err != nil {
		return err
	}
	return os.RemoveAll(old)
}

// sweep deletes what a fetch that was cut short left.
func (l *local) sweep() error {
	var errs []error
	for _, pattern := range []string{"objects/pack/tmp_*", "*" + atomicfile.Suffix} {
		names, err := filepath.Glob(filepath.Join(escape(l.dir), pattern))
		errs = append(errs, err)
		for _, name := range names {
			errs = append(errs, os.Remove(name))
		}
	}
	return errors.Join(errs...)
}

// escape takes from the characters of a path their meaning in a pattern.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// packs returns how many pieces the copy is in.
func (l *local) packs() (int, error) {
	packs, err := l.st.ObjectPacks()
	return len(packs), l.check(err)
}

// refsHeader is the first line of the file of refs. The file says nothing of
// what tags point at.
const refsHeader = "# pack-refs with: sorted\n"

// saveRefs replaces all refs at once, in the form that git reads. Refs are
// never files of their own: their names come from the remote.
func (l *local) saveRefs(refs map[string]plumbing.Hash) error {
	var b strings.Builder
	b.WriteString(refsHeader)
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		fmt.Fprintf(&b, "%s %s\n", refs[name], name)
	}
	if err := atomicfile.Write(filepath.Join(l.dir, "packed-refs"), []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("cannot write down the branches: %w", err)
	}
	l.refs = maps.Clone(refs)
	return nil
}

func (l *local) loadRefs() error {
	text, err := os.ReadFile(filepath.Join(l.dir, "packed-refs"))
	if errors.Is(err, fs.ErrNotExist) {
		text, err = []byte(refsHeader), nil // nothing was fetched yet
	}
	if err != nil {
		return err
	}
	if l.refs, err = parseRefs(string(text)); err != nil {
		return &damage{err}
	}
	cut, err := l.st.Shallow()
	if err != nil {
		return l.check(err)
	}
	l.ends = hashSet(cut)
	return nil
}

func parseRefs(text string) (map[string]plumbing.Hash, error) {
	refs := map[string]plumbing.Hash{}
	rest, ok := strings.CutPrefix(text, refsHeader)
	if !ok || (rest != "" && !strings.HasSuffix(rest, "\n")) {
		return nil, errors.New("the file of branches is not whole")
	}
	for line := range strings.Lines(rest) {
		sha, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok || !plumbing.IsHash(sha) || !mirrored(name) {
			return nil, errors.New("the file of branches is garbled")
		}
		refs[name] = plumbing.NewHash(sha)
	}
	return refs, nil
}

// cut notes where the remote's own history is cut off.
func (l *local) cut(cut []plumbing.Hash) error {
	l.ends = hashSet(cut)
	if len(cut) == 0 {
		return nil
	}
	return l.st.SetShallow(cut)
}

func hashSet(hs []plumbing.Hash) map[plumbing.Hash]bool {
	set := make(map[plumbing.Hash]bool, len(hs))
	for _, h := range hs {
		set[h] = true
	}
	return set
}

// has tells whether the copy has the object.
func (l *local) has(h plumbing.Hash) (bool, error) {
	err := l.st.HasEncodedObject(h)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return false, nil
	}
	return err == nil, l.check(err)
}

// verify tells whether what is not found in the copy may be missing by damage.
func (l *local) verify() error {
	const most = 100
	checked := 0
	for name, h := range l.refs {
		if _, err := l.st.EncodedObject(plumbing.AnyObject, h); err != nil {
			return l.check(fmt.Errorf("cannot read %s, where %s is: %w", h, name, err))
		}
		if checked++; checked == most {
			break
		}
	}
	return nil
}

// read returns a commit that must be there.
func (l *local) read(h plumbing.Hash) (*object.Commit, error) {
	c, err := object.GetCommit(l.st, h)
	if err != nil {
		return nil, l.check(fmt.Errorf("cannot read commit %s: %w", h, err))
	}
	if l.ends[h] {
		c.ParentHashes = nil
	}
	return c, nil
}

// check tells damage of the copy from an error of the system, which fetching
// anew would not mend.
func (l *local) check(err error) error {
	var errno syscall.Errno
	if err == nil || (errors.As(err, &errno) && errno != syscall.ENOENT) {
		return err
	}
	return &damage{err}
}
