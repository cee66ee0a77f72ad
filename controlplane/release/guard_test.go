package release_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tsuji-dev/tsuji/controlplane/release"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// cluster is what a compiler would make a snapshot of: Routes by "namespace/name", each with a host, a Service of its own
// and its endpoints.
type cluster map[string]string

// crowd is so many Routes in so many namespaces.
func crowd(routes, namespaces int) cluster {
	c := cluster{}
	for i := range routes {
		c[fmt.Sprintf("ns%02d/r%d", i%namespaces, i)] = fmt.Sprintf("r%d.example.com", i)
	}
	return c
}

// without returns it less the Routes that are chosen.
func (c cluster) without(gone func(namespace, name string) bool) cluster {
	left := maps.Clone(c)
	maps.DeleteFunc(left, func(k, _ string) bool { ns, name, _ := strings.Cut(k, "/"); return gone(ns, name) })
	return left
}

// first returns the first n of its Routes by namespace and name: what kubectl delete --all -A would delete first.
func (c cluster) first(n int) []string { return slices.Sorted(maps.Keys(c))[:n] }

// snapshot compiles it. Endpoints say of what generation they are.
func (c cluster) snapshot(t testing.TB, generation string) snapshot.Snapshot {
	t.Helper()
	config := []*tsujiv1.Resource{{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{}}}}
	var facts []*tsujiv1.Resource
	for k, host := range c {
		ns, name, _ := strings.Cut(k, "/")
		endpoints := tsujiv1.EndpointsName(ns, name, "*")
		config = append(config, &tsujiv1.Resource{Name: tsujiv1.RouteName(ns, name), Kind: &tsujiv1.Resource_Route{Route: &tsujiv1.Route{
			Namespace: ns, Name: name, Host: host, Path: "/", Termination: tsujiv1.Termination_TERMINATION_INSECURE,
			Backends: []*tsujiv1.BackendRef{{Endpoints: endpoints}},
		}}})
		facts = append(facts, &tsujiv1.Resource{Name: endpoints, Kind: &tsujiv1.Resource_Endpoints{Endpoints: &tsujiv1.Endpoints{Namespace: ns, Service: name, Port: generation}}})
	}
	return snapshot.New(1, setOf(t, config), setOf(t, facts))
}

func setOf(t testing.TB, resources []*tsujiv1.Resource) snapshot.Set {
	t.Helper()
	e := snapshot.Set{}.Edit()
	for _, r := range resources {
		i, err := tsujiv1.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		e.Put(i)
	}
	return e.Set()
}

// routes counts what is served.
func routes(s snapshot.Snapshot) int { return s.Config().Len() - 1 }

// Namespaces whose Routes come and go all the time lose none by it, however many that adds up to: when one more deletes most of
// its own, nothing is held. What has been there for a while counts, also when it was away for a moment.
func TestGuardPassesWhatComesAndGoes(t *testing.T) {
	t.Parallel()
	var g release.Guard
	now := time.Unix(1_000_000, 0)
	take := func(c cluster) *release.Held {
		t.Helper()
		now = now.Add(time.Second)
		_, held := g.Take(c.snapshot(t, "1"), false, false, now)
		return held
	}
	steady := crowd(30, 3)
	for i := range 60 {
		steady[fmt.Sprintf("tenant/own%d", i)] = fmt.Sprintf("own%d.example.com", i)
	}
	take(steady)
	preview := func(i int) cluster { // three hosts in each of ten namespaces, and other ones each time
		c := maps.Clone(steady)
		for n := range 30 {
			c[fmt.Sprintf("preview%d/r%d-%d", n%10, n, i)] = fmt.Sprintf("p%d-%d.example.com", n, i)
		}
		return c
	}
	for i := range 20 {
		if held := take(preview(i)); held != nil {
			t.Fatalf("after %d turns of previews %v is held", i, held)
		}
	}
	own := func(ns, _ string) bool { return ns == "tenant" }
	if held := take(preview(20).without(own)); held != nil {
		t.Errorf("a tenant deletes what is his own, and %v is held", held)
	}
	if held := take(preview(21)); held != nil {
		t.Fatal("it is back, and something is held")
	}
	all := func(string, string) bool { return true }
	if held := take(preview(21).without(all)); held == nil || held.Routes != 90 {
		t.Errorf("everything goes, and %v is held; want the 90 that had been there", held)
	}
}

// What goes over many namespaces is held, and what one tenant takes away of its own is not, however much it is.
func TestGuardHoldsWhatAMishapTakes(t *testing.T) {
	t.Parallel()
	all := func(string, string) bool { return true }
	most := func(_, name string) bool { return !strings.HasSuffix(name, "1") }
	few := func(_, name string) bool { return strings.HasSuffix(name, "1") }
	first := func(ns, _ string) bool { return ns == "ns00" }
	tenant := crowd(34, 5)
	for i := range 60 {
		tenant[fmt.Sprintf("tenant/own%d", i)] = fmt.Sprintf("own%d.example.com", i)
	}
	own := func(ns, name string) bool { return ns == "tenant" && name != "own0" && name != "own1" }
	for _, c := range []struct {
		what string
		of   cluster
		gone func(ns, name string) bool
		held bool
	}{
		{"all of a cluster", crowd(60, 10), all, true},
		{"all of a cluster with one namespace", crowd(60, 1), all, true},
		{"most of each namespace", crowd(100, 10), most, true},
		{"a tenth of each", crowd(100, 10), few, false},
		{"58 of a tenant's own 60, of 94", tenant, own, false},
		{"one namespace of two, as large as the other", crowd(100, 2), first, false},
		{"all of a small cluster", crowd(20, 5), all, false},
		{"nothing of nothing", cluster{}, all, false},
	} {
		var g release.Guard
		if got, held := g.Take(c.of.snapshot(t, "a"), false, false, start); held != nil || routes(got) != len(c.of) {
			t.Errorf("%s: held %v when it was seen first", c.what, held)
		}
		left := c.of.without(c.gone)
		got, held := g.Take(left.snapshot(t, "b"), false, false, start)
		want := len(left)
		if c.held {
			want = len(c.of)
		}
		if (held != nil) != c.held || routes(got) != want {
			t.Errorf("%s: %d routes of %d are left, and %d served (%v), want %d", c.what, len(left), len(c.of), routes(got), held, want)
		}
	}
}

// Who deletes one by one, or in portions, comes to the same end as who deletes all at once: everything is back, that which
// went before it was too much included.
func TestGuardHoldsWhatGoesLittleByLittle(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ routes, namespaces, portion int }{{60, 12, 1}, {60, 1, 7}, {2000, 40, 50}} {
		of := crowd(c.routes, c.namespaces)
		var g release.Guard
		g.Take(of.snapshot(t, "a"), false, false, start)
		now, least := start, c.routes
		var served snapshot.Snapshot
		for n := c.portion; ; n += c.portion {
			now = now.Add(500 * time.Millisecond)
			gone := of.first(min(n, c.routes))
			left := of.without(func(ns, name string) bool { _, found := slices.BinarySearch(gone, ns+"/"+name); return found })
			served, _ = g.Take(left.snapshot(t, "a"), false, false, now)
			if least = min(least, routes(served)); len(left) == 0 {
				break
			}
		}
		if routes(served) != c.routes || 10*least < 4*c.routes {
			t.Errorf("%d routes in portions of %d: %d are served in the end, and %d were at the least", c.routes, c.portion, routes(served), least)
		}
		// It stays so, whatever time passes.
		if later, held := g.Take(cluster{}.snapshot(t, "a"), false, false, now.Add(100*release.Window)); held == nil || routes(later) != c.routes {
			t.Errorf("%d routes are served after a while", routes(later))
		}
	}
}

// Half that goes slowly is no mishap: what went longer than a window ago counts no more.
func TestGuardForgets(t *testing.T) {
	t.Parallel()
	of := crowd(100, 10)
	var g release.Guard
	g.Take(of.snapshot(t, "a"), false, false, start)
	now := start
	for n := range 100 {
		now = now.Add(release.Window / 15)
		gone := of.first(n + 1)
		left := of.without(func(ns, name string) bool { return slices.Contains(gone, ns+"/"+name) })
		if got, held := g.Take(left.snapshot(t, "a"), false, false, now); held != nil || routes(got) != len(left) {
			t.Fatalf("%d routes are left, %d served: %v", len(left), routes(got), held)
		}
	}
}

// While Routes are held all else flows: what is new, what is different, and the facts of what is left; what only held Routes
// need is kept as it was. A held Route whose host another has by then does not come back, even when that goes, too.
func TestGuardHoldsRemovalsOnly(t *testing.T) {
	t.Parallel()
	of := crowd(60, 10)
	var g release.Guard
	g.Take(of.snapshot(t, "old"), false, false, start)
	left := of.without(func(_, name string) bool { return name != "r7" })
	left["ns07/r7"] = "moved.example.com"
	left["heir/h"] = "r9.example.com"
	left["fresh/f"] = "fresh.example.com"
	got, held := g.Take(left.snapshot(t, "new"), false, false, start)
	if want := (release.Held{Routes: 58, Of: 61, Namespaces: 10, OfThem: 12}); held == nil || *held != want {
		t.Fatalf("held %+v, want %+v", held, want)
	}
	hosts := map[string]string{}
	for i := range got.Config().All() {
		r, err := tsujiv1.Decode(i)
		if err != nil {
			t.Fatal(err)
		}
		if route := r.GetRoute(); route != nil {
			hosts[route.GetHost()] += route.GetNamespace() + " "
			e, ok := got.Get(route.GetBackends()[0].GetEndpoints())
			generation := "old"
			if _, ok := left[route.GetNamespace()+"/"+route.GetName()]; ok {
				generation = "new"
			}
			if r, err := tsujiv1.Decode(e); !ok || err != nil || r.GetEndpoints().GetPort() != generation {
				t.Errorf("endpoints of %s/%s: %v %v, want %s", route.GetNamespace(), route.GetName(), r.GetEndpoints().GetPort(), err, generation)
			}
		}
	}
	if hosts["r9.example.com"] != "heir " || hosts["moved.example.com"] != "ns07 " || hosts["r7.example.com"] != "" || hosts["fresh.example.com"] == "" || len(hosts) != 61 {
		t.Errorf("%d hosts are served: r9 %q, moved %q, r7 %q", len(hosts), hosts["r9.example.com"], hosts["moved.example.com"], hosts["r7.example.com"])
	}
	delete(left, "heir/h")
	if got, _ = g.Take(left.snapshot(t, "new"), false, false, start.Add(time.Second)); !slices.Contains(routesOf(got), "heir/h") || slices.Contains(routesOf(got), "ns09/r9") {
		t.Errorf("of two that had a host the one that went last is served on, got %v", routesOf(got))
	}
}

func routesOf(s snapshot.Snapshot) (names []string) {
	for i := range s.Config().All() {
		if n, ok := strings.CutPrefix(i.Name(), "route/"); ok {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

// What was left out on purpose, because routers refuse it, does not come back with the rest.
func TestGuardKeepsWhatWasLeftOutOut(t *testing.T) {
	t.Parallel()
	var g release.Guard
	g.Take(crowd(60, 10).snapshot(t, "a"), false, false, start)
	g.LeftOut([]string{"route/ns07/r7"})
	if got, held := g.Take(cluster{}.snapshot(t, "a"), false, false, start); held == nil || routes(got) != 59 || slices.Contains(routesOf(got), "ns07/r7") {
		t.Errorf("%d routes are served, %v held", routes(got), held)
	}
	g.Forget([]string{"route/ns07/r17"}) // it is refused since it is held
	if got, _ := g.Take(cluster{}.snapshot(t, "a"), false, false, start); routes(got) != 58 || slices.Contains(routesOf(got), "ns07/r17") {
		t.Errorf("%d routes are served", routes(got))
	}
}

// It ends when the Routes are back. When most of them are, the rest is served on for a window, for it may be on its way; a
// window that ends with no change of anything is acted upon.
func TestGuardLetsGoOfWhatIsBack(t *testing.T) {
	t.Parallel()
	of := crowd(60, 10)
	var g release.Guard
	g.Take(of.snapshot(t, "a"), false, false, start)
	g.Take(cluster{}.snapshot(t, "a"), false, false, start)
	last := of.first(10)
	most := of.without(func(ns, name string) bool { return slices.Contains(last, ns+"/"+name) }).snapshot(t, "a")
	at := start.Add(time.Hour)
	if got, held := g.Take(most, false, false, at); held == nil || held.Routes != 10 || routes(got) != 60 {
		t.Errorf("with 50 back %d are served, held %v", routes(got), held)
	}
	if again := g.Again(); !again.Equal(at.Add(release.Window)) {
		t.Errorf("there is something to do at %v", again)
	}
	other := g // as if all had come back instead
	if got, held := g.Take(most, false, false, g.Again()); held != nil || routes(got) != 50 || !g.Again().IsZero() {
		t.Errorf("after a window %d are served, held %v", routes(got), held)
	}
	if got, held := other.Take(of.snapshot(t, "b"), false, false, at.Add(time.Second)); held != nil || routes(got) != 60 {
		t.Errorf("with all back %d are served, held %v", routes(got), held)
	}
}

// A permission lets go of what went and what goes on going, whatever else changes, for a window, and of nothing that goes
// later.
func TestGuardIsAllowedForAWhile(t *testing.T) {
	t.Parallel()
	of, left := crowd(60, 10), crowd(1, 1)
	var g release.Guard
	g.Take(of.snapshot(t, "a"), false, false, start)
	if _, held := g.Take(left.snapshot(t, "b"), false, false, start.Add(time.Second)); held == nil {
		t.Fatal("not held")
	}
	permission := start.Add(time.Minute).Format(time.RFC3339)
	for _, c := range []struct {
		after   time.Duration
		allowed bool
	}{{0, true}, {-time.Second, false}, {time.Minute, true}, {time.Minute + release.Window - time.Second, true}, {time.Minute + release.Window, false}} {
		if allowed, _, err := release.Allowed(permission, start.Add(c.after)); err != nil || allowed != c.allowed {
			t.Errorf("%v after: allowed %v %v", c.after, allowed, err)
		}
	}
	if _, from, _ := release.Allowed(permission, start.Add(-time.Hour)); !from.Equal(start) {
		t.Errorf("good from %v", from)
	}
	for _, wrong := range []string{"9f86d081", "true", "2026-01-02"} {
		if allowed, _, err := release.Allowed(wrong, start); allowed || err == nil {
			t.Errorf("%q is a permission: %v, %v", wrong, allowed, err)
		}
	}
	if got, held := g.Take(left.snapshot(t, "b"), false, true, start.Add(time.Minute)); held != nil || routes(got) != 1 {
		t.Errorf("allowed, but %d are served and %v held", routes(got), held)
	}
	g.Take(of.snapshot(t, "a"), false, true, start.Add(time.Minute))
	if _, held := g.Take(left.snapshot(t, "b"), false, false, start.Add(time.Hour)); held == nil {
		t.Error("the next mishap is let through")
	}
}

// A tenant whose Routes come and go fills no memory.
func TestGuardIsBounded(t *testing.T) {
	of := crowd(1, 1)
	large := strings.Repeat("x", 1<<20)
	var g release.Guard
	g.Take(of.snapshot(t, "a"), false, false, start)
	for i := range 100 {
		with := maps.Clone(of)
		with[fmt.Sprintf("tenant/r%d", i)] = "own.example.com"
		g.Take(with.snapshot(t, large), false, false, start)
		g.Take(of.snapshot(t, "a"), false, false, start)
	}
	if bytes := release.Remembered(&g); bytes > release.MostLost {
		t.Errorf("%d bytes of Routes that went are remembered", bytes)
	}
}

// step is what a history does to Routes of a small world, in which everything gets into the way of everything.
func step(t *rapid.T, c cluster) {
	k := fmt.Sprintf("ns%d/r%d", rapid.IntRange(0, 3).Draw(t, "namespace"), rapid.IntRange(0, 11).Draw(t, "name"))
	delete(c, k)
	if rapid.Bool().Draw(t, "put") {
		host := fmt.Sprintf("h%d.example.com", rapid.IntRange(0, 59).Draw(t, "host"))
		for other, h := range c { // as compile does: a host has one owner
			if h == host {
				delete(c, other)
			}
		}
		c[k] = host
	}
}

// Whatever happens: what is published has all that was compiled, as it was compiled; no host has two owners; and where
// nothing is held it is just what was compiled.
func TestGuardLaws(t *testing.T) {
	t.Parallel()
	holds := 0
	rapid.Check(t, func(rt *rapid.T) {
		c := crowd(rapid.IntRange(0, 48).Draw(rt, "routes"), 4)
		var g release.Guard
		now := start
		g.Take(c.snapshot(t, "a"), false, false, now)
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			now = now.Add(rapid.SampledFrom([]time.Duration{0, time.Second, release.Window / 2, release.Window}).Draw(rt, "time"))
			if rapid.IntRange(0, 3).Draw(rt, "mishap") == 0 {
				keep := rapid.IntRange(0, 11).Draw(rt, "keep")
				c = c.without(func(_, name string) bool { return name != fmt.Sprintf("r%d", keep) })
			}
			for range rapid.IntRange(0, 8).Draw(rt, "changes") {
				step(rt, c)
			}
			next := c.snapshot(t, rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "generation"))
			allowed := rapid.IntRange(0, 9).Draw(rt, "allowed") == 0
			got, held := g.Take(next, false, allowed, now)
			if held == nil && got != next || held != nil && (allowed || held.Routes != routes(got)-routes(next) || held.Routes == 0) {
				rt.Fatalf("held %v: %d are served, %d were compiled", held, routes(got), routes(next))
			}
			if held != nil {
				holds++
			}
			if d := snapshot.Diff(got, next); len(d.Put) > 0 {
				rt.Fatalf("what was compiled is not published: %v", d.Put)
			}
			owners := map[string]string{}
			for i := range got.Config().All() {
				r, _ := tsujiv1.Decode(i)
				if route := r.GetRoute(); route != nil {
					if o := owners[route.GetHost()]; o != "" {
						rt.Fatalf("%s has two owners: %s and %s", route.GetHost(), o, i.Name())
					}
					owners[route.GetHost()] = i.Name()
					if _, ok := got.Get(route.GetBackends()[0].GetEndpoints()); !ok {
						rt.Fatalf("%s has no endpoints", i.Name())
					}
				}
			}
		}
	})
	if holds == 0 {
		t.Error("nothing was ever held")
	}
}

// The order of changes within a window does not matter, nor how many come together. What was too much in between only, and is
// not in the end, is let go when a window has passed.
func TestGuardKnowsNoOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		before := crowd(rapid.IntRange(20, 60).Draw(rt, "routes"), rapid.IntRange(1, 8).Draw(rt, "namespaces"))
		after := maps.Clone(before)
		for _, k := range slices.Sorted(maps.Keys(before)) {
			if rapid.IntRange(0, 3).Draw(rt, "gone") > 0 {
				delete(after, k)
			}
		}
		for i := range rapid.IntRange(0, 5).Draw(rt, "new") {
			after[fmt.Sprintf("new/n%d", i)] = fmt.Sprintf("n%d.example.com", i)
		}
		var versions []snapshot.Version
		for _, order := range [][]string{shuffled(rt, before, after), shuffled(rt, before, after)} {
			var g release.Guard
			c := maps.Clone(before)
			g.Take(c.snapshot(t, "a"), false, false, start)
			for portion := range slices.Chunk(order, rapid.IntRange(1, 30).Draw(rt, "portion")) {
				for _, k := range portion {
					if host, ok := after[k]; ok {
						c[k] = host
					} else {
						delete(c, k)
					}
				}
				g.Take(c.snapshot(t, "a"), false, false, start)
			}
			got, _ := g.Take(c.snapshot(t, "a"), false, false, start.Add(release.Window))
			versions = append(versions, got.Version())
		}
		if !versions[0].Equal(versions[1]) {
			rt.Errorf("two orders lead to %s and %s", versions[0].Short(), versions[1].Short())
		}
	})
}

// shuffled is the keys of both, in some order.
func shuffled(t *rapid.T, a, b cluster) []string {
	both := maps.Clone(a)
	maps.Copy(both, b)
	keys := slices.Sorted(maps.Keys(both))
	rank := map[string]uint64{}
	for _, k := range keys {
		rank[k] = rapid.Uint64().Draw(t, "rank")
	}
	slices.SortFunc(keys, func(x, y string) int { return cmp.Or(cmp.Compare(rank[x], rank[y]), cmp.Compare(x, y)) })
	return keys
}

func BenchmarkGuardOneChange(b *testing.B) {
	c := crowd(10_000, 100)
	one, other := c.snapshot(b, "a"), func() snapshot.Snapshot {
		d := maps.Clone(c)
		d["ns00/r0"] = "other.example.com"
		return d.snapshot(b, "a")
	}()
	var g release.Guard
	g.Take(one, false, false, start)
	b.ReportAllocs()
	for b.Loop() {
		g.Take(other, false, false, start)
		g.Take(one, false, false, start)
	}
}
