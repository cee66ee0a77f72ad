// Package deploy tells stories of what deploy/ installs: that it builds, that an API server takes it, that the rights in
// it are enough and none too many, and that the programs run the way their Pods would.
package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/test/kubetest"
)

// root is the repository; manifests is where the kustomizations are.
const (
	root      = "../.."
	manifests = root + "/deploy/kustomize"
)

// patience bounds every wait for a condition. It is long because machines are noisy: no story passes by it.
const patience = 60 * time.Second

// bin is where the binaries are.
var bin string

// inside is set for the process that runs the tests.
const inside = "TSUJI_TEST_DIRECTORY"

// TestMain builds the binaries, and then runs the tests in a network namespace of their own, where the ports of Pods are
// free.
func TestMain(m *testing.M) {
	if bin = os.Getenv(inside); bin != "" {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "ip link set lo up (of the package iproute2): %v\n%s", err, out)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	code, err := enter()
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
	build := exec.Command("go", "build", "-o", dir+"/", "./cmd/controlplane", "./cmd/routerd")
	build.Dir = root
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

// kubectl runs kubectl, of the administrator if a server is given, and returns what it prints.
func kubectl(t testing.TB, server *kubetest.Server, input string, args ...string) string {
	t.Helper()
	out, err := tryKubectl(t.Context(), server, input, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryKubectl(ctx context.Context, server *kubetest.Server, input string, args ...string) (string, error) {
	path, err := kubetest.Kubectl()
	if err != nil {
		return "", err
	}
	if server != nil {
		args = append([]string{"--kubeconfig=" + server.Kubeconfig()}, args...)
	}
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &complaints
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w\n%s%s", strings.Join(args, " "), err, complaints.String(), out.String())
	}
	return out.String(), nil
}

// edited returns a copy of the kustomizations, with files that are added or replaced.
func edited(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(manifests)); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// eventually waits until the condition returns nil.
func eventually(t testing.TB, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
