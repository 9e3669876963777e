package webhook

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "write the golden files anew")

const recorded = "../testdata/webhook"

// deliveries are the recorded bodies, <event>.<case>.json.
func deliveries(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no deliveries in %s: %v", dir, err)
	}
	all := map[string][]byte{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(f), ".json")] = b
	}
	return all
}

func eventOf(name string) string {
	event, _, _ := strings.Cut(name, ".")
	return event
}

func TestDecodeRecorded(t *testing.T) {
	for name, body := range deliveries(t, recorded) {
		if eventOf(name) == "ping" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			d, err := decode(eventOf(name), body)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(d, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join(recorded, name+".golden")
			if *update {
				if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != strings.TrimSuffix(string(want), "\n") {
				t.Errorf("decoded:\n%s\nexpected:\n%s", got, want)
			}
		})
	}
}

func TestDecodeRefusesWhatNoPushIs(t *testing.T) {
	const sha = "4b1f0c9d2e7a83565f0e1d2c3b4a5968778695a4"
	good := map[string]any{"ref": "refs/heads/main", "before": sha, "after": sha, "repository": map[string]any{"full_name": "me/hello"}}
	with := func(key string, value any) string {
		m := map[string]any{}
		for k, v := range good {
			m[k] = v
		}
		m[key] = value
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if _, err := decode("push", []byte(with("ref", "refs/heads/main"))); err != nil {
		t.Fatalf("the least push that there is: %v", err)
	}
	for name, c := range map[string]struct{ body, want string }{
		"no ref":          {with("ref", ""), `"ref"`},
		"ref of lines":    {with("ref", "refs/heads/a\nb"), `"ref"`},
		"ref of bidi":     {with("ref", "refs/heads/\u202enaim"), `"ref"`},
		"endless ref":     {with("ref", "refs/heads/"+strings.Repeat("a", 2000)), `"ref"`},
		"short after":     {with("after", sha[:39]), `"after"`},
		"long after":      {with("after", sha+sha[:24]), `"after"`},
		"after no hex":    {with("after", "z"+sha[1:]), `"after"`},
		"no before":       {with("before", nil), `"before"`},
		"no repository":   {with("repository", nil), `"repository.full_name"`},
		"bare name":       {with("repository", map[string]any{"full_name": "hello"}), `"repository.full_name"`},
		"three names":     {with("repository", map[string]any{"full_name": "a/b/c"}), `"repository.full_name"`},
		"ref is a number": {with("ref", 1), "cannot decode the push"},
		"cut short":       {`{"ref":"refs/heads/main"`, "cannot decode the push"},
		"two objects":     {with("ref", "refs/heads/main") + "{}", "cannot decode the push"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := decode("push", []byte(c.body))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, expected one naming %s", err, c.want)
			}
			if err != nil && strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("the error holds control characters: %q", err)
			}
		})
	}
}

func TestDecodeBoundsText(t *testing.T) {
	message, err := json.Marshal("\n\n  Fix\x1b[31m the\ttide" + strings.Repeat("é", 500) + "\r\nbody")
	if err != nil {
		t.Fatal(err)
	}
	body := strings.Replace(string(deliveries(t, recorded)["push.fast-forward"]),
		`"head_commit": {`, `"head_commit": {"message": `+string(message)+`, "was": {`, 1) + "}"
	d, err := decode("push", []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(d.Subject, "Fix[31m the tideéé") || utf8.RuneCountInString(d.Subject) > maxText+1 || !strings.HasSuffix(d.Subject, "…") {
		t.Errorf("subject: %q", d.Subject)
	}
}

func TestPayload(t *testing.T) {
	for name, c := range map[string]struct {
		media, body, want string
		ok                bool
	}{
		"object":       {mediaJSON, " \r\n{\"a\":1}", `{"a":1}`, true},
		"null":         {mediaJSON, "null", "", false},
		"array":        {mediaJSON, "[{}]", "", false},
		"empty":        {mediaJSON, "", "", false},
		"form":         {mediaForm, "payload=%7B%22a%22%3A%22b+c%2B%22%7D", `{"a":"b c+"}`, true},
		"form of null": {mediaForm, "payload=null", "", false},
		"no field":     {mediaForm, "body=%7B%7D", "", false},
		"two fields":   {mediaForm, "payload=%7B%7D&payload=%7B%7D", "", false},
		"bad escape":   {mediaForm, "payload=%7", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := payload(c.media, []byte(c.body))
			if (err == nil) != c.ok || string(got) != c.want {
				t.Errorf("got %q, %v; expected %q, ok %v", got, err, c.want, c.ok)
			}
		})
	}
}

// TestPublishedExamples decodes example deliveries as GitHub publishes them,
// named <event>[-…]….json.
func TestPublishedExamples(t *testing.T) {
	dir := os.Getenv("LOCKSTEP_WEBHOOK_PAYLOADS")
	if dir == "" {
		t.Skip("LOCKSTEP_WEBHOOK_PAYLOADS names no folder of GitHub's example deliveries")
	}
	for name, body := range deliveries(t, dir) {
		if strings.HasSuffix(name, ".schema") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			event, _, _ := strings.Cut(eventOf(name), "-")
			if event == "ping" {
				if _, err := ping(body); err != nil {
					t.Fatal(err)
				}
				return
			}
			d, err := decode(event, body)
			if err != nil {
				t.Fatal(err)
			}
			if d.Repository.FullName == "" || d.Sender == "" {
				t.Errorf("no repository or sender in %+v", d)
			}
			if (event == "push") == (d.Ignored == IgnoredEvent) {
				t.Errorf("event %s: ignored as %q", event, d.Ignored)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	for name, body := range deliveries(f, recorded) {
		f.Add(eventOf(name), mediaJSON, body)
	}
	f.Add("push", mediaForm, []byte("payload=%7B%22ref%22%3A%22refs%2Fheads%2Fmain%22%7D"))
	f.Add("push", mediaJSON, []byte("null"))
	f.Add("push", mediaJSON, []byte(`{"ref":"refs/heads/","before":"`+ZeroSHA+`","after":"`+ZeroSHA+`","repository":{"full_name":"a/b"},"sender":[[]]}`))
	f.Fuzz(func(t *testing.T, event, media string, body []byte) {
		object, err := payload(media, body)
		if err != nil {
			return
		}
		if event == "ping" {
			_, _ = ping(object)
			return
		}
		d, err := decode(event, object)
		if err != nil {
			return
		}
		for _, s := range []string{d.Ref, d.Subject, d.Sender, d.Repository.FullName, d.Repository.CloneURL, d.Repository.Canonical} {
			if strings.ContainsFunc(s, unicode.IsControl) || len(s) > 4*maxName {
				t.Errorf("not fit to be shown: %q", s)
			}
		}
		if (event == "push") == (d.Ignored == IgnoredEvent) {
			t.Errorf("event %q: ignored as %q", event, d.Ignored)
		}
		if d.Ignored == "" {
			if !isSHA(d.After) || !isSHA(d.Before) || d.After == ZeroSHA {
				t.Errorf("nothing to deploy, but not ignored: %+v", d)
			}
			if d.Branch == "" || d.Ref != "refs/heads/"+d.Branch {
				t.Errorf("branch %q of ref %q", d.Branch, d.Ref)
			}
			if d.Repository.Canonical == "" {
				t.Errorf("no repository: %+v", d)
			}
		}
		if u := d.Repository.CloneURL; canonical(u) != "" && !SameRepository(u, d) {
			t.Errorf("clone URL %q is not of its own repository", u)
		}
	})
}
