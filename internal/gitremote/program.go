package gitremote

import (
	"fmt"
	"os"
	"strings"
)

// helperScript is git's way to ask for credentials: it prints them, until the
// remote refused them once. git-lfs would try them for ever.
const helperScript = `!f() { case $1 in erase) : >"$LOCKSTEP_GIT_REFUSED";; ` +
	`get) if test -e "$LOCKSTEP_GIT_REFUSED"; then echo quit=1; ` +
	`else printf 'username=%s\npassword=%s\n' "$LOCKSTEP_GIT_USER" "$LOCKSTEP_GIT_PASSWORD"; fi;; esac; }; f`

// Environ is what a git program is to have in its environment in order to log in
// to the remote as we do, and to read no settings but these; the remote is its
// "origin", with its files in Git LFS where [Remote.WithLFS] says. Credentials are
// in it, for that host alone: it is for the program, and not for its arguments, a
// file, or a log. The file refused appears when the remote refuses them.
func (r Remote) Environ(refused string) ([]string, error) {
	env := []string{"GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_SYSTEM=" + os.DevNull, "GIT_TERMINAL_PROMPT=0"}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "GIT_") && !strings.HasPrefix(e, "SSH_ASKPASS") {
			env = append(env, e)
		}
	}
	at := r.public
	if strings.HasPrefix(at, "/") {
		at = "file://" + at // some programs take only a URL for one of this machine
	}
	settings := [][2]string{{"remote.origin.url", at}}
	if r.lfs != "" {
		settings = append(settings, [2]string{"lfs.url", r.lfs})
	}
	host, user, password, err := r.lfsCredentials()
	if err != nil {
		return nil, err
	}
	if host != "" {
		// Not as a setting, which git-lfs writes into its logs.
		settings = append(settings, [2]string{"credential." + host + ".helper", helperScript})
		env = append(env, "LOCKSTEP_GIT_USER="+user, "LOCKSTEP_GIT_PASSWORD="+password, "LOCKSTEP_GIT_REFUSED="+refused)
	}
	if r.endpoint.Protocol == "ssh" {
		ssh := "ssh -o BatchMode=yes"
		if r.login.Key != "" {
			ssh += " -o IdentitiesOnly=yes -i " + shellQuote(r.login.Key)
		}
		if r.login.KnownHosts != "" {
			ssh += " -o StrictHostKeyChecking=yes -o UserKnownHostsFile=" + shellQuote(r.login.KnownHosts)
		}
		env = append(env, "GIT_SSH_COMMAND="+ssh)
	}
	env = append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(settings)))
	for i, s := range settings {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, s[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, s[1]))
	}
	return env, nil
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
