package health_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/agent/internal/health"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

const (
	sha     = "3f2a91c0d4e5f60718293a4b5c6d7e8f90a1b2c3"
	release = "3f2a91c0d4e5-a1b2c3"
)

func TestNames(t *testing.T) {
	for version, want := range map[string]bool{
		sha: true, sha[:7]: true, sha[:12]: true, sha[:20]: true, strings.ToUpper(sha[:9]): true, release: true,
		sha[:6]: false, "": false, "4" + sha[1:]: false, sha[:11] + "f": false, "v" + sha[:8]: false, sha + "0": false,
		release[:15]: false, "3f2a91c0d4e5-ffffff": false, sha[:8] + "-dirty": false,
	} {
		if got := health.Names(version, release); got != want {
			t.Errorf("Names(%q) = %t", version, got)
		}
	}
	if health.Names("old-1234", "old-1") || !health.Names("old-1", "old-1") {
		t.Error("an id of another kind is not compared as a whole")
	}
}

func TestVersionInTheAnswer(t *testing.T) {
	for _, tc := range []struct {
		where        api.Version
		header, body string
		want, said   string
	}{
		{api.Version{Header: "X-Version"}, sha, "", sha, `answers as version "` + sha + `" (header X-Version)`},
		{api.Version{Header: "X-Version"}, " 3f2a91c\t", "", "3f2a91c", "3f2a91c"},
		{api.Version{Header: "X-Version"}, "", "", "", "has no header X-Version"},
		{api.Version{JSON: "version"}, "", `{"version": "3f2a91c", "ok": true}`, "3f2a91c", `(JSON field version)`},
		{api.Version{JSON: "build.git.sha"}, "", `{"build": {"git": {"sha": "3f2a91c"}}}`, "3f2a91c", ""},
		{api.Version{JSON: "build.sha"}, "", `{"build": "3f2a91c"}`, "", "has no JSON field build.sha"},
		{api.Version{JSON: "version"}, "", `{"version": 3}`, "", ""},
		{api.Version{JSON: "version"}, "", `<html>`, "", "has no JSON field version"},
		{api.Version{JSON: "version"}, "", `{"version": "a\u001b[31mb"}`, "a[31mb", ""},
		{api.Version{Header: "X-Version"}, strings.Repeat("x", 200), "", strings.Repeat("x", 80) + "…", ""},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if tc.header != "" {
				w.Header().Set("X-Version", tc.header)
			}
			fmt.Fprint(w, tc.body)
		}))
		c := health.FromAPI(api.HealthCheck{HTTP: s.URL, Version: &tc.where})
		p := c.Probe(t.Context())
		if !p.OK || p.Version != tc.want || !strings.Contains(c.Answered(p), tc.said) {
			t.Errorf("%+v, %q: %+v, %q", tc.where, tc.body, p, c.Answered(p))
		}
		s.Close()
	}
}

func FuzzVersion(f *testing.F) {
	f.Add(`{"build": {"sha": "3f2a91c"}}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, body string) {
		s := health.VersionOf(&api.Version{JSON: "build.sha"}, nil, []byte(body))
		if strings.ContainsAny(s, "\x1b\n\x00") || len([]rune(s)) > 81 {
			t.Errorf("%q of %q", s, body)
		}
	})
}
