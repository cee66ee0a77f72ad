package test

import (
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/test/kubetest"
)

// With kubectl a Route, a Service and an EndpointSlice are created, and both zones serve them; they are scaled, and both
// endpoints answer; scaled back, and one does; deleted, and nobody does.
func TestKubectl(t *testing.T) {
	f := newFleet(t)
	c := newCluster(t)
	f.source = c
	path, err := kubetest.Kubectl()
	if err != nil {
		t.Fatal(err)
	}
	kubectl := func(manifest, verb string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), path, "--kubeconfig="+c.kubeconfig, verb, "-f", "-")
		cmd.Stdin = strings.NewReader(manifest)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("kubectl %s: %v\n%s", verb, err, out)
		}
	}
	first, port := backend(t, "first")
	const second = "10.64.0.2"
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", second, port))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: answering("second"), ReadHeaderTimeout: patience}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })

	f.startControlPlane()
	both := []*router{f.newRouter("tok04", "router-a"), f.newRouter("tok05", "router-b")}
	for _, r := range both {
		r.start()
	}
	const host = "kubectl.example.com"
	one := service("kc", port, first) + route("kc", host, "kc")
	two := service("kc", port, first, second) + route("kc", host, "kc")
	answeredBy := func(r *router, name string) func() error {
		return func() error { return answers(r.http, host, "/", name) }
	}
	kubectl(one, "create")
	for _, r := range both {
		eventually(t, r.name+" serves what was created", answeredBy(r, "first"))
	}
	kubectl(two, "apply")
	for _, r := range both {
		eventually(t, r.name+" uses the new endpoint", answeredBy(r, "second"))
		eventually(t, r.name+" uses the old endpoint still", answeredBy(r, "first"))
	}
	kubectl(strings.ReplaceAll(one, first, second), "apply")
	for _, r := range both {
		eventually(t, r.name+" has left the removed endpoint", func() error {
			for range 20 {
				if err := answers(r.http, host, "/", "second"); err != nil {
					return err
				}
			}
			return nil
		})
	}
	kubectl(two, "delete")
	for _, r := range both {
		eventually(t, r.name+" no longer serves what was deleted", func() error {
			code, _, err := get(r.http, host, "/")
			if err == nil && code != http.StatusServiceUnavailable {
				err = fmt.Errorf("%d", code)
			}
			return err
		})
	}
}
