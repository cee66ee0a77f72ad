package xds_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	"github.com/tsuji-dev/tsuji/controlplane/xds"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

const benchResources = 10_000

// large makes a snapshot of as many routes of 300 bytes.
func large(n int) snapshot.Snapshot {
	var d snapshot.Delta
	for i := range n {
		d.Put = append(d.Put, route(i, 0))
	}
	return snapshot.Snapshot{}.Apply(1, d)
}

func route(i, content int) snapshot.Item {
	return snapshot.NewItem(fmt.Sprintf("route/bench/%d", i), fmt.Appendf(nil, "%0300d", content))
}

// cpu returns what the process has used, both ends of every stream.
func cpu() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// follow has a router ack whatever it is sent, and say so once per version.
func (c *router) follow(version string, acked *sync.WaitGroup) (stop func()) {
	c.connect(version)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			r, err := c.stream.Recv()
			if err != nil {
				return
			}
			if c.stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: tsujiv1.TypeURL, ResponseNonce: r.GetNonce()}) != nil {
				return
			}
			if hasCommit(r) {
				acked.Done()
			}
		}
	}()
	return func() { _ = c.stream.CloseSend(); <-done }
}

// One changed resource of 10,000 goes to 1 and to 100 routers, over mutual TLS; an operation ends when all
// have acked. CPU is that of both ends; the heap is that of the server's end alone, without gRPC's.
func BenchmarkOneChange(b *testing.B) {
	for _, streams := range []int{1, 100} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			s := large(benchResources)
			perStream := sessionHeap(s)
			r := newReplica(b)
			r.board.Publish("default", release.Target{Snapshot: s}, time.Now())
			var acked sync.WaitGroup
			for i := range streams {
				b.Cleanup(r.router("tok04", fmt.Sprintf("r%d", i)).follow(s.Version().String(), &acked))
			}
			eventually(b, "all are connected", func() bool { return int(r.count("acks_total")) == streams })
			before := cpu()
			for i := 0; b.Loop(); i++ {
				acked.Add(streams)
				s = s.Apply(uint64(i+2), snapshot.Delta{Put: []snapshot.Item{route(i%benchResources, i+1)}})
				r.board.Publish("default", release.Target{Snapshot: s}, time.Now())
				acked.Wait()
			}
			used := cpu() - before
			b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-µs/op")
			b.ReportMetric(float64(used.Microseconds())/float64(b.N*streams), "cpu-µs/stream")
			b.ReportMetric(perStream, "heap-B/stream")
		})
	}
}

// sessionHeap measures the heap and stacks of a stream that has acked, at the server's end and without gRPC's;
// the test's own end, a goroutine and two channels, is in it.
func sessionHeap(s snapshot.Snapshot) float64 {
	const streams = 500
	board, routers := release.NewBoard(1), fleet.New(fleet.Config{})
	board.Publish("default", release.Target{Snapshot: s}, time.Now())
	server := xds.New(believing(board, routers))
	before := heap()
	pipes := make([]*pipe, streams)
	for i := range pipes {
		pipes[i], _ = dial(server)
		pipes[i].in <- &discovery.DeltaDiscoveryRequest{Node: nodeOf(routerID("tok04", fmt.Sprintf("r%d", i))), TypeUrl: tsujiv1.TypeURL,
			InitialResourceVersions: map[string]string{"commit": s.Version().String()}}
		pipes[i].in <- &discovery.DeltaDiscoveryRequest{TypeUrl: tsujiv1.TypeURL} // taken only when the first was done with
	}
	used := heap() - before
	server.Drain()
	runtime.KeepAlive(pipes)
	return float64(used) / streams
}

// A router that has nothing gets 10,000 resources: those of a version that others have got before (the
// encoded parts are at hand), and those of a new version.
func BenchmarkFirstSync(b *testing.B) {
	for _, fresh := range []bool{false, true} {
		b.Run(fmt.Sprintf("encoded=%t", !fresh), func(b *testing.B) {
			r := newReplica(b)
			s := large(benchResources)
			r.board.Publish("default", release.Target{Snapshot: s}, time.Now())
			c := r.router("tok04", "r1")
			c.connect("")
			for !hasCommit(c.receive()) {
				c.ack()
			}
			before, size := cpu(), 0
			for i := 0; b.Loop(); i++ {
				if fresh {
					s = s.Apply(uint64(i+2), snapshot.Delta{Put: []snapshot.Item{route(i, i+1)}})
					r.board.Publish("default", release.Target{Snapshot: s}, time.Now())
				}
				c.story = strings.Builder{}
				c.connect("")
				for size = 0; ; {
					got, err := c.stream.Recv()
					if err != nil {
						b.Fatal(err)
					}
					c.last = got
					size += len(got.GetResources())
					c.ack()
					if hasCommit(got) {
						break
					}
				}
				c.end()
			}
			b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N)/1000, "cpu-ms/op")
			b.ReportMetric(float64(size), "resources")
		})
	}
}
