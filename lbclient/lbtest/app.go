package lbtest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient/lbtest/traffic"
)

// Front is the part of a [World] that is the same before any real balancer that
// forwards HTTP to apps: everything but the providers. Worlds embed it.
type Front struct {
	t      *testing.T
	URL    string                  // where the balancer answers, without a trailing slash
	Apps   map[string]*traffic.App // by target
	Names  []string                // of the targets
	client *http.Client
}

// NewFront starts apps w1, w2, ... which are the targets' names, too, for a
// balancer that the caller then starts, setting URL.
func NewFront(t *testing.T, apps int) *Front {
	t.Helper()
	return newFront(t, apps, func(a *traffic.App) string { return a.Name })
}

// NewFrontByAddress is [NewFront] for a balancer that knows its targets by their
// addresses.
func NewFrontByAddress(t *testing.T, apps int) *Front {
	t.Helper()
	return newFront(t, apps, func(a *traffic.App) string { return a.Address })
}

func newFront(t *testing.T, apps int, target func(*traffic.App) string) *Front {
	t.Helper()
	f := &Front{
		t: t, Apps: make(map[string]*traffic.App),
		// Each request comes on a connection of its own, as new visitors do.
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second},
	}
	for i := range apps {
		a := traffic.NewApp(t, fmt.Sprintf("w%d", i+1))
		f.Names = append(f.Names, target(a))
		f.Apps[target(a)] = a
	}
	return f
}

// At is the same targets behind another balancer, or another port of it.
func (f *Front) At(url string) *Front {
	out := *f
	out.URL = url
	return &out
}

// Targets implements [World].
func (f *Front) Targets() []string { return f.Names }

// SetHealthy implements [World].
func (f *Front) SetHealthy(target string, healthy bool) { f.Apps[target].SetHealthy(healthy) }

// Get implements [World]. It may be called from several goroutines.
func (f *Front) Get() (string, error) {
	name, err := f.fetch(f.URL + "/")
	for target, a := range f.Apps {
		if a.Name == name {
			return target, err
		}
	}
	return name, err
}

var errElsewhere = errors.New("another target answered")

func (f *Front) fetch(url string) (string, error) {
	r, err := f.client.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode == http.StatusConflict {
		err = errElsewhere
	} else if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", r.Status)
	}
	return string(body), err
}

// Hold implements [World].
func (f *Front) Hold(target string) func() error {
	f.t.Helper()
	a := f.Apps[target]
	ended := make(chan error, 1)
	go func() {
		for {
			_, err := f.fetch(f.URL + "/hold?for=" + a.Name)
			if !errors.Is(err, errElsewhere) {
				ended <- err
				return
			}
		}
	}()
	select {
	case <-a.Held:
	case err := <-ended:
		f.t.Fatalf("the request to hold ended early: %v", err)
	}
	return func() error {
		a.Finish <- struct{}{}
		return <-ended
	}
}

// Restart is a [Harness.Restart] for worlds that embed a Front.
func (f *Front) Restart(target string, while func()) { f.Apps[target].Restart(f.t, while) }

// Await polls until ok, and ends the test when that takes too long.
func (f *Front) Await(what string, ok func() bool) {
	f.t.Helper()
	eventually(f.t, what, ok)
}
