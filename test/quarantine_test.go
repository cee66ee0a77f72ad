package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// Settings that every router refuses hold nobody else up: Routes come, endpoints move, a router with an empty store
// serves, and a control plane that starts anew learns from the routers what was good. The refusal is told, and costs no
// reload. When the Settings are mended they are in force.
func TestRefusedSettingsHoldNobody(t *testing.T) {
	f := newFleet(t)
	f.haproxy = picky(t, f.haproxy, "timeout client *33")
	ip, port := backend(t, "one")
	ip2, port2 := backend(t, "two")
	f.write("web.yaml", service("web", port, ip)+route("hello", "hello.example.com", "web"))
	f.write("controller.yaml", ingressController("tuningOptions: {clientTimeout: 31s}"))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()
	op := f.operator()
	f.converged(op, "router-a")
	before := reloadsOf(t, r)

	f.write("controller.yaml", ingressController("tuningOptions: {clientTimeout: 33s}"))
	eventually(t, "the refusal is told", func() error { return faulty(t, op, "routers refuse settings", "not this one, please") })
	f.write("late.yaml", route("late", "late.example.com", "web"))
	eventually(t, "a Route that comes then is served", func() error { return answers(r.http, "late.example.com", "/", "one") })
	f.write("web.yaml", service("web", port2, ip2)+route("hello", "hello.example.com", "web"))
	eventually(t, "endpoints that move then are followed", func() error { return answers(r.http, "hello.example.com", "/", "two") })
	f.converged(op, "router-a")
	if now := reloadsOf(t, r); now != before {
		t.Errorf("the refusal cost %v reloads", now-before)
	}

	empty := f.newRouter("tok05", "router-b")
	empty.start()
	empty.ready()
	eventually(t, "a router that starts then serves", func() error { return answers(empty.http, "late.example.com", "/", "two") })
	f.converged(op, "router-a", "router-b")

	f.controlPlane().kill()
	f.startReplica(f.controlPlane())
	f.readyReplica(f.controlPlane())
	op = f.operator()
	f.write("later.yaml", route("later", "later.example.com", "web"))
	for _, r := range []*router{r, empty} {
		eventually(t, r.name+" follows a control plane that knew of nothing", func() error { return answers(r.http, "later.example.com", "/", "two") })
	}
	f.converged(op, "router-a", "router-b")

	f.write("controller.yaml", ingressController("tuningOptions: {clientTimeout: 32s}"))
	eventually(t, "nothing is refused any more", func() error { return faulty(t, op) })
	f.converged(op, "router-a", "router-b")
	if got := settingsOf(t, op).GetTimeouts().GetClient().AsDuration().String(); got != "32s" {
		t.Errorf("the client timeout in force is %s, want 32s", got)
	}
}

func settingsOf(t *testing.T, op *grpc.ClientConn) *tsujiv1.Settings {
	t.Helper()
	s, err := tsujiv1.NewSnapshotServiceClient(op).GetSnapshot(t.Context(), &tsujiv1.GetSnapshotRequest{NamePrefix: tsujiv1.SettingsName})
	if err != nil || len(s.GetResources()) != 1 {
		t.Fatal(s, err)
	}
	return s.GetResources()[0].GetSettings()
}

// picky makes a HAProxy that is the real one, but refuses a configuration with a line that matches, as by a bug that nobody
// knows yet.
func picky(t *testing.T, haproxy, marker string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "haproxy")
	script := `#!/bin/bash
check=
for a in "$@"; do
	[ "$a" = -c ] && check=1
done
if [ -n "$check" ] && line=$(grep -n -m1 '` + marker + `' haproxy.cfg | cut -d: -f1) && [ -n "$line" ]; then
	echo "[ALERT]    (1) : config : parsing [haproxy.cfg:$line] : not this one, please" >&2
	echo "[ALERT]    (1) : config : Fatal errors found in configuration." >&2
	exit 1
fi
exec "` + haproxy + `" "$@"
`
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// Routes that every router refuses, for a reason that only it knows, are left out or stay as they were, and their owner
// reads what the router said. Whatever else came with them is served, by routers that have a store and that have none.
func TestRefusedRoutesHoldNobody(t *testing.T) {
	f := newFleet(t)
	f.haproxy = picky(t, f.haproxy, "^backend be_http:shop:refused")
	ip, port := backend(t, "pod")
	var many strings.Builder
	for i := range 30 {
		many.WriteString(route(fmt.Sprintf("r%d", i), fmt.Sprintf("r%d.example.com", i), "web"))
	}
	f.write("web.yaml", service("web", port, ip)+many.String())
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start("--no-runtime-backends") // backends come by reloads, which check the configuration
	r.ready()
	op := f.operator()
	f.converged(op, "router-a")
	before := reloadsOf(t, r)

	f.write("refused.yaml", route("refused", "refused.example.com", "web")+route("late", "late.example.com", "web"))
	eventually(t, "what came with it is served", func() error { return answers(r.http, "late.example.com", "/", "pod") })
	f.converged(op, "router-a")
	if now := reloadsOf(t, r); now != before+1 {
		t.Errorf("%v reloads, want the one that brought the good Route", now-before)
	}
	v := verdictOn(t, op, "refused")
	if v.GetAdmitted() || v.GetReason() != "Quarantined" || !strings.Contains(v.GetMessage(), "not this one, please") {
		t.Errorf("the verdict is %v", v)
	}
	if code, body, err := get(r.http, "refused.example.com", "/"); err != nil || code != 503 {
		t.Errorf("the refused Route answers %d %q %v", code, body, err)
	}

	empty := f.newRouter("tok05", "router-b")
	empty.start("--no-runtime-backends")
	empty.ready()
	for i := range 30 {
		if err := answers(empty.http, fmt.Sprintf("r%d.example.com", i), "/", "pod"); err != nil {
			t.Error(err)
		}
	}
	f.converged(op, "router-a", "router-b")

	f.remove("refused.yaml")
	f.write("late.yaml", route("late", "late.example.com", "web"))
	eventually(t, "nothing is refused any more", func() error { return faulty(t, op) })
}

func verdictOn(t *testing.T, op *grpc.ClientConn, name string) *tsujiv1.RouteVerdict {
	t.Helper()
	list, err := tsujiv1.NewRouteServiceClient(op).ListRoutes(t.Context(), &tsujiv1.ListRoutesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range list.GetRoutes() {
		if v.GetName() == name {
			return v
		}
	}
	t.Fatalf("no verdict on %s", name)
	return nil
}
