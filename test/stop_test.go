package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// A router that is told to stop is not ready any more, and all the same goes where the control plane says, for as long as
// connections come: endpoints move, Routes come and go, and each is acked. A second SIGTERM skips what is left of the
// delay, and HAProxy ends with its router.
func TestStopFollows(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, binary string) {
		f := newFleet(t)
		f.haproxy = binary
		r := served(t, f, 2)
		r.terminate()
		r.start("--shutdown-delay=1h", "--drain-timeout=1h")
		r.ready()
		op := f.operator()
		f.converged(op, "router-a")

		_ = r.cmd.Process.Signal(syscall.SIGTERM)
		eventually(t, "readiness fails", func() error { return status("http://"+r.stats+"/healthz/ready", 503) })
		if err := status("http://"+r.admin+"/readyz", 503); err != nil {
			t.Errorf("routerd's own: %v", err)
		}
		if err := status("http://"+r.stats+"/healthz", 200); err != nil {
			t.Errorf("it lives: %v", err)
		}
		ip, port := backend(t, "second")
		second := service("web", port, ip)
		f.write("all.yaml", second+route("r0", "r0.example.com", "web")+route("r1", "r1.example.com", "web"))
		eventually(t, "traffic follows an endpoint that moves", func() error { return answers(r.http, "r0.example.com", "/", "second") })
		f.write("all.yaml", second+route("r1", "r1.example.com", "web")+route("r2", "r2.example.com", "web"))
		eventually(t, "a Route comes", func() error { return answers(r.http, "r2.example.com", "/", "second") })
		eventually(t, "a Route goes", func() error {
			if code, _, err := get(r.http, "r0.example.com", "/"); err != nil || code != 503 {
				return fmt.Errorf("%d, %w", code, err)
			}
			return nil
		})
		f.converged(op, "router-a")
		if err := r.ended(); err == nil {
			t.Fatal("it did not wait")
		}

		r.terminate() // the second signal
		if code := r.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("exit status %d", code)
		}
		if master, workers := r.haproxyPIDs(); master != 0 || len(workers) > 0 {
			t.Errorf("HAProxy is left: master %d, workers %v", master, workers)
		}
		eventually(t, "the control plane sees that the router has gone", func() error {
			if f.routers(op)["router-a"].GetConnected() {
				return errNotYet
			}
			return nil
		})
	})
}

// ended is nil when the process has ended.
func (p *process) ended() error {
	select {
	case <-p.done:
		return nil
	default:
		return fmt.Errorf("%s still runs", p.name)
	}
}

// A HAProxy that hangs, whichever part of it and whatever for, does not keep routerd from stopping, and is not left
// behind.
func TestStopWhileHAProxyHangs(t *testing.T) {
	for what, hang := range map[string]func(f *fleet, r *router){
		"asked for its version": func(f *fleet, r *router) {
			r.endBoth()
			r.start("--haproxy=" + f.hanging("-vv"))
			f.hangs()
		},
		"checking its files": func(f *fleet, r *router) {
			r.endBoth()
			r.start("--haproxy=" + f.hanging("-c"))
			f.hangs()
		},
		"its worker, at the start": func(f *fleet, r *router) {
			r.kill()
			_, workers := r.haproxyPIDs()
			_ = syscall.Kill(workers[0], syscall.SIGSTOP)
			r.start()
			eventually(f.t, "it is at it", func() error { return r.logged("HAProxy was running and is taken over") })
		},
		"its master, at the start": func(f *fleet, r *router) {
			r.kill()
			master, _ := r.haproxyPIDs()
			_ = syscall.Kill(master, syscall.SIGSTOP)
			r.start()
			eventually(f.t, "it is at it", func() error { return status("http://"+r.admin+"/healthz", 200) })
		},
		"its worker, in a change": func(f *fleet, r *router) {
			_, workers := r.haproxyPIDs()
			_ = syscall.Kill(workers[0], syscall.SIGSTOP)
			f.write("routes.yaml", route("r9", "r9.example.com", "web"))
			eventually(f.t, "the change is on its way", func() error {
				if a := f.routers(f.operator())["router-a"]; digests(a.GetAckedVersion()) == digests(a.GetTargetVersion()) {
					return errNotYet
				}
				return nil
			})
		},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFleet(t)
			r := served(t, f, 1)
			f.converged(f.operator(), "router-a")
			hang(f, r)
			r.terminate()
			if master, workers := r.haproxyPIDs(); master != 0 || len(workers) > 0 {
				t.Errorf("HAProxy is left: master %d, workers %v", master, workers)
			}
		})
	}
}

// endBoth kills routerd and HAProxy, so that only the store is left.
func (r *router) endBoth() {
	r.kill()
	r.killHAProxy()
}

// hanging returns the path of an HAProxy that hangs, and a child of it, when it is called with an option.
func (f *fleet) hanging(option string) string {
	f.t.Helper()
	path := filepath.Join(f.dir, "hanging-haproxy")
	script := fmt.Sprintf(`#!/bin/sh
if [ "$1" = %s ]; then sleep 1000 & echo $! > %s/hangs; wait; fi
exec %s "$@"
`, option, f.dir, f.haproxy)
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if pid, err := f.hung(); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return path
}

// hung returns the process that hangs.
func (f *fleet) hung() (int, error) {
	b, err := os.ReadFile(filepath.Join(f.dir, "hangs"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// hangs waits until it does.
func (f *fleet) hangs() {
	f.t.Helper()
	eventually(f.t, "HAProxy hangs", func() error { _, err := f.hung(); return err })
}
