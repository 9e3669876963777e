package config

import "testing"

func TestCredentialsStayAtTheirHost(t *testing.T) {
	for _, c := range []struct {
		repo, module string
		want         bool
	}{
		{"https://github.com/acme/app", "https://github.com/acme/app", true},
		{"https://github.com/acme/app", "https://github.com/other/lib", true},
		{"https://github.com/acme/app", "https://github.com.evil/acme/lib", false},
		{"https://github.com/acme/app", "http://github.com/acme/lib", false},
		{"https://github.com/acme/app", "https://github.com:8443/acme/lib", false},
		{"https://github.com/acme/app", "git@github.com:acme/lib", false},
		{"git@github.com:acme/app", "ssh://git@github.com/acme/lib", true},
		{"git@github.com:acme/app", "git@example.com:acme/lib", false},
	} {
		a := &App{Repo: c.repo, Source: Source{SSHKey: "/key"}}
		if got := a.LoginTo(c.module).Key != ""; got != c.want {
			t.Errorf("%s is logged in to for %s: %v", c.module, c.repo, got)
		}
	}
}
