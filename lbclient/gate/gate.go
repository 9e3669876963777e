package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// Defaults of [Options].
const (
	DefaultPath       = "/ready"
	DefaultRefusal    = http.StatusServiceUnavailable
	DefaultAppTimeout = 2 * time.Second
)

const statusAdmitted = http.StatusOK

// OwnAgent begins the user agent of every look of our own, such as the one of
// a coordinator that looks at what a balancer checks. They are answered like
// anybody's polls, and do not count as the balancer's.
const OwnAgent = "lockstep-"

// statusSuffix follows the path at which the gate shows its [Status].
const statusSuffix = "/status"

// Options say for whom a gate answers, and how.
type Options struct {
	// Server is the target's name among the balancer's members.
	Server string
	// File keeps the state; its directory must exist and outlive a reboot.
	File string
	// HoldFile, if not "", closes the gate while it exists. It is for other
	// hands, and never touched.
	HoldFile string
	// Path is what the balancer polls; "" means [DefaultPath].
	Path string
	// Refusal is the status of a closed gate, 400 to 599; 0 means
	// [DefaultRefusal]. HAProxy's "http-check disable-on-404" wants 404.
	Refusal int
	// App asks the app whether it is healthy.
	App func(context.Context) error
	// AppTimeout bounds App; 0 means [DefaultAppTimeout]. It must be shorter than
	// the balancer waits for an answer.
	AppTimeout time.Duration
	// Check is how the balancer was configured to poll.
	Check lbclient.Timing
	// Pollers, if any, are the only addresses whose polls count. Everybody is
	// answered.
	Pollers []netip.Prefix
	// MinPollers is how many addresses must poll; 0 means 1. A pair of balancers
	// has 2.
	MinPollers int
}

func (o Options) check() error {
	switch {
	case o.Server == "":
		return errors.New("the gate has no server name")
	case !filepath.IsAbs(o.File):
		return fmt.Errorf("state file %q: want an absolute path", o.File)
	case o.HoldFile != "" && (!filepath.IsAbs(o.HoldFile) || o.HoldFile == o.File):
		return fmt.Errorf("hold file %q: want an absolute path other than the state file's", o.HoldFile)
	case o.Path != "" && (!path.IsAbs(o.Path) || path.Clean(o.Path) != o.Path || o.Path == "/"):
		return fmt.Errorf("path %q: want one such as %s", o.Path, DefaultPath)
	case o.Refusal != 0 && (o.Refusal < 400 || o.Refusal > 599):
		return fmt.Errorf("status %d of a closed gate: want 400 to 599", o.Refusal)
	case o.App == nil:
		return errors.New("the gate has nobody to ask whether the app is healthy")
	case o.Check.Interval <= 0 || o.Check.Timeout < 0 || o.Check.Fall < 1 || o.Check.Rise < 1:
		return errors.New("the balancer's check is not described: write its interval, timeout, fall and rise as they are set there")
	case o.AppTimeout < 0:
		return fmt.Errorf("app timeout %s: want more than 0", o.AppTimeout)
	case o.Check.Timeout > 0 && o.AppTimeout >= o.Check.Timeout:
		return fmt.Errorf("app timeout %s: the balancer waits only %s for an answer", o.AppTimeout, o.Check.Timeout)
	case o.MinPollers < 0 || o.MinPollers > maxPollers:
		return fmt.Errorf("%d pollers: want 0, for 1, to %d", o.MinPollers, maxPollers)
	}
	for _, p := range o.Pollers {
		if !p.IsValid() {
			return errors.New("a poller is no address range: want one such as 10.0.0.0/24")
		}
	}
	return nil
}

// Gate answers for one target. It is an [http.Handler] for its path and the
// status below it, and safe for use by several goroutines.
type Gate struct {
	o       Options
	started time.Time

	mu    sync.Mutex
	polls polls
	state state // as last read
	known bool  // whether state was ever read

	app sync.Mutex // one question to the app at a time
	at  time.Time  // of the last answer
	was error
}

// Open returns the gate as the state file says. Its errors are of class
// [lbclient.ClassInvalid].
func Open(o Options) (*Gate, error) {
	if o.AppTimeout == 0 {
		o.AppTimeout = DefaultAppTimeout
		if o.Check.Timeout > 0 {
			o.AppTimeout = min(o.AppTimeout, o.Check.Timeout*3/4)
		}
	}
	if err := o.check(); err != nil {
		return nil, &lbclient.Error{Class: lbclient.ClassInvalid, Op: fmt.Sprintf("make the gate of %q", o.Server), Err: err}
	}
	if o.Path == "" {
		o.Path = DefaultPath
	}
	if o.Refusal == 0 {
		o.Refusal = DefaultRefusal
	}
	o.MinPollers = max(1, o.MinPollers)
	o.Pollers = slices.Clone(o.Pollers)
	return &Gate{o: o, started: time.Now()}, nil
}

// Path is what the balancer polls.
func (g *Gate) Path() string { return g.o.Path }

// StatusPath is where the gate shows its [Status].
func (g *Gate) StatusPath() string { return StatusPath(g.o.Path) }

// StatusPath is where a gate that is polled at path shows its [Status].
func StatusPath(path string) string { return path + statusSuffix }

// read returns what the state file says now. While the file cannot be read, a
// state that was read before stands, so that a passing fault takes nobody out;
// one that is there and makes no sense is an error, as is one never read.
func (g *Gate) read() (state, error) {
	s, err := loadState(g.o.File, g.o.Server)
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err == nil:
		g.state, g.known = s, true
	case g.known && !errors.Is(err, errBadState):
		return g.state, nil
	}
	return s, err
}

// held tells whether another hand holds the gate closed. A hold file that
// cannot be looked at may be there.
func (g *Gate) held() bool {
	if g.o.HoldFile == "" {
		return false
	}
	_, err := os.Stat(g.o.HoldFile)
	return !errors.Is(err, os.ErrNotExist)
}

// health asks the app, unless it was asked a moment ago.
func (g *Gate) health() error {
	g.app.Lock()
	defer g.app.Unlock()
	fresh := min(g.o.Check.Interval/4, time.Second)
	if !g.at.IsZero() && time.Since(g.at) < fresh {
		return g.was
	}
	// Others may wait for the same answer, so it does not end with one request.
	ctx, cancel := context.WithTimeout(context.Background(), g.o.AppTimeout)
	defer cancel()
	g.was = g.o.App(ctx)
	if g.was == nil {
		g.was = ctx.Err()
	}
	g.at = time.Now()
	return g.was
}

// ServeHTTP answers polls, by any method, and shows the status.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	switch r.URL.Path {
	case g.StatusPath():
		g.show(w, r)
	case g.o.Path:
		g.poll(w, r)
	default:
		http.Error(w, "the gate is at "+g.o.Path, http.StatusNotFound)
	}
}

func (g *Gate) poll(w http.ResponseWriter, r *http.Request) {
	status, words := statusAdmitted, "open"
	if why := g.refuses(); why != "" {
		status, words = g.o.Refusal, why
	}
	w.WriteHeader(status)
	_, err := fmt.Fprintln(w, words)
	if err == nil && http.NewResponseController(w).Flush() == nil && r.Context().Err() == nil {
		g.note(r, status)
	}
}

// refuses says why a poll is refused; "" if it is not.
func (g *Gate) refuses() string {
	switch s, err := g.read(); {
	case err != nil:
		return "closed: the state is not known"
	case g.held():
		return "closed: held by another hand"
	case s.Drained:
		return "closed: drained"
	}
	if err := g.health(); err != nil {
		return "closed: the app is not healthy"
	}
	return ""
}

// note remembers a poll that was answered.
func (g *Gate) note(r *http.Request, status int) {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || strings.HasPrefix(r.UserAgent(), OwnAgent) {
		return // not over TCP, or our own, so no balancer
	}
	who := ap.Addr().Unmap().WithZone("")
	if len(g.o.Pollers) > 0 && !slices.ContainsFunc(g.o.Pollers, func(p netip.Prefix) bool { return p.Contains(who) }) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.polls.note(who, status, time.Now())
}

func (g *Gate) show(w http.ResponseWriter, r *http.Request) {
	s, err := g.Status(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(s) // whoever asked has left
}

// Status implements [Viewer].
func (g *Gate) Status(ctx context.Context) (Status, error) {
	if err := ctx.Err(); err != nil {
		return Status{}, err
	}
	s, err := g.read()
	out := Status{Server: g.o.Server, File: g.o.File, Drained: s.Drained, Held: g.held(), Check: g.o.Check, Started: g.started}
	if err != nil {
		out.Unreadable = err.Error()
	}
	// While the gate is closed the app is left alone: what is asked of it then
	// would pass for work that still arrives.
	if !out.Drained && !out.Held && out.Unreadable == "" {
		if err := g.health(); err != nil {
			out.Unhealthy = err.Error()
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	out.At = time.Now()
	since := g.started
	if s.At.After(since) && s.At.Before(out.At) {
		since = s.At
	}
	q := question{times: g.o.Check.Fall, timing: g.o.Check, least: g.o.MinPollers, must: s.Pollers, since: since, now: out.At}
	out.Refused = g.polls.known(q)
	q.admitted, q.times = true, g.o.Check.Rise
	out.Admitted = g.polls.known(q)
	out.Pollers = slices.Clone(g.polls.list)
	out.Epoch = g.started.UTC().Format(time.RFC3339Nano)
	for _, a := range g.polls.active(g.o.Check, out.At) {
		out.Epoch += "," + a.String()
	}
	out.Epoch = strings.TrimSuffix(out.Epoch, ",")
	return out, nil
}
