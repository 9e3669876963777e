package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// MaxHaves is how many commits an agent names that it has.
const MaxHaves = 16

// Why a commit cannot be sent: an [Error.Reason] of [Client.Source].
const (
	SourceUnknownCommit = "unknown_commit"
	SourceDenied        = "denied"
	SourceNoRepository  = "no_repository"
	SourceHostKey       = "host_key"
	SourceUnreachable   = "unreachable"
	SourceBad           = "bad" // it is as its author made it and cannot be used
)

// Source returns the commit of a release, with its tree and submodules and without
// its history, as a git pack that builds on the commits in haves. The caller closes it; a pack
// that is cut off has no trailer. The release must be one of an app of the
// agent's own node.
func (c *Client) Source(ctx context.Context, app, release string, haves []string) (io.ReadCloser, error) {
	address := c.base + "/agent/v1/source/" + url.PathEscape(app) + "/" + url.PathEscape(release)
	if q := (url.Values{"have": haves[:min(len(haves), MaxHaves)]}); len(haves) > 0 {
		address += "?" + q.Encode()
	}
	resp, err := c.stream(ctx, address, 0)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// LargeFile returns the content of the file in Git LFS at a path of the commit of a
// release, from an offset on. The caller closes it, and verifies what it read: one
// that is cut off is to be asked for again from there.
func (c *Client) LargeFile(ctx context.Context, app, release, path string, offset int64) (io.ReadCloser, error) {
	address := c.base + "/agent/v1/source/" + url.PathEscape(app) + "/" + url.PathEscape(release) + "/large?" + url.Values{"path": {path}}.Encode()
	resp, err := c.stream(ctx, address, offset)
	if err != nil {
		return nil, err
	}
	if from, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)); offset > 0 && (!ok || from == "") {
		resp.Body.Close()
		return nil, &AnswerError{Method: http.MethodGet, URL: address, Status: resp.StatusCode, What: "a part of a file that was not asked for"}
	}
	return resp.Body, nil
}

// stream asks for what may be long and take long, and leaves reading it to the
// caller.
func (c *Client) stream(ctx context.Context, address string, offset int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot make a request for %s: %w", address, err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("User-Agent", c.userAgent)
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	// However long it takes, the context decides; and whoever reads tries again.
	once := http.Client{Transport: c.prompt.HTTPClient.Transport, CheckRedirect: c.prompt.HTTPClient.CheckRedirect}
	resp, err := once.Do(req)
	if err != nil {
		return nil, c.callError(ctx, req.Method, address, err)
	}
	if resp.StatusCode == http.StatusOK || (offset > 0 && resp.StatusCode == http.StatusPartialContent) {
		return resp, nil
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil {
		return nil, c.callError(ctx, req.Method, address, err)
	}
	return nil, refusal(req.Method, address, resp, answer)
}
