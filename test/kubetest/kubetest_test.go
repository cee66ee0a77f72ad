package kubetest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// server is the one of all tests here. They run one after the other, and expect no object of another's.
var server *Server

// orphan makes this program start a server in the directory that it names, and nothing else.
const orphan = "KUBETEST_ORPHAN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(orphan); dir != "" {
		_, err := Start(context.Background(), Config{Dir: dir})
		fmt.Fprintln(os.Stderr, err)
		select {}
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "tj")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if server, err = Start(context.Background(), Config{Dir: filepath.Join(dir, "kube"), Log: os.Stdout}); err != nil {
		return 0, err
	}
	code := m.Run()
	server.Stop()
	server.Stop()
	if err := server.Restart(context.Background(), false); err == nil {
		return 0, fmt.Errorf("a server that was stopped started again")
	}
	return code, goleak.Find()
}

func client(t *testing.T, c *rest.Config) dynamic.Interface {
	t.Helper()
	out, err := dynamic.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Killed and restarted, the server has its address, its certificate and every object. Wiped, it has forgotten them,
// but serves the same resources, to the same clients.
func TestRestart(t *testing.T) {
	ctx := t.Context()
	zones := client(t, server.Config()).Resource(kinds["Zone"])
	if _, err := zones.Create(ctx, object("Zone", "tok04", map[string]any{}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Kill(); err != nil {
		t.Fatalf("the second time: %v", err)
	}
	if _, err := zones.Get(ctx, "tok04", metav1.GetOptions{}); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Fatalf("the server is dead, and answers %v", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", strings.TrimPrefix(server.Config().Host, "https://"))
	if err == nil {
		l.Close()
		t.Error("another may take the port while the server is dead")
	}

	if err := server.Restart(ctx, false); err != nil {
		t.Fatal(err)
	}
	if _, err := zones.Get(ctx, "tok04", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}

	if err := server.Restart(ctx, true); err != nil {
		t.Fatal(err)
	}
	if z, err := zones.Get(ctx, "tok04", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("there is %v after a wipe, %v", z, err)
	}
	kubeconfig, err := clientcmd.BuildConfigFromFlags("", server.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	list, err := client(t, kubeconfig).Resource(kinds["Route"]).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) > 0 {
		t.Errorf("there are Routes after a wipe: %v", list.Items)
	}
}

// A service account's kubeconfig gives exactly the account's rights.
func TestServiceAccount(t *testing.T) {
	if _, err := server.KubeconfigFor("default", "reader"); !apierrors.IsNotFound(err) {
		t.Fatalf("an account that does not exist: %v", err)
	}
	story(t, `
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules:
- {apiGroups: [route.openshift.io], resources: [routes], verbs: [list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: ServiceAccount, namespace: default, name: reader}]
`)
	path, err := server.KubeconfigFor("default", "reader")
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, config)
	if err := until(t.Context(), nil, func() error { // rights take effect after a moment
		_, err := c.Resource(kinds["Route"]).List(t.Context(), metav1.ListOptions{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resource(kinds["Route"]).Namespace("default").Get(t.Context(), "any", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("get was not granted: %v", err)
	}
	if _, err := c.Resource(kinds["Zone"]).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("zones were not granted: %v", err)
	}
}

// `kubectl apply -k --server-side` installs the definitions, and `kubectl get` shows the columns that they name.
func TestKubectl(t *testing.T) {
	path, err := Kubectl()
	if err != nil {
		t.Fatal(err)
	}
	kubectl := func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), path, append([]string{"--kubeconfig=" + server.Kubeconfig(), "--cache-dir=" + t.TempDir()}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("kubectl %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	folder, err := above(ours)
	if err != nil {
		t.Fatal(err)
	}
	kubectl("", "apply", "--server-side", "--force-conflicts", "-k", folder)
	story(t, `
apiVersion: tsuji.dev/v1alpha1
kind: Zone
metadata: {name: tok04}
spec: {order: 1, pinnedVersion: 12-0a1b2c3d}
---
apiVersion: tsuji.dev/v1alpha1
kind: Zone
metadata: {name: tok05}
spec: {order: 2, paused: true}
---
apiVersion: tsuji.dev/v1alpha1
kind: Release
metadata: {name: default}
spec: {ingressController: default}
`)
	kubectl(`{"status": {
		"desiredVersion": "12-0a1b2c3d", "servingVersion": "11-99999999",
		"routers": {"expected": 3, "connected": 2, "current": 1, "refused": 1}}}`,
		"patch", "zone", "tok04", "--subresource=status", "--type=merge", "--patch-file=/dev/stdin")
	tables := kubectl("", "get", "zones", "-o", "wide") + "\n" + kubectl("", "get", "tsuji")
	compare(t, "testdata/kubectl.txt", regexp.MustCompile(`[0-9]+s\n`).ReplaceAllString(tables, "…\n"))
}

// Whoever started a server takes it along, even by a sudden death.
func TestOrphans(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.CommandContext(t.Context(), self)
	parent.Env = append(os.Environ(), orphan+"="+t.TempDir())
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer parent.Wait() //nolint:errcheck // it is killed
	var children []string
	err = until(t.Context(), nil, func() error {
		lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent.Process.Pid))
		if err != nil {
			return err
		}
		children = nil
		for _, l := range lists {
			b, err := os.ReadFile(l)
			if err != nil {
				return err
			}
			children = append(children, strings.Fields(string(b))...)
		}
		for _, c := range children { // `go list` is one too, for a while
			if name, err := os.ReadFile("/proc/" + c + "/comm"); err == nil && strings.HasPrefix(string(name), "kube-apiserver") {
				return nil
			}
		}
		return fmt.Errorf("it has the children %v", children)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(children) != 2 {
		t.Errorf("want etcd and kube-apiserver, have %d children", len(children))
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := until(t.Context(), nil, func() error {
		for _, c := range children {
			if b, err := os.ReadFile("/proc/" + c + "/stat"); err == nil && !strings.Contains(string(b), ") Z ") {
				return fmt.Errorf("process %s is still there", c)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// A server that does not start says why, in its own words, and leaves nothing behind.
func TestFailure(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho no room in the inn\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBE_APISERVER", broken)
	var log strings.Builder
	_, err := Start(t.Context(), Config{Dir: filepath.Join(dir, "kube"), Log: &log})
	if err == nil || !strings.Contains(err.Error(), "no room in the inn") {
		t.Errorf("the error does not say what the server did: %v", err)
	}
	if want := "kube-apiserver ended by itself: exit status 3"; !strings.Contains(log.String(), want) {
		t.Errorf("want %q in the log, have:\n%s", want, log.String())
	}

	t.Setenv("KUBE_APISERVER", filepath.Join(dir, "absent"))
	if _, err := Start(t.Context(), Config{Dir: filepath.Join(dir, "other"), Log: io.Discard}); err == nil || !strings.Contains(err.Error(), "KUBE_APISERVER=") {
		t.Errorf("the error does not name the variable: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	t.Setenv("KUBE_APISERVER", broken)
	if _, err := Start(ctx, Config{Dir: filepath.Join(dir, "late")}); err == nil {
		t.Error("no error when time is over")
	}
	if _, err := Start(t.Context(), Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a directory with something in it: %v", err)
	}
}

func object(kind, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": kinds[kind].GroupVersion().String(), "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec,
	}}
}
