package quarantine_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/quarantine"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

const content = tsujiv1.RefusalClass_REFUSAL_CLASS_CONTENT

// world is a registry with a clock.
type world struct {
	t   *testing.T
	reg *quarantine.Registry
	now time.Time
}

func newWorld(t *testing.T) *world {
	return &world{t: t, reg: quarantine.New(), now: time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)}
}

// of makes a snapshot of resources given as "name=content".
func of(resources ...string) snapshot.Snapshot {
	var d snapshot.Delta
	for _, r := range resources {
		name, text, _ := strings.Cut(r, "=")
		d.Put = append(d.Put, snapshot.NewItem(name, []byte(text)))
	}
	return snapshot.Snapshot{}.Apply(1, d)
}

func (w *world) refused(m *quarantine.Member, target, base snapshot.Snapshot, names ...string) []string {
	w.t.Helper()
	r := &tsujiv1.Refusal{Class: content}
	for _, name := range names {
		i, ok := target.Get(name)
		if !ok {
			w.t.Fatalf("%s is not in the target", name)
		}
		d := i.Digest()
		r.Resources = append(r.Resources, &tsujiv1.RefusedResource{Resource: name, Digest: d[:], Message: "bad"})
	}
	return m.Refused(r, target, base, w.now)
}

func (w *world) holds() compile.Holds {
	h, _ := w.reg.Holds("default", w.now)
	return h
}

// held lists what is held, with its good content.
func (w *world) held() string {
	var lines []string
	h := w.holds()
	for name, hold := range h.Resources {
		good := "nothing"
		if i, ok := hold.Good.Get(name); ok {
			good = string(i.Encoded())
		}
		lines = append(lines, fmt.Sprintf("%s good=%s any=%t", name, good, hold.Any))
	}
	for namespace := range h.Namespaces {
		lines = append(lines, "all of "+namespace)
	}
	slices.Sort(lines)
	return strings.Join(lines, "; ")
}

func (w *world) holding(want string) {
	w.t.Helper()
	if got := w.held(); got != want {
		w.t.Errorf("held is %q, want %q", got, want)
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// What a router refuses is held at what it has in force, at once, until compiling says that it is other content.
func TestRefusedResourcesAreHeld(t *testing.T) {
	w := newWorld(t)
	m := w.reg.Connect("default", "r1", "3.4 v1")
	base := of("route/a/r=old", "route/b/r=old")
	m.Acked(base)
	changed := w.reg.Changed()
	if differs := w.refused(m, of("route/a/r=new", "route/b/r=new", "route/a/late=new"), base, "route/a/r", "route/a/late"); len(differs) > 0 {
		t.Errorf("differs from others in %v", differs)
	}
	if !closed(changed) {
		t.Error("nobody is told")
	}
	w.holding("route/a/late good=nothing any=false; route/a/r good=old any=false")
	held := w.holds()
	w.reg.Ended("default", held, []string{"route/a/r"})
	w.holding("route/a/late good=nothing any=false")
	// What is refused between the question and the answer stays.
	held = w.holds()
	w.refused(m, of("route/a/late=newer"), base, "route/a/late")
	w.reg.Ended("default", held, []string{"route/a/late"})
	if w.held() == "" {
		t.Error("a refusal got lost")
	}
}

// A router cannot refuse what it was not sent, nor by a trouble of its own.
func TestRefusalsOfOtherContentAreIgnored(t *testing.T) {
	w := newWorld(t)
	m := w.reg.Connect("default", "r1", "3.4 v1")
	target := of("route/a/r=new")
	var other [32]byte
	for _, r := range []*tsujiv1.Refusal{
		{Class: content, Resources: []*tsujiv1.RefusedResource{{Resource: "route/a/other"}}},
		{Class: content, Resources: []*tsujiv1.RefusedResource{{Resource: "route/a/r", Digest: other[:]}}},
		{Class: tsujiv1.RefusalClass_REFUSAL_CLASS_LOCAL, Resources: []*tsujiv1.RefusedResource{{Resource: "route/a/r"}}},
	} {
		m.Refused(r, target, snapshot.Snapshot{}, w.now)
	}
	w.holding("")
}

// A router that alone refuses what another of its kind serves holds nothing; a second one that agrees does. A router of
// another kind may well refuse what these serve.
func TestOneRouterAloneHoldsNothing(t *testing.T) {
	w := newWorld(t)
	r1, r2, r3 := w.reg.Connect("default", "r1", "3.4 v1"), w.reg.Connect("default", "r2", "3.4 v1"), w.reg.Connect("default", "r3", "3.4 v1")
	base, target := of("route/a/r=old"), of("route/a/r=new")
	r1.Acked(target)
	if differs := w.refused(r2, target, base, "route/a/r"); !slices.Equal(differs, []string{"route/a/r"}) {
		t.Errorf("differs in %v", differs)
	}
	w.refused(r2, target, base, "route/a/r") // saying it again does not help
	w.holding("")
	w.refused(r3, target, base, "route/a/r")
	w.holding("route/a/r good=old any=false")

	w = newWorld(t)
	old := w.reg.Connect("default", "old", "2.6 v1")
	w.reg.Connect("default", "new", "3.4 v1").Acked(target)
	w.refused(old, target, base, "route/a/r")
	w.holding("route/a/r good=old any=false")
}

// What was refused first, and is served by another router of the kind then, is held no longer.
func TestAHoldEndsWhenAnotherRouterServes(t *testing.T) {
	w := newWorld(t)
	r1, r2 := w.reg.Connect("default", "r1", "3.4 v1"), w.reg.Connect("default", "r2", "3.4 v1")
	target := of("route/a/r=new")
	w.refused(r1, target, of("route/a/r=old"), "route/a/r")
	w.holding("route/a/r good=old any=false")
	changed := w.reg.Changed()
	if released := r2.Acked(target); !slices.Equal(released, []string{"route/a/r"}) || !closed(changed) {
		t.Errorf("released %v", released)
	}
	w.holding("")
	w.refused(r1, target, of("route/a/r=old"), "route/a/r")
	w.holding("")
}

// A control plane that has just started takes what routers say they have in force: two of them must agree, unless there
// is only one. Facts are never taken from a router.
func TestLastGoodAfterARestart(t *testing.T) {
	encode := func(r *tsujiv1.Resource) snapshot.Item {
		i, err := tsujiv1.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	good := encode(&tsujiv1.Resource{Name: "route/a/r", Kind: &tsujiv1.Resource_Route{
		Route: &tsujiv1.Route{Namespace: "a", Name: "r", Host: "old.example.com"},
	}})
	fact := encode(&tsujiv1.Resource{Name: "cert/a/route:r", Kind: &tsujiv1.Resource_Certificate{
		Certificate: &tsujiv1.Certificate{ChainPem: []byte("old")},
	}})
	target := of("route/a/r=new", "cert/a/route:r=new")
	say := func(w *world, m *quarantine.Member, name string, item snapshot.Item) {
		d := item.Digest()
		m.Refused(&tsujiv1.Refusal{Class: content, Resources: []*tsujiv1.RefusedResource{{Resource: name, InForceDigest: d[:], InForce: item.Encoded()}}},
			target, snapshot.Snapshot{}, w.now)
	}
	has := func(w *world, name string) bool {
		_, ok := w.holds().Resources[name].Good.Get(name)
		return ok
	}
	w := newWorld(t)
	r1, r2 := w.reg.Connect("default", "r1", "3.4 v1"), w.reg.Connect("default", "r2", "3.4 v1")
	say(w, r1, "route/a/r", good)
	say(w, r1, "route/a/r", good)
	if has(w, "route/a/r") {
		t.Error("one of two routers is believed")
	}
	say(w, r2, "route/a/r", good)
	if !has(w, "route/a/r") {
		t.Error("two that agree are not believed")
	}
	w = newWorld(t)
	r1 = w.reg.Connect("default", "r1", "3.4 v1")
	say(w, r1, "route/a/r", good)
	say(w, r1, "cert/a/route:r", fact)
	if !has(w, "route/a/r") {
		t.Error("the only router is not believed")
	}
	if has(w, "cert/a/route:r") {
		t.Error("a fact is taken from a router")
	}
}

// An object that is refused again and again waits, twice as long each time, before other content of it is let through;
// after an hour without a refusal it is as good as new.
func TestWhatIsRefusedOftenWaits(t *testing.T) {
	w := newWorld(t)
	m := w.reg.Connect("default", "r1", "3.4 v1")
	base := of("route/a/r=old")
	refuse := func(n int) time.Duration {
		t.Helper()
		w.refused(m, of(fmt.Sprintf("route/a/r=%d", n)), base, "route/a/r")
		_, next := w.reg.Holds("default", w.now)
		if next.IsZero() {
			w.holding("route/a/r good=old any=false")
			return 0
		}
		w.holding("route/a/r good=old any=true")
		wait := next.Sub(w.now)
		w.now = next
		w.holding("route/a/r good=old any=false")
		w.reg.Ended("default", w.holds(), []string{"route/a/r"})
		return wait
	}
	var got []time.Duration
	for n := range 12 {
		got = append(got, refuse(n))
	}
	if want := "[0s 1s 2s 4s 8s 16s 32s 1m4s 2m8s 4m16s 5m0s 5m0s]"; fmt.Sprint(got) != want {
		t.Errorf("waits %v, want %s", got, want)
	}
	w.now = w.now.Add(time.Hour + time.Second)
	if wait := refuse(99); wait != 0 {
		t.Errorf("after an hour it waits for %s", wait)
	}
}

// The config that a router goes on with while it refuses the next is not what was good last for others.
func TestFactsAloneAreNotWhatIsGood(t *testing.T) {
	w := newWorld(t)
	r1, r2 := w.reg.Connect("default", "r1", "3.4 v1"), w.reg.Connect("default", "r2", "3.4 v1")
	r1.Acked(of("route/a/r=good"))
	r2.AckedFacts(of("route/a/r=old", "endpoints/a/s/*=new"))
	w.refused(w.reg.Connect("default", "r3", "3.4 v1"), of("route/a/r=new"), snapshot.Snapshot{}, "route/a/r")
	w.holding("route/a/r good=good any=false")
}

// A refusal that says when the same content may come again holds it until then.
func TestRefusedForItsRate(t *testing.T) {
	w := newWorld(t)
	m := w.reg.Connect("default", "r1", "3.4 v1")
	base, target := of("route/a/r=old"), of("route/a/r=new")
	w.reg.Connect("default", "r2", "3.4 v1").Acked(target) // its budget is another
	m.Refused(&tsujiv1.Refusal{Class: content, Resources: []*tsujiv1.RefusedResource{{Resource: "route/a/r", RetryAfter: durationpb.New(20 * time.Second)}}}, target, base, w.now)
	w.holding("route/a/r good=old any=true")
	_, next := w.reg.Holds("default", w.now)
	if next.Sub(w.now) != 20*time.Second {
		t.Errorf("held for %s", next.Sub(w.now))
	}
	w.now = next
	w.holding("")
}

// A namespace whose resources are refused too often is held as a whole, for a time that doubles; others are not.
func TestANamespaceIsHeldAsAWhole(t *testing.T) {
	w := newWorld(t)
	m := w.reg.Connect("default", "r1", "3.4 v1")
	base := of("route/a/r=old", "route/b/r=old")
	m.Acked(base)
	n := 0
	flood := func() time.Duration {
		t.Helper()
		var names, resources []string
		for range quarantine.MostRefusals + 1 {
			names = append(names, fmt.Sprintf("route/a/%d", n))
			resources = append(resources, fmt.Sprintf("route/a/%d=x", n))
			n++
		}
		w.refused(m, of(resources...), base, names...)
		h, next := w.reg.Holds("default", w.now)
		hold, ok := h.Namespaces["a"]
		if _, other := h.Namespaces["b"]; !ok || other || !hold.Any || !hold.Good.Version().Equal(base.Version()) {
			t.Fatalf("held namespaces: %v", h.Namespaces)
		}
		wait := next.Sub(w.now)
		w.now = next
		return wait
	}
	var fewer []string
	for i := range quarantine.MostRefusals {
		fewer = append(fewer, fmt.Sprintf("route/b/%d", i))
	}
	w.refused(m, of(strings.Split(strings.Join(fewer, "=x ")+"=x", " ")...), base, fewer...)
	if first, second := flood(), flood(); first != time.Minute || second != 2*time.Minute {
		t.Errorf("held for %s, then %s", first, second)
	}
	if len(w.holds().Namespaces) > 0 {
		t.Error("held after its time")
	}
}

// What an IngressController's routers refused goes with it, and they can refuse again.
func TestDrop(t *testing.T) {
	w := newWorld(t)
	m := w.reg.Connect("default", "r1", "3.4 v1")
	w.refused(m, of("route/a/r=new"), snapshot.Snapshot{}, "route/a/r")
	w.reg.Drop("default")
	w.holding("")
	w.refused(m, of("route/a/r=new"), snapshot.Snapshot{}, "route/a/r")
	w.holding("route/a/r good=nothing any=false")
	m.Disconnected()
	w.holding("route/a/r good=nothing any=false")
}
