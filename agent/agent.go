// Package agent is the daemon of a node: it reads from the coordinator what
// should be, compares it with what is, does the next step, and reports.
//
// Each app has a journal and four goroutines, which prepare releases, run release
// commands, ask whether the node is to be the last, and activate: that one begins
// a goroutine for each turn and, while a target has none, observes it. A sync
// loop carries reports and assignments. Each goes on without the others, and all
// of them without the coordinator.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/activate"
	"github.com/lockstep-deploy/lockstep/agent/internal/config"
	"github.com/lockstep-deploy/lockstep/agent/internal/journal"
	"github.com/lockstep-deploy/lockstep/agent/internal/sandbox"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/filelock"
	"github.com/lockstep-deploy/lockstep/lbclient"
)

// stopGrace is how long what is under way may take to end once the agent is
// told to stop. It is then broken off, and done again at the next start.
const stopGrace = 3 * time.Second

// Config is what agent.yaml says.
type Config = config.Config

// LoadConfig reads and checks an agent.yaml.
func LoadConfig(file string) (Config, error) { return config.Load(file) }

// Coordinator is what the agent needs of the coordinator; [api.Client] is one.
type Coordinator interface {
	Sync(ctx context.Context, rq api.SyncRequest) (api.SyncResponse, error)
	PostLogs(ctx context.Context, rq api.LogRequest) error
}

// Deps is what an agent works with, besides the file system and the network.
type Deps struct {
	Coordinator Coordinator
	// Units is the service manager.
	Units activate.Units
	// Environment tells what a unit's program is started with; nil for nothing.
	Environment func(ctx context.Context, unit string) (unit.Environment, error)
	// UnitFiles writes units; without it none are.
	UnitFiles UnitFiles
	// Broker carries out operations on balancers that the coordinator speaks to.
	Broker Broker
	// Archives carries built files; without it none are shared or taken.
	Archives Archives
	// Sources sends commits that the coordinator fetches.
	Sources Sources
	// Balancer makes the provider for a node's target of any other; nil stands for
	// the product itself, with the configured token.
	Balancer func(b api.Balancer, node, server string) (lbclient.Provider, error)
	// Sandbox runs what commands the coordinator names; nil stands for one without
	// systemd.
	Sandbox *sandbox.Sandbox
	Version string
	Log     *slog.Logger
}

// Agent is the agent of one node.
type Agent struct {
	cfg      Config
	deps     Deps
	identity journal.Identity
	lock     *filelock.Lock
	logs     *logs

	news   chan struct{} // there is something to report
	builds chan struct{} // held while a release is being prepared

	mu   sync.Mutex
	apps map[string]*app
	held *api.Sandbox // how the sandbox holds; nil until it was tried

	// Set by Run before any goroutine starts.
	stop, work context.Context
	running    sync.WaitGroup
}

// Run loads nothing and decides nothing: it puts a whole agent together from
// its configuration and runs it until ctx is done. ready is called when the
// journals are read and work has begun.
func Run(ctx context.Context, c Config, version string, log *slog.Logger, ready func()) error {
	token, err := c.Token()
	if err != nil {
		return err
	}
	// The sync loop has its own way of trying again.
	client, err := api.NewClient(c.Coordinator, token, api.WithRetries(0), api.WithUserAgent("deploy-agent/"+version))
	if err != nil {
		return err
	}
	units := unit.New(unit.Scope(c.Systemd))
	defer units.Close()
	box := sandbox.New(sandbox.Config{Units: units, System: c.Systemd == "system", Dir: filepath.Join(c.State, "jobs"), Hidden: hidden(c)})
	a, err := New(c, Deps{Coordinator: client, Broker: client, Sources: client, Archives: client, Units: units, UnitFiles: units, Environment: units.Environment, Sandbox: box, Version: version, Log: log})
	if err != nil {
		return err
	}
	ready()
	return a.Run(ctx)
}

// New opens the agent's state and begins a new epoch. The state directory
// belongs to the agent until Run returns.
func New(c Config, d Deps) (*Agent, error) {
	if d.Balancer == nil {
		d.Balancer = openWith(c.BalancerToken)
	}
	if d.Sandbox == nil {
		d.Sandbox = sandbox.New(sandbox.Config{Dir: filepath.Join(c.State, "jobs")})
	}
	a := &Agent{
		cfg: c, deps: d,
		logs:   newLogs(c.Name, d.Coordinator, d.Log),
		news:   make(chan struct{}, 1),
		builds: make(chan struct{}, 1),
		apps:   map[string]*app{},
	}
	// Builds pass through it to their caches, though all else in it is shut.
	if err := errors.Join(os.MkdirAll(c.State, 0o711), os.Chmod(c.State, 0o711)); err != nil {
		return nil, fmt.Errorf("cannot make the agent's state directory: %w", err)
	}
	for _, dir := range []string{a.journals(), filepath.Join(c.State, "git")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot make the agent's state directory: %w", err)
		}
	}
	// Others must get at the releases: the units run as users of their own.
	if err := os.MkdirAll(c.Apps, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the directory of the apps: %w", err)
	}
	if err := a.lockState(); err != nil {
		return nil, err
	}
	if err := a.open(); err != nil {
		return nil, errors.Join(err, a.lock.Release())
	}
	return a, nil
}

func (a *Agent) journals() string { return filepath.Join(a.cfg.State, "journal") }

// lockState keeps a second agent away from the same state.
func (a *Agent) lockState() (err error) {
	a.lock, err = filelock.Acquire(filepath.Join(a.cfg.State, "lock"))
	if held := (*filelock.HeldError)(nil); errors.As(err, &held) {
		return fmt.Errorf("cannot lock the agent's state: another deploy-agent works with %s: %w", a.cfg.State, err)
	}
	if err != nil {
		return fmt.Errorf("cannot lock the agent's state: %w", err)
	}
	return nil
}

func (a *Agent) open() error {
	names, err := journal.Apps(a.journals())
	if err != nil {
		return err
	}
	for _, name := range names {
		p, err := a.openApp(name)
		if err != nil {
			return err
		}
		a.apps[name] = p
	}
	a.identity, err = journal.NextEpoch(filepath.Join(a.cfg.State, "identity.json"))
	return err
}

// Run works until ctx is done and everything has come to a stop. Turns in
// progress stay in the journal, for the next start to go on with.
func (a *Agent) Run(ctx context.Context) error {
	work, breakOff := context.WithCancel(context.WithoutCancel(ctx))
	defer breakOff()
	a.stop, a.work = ctx, work
	defer context.AfterFunc(ctx, func() { time.AfterFunc(stopGrace, breakOff) })()
	a.deps.Log.Info("agent started", "node", a.cfg.Name, "version", a.deps.Version, "coordinator", a.cfg.Coordinator, "epoch", a.identity.Epoch)

	a.mu.Lock()
	for _, p := range a.apps {
		p.start()
	}
	a.mu.Unlock()
	a.running.Go(a.trySandbox)
	uploaded := make(chan struct{})
	logging, noMoreLogs := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(uploaded)
		a.logs.run(logging)
	}()

	a.sync()
	a.running.Wait()
	noMoreLogs()
	<-uploaded
	a.deps.Log.Info("agent stopped")
	if err := a.lock.Release(); err != nil {
		return fmt.Errorf("cannot give the agent's state back: %w", err)
	}
	return nil
}

// notify makes the sync loop report soon.
func (a *Agent) notify() { wake(a.news) }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
