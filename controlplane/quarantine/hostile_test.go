package quarantine_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tsuji-dev/tsuji/controlplane/quarantine"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// Where what was good is refused as well there is nothing good. What was refused first is not offered again for it.
func TestGoodContentThatIsRefusedToo(t *testing.T) {
	w := newWorld(t)
	m := w.reg.Connect("default", "r1", "3.4 v1")
	good := of("route/a/r=good")
	bad := of("route/a/r=bad")
	w.refused(m, bad, good, "route/a/r")
	w.holding("route/a/r good=good any=false")
	w.refused(m, good, snapshot.Snapshot{}, "route/a/r")
	w.holding("route/a/r good=nothing any=false")
	i, _ := bad.Get("route/a/r")
	if got := w.holds().Resources["route/a/r"].Refused; got != i.Digest() {
		t.Error("what was refused first is not held any more")
	}
}

// A router that refuses late what another refused before says nothing new: what came in its place does not wait for it.
// A router that says it again does.
func TestALateRefusalIsTheSameOne(t *testing.T) {
	w := newWorld(t)
	r1, r2 := w.reg.Connect("default", "r1", "3.4 v1"), w.reg.Connect("default", "r2", "3.4 v1")
	base, bad := of("route/a/r=old"), of("route/a/r=bad")
	w.refused(r1, bad, base, "route/a/r")
	w.reg.Ended("default", w.holds(), []string{"route/a/r"}) // it was mended
	w.refused(r2, bad, base, "route/a/r")
	w.holding("route/a/r good=old any=false")
	w.reg.Ended("default", w.holds(), []string{"route/a/r"})
	w.refused(r2, bad, base, "route/a/r")
	w.holding("route/a/r good=old any=true")
}

// Nothing is known to be good of a namespace before a router acked something: it is not held, which would leave all of it out.
func TestANamespaceIsNotHeldAtNothing(t *testing.T) {
	w := newWorld(t)
	m := w.reg.Connect("default", "r1", "3.4 v1")
	n := 0
	flood := func(times int) {
		for range times {
			name := fmt.Sprintf("route/a/%d", n)
			n++
			w.refused(m, of(name+"=x"), snapshot.Snapshot{}, name)
		}
	}
	flood(quarantine.MostRefusals + 10)
	if h := w.holds().Namespaces; len(h) > 0 {
		t.Errorf("held at nothing: %v", h)
	}
	m.Acked(of("route/a/r=old"))
	flood(1)
	if h := w.holds().Namespaces; len(h) != 1 {
		t.Errorf("held are %v", h)
	}
}

// A namespace that is held by what one router refused, and others of its kind serve, is held no longer; and its objects
// do not wait.
func TestANamespaceIsNotHeldByOneRouter(t *testing.T) {
	w := newWorld(t)
	broken, sound := w.reg.Connect("default", "broken", "3.4 v1"), w.reg.Connect("default", "sound", "3.4 v1")
	base := of("route/a/r=old")
	broken.Acked(base)
	sound.Acked(base)
	var names, resources []string
	for n := range quarantine.MostRefusals + 1 {
		names = append(names, fmt.Sprintf("route/a/%d", n))
		resources = append(resources, names[n]+"=x")
	}
	target := of(resources...)
	w.refused(broken, target, base, names...)
	if h := w.holds().Namespaces; len(h) != 1 {
		t.Fatalf("held are %v", h)
	}
	sound.Acked(target)
	w.holding("")
	other := of("route/a/0=y")
	w.refused(sound, other, base, "route/a/0")
	w.holding("route/a/0 good=x any=false")
}

// One router cannot take from others what they served before it came, whatever it says that it is, or when the same may be
// offered again. A second one that agrees can.
func TestWhatWasServedBeforeARouterCame(t *testing.T) {
	for name, retry := range map[string]*durationpb.Duration{"content": nil, "rate": durationpb.New(time.Hour)} {
		w := newWorld(t)
		served := of("route/a/r=x", "settings=x")
		w.reg.Connect("default", "sound", "3.4 v1").Acked(served)
		refuse := func(as string) int {
			return len(w.reg.Connect("default", as, "9.9 stolen").Refused(&tsujiv1.Refusal{Class: content, Resources: []*tsujiv1.RefusedResource{
				{Resource: "route/a/r", RetryAfter: retry}, {Resource: "settings", RetryAfter: retry},
			}}, served, snapshot.Snapshot{}, w.now))
		}
		if n := refuse("stolen"); n != 2 {
			t.Errorf("%s: differs in %d", name, n)
		}
		w.holding("")
		refuse("stolen")
		w.holding("")
	}
}

// An object does not wait any less because it goes back to what was good, or is deleted, in between.
func TestNoWayAroundTheWait(t *testing.T) {
	w := newWorld(t)
	m := w.reg.Connect("default", "r1", "3.4 v1")
	base := of("route/a/r=old")
	for n := range 4 {
		w.refused(m, of(fmt.Sprintf("route/a/r=%d", n)), base, "route/a/r")
		w.reg.Ended("default", w.holds(), []string{"route/a/r"})
	}
	w.holding("route/a/r good=old any=true")
	w.now = w.now.Add(time.Minute)
	w.reg.Ended("default", w.holds(), []string{"route/a/r"})
	w.holding("")
}

// A namespace that is in one refusal after the other, with something else each time, has all its changes wait for a
// moment from the third on: others' changes are in a version without any of it. To pause is no way around being held.
func TestANamespaceThatIsRefusedAgainAndAgainPauses(t *testing.T) {
	w := newWorld(t)
	m := w.reg.Connect("default", "r1", "3.4 v1")
	base := of("route/a/r=old")
	m.Acked(base)
	var got []time.Duration
	for n := range 8 {
		name := fmt.Sprintf("route/a/%d", n)
		w.refused(m, of(name+"=x"), base, name)
		h, next := w.reg.Holds("default", w.now)
		if len(h.Namespaces) == 0 {
			got = append(got, 0)
			continue
		}
		if hold := h.Namespaces["a"]; hold.Endpoints || !hold.Any {
			t.Errorf("held is %v", hold)
		}
		got = append(got, next.Sub(w.now))
		w.now = next
	}
	if want := "[0s 0s 1s 2s 4s 8s 8s 8s]"; fmt.Sprint(got) != want {
		t.Errorf("pauses are %v, want %s", got, want)
	}
	var names, resources []string
	for n := range quarantine.MostRefusals {
		names = append(names, fmt.Sprintf("route/a/more%d", n))
		resources = append(resources, names[n]+"=x")
	}
	w.refused(m, of("route/a/last=x"), base, "route/a/last")
	w.refused(m, of(resources...), base, names...)
	if _, next := w.reg.Holds("default", w.now); next.Sub(w.now) != time.Minute {
		t.Errorf("held for %s", next.Sub(w.now))
	}
}

// Who may name itself cannot fill the memory with what it says it has in force, and two routers that say the same are
// heard all the same.
func TestMadeUpContentIsNotKept(t *testing.T) {
	w := newWorld(t)
	bad := of("route/a/r=bad")
	say := func(router, host string) {
		t.Helper()
		item, err := tsujiv1.Encode(&tsujiv1.Resource{Name: "route/a/r", Kind: &tsujiv1.Resource_Route{Route: &tsujiv1.Route{Host: host}}})
		if err != nil {
			t.Fatal(err)
		}
		d := item.Digest()
		refused := &tsujiv1.RefusedResource{Resource: "route/a/r", InForceDigest: d[:], InForce: item.Encoded()}
		w.reg.Connect("default", router, "3.4 v1").Refused(&tsujiv1.Refusal{Class: content, Resources: []*tsujiv1.RefusedResource{refused}},
			bad, snapshot.Snapshot{}, w.now)
	}
	w.reg.Connect("default", "r0", "3.4 v1") // nobody is alone
	const claims, size = 300, 100 << 10
	before := heap()
	for i := range claims {
		say(fmt.Sprint("m", i), strings.Repeat("x", size)+fmt.Sprint(i))
	}
	if held := heap() - before; held > claims*size/10 {
		t.Errorf("%d bytes are held of %d", held, claims*size)
	}
	say("r1", "good.example.com")
	say("r2", "good.example.com")
	if good, ok := w.holds().Resources["route/a/r"].Good.Get("route/a/r"); !ok || !strings.Contains(string(good.Encoded()), "good.example.com") {
		t.Error("what two routers have in force is not known to be good")
	}
}

// heap returns what is held, in bytes.
func heap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
