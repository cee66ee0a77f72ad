// Package deploy tells stories of what deploy/ installs: that it builds, that an API server takes it, that the rights in
// it are enough and none too many, and that the programs run the way their Pods would.
package deploy

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/test/kubetest"
	"github.com/tsuji-dev/tsuji/test/netnstest"
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

// TestMain runs the tests in a network namespace of their own, where the ports of Pods are free.
func TestMain(m *testing.M) {
	netnstest.Main(m, root, func(dir string) (func(), error) {
		bin = dir
		return func() {}, nil
	})
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
