package apply_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// fetched is a route whose request header is another one's: rules, of which each header's name makes another profile.
func fetched(namespace, name, header string) *tsujiv1.Resource {
	r := route(name)
	r.Name = tsujiv1.RouteName(namespace, name)
	r.GetRoute().Namespace = namespace
	r.GetRoute().RequestHeaders = []*tsujiv1.HeaderAction{{Name: "X-Copy", Value: []*tsujiv1.HeaderValuePart{
		{Part: &tsujiv1.HeaderValuePart_Header{Header: &tsujiv1.HeaderFetch{Name: header}}},
	}}}
	return r
}

// needsBackends skips releases on which a new backend is a reload anyway.
func needsBackends(t *testing.T, r *router) {
	t.Helper()
	if !r.can.DynamicBackends {
		t.Skip("backends come by reloads")
	}
}

// What one namespace asks for makes so many reloads and no more. Then its Routes are refused by name, for a while, which costs
// nothing; what others do, and all else that it does itself, is in force at once, and another namespace has its own share.
func TestReloadBudget(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, binary string) {
		t.Parallel()
		w := newWorld(t, binary)
		r := w.router(options{paced: true})
		needsBackends(t, r)
		a := serve(t, "a")
		base := []*tsujiv1.Resource{route("victim"), endpoints("victim", a), endpoints("hostile", a), endpoints("other", a)}
		r.put(append(base, fetched("ns", "hostile", "First"))...) // a first snapshot costs nobody anything
		accepted, before := 0, r.reloads()
		for i := range 30 {
			refusal := r.try(w.snapshot(append(base, fetched("ns", "hostile", fmt.Sprint("Y", i)))...))
			if refusal == nil {
				accepted++
				continue
			}
			if len(refusal.GetResources()) != 1 || refusal.GetClass() != tsujiv1.RefusalClass_REFUSAL_CLASS_CONTENT {
				t.Fatalf("refused: %v", refusal)
			}
			named := refusal.GetResources()[0]
			if after := named.GetRetryAfter().AsDuration(); named.GetResource() != "route/ns/hostile" || after <= 0 || after > 2*time.Minute {
				t.Fatalf("refused: %v", refusal)
			}
			if w.get("victim.test") != "a" || w.get("hostile.test") != "a" {
				t.Fatal("what was in force is not")
			}
		}
		if n := r.reloads() - before; accepted > 5 || n != float64(accepted) {
			t.Errorf("%v reloads, %d of 30 changes accepted", n, accepted)
		}
		if testutil.ToFloat64(r.metrics.Held) != float64(30-accepted) {
			t.Errorf("%v were held", testutil.ToFloat64(r.metrics.Held))
		}

		// With the Route as it last was, everything else goes on: by commands.
		before = r.reloads()
		last := fetched("ns", "hostile", fmt.Sprint("Y", accepted-1))
		b := serve(t, "b")
		r.put(append(base[1:], route("victim", service("victim", 1)), last, route("new"), endpoints("new", b))...)
		r.put(append(base[2:], route("victim"), endpoints("victim", b), last, route("new"), endpoints("new", b))...)
		if w.get("victim.test") != "b" || w.get("new.test") != "b" || r.reloads() != before {
			t.Errorf("the victim gets %s and %s, with %v reloads", w.get("victim.test"), w.get("new.test"), r.reloads()-before)
		}

		// Whatever else: with other Settings the same content is accepted, for that is a reload anyway.
		settings := &tsujiv1.Resource{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{
			Timeouts: &tsujiv1.Timeouts{Server: durationpb.New(7 * time.Second)},
		}}}
		r.put(append(base, fetched("ns", "hostile", "Z"), settings)...)
		if n := r.reloads() - before; n != 1 {
			t.Errorf("%v reloads for other Settings", n)
		}
	})
}

// However often a passed-through Route's timeout changes, and whatever it becomes, nothing is reloaded.
func TestTimeoutsCostNoReload(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, binary string) {
		t.Parallel()
		w := newWorld(t, binary)
		r := w.router(options{})
		needsBackends(t, r)
		a := serve(t, "a")
		passed := func(d time.Duration) []*tsujiv1.Resource {
			p := route("p")
			p.GetRoute().Termination = tsujiv1.Termination_TERMINATION_PASSTHROUGH
			p.GetRoute().Timeouts = &tsujiv1.RouteTimeouts{Tunnel: durationpb.New(d)}
			return []*tsujiv1.Resource{p, endpoints("p", a)}
		}
		r.put(passed(time.Second)...)
		before := r.reloads()
		for i := range 51 {
			r.put(passed(5*time.Second + time.Duration(i)*time.Millisecond)...)
		}
		for _, d := range []time.Duration{1, time.Microsecond, 90 * time.Minute, 1e6 * time.Hour} {
			r.put(passed(d)...)
		}
		if n := r.reloads() - before; n != 0 {
			t.Errorf("%v reloads", n)
		}
	})
}

// What was refused left nothing behind that is taken for known: the next one that needs it is served.
func TestRefusedProgramIsForgotten(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, binary string) {
		t.Parallel()
		w := newWorld(t, binary)
		r := w.router(options{})
		a := serve(t, "a")
		r.put(route("a"), endpoints("a", a))
		weak, _ := certificate("weak", true)
		p := route("p")
		p.GetRoute().Termination = tsujiv1.Termination_TERMINATION_PASSTHROUGH
		ca, err := authority.NewAuthority("ca")
		must(t, err)
		secure := httptest.NewUnstartedServer(http.NotFoundHandler())
		startTLS(t, secure, ca, "p")
		base := []*tsujiv1.Resource{route("a"), endpoints("a", a), endpoints("p", endpoint(t, secure)), endpoints("f", a)}
		bad := []*tsujiv1.Resource{edge("weak"), endpoints("weak", a), weak}
		for _, needs := range []*tsujiv1.Resource{p, fetched("ns", "f", "Y")} {
			good := append(slices.Clone(base), needs)
			if refusal := r.try(w.snapshot(append(good, bad...)...)); refusal == nil {
				t.Fatalf("with %s the certificate is taken", needs.GetName())
			}
			base = good
			r.put(base...)
		}
		if w.certificate("p.test") == w.certificate("nobody.test") {
			t.Error("TLS for a host that is passed through ends at the router")
		}
		if w.get("f.test") != "a" {
			t.Error("a route with rules of its own is not served")
		}
		if n := testutil.ToFloat64(r.metrics.Fallbacks); n != 0 {
			t.Errorf("%v changes failed as commands", n)
		}
	})
}

// Where routes come by reloads, one waits while there were too many. What can be done by commands does not wait, whoever waits can
// give up, and then nothing has changed.
func TestReloadsAreGathered(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, binary string) {
		t.Parallel()
		w := newWorld(t, binary)
		r := w.router(options{noBackends: true, paced: true})
		a, b := serve(t, "a"), serve(t, "b")
		both := []*tsujiv1.Resource{route("x", service("a", 1), service("b", 0)), endpoints("a", a), endpoints("b", b)}
		r.put(both...)
		before := r.reloads()
		r.HoldReloads(time.Hour)

		next := w.snapshot(append(both, route("new", service("a", 1)))...)
		base, _ := r.InForce()
		ctx, giveUp := context.WithCancel(t.Context())
		refused := make(chan *tsujiv1.Refusal)
		go func() { refused <- r.Apply(ctx, next, snapshot.Diff(base, next)) }()
		r.HoldReloads(time.Hour) // it has the turn, sooner or later, however long the other waits
		giveUp()
		if refusal := <-refused; refusal.GetClass() != tsujiv1.RefusalClass_REFUSAL_CLASS_LOCAL {
			t.Fatalf("whoever gives up hears %v", refusal)
		}
		both[0] = route("x", service("a", 0), service("b", 1))
		r.put(both...) // weights are commands
		if got := w.get("x.test"); got != "b" || r.reloads() != before {
			t.Errorf("the route answers %s, with %v reloads", got, r.reloads()-before)
		}
		r.HoldReloads(0)
		r.put(append(both, route("new", service("a", 1)))...)
		if got := w.get("new.test"); got != "a" || r.reloads() != before+1 {
			t.Errorf("the new route answers %s, with %v reloads", got, r.reloads()-before)
		}
	})
}
