package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// podAddress is where backends listen: an address that is local and not loopback, as an API server wants those of
// endpoints to be. It exists in the network namespace of the tests only.
const podAddress = "10.64.0.1"

// bin is where the product's binaries are; scratch is a directory for what all stories share.
var bin, scratch string

// inside is set for the process that runs the tests.
const inside = "TSUJI_TEST_DIRECTORY"

// TestMain builds the three binaries, and then runs the tests in a network namespace of their own: ports collide with
// nobody's, and a range of addresses is there for Pods.
func TestMain(m *testing.M) {
	var code int
	var err error
	if dir := os.Getenv(inside); dir != "" {
		code, err = run(m, dir)
	} else {
		code, err = enter()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// enter builds the binaries and runs this program again in a new network namespace.
func enter() (int, error) {
	dir, err := os.MkdirTemp("", "tjbin")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir+"/", "./cmd/...")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build the binaries: %w\n%s", err, out)
	}
	runtime.LockOSThread() // the child dies with this thread, so the thread must stay
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	if errors.Is(err, syscall.EPERM) {
		return 0, fmt.Errorf("make a network namespace for the tests: %w; run them as root", err)
	}
	return 0, err
}

// run gives the namespace its addresses, and runs the tests.
func run(m *testing.M, dir string) (int, error) {
	for _, args := range [][]string{{"link", "set", "lo", "up"}, {"address", "add", podAddress + "/10", "dev", "lo"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("ip %v (of the package iproute2): %w\n%s", args, err, out)
		}
	}
	bin, scratch = dir, filepath.Join(dir, "shared")
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return 0, err
	}
	code := m.Run()
	stopAPIServer()
	return code, nil
}
