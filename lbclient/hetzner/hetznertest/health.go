package hetznertest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// maxContent is how much of an answer is searched for the wanted content.
const maxContent = 64 << 10

// watch probes one point until ctx ends.
func (s *service) watch(ctx context.Context, p *point, check Check) {
	interval := time.Duration(check.Interval) * s.cloud.opt.Second
	for {
		begun := time.Now()
		w := s.look(ctx, p, check)
		if ctx.Err() != nil {
			return
		}
		s.judge(p, check, w)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(begun.Add(interval))):
		}
	}
}

// judge lets a status change after as many equal results as the check wants.
func (s *service) judge(p *point, check Check, w lastWords) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.status == "healthy" {
		p.passes, p.bads = p.passes+1, 0
	} else {
		p.passes, p.bads = 0, p.bads+1
	}
	if p.passes >= check.Retries || p.bads >= check.Retries {
		p.now = w
	}
	if !s.stale {
		p.told = p.now
	}
}

// look probes once.
func (s *service) look(ctx context.Context, p *point, check Check) lastWords {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(check.Timeout)*s.cloud.opt.Second)
	defer cancel()
	bad := func(detail string) lastWords { return lastWords{status: "unhealthy", detail: detail} }
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.probed)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return bad("layer4_no_connection")
	case err != nil:
		return bad("layer4_timeout")
	}
	if check.Protocol == "tcp" {
		conn.Close()
		return lastWords{status: "healthy"}
	}
	t := &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		DisableKeepAlives: true,
	}
	defer conn.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.probed+check.Path, nil)
	if err != nil {
		return bad("unspecified")
	}
	if check.Domain != "" {
		req.Host = check.Domain
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return bad("layer7_timeout")
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxContent))
	switch {
	case err != nil:
		return bad("layer7_timeout")
	case !slices.ContainsFunc(check.StatusCodes, func(pattern string) bool { return fits(pattern, resp.StatusCode) }):
		return lastWords{status: "unhealthy", detail: "unexpected_http_status", httpStatus: resp.StatusCode}
	case !strings.Contains(string(content), check.Response):
		return lastWords{status: "unhealthy", detail: "unexpected_http_content", httpStatus: resp.StatusCode}
	}
	return lastWords{status: "healthy"}
}

// fits compares a status with a pattern such as 2?? or 404.
func fits(pattern string, status int) bool {
	text := strconv.Itoa(status)
	if len(pattern) != len(text) {
		return false
	}
	for i := range pattern {
		if pattern[i] != '?' && pattern[i] != text[i] {
			return false
		}
	}
	return true
}
