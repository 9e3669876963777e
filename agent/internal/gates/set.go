package gates

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient/gate"
)

// lookEvery is how often the directory is looked at: soon enough after the
// agent wrote a definition, and cheap, for there are few.
const lookEvery = time.Second

// Set serves all gates of a directory. Its ServeHTTP is safe for use by several
// goroutines.
type Set struct {
	dir string
	log *slog.Logger

	mu     sync.RWMutex
	gates  map[string]*entry // by file name of the definition
	routes map[string]http.Handler
	silent string // why the directory cannot be read, as logged
}

// entry is one file with what was made of it.
type entry struct {
	text string     // that was last read, or why it could not be
	gate *gate.Gate // the last that was understood, or nil
}

// Open returns the gates of a directory as it is now. A directory that is not
// there yet is one without gates.
func Open(dir string, log *slog.Logger) *Set {
	s := &Set{dir: dir, log: log, gates: map[string]*entry{}}
	s.Refresh()
	return s
}

// Watch follows the directory until ctx ends.
func (s *Set) Watch(ctx context.Context) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.Refresh()
		}
	}
}

// Refresh takes over what changed in the directory. Gates whose definition is
// the same keep what they know of polls.
func (s *Set) Refresh() {
	names, err := s.list()
	why := ""
	if err != nil {
		why = err.Error()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if why != s.silent {
		s.silent = why
		if err != nil {
			s.log.Error("cannot read the definitions of the gates; those that are known go on", "error", err)
		}
	}
	if err != nil {
		return
	}
	changed := s.routes == nil
	for _, name := range slices.Sorted(maps.Keys(s.gates)) {
		if !slices.Contains(names, name) {
			s.log.Info("gate removed", "target", strings.TrimSuffix(name, suffix))
			delete(s.gates, name)
			changed = true
		}
	}
	for _, name := range names {
		changed = s.take(name) || changed
	}
	if changed {
		s.route()
	}
}

// list names the definitions, sorted.
func (s *Set) list() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// take reads one definition and tells whether anything about its gate changed.
// What makes no sense does not end a gate that answers: it says how the app is
// asked, and not whether it should be out.
func (s *Set) take(name string) bool {
	path := filepath.Join(s.dir, name)
	log := s.log.With("target", strings.TrimSuffix(name, suffix), "file", path)
	e := s.gates[name]
	b, err := os.ReadFile(path)
	text := string(b)
	if err != nil {
		text = "unreadable: " + err.Error()
	}
	if e != nil && e.text == text {
		return false
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false // it has just gone, as the next look will find
	}
	if e == nil {
		e = &entry{}
		s.gates[name] = e
	}
	e.text = text
	var g *gate.Gate
	var d Definition
	if err == nil {
		d, err = parse(b)
	}
	var f Files
	if err == nil {
		f, err = FilesOf(s.dir, strings.TrimSuffix(name, suffix))
	}
	if err == nil {
		g, err = d.open(f)
	}
	switch {
	case err == nil:
		e.gate = g
		log.Info("gate serves", "server", d.Server, "path", g.Path(), "app", d.Health.HTTP+d.Health.TCP)
	case e.gate != nil:
		log.Error("the gate's definition makes no sense; it goes on as before", "error", err)
		return false
	default:
		log.Error("the gate's definition makes no sense; the gate is closed", "error", err)
	}
	return true
}

// route gives each gate its paths. Of two at the same path the first by name
// has it; the other is not served, for neither's answer would be true of both.
func (s *Set) route() {
	s.routes = map[string]http.Handler{}
	for _, name := range slices.Sorted(maps.Keys(s.gates)) {
		e := s.gates[name]
		target := strings.TrimSuffix(name, suffix)
		if e.gate == nil {
			// Where it would be, unless it was to be elsewhere.
			if p := usualPath(target); s.routes[p] == nil {
				s.routes[p] = closed(name)
			}
			continue
		}
		for _, p := range []string{e.gate.Path(), e.gate.StatusPath()} {
			if _, bad := s.routes[p].(closed); s.routes[p] != nil && !bad {
				s.log.Error("two gates at one path; this one is not served", "target", target, "path", p)
				continue
			}
			s.routes[p] = e.gate
		}
	}
}

// usualPath is where the gate of a target, <app>@<node> or
// <app>@<node>:<instance>, is polled unless fleet.yaml says otherwise.
func usualPath(target string) string {
	app, place, _ := strings.Cut(target, "@")
	if _, instance, ok := strings.Cut(place, ":"); ok {
		return "/ready/" + app + "/" + instance
	}
	return "/ready/" + app
}

// closed answers for a target whose definition was never understood.
type closed string

func (c closed) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, fmt.Sprintf("closed: %s makes no sense", string(c)), gate.DefaultRefusal)
}

// ServeHTTP answers polls of every gate, and shows each one's status.
func (s *Set) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.RLock()
	h := s.routes[r.URL.Path]
	s.mu.RUnlock()
	if h == nil {
		http.Error(w, "no gate is here", http.StatusNotFound)
		return
	}
	h.ServeHTTP(w, r)
}
