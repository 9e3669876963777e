package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Secret is a secret that was read from a file or the environment. However it
// is printed, logged, or encoded, it shows as "[redacted]".
type Secret struct {
	// A pointer to a string: of unexported fields, fmt asks no methods and shows
	// what they hold, even behind a pointer to a slice, but not behind this one.
	content *string
	file    string
	env     string
}

const redacted = "[redacted]"

// Bytes is the secret itself, without the line end of its file; nil when it
// was absent and the file was loaded with [CheckOnly].
func (s Secret) Bytes() []byte {
	if s.content == nil {
		return nil
	}
	return []byte(*s.content)
}

// Source says where it was read from: "file /etc/lockstep/admin-token".
func (s Secret) Source() string {
	if s.env != "" {
		return "environment variable " + s.env
	}
	return "file " + s.file
}

// String is "[redacted]".
func (s Secret) String() string { return redacted }

// GoString is "[redacted]".
func (s Secret) GoString() string { return redacted }

// LogValue is "[redacted]".
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText gives "[redacted]".
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Format writes "[redacted]" for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

const (
	maxSecret   = 64 << 10
	shortSecret = 16
	writeSecret = "{file: /path/to/it} or {env: NAME}"
)

// secret reads {file: …} or {env: …}. What it finds in their place may be the
// secret itself and is not repeated in a problem.
func (v value) secret() (Secret, bool) {
	if _, isMapping := v.node.(*ast.MappingNode); !isMapping {
		v.fail("a secret is never written here; write %s", writeSecret)
		return Secret{}, false
	}
	o, ok := v.object(writeSecret, "file", "env")
	if !ok {
		return Secret{}, false
	}
	file, hasFile := o.get("file")
	env, hasEnv := o.get("env")
	switch {
	case hasFile == hasEnv:
		v.fail("expected one of file and env; write %s", writeSecret)
		return Secret{}, false
	case hasFile:
		path, ok := file.text("the path of the file that holds it")
		if !ok {
			return Secret{}, false
		}
		return file.secretFile(path, "")
	}
	name, ok := env.text("the name of the environment variable that holds it")
	if !ok {
		return Secret{}, false
	}
	if !isEnvName(name) {
		env.fail("expected the name of an environment variable, such as LOCKSTEP_SECRET")
		return Secret{}, false
	}
	s := Secret{env: name}
	content, set := os.LookupEnv(name)
	if !set {
		return s, env.absent("the environment variable %s is not set; set it for this process, or write {file: …}", name)
	}
	return s, env.fill(&s, []byte(content))
}

// absent reports a secret that is not on this machine.
func (v value) absent(format string, args ...any) bool {
	if v.r.checkOnly {
		v.warn(format, args...)
		return true
	}
	v.fail(format, args...)
	return false
}

// secretFile reads the secret in a file; why says how the path came about when
// it is not written in the fleet file.
func (v value) secretFile(path, why string) (Secret, bool) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(v.r.dir, path)
	}
	s := Secret{file: filepath.Clean(path)}
	info, err := os.Stat(path)
	if err != nil {
		return s, v.absent("cannot read the secret in %s%s: %s; put it there, or write %s", path, why, cause(err), writeSecret)
	}
	if !info.Mode().IsRegular() {
		v.fail("cannot read the secret in %s%s: expected a regular file", path, why)
		return s, false
	}
	if info.Mode().Perm()&0o006 != 0 {
		v.fail("%s%s can be read or written by everybody (mode %04o); run: chmod o-rwx %s", path, why, info.Mode().Perm(), path)
		return s, false
	}
	f, err := os.Open(path)
	if err != nil {
		return s, v.absent("cannot read the secret in %s%s: %s; let the coordinator's user read it", path, why, cause(err))
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return s, v.absent("cannot read the secret in %s%s: %s", path, why, cause(err))
	}
	return s, v.fill(&s, content)
}

func (v value) fill(s *Secret, content []byte) bool {
	text := strings.TrimRight(string(content), "\r\n")
	switch {
	case strings.TrimSpace(text) == "":
		v.fail("the secret in the %s is empty; make one with: openssl rand -hex 32", s.Source())
		return false
	case len(content) > maxSecret:
		v.fail("the secret in the %s is larger than %d KiB", s.Source(), maxSecret>>10)
		return false
	case strings.ContainsAny(text, "\r\n\x00"):
		v.fail("expected one line of text in the %s", s.Source())
		return false
	case len(text) < shortSecret:
		v.warn("the secret in the %s is shorter than %d characters and can be guessed; make one with: openssl rand -hex 32", s.Source(), shortSecret)
	}
	s.content = &text
	return true
}

func cause(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return err.Error()
}

func isEnvName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 200
}

// ownPrefix begins the names of the variables that commands get of Lockstep.
const ownPrefix = "LOCKSTEP_"

func isOwn(name string) bool { return strings.HasPrefix(name, ownPrefix) }
