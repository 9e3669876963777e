package webhook

import "testing"

func TestSameRepository(t *testing.T) {
	hub := Delivery{Repository: repository{
		FullName: "Harbour-Works/Tide-Table",
		CloneURL: "https://github.com/Harbour-Works/Tide-Table.git",
		SSHURL:   "git@github.com:Harbour-Works/Tide-Table.git",
		HTMLURL:  "https://github.com/Harbour-Works/Tide-Table",
	}.bounded()}
	own := Delivery{Repository: repository{
		FullName: "harbour/tide-table",
		CloneURL: "https://git.example:3000/code/harbour/tide-table.git",
		SSHURL:   "ssh://git@git.example:2222/harbour/tide-table.git",
	}.bounded()}
	disk := Delivery{Repository: repository{FullName: "me/hello", CloneURL: "file:///srv/git/Hello.git"}.bounded()}
	bare := Delivery{Repository: repository{FullName: "me/hello"}.bounded()}

	for _, c := range []struct {
		configured string
		d          Delivery
		want       bool
	}{
		{"https://github.com/harbour-works/tide-table.git", hub, true},
		{"https://github.com/harbour-works/tide-table", hub, true},
		{"https://GITHUB.com:443/harbour-works/tide-table/", hub, true},
		{"http://github.com/harbour-works/tide-table", hub, true},
		{"https://x-access-token:t@github.com/harbour-works/tide-table.git", hub, true},
		{"git@github.com:harbour-works/tide-table.git", hub, true},
		{"github.com:harbour-works/tide-table", hub, true},
		{"ssh://git@github.com/harbour-works/tide-table.git", hub, true},
		{"ssh://git@github.com:22/harbour-works/tide-table.git", hub, true},
		{"ssh://git@ssh.github.com:443/harbour-works/tide-table.git", hub, true},
		{"git://github.com/harbour-works/tide-table.git", hub, true},

		{"https://github.com/harbour-works/tide-tables", hub, false},
		{"https://github.com/harbour/tide-table", hub, false},
		{"https://github.com/harbour-works/tide-table/deeper", hub, false},
		{"https://github.example/harbour-works/tide-table", hub, false},
		{"https://github.com.example/harbour-works/tide-table", hub, false},
		{"https://github.com@git.example/harbour-works/tide-table", hub, false},
		{"https://github.com:8443/harbour-works/tide-table", hub, false},
		{"https://github.com/", hub, false},
		{"harbour-works/tide-table", hub, false},
		{"ftp://github.com/harbour-works/tide-table", hub, false},
		{"https://github.com/%zz", hub, false},
		{"", hub, false},
		{"", Delivery{}, false},

		{"https://git.example:3000/code/harbour/tide-table", own, true},
		{"ssh://git@git.example:2222/harbour/tide-table", own, true},
		{"https://git.example/code/harbour/tide-table", own, false},

		{"/srv/git/Hello.git", disk, true},
		{"file:///srv/git/Hello", disk, true},
		{"/srv/git/hello.git", disk, false},
		{"https://github.com/me/hello", disk, false},

		{"https://github.com/me/hello", bare, true},
		{"https://git.example/me/hello", bare, false},
	} {
		if got := SameRepository(c.configured, c.d); got != c.want {
			t.Errorf("SameRepository(%q, %s) = %v, expected %v", c.configured, c.d.Repository.Canonical, got, c.want)
		}
	}
}
