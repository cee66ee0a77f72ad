package inspect

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// What passes is added to the answer, and is not what was judged: a certificate that ends, and a Service without endpoints.
// The status counts Routes with warnings, and tells what of the IngressController has ended.
func TestWhatPassesIsTold(t *testing.T) {
	board := release.NewBoard(2)
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	s := New(Config{Board: board, Fleet: fleet.New(fleet.Config{}), Now: func() time.Time { return now }})
	set := func(resources ...*tsujiv1.Resource) (out snapshot.Set) {
		for _, r := range resources {
			i, err := tsujiv1.Encode(r)
			if err != nil {
				t.Fatal(err)
			}
			out = out.With(i)
		}
		return out
	}
	route := &tsujiv1.Route{Namespace: "ns", Name: "a", Backends: []*tsujiv1.BackendRef{{Endpoints: "endpoints/ns/web/http", Weight: 1, Service: "web"}}}
	config := set(&tsujiv1.Resource{Name: "route/ns/a", Kind: &tsujiv1.Resource_Route{Route: route}})
	endpoints := func(ready bool) snapshot.Set {
		return set(&tsujiv1.Resource{Name: "endpoints/ns/web/http", Kind: &tsujiv1.Resource_Endpoints{Endpoints: &tsujiv1.Endpoints{
			Namespace: "ns", Service: "web", Port: "http", Endpoints: []*tsujiv1.Endpoint{{Address: "10.0.0.1", Port: 80, Ready: ready}},
		}}})
	}
	verdict := &tsujiv1.RouteVerdict{IngressController: "default", Namespace: "ns", Name: "a", Admitted: true, CertificateNotAfter: timestamppb.New(now.Add(8 * 24 * time.Hour))}
	s.Observe("default", compile.Result{Verdicts: []*tsujiv1.RouteVerdict{verdict, {IngressController: "default", Namespace: "ns", Name: "b"}}})
	for _, step := range []struct {
		later  time.Duration
		ready  bool
		want   []string
		warned uint32
	}{
		{0, true, nil, 0},
		{0, false, []string{`Service "web" has no endpoint that is ready at port "http": requests are answered with 503`}, 0},
		{2 * 24 * time.Hour, true, []string{"the certificate for the host expires at 2030-01-09T00:00:00Z, within 7 days"}, 1},
	} {
		now = now.Add(step.later)
		board.Publish("default", release.Target{Snapshot: snapshot.New(1, config, endpoints(step.ready))}, now)
		l, err := s.ListRoutes(t.Context(), &tsujiv1.ListRoutesRequest{})
		if err != nil || len(l.GetRoutes()) != 2 {
			t.Fatal(l, err)
		}
		if got := l.GetRoutes()[0].GetWarnings(); !slices.Equal(got, step.want) || len(verdict.GetWarnings()) > 0 {
			t.Errorf("ready %t: %q, want %q; the verdict has %q", step.ready, got, step.want, verdict.GetWarnings())
		}
		got, err := s.GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
		if err != nil || got.GetRoutesWarned() != step.warned || got.GetRoutesAdmitted() != 1 || len(got.GetFaults()) > 0 {
			t.Errorf("ready %t: status %v, %v", step.ready, got, err)
		}
	}
}

// What is served as it was last good is told with the time since which it is, as a warning too; the time begins anew when
// it was good in between.
func TestLastGoodIsTold(t *testing.T) {
	now := epoch
	s := New(Config{Board: release.NewBoard(2), Fleet: fleet.New(fleet.Config{}), Now: func() time.Time { return now }})
	const a, b = "cert/ns/secret:a", "cert/ns/destination-ca:a"
	verdict := func(resources ...string) *tsujiv1.RouteVerdict {
		v := &tsujiv1.RouteVerdict{IngressController: "default", Namespace: "ns", Name: "a", Admitted: true}
		for _, r := range resources {
			v.LastGood = append(v.LastGood, &tsujiv1.LastGood{Resource: r, Message: r + " is gone"})
		}
		return v
	}
	for _, step := range []struct {
		verdict *tsujiv1.RouteVerdict
		want    []string
		status  uint32
	}{
		{verdict(), nil, 0},
		{verdict(a), []string{a + " is gone (since 2026-01-05T09:01:00Z)"}, 1},
		{verdict(b, a), []string{
			b + " is gone (since 2026-01-05T09:02:00Z)", a + " is gone (since 2026-01-05T09:01:00Z)",
		}, 1},
		{verdict(b), []string{b + " is gone (since 2026-01-05T09:02:00Z)"}, 1},
		{verdict(), nil, 0},
		{verdict(b), []string{b + " is gone (since 2026-01-05T09:05:00Z)"}, 1},
	} {
		s.Observe("default", compile.Result{Verdicts: []*tsujiv1.RouteVerdict{step.verdict}})
		l, err := s.ListRoutes(t.Context(), &tsujiv1.ListRoutesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if got := l.GetRoutes()[0].GetWarnings(); !slices.Equal(got, step.want) {
			t.Errorf("%q, want %q", got, step.want)
		}
		for _, g := range step.verdict.GetLastGood() {
			if g.GetSince() != nil {
				t.Error("the verdict that was handed over has been changed")
			}
		}
		got, err := s.GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
		if err != nil || got.GetRoutesLastGood() != step.status || got.GetRoutesWarned() != step.status {
			t.Errorf("status %v, %v", got, err)
		}
		now = now.Add(time.Minute)
	}
}
