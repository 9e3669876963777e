package journal_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/journal"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

func full() *journal.Doc {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return &journal.Doc{
		Version: journal.Version, App: "blog", Generation: 7,
		Assignment: &api.Assignment{
			App: "blog", Generation: 7, Spec: api.Spec{Repo: "/r", Unit: "blog.service"},
			Releases: []api.Release{}, Keep: []string{"a-1"}, Targets: []api.Goal{{Target: "blog@web1", Turn: 4}},
		},
		Prepare: &journal.Attempt{Release: "b-1", Number: 2, Runs: 1, Done: true, Reason: api.ReasonBuildFailed, Text: "no"},
		Targets: map[string]*journal.Target{"blog@web1": {
			Turn: &journal.Turn{
				Number: 4, Release: "b-1", Fallback: "a-1", Spec: api.Spec{Unit: "blog.service"},
				Step: api.StepVerify, Since: at, OutSince: &at, Restarted: true,
				Undo:    &journal.Undo{From: api.StepRestart, Reason: api.ReasonStartFailed, Text: "exit status 1"},
				Restore: &lbclient.Restore{Provider: "haproxy", Target: "web1", Version: 1, Data: []byte(`{"w":1}`)},
				Steps:   []api.StepTime{{Step: api.StepDrain, Took: api.Duration(time.Second)}},
			},
			Outcome: &api.Outcome{Turn: 3, Release: "a-1", OK: true},
		}},
	}
}

func TestWhatIsWrittenIsReadBackAfterARestart(t *testing.T) {
	dir := t.TempDir()
	f, err := journal.Open(dir, "blog")
	if err != nil {
		t.Fatal(err)
	}
	want := full()
	if err := f.Update(func(d *journal.Doc) error { *d = *full(); return nil }); err != nil {
		t.Fatal(err)
	}
	again, err := journal.Open(dir, "blog")
	if err != nil {
		t.Fatal(err)
	}
	got := again.Read()
	// The balancer's data is JSON: equal up to blanks.
	data := got.Targets["blog@web1"].Turn.Restore.Data
	if string(bytes.Join(bytes.Fields(data), nil)) != `{"w":1}` {
		t.Errorf("the balancer's data came back as %s", data)
	}
	got.Targets["blog@web1"].Turn.Restore.Data = want.Targets["blog@web1"].Turn.Restore.Data
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read back\n%+v\nwant\n%+v", got, want)
	}
	apps, err := journal.Apps(dir)
	if err != nil || !slices.Equal(apps, []string{"blog"}) {
		t.Errorf("Apps = %v, %v; want blog alone", apps, err)
	}
}

func TestAChangeThatFailsChangesNothing(t *testing.T) {
	dir := t.TempDir()
	f, err := journal.Open(dir, "blog")
	if err != nil {
		t.Fatal(err)
	}
	no := errors.New("no")
	for name, change := range map[string]func(*journal.Doc) error{
		"refused": func(d *journal.Doc) error { d.Generation = 9; return no },
		"unsound": func(d *journal.Doc) error { d.Generation = 9; d.App = "other"; return nil },
		"no turn": func(d *journal.Doc) error {
			d.Targets = map[string]*journal.Target{"x": {Turn: &journal.Turn{}}}
			return nil
		},
		"no entry": func(d *journal.Doc) error { d.Targets = map[string]*journal.Target{"x": nil}; return nil },
	} {
		if err := f.Update(change); err == nil {
			t.Errorf("%s: the update was accepted", name)
		}
	}
	if g := f.Read().Generation; g != 0 {
		t.Errorf("generation %d after failed updates, want 0", g)
	}
	if _, err := os.Stat(filepath.Join(dir, "blog.json")); !os.IsNotExist(err) {
		t.Errorf("a failed update left a file behind: %v", err)
	}
}

func TestAReadDocumentIsACopy(t *testing.T) {
	f, err := journal.Open(t.TempDir(), "blog")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Update(func(d *journal.Doc) error { *d = *full(); return nil }); err != nil {
		t.Fatal(err)
	}
	f.Read().Targets["blog@web1"].Turn.Step = api.StepSoak
	if s := f.Read().Targets["blog@web1"].Turn.Step; s != api.StepVerify {
		t.Errorf("changing what Read returned changed the journal to %s", s)
	}
}

func TestACorruptJournalNamesFileAndRemedy(t *testing.T) {
	good, err := journal.Encode(full())
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		content string
		want    string
	}{
		"empty":           {"", "unexpected end"},
		"cut short":       {string(good[:len(good)/2]), "unexpected end"},
		"zeroes":          {strings.Repeat("\x00", 512), "invalid character"},
		"newer version":   {`{"version":2,"app":"blog","generation":1}`, "format version 2"},
		"another app":     {`{"version":1,"app":"shop","generation":1}`, `app "shop"`},
		"unknown field":   {`{"version":1,"app":"blog","generation":1,"extra":1}`, "extra"},
		"two documents":   {`{"version":1,"app":"blog","generation":1}{}`, "invalid character"},
		"unknown step":    {strings.Replace(string(good), `"step": "verify"`, `"step": "dance"`, 1), "dance"},
		"no way back":     {`{"version":1,"app":"blog","generation":0,"targets":{"t":{"turn":{"number":1,"release":"r","spec":{"unit":"u"},"step":"drain"}}}}`, "how the target stood"},
		"turn over twice": {`{"version":1,"app":"blog","generation":0,"targets":{"t":{"outcome":{"turn":1},"turn":{"number":1,"release":"r","spec":{"unit":"u"},"step":"snapshot"}}}}`, "over already"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "blog.json")
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := journal.Open(dir, "blog")
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, want := range []string{path, c.want, "move the file away"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if left, _ := os.ReadFile(path); string(left) != c.content {
				t.Error("the corrupt file was changed")
			}
		})
	}
}

func TestEveryStartIsANewEpochOfTheSameInstance(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.json")
	var first journal.Identity
	for n := uint64(1); n <= 3; n++ {
		id, err := journal.NextEpoch(path)
		if err != nil {
			t.Fatal(err)
		}
		if n == 1 {
			first = id
		}
		if id.Epoch != n || id.Instance != first.Instance || id.Instance == "" {
			t.Errorf("start %d is %+v after %+v", n, id, first)
		}
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.NextEpoch(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a corrupt identity gave %v, want an error naming %s", err, path)
	}
}

func FuzzDecode(f *testing.F) {
	good, err := journal.Encode(full())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"app":"blog","generation":3,"absent":true}`))
	f.Add([]byte(`{"version":1,"app":"blog","generation":0,"targets":{"t":{"turn":{"number":1,"release":"r","spec":{"unit":"u"},"step":"snapshot"}}}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := journal.Decode("blog", b)
		if err != nil {
			return
		}
		// What is accepted survives being written and read again.
		once, err := journal.Encode(d)
		if err != nil {
			t.Fatalf("cannot encode what was decoded: %v", err)
		}
		again, err := journal.Decode("blog", once)
		if err != nil {
			t.Fatalf("cannot decode what was encoded: %v\n%s", err, once)
		}
		twice, err := journal.Encode(again)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("the document changed in being written twice:\n%s\n%s", once, twice)
		}
	})
}
