package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// childGrace is how long a child may take to end before it is killed.
const childGrace = 15 * time.Second

// lastLines is how many lines of a child's log are told when it ends unexpectedly.
const lastLines = 8

// maxShown is how much of a warning is shown on the terminal, in characters. The log has all of it.
const maxShown = 400

// terminal is where the demo talks to its user, one whole message at a time.
type terminal struct {
	mu sync.Mutex
	w  io.Writer // guarded by mu
}

func (t *terminal) print(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.w, format+"\n", args...)
}

// child is a process of the demo's.
type child struct {
	name    string
	logFile string
	again   string // what to type to start it again
	cmd     *exec.Cmd

	log       *childLog
	terminate context.CancelFunc // sends SIGTERM, and SIGKILL after childGrace
	stopping  atomic.Bool        // its end was asked for
	done      chan struct{}      // closed when it has ended and its log is whole
	reported  chan struct{}      // closed when an end that was not asked for has been told
	err       error              // how it ended; read it after done
}

// startChild starts a program whose output goes to a log file in the directory, and its warnings to the
// terminal, too. Beside the log are its process id, and a script with its command line.
func startChild(ctx context.Context, name, program string, args []string, dir string, t *terminal) (*child, error) {
	logFile, script := filepath.Join(dir, name+".log"), filepath.Join(dir, name+".sh")
	if err := os.WriteFile(script, []byte("exec "+commandLine(program, args)+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	file, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	out := &childLog{name: name, file: file, terminal: t}
	// It ends when stop says so and not with the demo's context: routers go before the control plane.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = childEnv(os.Environ())
	cmd.SysProcAttr = childAttributes()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = childGrace
	c := &child{
		name: name, logFile: logFile, again: "sh " + quote(script), cmd: cmd,
		log: out, terminate: cancel, done: make(chan struct{}), reported: make(chan struct{}),
	}
	if err := cmd.Start(); err != nil {
		cancel()
		file.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	if err := os.WriteFile(filepath.Join(dir, name+".pid"), []byte(pid+"\n"), 0o600); err != nil {
		t.print("%s runs as %s, which could not be written down: %v", name, pid, err)
	}
	go func() {
		defer close(c.reported)
		c.err = cmd.Wait()
		cancel()
		out.close()
		close(c.done)
		if !c.stopping.Load() {
			t.print("\n%s (pid %d) ended: %s. What it logged last (%s):\n%s\n"+
				"To start it again, in another terminal, in this directory: %s\n",
				name, cmd.Process.Pid, cmd.ProcessState, logFile, out.last(), c.again)
		}
	}()
	return c, nil
}

// quiet says that the child's end is asked for: neither it, nor what the child says of it, is news.
func (c *child) quiet() {
	c.stopping.Store(true)
	c.log.quiet.Store(true)
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// killed tells, of a child that has ended, whether it had to be killed by us.
func (c *child) killed() bool {
	var exit *exec.ExitError
	if !errors.As(c.err, &exit) {
		return errors.Is(c.err, exec.ErrWaitDelay)
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// childEnv leaves out our own variables: what a child is told stands in its command line.
func childEnv(env []string) []string {
	var kept []string
	for _, v := range env {
		if !strings.HasPrefix(v, "TSUJI_") {
			kept = append(kept, v)
		}
	}
	return kept
}

func commandLine(program string, args []string) string {
	words := []string{quote(program)}
	for _, a := range args {
		words = append(words, quote(a))
	}
	return strings.Join(words, " ")
}

// childLog writes what a child says to a file, and whole lines of warnings to the terminal.
type childLog struct {
	name     string
	terminal *terminal
	quiet    atomic.Bool // nothing goes to the terminal any more

	mu      sync.Mutex
	file    *os.File // guarded by mu, as is all below
	partial []byte   // of a line whose end has not come
	lines   []string // the last ones
}

// Write never fails: a full disk must not end the child.
func (l *childLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.file.Write(b)
	l.partial = append(l.partial, b...)
	for {
		i := bytes.IndexByte(l.partial, '\n')
		if i < 0 {
			break
		}
		l.line(string(l.partial[:i]))
		l.partial = l.partial[i+1:]
	}
	return len(b), nil
}

func (l *childLog) line(s string) {
	l.lines = append(l.lines, s)
	if len(l.lines) > lastLines {
		l.lines = l.lines[1:]
	}
	if l.quiet.Load() || strings.Contains(s, "level=WARN ") && strings.Contains(s, " from=haproxy ") {
		return // HAProxy warns of each of its parts that it stops in a reload
	}
	for _, level := range []string{"WARN", "ERROR"} {
		if _, message, ok := strings.Cut(s, "level="+level+" "); ok {
			if r := []rune(message); len(r) > maxShown {
				message = string(r[:maxShown]) + "…"
			}
			l.terminal.print("[%s] %s %s", l.name, strings.ToLower(level), message)
			return
		}
	}
}

func (l *childLog) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return "  " + strings.Join(l.lines, "\n  ")
}

func (l *childLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.partial) > 0 {
		l.line(string(l.partial))
	}
	l.file.Close()
}
