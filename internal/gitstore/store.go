package gitstore

import (
	"bytes"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// refPrefix is where commits are recorded that are complete in the store.
const refPrefix = "refs/lockstep/"

// Store is a directory of objects, in the form of a bare repository that git
// understands too. It is a cache: it may be deleted at any time, and nothing in
// it is made to survive a loss of power. Only one process may change it at a time.
type Store struct {
	dir string
	mu  sync.Mutex // held while packs appear or are opened
}

// Open makes sure that there is a store in dir; see [Store.Init].
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir}
	return s, s.Init()
}

// Init puts back what is missing of the empty store, and removes what receiving
// that was cut short left.
func (s *Store) Init() error {
	if err := s.init(); err != nil {
		return fmt.Errorf("cannot create the git store: %w", err)
	}
	return nil
}

func (s *Store) init() error {
	for _, dir := range []string{"objects/pack", refPrefix} {
		if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o755); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{
		"HEAD":   "ref: refs/heads/none\n",
		"config": "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
	} {
		path := filepath.Join(s.dir, name)
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	left, err := filepath.Glob(filepath.Join(escape(s.dir), "objects", "pack", "tmp_*"))
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// escape takes from the characters of a path their meaning in a pattern.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// Reset makes the store empty. Views of it go on.
func (s *Store) Reset() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("cannot remove the git store to start afresh: %w", err)
	}
	return s.Init()
}

// View is what the store holds at one moment. What happens to the store later
// does not touch it. Its methods may be called by several goroutines at once.
type View struct {
	packs []*pack
	reader
}

// View opens what the store holds. It fails with [ErrCorrupt] when that is seen
// at once not to be whole.
func (s *Store) View() (*View, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := &View{reader: reader{temp: s.temp}}
	if err := s.open(v); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

func (s *Store) open(v *View) error {
	names, err := filepath.Glob(filepath.Join(escape(s.dir), "objects", "pack", "pack-*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if stem, ok := strings.CutSuffix(name, ".pack"); ok && !slices.Contains(names, stem+".idx") {
			return corrupt("%s has no index", filepath.Base(name))
		}
		if !strings.HasSuffix(name, ".idx") {
			continue
		}
		p, err := openPack(strings.TrimSuffix(name, ".idx"))
		if err != nil {
			return err
		}
		p.base = func(h Hash) (*pack, int64, error) {
			// Its own first: two packs may each hold what the other builds on.
			if at, ok := p.index.find(h); ok {
				return p, at, nil
			}
			return v.find(h)
		}
		v.packs = append(v.packs, p)
	}
	// What is asked for is mostly in the largest.
	slices.SortFunc(v.packs, func(a, b *pack) int { return b.index.count() - a.index.count() })
	return nil
}

func openPack(stem string) (*pack, error) {
	name := filepath.Base(stem)
	b, err := os.ReadFile(stem + ".idx")
	if err != nil {
		return nil, fmt.Errorf("cannot read the index of a pack: %w", err)
	}
	x, err := parseIndex(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f, err := os.Open(stem + ".pack")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, corrupt("%s.pack is missing", name)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read a pack: %w", err)
	}
	p := &pack{file: f, index: x}
	// A pack that is cut short does not end in the checksum that its index repeats.
	var sum [sha1.Size]byte
	info, err := f.Stat()
	if err == nil {
		p.end = info.Size() - trailer
		_, err = f.ReadAt(sum[:], max(p.end, 0))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		f.Close()
		return nil, fmt.Errorf("cannot read a pack: %w", err)
	}
	if p.end < 0 || sum != x.packSum {
		f.Close()
		return nil, corrupt("%s.pack is not what its index is of", name)
	}
	return p, nil
}

// Close frees what the view holds open.
func (v *View) Close() {
	for _, p := range v.packs {
		p.file.Close()
	}
}

// Packs returns how many files the objects are in.
func (v *View) Packs() int { return len(v.packs) }

func (v *View) find(h Hash) (*pack, int64, error) {
	for _, p := range v.packs {
		if at, ok := p.index.find(h); ok {
			return p, at, nil
		}
	}
	return nil, 0, fmt.Errorf("%w: %s", ErrMissing, h)
}

// Has tells whether the object is present, without reading it.
func (v *View) Has(h Hash) bool {
	_, _, err := v.find(h)
	return err == nil
}

// Order compares objects by where they are: read in this order, what builds on
// one another is read together. Objects that are missing come first.
func (v *View) Order(h Hash) (pack int, at int64) {
	for i, p := range v.packs {
		if at, ok := p.index.find(h); ok {
			return i, at
		}
	}
	return -1, 0
}

// Read opens an object. Errors: [ErrMissing], [ErrCorrupt], and those of the
// system.
func (v *View) Read(h Hash) (*Content, error) {
	p, at, err := v.find(h)
	if err != nil {
		return nil, err
	}
	c, err := v.object(place{p, at})
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", h, err)
	}
	own := *c // that of the cache is shared
	if err := own.verify(h); err != nil {
		own.Close()
		return nil, err
	}
	return &own, nil
}

// ReadAll returns the content of an object of kind k that has at most limit
// bytes. Errors: also [ErrTooLarge], and [ErrKind].
func (v *View) ReadAll(h Hash, k Kind, limit int64) ([]byte, error) {
	c, err := v.Read(h)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if c.Kind != k {
		return nil, fmt.Errorf("%w: object %s is a %s, expected a %s", ErrKind, h, c.Kind, k)
	}
	if c.Size > limit {
		return nil, fmt.Errorf("%w: %s %s has %d bytes, more than the %d that are supported", ErrTooLarge, k, h, c.Size, limit)
	}
	if c.bytes != nil {
		return bytes.Clone(c.bytes), nil
	}
	var b bytes.Buffer
	_, err = c.WriteTo(&b)
	return b.Bytes(), err
}

// ErrKind tells that an object is not of the kind that was asked for.
var ErrKind = errors.New("another kind of object")

// temp makes a file without a name.
func (s *Store) temp() (*os.File, error) {
	f, err := os.CreateTemp(filepath.Join(s.dir, "objects", "pack"), "tmp_object_*")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// Record notes that a commit is complete in the store. A group, which is a file
// name or "", keeps commits apart from others.
func (s *Store) Record(group string, h Hash) error {
	path := filepath.Join(s.dir, refPrefix, group, h.String())
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if b, err := os.ReadFile(path); err == nil && string(b) == h.String()+"\n" {
		return nil
	}
	return replace(path, h.String()+"\n")
}

// Recorded returns the commits that are recorded in a group, those that were last,
// first.
func (s *Store) Recorded(group string) ([]Hash, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, refPrefix, group))
	if err != nil && (group == "" || !errors.Is(err, fs.ErrNotExist)) {
		return nil, err
	}
	type dated struct {
		h  Hash
		at int64
	}
	var all []dated
	for _, e := range entries {
		info, err := e.Info()
		if h, wrong := ParseHash(e.Name()); wrong == nil && err == nil && info.Size() == 41 {
			all = append(all, dated{h, info.ModTime().UnixNano()})
		}
	}
	slices.SortFunc(all, func(a, b dated) int {
		if a.at != b.at {
			return int(min(max(b.at-a.at, -1), 1))
		}
		return strings.Compare(a.h.String(), b.h.String())
	})
	hashes := make([]Hash, len(all))
	for i := range all {
		hashes[i] = all[i].h
	}
	return hashes, nil
}

// AddShallow notes, for git's sake, which commits came without their parents and
// of which the parents came later.
func (s *Store) AddShallow(cut, uncut []Hash) error {
	path := filepath.Join(s.dir, "shallow")
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		name := strings.TrimSpace(line)
		if _, err := ParseHash(name); err == nil { // or else it is damaged, which harms nobody here
			names = append(names, name)
		}
	}
	for _, h := range cut {
		names = append(names, h.String())
	}
	names = slices.DeleteFunc(names, func(n string) bool {
		return slices.ContainsFunc(uncut, func(h Hash) bool { return h.String() == n })
	})
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 {
		return nil // an empty file means another thing to git
	}
	return replace(path, strings.Join(names, "\n")+"\n")
}

// replace writes a file at once.
func replace(path, text string) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
