package test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkCluster is the time from the API server's answer to a write until HAProxy gives the first correct answer, in a
// cluster of so many Routes, each with a Service and an EndpointSlice. It takes minutes to fill the cluster, so it runs
// only when asked for: `make bench-cluster`.
func BenchmarkCluster(b *testing.B) {
	if os.Getenv("TSUJI_BENCH_CLUSTER") == "" {
		b.Skip("run by `make bench-cluster`")
	}
	f := newFleet(b)
	f.source = newCluster(b)
	ip, first := backend(b, "first")
	_, second := backend(b, "second")
	port := map[bool]int{true: first, false: second}
	name := map[bool]string{true: "first", false: "second"}
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	have := 0
	for _, n := range []int{100, 1_000, 10_000} {
		fill(f, have, n, ip, first)
		have = n
		if r.process == nil {
			r.start()
			r.ready()
		}
		last := fmt.Sprintf("r%d.example.com", n-1)
		eventually(b, "the cluster's last route is served", func() error { return answers(r.http, last, "/", "") })
		turn := true
		b.Run(fmt.Sprintf("endpoint-moved/%d", n), func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				turn = !turn
				f.write("r0.yaml", service("r0", port[turn], ip)+route("r0", "r0.example.com", "r0"))
				took = append(took, until(b, func() error { return answers(r.http, "r0.example.com", "/", name[turn]) }))
			}
			report(b, took)
		})
		b.Run(fmt.Sprintf("route-added/%d", n), func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				id := fmt.Sprintf("n%d-%d", n, len(took))
				host := id + "-" + fmt.Sprint(b.N) + ".example.com"
				f.write(id+".yaml", route(id, host, "r1"))
				took = append(took, until(b, func() error { return answers(r.http, host, "/", "first") }))
			}
			report(b, took)
		})
	}
}

// fill makes the objects of routes from one number to another, with some clients at once.
func fill(f *fleet, from, to int, ip string, port int) {
	f.t.Helper()
	c, _ := f.source.(*cluster)
	next := make(chan int)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := range next {
				id := fmt.Sprintf("r%d", i)
				objects := c.parse(service(id, port, ip) + route(id, id+".example.com", id))
				for _, o := range objects {
					c.apply(o)
				}
				mu.Lock()
				c.objects[id+".yaml"] = objects
				mu.Unlock()
			}
		})
	}
	for i := from; i < to; i++ {
		next <- i
	}
	close(next)
	wg.Wait()
}

// until asks until the condition holds, without a pause, and returns how long that took.
func until(b *testing.B, condition func() error) time.Duration {
	b.Helper()
	begin := time.Now()
	for {
		err := condition()
		took := time.Since(begin)
		if err == nil {
			return took
		}
		if took > patience {
			b.Fatal(err)
		}
		if context.Cause(b.Context()) != nil {
			b.Fatal(context.Cause(b.Context()))
		}
	}
}

// report gives the median and the 99th percentile.
func report(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
