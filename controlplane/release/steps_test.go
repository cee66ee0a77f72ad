package release_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/controlplane/release"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// crowded are Services of one namespace, with so many endpoints and Routes each.
type crowded struct {
	services, endpoints, routes int
	from                        int // number of the first endpoint
	shared                      bool
	path                        string // of each Route: to change all
	namespace                   string
}

func (c crowded) resources() (config, facts []*tsujiv1.Resource) {
	other := tsujiv1.EndpointsName(c.namespace, "other", "*")
	for s := range c.services {
		name := tsujiv1.EndpointsName(c.namespace, fmt.Sprint("s", s), "*")
		e := &tsujiv1.Endpoints{Namespace: c.namespace, Service: fmt.Sprint("s", s)}
		for i := c.from; i < c.from+c.endpoints; i++ {
			e.Endpoints = append(e.Endpoints, &tsujiv1.Endpoint{
				Address: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), Port: 80, Ready: true, Serving: true,
			})
		}
		facts = append(facts, &tsujiv1.Resource{Name: name, Kind: &tsujiv1.Resource_Endpoints{Endpoints: e}})
		for i := range c.routes {
			r := &tsujiv1.Route{
				Namespace: c.namespace, Name: fmt.Sprintf("r%d-%d", s, i), Path: "/",
				Host:     fmt.Sprintf("r%d-%d.%s.example.com", s, i, c.namespace),
				Backends: []*tsujiv1.BackendRef{{Endpoints: name}}, Rewrite: &tsujiv1.PathRewrite{Target: c.path},
			}
			if c.shared {
				r.Backends = append(r.Backends, &tsujiv1.BackendRef{Endpoints: other})
			}
			config = append(config, &tsujiv1.Resource{
				Name: tsujiv1.RouteName(c.namespace, r.GetName()), Kind: &tsujiv1.Resource_Route{Route: r},
			})
		}
	}
	if c.shared {
		facts = append(facts, &tsujiv1.Resource{
			Name: other, Kind: &tsujiv1.Resource_Endpoints{Endpoints: &tsujiv1.Endpoints{}},
		})
	}
	return config, facts
}

func worldOf(t testing.TB, all ...crowded) snapshot.Snapshot {
	t.Helper()
	var config, facts []*tsujiv1.Resource
	for _, c := range all {
		a, b := c.resources()
		config, facts = append(config, a...), append(facts, b...)
	}
	return snapshot.New(1, setOf(t, config), setOf(t, facts))
}

// added returns how many servers routers add from one snapshot to the next, where a Route that is another gets all its
// servers anew; and how many they take out of service.
func added(t testing.TB, from, to snapshot.Snapshot) (come, leave int) {
	t.Helper()
	endpoints := func(s snapshot.Snapshot, r *tsujiv1.Route) map[string]bool {
		all := map[string]bool{}
		for _, b := range r.GetBackends() {
			i, ok := s.Get(b.GetEndpoints())
			if !ok {
				t.Fatalf("no %s", b.GetEndpoints())
			}
			e, err := tsujiv1.Decode(i)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range e.GetEndpoints().GetEndpoints() {
				all[x.GetAddress()] = true
			}
		}
		return all
	}
	for i := range to.Config().All() {
		r, err := tsujiv1.Decode(i)
		if err != nil {
			t.Fatal(err)
		}
		now := endpoints(to, r.GetRoute())
		old, ok := from.Config().Get(i.Name())
		if !ok || old.Digest() != i.Digest() {
			come += len(now)
			continue
		}
		was := endpoints(from, r.GetRoute())
		for a := range now {
			if !was[a] {
				come++
			}
			delete(was, a)
		}
		leave += len(was)
	}
	return come, leave
}

// leastEndpoints is how many endpoints the tenant's Service has that has the fewest.
func leastEndpoints(t testing.TB, s snapshot.Snapshot) int {
	t.Helper()
	least := math.MaxInt
	for i := range s.Facts().All() {
		if !strings.HasPrefix(i.Name(), "endpoints/tenant/s") {
			continue
		}
		e, err := tsujiv1.Decode(i)
		if err != nil {
			t.Fatal(err)
		}
		least = min(least, len(e.GetEndpoints().GetEndpoints()))
	}
	return least
}

// However many endpoints one tenant's Services get or lose at once, routers add no more servers in a piece than they
// can in a tenth of a second, but where it is bound together; and who changes one thing has it in the first piece.
func TestManyEndpointsComeInSteps(t *testing.T) {
	t.Parallel()
	const most = 4096/4 + 300 // servers in a piece, and its last unit
	of := func(services, endpoints, routes int) crowded {
		return crowded{namespace: "tenant", services: services, endpoints: endpoints, routes: routes}
	}
	others, shared, edited := of(1, 5000, 1), of(1, 2000, 1), of(8, 1000, 1)
	others.from, shared.shared, edited.path = 5000, true, "/x"
	for _, c := range []struct {
		what         string
		from, to     crowded
		pieces, most int
	}{
		{"8 Services of 1,000 come", of(0, 0, 0), of(8, 1000, 1), 18, most},
		{"one of 5,000 comes", of(0, 0, 0), of(1, 5000, 1), 9, most},
		{"one of 5,000 gets other Pods", of(1, 5000, 1), others, 12, most},
		{"a hundred Services of 100 grow", of(100, 10, 1), of(100, 100, 1), 20, most},
		{"one of 2,000 with 10 Routes comes", of(0, 0, 0), of(1, 2000, 10), 24, 2000/8*10 + most},
		{"one of 2,000 of which requests are shared", of(0, 0, 0), shared, 5, most},
		{"8 Routes to 1,000 each are edited", of(8, 1000, 1), edited, 8, most},
		{"20 Routes to 1,000 come", of(1, 1000, 1), of(1, 1000, 20), 20, most},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			victim := crowded{namespace: "victim", services: 1, endpoints: 2, routes: 1}
			published := published(worldOf(t, c.from))
			before, to := published.Published(), worldOf(t, c.to, victim)
			pieces := paced(published, to)
			if _, ok := pieces[0].Get("route/victim/r0-0"); !ok {
				t.Error("the victim's Route is not in the first piece")
			}
			if len(pieces) > c.pieces || len(pieces) < 2 {
				t.Errorf("%d pieces, want 2 to %d", len(pieces), c.pieces)
			}
			for i, piece := range pieces {
				if come, leave := added(t, before, piece); come > c.most || come+leave > 2*c.most {
					t.Errorf("in piece %d of %d, %d servers come and %d leave", i, len(pieces), come, leave)
				}
				if least := min(c.from.endpoints, c.to.endpoints); leastEndpoints(t, piece) < least {
					t.Errorf("in piece %d of %d, a Service has %d endpoints, and %d or more before and after",
						i, len(pieces), leastEndpoints(t, piece), least)
				}
				before = piece
			}
			if !before.Version().Equal(to.Version()) {
				t.Error("it does not end with what is wanted")
			}
		})
	}
}

// A unit that is larger than a piece goes by itself, and others are not kept waiting for it; but not for ever.
func TestLargeUnitsGoByThemselves(t *testing.T) {
	t.Parallel()
	from := crowded{namespace: "tenant", services: 1, endpoints: 5000, routes: 1}
	to := crowded{namespace: "tenant", services: 1, endpoints: 5000, routes: 2}
	p := published(worldOf(t, from))
	for n := 1; ; n++ {
		p.Want(worldOf(t, to, crowded{namespace: "victim", services: 1, endpoints: 1 + n, routes: 1}))
		piece, _ := p.Next(release.Routes)
		if i, ok := piece.Get("endpoints/victim/s0/*"); !ok {
			t.Fatalf("the victim's change is not in piece %d", n)
		} else if e, err := tsujiv1.Decode(i); err != nil || len(e.GetEndpoints().GetEndpoints()) != 1+n {
			t.Fatalf("the victim's change is not in piece %d: %v", n, err)
		}
		if _, ok := piece.Get("route/tenant/r0-1"); ok {
			if n == 1 {
				t.Error("it went with the victim's")
			}
			break
		}
		if n > 10 {
			t.Fatal("it never goes")
		}
	}
}
