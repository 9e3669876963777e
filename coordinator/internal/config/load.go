package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const maxFile = 1 << 20

// Option changes how a fleet file is loaded.
type Option func(*reader)

// CheckOnly loads a file on a machine other than the coordinator's: a secret
// that is absent here is a warning, and [Secret.Bytes] of it is nil.
func CheckOnly(r *reader) { r.checkOnly = true }

// Load reads a fleet file and the secrets that it names. When the file can be
// read but not be used, the error is of type [Problems].
func Load(path string, options ...Option) (*Fleet, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the fleet file: %w", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the fleet file: %w", err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("cannot tell where the fleet file is: %w", err)
	}
	r := &reader{file: path, dir: dir}
	for _, o := range options {
		o(r)
	}
	return r.load(content)
}

func (r *reader) load(content []byte) (*Fleet, error) {
	fleet := &Fleet{}
	if root, ok := r.parse(content); ok {
		(&loader{fleet: fleet, apps: map[*App]object{}, balancers: map[*Balancer]object{}, servers: map[*Balancer]map[Place]value{}}).read(root)
	}
	sortProblems(r.problems)
	sortProblems(r.warnings)
	if len(r.problems) > 0 {
		return nil, Problems(r.problems)
	}
	fleet.Warnings = r.warnings
	return fleet, nil
}

// parse is the one YAML document of a file.
func (r *reader) parse(content []byte) (root value, ok bool) {
	top := value{r: r, at: token.Position{Line: 1, Column: 1}}
	if len(content) > maxFile {
		top.fail("the file is larger than %d KiB", maxFile>>10)
		return top, false
	}
	if !utf8.Valid(content) {
		top.at.Line = 1 + bytes.Count(content[:firstInvalid(content)], []byte("\n"))
		top.fail("expected text in UTF-8")
		return top, false
	}
	defer func() {
		// The parser is known to panic on some malformed input.
		if p := recover(); p != nil {
			top.fail("cannot parse the file as YAML")
			root, ok = top, false
		}
	}()
	file, err := parser.ParseBytes(content, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		text := "cannot parse it"
		var y yaml.Error
		if errors.As(err, &y) {
			text = y.GetMessage()
			if t := y.GetToken(); t != nil && t.Position != nil {
				top.at = *t.Position
			}
		}
		quoted := strconv.Quote(text)
		top.fail("not valid YAML: %s", strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`))
		return top, false
	}
	var body ast.Node
	for _, d := range file.Docs {
		switch {
		case d.Body == nil:
		case body == nil:
			body = d.Body
		default:
			top.at = place(d.Body, top.at)
			top.fail("expected one YAML document; remove the second one")
			return top, false
		}
	}
	root = r.value("", body, top.at)
	if root.isNull() {
		expected := r.expected
		if expected == "" {
			expected = "coordinator, github, nodes, balancers, and apps"
		}
		root.fail("the file is empty; expected %s", expected)
		return root, false
	}
	return root, true
}

func firstInvalid(b []byte) int {
	for i := 0; i < len(b); {
		c, n := utf8.DecodeRune(b[i:])
		if c == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(b)
}
