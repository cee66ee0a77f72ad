package apply_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// track is a router with so many routes, two endpoints each, for benchmarks.
type track struct {
	*router
	b       *testing.B
	current snapshot.Snapshot
	ends    []*tsujiv1.Endpoint
}

func newTrack(b *testing.B, n int, o options) *track {
	w := newWorld(b, haproxytest.Binary(b))
	t := &track{router: w.router(o), b: b, ends: []*tsujiv1.Endpoint{serve(b, "one"), serve(b, "two")}}
	var resources []*tsujiv1.Resource
	for i := range n {
		name := fmt.Sprint("r", i)
		resources = append(resources, route(name), endpoints(name, t.ends...))
	}
	cert, _ := certificate("a", false)
	t.current = t.put(append(resources, edge("a"), cert)...)
	return t
}

// change applies a difference, and returns how long it took until it was verified.
func (t *track) change(put []*tsujiv1.Resource, removed ...string) time.Duration {
	t.b.Helper()
	d := snapshot.Delta{Removed: removed}
	for _, r := range put {
		item, err := tsujiv1.Encode(r)
		must(t.b, err)
		d.Put = append(d.Put, item)
	}
	next := t.current.Apply(t.current.Version().Revision+1, d)
	begun := time.Now()
	if refusal := t.Apply(t.b.Context(), next, d); refusal != nil {
		t.b.Fatal(refusal)
	}
	t.current = next
	return time.Since(begun)
}

// run measures a change: the median, the slowest of a hundred, and how many commands a second it comes to.
func (t *track) run(name string, f func(i int) time.Duration) {
	t.b.Run(name, func(b *testing.B) {
		outer := t.b
		t.b = b
		defer func() { t.b = outer }()
		var all []time.Duration
		operations, seconds, reloads := testutil.ToFloat64(t.metrics.Operations), testutil.ToFloat64(t.metrics.Seconds), t.reloads()
		for i := 0; b.Loop(); i++ {
			all = append(all, f(i))
		}
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
		b.ReportMetric(float64(all[min(len(all)*99/100, len(all)-1)].Microseconds()), "p99-µs")
		b.ReportMetric(t.reloads()-reloads, "reloads")
		if s := testutil.ToFloat64(t.metrics.Seconds) - seconds; s > 0 {
			b.ReportMetric((testutil.ToFloat64(t.metrics.Operations)-operations)/s, "commands/s")
		}
	})
}

// BenchmarkApply is one change from the snapshot to the verified ack, with so many routes: one that is new, with and
// without a certificate; an endpoint that moves; an option and a profile that change; a certificate that is renewed; a
// route that goes.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint("routes=", n), func(b *testing.B) {
			t := newTrack(b, n, options{})
			certs := make([]*tsujiv1.Resource, 2)
			for i := range certs {
				certs[i], _ = certificate("a", false)
			}
			added := 0
			t.run("new", func(int) time.Duration {
				name := fmt.Sprint("new", added)
				added++
				return t.change([]*tsujiv1.Resource{route(name), endpoints(name, t.ends...)})
			})
			t.run("gone", func(int) time.Duration {
				if added == 0 {
					added++
					t.change([]*tsujiv1.Resource{route("new0"), endpoints("new0", t.ends...)})
				}
				added--
				name := fmt.Sprint("new", added)
				return t.change(nil, tsujiv1.RouteName("ns", name), tsujiv1.EndpointsName("ns", name, "http"))
			})
			secure := 0
			t.run("new with certificate", func(int) time.Duration {
				name := fmt.Sprint("secure", secure)
				secure++
				cert, _ := certificate(name, false)
				return t.change([]*tsujiv1.Resource{edge(name), cert, endpoints(name, t.ends...)})
			})
			t.run("endpoint", func(i int) time.Duration {
				return t.change([]*tsujiv1.Resource{endpoints("r0", t.ends[i%2])})
			})
			t.run("option", func(i int) time.Duration {
				r := route("r1")
				r.GetRoute().Rewrite = &tsujiv1.PathRewrite{Target: fmt.Sprint("/", i)}
				return t.change([]*tsujiv1.Resource{r})
			})
			t.run("profile", func(i int) time.Duration {
				return t.change([]*tsujiv1.Resource{balanced(route("r2"), tsujiv1.Balance(1+i%2))})
			})
			t.run("certificate", func(i int) time.Duration {
				return t.change([]*tsujiv1.Resource{certs[i%2]})
			})
		})
	}
}

// BenchmarkReload is a new route where backends come by reloads.
func BenchmarkReload(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint("routes=", n), func(b *testing.B) {
			t := newTrack(b, n, options{noBackends: true})
			t.run("new", func(i int) time.Duration {
				name := fmt.Sprint("new", i)
				return t.change([]*tsujiv1.Resource{route(name), endpoints(name, t.ends...)})
			})
		})
	}
}

// BenchmarkMany is so many new routes at once, by commands or as the router finds cheaper: how long it takes, and whether
// there was a reload. Where there is one, a reload is cheaper.
func BenchmarkMany(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		for _, m := range []int{10, 100, 300, 1_000, 3_000} {
			b.Run(fmt.Sprintf("routes=%d/new=%d", n, m), func(b *testing.B) {
				for range b.N {
					b.StopTimer()
					t := newTrack(b, n, options{})
					var put []*tsujiv1.Resource
					for i := range m {
						name := fmt.Sprint("new", i)
						put = append(put, route(name), endpoints(name, t.ends...))
					}
					b.StartTimer()
					d := t.change(put)
					b.ReportMetric(float64(d.Microseconds())/1000, "ms")
					b.ReportMetric(t.reloads(), "reloads")
				}
			})
		}
	}
}
