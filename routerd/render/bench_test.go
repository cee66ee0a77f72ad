package render_test

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// many returns a renderer of n routes with two endpoints each, and what it was made of.
func many(b *testing.B, n int) (*render.Renderer, snapshot.Delta) {
	b.Helper()
	resources := make([]*tsujiv1.Resource, 0, 2*n)
	for i := range n {
		resources = append(resources, routeOf(benchRoute(i, 30)),
			endpointsOf("ns", fmt.Sprintf("r%d", i), endpoint("10.0.0.1", 80), endpoint("10.0.0.2", 80)))
	}
	r := renderer(b, options())
	d := delta(b, resources...)
	if _, err := r.Apply(d); err != nil {
		b.Fatal(err)
	}
	return r, d
}

func benchRoute(i int, seconds int64) *tsujiv1.Route {
	name := fmt.Sprintf("r%d", i)
	r := simple(name, name+".apps.example", "/", []tsujiv1.Termination{insecure, edge, reencrypt, passthrough}[i%4], none)
	r.Timeouts = &tsujiv1.RouteTimeouts{Tunnel: &durationpb.Duration{Seconds: seconds}}
	r.Cookie = &tsujiv1.Cookie{Name: "d81c0893cb6173ebf47d4c06d42a2fcd"}
	return r
}

// alternate applies two differences in turn.
func alternate(b *testing.B, r *render.Renderer, ds [2]snapshot.Delta) {
	b.Helper()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		c, err := r.Apply(ds[i%2])
		if err != nil || c.Empty() {
			b.Fatal(c, err)
		}
		i++
	}
}

// One route changes among 100 and among 10,000: the same cost.
func BenchmarkRenderOneRoute(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r, _ := many(b, n)
			alternate(b, r, [2]snapshot.Delta{delta(b, routeOf(benchRoute(1, 31))), delta(b, routeOf(benchRoute(1, 30)))})
		})
	}
}

// One endpoint comes and goes among 100 routes and among 10,000: the same cost.
func BenchmarkRenderOneEndpoint(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r, _ := many(b, n)
			alternate(b, r, [2]snapshot.Delta{
				delta(b, endpointsOf("ns", "r1", endpoint("10.0.0.1", 80))),
				delta(b, endpointsOf("ns", "r1", endpoint("10.0.0.1", 80), endpoint("10.0.0.2", 80))),
			})
		})
	}
}

// Everything, as at routerd's start: from resources to files.
func BenchmarkRenderAll10000(b *testing.B) {
	_, d := many(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		r := renderer(b, options())
		if _, err := r.Apply(d); err != nil {
			b.Fatal(err)
		}
		size := 0
		for _, f := range r.Dirty() {
			size += len(f.Content)
		}
		b.ReportMetric(float64(size), "bytes")
	}
}

// The files for a reload, when everything is rendered already.
func BenchmarkWriteAll10000(b *testing.B) {
	r, _ := many(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if len(r.Dirty()) == 0 {
			b.Fatal("nothing to write")
		}
	}
}
