package quiesce

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// watch is what the looks at one drain have shown so far.
type watch struct {
	cfg   Config
	since time.Time       // of the first look, or of the last new connection
	known map[uint64]bool // connections that were there before since
}

// finding is what one look shows.
type finding struct {
	fresh   []socket // appeared since the last look
	working []socket
	quiet   int           // connections that are open and do not work
	left    time.Duration // until the quiet window is over
}

// look judges one list of sockets.
func (w *watch) look(now time.Time, list []socket) finding {
	first := w.known == nil
	if first {
		w.known, w.since = make(map[uint64]bool), now
	}
	var f finding
	for _, s := range list {
		if s.peer.Port() == 0 || w.ignored(s.peer.Addr()) || w.cfg.Own != nil && w.cfg.Own(s.peer, s.kept()) { // no peer: it listens
			continue
		}
		if !w.known[s.id] {
			w.known[s.id] = true
			if !first && !w.cfg.ChecksOnPort {
				f.fresh = append(f.fresh, s)
				w.since = now
			}
		}
		switch {
		case !s.open():
		case w.works(s):
			f.working = append(f.working, s)
		default:
			f.quiet++
		}
	}
	f.left = max(0, w.cfg.Quiet-now.Sub(w.since))
	return f
}

func (w *watch) ignored(peer netip.Addr) bool {
	return slices.ContainsFunc(w.cfg.Ignore, func(p netip.Prefix) bool { return p.Contains(peer) })
}

// works tells whether a connection may carry work. A peer that spoke last waits
// for an answer, however long the app takes over it.
func (w *watch) works(s socket) bool {
	switch {
	case s.queued, min(s.sent, s.received) < w.cfg.Quiet:
		return true
	case s.unanswered, s.received < s.sent:
		return w.cfg.AnswerWithin == 0 || s.received < w.cfg.AnswerWithin
	}
	return false
}

// peers names the first few peers, for people.
func peers(list []socket) string {
	const most = 3
	var out []string
	for i, s := range list {
		if i == most {
			out = append(out, fmt.Sprintf("and %d more", len(list)-most))
			break
		}
		out = append(out, fmt.Sprintf("%s to port %d", s.peer, s.port))
	}
	return strings.Join(out, ", ")
}
