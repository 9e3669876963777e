package lbtest

import (
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// Snapshot is the provider's, which must not fail.
func Snapshot(t *testing.T, p lbclient.Provider) lbclient.Restore {
	t.Helper()
	r, err := p.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Drain begins a drain, which must not fail, if one other member serves.
func Drain(t *testing.T, p lbclient.Provider, r lbclient.Restore) {
	t.Helper()
	if err := p.BeginDrain(t.Context(), r, 1); err != nil {
		t.Fatal(err)
	}
}

// DrainStatus is the provider's, which must not fail.
func DrainStatus(t *testing.T, p lbclient.Provider, r lbclient.Restore) lbclient.DrainStatus {
	t.Helper()
	st, err := p.DrainStatus(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// Rejoin begins a rejoin, which must not fail.
func Rejoin(t *testing.T, p lbclient.Provider, r lbclient.Restore) {
	t.Helper()
	if err := p.BeginRejoin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

// RejoinStatus is the provider's, which must not fail.
func RejoinStatus(t *testing.T, p lbclient.Provider, r lbclient.Restore) lbclient.RejoinStatus {
	t.Helper()
	st, err := p.RejoinStatus(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// WantError wants an error of the class whose message names all of words.
func WantError(t *testing.T, err error, class lbclient.Class, words ...string) {
	t.Helper()
	if err == nil || lbclient.ClassOf(err) != class {
		t.Fatalf("got error %v (%s), want class %s", err, lbclient.ClassOf(err), class)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
}
