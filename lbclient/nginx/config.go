package nginx

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// What [Config] means when it does not say.
const (
	DefaultPIDFile       = "/run/nginx.pid"
	DefaultReloadTimeout = 8 * time.Second
)

// DefaultTest and DefaultReload are the commands when [Config] does not say.
var (
	DefaultTest   = []string{"nginx", "-t"}
	DefaultReload = []string{"nginx", "-s", "reload"}
)

// maxReloadTimeout keeps one silent nginx from stalling a whole step.
const maxReloadTimeout = 5 * time.Minute

// Config says where one target stands in nginx.
type Config struct {
	// Name is the balancer's name in fleet.yaml, used in messages and to tell a
	// [lbclient.Restore] of this balancer from others.
	Name string
	// File holds the server lines, as an absolute path. Symbolic links are
	// followed, and what they name is replaced.
	File string
	// Upstreams are the upstream blocks of File in which the target is a server.
	// Empty means that File holds nothing but what stands inside one block.
	Upstreams []string
	// Server is the target's address as its server line gives it, such as
	// 10.0.0.11:8080, or its host alone where that tells it from the others.
	Server string
	// PIDFile is the file named by nginx's pid directive; "" means
	// [DefaultPIDFile].
	PIDFile string
	// Test and Reload are commands with their arguments, run without a shell;
	// empty means [DefaultTest] and [DefaultReload]. Where Test has the argument
	// -t it is run with -T, to see that nginx reads File at all.
	Test, Reload []string
	// ReloadTimeout bounds a test, a reload, and the wait for its workers, all
	// together; 0 means [DefaultReloadTimeout].
	ReloadTimeout time.Duration
}

// plainWord is a word that nginx reads without quotes, or in which they are of
// no use to an address or an upstream's name.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_.:/\[\]@+~-]{1,255}$`)

func checkWord(what, word string) error {
	if !plainWord.MatchString(word) {
		return fmt.Errorf("%s %q: want a word without spaces, quotes, ';', '{' or '}'", what, word)
	}
	return nil
}

func checkPath(what, path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" || strings.ContainsRune(path, 0) {
		return fmt.Errorf("%s %q: want an absolute path", what, path)
	}
	return nil
}

func checkCommand(what string, argv []string) error {
	if argv[0] == "" {
		return fmt.Errorf("the %s command names no program", what)
	}
	for _, a := range argv {
		if strings.ContainsRune(a, 0) {
			return fmt.Errorf("the %s command has a zero byte in %q", what, a)
		}
	}
	return nil
}

// check returns the first thing that is wrong.
func (c Config) check() error {
	if c.Name == "" {
		return fmt.Errorf("the balancer has no name")
	}
	if err := checkPath("file", c.File); err != nil {
		return err
	}
	if err := checkPath("pid file", c.PIDFile); err != nil {
		return err
	}
	if err := checkWord("server", c.Server); err != nil {
		return err
	}
	for i, u := range c.Upstreams {
		if err := checkWord("upstream", u); err != nil {
			return err
		}
		if slices.Contains(c.Upstreams[:i], u) {
			return fmt.Errorf("upstream %s is named twice", u)
		}
	}
	if err := checkCommand("test", c.Test); err != nil {
		return err
	}
	if err := checkCommand("reload", c.Reload); err != nil {
		return err
	}
	if c.ReloadTimeout < 0 || c.ReloadTimeout > maxReloadTimeout {
		return fmt.Errorf("reload timeout %s: want more than 0 and at most %s", c.ReloadTimeout, maxReloadTimeout)
	}
	return nil
}

// New returns the provider for one target. It looks at nothing: Preflight does.
// Its errors are of class [lbclient.ClassInvalid].
func New(c Config) (lbclient.Provider, error) {
	if c.PIDFile == "" {
		c.PIDFile = DefaultPIDFile
	}
	if len(c.Test) == 0 {
		c.Test = DefaultTest
	}
	if len(c.Reload) == 0 {
		c.Reload = DefaultReload
	}
	if err := c.check(); err != nil {
		return nil, &lbclient.Error{
			Class: lbclient.ClassInvalid,
			Op:    fmt.Sprintf("use nginx balancer %q", c.Name),
			Err:   err,
		}
	}
	if c.ReloadTimeout == 0 {
		c.ReloadTimeout = DefaultReloadTimeout
	}
	c.Upstreams, c.Test, c.Reload = slices.Clone(c.Upstreams), slices.Clone(c.Test), slices.Clone(c.Reload)
	return &provider{cfg: c, proc: procfs{root: "/proc"}}, nil
}
