package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/internal/store"
	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// raw runs statements on the file while no store has it open.
func raw(t *testing.T, path, text string) {
	t.Helper()
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(text); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenAgain(t *testing.T) {
	// Characters that mean something in a URI must not.
	path := filepath.Join(t.TempDir(), "a b?mode=memory&x=%41#é.db")
	s := openTest(t, path)
	if _, err := s.Commit(t.Context(), stepOf(0)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	state, v, err := openTest(t, path).Load(t.Context(), "web")
	if err != nil || v != 1 || state.Generation != 1 {
		t.Errorf("after opening again: version %d, generation %d, %v", v, state.Generation, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, path string) string // returns the path to open
		want    []string
	}{
		"a directory that is missing": {
			func(t *testing.T, path string) string { return filepath.Join(path, "lockstep.db") },
			[]string{"directory", "does not exist", "create it"},
		},
		"a directory that is a file": {
			func(t *testing.T, path string) string {
				writeFile(t, path, "x")
				return filepath.Join(path, "lockstep.db")
			},
			[]string{"not a directory"},
		},
		"a path that is a directory": {
			func(t *testing.T, path string) string { return filepath.Dir(path) },
			[]string{"is a directory"},
		},
		"what is no database": {
			func(t *testing.T, path string) string {
				writeFile(t, path, strings.Repeat("not a database ", 100))
				return path
			},
			[]string{"not a database", "restore a backup"},
		},
		"another program's database": {
			func(t *testing.T, path string) string {
				raw(t, path, `CREATE TABLE songs (title TEXT)`)
				return path
			},
			[]string{"some other program"},
		},
		"a newer schema": {
			func(t *testing.T, path string) string {
				if err := openTest(t, path).Close(); err != nil {
					t.Fatal(err)
				}
				raw(t, path, `UPDATE schema_version SET version = 99`)
				return path
			},
			[]string{"newer version of Lockstep", "99", "restore a backup"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := c.prepare(t, filepath.Join(t.TempDir(), "lockstep.db"))
			s, err := Open(t.Context(), path)
			if err == nil {
				_ = s.Close()
				t.Fatal("it was opened")
			}
			for _, want := range append(c.want, "cannot open the store "+path) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Two coordinators that walk one fleet would drain two targets at once.
func TestSecondCoordinatorIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lockstep.db")
	s := openTest(t, path)
	_, err := Open(t.Context(), path)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("another coordinator is using it: process %d holds the lock; stop that one", os.Getpid())) {
		t.Fatalf("opening it a second time: %v", err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("the first one no longer works: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openTest(t, path)
}

// A refused open must leave the store free for the next.
func TestFailedOpenGivesTheLockFree(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lockstep.db")
	writeFile(t, path, strings.Repeat("not a database ", 100))
	if _, err := Open(t.Context(), path); err == nil {
		t.Fatal("it was opened")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	openTest(t, path)
}

func TestFilesAreNobodyElses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lockstep.db")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := openTest(t, path)
	if _, err := s.Commit(t.Context(), stepOf(0)); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(path + "*")
	if err != nil || len(names) != 4 {
		t.Fatalf("files %v, %v; expected the database, its log, its index, and the lock", names, err)
	}
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", name, info.Mode(), err)
		}
	}
}

// The promise to survive the loss of power rests on these settings.
func TestSettings(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "lockstep.db"))
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"} {
		var got string
		err := do(t.Context(), s, func(w *writer) error { return w.queryRow("PRAGMA " + pragma).Scan(&got) })
		if err != nil || got != want {
			t.Errorf("%s is %s, %v; expected %s", pragma, got, err, want)
		}
	}
	var one int
	if err := s.queryRow(t.Context(), `DELETE FROM pools RETURNING 1`).Scan(&one); err == nil || !strings.Contains(err.Error(), "readonly") {
		t.Errorf("a reading connection writes: %v", err)
	}
}

// do runs f as one call.
func do(ctx context.Context, s *Store, f func(*writer) error) error {
	return s.writer.do(&job{ctx: ctx, done: make(chan error, 1), run: f})
}

func TestReadMigrations(t *testing.T) {
	if steps, err := readMigrations(migrations); err != nil || len(steps) == 0 {
		t.Fatalf("%d migrations, %v", len(steps), err)
	}
	for name, files := range map[string][]string{
		"a gap":          {"0001_a.sql", "0003_b.sql"},
		"a number twice": {"0001_a.sql", "0001_b.sql"},
		"no number":      {"first.sql"},
	} {
		fsys := fstest.MapFS{}
		for _, f := range files {
			fsys["migrations/"+f] = &fstest.MapFile{}
		}
		if _, err := readMigrations(fsys); err == nil {
			t.Errorf("migrations with %s were accepted", name)
		}
	}
}

// A call that cannot be stored must not take those with it that share its
// transaction.
func TestAFailingCallFailsAlone(t *testing.T) {
	w := idleWriter(t)
	for name, fail := range map[string]func() error{
		"it returns an error": func() error {
			_, err := w.exec(`INSERT INTO pings (id, at) VALUES (1, 'undone')`)
			return errors.Join(errors.New("no"), err)
		},
		"it breaks the transaction": func() error {
			_, err := w.exec(`ROLLBACK`)
			return errors.Join(errors.New("no"), err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			jobs := make([]*job, 5)
			for i := range jobs {
				jobs[i] = &job{ctx: t.Context(), done: make(chan error, 1), run: func(w *writer) error {
					if i == 2 {
						return fail()
					}
					_, err := w.exec(`INSERT INTO deliveries (`+deliveryColumns+`) VALUES (?, '', '', '', '', '', NULL, '[]', '', '', '[]')`, fmt.Sprint(name, i))
					return err
				}}
			}
			w.commit(jobs)
			for i, j := range jobs {
				if err := <-j.done; (err != nil) != (i == 2) {
					t.Errorf("call %d: %v", i, err)
				}
			}
			var n, pings int
			err := w.queryRow(`SELECT (SELECT count(*) FROM deliveries WHERE id LIKE ?), (SELECT count(*) FROM pings)`, name+"%").Scan(&n, &pings)
			if err != nil || n != 4 || pings != 0 {
				t.Errorf("%d calls stored, %d of the failing one, %v; expected 4 and 0", n, pings, err)
			}
		})
	}
}

// A call whose caller has given up before its turn must not happen.
func TestGivenUpBeforeItsTurn(t *testing.T) {
	w := idleWriter(t)
	ctx, cancel := context.WithCancel(t.Context())
	ran := false
	j := &job{ctx: ctx, done: make(chan error, 1), run: func(*writer) error { ran = true; return nil }}
	gone := make(chan error, 1)
	go func() { gone <- w.do(j) }()
	batch := []*job{<-w.jobs} // it waits in a batch behind a slow one
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the call returned %v", err)
	}
	w.commit(batch)
	if ran {
		t.Error("it ran after its caller had been told that it would not")
	}

	// One that waits for its batch to begin is not waited for either.
	held, release := make(chan struct{}), make(chan struct{})
	s := openTest(t, filepath.Join(t.TempDir(), "lockstep.db"))
	slow := make(chan error, 1)
	go func() {
		slow <- do(context.Background(), s, func(*writer) error { close(held); <-release; return nil })
	}()
	<-held
	ctx, cancel = context.WithCancel(t.Context())
	go func() {
		_, _, err := s.Receive(ctx, store.Delivery{ID: "1"})
		gone <- err
	}()
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the call returned %v", err)
	}
	close(release)
	if err := <-slow; err != nil {
		t.Error(err)
	}
	if ds, err := s.Deliveries(t.Context(), 0); err != nil || len(ds) != 0 {
		t.Errorf("stored nevertheless: %v, %v", ds, err)
	}
}

// idleWriter is a writer without its goroutine: it gets its batches from the test.
func idleWriter(t *testing.T) *writer {
	t.Helper()
	db, err := sql.Open("sqlite", dsn(filepath.Join(t.TempDir(), "lockstep.db"), "journal_mode(WAL)"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := prepare(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	w := &writer{conn: conn, stmts: map[string]*sql.Stmt{}, jobs: make(chan *job), done: make(chan struct{})}
	t.Cleanup(func() {
		if err := errors.Join(w.close(), db.Close()); err != nil {
			t.Error(err)
		}
	})
	return w
}

// What fills up must be said, must not be half stored, and must pass.
func TestDiskFull(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "lockstep.db"))
	if _, err := s.Commit(t.Context(), stepOf(0)); err != nil {
		t.Fatal(err)
	}
	limit := func(pages int) {
		t.Helper()
		if err := do(t.Context(), s, func(w *writer) error {
			var n int
			return w.queryRow(fmt.Sprintf("PRAGMA max_page_count = %d", pages)).Scan(&n)
		}); err != nil {
			t.Fatal(err)
		}
	}
	limit(1) // no more than there are
	big := stepOf(1)
	big.State.Pool = "web"
	big.Effects = append(big.Effects, rollout.Noted{Rollout: "blog-1", Text: strings.Repeat("x", 1<<20)})
	if _, err := s.Commit(t.Context(), big); err == nil || !strings.Contains(err.Error(), "free some disk space") {
		t.Errorf("a commit to a full disk: %v", err)
	}
	checkAgreement(t, s, 1)
	limit(1 << 30)
	if _, err := s.Commit(t.Context(), stepOf(1)); err != nil {
		t.Errorf("a commit after space was made: %v", err)
	}
	checkAgreement(t, s, 2)
}

func TestCloseWaitsForCalls(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "lockstep.db")
		s := openTest(t, path)
		acknowledged := make(chan int)
		go func() {
			n := 0
			for {
				_, _, err := s.Receive(context.Background(), store.Delivery{ID: fmt.Sprint(n), Received: time.Unix(int64(n), 0)})
				if err != nil {
					if !errors.Is(err, store.ErrClosed) {
						t.Error(err)
					}
					acknowledged <- n
					return
				}
				n++
			}
		}()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		n := <-acknowledged
		again := openTest(t, path)
		if ds, err := again.Deliveries(t.Context(), 1<<30); err != nil || len(ds) != n {
			t.Fatalf("%d deliveries stored, %d acknowledged, %v", len(ds), n, err)
		}
	}
}
