package build

import (
	"cmp"
	"os"
	"os/user"
	"strings"
)

// defaultPath is where programs are looked for when the agent itself has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment completes env with defaults and the marker.
func environment(env []string, marker string) []string {
	all := make([]string, 0, len(env)+3)
	set := map[string]bool{}
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		set[name] = true
		if name != Marker {
			all = append(all, kv)
		}
	}
	if !set["PATH"] {
		all = append(all, "PATH="+cmp.Or(os.Getenv("PATH"), defaultPath))
	}
	if !set["HOME"] {
		all = append(all, "HOME="+home())
	}
	return append(all, Marker+"="+marker)
}

// home is the home directory of the agent's user, which holds the caches of the
// build tools. A system service has no HOME in its environment.
func home() string {
	if dir := os.Getenv("HOME"); dir != "" {
		return dir
	}
	if u, err := user.Current(); err == nil && u.HomeDir != "" {
		return u.HomeDir
	}
	return "/"
}
