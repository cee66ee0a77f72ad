package test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// flood is how many Routes one tenant makes at once, and deletes.
const flood = 5000

// in puts manifests into another namespace.
func in(namespace, manifests string) string {
	return strings.ReplaceAll(manifests, "namespace: shop", "namespace: "+namespace)
}

// floodOf is one tenant's Routes. All go to the one Service of the namespace.
func floodOf(service string) string {
	var b strings.Builder
	b.WriteString(service)
	for i := range flood {
		b.WriteString(route(fmt.Sprintf("f%d", i), fmt.Sprintf("f%d.flood.example.com", i), "web"))
	}
	return in("flood", b.String())
}

// One tenant makes 5,000 Routes, and deletes them. Who changes one thing at the same time has it with the first piece, long
// before the last one, on real HAProxy and without a reload; and everything is in force in the end.
func TestLargeChangeTakesTurns(t *testing.T) {
	f := newFleet(t)
	ip, port := backend(t, "pod")
	web := service("web", port, ip)
	f.write("web.yaml", web+route("first", "first.example.com", "web")+in("victim", web)+in("other", web+route("o", "o.example.com", "web")))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()
	op := f.operator()
	f.converged(op, "router-a")
	_, workers := r.haproxyPIDs()

	victim := func(n int) string {
		return in("victim", route(fmt.Sprintf("v%d", n), fmt.Sprintf("v%d.example.com", n), "web"))
	}
	for n, large := range []string{floodOf(web), in("flood", web)} {
		f.write("flood.yaml", large+victim(n))
		begun := time.Now()
		host := fmt.Sprintf("v%d.example.com", n)
		eventually(t, host+" is served", func() error { return answers(r.http, host, "/", "pod") })
		served := time.Since(begun)
		eventually(t, "nothing waits", func() error {
			s, err := tsujiv1.NewStatusServiceClient(op).GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
			if v := s.GetSnapshots(); err != nil || len(v) != 1 || v[0].GetWaiting() > 0 || int(v[0].GetRoutes())-3 != flood*(1-n) {
				return fmt.Errorf("%v (%w)", v, err)
			}
			return nil
		})
		f.converged(op, "router-a")
		first, after := piecesWith(t, op, "route/victim/"+fmt.Sprintf("v%d", n))
		t.Logf("change %d: %s was served %v after it was written, all of it after %v, in %d pieces", n, host, served, time.Since(begun), after+1)
		if changed := max(int(first.GetRoutes()), flood*n) - flood*n; n == 0 && changed > flood/10 || n == 1 && int(first.GetRoutes()) < flood*9/10 {
			t.Errorf("change %d: with the victim's Route there were %d Routes, which is not the first piece", n, first.GetRoutes())
		}
		if after < 10 {
			t.Errorf("change %d: %d versions came after the first that had the victim's Route: it was not cut", n, after)
		}
		for _, i := range []int{0, flood / 2, flood - 1} {
			want := 200
			if n == 1 {
				want = 503
			}
			if code, _, err := get(r.http, fmt.Sprintf("f%d.flood.example.com", i), "/"); err != nil || code != want {
				t.Errorf("change %d: Route %d of the flood answers %d (%v), want %d", n, i, code, err, want)
			}
		}
	}
	if _, now := r.haproxyPIDs(); fmt.Sprint(now) != fmt.Sprint(workers) {
		t.Errorf("HAProxy went from workers %v to %v, want no reload", workers, now)
	}
}

// piecesWith returns the first version held that has a resource, and how many came after it.
func piecesWith(t *testing.T, op *grpc.ClientConn, resource string) (first *tsujiv1.SnapshotSummary, after int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	snapshots := tsujiv1.NewSnapshotServiceClient(op)
	all, err := snapshots.ListSnapshots(ctx, &tsujiv1.ListSnapshotsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range all.GetSnapshots() { // the newest first
		page, err := snapshots.GetSnapshot(ctx, &tsujiv1.GetSnapshotRequest{Version: v.GetVersion(), NamePrefix: resource})
		if err != nil {
			t.Fatal(err)
		}
		if len(page.GetResources()) == 0 {
			break
		}
		first, after = v, i
	}
	return first, after
}
