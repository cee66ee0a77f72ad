// Package netnstest runs a package's tests, and the product's binaries that they start, in a network namespace of their
// own, and in a mount namespace.
//
// It guarantees that ports collide with nobody's, that addresses of a private range are local, that nobody else sees
// what a test mounts, and that nothing is left behind: the namespaces go with their last process. There is no way out
// of the network: build and download before.
package netnstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

// PodAddress is local in the namespace, as are all others of its /10: addresses that are not loopback, as an API server
// wants those of endpoints to be.
const PodAddress = "10.64.0.1"

// inside is set for the process that runs the tests.
const inside = "TSUJI_TEST_DIRECTORY"

// Main is what a TestMain does: it builds the binaries of the repository at root, and runs the tests in a new
// network namespace. Before them, begin is given the directory of the binaries, which goes when the tests have ended.
// It does not return.
func Main(m *testing.M, root string, begin func(dir string) (end func(), err error)) {
	code, err := func() (int, error) {
		if dir := os.Getenv(inside); dir != "" {
			return run(m, dir, begin)
		}
		return enter(root)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// enter builds the binaries and runs this program again in a new network namespace.
func enter(root string) (int, error) {
	dir, err := os.MkdirTemp("", "tjbin")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir+"/", "./cmd/...") //nolint:noctx // bounded by the test's time
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build the binaries: %w\n%s", err, out)
	}
	runtime.LockOSThread()                          // the child dies with this thread, so the thread must stay
	cmd := exec.Command(os.Args[0], os.Args[1:]...) //nolint:noctx // this program, as it was called
	cmd.Env = append(os.Environ(), inside+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	if errors.Is(err, syscall.EPERM) {
		return 0, fmt.Errorf("make namespaces for the tests: %w; run them as root", err)
	}
	return 0, err
}

// run gives the network namespace its addresses, closes the mount namespace, and runs the tests.
func run(m *testing.M, dir string, begin func(string) (func(), error)) (int, error) {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return 0, fmt.Errorf("keep mounts to this process: %w", err)
	}
	for _, args := range [][]string{{"link", "set", "lo", "up"}, {"address", "add", PodAddress + "/10", "dev", "lo"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil { //nolint:noctx // takes no time
			return 0, fmt.Errorf("ip %v (of the package iproute2): %w\n%s", args, err, out)
		}
	}
	end, err := begin(dir)
	if err != nil {
		return 0, err
	}
	defer end()
	return m.Run(), nil
}
