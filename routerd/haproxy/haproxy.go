// Package haproxy runs one HAProxy in master-worker mode and talks to its sockets.
//
// It guarantees that HAProxy outlives the program that started it unless it was asked to be tied to it;
// that a master is only taken over when it is the one that listens on this directory's socket and works
// in this directory; that Start and Reload return only when the new worker answers on its own socket;
// and that an answer on the runtime socket is only called success when HAProxy said so in the words that
// it uses for that command.
//
// Do not assume that a Runtime survives a reload: it is a connection to one worker, whose pid it knows,
// and is of no use once that worker has a successor. Do not assume that the package knows what should be
// running: it neither reads nor writes HAProxy's configuration.
//
// Everything of one HAProxy is in one directory, which is its working directory: haproxy.cfg, and in
// run/ the sockets and its output. All paths are relative to it.
package haproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Where things are in HAProxy's directory.
const (
	ConfigFile   = "haproxy.cfg"
	RunDir       = "run"
	MasterSocket = "run/master.sock" // made by the master, as its command line says
	AdminSocket  = "run/admin.sock"  // made by the worker, as haproxy.cfg has to say
	JailDir      = "run/jail"        // for haproxy.cfg to name as root directory: nothing but sockets
	outputFIFO   = "run/output"
)

// Config is what a Process needs.
type Config struct {
	// Binary is HAProxy's program: a path, or a name to look up in PATH. Required, unless HAProxy is elsewhere.
	Binary string
	// Dir is HAProxy's directory. It is made, 0700, if it does not exist. Required.
	Dir string
	// Elsewhere says that somebody else runs HAProxy in Dir, with another user, as a rule: it is neither started nor
	// ended from here, only reloaded. Dir is made 0750 then.
	Elsewhere bool
	// Sockets is where a HAProxy elsewhere makes its sockets: run/ is a link to it. Empty: run/ is a directory.
	Sockets string
	// Log takes what HAProxy writes, and what is done with it. Nil: nothing is logged.
	Log *slog.Logger
	// TieToParent ends HAProxy when this program ends, however it ends. It is for demonstrations and
	// tests: routing is meant to go on.
	TieToParent bool
	// StartTimeout is how long HAProxy may take to read its configuration and answer. Zero: two minutes,
	// which is enough for tens of thousands of certificates.
	StartTimeout time.Duration
	// Listen are the addresses that haproxy.cfg binds, to be named when one is taken, or shared with another
	// process. Empty: nothing is said of them.
	Listen []Address
}

// Validate reports every fault of the configuration.
func (c Config) Validate() error {
	var errs []error
	if c.Binary == "" && !c.Elsewhere {
		errs = append(errs, errors.New("the path of HAProxy's program is missing"))
	}
	if c.Dir == "" {
		errs = append(errs, errors.New("HAProxy's directory is missing"))
	}
	if c.StartTimeout < 0 {
		errs = append(errs, fmt.Errorf("start timeout %s is negative", c.StartTimeout))
	}
	return errors.Join(errs...)
}

// Process is one HAProxy: its master and the workers that this has. It is safe for concurrent use, though
// Start, Adopt and Reload make sense one at a time only.
type Process struct {
	cfg    Config
	binary string   // absolute: the master runs it again at each reload, from its own directory
	dir    *os.File // the directory; the way to the sockets, however long its path is

	following sync.WaitGroup // of who follows a master elsewhere: they look into dir, and take no mu

	reloading atomic.Bool // a reload of ours is under way: the master lets go of its socket meanwhile

	mu     sync.Mutex
	master *master   // guarded by mu; nil: none was started or adopted yet
	output *output   // guarded by mu; nil: as above
	left   []*master // guarded by mu; those that were given up, and are waited for nevertheless: they are our children
}

// ErrNoProgram says that HAProxy's program is not there, or cannot be run.
var ErrNoProgram = errors.New("find HAProxy")

// New makes a Process that nothing runs for yet. Close frees what it holds.
func New(cfg Config) (*Process, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = 2 * time.Minute
	}
	path := ""
	if !cfg.Elsewhere {
		var err error
		if path, err = exec.LookPath(cfg.Binary); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoProgram, err)
		}
		if path, err = filepath.Abs(path); err != nil {
			return nil, fmt.Errorf("find HAProxy: %w", err)
		}
	}
	if err := cfg.makeDirs(); err != nil {
		return nil, err
	}
	dir, err := os.Open(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open HAProxy's directory: %w", err)
	}
	return &Process{cfg: cfg, binary: path, dir: dir}, nil
}

// Dir returns HAProxy's directory.
func (p *Process) Dir() string { return p.cfg.Dir }

// Close stops watching HAProxy and frees what the Process holds. HAProxy goes on.
func (p *Process) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.left {
		m.detach()
	}
	if p.master != nil {
		p.master.detach()
	}
	if p.output != nil {
		p.output.stop()
	}
	p.following.Wait()
	return p.dir.Close()
}

// Start starts HAProxy and waits until its worker answers on the admin socket. It returns the connection to
// that worker. When HAProxy refuses its configuration the error is a *CheckError, unless an address is at fault, which
// is named. An address that another process has bound as well is logged, after a second at the most. One that was left, or that
// lost its socket, finishes what it has once the new one answers.
//
// One elsewhere is waited for. It may have begun with other files than those that are there now.
func (p *Process) Start(ctx context.Context) (*Runtime, error) {
	if p.cfg.Elsewhere {
		return p.startElsewhere(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.master != nil && p.master.alive() {
		return nil, fmt.Errorf("start HAProxy: it runs already, as process %d", p.master.pid)
	}
	p.endOrphans(ctx)
	p.warnShared(ctx)
	if err := p.start(); err != nil { //nolint:contextcheck // what logs HAProxy's output lives as long as HAProxy
		return nil, fmt.Errorf("start HAProxy: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.StartTimeout)
	defer cancel()
	rt, err := p.await(ctx, func(ctx context.Context) (int, error) {
		procs, err := p.processes(ctx)
		if err == nil && procs.Master != p.master.pid {
			err = fmt.Errorf("the master that answers is process %d, not %d", procs.Master, p.master.pid)
		}
		return procs.Worker, err
	})
	if err != nil {
		p.master.kill(killGrace)
		tail := p.output.drain()
		if alerts := parseAlerts(tail); len(alerts) > 0 {
			if err := p.refused(); err != nil {
				return nil, fmt.Errorf("start HAProxy: %w", err)
			}
			return nil, fmt.Errorf("start HAProxy: %w", &CheckError{Alerts: alerts, Output: tail})
		}
		return nil, fmt.Errorf("start HAProxy: %w", err)
	}
	if err := p.relieve(); err != nil {
		p.cfg.Log.Warn("a HAProxy that was replaced could not be told to stop", "error", err)
	}
	p.cfg.Log.Info("HAProxy runs", "master", p.master.pid, "worker", rt.PID(), "version", rt.Version().String())
	return rt, nil
}

// Adopt takes over the HAProxy that runs in the directory, and tells whether there was one that answers.
// A master that answers but is not ours is an error. One elsewhere that does not answer properly yet is waited for by
// Start.
func (p *Process) Adopt(ctx context.Context) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cfg.Elsewhere {
		ok, err := p.adoptElsewhere(ctx)
		if err != nil && ctx.Err() == nil {
			p.cfg.Log.Info("HAProxy, which is run by somebody else, is not there yet", "error", err)
			return false, nil
		}
		return ok, err
	}
	conn, err := p.dial(ctx, MasterSocket)
	switch {
	case errors.Is(err, ErrGone):
		if err := p.findLost(); err != nil {
			return false, fmt.Errorf("adopt HAProxy: %w", err)
		}
		return false, nil
	case err != nil:
		return false, fmt.Errorf("adopt HAProxy: %w", err)
	}
	pid, err := p.owner(conn)
	conn.Close()
	if err != nil {
		return false, fmt.Errorf("adopt HAProxy: %w", err)
	}
	// The process is held before it is asked who it is: so the answer is about the one that is held.
	m, err := watch(pid, nil)
	if err != nil {
		return false, fmt.Errorf("adopt HAProxy: %w", err)
	}
	procs, err := p.processes(ctx)
	if err == nil && procs.Master != pid {
		err = fmt.Errorf("the socket belongs to process %d, but the master is %d", pid, procs.Master)
	}
	if err != nil {
		m.detach()
		// It may hang; a stop ends it nevertheless.
		return false, fmt.Errorf("adopt HAProxy: %w", errors.Join(err, p.setAside(pid)))
	}
	p.left = slices.DeleteFunc(p.left, func(other *master) bool { return other.pid == pid })
	p.follow(m) //nolint:contextcheck // as above
	p.cfg.Log.Info("HAProxy was running and is taken over", "master", pid, "worker", procs.Worker)
	return true, nil
}

// owner returns the process that listens at the other end, when it may be this directory's HAProxy.
func (p *Process) owner(conn net.Conn) (int, error) {
	raw, err := conn.(*net.UnixConn).SyscallConn() //nolint:errcheck // dial makes no other kind
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, fmt.Errorf("ask who listens on %s: %w", MasterSocket, credErr)
	}
	if uid := os.Geteuid(); int(cred.Uid) != uid {
		return 0, fmt.Errorf("process %d, which listens on %s, belongs to user %d and not to %d", cred.Pid, MasterSocket, cred.Uid, uid)
	}
	cwd, err := os.Stat("/proc/" + strconv.Itoa(int(cred.Pid)) + "/cwd")
	if err != nil {
		return 0, fmt.Errorf("ask where process %d works: %w", cred.Pid, err)
	}
	dir, err := p.dir.Stat()
	if err != nil {
		return 0, err
	}
	if !os.SameFile(cwd, dir) {
		return 0, fmt.Errorf("process %d listens on %s but works in another directory", cred.Pid, MasterSocket)
	}
	return int(cred.Pid), nil
}

// Reload makes the master start a new worker from the files, and waits until that one answers on the
// admin socket. It returns the connection to that one. The old worker goes on until its connections have ended. When HAProxy
// refuses its configuration the error is a *CheckError, and the old worker serves as before. When there is
// nobody to ask it is ErrGone. When the master ends instead of an answer, Exited is closed on return.
//
// Since 2.7 HAProxy says how the reload went when it is done. Before, it says nothing and is looked at until the
// master has counted one more reload: check the configuration first, which finds nearly all that can fail.
func (p *Process) Reload(ctx context.Context) (*Runtime, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.StartTimeout)
	defer cancel()
	p.reloading.Store(true)
	rt, err := p.reload(ctx)
	p.reloading.Store(false)
	var refused *CheckError
	switch {
	case err == nil:
		return rt, nil
	case errors.As(err, &refused) || errors.Is(err, ErrGone):
	default:
		select { // a master that ends breaks its connections first
		case <-p.Exited():
		case <-time.After(endPause):
		case <-ctx.Done():
		}
	}
	return nil, fmt.Errorf("reload HAProxy: %w", err)
}

// endPause is more than it takes from the end of a master's connections to the end of the master.
const endPause = time.Second

func (p *Process) reload(ctx context.Context) (*Runtime, error) {
	before, err := p.processes(ctx)
	if err != nil {
		return nil, err
	}
	said := p.listen()
	silent, err := p.askReload(ctx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.await(ctx, func(ctx context.Context) (int, error) {
		procs, err := p.processes(ctx)
		switch {
		case err != nil || !silent:
		case procs.Reloads == before.Reloads:
			err = errors.New("the master has not reloaded yet")
		case procs.Failed > 0 || procs.Worker == before.Worker:
			text := said("Loading failure!")
			err = &CheckError{Alerts: parseAlerts(text), Output: text}
		}
		return procs.Worker, err
	})
}

// askReload asks for a reload, and tells whether HAProxy is one that does not say how it went. Somebody else may have asked
// for one that is not done yet, as when HAProxy has only begun: HAProxy refuses until it is.
func (p *Process) askReload(ctx context.Context) (silent bool, err error) {
	for {
		out, err := p.ask(ctx, "reload")
		if err != nil || out == "" {
			return true, err
		}
		err = parseReload(out)
		var refused *CheckError
		if !errors.As(err, &refused) || !strings.Contains(refused.Output, "Another reload is still in progress") {
			return false, err
		}
		select {
		case <-ctx.Done():
			return false, err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// listen returns a function that returns what HAProxy has said since, up to a text that is to come.
func (p *Process) listen() func(text string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.output == nil {
		return func(string) string { return "" }
	}
	o, mark := p.output, p.output.mark()
	return func(text string) string { return o.since(mark, text) }
}

// await asks until the worker that the master names is the one that answers on the admin socket, or the
// master has ended, or worker returns a *CheckError. For a moment the old worker answers too: both have the same listening socket. A socket
// announces nothing, so it is asked again at growing intervals. mu is held.
func (p *Process) await(ctx context.Context, worker func(context.Context) (int, error)) (*Runtime, error) {
	pause := time.Millisecond
	for {
		rt, err := p.connectTo(ctx, worker)
		var refused *CheckError
		if err == nil || errors.As(err, &refused) {
			return rt, err
		}
		select {
		case <-p.exited():
			return nil, fmt.Errorf("HAProxy ended: %w", p.master.reason())
		case <-ctx.Done():
			return nil, fmt.Errorf("%w; at last: %w", context.Cause(ctx), err)
		case <-time.After(pause):
			pause = min(2*pause, 50*time.Millisecond)
		}
	}
}

func (p *Process) connectTo(ctx context.Context, worker func(context.Context) (int, error)) (*Runtime, error) {
	want, err := worker(ctx)
	if err != nil {
		return nil, err
	}
	if want == 0 {
		return nil, errors.New("there is no worker")
	}
	rt, err := p.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if rt.PID() != want {
		rt.Close()
		return nil, fmt.Errorf("the worker that answers is process %d, not %d", rt.PID(), want)
	}
	return rt, nil
}

// closed is what Exited returns while nothing runs.
var closed = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Exited returns a channel that is closed when the master that runs now has ended; one that is closed
// already when none runs.
func (p *Process) Exited() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exited()
}

func (p *Process) exited() <-chan struct{} {
	if p.master == nil {
		return closed
	}
	return p.master.done
}

// AllExited returns such channels of all that run: the master, and those that were given up and have not ended yet.
func (p *Process) AllExited() []<-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := []<-chan struct{}{p.exited()}
	for _, m := range p.left {
		all = append(all, m.done)
	}
	return all
}

// ExitReason tells how the last master ended; nil while it runs, or when there was none.
func (p *Process) ExitReason() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.master == nil || p.master.alive() {
		return nil
	}
	return p.master.reason()
}

// SoftStop makes HAProxy stop listening and end when its last connection has. It returns at once. One elsewhere is for
// others to stop, here and below.
func (p *Process) SoftStop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cfg.Elsewhere {
		return nil
	}
	err := p.relieve()
	if p.master != nil && p.master.alive() {
		err = errors.Join(err, p.master.signal(unix.SIGUSR1))
	}
	if err != nil {
		return fmt.Errorf("stop HAProxy softly: %w", err)
	}
	return nil
}

// Leave gives HAProxy up, because it cannot be reloaded any more: another one may be started beside it. When that answers
// this one finishes what it has.
func (p *Process) Leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.master == nil || !p.master.alive() {
		return
	}
	if p.cfg.Elsewhere { // who runs it starts another
		p.master.detach()
		p.master = nil
		return
	}
	p.left = append(slices.DeleteFunc(p.left, func(m *master) bool { return !m.alive() }), p.master)
	p.master = nil
}

// killGrace is how long HAProxy may take to end when it is told to end at once.
const killGrace = 2 * time.Second

// Kill ends HAProxy with all of its workers, and returns when the master has ended.
func (p *Process) Kill() {
	p.mu.Lock()
	m := p.master
	p.mu.Unlock()
	if m != nil && !p.cfg.Elsewhere {
		m.kill(killGrace)
	}
}

// KillAll does that, and with what was given up too.
func (p *Process) KillAll() {
	p.mu.Lock()
	left := slices.Clone(p.left)
	p.mu.Unlock()
	for _, m := range left {
		m.kill(killGrace)
	}
	p.Kill()
}

// ErrGone says that nobody listens on a socket any more: HAProxy has ended, or is stopping.
var ErrGone = errors.New("nobody listens")

// dial connects to a socket in the directory. The error is ErrGone when nobody listens there. The way leads over the open directory, because the address
// of a socket may have 107 bytes only.
func (p *Process) dial(ctx context.Context, socket string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", p.dir.Fd(), socket))
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return nil, fmt.Errorf("connect to %s: %w: %w", filepath.Join(p.cfg.Dir, socket), ErrGone, err)
	case err != nil:
		return nil, fmt.Errorf("connect to %s: %w", filepath.Join(p.cfg.Dir, socket), err)
	}
	return conn, nil
}
