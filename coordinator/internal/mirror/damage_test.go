package mirror

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/internal/gitremote"
)

// damageAll changes every file of the mirror that matches.
func damageAll(t *testing.T, m *Mirror, pattern string, change func(path string) error) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(m.dir, pattern))
	if err != nil || len(names) == 0 {
		t.Fatalf("nothing matches %s: %v", pattern, err)
	}
	for _, name := range names {
		if err := os.Chmod(name, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := change(name); err != nil {
			t.Fatal(err)
		}
	}
}

func truncate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, info.Size()/2)
}

// zero leaves the size, as a file system may after a loss of power.
func zero(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, make([]byte, info.Size()), 0o600)
}

func empty(path string) error { return os.Truncate(path, 0) }

func scramble(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for i := range data {
		if i > 12 && i%3 == 0 {
			data[i] ^= 0x5a
		}
	}
	return os.WriteFile(path, data, 0o600)
}

func garble(path string) error { return os.WriteFile(path, []byte("garbage\n"), 0o600) }

// A damaged mirror mends itself, whatever is asked of it first.
func TestDamageIsMended(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	first := o.chain("refs/heads/main", "", 10)
	second := o.chain("refs/heads/main", first, 10)
	for name, c := range map[string]struct {
		pattern string
		change  func(string) error
	}{
		"a pack is cut short":           {"objects/pack/*.pack", truncate},
		"a pack is empty":               {"objects/pack/*.pack", empty},
		"a pack is full of zeros":       {"objects/pack/*.pack", zero},
		"a pack is scrambled":           {"objects/pack/*.pack", scramble},
		"a pack is gone":                {"objects/pack/*.pack", os.Remove},
		"an index is cut short":         {"objects/pack/*.idx", truncate},
		"an index is empty":             {"objects/pack/*.idx", empty},
		"an index is full of zeros":     {"objects/pack/*.idx", zero},
		"an index is scrambled":         {"objects/pack/*.idx", scramble},
		"an index is gone":              {"objects/pack/*.idx", os.Remove},
		"all objects are gone":          {"objects", os.RemoveAll},
		"the branches are garbled":      {"packed-refs", garble},
		"the branches are cut short":    {"packed-refs", truncate},
		"the branches are full of zero": {"packed-refs", zero},
	} {
		t.Run(name, func(t *testing.T) {
			for what, ask := range map[string]func(m *Mirror) error{
				"Head": func(m *Mirror) error {
					c, err := m.Head(t.Context(), "main")
					if err == nil && c.SHA != second {
						return errors.New("the head is " + c.SHA)
					}
					return err
				},
				"Resolve": func(m *Mirror) error {
					c, err := m.Resolve(t.Context(), first[:10])
					if err == nil && c.SHA != first {
						return errors.New("it is " + c.SHA)
					}
					return err
				},
				"IsAncestor": func(m *Mirror) error {
					is, err := m.IsAncestor(t.Context(), first, second)
					if err == nil && !is {
						return errors.New("it is said to be none")
					}
					return err
				},
			} {
				m := openTest(t, o.dir)
				head(t, m)
				damageAll(t, m, c.pattern, c.change)
				if err := ask(m); err != nil {
					t.Errorf("%s: %v", what, err)
				}
				if sha := head(t, m); sha != second {
					t.Errorf("after %s: head %s, expected %s", what, sha, second)
				}
				wantAncestor(t, m, first, second, true)
				wantAncestor(t, m, second, first, false)
			}
		})
	}
}

func TestDamageWhileTheRemoteIsAway(t *testing.T) {
	o := newOrigin(t)
	sha := o.chain("refs/heads/main", "", 10)
	m := openTest(t, o.dir)
	head(t, m)
	damageAll(t, m, "objects/pack/*.pack", zero)
	if err := os.Rename(o.dir, o.dir+".away"); err != nil {
		t.Fatal(err)
	}
	_, err := m.Resolve(t.Context(), sha)
	if !errors.Is(err, gitremote.ErrNoRepository) || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), m.dir) {
		t.Errorf("%v; expected the damage, its place, and what keeps it from being mended", err)
	}
	if err := os.Rename(o.dir+".away", o.dir); err != nil {
		t.Fatal(err)
	}
	if c, err := m.Resolve(t.Context(), sha); err != nil || c.SHA != sha {
		t.Errorf("after the remote came back: %v, %v", c, err)
	}
}

// Each push leaves a pack; they must not add up for ever.
func TestManyPushes(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	first := o.chain("refs/heads/main", "", 1)
	m := openTest(t, o.dir)
	m.packs = 4
	last := first
	for range 10 {
		last = o.chain("refs/heads/main", last, 1)
		if sha := head(t, m); sha != last {
			t.Fatalf("head %s, expected %s", sha, last)
		}
		packs, err := filepath.Glob(filepath.Join(m.dir, "objects/pack/*.pack"))
		if err != nil || len(packs) > m.packs {
			t.Errorf("%d packs, %v; expected %d at most", len(packs), err, m.packs)
		}
	}
	wantAncestor(t, m, first, last, true)
	for _, left := range []string{".next", ".old"} {
		if _, err := os.Stat(m.dir + left); err == nil {
			t.Errorf("%s is left", m.dir+left)
		}
	}
}

// What a crash left in the middle of anything does not keep a mirror from use.
func TestOpenAfterACrash(t *testing.T) {
	o := newOrigin(t)
	sha := o.chain("refs/heads/main", "", 3)
	for name, crash := range map[string]func(t *testing.T, m *Mirror){
		"while it was made": func(t *testing.T, m *Mirror) {
			if err := os.Rename(m.dir, m.dir+".next"); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(filepath.Join(m.dir+".next", "objects")); err != nil {
				t.Fatal(err)
			}
		},
		"while the new one took its place": func(t *testing.T, m *Mirror) {
			if err := os.Rename(m.dir, m.dir+".old"); err != nil {
				t.Fatal(err)
			}
		},
		"while it fetched": func(t *testing.T, m *Mirror) {
			for _, name := range []string{"objects/pack/tmp_pack_123", "packed-refs.tmp"} {
				if err := os.WriteFile(filepath.Join(m.dir, name), []byte("half"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := openTest(t, o.dir)
			head(t, m)
			crash(t, m)
			m, err := Open(m.dir, o.dir, gitremote.Login{})
			if err != nil {
				t.Fatal(err)
			}
			if got := head(t, m); got != sha {
				t.Errorf("head %s, expected %s", got, sha)
			}
			for _, pattern := range []string{m.dir + ".next", m.dir + ".old", m.dir + "/objects/pack/tmp_*", m.dir + "/*.tmp"} {
				if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
					t.Errorf("left behind: %v, %v", left, err)
				}
			}
		})
	}
}
