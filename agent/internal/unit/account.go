package unit

import (
	"regexp"
	"strings"
)

// Account is whom a unit's program runs as, and where it may write besides.
type Account struct {
	User   string   // "" for systemd's own: root, or the user whose systemd it is
	Group  string   // "" for that of User
	Groups []string // more of them
	// Dynamic: systemd makes User up while a unit runs that has it. Units that run at
	// a time with the same name share it.
	Dynamic bool

	State     []string // directories of StateDirectory=, relative as there
	StateMode uint32
	Writable  []string // paths of ReadWritePaths=
}

// account reads the account from the properties of a unit.
func account(props map[string]any) Account {
	a := Account{
		User: get[string](props, "User"), Group: get[string](props, "Group"), Groups: get[[]string](props, "SupplementaryGroups"),
		Dynamic: get[bool](props, "DynamicUser"),
		State:   get[[]string](props, "StateDirectory"), StateMode: get[uint32](props, "StateDirectoryMode"),
	}
	if a.Dynamic && a.Group == a.User {
		a.Group = "" // made up as well
	}
	for _, path := range get[[]string](props, "ReadWritePaths") {
		a.Writable = append(a.Writable, strings.TrimLeft(path, "-+"))
	}
	return a
}

var userName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,30}$`)

// Made is the account of a unit with DynamicUser= that is not written yet, and its
// own state directory.
func Made(unit string) Account {
	stem := strings.TrimSuffix(unit, ".service")
	a := Account{Dynamic: true, State: []string{stem}, StateMode: 0o755}
	// So does systemd, which has a number for what cannot be a user's name. Where
	// that is not met, it gives the directory to the other user later.
	if a.User, _, _ = strings.Cut(stem, "@"); !userName.MatchString(a.User) {
		a.User = "lockstep-job"
	}
	return a
}
