package release_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lockstep-deploy/lockstep/agent/internal/release"
)

// model is what must be true of a store, whatever happened to it.
type model struct {
	root    string
	store   *release.Store
	staged  map[string]bool
	order   []string // present ones, least recently used first
	current string
}

func (m *model) use(id string) {
	m.order = append(slices.DeleteFunc(m.order, func(o string) bool { return o == id }), id)
}

func (m *model) reopen(t *rapid.T) {
	s, err := release.Open(m.root, "")
	if err != nil {
		t.Fatalf("cannot open again: %v", err)
	}
	m.store, m.staged = s, map[string]bool{}
}

func (m *model) path(name string) string { return filepath.Join(m.root, "releases", name) }

// fill writes a release of two files; only with both it is complete.
func fill(dir, id string) error {
	if err := os.WriteFile(filepath.Join(dir, "first"), []byte(id), 0o644); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "sub", "last"), []byte(id), 0o644)
}

func complete(dir, id string) bool {
	first, _ := os.ReadFile(filepath.Join(dir, "first"))
	last, _ := os.ReadFile(filepath.Join(dir, "sub", "last"))
	return string(first) == id && string(last) == id
}

func (m *model) check(t *rapid.T) {
	got, err := m.store.Present()
	if err != nil {
		t.Fatal(err)
	}
	if want := slices.Sorted(slices.Values(m.order)); !slices.Equal(got, want) {
		t.Fatalf("present %v, want %v", got, want)
	}
	for _, id := range got {
		if !complete(m.store.Path(id), id) {
			t.Fatalf("release %s is not complete", id)
		}
	}
	current, err := m.store.Instance("").Current()
	if err != nil || current != m.current {
		t.Fatalf("current %q, %v; want %q", current, err, m.current)
	}
	if current != "" && !complete(filepath.Join(m.root, "current"), current) {
		t.Fatalf("current leads to no complete release")
	}
}

func TestTheStoreSurvivesAnySequence(t *testing.T) {
	ids := rapid.SampledFrom([]string{"aa-01", "bb-02", "cc-03", "dd-04", "ee-05"})
	rapid.Check(t, func(t *rapid.T) {
		root, err := os.MkdirTemp("", "release")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(root)
		m := &model{root: root}
		m.reopen(t)
		anyPresent := func() string {
			if len(m.order) == 0 {
				t.Skip("nothing present")
			}
			return rapid.SampledFrom(m.order).Draw(t, "present")
		}
		stage := func() string {
			id := ids.Draw(t, "id")
			dir, err := m.store.Stage(id)
			if err != nil {
				t.Fatal(err)
			}
			if err := fill(dir, id); err != nil {
				t.Fatal(err)
			}
			m.staged[id] = true
			return id
		}
		t.Repeat(map[string]func(*rapid.T){
			"": m.check,
			"stage": func(*rapid.T) {
				stage()
			},
			"commit": func(t *rapid.T) {
				id := ids.Draw(t, "id")
				err := m.store.Commit(id)
				if there := slices.Contains(m.order, id); (err == nil) != (m.staged[id] || there) {
					t.Fatalf("Commit(%s): %v; staged %v, present %v", id, err, m.staged[id], there)
				} else if err == nil && !there {
					m.use(id)
				}
				delete(m.staged, id)
			},
			"discard": func(t *rapid.T) {
				id := ids.Draw(t, "id")
				if err := m.store.Discard(id); err != nil {
					t.Fatal(err)
				}
				delete(m.staged, id)
			},
			"switch": func(t *rapid.T) {
				id := anyPresent()
				if err := m.store.Instance("").Switch(id); err != nil {
					t.Fatal(err)
				}
				m.current = id
				m.use(id)
			},
			"unlink": func(t *rapid.T) {
				if err := m.store.Instance("").Switch(""); err != nil {
					t.Fatal(err)
				}
				m.current = ""
			},
			"prune": func(t *rapid.T) {
				keep := rapid.SliceOfDistinct(ids, rapid.ID).Draw(t, "keep")
				recent := rapid.IntRange(0, 3).Draw(t, "recent")
				removed, err := m.store.Prune(keep, recent)
				if err != nil {
					t.Fatal(err)
				}
				var want []string
				for i := len(m.order) - 1; i >= 0; i-- {
					id := m.order[i]
					if id == m.current || slices.Contains(keep, id) {
						continue
					}
					if recent > 0 {
						recent--
						continue
					}
					want = append(want, id)
				}
				slices.Sort(want)
				if !slices.Equal(removed, want) {
					t.Fatalf("pruned %v, want %v", removed, want)
				}
				m.order = slices.DeleteFunc(m.order, func(id string) bool { return slices.Contains(want, id) })
			},
			"crash while idle or staging": func(t *rapid.T) {
				m.reopen(t)
			},
			"crash after the rename of a commit": func(t *rapid.T) {
				id := stage()
				if slices.Contains(m.order, id) {
					t.Skip("already present")
				}
				if err := os.Rename(m.path(".staging-"+id), m.path(id)); err != nil {
					t.Fatal(err)
				}
				m.use(id)
				m.reopen(t)
			},
			"crash with the new link made": func(t *rapid.T) {
				if err := os.Symlink("releases/"+anyPresent(), filepath.Join(root, ".current-new")); err != nil {
					t.Fatal(err)
				}
				m.reopen(t)
			},
			"crash while removing": func(t *rapid.T) {
				id := anyPresent()
				if id == m.current {
					t.Skip("never removed")
				}
				if err := os.Rename(m.path(id), m.path(".drop-"+id)); err != nil {
					t.Fatal(err)
				}
				if err := os.Remove(filepath.Join(m.path(".drop-"+id), "first")); err != nil {
					t.Fatal(err)
				}
				m.order = slices.DeleteFunc(m.order, func(o string) bool { return o == id })
				m.reopen(t)
			},
			"crash while recording the order": func(t *rapid.T) {
				if err := os.WriteFile(m.path(".order.tmp"), []byte("aa"), 0o644); err != nil {
					t.Fatal(err)
				}
				m.reopen(t)
			},
		})
	})
}

const crashDir = "LOCKSTEP_TEST_CRASH_DIR"

// TestKilledAtAnyInstant kills a real process that deploys as fast as it can.
func TestKilledAtAnyInstant(t *testing.T) {
	if dir := os.Getenv(crashDir); dir != "" {
		deployForever(dir)
	}
	root := t.TempDir()
	const recent = 2
	for round := range 12 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledAtAnyInstant$")
		cmd.Env = append(os.Environ(), crashDir+"="+root, fmt.Sprintf("ROUND=%d", round))
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		var committed []string
		var switched string
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			// The process runs on while it is being killed; each round stops it at
			// another step.
			if n == 6+round {
				must(t, cmd.Process.Kill())
			}
			what, id, _ := strings.Cut(lines.Text(), " ")
			switch what {
			case "committed":
				committed = append(committed, id)
			case "switched":
				switched = id
			default:
				t.Errorf("the process says: %s", lines.Text())
			}
		}
		_ = cmd.Wait()
		if t.Failed() {
			return
		}

		s := open(t, root)
		ids := present(t, s)
		for _, id := range ids {
			if !complete(s.Path(id), id) {
				t.Errorf("round %d: release %s is not complete", round, id)
			}
		}
		current, err := s.Instance("").Current()
		must(t, err)
		if current < switched {
			t.Errorf("round %d: current is %s after it was switched to %s", round, current, switched)
		}
		if !complete(filepath.Join(root, "current"), current) {
			t.Errorf("round %d: current leads to no complete release", round)
		}
		for _, id := range committed[max(0, len(committed)-recent):] {
			if !slices.Contains(ids, id) {
				t.Errorf("round %d: release %s vanished; present %v", round, id, ids)
			}
		}
		hidden, err := filepath.Glob(filepath.Join(root, "releases", ".[^o]*"))
		if err != nil || len(hidden) != 0 {
			t.Errorf("round %d: left behind %v, %v", round, hidden, err)
		}
	}
}

func deployForever(root string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	}
	s, err := release.Open(root, "")
	fail(err)
	for n := range 100000 {
		// Ids sort in the order in which they are made.
		id := fmt.Sprintf("%03s-%06d", os.Getenv("ROUND"), n)
		dir, err := s.Stage(id)
		fail(err)
		fail(fill(dir, id))
		fail(s.Commit(id))
		fmt.Println("committed", id)
		fail(s.Instance("").Switch(id))
		fmt.Println("switched", id)
		_, err = s.Prune(nil, 2)
		fail(err)
	}
	os.Exit(0)
}
