package haproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"
)

// A HAProxy elsewhere is run by somebody else, as a container beside ours with a user and processes of its own. What is
// here of it are its sockets. It is told what to do through the master's, and followed through a connection to that
// which is held: it breaks when the master ends, and when it reloads. Processes' numbers say nothing, since they are
// another namespace's and a container has the same ones each time.

// errElsewhere says that what was asked is for who runs HAProxy to do.
var errElsewhere = errors.New("HAProxy is run by somebody else")

// Elsewhere tells whether HAProxy is run by somebody else: it begins by itself with the files that are there, and cannot
// be asked to check them without using them.
func (p *Process) Elsewhere() bool { return p.cfg.Elsewhere }

// makeShared makes the directories of a HAProxy that has another user. Their group is that of the directories above,
// whose setgid bit says so: HAProxy's user must be in it.
func (c Config) makeShared() error {
	run := filepath.Join(c.Dir, RunDir)
	sockets := c.Sockets
	if sockets == "" {
		sockets = run
	}
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{{c.Dir, 0o750}, {sockets, 0o770}} {
		if err := ShareDir(d.path, d.mode); err != nil {
			return fmt.Errorf("make HAProxy's directory: %w", err)
		}
	}
	if sockets == run {
		return nil
	}
	if to, err := os.Readlink(run); err == nil && to == sockets {
		return nil
	}
	if err := os.Remove(run); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("make HAProxy's directory: %w", err)
	}
	if err := os.Symlink(sockets, run); err != nil {
		return fmt.Errorf("make HAProxy's directory: %w", err)
	}
	return nil
}

// ShareDir makes a directory for a group too, if it is not there: whatever is made in it is of the directory's group.
func ShareDir(path string, mode os.FileMode) error {
	if i, err := os.Stat(path); err == nil && i.IsDir() {
		return nil
	}
	if err := os.MkdirAll(path, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode|os.ModeSetgid) // whatever the umask is
}

// Await waits until a worker answers, for as long as ctx lasts, and returns what it says of itself.
func (p *Process) Await(ctx context.Context) (Info, error) {
	var info Info
	err := p.patiently(ctx, func() error {
		rt, err := p.Connect(ctx)
		if err != nil {
			return err
		}
		info = rt.info
		rt.Close()
		return nil
	})
	return info, err
}

// patiently tries until it succeeds, or ctx ends. A socket announces nothing, so it is tried at growing intervals. It is
// told once that somebody is waited for.
func (p *Process) patiently(ctx context.Context, try func() error) error {
	pause, told := time.Millisecond, false
	for begun := time.Now(); ; {
		err := try()
		if err == nil {
			return nil
		}
		if !told && time.Since(begun) > time.Second {
			told = true
			p.cfg.Log.Info("waiting for HAProxy, which is run by somebody else", "error", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for HAProxy: %w; at last: %w", context.Cause(ctx), err)
		case <-time.After(pause):
			pause = min(2*pause, 100*time.Millisecond)
		}
	}
}

// adoptElsewhere follows the master that answers, and tells whether there is one. mu is held.
func (p *Process) adoptElsewhere(ctx context.Context) (bool, error) {
	conn, procs, err := p.hold(ctx)
	switch {
	case errors.Is(err, ErrGone):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("adopt HAProxy: %w", err)
	}
	if p.master != nil {
		p.master.detach()
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	m := &master{pid: procs.Master, done: make(chan struct{}), left: make(chan struct{}), end: end}
	p.master = m
	p.following.Go(func() { m.followElsewhere(life, p, conn, procs.Reloads) })
	p.cfg.Log.Info("HAProxy is run by somebody else, and is followed", "master", procs.Master, "worker", procs.Worker)
	return true, nil
}

// hold connects to the master, and asks it who it is.
func (p *Process) hold(ctx context.Context) (net.Conn, Processes, error) {
	conn, err := p.dial(ctx, MasterSocket)
	if err != nil {
		return nil, Processes{}, err
	}
	procs, err := p.processes(ctx)
	if err != nil {
		conn.Close()
		return nil, Processes{}, err
	}
	return conn, procs, nil
}

// followElsewhere waits until the master has ended, or ctx. When the connection breaks and a master answers that was
// reloaded more often than this one had been, it is still this one: another begins to count from nothing.
func (m *master) followElsewhere(ctx context.Context, p *Process, conn net.Conn, reloads int) {
	for {
		awaitBreak(ctx, conn)
		var procs Processes
		err := p.patiently(ctx, func() (err error) {
			conn, procs, err = p.hold(ctx)
			if errors.Is(err, ErrGone) && !p.reloading.Load() {
				return nil // it has ended
			}
			return err
		})
		switch {
		case ctx.Err() != nil:
			if err == nil && conn != nil {
				conn.Close()
			}
			return
		case conn == nil:
			m.err = errors.New("nobody listens on its socket any more")
		case procs.Reloads <= reloads:
			conn.Close()
			m.err = errors.New("another one has taken its place")
		default:
			reloads = procs.Reloads
			continue
		}
		close(m.done)
		return
	}
}

// awaitBreak waits until the other end closes a connection, or ctx ends, and closes it.
func awaitBreak(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_, _ = io.Copy(io.Discard, conn)
}

// startElsewhere waits until whoever runs HAProxy has started it, with whatever files there are.
func (p *Process) startElsewhere(ctx context.Context) (*Runtime, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.StartTimeout)
	defer cancel()
	var rt *Runtime
	err := p.patiently(ctx, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		ok, err := p.adoptElsewhere(ctx)
		if err == nil && !ok {
			err = ErrGone
		}
		if err == nil {
			rt, err = p.await(ctx, func(ctx context.Context) (int, error) {
				procs, err := p.processes(ctx)
				return procs.Worker, err
			})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start HAProxy: %w: %w", errElsewhere, err)
	}
	return rt, nil
}
