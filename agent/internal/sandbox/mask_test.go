package sandbox

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSecretsAreMaskedHoweverTheyArrive(t *testing.T) {
	secrets := map[string]string{
		"A": "hunter2hunter2", "B": "hunter2", "C": "first line\nsecond line\n", "D": "abcabcabd", "SHORT": "a",
	}
	in := "x hunter2hunter2 y hunter2 z hunter first line\r\nsecond line abcabcabcabd a hunter"
	want := "x *** y *** z hunter ***\r\n*** abc*** a hunter"
	for size := 1; size <= len(in); size++ {
		var out bytes.Buffer
		m := newMask(&out, secrets)
		for rest := in; rest != ""; {
			n := min(size, len(rest))
			if _, err := m.Write([]byte(rest[:n])); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := m.flush(); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Fatalf("in pieces of %d:\n%q, want\n%q", size, out.String(), want)
		}
	}
}

// Whatever the secrets and the pieces are, none of them is left in the output,
// and what holds none comes out as it went in.
func TestNoSecretIsLeft(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[ab]{4,8}`)
		secrets := map[string]string{"A": word.Draw(t, "a"), "B": word.Draw(t, "b")}
		text := rapid.StringMatching(`[ab ]{0,60}`).Draw(t, "text")
		var out bytes.Buffer
		m := newMask(&out, secrets)
		for rest := text; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "n")
			_, _ = m.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		_ = m.flush()
		found := false
		for _, s := range secrets {
			found = found || strings.Contains(text, s)
			if strings.Contains(out.String(), s) {
				t.Fatalf("%q is left in %q", s, out.String())
			}
		}
		if !found && out.String() != text {
			t.Fatalf("%q came out as %q", text, out.String())
		}
	})
}
