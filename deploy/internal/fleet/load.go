package fleet

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Load sends requests through the balancer for as long as it runs and counts
// what a client would notice. It speaks over plain connections, because
// net/http quietly sends some requests again when a connection breaks.
type Load struct {
	Addr string // of the balancer
	// Resets is for a balancer that closes kept connections. Workers then look
	// whether theirs was closed before they use it again, as every client does, and
	// count apart a request on one that was closed without a byte of an answer.
	Resets bool
	wg     sync.WaitGroup

	mu     sync.Mutex
	counts map[string]*Count // by kind of request
	served map[string]int    // by version that answered
	errors []string
}

// Count is how many requests of a kind were sent, and how many of them failed.
// Reset ones are not among the failed.
type Count struct{ Sent, Failed, Reset int }

// errReset stands for a kept connection that was closed before any answer.
var errReset = errors.New("the kept connection was closed without an answer")

// maxErrors bounds how many failures are kept in words.
const maxErrors = 10

// Start runs the workers of every kind until ctx ends.
func (l *Load) Start(ctx context.Context) {
	l.counts, l.served = map[string]*Count{}, map[string]int{}
	for kind, w := range map[string]struct {
		workers int
		pause   time.Duration
		request func(i int) string
	}{
		"keep-alive GET": {4, 10 * time.Millisecond, func(int) string { return get("/") }},
		"slow GET":       {3, 20 * time.Millisecond, func(i int) string { return get(fmt.Sprintf("/slow?ms=%d", 100+(i%8)*100)) }},
		"POST": {2, 15 * time.Millisecond, func(i int) string {
			body := strings.Repeat("x", 1+(i*997)%20000)
			return fmt.Sprintf("POST /echo HTTP/1.1\r\nHost: demo\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}},
	} {
		l.counts[kind] = &Count{}
		for range w.workers {
			l.wg.Go(func() { l.work(ctx, kind, w.pause, w.request) })
		}
	}
}

func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: demo\r\n\r\n" }

// Wait returns when every worker has had its last answer.
func (l *Load) Wait() { l.wg.Wait() }

// work sends one request after the other over one connection that is kept.
func (l *Load) work(ctx context.Context, kind string, pause time.Duration, request func(i int) string) {
	var conn net.Conn
	var r *bufio.Reader
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for i := 0; ctx.Err() == nil; i++ {
		version, err := func() (string, error) {
			if l.Resets && conn != nil && gone(conn) {
				conn.Close()
				conn = nil
			}
			kept := conn != nil
			if !kept {
				c, err := net.DialTimeout("tcp", l.Addr, 5*time.Second)
				if err != nil {
					return "", err
				}
				conn, r = c, bufio.NewReader(c)
			}
			version, err := exchange(conn, r, request(i))
			if l.Resets && kept && errors.Is(err, errReset) {
				return "", errReset
			} else if err != nil {
				return "", err
			}
			return version, nil
		}()
		l.record(kind, version, err)
		if err != nil && conn != nil {
			conn.Close()
			conn = nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// exchange sends a request and reads its whole answer.
func exchange(conn net.Conn, r *bufio.Reader, request string) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return "", fmt.Errorf("cannot send: %w", closed(err))
	}
	if _, err := r.Peek(1); err != nil {
		return "", fmt.Errorf("no answer: %w", closed(err))
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return "", fmt.Errorf("no answer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", fmt.Errorf("answer cut short: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %s: %.80s", resp.Status, bytes.TrimSpace(body))
	}
	if sent := request[strings.Index(request, "\r\n\r\n")+4:]; sent != "" && string(body) != sent {
		return "", fmt.Errorf("the answer to a POST of %d bytes has %d bytes", len(sent), len(body))
	}
	if strings.HasPrefix(request, "POST") {
		return "", nil
	}
	return string(bytes.TrimSpace(body)), nil
}

// gone tells whether the other side has closed a connection that is not in use.
func gone(conn net.Conn) bool {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return true
	}
	open := false
	err = raw.Read(func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		open = err == syscall.EAGAIN // anything to read here is the end
		return true
	})
	return err != nil || !open
}

// closed is err, marked where the other side closed the connection.
func closed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("%w: %w", errReset, err)
	}
	return err
}

func (l *Load) record(kind, version string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[kind].Sent++
	if version != "" {
		l.served[version]++
	}
	if err == errReset {
		l.counts[kind].Reset++
		return
	}
	if err != nil {
		l.counts[kind].Failed++
		if len(l.errors) < maxErrors {
			l.errors = append(l.errors, fmt.Sprintf("%s %s: %v", time.Now().Format(time.TimeOnly), kind, err))
		}
	}
}

// Result is what a client would have noticed.
type Result struct {
	Kinds  map[string]Count // by kind of request
	All    Count
	Served map[string]int // answers by version
	Errors []string       // the first failures, in words
}

// Result is to be read after Wait.
func (l *Load) Result() Result {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := Result{Kinds: map[string]Count{}, Served: l.served, Errors: l.errors}
	for kind, c := range l.counts {
		r.Kinds[kind] = *c
		r.All.Sent += c.Sent
		r.All.Failed += c.Failed
		r.All.Reset += c.Reset
	}
	return r
}
