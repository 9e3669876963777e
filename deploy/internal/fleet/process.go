package fleet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// process is a daemon that is started again when it dies, as systemd would do
// with Restart=always.
type process struct {
	name string
	log  string
	cmd  func() *exec.Cmd

	mu      sync.Mutex
	running *exec.Cmd
	stopped bool
	done    chan struct{}
}

// supervise starts the process and keeps it running until stop.
func supervise(dir, name string, cmd func() *exec.Cmd) (*process, error) {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), cmd: cmd, done: make(chan struct{})}
	if err := p.start(); err != nil {
		return nil, err
	}
	go p.keep()
	return p, nil
}

func (p *process) start() error {
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	c := p.cmd()
	c.Stdout, c.Stderr = out, out
	// A group of its own: Ctrl-C is for the demonstration, which stops its
	// daemons in order. What it leaves behind when it is killed dies with it.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		return fmt.Errorf("cannot start %s: %w", p.name, err)
	}
	p.running = c
	return nil
}

func (p *process) keep() {
	defer close(p.done)
	for {
		p.mu.Lock()
		c := p.running
		p.mu.Unlock()
		_ = c.Wait() // how it ended is in its log; here it only matters that it did
		p.mu.Lock()
		if p.stopped {
			p.mu.Unlock()
			return
		}
		time.Sleep(100 * time.Millisecond) // RestartSec's default
		if err := p.start(); err != nil {
			p.mu.Unlock()
			fmt.Fprintf(os.Stderr, "demo: %v\n", err)
			return
		}
		p.mu.Unlock()
	}
}

func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running.Process.Pid
}

// signal sends a signal to the process that runs now.
func (p *process) signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running.Process.Signal(s)
}

// stop ends the process in order and waits for it.
func (p *process) stop() error {
	p.mu.Lock()
	p.stopped = true
	err := p.running.Process.Signal(syscall.SIGTERM)
	p.mu.Unlock()
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot stop %s: %w", p.name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(15 * time.Second):
		return errors.Join(fmt.Errorf("%s did not stop in 15 s", p.name), p.signal(syscall.SIGKILL))
	}
}
