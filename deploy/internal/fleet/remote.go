package fleet

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const source = "testdata/hello"

// makeRemote makes a bare repository whose post-receive hook tells the
// coordinator of every push, and a clone of it to push from.
func (f *Fleet) makeRemote(ctx context.Context) error {
	if err := f.git(ctx, f.Dir, "init", "-q", "--bare", "-b", "main", "hello.git"); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	hook := fmt.Sprintf("#!/bin/sh\nexec '%s' post-receive 'http://%s/webhook/github' '%s' '%s'\n",
		self, f.Coordinator, f.path("webhook-secret"), f.path("hello.git"))
	if err := os.WriteFile(f.path("hello.git", "hooks", "post-receive"), []byte(hook), 0o700); err != nil {
		return err
	}
	if err := f.git(ctx, f.Dir, "clone", "-q", f.path("hello.git"), "work"); err != nil {
		return err
	}
	for _, name := range []string{"go.mod", "main.go"} {
		b, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return fmt.Errorf("cannot read the sample app (run from the top of the repository): %w", err)
		}
		if err := os.WriteFile(f.path("work", name), b, 0o600); err != nil {
			return err
		}
	}
	return f.git(ctx, f.path("work"), "add", ".")
}

var constants = regexp.MustCompile(`(?m)^(\tversion = ").*(")$|^(\thealthy = ).*$`)

// Push commits a version of the app and pushes it.
func (f *Fleet) Push(ctx context.Context, version string, healthy bool) error {
	name := f.path("work", "main.go")
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	b = constants.ReplaceAllFunc(b, func(line []byte) []byte {
		if bytes.Contains(line, []byte("healthy")) {
			return fmt.Appendf(nil, "\thealthy = %v", healthy)
		}
		return fmt.Appendf(nil, "\tversion = %q", version)
	})
	if err := os.WriteFile(name, b, 0o600); err != nil {
		return err
	}
	if err := f.git(ctx, f.path("work"), "commit", "-qam", "hello "+version); err != nil {
		return err
	}
	return f.git(ctx, f.path("work"), "push", "-q", "origin", "main")
}

func (f *Fleet) git(ctx context.Context, dir string, args ...string) error {
	c := exec.CommandContext(ctx, "git", args...)
	c.Dir = dir
	c.Env = append(os.Environ(),
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=Demo", "GIT_AUTHOR_EMAIL=demo@localhost", "GIT_COMMITTER_NAME=Demo", "GIT_COMMITTER_EMAIL=demo@localhost")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// PostReceive is the remote's hook, with the arguments after the word
// post-receive that its program was called with: it sends each pushed ref as GitHub would.
func PostReceive(args []string, pushed io.Reader) error {
	if len(args) != 3 {
		return fmt.Errorf("usage: demo post-receive URL SECRET-FILE REPOSITORY < OLD-NEW-REF-LINES")
	}
	url, repo := args[0], args[2]
	secret, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(pushed)
	for lines.Scan() {
		ref := strings.Fields(lines.Text())
		if len(ref) != 3 {
			return fmt.Errorf("cannot read %q: expected an old and a new commit and a ref", lines.Text())
		}
		if err := deliver(url, bytes.TrimSpace(secret), repo, ref[0], ref[1], ref[2]); err != nil {
			return err
		}
	}
	return lines.Err()
}

func deliver(url string, secret []byte, repo, before, after, ref string) error {
	body, err := json.Marshal(map[string]any{
		"ref": ref, "before": before, "after": after,
		"repository":  map[string]any{"full_name": "demo/hello", "name": "hello", "clone_url": repo, "html_url": repo},
		"pusher":      map[string]any{"name": "demo"},
		"sender":      map[string]any{"login": "demo"},
		"head_commit": map[string]any{"id": after, "message": "pushed by the demonstration"},
		"commits":     []any{},
	})
	if err != nil {
		return err
	}
	sent, err := json.Marshal(time.Now())
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(repo, "delivered"), sent, 0o600); err != nil {
		return err
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-GitHub-Event", "push")
	req.Header.Set("X-GitHub-Delivery", rand.Text())
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return fmt.Errorf("cannot deliver the push: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusAccepted {
		return fmt.Errorf("the coordinator answered the push with %s: %s", resp.Status, answer)
	}
	return nil
}
