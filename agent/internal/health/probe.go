package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// maxBody is how much of an answer is read before its status is believed.
const maxBody = 64 << 10

// Probe is one look at a target.
type Probe struct {
	At time.Time // when it began
	OK bool
	// Text says what was asked and what came of it, without credentials:
	// "GET http://127.0.0.1:8080/health: 502 Bad Gateway".
	Text string
	// Version is what the answer gives as its version, without what cannot be
	// shown; "" when it is not there, or nobody asked.
	Version string
}

// Probe looks once, for at most c.Timeout. Where both HTTP and TCP are set, both
// must pass within it. Every look opens a connection of its own, since a kept
// one may belong to a process that is about to go.
func (c Check) Probe(ctx context.Context) Probe {
	p := Probe{At: time.Now(), OK: true, Text: c.String()}
	limit := c.Timeout
	if limit <= 0 {
		limit = defaultTimeout
	}
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, look := range []struct {
		on   bool
		name string
		do   func(context.Context) (found, version string, err error)
	}{
		{c.TCP != "", c.tcp(), c.lookTCP},
		{c.HTTP != "", c.http(), c.lookHTTP},
	} {
		if !look.on {
			continue
		}
		found, version, err := look.do(within)
		switch {
		case err == nil:
		case within.Err() == nil:
			p.OK, found = false, cause(err)
		case ctx.Err() != nil:
			p.OK, found = false, fmt.Sprintf("broken off after %s without an answer", round(time.Since(p.At)))
		default:
			p.OK, found = false, "timeout after "+limit.String()
		}
		p.Text, p.Version = look.name+": "+found, version
		if !p.OK {
			break
		}
	}
	return p
}

func (c Check) http() string { return "GET " + redacted(c.HTTP) }
func (c Check) tcp() string  { return "TCP " + c.TCP }

func (c Check) lookTCP(ctx context.Context) (found, version string, err error) {
	conn, err := dial(ctx, "tcp", c.TCP)
	if err != nil {
		return "", "", err
	}
	_ = conn.Close() // nothing was written that could be lost
	return "connected", "", nil
}

func (c Check) lookHTTP(ctx context.Context) (found, version string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.HTTP, nil)
	if err != nil {
		return "", "", fmt.Errorf("not a URL that can be asked: %w", unwrapURL(err))
	}
	req.Header.Set("User-Agent", "lockstep-agent")
	// No proxy: what answers must be this target and nothing in between.
	client := http.Client{
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", "", unwrapURL(err)
	}
	defer resp.Body.Close()
	status := fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		if to := resp.Header.Get("Location"); to != "" {
			return "", "", fmt.Errorf("%s, a redirect to %s: a redirect is not healthy, check a page that answers 200 itself", status, redacted(to))
		}
		return "", "", fmt.Errorf("%s: a redirect is not healthy, check a page that answers 200 itself", status)
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return "", "", errors.New(status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return "", "", fmt.Errorf("%s, but the answer broke off: %s", status, cause(err))
	}
	if c.Version != nil {
		version = versionOf(c.Version, resp.Header, body)
	}
	return status, version, nil
}

// dial connects to a target. A port of the ephemeral range on which nobody
// listens can be given to the very connection that looks for it, which then
// connects to itself: that is no answer.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return dialWith(ctx, net.Dialer{}, network, addr)
}

func dialWith(ctx context.Context, d net.Dialer, network, addr string) (net.Conn, error) {
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if conn.LocalAddr().String() == conn.RemoteAddr().String() {
		_ = conn.Close()
		return nil, errSelf
	}
	return own.add(conn), nil
}

// redacted is a URL without its password.
func redacted(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "the configured URL"
	}
	return u.Redacted()
}

// unwrapURL drops the method and URL that net/http puts before every error.
func unwrapURL(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}
