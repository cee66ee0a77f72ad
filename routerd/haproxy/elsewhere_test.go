package haproxy

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// A HAProxy that somebody else runs is waited for, followed through its reloads, and known to have ended when another one
// has its place already.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, binary string) {
		t.Parallel()
		p, dir := setup(t, binary, func(c *Config) { c.Binary, c.Elsewhere, c.TieToParent = "", true, false })
		if ok, err := p.Adopt(t.Context()); ok || err != nil {
			t.Fatalf("nobody runs HAProxy, and it was adopted: %v, %v", ok, err)
		}
		type started struct {
			rt  *Runtime
			err error
		}
		got := make(chan started, 1)
		go func() {
			rt, err := p.Start(t.Context())
			got <- started{rt, err}
		}()
		select {
		case s := <-got:
			t.Fatalf("Start returns %v with nobody there", s.err)
		case <-time.After(50 * time.Millisecond): // no proof, but a chance to fail
		}
		end := runElsewhere(t, binary, dir)
		s := <-got
		must(t, s.err)
		s.rt.Close()

		exited := p.Exited()
		for _, version := range []string{"two", "three"} {
			write(t, dir, "maps/stamp.map", "version "+version+"\n")
			rt, err := p.Reload(t.Context())
			must(t, err)
			if v, err := rt.GetMapKeys(t.Context(), []MapKey{{File: "maps/stamp.map", Key: "version"}}); err != nil || v[0].Value != version {
				t.Errorf("after a reload it has %v, %v, want %s", v, err, version)
			}
			rt.Close()
		}
		change(t, dir, "mode http\n", "mode nonsense\n")
		var refused *CheckError
		if _, err := p.Reload(t.Context()); !errors.As(err, &refused) {
			t.Errorf("a configuration that is wrong: %v", err)
		} else if haproxytest.AtLeast(t, binary, 2, 7) && (len(refused.Alerts) == 0 || refused.Alerts[0].File != ConfigFile || refused.Address()) {
			t.Errorf("the fault is not said: %+v", refused)
		}
		change(t, dir, "mode nonsense\n", "mode http\n")
		followed(t, p, exited)

		// It dies in a reload, in which nobody can be asked for a while. What is there next counts from nothing.
		p.reloading.Store(true)
		end()
		end = runElsewhere(t, binary, dir)
		ends(t, exited)
		p.reloading.Store(false)
		if _, err := p.Await(t.Context()); err != nil {
			t.Fatal(err)
		}
		if ok, err := p.Adopt(t.Context()); !ok || err != nil {
			t.Fatalf("another one was started: %v, %v", ok, err)
		}
		exited = p.Exited()
		followed(t, p, exited)
		p.Kill() // for others to do
		must(t, p.SoftStop())
		followed(t, p, exited)
		end()
		ends(t, exited)
		if err := p.ExitReason(); err == nil {
			t.Error("there is no reason for its end")
		}
	})
}

// An address that is taken is no fault of what is in the configuration.
func TestElsewhereAddress(t *testing.T) {
	t.Parallel()
	binary := haproxytest.Binary(t)
	p, dir := setup(t, binary, func(c *Config) { c.Binary, c.Elsewhere, c.TieToParent = "", true, false })
	runElsewhere(t, binary, dir)
	rt, err := p.Start(t.Context())
	must(t, err)
	rt.Close()
	change(t, dir, "frontend f\n", "frontend f\n  bind 192.0.2.1:80\n")
	var refused *CheckError
	if _, err := p.Reload(t.Context()); !errors.As(err, &refused) || !refused.Address() {
		t.Errorf("an address that is not here: %v", err)
	}
}

// followed checks that the master is taken for alive, also after a look at it.
func followed(t *testing.T, p *Process, exited <-chan struct{}) {
	t.Helper()
	if _, err := p.Processes(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-exited:
		t.Fatalf("it is taken for dead: %v", p.ExitReason())
	case <-time.After(100 * time.Millisecond): // no proof, but a chance to fail
	}
}

func ends(t *testing.T, exited <-chan struct{}) {
	t.Helper()
	select {
	case <-exited:
	case <-time.After(time.Minute):
		t.Fatal("its end is not noticed")
	}
}

// runElsewhere runs HAProxy as a container would, and returns what kills all of it at once.
func runElsewhere(t *testing.T, binary, dir string) (kill func()) {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), binary, "-W", "-S", "unix@"+MasterSocket+",mode,660", "-f", ConfigFile)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	must(t, cmd.Start())
	ended := false
	kill = func() {
		if !ended {
			ended = true
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			_ = cmd.Wait()
		}
	}
	t.Cleanup(kill)
	return kill
}

// The directories of a HAProxy with another user are for a group as well, whatever the umask, and in that of the
// directories that they are made in. Nobody else may enter.
func TestSharedDirectories(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	must(t, os.Chmod(top, 0o755|os.ModeSetgid))
	cfg := Config{Elsewhere: true, Dir: filepath.Join(top, "files", "haproxy"), Sockets: filepath.Join(top, "sockets", "run")}
	for range 2 {
		p, err := New(cfg)
		must(t, err)
		must(t, p.Close())
	}
	for path, want := range map[string]os.FileMode{cfg.Dir: 0o750, cfg.Sockets: 0o770, cfg.Dir + "/run/": 0o770} {
		if i, err := os.Stat(path); err != nil || i.Mode() != want|os.ModeDir|os.ModeSetgid {
			t.Errorf("%s: %v, %v, want %v", strings.TrimPrefix(path, top), i.Mode(), err, want)
		}
	}
	must(t, os.Remove(cfg.Dir+"/run"))
	must(t, os.Symlink("/nowhere", cfg.Dir+"/run"))
	p, err := New(cfg)
	must(t, err)
	must(t, p.Close())
	if to, err := os.Readlink(cfg.Dir + "/run"); err != nil || to != cfg.Sockets {
		t.Errorf("run/ leads to %s, %v", to, err)
	}
}
