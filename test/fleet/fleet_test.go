package fleet_test

import (
	"testing"
	"time"
)

// A small fleet, some of whose routers are slow, refuse versions and connect anew all the time, is at the head after each
// series of changes, with what the digests say; the server does not grow by a series; nothing is left of streams that
// have ended; and who connects again, to the same replica or to another, is sent nothing that it has.
func TestFleet(t *testing.T) {
	w := newPlant(t, 100, 300, *seedFlag)
	r := w.begin(kindTsuji)
	r.oneByOne(5)
	r.odd = r.steady(50, 3*time.Second, true)
	r.current()
	first := r.server.do(order{Collect: true})
	r.steadily = r.steady(50, 3*time.Second, false)
	r.current()
	second := r.server.do(order{Collect: true})
	t.Logf("heap after a series of changes: %d KiB, after two: %d KiB", first.Heap>>10, second.Heap>>10)
	if second.Heap > first.Heap+first.Heap/10+2<<20 {
		t.Errorf("the heap has %d bytes after a second series of changes, %d after the first", second.Heap, first.Heap)
	}
	r.leave()
	r.reconnect()
	if r.resent != 0 {
		t.Errorf("%d resources were sent to routers that connected again with what they should have", r.resent)
	}
	r.move()
	if r.movedResent != 0 {
		t.Errorf("%d resources were sent to routers that went to another replica with what they should have", r.movedResent)
	}
	r.healthy(t)
	t.Logf("\n%s", table(r.figures))
}

// TestFleetAtScale measures the same with as many routers, Routes and changes as its flags say: `make bench-fleet`.
func TestFleetAtScale(t *testing.T) {
	if *routersFlag == 0 {
		t.Skip("run by `make bench-fleet`")
	}
	w := newPlant(t, *routersFlag, *routesFlag, *seedFlag)

	bare := w.begin(kindBare)
	bare.leave()
	bare.server.stop()

	r := w.begin(kindTsuji)
	if *profileFlag != "" {
		r.server.do(order{Profile: *profileFlag})
	}
	r.oneByOne(*changesFlag)
	r.server.do(order{StopProfile: *profileFlag != ""})
	half := *durationFlag / 2
	r.steadily = r.steady(*rateFlag, half, false)
	first := r.server.do(order{Collect: true})
	r.odd = r.steady(*rateFlag, half, true)
	r.current()
	second := r.server.do(order{Collect: true})
	r.leave()
	r.reconnect()
	r.move()
	r.healthy(t)
	r.fleet.stop()
	r.server.stop()
	t.Logf("heap after half of the changes and after all: %d MiB, %d MiB", first.Heap>>20, second.Heap>>20)

	all := []figures{r.figures}
	if *opponentFlag {
		o := w.begin(kindLinear)
		o.oneByOne(*changesFlag)
		o.leave()
		o.reconnect()
		o.healthy(t)
		all = append(all, o.figures)
	}
	t.Logf("%d routers, %d Routes, seed %d\n%s", *routersFlag, *routesFlag, *seedFlag, table(append(all, bare.figures)...))
	if r.resent+r.movedResent > 0 {
		t.Errorf("%d and %d resources were sent to routers that had them", r.resent, r.movedResent)
	}
}
