package sandbox

import (
	"bytes"
	"io"
	"slices"
)

// maskShort is the length below which a secret is not masked: it would turn up
// in ordinary words, and what is replaced there would tell it.
const maskShort = 4

var masked = []byte("***")

// mask passes writes on with secrets replaced, also those that come in pieces.
type mask struct {
	to      io.Writer
	secrets [][]byte // longest first, so that one that contains another goes as a whole
	held    []byte   // the end of what was written, which may be the beginning of a secret
}

// newMask masks the values. One of several lines is masked line by line as well,
// for tools print it so.
func newMask(to io.Writer, secrets map[string]string) *mask {
	m := &mask{to: to}
	add := func(b []byte) {
		b = bytes.TrimSpace(b)
		if len(b) >= maskShort && !slices.ContainsFunc(m.secrets, func(s []byte) bool { return bytes.Equal(s, b) }) {
			m.secrets = append(m.secrets, b)
		}
	}
	for _, v := range secrets {
		add([]byte(v))
		for line := range bytes.Lines([]byte(v)) {
			add(line)
		}
	}
	slices.SortFunc(m.secrets, func(a, b []byte) int { return len(b) - len(a) })
	return m
}

func (m *mask) Write(p []byte) (int, error) {
	if len(m.secrets) == 0 {
		return m.to.Write(p)
	}
	b := append(m.held, p...)
	clean, rest := m.replace(b, false)
	m.held = bytes.Clone(rest)
	if len(clean) > 0 {
		if _, err := m.to.Write(clean); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// flush passes on what was held back.
func (m *mask) flush() error {
	if len(m.held) == 0 {
		return nil
	}
	clean, _ := m.replace(m.held, true)
	m.held = nil
	_, err := m.to.Write(clean)
	return err
}

// replace masks b from its beginning, and returns as rest the part from where a
// secret may begin that b does not hold all of. At the end there is none: what
// looks like the beginning of a secret is one, as far as can be told.
func (m *mask) replace(b []byte, end bool) (clean, rest []byte) {
	for i := 0; i < len(b); {
		n, whole := m.at(b[i:])
		switch {
		case n == 0:
			clean = append(clean, b[i])
			i++
		case whole:
			clean = append(clean, masked...)
			i += n
		case end:
			clean = append(clean, b[i])
			i++
		default:
			return clean, b[i:]
		}
	}
	return clean, nil
}

// at tells how many bytes at the beginning of b are a secret, or may be the
// beginning of one. A longer one that may be goes before a shorter one that is.
func (m *mask) at(b []byte) (n int, whole bool) {
	for _, s := range m.secrets {
		if bytes.HasPrefix(b, s) {
			return len(s), true
		}
		if len(b) < len(s) && bytes.HasPrefix(s, b) {
			return len(b), false
		}
	}
	return 0, false
}
