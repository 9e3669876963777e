package nginx

import (
	"fmt"
	"strings"
)

// token is a word, or one of the marks ";", "{" and "}".
type token struct {
	text       string // without quotes
	mark       byte   // 0 for a word
	start, end int    // bytes in the file, quotes included
}

// lexer splits a file as nginx does: words end at white space, ';' and '{', but
// not at '}' or '#', which count only where a word could begin.
type lexer struct {
	src string
	pos int
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// next returns the next token, and false at the end of the file.
func (l *lexer) next() (token, bool, error) {
	for l.pos < len(l.src) {
		switch c := l.src[l.pos]; {
		case isSpace(c):
			l.pos++
		case c == '#':
			end := strings.IndexByte(l.src[l.pos:], '\n')
			if end < 0 {
				l.pos = len(l.src)
			} else {
				l.pos += end + 1
			}
		case c == ';' || c == '{' || c == '}':
			l.pos++
			return token{mark: c, start: l.pos - 1, end: l.pos}, true, nil
		case c == '"' || c == '\'':
			t, err := l.quoted(c)
			return t, err == nil, err
		default:
			return l.word(), true, nil
		}
	}
	return token{}, false, nil
}

func (l *lexer) word() token {
	start := l.pos
	var b strings.Builder
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		if isSpace(c) || c == ';' || c == '{' && l.src[max(start, l.pos-1)] != '$' {
			break
		}
		if c == '\\' && l.pos+1 < len(l.src) {
			l.pos++
			c = l.src[l.pos]
		}
		b.WriteByte(c)
		l.pos++
	}
	return token{text: b.String(), start: start, end: l.pos}
}

func (l *lexer) quoted(quote byte) (token, error) {
	start := l.pos
	var b strings.Builder
	for l.pos++; l.pos < len(l.src); l.pos++ {
		c := l.src[l.pos]
		if c == quote {
			l.pos++
			return token{text: b.String(), start: start, end: l.pos}, nil
		}
		if c == '\\' && l.pos+1 < len(l.src) {
			l.pos++
			c = l.src[l.pos]
		}
		b.WriteByte(c)
	}
	return token{}, fmt.Errorf("line %d: a quoted word has no end", lineOf(l.src, start))
}

// foreignCode skips what stands between the braces of a Lua block, whose words
// are not nginx's. The opening brace has been read; the closing one is, too.
func (l *lexer) foreignCode() error {
	from := l.pos
	depth := 1
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		l.pos++
		switch {
		case c == '{':
			depth++
		case c == '}':
			if depth--; depth == 0 {
				return nil
			}
		case c == '"' || c == '\'':
			for l.pos < len(l.src) && l.src[l.pos] != c && l.src[l.pos] != '\n' {
				if l.src[l.pos] == '\\' {
					l.pos++
				}
				l.pos++
			}
			l.pos++
		case c == '-' && strings.HasPrefix(l.src[l.pos:], "-"):
			if end := strings.IndexByte(l.src[l.pos:], '\n'); end >= 0 {
				l.pos += end
			} else {
				l.pos = len(l.src)
			}
		}
	}
	return fmt.Errorf("line %d: a block of Lua has no end", lineOf(l.src, from))
}

// lineOf numbers lines from 1.
func lineOf(src string, pos int) int { return 1 + strings.Count(src[:pos], "\n") }
