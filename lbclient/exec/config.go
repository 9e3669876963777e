package exec

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// DefaultTimeout bounds one run of the program when [Config] does not say.
const DefaultTimeout = 30 * time.Second

// maxTimeout keeps one silent run from stalling a rollout.
const maxTimeout = 10 * time.Minute

// Config says which program speaks to the balancer, and for whom.
type Config struct {
	// Name is the balancer's name in fleet.yaml.
	Name string
	// Node is the machine that the target runs on.
	Node string
	// Server is the target's name among the balancer's members.
	Server string
	// Command is the program, by its absolute path, and its arguments; no shell
	// looks at them. The stage is added as the last argument.
	Command []string
	// Env are further variables for the program, NAME=value. Of this process's
	// own environment it gets PATH alone.
	Env []string
	// Timeout bounds each run; 0 means [DefaultTimeout]. The program and all that
	// it started are killed then.
	Timeout time.Duration
	// Caps is what the program's answers are worth, in its author's word.
	Caps lbclient.Caps
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// ours begins the names of the variables that are set here.
const ours = "LB_"

func (c Config) check() error {
	switch {
	case c.Name == "":
		return fmt.Errorf("the balancer has no name")
	case c.Server == "" || strings.ContainsRune(c.Server, 0):
		return fmt.Errorf("target name %q: want a name without null bytes", c.Server)
	case strings.ContainsRune(c.Name+c.Node, 0):
		return fmt.Errorf("a name contains a null byte")
	case len(c.Command) == 0:
		return fmt.Errorf("no command: name the program by its absolute path, then its arguments")
	case !filepath.IsAbs(c.Command[0]) || filepath.Clean(c.Command[0]) != c.Command[0]:
		return fmt.Errorf("command %q: want an absolute path, such as /etc/lockstep/balancer", c.Command[0])
	case c.Timeout < 0 || c.Timeout > maxTimeout:
		return fmt.Errorf("timeout %s: want more than 0 and at most %s", c.Timeout, maxTimeout)
	}
	for _, a := range c.Command {
		if strings.ContainsRune(a, 0) {
			return fmt.Errorf("argument %q contains a null byte", a)
		}
	}
	for _, e := range c.Env {
		name, value, ok := strings.Cut(e, "=")
		if !ok || !envName.MatchString(name) || strings.ContainsRune(value, 0) {
			return fmt.Errorf("variable %q: want NAME=value", name)
		}
		if strings.HasPrefix(name, ours) {
			return fmt.Errorf("variable %s: names that begin with %s are set by Lockstep", name, ours)
		}
	}
	return nil
}

// New returns the provider. It runs nothing: Preflight does. Its errors are of
// class [lbclient.ClassInvalid].
func New(c Config) (lbclient.Provider, error) {
	if err := c.check(); err != nil {
		return nil, &lbclient.Error{Class: lbclient.ClassInvalid, Op: fmt.Sprintf("use the program of balancer %q", c.Name), Err: err}
	}
	c.Command, c.Env = slices.Clone(c.Command), slices.Clone(c.Env)
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	return &provider{cfg: c}, nil
}
