package nginx

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const sampleFile = `# web servers
upstream web {
    ip_hash; # sticky
    zone web 64k;
	server 10.0.0.11:8080 weight=5 max_fails=2; # the first
    server "10.0.0.12:8080"   down ;
    server 10.0.0.13:8080; # lockstep drained 0badcafe-123
    server unix:/run/app.sock backup;
    server [2001:db8::1]:80;
    keepalive 16;
}
upstream 'api' { server web1:9090; }
server { listen 80; location ~ "^/(a|b){2}" { return 200 "server x;"; } }
init_by_lua_block { local t = { "}" } -- }
}
`

func TestParse(t *testing.T) {
	blocks, err := parse(sampleFile, false)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, b := range blocks {
		for _, s := range b.servers {
			got = append(got, fmt.Sprintf("%s %s host=%s line=%d down=%t drained=%t backup=%t own=%t",
				b.name, s.address(), s.host(), s.line, s.down(), s.drained(), s.backup(), s.ownLine()))
		}
	}
	want := []string{
		"web 10.0.0.11:8080 host=10.0.0.11 line=5 down=false drained=false backup=false own=true",
		"web 10.0.0.12:8080 host=10.0.0.12 line=6 down=true drained=false backup=false own=true",
		"web 10.0.0.13:8080 host=10.0.0.13 line=7 down=false drained=false backup=false own=true",
		"web unix:/run/app.sock host=unix:/run/app.sock line=8 down=false drained=false backup=true own=true",
		"web [2001:db8::1]:80 host=[2001:db8::1] line=9 down=false drained=false backup=false own=true",
		"api web1:9090 host=web1 line=12 down=false drained=false backup=false own=false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if s := blocks[0].servers[2]; s.mark != (mark{markDrained, instant{"0badcafe", 123}}) {
		t.Errorf("got mark %+v", s.mark)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, src := range []string{
		"upstream web { server a;",
		"upstream web { server a }",
		"server a; }",
		`server "a;`,
		"server a",
		"upstream web { server; }",
		"x_by_lua_block { '}' ",
	} {
		if blocks, err := parse(src, false); err == nil {
			t.Errorf("%q: accepted as %+v", src, blocks)
		}
	}
}

// anyLine is a server line as people write them.
var anyLine = rapid.Custom(func(t *rapid.T) string {
	space := rapid.StringMatching(`[ \t]{1,3}`)
	line := rapid.StringMatching(`[ \t]{0,3}`).Draw(t, "indent") + "server" + space.Draw(t, "gap") +
		rapid.SampledFrom([]string{"a:80", `"b:81"`, "[::1]:80", "unix:/x"}).Draw(t, "address")
	for range rapid.IntRange(0, 3).Draw(t, "params") {
		line += space.Draw(t, "gap") + rapid.SampledFrom([]string{"weight=5", "backup", "max_fails=0", `"slow_start=1s"`, "downtown"}).Draw(t, "param")
	}
	return line + rapid.SampledFrom([]string{"", " ", "\t"}).Draw(t, "before") + ";" +
		rapid.SampledFrom([]string{"", " ", "\r", " # note", "# down", "\t# lockstep is fine \r"}).Draw(t, "after")
})

// TestMarkIsUndone puts any line out and in again, and finds the same bytes.
func TestMarkIsUndone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOfN(anyLine, 1, 5).Draw(t, "lines")
		mine := rapid.IntRange(0, len(lines)-1).Draw(t, "mine")
		src := strings.Join(lines, "\n")
		if rapid.Bool().Draw(t, "newline at the end") {
			src += "\n"
		}
		at := func(src string) *server {
			blocks, err := parse(src, true)
			if err != nil || len(blocks[0].servers) != len(lines) {
				t.Fatalf("%q: %+v, error %v", src, blocks, err)
			}
			s := blocks[0].servers[mine]
			if !s.ownLine() {
				t.Fatalf("%q: not a line of its own", s.text)
			}
			return s
		}
		out := src
		for range 2 { // as after a crash
			out = replace(out, []*server{at(out)}, func(s *server) string { return s.marked(instant{"00c0ffee", 7}) })
		}
		if s := at(out); !s.drained() || s.mark.at.ticks != 7 || s.back() != lines[mine] {
			t.Fatalf("%q became %q, and back %q", lines[mine], s.text, s.back())
		}
		in := replace(out, []*server{at(out)}, func(s *server) string { return s.rejoining(instant{"00c0ffee", 8}) })
		if s := at(in); s.down() || s.mark.word != markRejoining {
			t.Fatalf("%q is not on its way back", s.text)
		}
		if got := replace(in, []*server{at(in)}, (*server).unmarked); got != src {
			t.Fatalf("got %q, want %q", got, src)
		}
	})
}

// FuzzParse marks and unmarks every line that can be, and finds all else as it was.
func FuzzParse(f *testing.F) {
	f.Add(sampleFile, false)
	f.Add("server a;\nserver b down; # lockstep drained 00000000-1\r\n", true)
	f.Add("upstream a { upstream b { server x;\n}\nserver y; }", false)
	f.Add("upstream ${x{ server \\; 'a\\'b' down; }\n", false)
	f.Add("server a down \"down\" down;#", true)
	f.Fuzz(func(t *testing.T, src string, fragment bool) {
		blocks, err := parse(src, fragment)
		if err != nil {
			return
		}
		for i, b := range blocks {
			for j, s := range b.servers {
				_, _, _, _ = s.host(), s.directive(), s.phase(), b.find(s.address())
				if !s.ownLine() {
					continue
				}
				out := replace(src, []*server{s}, func(s *server) string { return s.marked(instant{"00c0ffee", 7}) })
				again, err := parse(out, fragment)
				if err != nil || len(again) != len(blocks) || len(again[i].servers) != len(b.servers) {
					t.Fatalf("%q became %q: error %v", src, out, err)
				}
				m := again[i].servers[j]
				if !m.drained() || m.address() != s.address() || len(out)-len(m.text) != len(src)-len(s.text) {
					t.Fatalf("%q became %q", src, out)
				}
				if s.down() || s.mark.word != "" {
					continue
				}
				if got := replace(out, []*server{m}, (*server).back); got != src {
					t.Fatalf("%q became %q and then %q", src, out, got)
				}
			}
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte(`{"file":"/f","lines":[{"upstream":"web","address":"a:80","text":"  server a:80 weight=2;"}]}`))
	f.Add([]byte(`{"file":"/f","lines":[{"address":"a","text":"server a; server b;"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := decodeRecord(data)
		if err != nil {
			return
		}
		for _, l := range rec.Lines {
			if s, err := l.server(); err != nil || s.back() != l.Text && s.mark.word == "" {
				t.Errorf("accepted %+v: error %v", l, err)
			}
		}
	})
}

func FuzzParseStat(f *testing.F) {
	f.Add("1 (nginx: a) b) S 7 1 1 0 -1 4 1 0 0 0 0 0 0 0 20 0 1 0 1234 5 6")
	f.Add("1 () S")
	f.Fuzz(func(t *testing.T, stat string) {
		if _, _, err := parseStat(stat); err != nil {
			return
		}
		if !strings.Contains(stat, ")") {
			t.Errorf("accepted %q", stat)
		}
	})
}

func TestParseStat(t *testing.T) {
	parent, born, err := parseStat("1 (nginx: a) b) S 7 1 1 0 -1 4 1 0 0 0 0 0 0 0 20 0 1 0 1234 5 6")
	if parent != 7 || born != 1234 || err != nil {
		t.Errorf("got %d, %d, %v", parent, born, err)
	}
}
