package apply_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// BenchmarkPiece is a version of so many changed resources of one kind among 10,000 routes, until the ack: what a change that
// is cut into pieces of that size holds up others for. It is made by commands whatever that takes.
func BenchmarkPiece(b *testing.B) {
	t := newTrack(b, 10_000, options{})
	count := 0
	for _, n := range []int{100, 300} {
		names := make([]string, n)
		for i := range names {
			names[i] = fmt.Sprint("r", i)
		}
		of := func(f func(i int, name string) []*tsujiv1.Resource) []*tsujiv1.Resource {
			var put []*tsujiv1.Resource
			for i, name := range names {
				put = append(put, f(i, name)...)
			}
			return put
		}
		without := func(resources []*tsujiv1.Resource) (removed []string) {
			for _, r := range resources {
				removed = append(removed, r.GetName())
			}
			return removed
		}
		changed := func(f func(*tsujiv1.Route)) []*tsujiv1.Resource {
			return of(func(_ int, name string) []*tsujiv1.Resource {
				r := route(name)
				f(r.GetRoute())
				return []*tsujiv1.Resource{r}
			})
		}
		fresh := func() []*tsujiv1.Resource {
			count++
			return of(func(_ int, name string) []*tsujiv1.Resource {
				name = fmt.Sprintf("new%d-%s", count, name)
				return []*tsujiv1.Resource{route(name), endpoints(name, t.ends...)}
			})
		}
		cert, _ := certificate("c", false)
		certified := func() []*tsujiv1.Resource {
			count++
			return of(func(_ int, name string) []*tsujiv1.Resource {
				name = fmt.Sprintf("new%d-%s", count, name)
				own := proto.CloneOf(cert)
				own.Name = tsujiv1.CertificateName("ns", tsujiv1.FromRoute, name)
				return []*tsujiv1.Resource{edge(name), endpoints(name, t.ends...), own}
			})
		}
		back := changed(func(*tsujiv1.Route) {})
		moved := func(round int) []*tsujiv1.Resource {
			return of(func(i int, name string) []*tsujiv1.Resource {
				e := proto.CloneOf(t.ends[0])
				e.Address, e.TargetName = netip.AddrFrom4([4]byte{127, 0, byte(round % 200), byte(1 + i%200)}).String(), fmt.Sprint("pod-", round)
				return []*tsujiv1.Resource{endpoints(name, e, t.ends[1])}
			})
		}
		for _, kind := range []struct {
			name string
			run  func(round int) times
		}{
			{"new routes", func(int) times {
				put := fresh()
				took := t.change(nil, put)
				t.change(nil, nil, without(put)...)
				return took
			}},
			{"routes gone", func(int) times {
				put := fresh()
				t.change(nil, put)
				return t.change(nil, nil, without(put)...)
			}},
			{"new routes with certificates", func(int) times {
				put := certified()
				took := t.change(nil, put)
				t.change(nil, nil, without(put)...)
				return took
			}},
			{"options changed", func(round int) times {
				put := changed(func(r *tsujiv1.Route) {
					r.Timeouts = &tsujiv1.RouteTimeouts{Server: durationpb.New(time.Duration(10+round) * time.Second)}
				})
				if round == 0 {
					t.change(nil, changed(func(r *tsujiv1.Route) { r.Timeouts = &tsujiv1.RouteTimeouts{Server: durationpb.New(time.Second)} }))
				}
				return t.change(nil, put)
			}},
			{"profiles changed", func(int) times {
				t.change(nil, back)
				return t.change(nil, changed(func(r *tsujiv1.Route) { r.Balance = tsujiv1.Balance_BALANCE_LEAST_CONNECTIONS }))
			}},
			{"endpoints moved", func(round int) times { return t.change(nil, moved(count*1000+round)) }},
		} {
			b.Run(fmt.Sprintf("%s/n=%d", kind.name, n), func(b *testing.B) {
				outer := t.b
				t.b = b
				defer func() { t.b = outer }()
				var acks []time.Duration
				reloads := t.reloads()
				for b.Loop() {
					eventually(b, "what has left is deleted", func() bool { return t.leaving("servers")+t.leaving("backends")+t.leaving("certificates") == 0 })
					t.ReloadCosts(time.Hour)
					acks = append(acks, kind.run(len(acks)).ack)
				}
				slices.Sort(acks)
				b.ReportMetric(float64(acks[len(acks)/2].Microseconds())/1000, "ack-p50-ms")
				b.ReportMetric(float64(acks[len(acks)/2].Microseconds())/float64(n), "µs/resource")
				b.ReportMetric(t.reloads()-reloads, "reloads")
				b.ReportMetric(0, "ns/op") // what is not measured is in it
			})
			t.change(nil, append(back, of(func(_ int, name string) []*tsujiv1.Resource { return []*tsujiv1.Resource{endpoints(name, t.ends...)} })...))
		}
	}
}

// BenchmarkUnit is a change that the control plane cannot cut, or not further, among 10,000 routes, until the ack: an
// endpoint that moves behind the Service of many routes, by commands and as the router chooses; a route to many
// endpoints; and a step in which some endpoints of many come.
func BenchmarkUnit(b *testing.B) {
	t := newTrack(b, 10_000, options{})
	pods := func(from, n int) []*tsujiv1.Endpoint {
		var all []*tsujiv1.Endpoint
		for i := from; i < from+n; i++ {
			e := proto.CloneOf(t.ends[0])
			e.Address, e.TargetName = netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}).String(), fmt.Sprint("pod-", i)
			all = append(all, e)
		}
		return all
	}
	measure := func(name string, commands bool, prepare func(), run func() times) {
		b.Run(name, func(b *testing.B) {
			outer := t.b
			t.b = b
			defer func() { t.b = outer }()
			var acks []time.Duration
			reloads := 0.0
			for b.Loop() {
				t.ReloadCosts(time.Hour)
				if prepare != nil {
					prepare()
					eventually(b, "what has left is deleted", func() bool { return t.leaving("servers")+t.leaving("backends") == 0 })
				}
				if !commands {
					t.ReloadCosts(700 * time.Millisecond) // as measured with so many routes
				}
				before := t.reloads()
				acks = append(acks, run().ack)
				reloads += t.reloads() - before
			}
			slices.Sort(acks)
			b.ReportMetric(float64(acks[len(acks)/2].Microseconds())/1000, "ack-p50-ms")
			b.ReportMetric(reloads/float64(len(acks)), "reloads/op")
			b.ReportMetric(0, "ns/op") // what is not measured is in it
		})
	}
	for _, n := range []int{1_000, 5_000} {
		name := fmt.Sprint("large", n)
		drop := func() { t.change(nil, nil, tsujiv1.RouteName("ns", name)) }
		measure(fmt.Sprintf("a route to endpoints/n=%d", n), true, drop, func() times {
			t.change(nil, []*tsujiv1.Resource{endpoints(name, pods(0, n)...)})
			return t.change(nil, []*tsujiv1.Resource{route(name)})
		})
		step := max(256, n/8)
		measure(fmt.Sprintf("a step of endpoints/n=%d", n), true, func() {
			t.change(nil, []*tsujiv1.Resource{route(name), endpoints(name, pods(0, n-step)...)})
		}, func() times { return t.change(nil, []*tsujiv1.Resource{endpoints(name, pods(0, n)...)}) })
		t.change(nil, nil, tsujiv1.RouteName("ns", name), tsujiv1.EndpointsName("ns", name, "http"))
	}
	shared := 0
	for _, n := range []int{1_000, 10_000} {
		var put []*tsujiv1.Resource
		for i := range n {
			r := route(fmt.Sprint("r", i))
			r.GetRoute().Backends[0].Endpoints = tsujiv1.EndpointsName("ns", "shared", "http")
			put = append(put, r)
		}
		t.change(nil, append(put, endpoints("shared", pods(shared, 2)...)))
		for _, commands := range []bool{true, false} {
			// What leaves is deleted beside what follows: that takes longer.
			measure(fmt.Sprintf("an endpoint of many routes/n=%d/commands=%t", n, commands), commands, nil, func() times {
				shared++
				return t.change(nil, []*tsujiv1.Resource{endpoints("shared", pods(shared, 2)...)})
			})
		}
	}
}
