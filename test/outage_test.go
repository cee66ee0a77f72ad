package test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// served starts the fleet's control plane and one router, which serve a few routes.
func served(t *testing.T, f *fleet, routes int) *router {
	t.Helper()
	ip, port := backend(t, "pod")
	all := service("web", port, ip)
	for i := range routes {
		all += route(fmt.Sprintf("r%d", i), fmt.Sprintf("r%d.example.com", i), "web")
	}
	f.write("all.yaml", all)
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()
	if len(f.replicas) == 1 { // with more of them it is connected to any
		f.converged(f.operator(), "router-a")
	}
	return r
}

// The control plane is killed: traffic goes on. routerd is stopped and started without it: traffic comes back from
// the store. The control plane is started again, and compiles from nothing: the router is sent no resource, and
// follows again.
func TestControlPlaneGone(t *testing.T) {
	onBoth(t, controlPlaneGone)
}

func controlPlaneGone(t *testing.T, f *fleet) {
	r := served(t, f, 20)
	f.controlPlane().kill()
	if err := answers(r.http, "r7.example.com", "/", "pod"); err != nil {
		t.Errorf("with no control plane: %v", err)
	}
	r.terminate()
	if err := answers(r.http, "r7.example.com", "/", "pod"); err == nil {
		t.Fatal("a router that was stopped still answers")
	}
	r.start()
	r.ready()
	for i := range 20 {
		if err := answers(r.http, fmt.Sprintf("r%d.example.com", i), "/", "pod"); err != nil {
			t.Errorf("from the store: %v", err)
		}
	}

	f.startControlPlane()
	op := f.operator()
	f.converged(op, "router-a")
	if got := f.routers(op)["router-a"]; got.GetResourcesSent() != 0 || got.GetResponsesSent() != 0 {
		t.Errorf("a router that holds the version was sent %d resources in %d responses, want none", got.GetResourcesSent(), got.GetResponsesSent())
	}
	f.write("new.yaml", route("new", "new.example.com", "web"))
	eventually(t, "the router follows again", func() error { return answers(r.http, "new.example.com", "/", "pod") })
	f.converged(op, "router-a")
	if got := f.routers(op)["router-a"]; got.GetResourcesSent() != 1 {
		t.Errorf("one new Route took %d resources, want 1", got.GetResourcesSent())
	}
}

// routerd is killed under load and started again: HAProxy is taken over as it is, and no request fails.
func TestRouterdKilledUnderLoad(t *testing.T) {
	onBoth(t, routerdKilledUnderLoad)
}

func routerdKilledUnderLoad(t *testing.T, f *fleet) {
	r := served(t, f, 5)
	master, workers := r.haproxyPIDs()
	stop := load(t, r.http, "r3.example.com")
	r.kill()
	if err := answers(r.http, "r3.example.com", "/", "pod"); err != nil {
		t.Errorf("with no routerd: %v", err)
	}
	r.start()
	op := f.operator()
	f.converged(op, "router-a")
	f.write("new.yaml", route("new", "new.example.com", "web"))
	eventually(t, "the new routerd puts changes into force", func() error { return answers(r.http, "new.example.com", "/", "pod") })
	sent, failed := stop()
	if len(failed) > 0 || sent < loadLeast {
		t.Errorf("%d requests, of which failed: %v", sent, failed)
	}
	if now, _ := r.haproxyPIDs(); now != master || master == 0 {
		t.Errorf("HAProxy's master was %d (workers %v), now is %d: want it taken over", master, workers, now)
	}
}

// HAProxy's worker is killed, then its master: each time it is back with the same configuration.
func TestHAProxyKilled(t *testing.T) {
	onBoth(t, haproxyKilled)
}

func haproxyKilled(t *testing.T, f *fleet) {
	r := served(t, f, 5)
	for _, victim := range []string{"worker", "master"} {
		master, workers := r.haproxyPIDs()
		if master == 0 || len(workers) != 1 {
			t.Fatalf("HAProxy has master %d, workers %v", master, workers)
		}
		pid := workers[0]
		if victim == "master" {
			pid = master
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "HAProxy is back after its "+victim+" was killed", func() error {
			if m, w := r.haproxyPIDs(); m == 0 || len(w) != 1 || w[0] == workers[0] {
				return fmt.Errorf("master %d, workers %v", m, w)
			}
			return answers(r.http, "r2.example.com", "/", "pod")
		})
		for i := range 5 {
			if err := answers(r.http, fmt.Sprintf("r%d.example.com", i), "/", "pod"); err != nil {
				t.Errorf("after the %s was killed: %v", victim, err)
			}
		}
	}
}

// A router's certificate decides what it sees: one that claims another zone, or another IngressController, is
// refused, and the control plane says so in its log.
func TestClaimsOfAnotherAreRefused(t *testing.T) {
	onBoth(t, claimsOfAnotherAreRefused)
}

func claimsOfAnotherAreRefused(t *testing.T, f *fleet) {
	r := served(t, f, 1)
	for _, claim := range []struct{ flag, value string }{{"zone", "tok05"}, {"ingress-controller", "other"}} {
		name := "imposter-" + claim.flag
		imposter := f.newRouter("tok04", name)
		imposter.start("--" + claim.flag + "=" + claim.value)
		eventually(t, "the control plane logs the claim", func() error { return f.controlPlane().logged(name, claim.value) })
		if code, _, err := get(imposter.http, "r0.example.com", "/"); err == nil {
			t.Errorf("a router that claimed %s=%s serves: %d", claim.flag, claim.value, code)
		}
		imposter.kill()
	}
	if err := answers(r.http, "r0.example.com", "/", "pod"); err != nil {
		t.Errorf("the honest router: %v", err)
	}
	for name := range f.routers(f.operator()) {
		if name != "router-a" {
			t.Errorf("the fleet lists %s", name)
		}
	}
}

// A router's certificate opens no inspection, an operator's no discovery.
func TestRights(t *testing.T) {
	onBoth(t, rights)
}

func rights(t *testing.T, f *fleet) {
	served(t, f, 1)
	asRouter := f.dial(f.controlPlane(), f.issue("spiffe://tsuji.local/ingress/default/zone/tok04/router/router-a"))
	if _, err := tsujiv1.NewSnapshotServiceClient(asRouter).ListSnapshots(t.Context(), &tsujiv1.ListSnapshotsRequest{}); grpcstatus.Code(err) != codes.PermissionDenied {
		t.Errorf("a router's certificate lists snapshots: %v, want permission denied", err)
	}
	op := f.operator()
	if _, err := tsujiv1.NewSnapshotServiceClient(op).ListSnapshots(t.Context(), &tsujiv1.ListSnapshotsRequest{}); err != nil {
		t.Errorf("an operator's certificate does not list snapshots: %v", err)
	}
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(op).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); grpcstatus.Code(err) != codes.PermissionDenied {
		t.Errorf("an operator's certificate opens discovery: %d resources, %v, want permission denied", len(r.GetResources()), err)
	}
}

// Most Routes vanish at once, as when a source loses its objects: they are served on, and the alarm says how to allow it.
// What is left follows its endpoints meanwhile. Allowed by name of just this config, they go.
func TestMassDropIsHeld(t *testing.T) {
	f := newFleet(t) // in an API server they go one by one, which is nobody's accident; TestAPIServerGone has the other case
	ip, port := backend(t, "first")
	_, port2 := backend(t, "second")
	routes := func(n int) string {
		var all strings.Builder
		for i := range n {
			all.WriteString(route(fmt.Sprintf("r%d", i), fmt.Sprintf("r%d.example.com", i), "web"))
		}
		return all.String()
	}
	f.write("web.yaml", service("web", port, ip))
	f.write("routes.yaml", routes(60))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()
	op := f.operator()
	f.converged(op, "router-a")

	f.write("routes.yaml", routes(4))
	replica := tsujiv1.NewStatusServiceClient(op)
	alarm := func() *tsujiv1.SourceFault {
		s, err := replica.GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, fault := range s.GetFaults() {
			if strings.Contains(fault.GetMessage(), "56 of 60 routes went within") {
				return fault
			}
		}
		return nil
	}
	eventually(t, "the drop is held, and told", func() error {
		if alarm() == nil {
			return errNotYet
		}
		return nil
	})
	f.write("web.yaml", service("web", port2, ip))
	for _, i := range []int{1, 59} {
		eventually(t, "a route follows its endpoints while the drop is held", func() error {
			return answers(r.http, fmt.Sprintf("r%d.example.com", i), "/", "second")
		})
	}

	if remedy := alarm().GetRemedy(); !strings.Contains(remedy, "tsuji.dev/allow-route-drop") {
		t.Errorf("the remedy is %q", remedy)
	}
	allow := `tsuji.dev/allow-route-drop: "` + time.Now().UTC().Format(time.RFC3339) + `"`
	f.write("allow.yaml", `apiVersion: operator.openshift.io/v1
kind: IngressController
metadata:
  name: default
  namespace: openshift-ingress-operator
  annotations: {`+allow+`}
`)
	eventually(t, "the allowed drop is made", func() error {
		code, _, err := get(r.http, "r59.example.com", "/")
		if err == nil && code != 503 {
			err = fmt.Errorf("%d", code)
		}
		return err
	})
	if err := answers(r.http, "r1.example.com", "/", "second"); err != nil {
		t.Error(err)
	}
}
