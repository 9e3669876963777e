package haproxy

import (
	"fmt"
	"strings"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// adminState is HAProxy's srv_admin_state, a set of bits. What is decided about
// drains is decided from it and never from the status text, which says DOWN for
// a drained server whose check fails.
type adminState uint64

const (
	forcedMaint    adminState = 0x01 // by command, or "disabled" in the configuration
	inheritedMaint adminState = 0x02 // follows a tracked server
	disabledInFile adminState = 0x04 // remembers "disabled"; by itself keeps nobody out
	forcedDrain    adminState = 0x08 // by command: the only bit set by this package
	inheritedDrain adminState = 0x10
	resolverMaint  adminState = 0x20 // no address from DNS
	hostnameMaint  adminState = 0x40

	anyMaint = forcedMaint | inheritedMaint | resolverMaint | hostnameMaint
	anyDrain = forcedDrain | inheritedDrain
)

func (a adminState) maintenance() bool { return a&anyMaint != 0 }
func (a adminState) drained() bool     { return a&forcedDrain != 0 }

// String says who holds the server out, for messages.
func (a adminState) String() string {
	switch {
	case a&forcedMaint != 0 && a&disabledInFile != 0:
		return `in maintenance ("disabled" in haproxy.cfg)`
	case a&forcedMaint != 0:
		return "in maintenance (by command)"
	case a&inheritedMaint != 0:
		return "in maintenance (as the server it tracks)"
	case a&(resolverMaint|hostnameMaint) != 0:
		return "in maintenance (its host name gives no address)"
	case a&forcedDrain != 0:
		return "drained (by command)"
	case a&inheritedDrain != 0:
		return "drained (as the server it tracks)"
	}
	return "ready"
}

// opState is HAProxy's srv_op_state.
type opState int64

const (
	opStopped  opState = 0 // down
	opStarting opState = 1 // up, in slowstart
	opRunning  opState = 2
	opStopping opState = 3 // soft stop by the check ("disable-on-404")
)

// Bits of srv_check_state, and values of srv_check_result from which on the
// last check counts as passed.
const (
	checkConfigured = 0x02
	checkEnabled    = 0x04 // cleared by "disable health"
	resultUnknown   = 0
	resultPassed    = 3
)

// server is one server in one backend of one instance.
type server struct {
	backend string
	stateRow
	statRow
	// follows is the server at the end of the chain of tracked ones, whose check
	// speaks for this one; nil if the check is its own.
	follows *server
}

func (s *server) name() string  { return s.stateRow.server }
func (s *server) place() string { return s.backend + "/" + s.name() }

// checked returns the server whose check decides, and whether it has one. Where
// there is none, or an operator has switched it off, HAProxy knows no better
// than to call the server healthy.
func (s *server) checked() (*server, bool) {
	if s.follows != nil {
		s = s.follows
	}
	const both = checkConfigured | checkEnabled
	return s, s.checkState&both == both
}

// judged tells whether any check has ended yet. "* " marks one under way.
func (s *server) judged() bool {
	switch strings.TrimPrefix(s.checkStatus, "* ") {
	case "", "INI", "UNK":
		return false
	}
	return true
}

// healthy tells whether the last word on the server is good without doubt.
// HAProxy calls a server UP from its start until checks fail "fall" times, and
// again when maintenance ends; only a check that passed brings health to its
// full height, which tells "UP" from "UP 1/2". While a check is under way there
// is no result, and that height alone tells how the one before it ended.
func (s *server) healthy() bool {
	by, has := s.checked()
	if !has {
		return true
	}
	if !by.judged() || by.result != resultUnknown && by.result < resultPassed {
		return false
	}
	return by.health >= by.rise+by.fall-1
}

// undecided tells whether a stopped server awaits a verdict: never checked, or
// on its way up ("DOWN 1/2").
func (s *server) undecided() bool {
	by, has := s.checked()
	return has && (!by.judged() || by.health > 0)
}

func (s *server) phase() lbclient.Phase {
	switch {
	case s.admin.maintenance():
		return lbclient.PhaseForeignOut
	case s.admin&anyDrain != 0:
		return lbclient.PhaseDraining
	case s.weight == 0:
		return lbclient.PhaseForeignOut
	}
	switch s.op {
	case opStopped:
		if s.undecided() {
			return lbclient.PhasePending
		}
		return lbclient.PhaseUnhealthy
	case opStarting:
		return lbclient.PhasePending
	case opRunning:
		if s.healthy() {
			return lbclient.PhaseServing
		}
		return lbclient.PhasePending
	case opStopping:
		return lbclient.PhaseUnhealthy
	}
	return lbclient.PhaseUnknown
}

// takesWork tells whether HAProxy may choose the server for new work now, which
// it also does before it is sure that the server is well.
func (s *server) takesWork() bool {
	return s.admin&(anyMaint|anyDrain) == 0 && s.weight > 0 && s.op != opStopped && s.op != opStopping
}

// inFlight counts requests (TCP mode: connections) with the server and waiting
// for it.
func (s *server) inFlight() int64 { return s.current + s.queued }

// words is how HAProxy describes the server.
func (s *server) words() string {
	text := s.status
	if s.checkStatus != "" {
		text += ", check " + s.checkStatus
	}
	if s.tracked != "" {
		text += ", tracks " + s.tracked
	}
	if s.weight == 0 {
		text += ", weight 0"
	}
	if s.backup {
		text += ", backup"
	}
	return text
}

// pool is one backend of one instance.
type pool struct {
	name    string
	servers []*server
}

func (p *pool) find(name string) *server {
	for _, s := range p.servers {
		if s.name() == name {
			return s
		}
	}
	return nil
}

// othersServing counts the members beside s that HAProxy finds healthy. A
// backup server stands in for a regular one only as a last resort (it often
// shows an apology), so it counts only beside another backup.
func (p *pool) othersServing(s *server) (n int, why string) {
	for _, o := range p.servers {
		if o == s {
			continue
		}
		counts := o.phase() == lbclient.PhaseServing && (!o.backup || s.backup)
		if counts {
			n++
			continue
		}
		if why != "" {
			why += "; "
		}
		why += fmt.Sprintf("%s is %s", o.name(), o.words())
	}
	if why == "" {
		why = "it has no other members"
		if n > 0 {
			why = fmt.Sprintf("only %d other members exist", n)
		}
	}
	return n, why
}
