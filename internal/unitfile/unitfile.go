// Package unitfile writes the systemd unit of an app that has none of its own,
// from the command that runs it. An agent installs it; the coordinator shows it
// before that. Equal arguments give equal text.
package unitfile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Name is the unit of an app, or the template of its instances' units.
func Name(app string, instances bool) string {
	if instances {
		return "lockstep-" + app + "@.service"
	}
	return "lockstep-" + app + ".service"
}

// Template is the file that a unit of [Name], or of one of its instances, is read
// from.
func Template(unit string) string {
	stem, _, instance := strings.Cut(unit, "@")
	if !instance {
		return unit
	}
	return stem + "@.service"
}

// Instance is the instance that a unit is of, "" for the only one.
func Instance(unit string) string {
	_, rest, _ := strings.Cut(unit, "@")
	return strings.TrimSuffix(rest, ".service")
}

// marker is the first line of every unit that is ours.
func marker(app string) string {
	return "# Written by Lockstep for the app " + app + ", and written anew by every turn."
}

// Ours tells whether a unit file is one that was written for the app.
func Ours(app, text string) bool {
	first, _, _ := strings.Cut(text, "\n")
	return first == marker(app)
}

// Text is the unit of an app as it is to be on a node.
//
// The command is run by a shell in the current release, as in a Procfile;
// {instance} in it and in variables stands for the instance's name.
func Text(app string, instances bool, run api.Run, host api.Host) string {
	dir := filepath.Join(host.Apps, app)
	current := filepath.Join(dir, "current")
	if instances {
		current += "-%i"
	} else {
		current = escape(current)
	}
	w := &writer{}
	w.line(marker(app))
	edit := "systemctl edit "
	if host.Scope == "user" {
		edit = "systemctl --user edit "
	}
	w.line("# To change it use fleet.yaml, or a drop-in: " + edit + Name(app, instances))
	w.line("[Unit]")
	description := app
	if instances {
		description += " %i"
	}
	w.set("Description", description+", deployed by Lockstep")
	if host.Scope != "user" {
		w.set("Wants", "network-online.target")
		w.set("After", "network-online.target")
	}
	w.line("")
	w.line("[Service]")
	w.set("Type", "exec")
	w.set("WorkingDirectory", current)
	w.set("ExecStart", "/bin/sh -c "+argument(run.Command, instances))
	for _, name := range slices.Sorted(maps.Keys(run.Env)) {
		w.set("Environment", quote(name+"="+run.Env[name], instances))
	}
	// Its last word wins over the variables above. It is read by systemd itself, so
	// that the app's user need not be able to.
	w.set("EnvironmentFile", "-"+escape(Variables(host.Apps, app)))
	w.set("Restart", "on-failure")
	w.set("RestartSec", "1")
	if run.Memory > 0 {
		w.set("MemoryMax", fmt.Sprint(run.Memory))
	}
	w.line("")
	harden(w, dir, host)
	w.line("")
	w.line("[Install]")
	if host.Scope == "user" {
		w.set("WantedBy", "default.target")
	} else {
		w.set("WantedBy", "multi-user.target")
	}
	return w.String()
}

// Variables is the file with what an app is started with besides, which need not be
// there.
func Variables(apps, app string) string { return filepath.Join(apps, app, "shared", ".env") }

// harden keeps the app to itself: it reads its release, and writes to its state
// directory, to what it shares between releases, and to /tmp of its own.
func harden(w *writer, dir string, host api.Host) {
	if host.Scope == "user" {
		w.line("# A user's systemd can take little away; the system's could take more.")
		for _, key := range []string{"NoNewPrivileges", "LockPersonality", "RestrictRealtime", "RestrictSUIDSGID"} {
			w.set(key, "yes")
		}
		w.set("StateDirectory", "%N")
		return
	}
	if host.User == "" {
		w.set("DynamicUser", "yes")
	} else {
		w.set("User", host.User)
	}
	w.set("StateDirectory", "%N")
	w.set("ProtectSystem", "strict")
	w.set("ReadWritePaths", quote("-"+filepath.Join(dir, "shared"), false))
	// What holds the releases must stay to be seen.
	if below(dir, "/home", "/root", "/run/user") {
		w.set("ProtectHome", "read-only")
	} else {
		w.set("ProtectHome", "yes")
	}
	if !below(dir, "/tmp", "/var/tmp") {
		w.set("PrivateTmp", "yes")
	}
	for _, key := range []string{
		"NoNewPrivileges", "PrivateDevices", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups",
		"ProtectClock", "ProtectHostname", "LockPersonality", "RestrictRealtime", "RestrictSUIDSGID", "RestrictNamespaces",
	} {
		w.set(key, "yes")
	}
	w.set("CapabilityBoundingSet", "")
	w.set("SystemCallArchitectures", "native")
}

func below(dir string, roots ...string) bool {
	return slices.ContainsFunc(roots, func(root string) bool { return strings.HasPrefix(dir+"/", root+"/") })
}

type writer struct{ strings.Builder }

func (w *writer) line(s string)         { w.WriteString(s + "\n") }
func (w *writer) set(key, value string) { w.line(key + "=" + value) }

// escape keeps systemd from replacing specifiers.
func escape(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// quote is s as one word of a unit file.
func quote(s string, instances bool) string {
	s = escape(s)
	if instances {
		s = strings.ReplaceAll(s, "{instance}", "%i")
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteString(`\` + string(c))
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// argument is s as one argument of a command, in which systemd would replace
// variables, too.
func argument(s string, instances bool) string {
	return quote(strings.ReplaceAll(s, "$", "$$"), instances)
}

// Digest stands for a text where it is only to be compared.
func Digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
