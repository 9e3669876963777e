package config

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// defaultBuildLimits leave any machine to the app that serves on it: a quarter of
// the memory, however much that is (when it runs out all the same, the kernel ends
// the build before the app), and five turns for each of the build's.
var defaultBuildLimits = api.BuildLimits{
	MemoryPercent: 75, CPUWeight: 20, IOWeight: 20, Tasks: 1024, Silence: api.Duration(10 * minute),
}

// readBuild reads what a build may know and use up.
func (a *App) readBuild(o object) {
	if v, ok := o.get("secrets"); ok {
		a.Secrets = v.list("[NPM_TOKEN]", "the name of an environment variable, of letters, digits and underscores", isEnvName)
		for _, name := range a.Secrets {
			if _, both := a.Env[name]; both {
				v.fail("%s is also given by env; remove it there", name)
			}
			if isOwn(name) {
				v.fail("expected names that do not begin with %s, got %s: those are set by Lockstep; write another one", ownPrefix, name)
			}
		}
	}
	a.BuildLimits = defaultBuildLimits
	v, ok := o.get("build_limits")
	if !ok {
		return
	}
	l, ok := v.object("{memory: 2G}", "memory", "cpu_weight", "io_weight", "tasks", "silence")
	if !ok {
		return
	}
	if v, ok := l.get("memory"); ok {
		if p, ok := v.percent(); ok {
			a.BuildLimits.Memory, a.BuildLimits.MemoryPercent = 0, p
		} else if n, ok := v.size(16<<20, 1<<50); ok {
			a.BuildLimits.Memory, a.BuildLimits.MemoryPercent = n, 0
		}
	}
	a.BuildLimits.CPUWeight = l.count("cpu_weight", a.BuildLimits.CPUWeight, 1, 10000)
	a.BuildLimits.IOWeight = l.count("io_weight", a.BuildLimits.IOWeight, 1, 10000)
	a.BuildLimits.Tasks = l.count("tasks", a.BuildLimits.Tasks, 16, 1<<22)
	a.BuildLimits.Silence = api.Duration(l.duration("silence", a.BuildLimits.Silence.D(), time.Second, day))
}

// sizes are the units of memory, as systemd has them.
var sizes = []struct {
	unit  string
	bytes int64
}{{"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}}

// size is a number of bytes, such as 512M.
func (v value) size(least, most int64) (int64, bool) {
	if s, ok := v.node.(*ast.StringNode); ok {
		for _, u := range sizes {
			digits, ok := strings.CutSuffix(s.Value, u.unit)
			if !ok {
				continue
			}
			n, err := strconv.ParseInt(digits, 10, 64)
			if err != nil || n < 0 || n > math.MaxInt64/u.bytes {
				break
			}
			if n *= u.bytes; n >= least && n <= most {
				return n, true
			}
			v.fail("expected a size from %s to %s, got %s", sized(least), sized(most), quoted(s.Value))
			return 0, false
		}
	}
	v.fail("expected a size, got %s; write a whole number with a unit, such as 512M or 2G, or a percentage of the node's memory from 1%% to 100%%", v.what())
	return 0, false
}

// plainMemory is how much memory a build may have, as people write it.
func plainMemory(l api.BuildLimits) string {
	if l.Memory == 0 {
		return plain(strconv.Itoa(l.MemoryPercent) + "%")
	}
	return sized(l.Memory)
}

// sized is a number of bytes as people write it.
func sized(n int64) string {
	for _, u := range sizes {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.unit
		}
	}
	return strconv.FormatInt(n, 10)
}
