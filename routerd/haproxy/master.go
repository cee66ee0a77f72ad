package haproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// master is a master process that is watched, a child or an adopted one.
type master struct {
	pid   int
	pidfd *os.File
	cmd   *exec.Cmd     // nil when adopted
	done  chan struct{} // closed when the process has ended
	left  chan struct{} // closed by detach

	end context.CancelFunc // ends the following of one elsewhere, of which there is no process here; nil: it is here

	once sync.Once // detach
	err  error     // how it ended; written before done is closed
}

// masterListener is the word on a master's command line that says where its socket is.
const masterListener = "unix@" + MasterSocket + ",mode,600"

// makeDirs makes HAProxy's directories. Somebody may have removed them since.
func (c Config) makeDirs() error {
	if c.Elsewhere {
		return c.makeShared()
	}
	if err := os.MkdirAll(filepath.Join(c.Dir, RunDir), 0o700); err != nil {
		return fmt.Errorf("make HAProxy's directory: %w", err)
	}
	// Who has no rights anywhere else has to pass through the jail to the sockets in it.
	jail := filepath.Join(c.Dir, JailDir)
	if err := errors.Join(os.MkdirAll(jail, 0o711), os.Chmod(jail, 0o711)); err != nil { //nolint:gosec // it has to
		return fmt.Errorf("make HAProxy's jail: %w", err)
	}
	return nil
}

// start starts the master with its output on the FIFO, and follows it. mu is held.
func (p *Process) start() error {
	if err := p.cfg.makeDirs(); err != nil {
		return err
	}
	out, err := openOutput(filepath.Join(p.cfg.Dir, outputFIFO))
	if err != nil {
		return err
	}
	defer out.Close()
	// Who still reads what the last one has said would take what this one says.
	if p.output != nil {
		p.output.stop()
		p.output = nil
	}
	// It shall outlive us, so its life must not hang on a context.
	cmd := exec.Command(p.binary, "-W", "-S", masterListener, "-f", ConfigFile) //nolint:noctx // configured by the operator
	cmd.Dir = p.cfg.Dir
	cmd.Env = []string{}
	cmd.Stdout, cmd.Stderr = out, out
	// A session of its own: what ends our terminal or our process group does not end it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	launched := make(chan error, 1)
	if !p.cfg.TieToParent {
		launched <- cmd.Start()
	}
	m := &master{cmd: cmd, done: make(chan struct{}), left: make(chan struct{})}
	if p.cfg.TieToParent {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
		go func() {
			// The signal comes when the thread that forked ends: so that thread is kept.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			err := cmd.Start()
			launched <- err
			if err == nil {
				select {
				case <-m.done:
				case <-m.left:
				}
			}
		}()
	}
	if err := <-launched; err != nil {
		return err
	}
	m.pid = cmd.Process.Pid
	// A core would hold every private key.
	if err := unix.Prlimit(m.pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil); err != nil && !errors.Is(err, unix.ESRCH) {
		p.cfg.Log.Warn("HAProxy may dump core", "error", err)
	}
	fd, err := unix.PidfdOpen(m.pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		close(m.done)
		return fmt.Errorf("watch process %d: %w", m.pid, err)
	}
	m.run(fd)
	p.follow(m)
	return nil
}

// follow makes m the master, and logs its output. mu is held.
func (p *Process) follow(m *master) {
	if p.master != nil {
		p.master.detach()
	}
	if p.output != nil {
		p.output.stop()
	}
	p.master = m
	p.output = follow(filepath.Join(p.cfg.Dir, outputFIFO), p.cfg.Log)
}

// watch watches a process that may be anyone's child.
func watch(pid int, cmd *exec.Cmd) (*master, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	m := &master{pid: pid, cmd: cmd, done: make(chan struct{}), left: make(chan struct{})}
	m.run(fd)
	return m, nil
}

// run watches the process until it has ended or detach is called.
func (m *master) run(fd int) {
	m.pidfd = os.NewFile(uintptr(fd), "pidfd:"+strconv.Itoa(m.pid))
	go func() {
		if m.wait() != nil {
			return // detached
		}
		switch {
		case m.cmd != nil:
			m.err = m.cmd.Wait()
			if m.err == nil {
				m.err = errors.New("exit status 0")
			}
		default:
			// Our own child all the same, when it was adopted by the program that had started it.
			_, _ = unix.Wait4(m.pid, nil, unix.WNOHANG, nil)
			m.err = errors.New("an adopted process, whose exit status only its parent knows")
		}
		close(m.done)
	}()
}

// wait returns nil when the process has ended. A pidfd becomes readable then.
func (m *master) wait() error {
	raw, err := m.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n > 0
	})
}

// awaitEnd waits until the process of a pidfd has ended.
func awaitEnd(pidfd *os.File, most time.Duration) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) {
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(most.Milliseconds()))
	})
}

// detach stops watching. The process goes on.
func (m *master) detach() {
	m.once.Do(func() {
		close(m.left)
		if m.end != nil {
			m.end()
			return
		}
		m.pidfd.Close()
		if m.cmd != nil && m.alive() {
			_ = m.cmd.Process.Release()
		}
	})
}

func (m *master) alive() bool {
	select {
	case <-m.done:
		return false
	default:
		return true
	}
}

// reason tells how the process ended. It must have.
func (m *master) reason() error {
	<-m.done
	return m.err
}

// signal sends a signal to exactly this process, never to another that got its number.
func (m *master) signal(s unix.Signal) error { return signalTo(m.pidfd, s) }

// signalTo sends a signal to the process of a pidfd. That it has ended is no error.
func signalTo(pidfd *os.File, s unix.Signal) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), s, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return sent
}

// kill ends the process, at first with a word of warning, and waits until it has ended. The workers end
// with their master, those that hang too.
func (m *master) kill(grace time.Duration) {
	if !m.alive() {
		return
	}
	workers := m.workers()
	defer func() {
		for _, w := range workers {
			if !m.alive() {
				_ = signalTo(w, unix.SIGKILL)
				_ = awaitEnd(w, grace)
			}
			w.Close()
		}
	}()
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if m.signal(s) != nil {
			return // detached
		}
		select {
		case <-m.done:
			return
		case <-m.left:
			return
		case <-time.After(grace):
		}
	}
}

// Processes is what the master says of itself and its workers. A pid of zero means that there is none.
type Processes struct {
	Master int
	Worker int   // the one that takes new connections
	Old    []int // those that were replaced, and still hold connections

	Reloads int // how often the master was reloaded, successfully or not
	Failed  int // how many of the last reloads have failed in a row
}

// Processes asks the master.
func (p *Process) Processes(ctx context.Context) (Processes, error) { return p.processes(ctx) }

func (p *Process) processes(ctx context.Context) (Processes, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out, err := p.ask(ctx, "show proc")
	if err != nil {
		return Processes{}, err
	}
	return parseProcesses(out)
}

// askTimeout is more than the master ever takes for what it knows.
const askTimeout = 10 * time.Second

// maxMasterAnswer is more than the master ever says: a reload repeats all warnings.
const maxMasterAnswer = 16 << 20

// ask sends one command to the master and returns what it says.
func (p *Process) ask(ctx context.Context, command string) (string, error) {
	conn, err := p.dial(ctx, MasterSocket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	out, err := exchange(conn, command)
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("ask the master to %q: %w", command, context.Cause(ctx))
	case err != nil:
		return "", fmt.Errorf("ask the master to %q: %w", command, err)
	}
	return out, nil
}

// exchange writes a command and reads to the end: without a prompt the master closes after one answer.
func exchange(conn net.Conn, command string) (string, error) {
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return "", err
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil { //nolint:errcheck // dial makes no other kind
		return "", err
	}
	out, err := io.ReadAll(io.LimitReader(conn, maxMasterAnswer))
	return string(out), err
}
