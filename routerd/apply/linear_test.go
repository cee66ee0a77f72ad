package apply

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// bulk is a change of n things of one kind, and what there is before it.
type bulk struct {
	name         string
	before, then func(n int) []*tsujiv1.Resource
	suspended    func(n int) []server
}

// bulks are what one namespace can change at once, or can have while it changes one thing.
var bulks = []bulk{
	{name: "paths of one host come", then: pathsOfOneHost},
	{name: "paths below each other come", then: func(n int) []*tsujiv1.Resource {
		path := ""
		return repeat(n, func(i int) *tsujiv1.Resource {
			if path += "/a"; i%100 == 0 {
				path = fmt.Sprintf("/%d", i)
			}
			return bulkRoute(i, "one.test", path)
		})
	}},
	{name: "paths of one host get another profile", before: pathsOfOneHost, then: func(n int) []*tsujiv1.Resource {
		return changed(pathsOfOneHost(n), func(r *tsujiv1.Route) { r.Balance = tsujiv1.Balance_BALANCE_SOURCE })
	}},
	{name: "the root of a host with many paths gets another profile", before: withRoot, then: func(n int) []*tsujiv1.Resource {
		return changed(withRoot(n)[:1], func(r *tsujiv1.Route) { r.Balance = tsujiv1.Balance_BALANCE_SOURCE })
	}},
	{name: "hosts come", then: hosts},
	{name: "routes with profiles of their own come", then: func(n int) []*tsujiv1.Resource {
		i := 0
		return changed(hosts(n), func(r *tsujiv1.Route) {
			i++
			r.RequestHeaders = []*tsujiv1.HeaderAction{{Name: "X", Value: []*tsujiv1.HeaderValuePart{
				{Part: &tsujiv1.HeaderValuePart_Header{Header: &tsujiv1.HeaderFetch{Name: fmt.Sprint("Y", i)}}},
			}}}
		})
	}},
	{name: "hosts beside a wildcard that is passed through", before: func(n int) []*tsujiv1.Resource {
		return changed(hosts(n), func(r *tsujiv1.Route) {
			r.Termination = tsujiv1.Termination_TERMINATION_EDGE
		})
	}, then: func(n int) []*tsujiv1.Resource {
		r := bulkRoute(n, "any.test", "/")
		r.GetRoute().Termination = tsujiv1.Termination_TERMINATION_PASSTHROUGH
		r.GetRoute().Wildcard = true
		return []*tsujiv1.Resource{r}
	}},
	{name: "an endpoint of the Service of many routes moves", before: func(n int) []*tsujiv1.Resource {
		return append(hosts(n), bulkEndpoints(1, 2))
	}, then: func(int) []*tsujiv1.Resource { return []*tsujiv1.Resource{bulkEndpoints(2, 3)} }},
	{name: "endpoints of one Service come", before: func(int) []*tsujiv1.Resource { return hosts(1) }, then: func(n int) []*tsujiv1.Resource {
		return []*tsujiv1.Resource{bulkEndpoints(1, n)}
	}},
	{name: "routes of dead endpoints go elsewhere", before: func(n int) []*tsujiv1.Resource {
		return append(hosts(n), bulkEndpoints(1, 1))
	}, then: func(int) []*tsujiv1.Resource { return []*tsujiv1.Resource{bulkEndpoints(2, 2)} }, suspended: func(n int) []server {
		list := make([]server, n)
		for i := range list {
			list[i] = server{fmt.Sprintf("be_http:ns:r%d", i), "pod:p1:s:http:10.0.0.1:80"}
		}
		return list
	}},
}

func repeat(n int, f func(i int) *tsujiv1.Resource) []*tsujiv1.Resource {
	list := make([]*tsujiv1.Resource, n)
	for i := range list {
		list[i] = f(i)
	}
	return list
}

func pathsOfOneHost(n int) []*tsujiv1.Resource {
	return repeat(n, func(i int) *tsujiv1.Resource { return bulkRoute(i, "one.test", fmt.Sprintf("/p%d", i)) })
}

// withRoot are paths that are not served over plain HTTP, where the host's root answers in their place.
func withRoot(n int) []*tsujiv1.Resource {
	paths := changed(pathsOfOneHost(n), func(r *tsujiv1.Route) {
		r.Termination, r.InsecurePolicy = tsujiv1.Termination_TERMINATION_EDGE, tsujiv1.InsecurePolicy_INSECURE_POLICY_NONE
	})
	return append([]*tsujiv1.Resource{bulkRoute(n, "one.test", "/")}, paths...)
}

func hosts(n int) []*tsujiv1.Resource {
	return repeat(n, func(i int) *tsujiv1.Resource { return bulkRoute(i, fmt.Sprintf("h%d.test", i), "/") })
}

func bulkRoute(i int, host, path string) *tsujiv1.Resource {
	name := fmt.Sprint("r", i)
	return &tsujiv1.Resource{Name: tsujiv1.RouteName("ns", name), Kind: &tsujiv1.Resource_Route{Route: &tsujiv1.Route{
		Namespace: "ns", Name: name, Host: host, Path: path, Termination: tsujiv1.Termination_TERMINATION_INSECURE,
		Backends: []*tsujiv1.BackendRef{{Endpoints: tsujiv1.EndpointsName("ns", "s", "http"), Service: "s", Weight: 1}},
		Timeouts: &tsujiv1.RouteTimeouts{Server: durationpb.New(time.Minute)},
	}}}
}

// bulkEndpoints are the pods from one number to another.
func bulkEndpoints(from, to int) *tsujiv1.Resource {
	var list []*tsujiv1.Endpoint
	for i := from; i <= to; i++ {
		list = append(list, &tsujiv1.Endpoint{
			Address: fmt.Sprintf("10.0.%d.%d", i/250, i%250), Port: 80, PortName: "http", TargetKind: "Pod", TargetName: fmt.Sprint("p", i), Ready: true, Serving: true,
		})
	}
	return &tsujiv1.Resource{Name: tsujiv1.EndpointsName("ns", "s", "http"), Kind: &tsujiv1.Resource_Endpoints{
		Endpoints: &tsujiv1.Endpoints{Namespace: "ns", Service: "s", Port: "http", Endpoints: list},
	}}
}

func changed(list []*tsujiv1.Resource, f func(*tsujiv1.Route)) []*tsujiv1.Resource {
	for _, r := range list {
		f(r.GetRoute())
	}
	return list
}

// course is a bulk of a size, ready to be rendered and planned there and back.
type course struct {
	t           testing.TB
	renderer    *render.Renderer
	held        held
	there, back snapshot.Delta
}

func newCourse(t testing.TB, b bulk, n int) *course {
	t.Helper()
	r, err := render.New(render.Options{HTTP: []string{":80"}, Stats: []string{":1936"}})
	if err != nil {
		t.Fatal(err)
	}
	c := &course{t: t, renderer: r, held: newHeld()}
	var before snapshot.Snapshot
	if b.before != nil {
		before = before.Apply(1, c.delta(b.before(n)))
	}
	if _, err := r.Apply(snapshot.Diff(snapshot.Snapshot{}, before)); err != nil {
		t.Fatal(err)
	}
	c.there = c.delta(b.then(n))
	c.back = snapshot.Diff(before.Apply(2, c.there), before)
	if b.suspended != nil {
		for _, s := range b.suspended(n) {
			c.held.suspended[s] = true
		}
	}
	return c
}

func (c *course) delta(list []*tsujiv1.Resource) snapshot.Delta {
	c.t.Helper()
	var d snapshot.Delta
	for _, r := range list {
		i, err := tsujiv1.Encode(r)
		if err != nil {
			c.t.Fatal(err)
		}
		d.Put = append(d.Put, i)
	}
	return d
}

// run renders and plans the change, there and back, and returns how many operations that is.
func (c *course) run() int {
	operations := 0
	for _, d := range []snapshot.Delta{c.there, c.back} {
		change, err := c.renderer.Apply(d)
		if err != nil {
			c.t.Fatal(err)
		}
		in := planner{can: haproxy.Capabilities{DynamicServers: true, DynamicBackends: true}, held: c.held, routing: c.renderer.Routing}
		p, err := newPlan(in, change)
		if err != nil {
			c.t.Fatal(err)
		}
		operations += p.operations()
	}
	return operations
}

// Whatever one namespace changes at once, twice as much of it takes twice as much to render and to plan: operations,
// allocations and bytes. It runs beside no other test, which would count.
func TestLinear(t *testing.T) {
	for _, b := range bulks {
		t.Run(b.name, func(t *testing.T) {
			const n = 400
			var operations [2]int
			var allocs, bytes [2]float64
			for i, size := range []int{n, 4 * n} {
				c := newCourse(t, b, size)
				c.run() // what grows only once has grown
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				operations[i] = c.run()
				runtime.ReadMemStats(&after)
				allocs[i], bytes[i] = float64(after.Mallocs-before.Mallocs), float64(after.TotalAlloc-before.TotalAlloc)
			}
			t.Log(operations, allocs, bytes)
			for what, ratio := range map[string]float64{
				"operations": float64(operations[1]) / float64(operations[0]), "allocations": allocs[1] / allocs[0], "bytes": bytes[1] / bytes[0],
			} {
				if ratio > 6 {
					t.Errorf("four times as much takes %.1f times as many %s", ratio, what)
				}
			}
		})
	}
}

// Eight times as many backends that the check for drift replaces take eight times as long to plan, or some more: the
// entries that lead to them are not searched for each of them. The shortest of several runs counts.
func TestReplacingIsLinear(t *testing.T) {
	var courses [2]func() time.Duration
	for i, n := range []int{500, 4000} {
		c := newCourse(t, bulk{then: pathsOfOneHost}, n)
		if _, err := c.renderer.Apply(c.there); err != nil {
			t.Fatal(err)
		}
		var replaced []render.BackendChange
		for _, name := range c.renderer.Backends() {
			b, _ := c.renderer.Backend(name)
			replaced = append(replaced, render.BackendChange{Name: name, Old: &b, New: &b})
		}
		courses[i] = func() time.Duration {
			begun := time.Now()
			change, keys := replacing(c.renderer.Routing, replaced)
			took := time.Since(begun)
			if len(change.Entries) != n || len(keys) != n {
				t.Fatalf("%d entries and %d keys, want %d", len(change.Entries), len(keys), n)
			}
			return took
		}
	}
	few, many := time.Hour, time.Hour
	for range 100 { // until neither was disturbed
		few, many = min(few, courses[0]()), min(many, courses[1]())
		if many <= 15*few {
			t.Log(few, many)
			return
		}
	}
	t.Errorf("500 backends: %v, 4,000: %v", few, many)
}

// ones are changes of one thing among many of its kind.
var ones = []bulk{
	{name: "a path comes", before: pathsOfOneHost, then: func(n int) []*tsujiv1.Resource {
		return []*tsujiv1.Resource{bulkRoute(n, "one.test", "/new/")}
	}},
	{name: "a path gets another profile", before: pathsOfOneHost, then: func(n int) []*tsujiv1.Resource {
		return changed(pathsOfOneHost(n)[n/2:n/2+1], func(r *tsujiv1.Route) { r.Balance = tsujiv1.Balance_BALANCE_SOURCE })
	}},
	{name: "a path is served over TLS only", before: pathsOfOneHost, then: func(n int) []*tsujiv1.Resource {
		return changed(pathsOfOneHost(n)[n/2:n/2+1], func(r *tsujiv1.Route) { r.Termination = tsujiv1.Termination_TERMINATION_EDGE })
	}},
	{name: "a host comes", before: hosts, then: func(n int) []*tsujiv1.Resource { return []*tsujiv1.Resource{bulkRoute(n, "new.test", "/")} }},
}

// However many paths a host has, and however many hosts there are, one that changes takes the same to render and to plan.
func TestOneAmongMany(t *testing.T) {
	for _, b := range ones {
		t.Run(b.name, func(t *testing.T) {
			var operations [2]int
			var allocs [2]float64
			for i, n := range []int{100, 3200} {
				c := newCourse(t, b, n)
				operations[i] = c.run()
				allocs[i] = testing.AllocsPerRun(10, func() { c.run() })
			}
			if t.Log(operations, allocs); operations[0] != operations[1] || allocs[1] > 1.5*allocs[0] {
				t.Errorf("one of 100 takes %d operations and %.0f allocations, one of 3,200 %d and %.0f", operations[0], allocs[0], operations[1], allocs[1])
			}
		})
	}
}

// BenchmarkLinear is what one namespace can change at once, and one of it, in three sizes: rendering and planning it, there and back.
func BenchmarkLinear(b *testing.B) {
	for _, bulk := range slices.Concat(bulks, ones) {
		for _, n := range []int{5_000, 10_000, 20_000} {
			b.Run(fmt.Sprintf("%s/n=%d", bulk.name, n), func(b *testing.B) {
				c := newCourse(b, bulk, n)
				b.ReportAllocs()
				operations := 0
				for b.Loop() {
					operations = c.run()
				}
				b.ReportMetric(float64(operations), "operations")
			})
		}
	}
}
