package snapshot

import (
	"bytes"
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"
)

func TestWhatARemoteReports(t *testing.T) {
	cases := []struct{ name, in, want string }{
		{"lines", "one\ntwo\n", "remote: one\nremote: two\n"},
		{"a counter", "Counting: 1%\rCounting: 50%\rCounting: 100%, done.\n", "remote: Counting: 100%, done.\n"},
		{"a counter that ends with a return", "1%\r100%\r\n", "remote: 100%\n"},
		{"empty lines", "\n\r\n  \n", ""},
		{"an unfinished line", "half", ""},
		{"escapes", "\x1b[31mred\x07\n", "remote: [31mred\n"},
		{"an endless line", strings.Repeat("x", 5000) + "\n", "remote: " + strings.Repeat("x", 1024) + "\n"},
	}
	for _, c := range cases {
		rapid.Check(t, func(t *rapid.T) {
			// However it is cut up on the way.
			var out bytes.Buffer
			l := newLines(&out)
			for rest := []byte(c.in); len(rest) > 0; {
				n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
				if got, err := l.Write(rest[:n]); got != n || err != nil {
					t.Fatalf("Write = %d, %v", got, err)
				}
				rest = rest[n:]
			}
			if out.String() != c.want {
				t.Fatalf("%s: %q, want %q", c.name, out.String(), c.want)
			}
		})
	}
}

func FuzzLines(f *testing.F) {
	f.Add("Counting objects: 1% (1/100)\rCounting objects: 100% (100/100), done.\nTotal 3\n")
	f.Add("\x1b]0;title\x07\xff\xfe\r\n")
	f.Fuzz(func(t *testing.T, in string) {
		var out bytes.Buffer
		_, _ = newLines(&out).Write([]byte(in))
		for line := range strings.Lines(out.String()) {
			text, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "remote: ")
			if !ok || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && !unicode.IsSpace(r) }) {
				t.Fatalf("line %q", line)
			}
		}
	})
}
