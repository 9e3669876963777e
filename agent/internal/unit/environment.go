package unit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"strings"
)

// Environment is what a unit's file puts into the environment of its program.
type Environment struct {
	Set map[string]string // Environment=
	// Files is what the files of EnvironmentFile= say, which may be secret.
	Files map[string]string
	// Unread says of each file that could not be read, and may be needed, why.
	Unread  []string
	Account Account
}

// Environment reads what a unit's program is started with, and as whom. What
// PassEnvironment=, UnsetEnvironment=, and the systemd itself add or take is not in
// it. A unit that is not there, or is masked, is [api.ReasonUnitMissing].
func (m *Manager) Environment(ctx context.Context, unit string) (Environment, error) {
	e := Environment{Set: map[string]string{}, Files: map[string]string{}}
	st, err := m.state(ctx, unit)
	if err != nil {
		return e, err
	}
	e.Account = account(st.props)
	for _, kv := range get[[]string](st.props, "Environment") {
		if k, v, ok := strings.Cut(kv, "="); ok {
			e.Set[k] = v
		}
	}
	for _, f := range get[[][]any](st.props, "EnvironmentFiles") {
		if len(f) != 2 {
			continue
		}
		path, _ := f[0].(string)
		optional, _ := f[1].(bool)
		vars, err := EnvironmentFile(path)
		switch {
		case optional && errors.Is(err, fs.ErrNotExist):
		case err != nil:
			e.Unread = append(e.Unread, err.Error())
		}
		maps.Copy(e.Files, vars)
	}
	return e, nil
}

// maxEnvironment bounds a file of variables.
const maxEnvironment = 1 << 20

// EnvironmentFile reads a file of variables, as EnvironmentFile= names one.
func EnvironmentFile(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxEnvironment+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxEnvironment {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxEnvironment)
	}
	return parseEnvironment(string(b)), nil
}

// parseEnvironment reads a file of variables as systemd does: one assignment a
// line, comments, values with or without quotes, and a backslash before a newline
// that goes on with the next line. What is no assignment is left out.
func parseEnvironment(s string) map[string]string {
	vars := map[string]string{}
	for s != "" {
		s = strings.TrimLeft(s, " \t\r\n")
		if s == "" {
			break
		}
		if s[0] == '#' || s[0] == ';' {
			s = afterLine(s)
			continue
		}
		end := strings.IndexAny(s, "=\n")
		if end < 0 || s[end] == '\n' {
			s = afterLine(s)
			continue
		}
		name := strings.TrimSpace(s[:end])
		var value string
		value, s = environmentValue(s[end+1:])
		if isVariable(name) && !strings.Contains(value, "\x00") {
			vars[name] = value
		}
	}
	return vars
}

func afterLine(s string) string {
	_, rest, _ := strings.Cut(s, "\n")
	return rest
}

// environmentValue reads a value up to the end of its line, and returns what
// follows it.
func environmentValue(s string) (value, rest string) {
	var b strings.Builder
	s = strings.TrimLeft(s, " \t\r")
	kept := 0 // how much of b cannot be trailing space
	var quote byte
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == 0 && c == '\n':
			return b.String()[:kept] + strings.TrimRight(b.String()[kept:], " \t\r"), s[i+1:]
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case c == quote && quote != 0:
			quote, kept = 0, b.Len()
		case c == '\\' && quote != '\'' && i+1 < len(s):
			i++
			if s[i] == '\n' {
				continue
			}
			if quote == '"' && !strings.ContainsRune("\"\\`$", rune(s[i])) {
				b.WriteByte('\\')
			}
			b.WriteByte(s[i])
			kept = b.Len()
		default:
			b.WriteByte(c)
			if quote != 0 {
				kept = b.Len()
			}
		}
	}
	return b.String()[:kept] + strings.TrimRight(b.String()[kept:], " \t\r"), ""
}

func isVariable(name string) bool {
	for i, r := range name {
		if r != '_' && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return name != ""
}
