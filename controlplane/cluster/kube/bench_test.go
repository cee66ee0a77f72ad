package kube

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/test/sourcetest"
)

// many creates n applications in a namespace of an API server, with a Secret each if external.
func many(b *testing.B, a *api, ns string, n int, secrets bool) {
	b.Helper()
	a.apply(aNamespace(ns))
	var g errgroup.Group
	g.SetLimit(16)
	for i := range n {
		g.Go(func() error {
			name, more := fmt.Sprintf("app-%d", i), ""
			if secrets {
				more = fmt.Sprintf(external, name)
				a.apply(aSecret(ns, name, "a certificate would be longer"))
			}
			a.apply(aService(ns, name, 80) + "\n---\n" + aSlice(ns, name, "10.1.2.3", ", zone: tok04, nodeName: node-1") + "\n---\n" + aRoute(ns, name, "", more))
			return nil
		})
	}
	must(b, g.Wait())
}

var benchmarks sync.Map

// benchmarkServer returns the shared API server with n applications.
func benchmarkServer(b *testing.B, n int, secrets bool) (*rest.Config, string) {
	b.Helper()
	a, _ := sharedServer(b)
	ns := fmt.Sprintf("bench-%d-%t", n, secrets)
	if _, ok := benchmarks.LoadOrStore(ns, true); !ok {
		many(b, a, ns, n, secrets)
	}
	return a.server.Config(), ns
}

// memory is what is in use, in bytes.
func memory() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse)
}

// A source starts, at a cluster with so many applications: a Route, a Service and an EndpointSlice each, and
// a Secret that is referred to.
func BenchmarkSync(b *testing.B) {
	for _, secrets := range []bool{false, true} {
		b.Run(fmt.Sprintf("applications=1000/secrets=%t", secrets), func(b *testing.B) {
			config, ns := benchmarkServer(b, 1000, secrets)
			var held, goroutines float64
			for b.Loop() {
				before, g := memory(), runtime.NumGoroutine()
				k, stop := followingUntil(b, Config{REST: config, Namespace: ns})
				for synced := false; !synced; _, synced = k.Take() {
					select {
					case <-k.Changed():
					case <-time.After(time.Minute):
						b.Fatal("not synced")
					}
				}
				b.StopTimer()
				held, goroutines = memory()-before, float64(runtime.NumGoroutine()-g)
				b.ReportMetric(held/1000, "B/application")
				b.ReportMetric(goroutines, "goroutines")
				stop()
				b.StartTimer()
			}
		})
	}
}

// One endpoint moves in a cluster of 1,000 applications: ns/op is from the API server's answer to Take. Its allocations are
// those of the writes too: without their time the benchmark would go on for most of a minute.
func BenchmarkOneChange(b *testing.B) {
	config, ns := benchmarkServer(b, 1000, false)
	a, _ := sharedServer(b)
	k := following(b, Config{REST: config, Namespace: ns})
	var m sourcetest.Mirror
	m.Until(b, k, "synced", m.Synchronized)
	slices := a.resource("discovery.k8s.io/v1", "EndpointSlice", ns)
	n := 0
	var waited time.Duration
	for b.Loop() {
		n++
		before := m.Came[cluster.Key{Kind: cluster.EndpointSlice, Namespace: ns, Name: "app-1"}]
		patch := fmt.Appendf(nil, `[{"op":"replace","path":"/endpoints/0/addresses/0","value":"10.9.%d.%d"}]`, n/250%250, n%250+1)
		_, err := slices.Patch(context.Background(), "app-1", "application/json-patch+json", patch, metav1.PatchOptions{})
		must(b, err)
		answered := time.Now()
		m.Until(b, k, "moved", func() bool {
			return m.Came[cluster.Key{Kind: cluster.EndpointSlice, Namespace: ns, Name: "app-1"}] == before+1
		})
		waited += time.Since(answered)
	}
	b.ReportMetric(float64(waited.Nanoseconds())/float64(n), "ns/op")
}
