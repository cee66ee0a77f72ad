package test

import (
	"fmt"
	"testing"
)

// A router that takes fewer connections than its IngressController asks for, because it may open few files, says how many:
// the control plane tells of it as long as that is so.
func TestConnectionsThatFilesDoNotAllow(t *testing.T) {
	f := newFleet(t)
	settings := func(connections int) string {
		return "apiVersion: operator.openshift.io/v1\nkind: IngressController\n" +
			"metadata: {name: default, namespace: openshift-ingress-operator}\n" +
			fmt.Sprintf("spec: {tuningOptions: {maxConnections: %d}}\n", connections)
	}
	f.write("controller.yaml", settings(20_000))
	ip, port := backend(t, "pod")
	f.write("web.yaml", service("web", port, ip)+route("hello", "hello.example.com", "web"))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.startIn(withFewFiles)
	r.ready()
	conn := f.operator()
	told := func(what string, allowed, wanted uint32) {
		t.Helper()
		eventually(t, what, func() error {
			is := f.routers(conn)["router-a"]
			if is.GetConnectionsAllowed() != allowed || is.GetConnectionsWanted() != wanted {
				return fmt.Errorf("%d connections are allowed, %d wanted", is.GetConnectionsAllowed(), is.GetConnectionsWanted())
			}
			return nil
		})
	}
	const allowed = (8192 - 1024) * 7 / 8 / 2
	told("it is told", allowed, 20_000)
	f.write("controller.yaml", settings(3_000))
	told("as many as are wanted are allowed", allowed, 0)
	f.write("controller.yaml", settings(-1)) // as many as fit
	told("none are wanted in particular", allowed, 0)
}
