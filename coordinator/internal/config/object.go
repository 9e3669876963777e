package config

import (
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// object is a mapping whose keys were read; keys that came twice count once.
type object struct {
	value
	keys   []string // in the order of the file
	values map[string]value
	places map[string]value // of the keys themselves
}

// object reads v as a mapping. With known keys, any other is a problem.
func (v value) object(write string, known ...string) (object, bool) {
	o := object{value: v, values: map[string]value{}, places: map[string]value{}}
	m, ok := v.node.(*ast.MappingNode)
	if !ok {
		v.fail("expected a mapping, got %s; write %s", v.what(), write)
		return o, false
	}
	for _, pair := range m.Values {
		at := place(pair.Key, v.at)
		name, ok := keyName(pair.Key)
		if !ok {
			value{r: v.r, path: v.path, at: at}.fail("expected a plain key, got %s", quoted(pair.Key.String()))
			continue
		}
		spot := value{r: v.r, path: join(v.path, name), at: at}
		if first, twice := o.places[name]; twice {
			spot.fail("given twice, first in line %d; remove one", first.at.Line)
			continue
		}
		if len(known) > 0 && !slices.Contains(known, name) {
			if near := nearest(name, known); v.hidden() {
				spot.path = v.path
				spot.fail("unknown key; expected %s", either(known))
			} else if near != "" {
				spot.fail("unknown key; did you mean %q?", near)
			} else {
				spot.fail("unknown key; expected %s", either(known))
			}
			continue
		}
		o.keys = append(o.keys, name)
		o.places[name] = spot
		o.values[name] = v.r.value(spot.path, pair.Value, at)
	}
	return o, true
}

// get is the value of a key; one that is missing stands where its mapping does.
func (o object) get(key string) (value, bool) {
	v, ok := o.values[key]
	if !ok {
		v = value{r: o.r, path: join(o.path, key), at: o.at}
	}
	return v, ok
}

func (o object) has(key string) bool {
	_, ok := o.values[key]
	return ok
}

// need is the value of a key that must be there.
func (o object) need(key, write string) (value, bool) {
	v, ok := o.get(key)
	if !ok {
		v.fail("missing; write %s: %s", key, write)
	}
	return v, ok
}

func (o object) duration(key string, otherwise, least, most time.Duration) time.Duration {
	if v, ok := o.get(key); ok {
		if d, ok := v.duration(least, most); ok {
			return d
		}
	}
	return otherwise
}

func (o object) count(key string, otherwise, least, most int) int {
	if v, ok := o.get(key); ok {
		if i, ok := v.count(least, most); ok {
			return i
		}
	}
	return otherwise
}

func (o object) flag(key string, otherwise bool) bool {
	if v, ok := o.get(key); ok {
		if b, ok := v.flag(); ok {
			return b
		}
	}
	return otherwise
}

// word is one of words, the first of which is the default.
func (o object) word(key string, words ...string) string {
	if v, ok := o.get(key); ok {
		if w, ok := v.word(words...); ok {
			return w
		}
	}
	return words[0]
}

func keyName(k ast.MapKeyNode) (string, bool) {
	if s, ok := k.(*ast.StringNode); ok {
		return s.Value, true
	}
	// A key such as 1 or true: its spelling, to be judged as a name.
	if s, ok := k.(ast.ScalarNode); ok && k.GetToken() != nil && k.GetToken().Type != token.MergeKeyType {
		return s.GetToken().Value, true
	}
	return "", false
}

func join(path, key string) string {
	if strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r == ':' || r == 0x7f }) || len(key) > 100 {
		key = quoted(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// nearest is the known key that name is most likely a slip of, or "".
func nearest(name string, known []string) string {
	best, least := "", 3
	if len(name) > 40 {
		return ""
	}
	for _, k := range known {
		if d := distance(strings.ToLower(strings.ReplaceAll(name, "-", "_")), k); d < least && d < len(k)-1 {
			best, least = k, d
		}
	}
	return best
}

// distance is the number of letters to insert, remove, or replace.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
