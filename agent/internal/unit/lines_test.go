package unit

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"":              "",
		"\n\n":          "",
		"a\nb\n":        "  a\n  b",
		"a\x1b[0m\x00b": "  a[0mb",
		"tab\there":     "  tab\there",
		"\xff\xfe ok":   "  ? ok",
		"größe":         "  größe",
	} {
		if got := printable([]byte(in)); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
	long := printable([]byte(strings.Repeat("a line that is cut\n", 1000) + "the end"))
	if len(long) > 2*keepBytes || !strings.HasSuffix(long, "the end") || !strings.HasPrefix(long, "  a line that") {
		t.Errorf("%d bytes, %.20q ... %q", len(long), long, long[len(long)-20:])
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add([]byte("listen: in use\n\x1b]0;title\x07"))
	f.Add([]byte{0xff, '\r', 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		out := printable(in)
		if !utf8.ValidString(out) || strings.ContainsAny(out, "\x1b\x00\r\x07\u009b") {
			t.Errorf("%q", out)
		}
	})
}

func TestUndeleted(t *testing.T) {
	if got := undeleted("/srv/releases/abc/app (deleted)"); got != "/srv/releases/abc/app" {
		t.Errorf("got %q", got)
	}
	if got := undeleted("/srv/app"); got != "/srv/app" {
		t.Errorf("got %q", got)
	}
}
