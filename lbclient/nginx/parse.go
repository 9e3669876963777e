package nginx

import (
	"fmt"
	"strings"
)

// server is one server directive of an upstream block.
type server struct {
	upstream  string // "" in a file without upstream blocks
	args      []token
	start     int // of the word "server"
	semicolon int
	line      int // from 1
	from, to  int // its line in the file, without the newline
	text      string
	mark      mark
}

// address is what the directive names.
func (s *server) address() string { return s.args[0].text }

func (s *server) has(param string) bool {
	for _, a := range s.args[1:] {
		if a.text == param {
			return true
		}
	}
	return false
}

func (s *server) down() bool   { return s.has("down") }
func (s *server) backup() bool { return s.has("backup") }

// host is the address without its port.
func (s *server) host() string {
	a := s.address()
	if strings.HasPrefix(a, "unix:") {
		return a
	}
	if i := strings.LastIndexByte(a, ':'); i >= 0 && !strings.HasSuffix(a, "]") {
		return a[:i]
	}
	return a
}

// ownLine tells whether the directive has its line to itself, but for a comment
// behind it. Only then can it be marked without touching anything else.
func (s *server) ownLine() bool {
	if s.semicolon >= s.to || strings.TrimLeft(s.text[:s.start-s.from], " \t") != "" {
		return false
	}
	rest := strings.TrimLeft(s.text[s.semicolon+1-s.from:], " \t\r")
	return rest == "" || rest[0] == '#'
}

func (s *server) directive() string { return s.text[s.start-s.from : min(s.semicolon, s.to)-s.from] }

// block is one upstream.
type block struct {
	name    string
	line    int
	servers []*server
}

// find returns the servers that name means: those of that very address or, where
// there are none, those of that host.
func (b *block) find(name string) []*server {
	var exact, host []*server
	for _, s := range b.servers {
		if s.address() == name {
			exact = append(exact, s)
		} else if s.host() == name {
			host = append(host, s)
		}
	}
	if len(exact) > 0 {
		return exact
	}
	return host
}

// parse reads the upstream blocks of a file or, with fragment, the servers of a
// file that is included in one. What it does not know it passes over.
func parse(src string, fragment bool) ([]*block, error) {
	l := &lexer{src: src}
	var out []*block
	var open []*block // the enclosing blocks, nil for those that are no upstream
	var current *block
	if fragment {
		current = &block{line: 1}
		out = append(out, current)
	}
	var words []token
	for {
		t, ok, err := l.next()
		switch {
		case err != nil:
			return nil, err
		case !ok && len(words) > 0:
			return nil, fmt.Errorf("line %d: the directive %q has no end; is a ';' missing?", lineOf(src, words[0].start), words[0].text)
		case !ok && len(open) > 0:
			return nil, fmt.Errorf("the file ends inside a block; is a '}' missing?")
		case !ok:
			return out, nil
		}
		switch t.mark {
		case 0:
			words = append(words, t)
			continue
		case ';':
			if current != nil && len(words) > 0 && words[0].text == "server" {
				s, err := newServer(src, current.name, words, t.start)
				if err != nil {
					return nil, err
				}
				current.servers = append(current.servers, s)
			}
		case '{':
			open = append(open, current)
			current = nil
			switch {
			case len(words) > 0 && strings.HasSuffix(words[0].text, "_by_lua_block"):
				current, open = open[len(open)-1], open[:len(open)-1]
				if err := l.foreignCode(); err != nil {
					return nil, err
				}
			case len(words) == 2 && words[0].text == "upstream" && !fragment:
				current = &block{name: words[1].text, line: lineOf(src, words[0].start)}
				out = append(out, current)
			}
		case '}':
			if len(words) > 0 {
				return nil, fmt.Errorf("line %d: the directive %q has no end; is a ';' missing?", lineOf(src, words[0].start), words[0].text)
			}
			if len(open) == 0 {
				return nil, fmt.Errorf("line %d: a '}' closes nothing", lineOf(src, t.start))
			}
			current, open = open[len(open)-1], open[:len(open)-1]
		}
		words = nil
	}
}

func newServer(src, upstream string, words []token, semicolon int) (*server, error) {
	s := &server{upstream: upstream, args: words[1:], start: words[0].start, semicolon: semicolon, line: lineOf(src, words[0].start)}
	if len(s.args) == 0 {
		return nil, fmt.Errorf("line %d: a server without an address", s.line)
	}
	s.from = 1 + strings.LastIndexByte(src[:s.start], '\n')
	s.to = len(src)
	if i := strings.IndexByte(src[s.start:], '\n'); i >= 0 {
		s.to = s.start + i
	}
	s.text = src[s.from:s.to]
	if s.semicolon < s.to {
		s.mark = readMark(s.text[s.semicolon+1-s.from:])
	}
	return s, nil
}
