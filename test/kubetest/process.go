package kubetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Kubectl returns the path of kubectl, of the same release as the API server.
func Kubectl() (string, error) { return binary("KUBECTL", "kubectl") }

// binary returns the path of a program: what the environment variable names, else .tools/bin/name in the working
// directory or above.
func binary(variable, name string) (string, error) {
	if path := os.Getenv(variable); path != "" {
		if _, err := exec.LookPath(path); err != nil {
			return "", fmt.Errorf("%s=%s is no program (`make tools` builds one into .tools/bin): %w", variable, path, err)
		}
		return filepath.Abs(path)
	}
	path, err := above(filepath.Join(".tools", "bin", name))
	if err != nil {
		return "", fmt.Errorf("there is no %s: run `make tools`, or set %s: %w", name, variable, err)
	}
	return path, nil
}

// above looks for a file or folder in the working directory and those above it.
func above(name string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("%s: %w in the working directory and above", name, os.ErrNotExist)
		}
		dir = up
	}
}

// program is what to run.
type program struct {
	name, path string
	args       []string
	log        string // the file that its output is appended to
}

// process is a program that runs, or ran.
type process struct {
	cmd    *exec.Cmd
	killed chan struct{} // closed before it is killed
	done   chan struct{} // closed when it has ended
}

// start runs the program; lost is called if it ends without having been killed.
func (p program) start(lost func(error)) (*process, error) {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// No CommandContext: a server outlives the call that started it.
	cmd := exec.Command(p.path, p.args...) //nolint:noctx // see above
	cmd.Env = []string{}                   // etcd takes flags from its environment
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out := &process{cmd, make(chan struct{}), make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends the signal of Pdeathsig when the thread that started the process ends: this one stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		err = cmd.Wait()
		select {
		case <-out.killed:
		default:
			lost(err)
		}
		close(out.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return out, nil
}

// kill ends the process, once, and waits for its end.
func (p *process) kill() error {
	close(p.killed)
	err := p.cmd.Process.Kill()
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill process %d: %w", p.cmd.Process.Pid, err)
	}
	<-p.done
	return nil
}

// until asks again and again, until there is no error. It gives up when the context ends, or ended is closed.
func until(ctx context.Context, ended <-chan struct{}, ask func() error) error {
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("it has ended; before that: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// get wants status 200 of a URL.
func get(ctx context.Context, c *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return nil
}

// tail returns the end of a log, for a person.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	const lines = 30
	at := len(bytes.TrimRight(b, "\n"))
	for range lines {
		if at = bytes.LastIndexByte(b[:max(at, 0)], '\n'); at < 0 {
			break
		}
	}
	return fmt.Sprintf("the end of %s:\n%s", path, b[at+1:])
}

// ports are the server's, all on 127.0.0.1.
type ports struct {
	client, peer, api port // etcd's for clients, etcd's for other members, kube-apiserver's
}

// port is a port that a socket is bound to but does not listen on. So the kernel gives it to nobody, refuses
// connections as long as no server runs, and lets servers of the same user that share ports listen.
type port struct {
	number, socket int
}

// reserve takes free ports.
func reserve() (ports, error) {
	var out ports
	for _, p := range []*port{&out.client, &out.peer, &out.api} {
		var err error
		if *p, err = reserveOne(); err != nil {
			out.release()
			return ports{}, err
		}
	}
	return out, nil
}

func reserveOne() (port, error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return port{}, fmt.Errorf("socket: %w", err)
	}
	err = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	if err == nil {
		err = unix.Bind(socket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err == nil {
		var a unix.Sockaddr
		if a, err = unix.Getsockname(socket); err == nil {
			if in, ok := a.(*unix.SockaddrInet4); ok {
				return port{in.Port, socket}, nil
			}
			err = fmt.Errorf("its address is a %T", a)
		}
	}
	return port{}, errors.Join(fmt.Errorf("bind to 127.0.0.1: %w", err), unix.Close(socket))
}

// release gives the ports back.
func (p ports) release() {
	for _, p := range []port{p.client, p.peer, p.api} {
		if p.number != 0 {
			_ = unix.Close(p.socket)
		}
	}
}
