package haproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// maxAnswer caps one answer. A server takes about 700 bytes of "show stat", so
// this holds backends of tens of thousands of servers.
const maxAnswer = 16 << 20

// client speaks HAProxy's runtime API: a connection for each line of commands,
// which HAProxy answers and closes. The answer carries no status, so whether a
// change took place is only known from reading back.
type client struct {
	timeout time.Duration // of one line, from connecting to the last byte
}

// read asks commands that change nothing.
func (c client) read(ctx context.Context, e endpoint, op, line string) (string, error) {
	return c.ask(ctx, e, op, line, lbclient.ClassTransient)
}

// change asks one command that changes something, of which a lost answer is
// ambiguous. HAProxy answers such a command with an empty line when it took it
// and with a sentence when it did not.
func (c client) change(ctx context.Context, e endpoint, op, command string) error {
	answer, err := c.ask(ctx, e, op, command, lbclient.ClassAmbiguous)
	if err != nil {
		return err
	}
	if words := strings.TrimSpace(answer); words != "" {
		return refusal(op, words)
	}
	return nil
}

// refusal is the error for what HAProxy said instead of obeying.
func refusal(op, words string) error {
	e := &lbclient.Error{Op: op, Text: fmt.Sprintf("HAProxy answered %q", firstLine(words))}
	lower := strings.ToLower(words)
	switch {
	case strings.HasPrefix(lower, "permission denied"):
		e.Class = lbclient.ClassDenied
		e.Text += `; write "level admin" on this "stats socket" line of haproxy.cfg`
	case strings.HasPrefix(lower, "no such"), strings.HasPrefix(lower, "can't find"):
		e.Class = lbclient.ClassNotFound
	default:
		e.Class = lbclient.ClassUnsupported
	}
	return e
}

// firstLine shortens an answer to what fits in a message.
func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	return s
}

// ask sends one line and returns the whole answer. Once something was sent, a
// failure is of class lost.
func (c client) ask(ctx context.Context, e endpoint, op, line string, lost lbclient.Class) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("no complete answer within %s", c.timeout))
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, e.network, e.address)
	if err != nil {
		return "", dialError(ctx, op, err)
	}
	defer conn.Close()
	// The end of ctx, whatever its cause, ends the exchange.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return "", exchangeError(ctx, op, lost, err)
	}
	answer, err := io.ReadAll(io.LimitReader(conn, maxAnswer+1))
	if err != nil {
		return "", exchangeError(ctx, op, lost, err)
	}
	if len(answer) > maxAnswer {
		return "", &lbclient.Error{
			Class: lbclient.ClassUnsupported, Op: op,
			Text: fmt.Sprintf("the answer is longer than %d MiB", maxAnswer>>20),
		}
	}
	if len(answer) == 0 {
		return "", &lbclient.Error{Class: lost, Op: op, Text: "the connection was closed without an answer"}
	}
	return string(answer), nil
}

// nobody is the error of an instance to which no connection can be made.
type nobody struct{ err error }

func (n nobody) Error() string { return n.err.Error() }
func (n nobody) Unwrap() error { return n.err }

func dialError(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	// Only that the caller has no more time says nothing about the instance.
	gone := !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
	out := &lbclient.Error{Class: lbclient.ClassTransient, Op: op, Err: err}
	if gone && !errors.Is(err, fs.ErrPermission) {
		out.Err = nobody{err}
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		out.Class = lbclient.ClassDenied
		out.Text = "this user may not open the admin socket; give its group access with \"user\", \"group\" and \"mode\" on the \"stats socket\" line of haproxy.cfg"
	case errors.Is(err, fs.ErrNotExist):
		out.Text = "there is no such socket: is HAProxy running, and does its \"stats socket\" line name this path?"
	case errors.Is(err, syscall.ECONNREFUSED):
		out.Text = "nobody listens there: is HAProxy running?"
	}
	return out
}

func exchangeError(ctx context.Context, op string, lost lbclient.Class, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return &lbclient.Error{Class: lost, Op: op, Err: err}
}
