package fleet_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// run is a server with its fleet.
type run struct {
	*plant
	server *server
	fleet  *fleet
	status func() (*tsujiv1.GetStatusResponse, error) // nil: it is not the control plane
	empty  report                                     // before any router came
	at     map[uint64]time.Time                       // when the change was made that led to a revision
	last   uint64                                     // revision

	figures
}

// begin starts a server, and routers that have nothing, and waits until all have everything.
func (w *plant) begin(kind string) *run {
	w.t.Helper()
	r := &run{plant: w, server: w.start(kind, 0), at: map[uint64]time.Time{}, last: 1}
	w.listening(r.server)
	if kind == kindTsuji {
		r.status = w.status(r.server)
	}
	r.kind, r.routers = kind, len(w.clients)
	r.empty = r.server.do(order{Collect: true})
	r.fleet = w.launch(kind, r.server.config.Listen)
	r.fleet.everyone, r.fleet.settling = true, true
	begin := time.Now()
	before := r.server.do(order{}).CPU
	r.await(1)
	r.firstSync = span{time.Since(begin), r.server.do(order{}).CPU - before}
	return r
}

// await waits until all that count have a revision.
func (r *run) await(revision uint64) {
	r.t.Helper()
	select {
	case <-r.fleet.reach(revision):
	case <-time.After(patience):
		r.fleet.mu.Lock()
		defer r.fleet.mu.Unlock()
		var behind []string
		for _, x := range r.fleet.routers {
			if r.fleet.waitedFor(x) && x.revision < revision {
				behind = append(behind, fmt.Sprintf("%s at %d", x.id.Name, x.revision))
			}
		}
		r.t.Fatalf("not at revision %d: %.1000s; streams ended: %v", revision, behind, r.fleet.ended)
	}
}

func (r *run) change() uint64 {
	r.t.Helper()
	a := r.server.do(order{Change: 1})
	r.at[a.Revision], r.last = time.Unix(0, a.At), a.Revision
	return a.Revision
}

// behave says whether all routers are in order from now on, and all are waited for; or some are not, and those only
// who are.
func (r *run) behave(all bool) {
	r.fleet.mu.Lock()
	defer r.fleet.mu.Unlock()
	r.fleet.everyone, r.fleet.settling = all, all
	r.fleet.bytes = 0
}

// oneByOne makes changes, each when the one before is in force.
func (r *run) oneByOne(changes int) {
	r.t.Helper()
	r.behave(true)
	before := r.server.do(order{}).CPU
	first := r.last + 1
	for range changes {
		r.await(r.change())
	}
	r.single = r.measure(first, r.server.do(order{}).CPU-before)
}

// steady makes changes at a rate for a time, while some routers misbehave or none does, and then one that all must have.
func (r *run) steady(rate int, duration time.Duration, misbehaving bool) series {
	r.t.Helper()
	r.behave(!misbehaving)
	before := r.server.do(order{}).CPU
	first := r.last + 1
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for begin := time.Now(); time.Since(begin) < duration; <-tick.C {
		r.change()
	}
	r.await(r.change())
	s := r.measure(first, r.server.do(order{}).CPU-before)
	r.behave(true)
	r.await(r.change())
	return s
}

// measure looks at the changes from a revision on, as ordinary routers had them.
func (r *run) measure(first uint64, cpu time.Duration) series {
	f := r.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	s := series{changes: int(r.last - first + 1), cpu: cpu, bytes: f.bytes}
	received, acked := map[uint64]time.Duration{}, map[uint64]time.Duration{}
	for _, x := range f.routers {
		if x.manner != ordinary {
			continue
		}
		next := 0
		for revision := first; revision <= r.last; revision++ {
			for next < len(x.gotten) && x.gotten[next].revision < revision {
				next++
			}
			if next == len(x.gotten) {
				break
			}
			g := x.gotten[next]
			received[revision] = max(received[revision], g.received.Sub(r.at[revision]))
			acked[revision] = max(acked[revision], g.acked.Sub(r.at[revision]))
		}
	}
	for revision := range received {
		s.written = append(s.written, received[revision])
		s.acked = append(s.acked, acked[revision])
	}
	slices.Sort(s.written)
	slices.Sort(s.acked)
	return s
}

// leave ends all streams, and waits until nothing is left of them in the server: what it holds for each is what it
// holds less then.
func (r *run) leave() {
	r.t.Helper()
	full := r.server.do(order{Collect: true})
	r.fleet.stop()
	eventually(r.t, "nothing is left of the streams", func() error {
		const others = 8 // gRPC's of the connection that asks for the status, and Go's own
		if n := r.server.do(order{}).Goroutines; n > r.empty.Goroutines+others {
			return fmt.Errorf("%d goroutines, %d before any router came", n, r.empty.Goroutines)
		}
		return nil
	})
	r.resident = full.Resident
	r.heapPerStream = (int(full.Heap) - int(r.server.do(order{Collect: true}).Heap)) / r.routers
}

// current waits until the control plane says that all routers are connected and have what they should.
func (r *run) current() {
	r.t.Helper()
	eventually(r.t, "all routers are at the head", func() error {
		a, err := r.status()
		if err == nil && (int(a.GetRoutersConnected()) != r.routers || int(a.GetRoutersCurrent()) != r.routers) {
			err = fmt.Errorf("%d of %d routers are connected, %d at the head", a.GetRoutersConnected(), r.routers, a.GetRoutersCurrent())
		}
		return err
	})
}

// reconnect has all routers connect at once, with what they have.
func (r *run) reconnect() {
	r.t.Helper()
	f := r.fleet
	responses, resources, begin, before := f.responses, f.resources, time.Now(), r.server.do(order{}).CPU // nobody runs
	if r.kind == kindLinear {
		f.known = r.namesOfAll()
	}
	f.start()
	if r.kind == kindTsuji {
		r.current()
	} else {
		eventually(r.t, "all are answered", func() error {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.responses < responses+r.routers {
				return errors.New("not yet")
			}
			return nil
		})
	}
	r.storm = span{time.Since(begin), r.server.do(order{}).CPU - before}
	f.mu.Lock()
	r.resent = f.resources - resources
	f.mu.Unlock()
	r.await(r.change())
}

// namesOfAll is what a client of LinearCache says that it has: each resource, with its version.
func (r *run) namesOfAll() []byte {
	r.t.Helper()
	b, err := proto.Marshal(&discovery.DeltaDiscoveryRequest{InitialResourceVersions: r.fleet.routers[0].versions})
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

// move starts another replica, which has seen the same, and ends the first: all its routers go there.
func (r *run) move() {
	r.t.Helper()
	next := r.start(kindTsuji, int(r.last)-1)
	r.listening(next)
	status := r.plant.status(next)
	before := next.do(order{}).CPU
	r.fleet.mu.Lock()
	resources := r.fleet.resources
	r.fleet.address = next.config.Listen
	r.fleet.mu.Unlock()
	begin := time.Now()
	r.server.stop()
	r.server, r.status = next, status
	r.current()
	r.moved = span{time.Since(begin), next.do(order{}).CPU - before}
	r.fleet.mu.Lock()
	r.movedResent = r.fleet.resources - resources
	r.fleet.mu.Unlock()
	r.await(r.change())
}

// healthy fails if a router was sent what may not be.
func (r *run) healthy(t testing.TB) {
	t.Helper()
	r.fleet.mu.Lock()
	defer r.fleet.mu.Unlock()
	for _, err := range r.fleet.faults {
		t.Error(err)
	}
	var why []string
	for text, n := range r.fleet.ended {
		why = append(why, fmt.Sprintf("%d %s", n, text))
	}
	slices.Sort(why)
	t.Logf("%s: streams ended: %.2000s", r.kind, strings.Join(why, "; "))
}
