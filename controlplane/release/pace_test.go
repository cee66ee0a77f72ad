package release_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tsuji-dev/tsuji/controlplane/release"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// paced leads p to what is wanted, and returns each piece.
func paced(p *release.Pace, s snapshot.Snapshot) (pieces []snapshot.Snapshot) {
	p.Want(s)
	for p.Waiting() > 0 {
		piece, _ := p.Next(release.Routes)
		pieces = append(pieces, piece)
	}
	return pieces
}

// published is a Pace that has published a snapshot.
func published(s snapshot.Snapshot) *release.Pace {
	p := &release.Pace{}
	p.Want(s)
	p.Next(release.Routes)
	return p
}

// What is wanted first, what is little, what changes Settings, and what is made by reloads, is published whole.
func TestWhatIsNotCut(t *testing.T) {
	t.Parallel()
	large := crowd(2000, 10).snapshot(t, "a")
	moved := crowd(2000, 10).snapshot(t, "b")
	var p release.Pace
	p.Want(large)
	if got, _ := p.Next(release.Routes); got != large || p.Waiting() != 0 {
		t.Errorf("of the first snapshot %d resources wait", p.Waiting())
	}
	settings := setOf(t, []*tsujiv1.Resource{{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{DefaultCertificate: "other"}}}})
	for _, c := range []struct {
		what  string
		to    snapshot.Snapshot
		by    release.Ability
		whole bool
	}{
		{"a little", func() snapshot.Snapshot { c := crowd(2000, 10); c["x/x"] = "x.example.com"; return c.snapshot(t, "a") }(), release.Routes, true},
		{"all Routes, without reloads", cluster{}.snapshot(t, "a"), release.Routes, false},
		{"all Routes, with a reload", cluster{}.snapshot(t, "a"), release.Facts, true},
		{"all endpoints, without reloads", moved, release.Facts, false},
		{"all endpoints, with a reload", moved, release.Reloads, true},
		{"all endpoints, and Settings", snapshot.New(1, moved.Config().With(slices.Collect(settings.All())...), moved.Facts()), release.Routes, true},
	} {
		p := published(large)
		p.Want(c.to)
		if got, _ := p.Next(c.by); (got == c.to) != c.whole || (p.Waiting() == 0) != c.whole {
			t.Errorf("%s: %d wait, want it whole: %v", c.what, p.Waiting(), c.whole)
		}
	}
}

// One tenant makes 5,000 Routes, and deletes them; others change one thing each. They have it in the first piece, and in the
// next one when they come in between; and the tenant's change is done after as many pieces as it takes.
func TestPiecesTakeTurns(t *testing.T) {
	t.Parallel()
	base := crowd(500, 50)
	flood := maps.Clone(base)
	for i := range 5000 {
		flood[fmt.Sprintf("flood/r%d", i)] = fmt.Sprintf("flood%d.example.com", i)
	}
	for _, c := range []struct {
		what     string
		from, to cluster
	}{{"5,000 come", base, flood}, {"5,000 go", flood, base}} {
		from, to := maps.Clone(c.from), maps.Clone(c.to)
		for i := range 20 {
			to[fmt.Sprintf("victim%d/v", i)] = fmt.Sprintf("v%d.example.com", i)
		}
		delete(to, "ns07/r7")
		p := published(from.snapshot(t, "a"))
		p.Want(to.snapshot(t, "a"))
		first, _ := p.Next(release.Routes)
		for i := range 20 {
			if !slices.Contains(routesOf(first), fmt.Sprintf("victim%d/v", i)) {
				t.Errorf("%s: victim%d is not in the first piece", c.what, i)
			}
		}
		if slices.Contains(routesOf(first), "ns07/r7") {
			t.Errorf("%s: one that went is in the first piece", c.what)
		}
		pieces := 1
		for ; p.Waiting() > 0; pieces++ {
			name := fmt.Sprintf("late/l%d", pieces)
			to[name] = fmt.Sprintf("late%d.example.com", pieces)
			if pieces%10 != 1 { // to want something else costs this test more than the piece
				delete(to, name)
			} else {
				p.Want(to.snapshot(t, "a"))
			}
			if got, _ := p.Next(release.Routes); pieces%10 == 1 && !slices.Contains(routesOf(got), name) {
				t.Errorf("%s: what came before piece %d is not in it", c.what, pieces)
			}
		}
		if pieces < 20 || pieces > 60 {
			t.Errorf("%s: %d pieces", c.what, pieces)
		}
	}
}

// Where there are more namespaces than a piece has room for, those with the least to change come first.
func TestLeastComesFirst(t *testing.T) {
	t.Parallel()
	to := crowd(1500, 500)
	to["zz/victim"] = "victim.example.com"
	p := published(cluster{}.snapshot(t, "a"))
	p.Want(to.snapshot(t, "a"))
	if first, _ := p.Next(release.Routes); !slices.Contains(routesOf(first), "zz/victim") || routes(first) > 400 {
		t.Errorf("the first piece has %d routes, and not the victim's", routes(first))
	}
}

// Facts that were to go after a Route that stays in the end go all the same.
func TestFactsAreLetGo(t *testing.T) {
	t.Parallel()
	r := &tsujiv1.Resource{Name: "route/b/r", Kind: &tsujiv1.Resource_Route{Route: &tsujiv1.Route{Namespace: "b", Name: "r", Host: "r.example.com"}}}
	var facts []*tsujiv1.Resource
	for _, name := range []string{"endpoints/aa/one/*", "endpoints/aa/two/*"} {
		r.GetRoute().Backends = append(r.GetRoute().GetBackends(), &tsujiv1.BackendRef{Endpoints: name})
		facts = append(facts, &tsujiv1.Resource{Name: name, Kind: &tsujiv1.Resource_Endpoints{Endpoints: &tsujiv1.Endpoints{}}})
	}
	config, all := setOf(t, []*tsujiv1.Resource{r}), setOf(t, facts)
	p := published(snapshot.New(1, config, all))
	release.Small(p)
	first := setOf(t, []*tsujiv1.Resource{
		{Name: "endpoints/b/one/*", Kind: &tsujiv1.Resource_Endpoints{Endpoints: &tsujiv1.Endpoints{}}},
		{Name: "endpoints/b/two/*", Kind: &tsujiv1.Resource_Endpoints{Endpoints: &tsujiv1.Endpoints{}}},
	})
	p.Want(snapshot.New(2, snapshot.Set{}, first))
	p.Next(release.Routes)
	to := snapshot.New(3, config, first)
	p.Want(to)
	for n := 0; p.Waiting() > 0; n++ {
		if got, _ := p.Next(release.Routes); n > 5 {
			t.Fatalf("%d wait, %v is published", p.Waiting(), got.Sorted())
		}
	}
}

// turn is a Route of a small world in which all is bound to all.
type turn struct {
	namespace, name, host, path             string
	wildcard, passthrough, ownTLS, verified bool
	service                                 string
}

func (r turn) resource() *tsujiv1.Resource {
	route := &tsujiv1.Route{
		Namespace: r.namespace, Name: r.name, Host: r.host, Path: r.path, Wildcard: r.wildcard,
		Termination: tsujiv1.Termination_TERMINATION_EDGE, Backends: []*tsujiv1.BackendRef{{Endpoints: tsujiv1.EndpointsName(r.namespace, r.service, "*")}},
	}
	if r.passthrough {
		route.Termination, route.Path = tsujiv1.Termination_TERMINATION_PASSTHROUGH, "/"
	} else if r.ownTLS {
		route.Certificate = tsujiv1.CertificateName(r.namespace, tsujiv1.FromRoute, r.name)
	}
	if r.verified {
		route.DestinationTls = &tsujiv1.DestinationTLS{Verify: true, Ca: sharedCA}
	}
	return &tsujiv1.Resource{Name: tsujiv1.RouteName(r.namespace, r.name), Kind: &tsujiv1.Resource_Route{Route: route}}
}

// sharedCA is a fact that Routes of all namespaces may need.
const sharedCA = "cert/a-shared/configmap:ca"

// drawWorld draws a snapshot that compile could have made: no two Routes in each other's place, every reference resolved,
// and no fact without one.
func drawWorld(rt *rapid.T, t *testing.T, before snapshot.Snapshot) snapshot.Snapshot {
	config := []*tsujiv1.Resource{{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{}}}}
	facts := map[string]*tsujiv1.Resource{}
	set := snapshot.Set{}
	keep := rapid.Bool().Draw(rt, "keep")
	for n := range rapid.IntRange(0, 14).Draw(rt, "routes") {
		r := turn{
			namespace: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "namespace"), name: fmt.Sprintf("r%d", n),
			host: rapid.SampledFrom([]string{"x.example.com", "y.example.com", "z.other.com"}).Draw(rt, "host"),
			path: rapid.SampledFrom([]string{"/", "/p", "/q", "/r"}).Draw(rt, "path"), wildcard: rapid.IntRange(0, 4).Draw(rt, "wildcard") == 0,
			passthrough: rapid.IntRange(0, 4).Draw(rt, "passthrough") == 0, ownTLS: rapid.Bool().Draw(rt, "tls"),
			service: rapid.SampledFrom([]string{"s", "t"}).Draw(rt, "service"), verified: rapid.IntRange(0, 4).Draw(rt, "verified") == 0,
		}
		res := r.resource()
		if old, ok := before.Get(res.GetName()); ok && keep && rapid.Bool().Draw(rt, "same") {
			res, _ = tsujiv1.Decode(old)
		}
		item, err := tsujiv1.Encode(res)
		if err != nil {
			rt.Fatal(err)
		}
		if !release.Fits(false, set, item) {
			continue
		}
		set = set.With(item)
		config = append(config, res)
		route := res.GetRoute()
		e := route.GetBackends()[0].GetEndpoints()
		facts[e] = &tsujiv1.Resource{Name: e, Kind: &tsujiv1.Resource_Endpoints{Endpoints: &tsujiv1.Endpoints{
			Service: rapid.SampledFrom([]string{"g", "h"}).Draw(rt, "generation"), Endpoints: drawEndpoints(rt),
		}}}
		if ca := route.GetDestinationTls().GetCa(); ca != "" {
			facts[ca] = &tsujiv1.Resource{Name: ca, Kind: &tsujiv1.Resource_Certificate{Certificate: &tsujiv1.Certificate{ChainPem: []byte("ca")}}}
		}
		if cert := route.GetCertificate(); cert != "" {
			facts[cert] = &tsujiv1.Resource{Name: cert, Kind: &tsujiv1.Resource_Certificate{Certificate: &tsujiv1.Certificate{ChainPem: []byte("for " + route.GetHost())}}}
		}
	}
	return snapshot.New(1, setOf(t, config), setOf(t, slices.Collect(maps.Values(facts))))
}

// drawEndpoints draws endpoints of which a few are ready, others are not or drain, in the order in which compile has them.
func drawEndpoints(rt *rapid.T) (list []*tsujiv1.Endpoint) {
	from, n := rapid.IntRange(0, 12).Draw(rt, "from"), rapid.IntRange(0, 12).Draw(rt, "endpoints")
	for i := from; i < from+n; i++ {
		state := rapid.IntRange(0, 5).Draw(rt, "state")
		list = append(list, &tsujiv1.Endpoint{
			Address: fmt.Sprintf("10.0.0.%d", i), Port: 80, Ready: state > 1, Serving: state > 0, Terminating: state == 1,
			Zone: rapid.SampledFrom([]string{"", "z"}).Draw(rt, "zone"),
		})
	}
	return list
}

// Whatever is published and wanted: the pieces lead there; in none has a host two owners, or none that has one before and
// after; every reference is resolved, by a certificate for the Route's host, and by endpoints that are as before or as
// after, and no fewer that get requests; and they are a function of the two.
func TestPaceLaws(t *testing.T) {
	t.Parallel()
	cuts := 0
	rapid.Check(t, func(rt *rapid.T) {
		from := drawWorld(rt, t, snapshot.Snapshot{})
		to := drawWorld(rt, t, from)
		p := published(from)
		release.Small(p)
		other := published(from)
		release.Small(other)
		if rapid.Bool().Draw(rt, "detour") {
			other.Want(drawWorld(rt, t, from))
		}
		other.Want(to)
		pieces := paced(p, to)
		cuts += len(pieces)
		before := hostsOf(rt, from)
		after := hostsOf(rt, to)
		for i, piece := range pieces {
			if got, _ := other.Next(release.Routes); !got.Version().Equal(piece.Version()) {
				rt.Fatalf("two replicas make different pieces %d", i)
			}
			between := hostsOf(rt, piece)
			endpointsBetween(rt, from, piece, to)
			for _, host := range []string{"x.example.com", "y.example.com", "z.other.com", "w.example.com", "w.other.com"} {
				if before.answer(host) && after.answer(host) && !between.answer(host) {
					rt.Fatalf("nobody answers for %s in piece %d", host, i)
				}
			}
		}
		if p.Waiting() != 0 || len(pieces) > 0 && !pieces[len(pieces)-1].Version().Equal(to.Version()) {
			rt.Fatalf("%d wait", p.Waiting())
		}
	})
	if cuts == 0 {
		t.Error("nothing was ever cut")
	}
}

// endpointsBetween fails if Endpoints that are there before and after have something else in between than endpoints as they
// were or will be, or lack one that is the same, or have fewer in use than either.
func endpointsBetween(rt *rapid.T, from, piece, to snapshot.Snapshot) {
	rt.Helper()
	read := func(i snapshot.Item) (all map[string]string, used int) {
		all = map[string]string{}
		r, err := tsujiv1.Decode(i)
		if err != nil {
			rt.Fatal(err)
		}
		for _, e := range r.GetEndpoints().GetEndpoints() {
			all[e.GetAddress()] = e.String()
			if e.GetReady() || e.GetServing() && e.GetTerminating() {
				used++
			}
		}
		return all, used
	}
	for i := range piece.Facts().All() {
		if !strings.HasPrefix(i.Name(), "endpoints/") {
			continue
		}
		before, was := from.Get(i.Name())
		after, will := to.Get(i.Name())
		now, used := read(i)
		switch {
		case was && will:
			old, few := read(before)
			next, many := read(after)
			if used < min(few, many) {
				rt.Fatalf("%s has %d endpoints in use, between %d and %d", i.Name(), used, few, many)
			}
			for a, e := range now {
				if old[a] != e && next[a] != e {
					rt.Fatalf("%s has %s, which is neither as before nor as after", i.Name(), e)
				}
			}
			for a, e := range next {
				if old[a] == e && now[a] != e {
					rt.Fatalf("%s lacks %s", i.Name(), e)
				}
			}
		case will:
			next, many := read(after)
			for a, e := range now {
				if next[a] != e {
					rt.Fatalf("%s has %s, which it will not have", i.Name(), e)
				}
			}
			if used == 0 && many > 0 {
				rt.Fatalf("%s comes with nothing", i.Name())
			}
		}
	}
}

// hosts are those that have owners; wildcards begin with "*.".
type hosts map[string]bool

func (h hosts) answer(host string) bool {
	_, parent, _ := strings.Cut(host, ".")
	return h[host] || h["*."+parent]
}

// hostsOf returns the hosts that have owners, and fails if some have two, or a reference is not resolved.
func hostsOf(rt *rapid.T, s snapshot.Snapshot) hosts {
	rt.Helper()
	owned := hosts{}
	set := snapshot.Set{}
	for i := range s.Config().All() {
		r, err := tsujiv1.Decode(i)
		if err != nil {
			rt.Fatal(err)
		}
		route := r.GetRoute()
		if route == nil {
			continue
		}
		if !release.Fits(false, set, i) {
			rt.Fatalf("%v is in the place of another", route)
		}
		set = set.With(i)
		host := route.GetHost()
		if route.GetWildcard() {
			_, parent, _ := strings.Cut(host, ".")
			host = "*." + parent
		}
		owned[host] = true
		if _, ok := s.Get(route.GetBackends()[0].GetEndpoints()); !ok {
			rt.Fatalf("%v has no endpoints", route)
		}
		if ca := route.GetDestinationTls().GetCa(); ca != "" {
			if _, ok := s.Get(ca); !ok {
				rt.Fatalf("%v has no CA", route)
			}
		}
		if name := route.GetCertificate(); name != "" {
			c, ok := s.Get(name)
			cert, err := tsujiv1.Decode(c)
			if !ok || err != nil || string(cert.GetCertificate().GetChainPem()) != "for "+route.GetHost() {
				rt.Fatalf("%v has %v", route, cert)
			}
		}
	}
	return owned
}

// A host that is handed from one namespace to another, with many paths, is handed over in one piece; as many new paths of
// one host are not bound to each other.
func TestUnits(t *testing.T) {
	t.Parallel()
	paths := func(namespace, host string, n int) snapshot.Set {
		var all []*tsujiv1.Resource
		for i := range n {
			r := turn{namespace: namespace, name: fmt.Sprintf("r%d", i), host: host, path: fmt.Sprintf("/p%d", i), service: "s"}
			all = append(all, r.resource())
		}
		return setOf(t, all)
	}
	if got := paced(published(snapshot.New(1, paths("b", "x.example.com", 5000), snapshot.Set{})), snapshot.New(2, paths("a", "x.example.com", 5000), snapshot.Set{})); len(got) != 1 {
		t.Errorf("a host with 5,000 paths was handed over in %d pieces", len(got)) // and in no time: bonds are not gone through by pairs
	}
	p := published(snapshot.New(1, paths("a", "x.example.com", 500), snapshot.Set{}))
	to := snapshot.New(2, paths("b", "x.example.com", 600), snapshot.Set{})
	if got := paced(p, to); len(got) != 1 {
		t.Errorf("a host was handed over in %d pieces", len(got))
	}
	if got := paced(published(snapshot.Snapshot{}), to); len(got) != 5 {
		t.Errorf("600 new paths came in %d pieces, want 5", len(got))
	}
}

// BenchmarkPace20000 leads through 20,000 changed Routes, while somebody else's change comes before each piece.
func BenchmarkPace20000(b *testing.B) {
	base := crowd(1000, 100)
	flood := maps.Clone(base)
	for i := range 20_000 {
		flood[fmt.Sprintf("flood/r%d", i)] = fmt.Sprintf("flood%d.example.com", i)
	}
	from, to := base.snapshot(b, "a"), flood.snapshot(b, "a")
	var late []snapshot.Item
	for i := range 400 {
		e, err := tsujiv1.Encode(&tsujiv1.Resource{Name: "endpoints/ns00/r0/*", Kind: &tsujiv1.Resource_Endpoints{Endpoints: &tsujiv1.Endpoints{Service: fmt.Sprint(i)}}})
		if err != nil {
			b.Fatal(err)
		}
		late = append(late, e)
	}
	b.ReportAllocs()
	for b.Loop() {
		p := published(from)
		p.Want(to)
		pieces := 0
		for wanted := to; p.Waiting() > 0; pieces++ {
			p.Next(release.Routes)
			if pieces < 150 {
				wanted = snapshot.New(1, wanted.Config(), wanted.Facts().With(late[pieces]))
				p.Want(wanted)
			}
		}
		b.ReportMetric(float64(pieces), "pieces/op")
	}
}
