package traffic

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// idHeader numbers requests, so that one which was carried out although its
// answer was lost is told from one that never arrived.
const idHeader = "X-Visit"

// Kinds of visits.
const (
	Get  = "GET"
	Post = "POST"
	Long = "slow GET"
)

// Tally counts the visits of one kind.
type Tally struct {
	Sent int
	// IdleResets are requests sent on a kept connection that the balancer was
	// closing, or had closed, at that moment: no byte of an answer came and no
	// application carried them out. They were sent again.
	IdleResets int
	// NewResets are requests on a connection just opened that the balancer closed
	// without a byte of an answer, and that no application carried out. They were
	// sent again.
	NewResets int
	// Lost are requests on a kept connection that the balancer closed at that
	// moment without a byte of an answer, though an application carried them out.
	// Nobody can tell them from idle resets, or repeat them safely.
	Lost int
	// Failed are all others that got no answer, or a wrong one.
	Failed int
}

// Visitors send requests until they are stopped, each on a connection that it
// keeps as long as it can. They repeat nothing except what was reset before
// anybody answered, and count that, so every failure is seen.
type Visitors struct {
	apps []*App
	stop chan struct{}
	wg   sync.WaitGroup

	mu       sync.Mutex
	tallies  map[string]*Tally
	failures []string
	resets   []reset
}

// reset is a request that was reset.
type reset struct {
	id, kind string
	cause    error
}

// Visit starts visitors of a balancer before the given applications.
func Visit(url string, apps []*App) *Visitors {
	v := &Visitors{apps: apps, stop: make(chan struct{}), tallies: make(map[string]*Tally)}
	for _, kind := range []string{Get, Post, Long} {
		v.tallies[kind] = &Tally{}
		for i := range 2 {
			one := &visitor{all: v, kind: kind, host: strings.TrimPrefix(url, "http://"), name: fmt.Sprintf("%s %d", kind, i)}
			v.wg.Go(one.run)
		}
	}
	return v
}

// Stop ends the visits and returns their count by kind.
func (v *Visitors) Stop() map[string]Tally {
	close(v.stop)
	v.wg.Wait()
	out := make(map[string]Tally)
	for _, r := range v.resets {
		t, lost := v.tallies[r.kind], ""
		for _, a := range v.apps {
			if a.carriedOut(r.id) > 0 {
				lost = a.Name
			}
		}
		switch {
		case lost != "":
			if errors.Is(r.cause, errIdleReset) {
				t.Lost++
			} else {
				t.Failed++
			}
			v.failures = append(v.failures, fmt.Sprintf("%s: carried out by %s, but its answer was lost", r.id, lost))
		case errors.Is(r.cause, errIdleReset):
			t.IdleResets++
		default:
			t.NewResets++
		}
	}
	for kind, t := range v.tallies {
		out[kind] = *t
	}
	return out
}

// Failures says what failed or was lost.
func (v *Visitors) Failures() []string { return v.failures }

// Table shows counts for people.
func Table(title string, tallies map[string]Tally) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\tsent\tfailed\tidle keep-alive resets\tnew connection resets\tcarried out, answer lost\n", title)
	for _, kind := range []string{Get, Post, Long} {
		t := tallies[kind]
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\n", kind, t.Sent, t.Failed, t.IdleResets, t.NewResets, t.Lost)
	}
	_ = w.Flush() // into memory
	return b.String()
}

type visitor struct {
	all  *Visitors
	kind string
	name string
	host string
	conn net.Conn
	in   *bufio.Reader
	used int // answers on this connection
}

// Between two visits a kept connection lies idle for a moment.
const between = 3 * time.Millisecond

func (v *visitor) run() {
	defer v.hangUp()
	for n := 0; ; n++ {
		select {
		case <-v.all.stop:
			return
		case <-time.After(between):
		}
		id := fmt.Sprintf("%s request %d", v.name, n)
		err := v.visit(id)
		for again := 0; again < 3 && (errors.Is(err, errIdleReset) || errors.Is(err, errNewReset)); again++ {
			v.count(id, err)
			id += " again"
			err = v.visit(id)
		}
		v.count(id, err)
	}
}

var (
	errIdleReset = errors.New("the kept connection was closed")
	errNewReset  = errors.New("the new connection was closed")
)

func (v *visitor) count(id string, err error) {
	v.all.mu.Lock()
	defer v.all.mu.Unlock()
	t := v.all.tallies[v.kind]
	t.Sent++
	switch {
	case errors.Is(err, errIdleReset), errors.Is(err, errNewReset):
		v.all.resets = append(v.all.resets, reset{id, v.kind, err})
	case err != nil:
		t.Failed++
		v.all.failures = append(v.all.failures, fmt.Sprintf("%s: %v", id, err))
	}
}

func (v *visitor) hangUp() {
	if v.conn != nil {
		v.conn.Close()
	}
	v.conn, v.used = nil, 0
}

func (v *visitor) visit(id string) error {
	if v.conn == nil {
		conn, err := net.Dial("tcp", v.host)
		if err != nil {
			return err
		}
		v.conn, v.in = conn, bufio.NewReader(conn)
	}
	if err := v.conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	method, path, body := http.MethodGet, "/", ""
	switch v.kind {
	case Post:
		method, body = http.MethodPost, id
	case Long:
		path = "/slow"
	}
	q, err := http.NewRequest(method, "http://"+v.host+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	q.Header.Set(idHeader, id)
	err = q.Write(v.conn)
	if err == nil {
		_, err = v.in.Peek(1)
	}
	if err != nil {
		kept := v.used > 0
		v.hangUp()
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			return err
		case kept:
			return fmt.Errorf("%w: %w", errIdleReset, err)
		}
		return fmt.Errorf("%w: %w", errNewReset, err)
	}
	if err := v.answer(q, body); err != nil {
		v.hangUp()
		return err
	}
	return nil
}

func (v *visitor) answer(q *http.Request, want string) error {
	a, err := http.ReadResponse(v.in, q)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	got, err := io.ReadAll(a.Body)
	if err != nil {
		return err
	}
	if a.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", a.Status)
	}
	if want != "" && string(got) != want {
		return fmt.Errorf("the answer is %q, want %q", got, want)
	}
	v.used++
	if a.Close {
		v.hangUp()
	}
	return nil
}
