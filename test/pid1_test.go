package test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// routerd is the first process of its container, to which the children of all that have ended fall: whatever becomes of
// HAProxy's processes, none stays a zombie. It ends in order on SIGTERM, and says how.
func TestFirstProcess(t *testing.T) {
	f := newFleet(t)
	ip, port := backend(t, "pod")
	f.write("web.yaml", service("web", port, ip)+route("hello", "hello.example.com", "web"))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.startIn(func(cmd *exec.Cmd) {
		cmd.Args = append([]string{"sh", "-c", `mount --make-rprivate / && mount -t proc proc /proc && exec "$0" "$@"`}, cmd.Args...)
		cmd.Path = "/bin/sh"
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
	})
	r.ready()
	f.converged(f.operator(), "router-a")
	first := r.cmd.Process.Pid

	for _, step := range []struct {
		name string
		do   func(master, worker int)
	}{
		{"the worker is killed", func(_, worker int) { _ = syscall.Kill(worker, syscall.SIGKILL) }},
		{"the master is killed", func(master, _ int) { _ = syscall.Kill(master, syscall.SIGKILL) }},
		{"the master stops", func(master, _ int) { _ = syscall.Kill(master, syscall.SIGUSR1) }},
		{"a process loses its parent", func(int, int) {
			out, err := exec.Command("nsenter", "-t", strconv.Itoa(first), "-p", "sh", "-c", "sleep 0.2 & exit").CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}},
	} {
		master, workers := r.haproxyPIDs()
		if master == 0 || len(workers) != 1 {
			t.Fatalf("before %s: master %d, workers %v", step.name, master, workers)
		}
		step.do(master, workers[0])
		eventually(t, step.name+", and HAProxy runs as it should", func() error {
			if m, w := r.haproxyPIDs(); m == 0 || len(w) != 1 || strings.Contains(step.name, "master") && m == master {
				return fmt.Errorf("master %d, workers %v; before: %d, %v", m, w, master, workers)
			}
			return answers(r.http, "hello.example.com", "/", "pod")
		})
		eventually(t, step.name+", and nobody is left", func() error { return zombies(t, first) })
	}
	r.terminate()
	if code := r.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if err := r.logged("stopping: draining"); err != nil {
		t.Error(err)
	}
}

// zombies is an error if there are processes below one that have ended and that nobody has waited for.
func zombies(t *testing.T, ancestor int) error {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has gone, or is no process
		}
		end := bytes.LastIndexByte(stat, ')')
		if end < 0 || !strings.HasPrefix(string(stat[end+1:]), " Z") {
			continue
		}
		for pid, _ := strconv.Atoi(e.Name()); pid > 1; pid = parentOf(pid) {
			if pid == ancestor {
				found = append(found, string(stat[:end+1]))
			}
		}
	}
	if len(found) > 0 {
		return fmt.Errorf("zombies: %v", found)
	}
	return nil
}
