package compile_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// fewer is what a Route is told of whose namespace has too many servers.
const fewer = "endpoints, and those of this namespace are more than 1000 for all its Routes: the others get no requests"

// equalsFromNothing compares what was compiled and told with what the same objects compile to, and what is told of
// them, at once.
func (w *world) equalsFromNothing(t *testing.T, what string) {
	t.Helper()
	fresh := newWorld()
	fresh.compiler.LimitServers(1000)
	for _, o := range slices.Collect(maps.Values(w.objects)) {
		fresh.apply(put(o))
	}
	if fresh.last.Facts.Digest() != w.last.Facts.Digest() || fresh.last.Config.Digest() != w.last.Config.Digest() {
		t.Fatalf("%s: what is compiled depends on what was before", what)
	}
	for k, v := range fresh.verdicts {
		if !proto.Equal(v, w.verdicts[k]) {
			t.Fatalf("%s: %v, and from nothing %v", what, w.verdicts[k], v)
		}
	}
}

// toldOf returns the Routes that are told of fewer endpoints, by name.
func (w *world) toldOf() []string {
	var names []string
	for k, v := range w.verdicts {
		if strings.Contains(strings.Join(v.GetWarnings(), "\n"), fewer) {
			names = append(names, k.Name)
		}
	}
	slices.Sort(names)
	return names
}

// All Routes of a namespace are so many servers at most: beyond that endpoints of the largest Services do not travel,
// and their Routes are told. The others, and other namespaces, have all of theirs.
func TestServersOfANamespace(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.compiler.LimitServers(1000)
	other := sliceOf("many", 0, 900, 1, 1, 10)
	other.Namespace = "ns2"
	elsewhere := routeTo("elsewhere", "many")
	elsewhere.Namespace = "ns2"
	w.apply(put(sliceOf("many", 0, 400, 1, 1, 10)), put(sliceOf("some", 1, 200, 1, 1, 10)),
		put(sliceOf("few", 2, 30, 1, 1, 10)),
		put(routeTo("many", "many")), put(routeTo("some", "some")), put(routeTo("few", "few")), put(other), put(elsewhere))
	expect := func(what string, many, some int, told ...string) {
		t.Helper()
		have := []int{len(w.endpoints(t, "many")), len(w.endpoints(t, "some")), len(w.endpoints(t, "few"))}
		if !slices.Equal(have, []int{many, some, 30}) || !slices.Equal(w.toldOf(), told) {
			t.Errorf("%s: %v endpoints, and %q are told; want %d, %d and 30, and %q", what, have, w.toldOf(), many, some, told)
		}
		w.equalsFromNothing(t, what)
	}
	expect("630 servers", 400, 200)
	w.apply(put(routeTo("many-2", "many")))
	expect("1,030", 312, 200, "many", "many-2")
	w.apply(put(routeTo("many-3", "many")), put(routeTo("some-2", "some")))
	expect("1,630", 156, 156, "many", "many-2", "many-3", "some", "some-2")
	w.apply(gone(routeTo("many-3", "many")))
	expect("1,230", 156, 156, "many", "many-2", "some", "some-2")
	w.apply(put(sliceOf("many", 0, 100, 1, 1, 10)))
	expect("630 again", 100, 200)
	for i := range 100 {
		w.apply(put(routeTo(fmt.Sprint("r", i), "some")))
	}
	if n := len(w.endpoints(t, "some")); n != 20 { // so many travel in any case
		t.Errorf("%d endpoints", n)
	}
	w.equalsFromNothing(t, "far too many")
}

// Whatever comes and goes, what travels is what the same objects compile to at once, and no more servers than there may
// be.
func TestServersIncrementally(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.compiler.LimitServers(1000)
	r := rand.New(rand.NewPCG(1, 2)) // the same on every run
	services := []string{"a", "b", "c", "d", "e"}
	limited := 0
	for step := range 200 {
		service := services[r.IntN(len(services))]
		switch route := routeTo(fmt.Sprint("r", r.IntN(12)), service); r.IntN(4) {
		case 0:
			w.apply(put(sliceOf(service, 0, []int{0, 10, 30, 100, 300}[r.IntN(5)], 1, 1, 10)))
		case 1:
			w.apply(gone(route))
		default:
			w.apply(put(route), put(routeTo(fmt.Sprint("r", r.IntN(12)), services[r.IntN(len(services))])))
		}
		w.equalsFromNothing(t, fmt.Sprint("step ", step))
		servers := 0
		for item := range w.last.Config.All() {
			res, err := tsujiv1.Decode(item)
			if err != nil {
				t.Fatal(err)
			}
			for range res.GetRoute().GetBackends() {
				servers += len(w.endpoints(t, res.GetRoute().GetBackends()[0].GetService()))
			}
		}
		if servers > 1000 {
			t.Fatalf("step %d: %d servers", step, servers)
		}
		if len(w.toldOf()) > 0 {
			limited++
		}
	}
	if limited < 20 || limited > 180 {
		t.Errorf("%d of 200 steps were beyond the bound", limited)
	}
}

// What is judged twice in one Apply is put once: the last judgement counts.
func TestJudgedTwiceIsPutOnce(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.apply(put(sliceOf("some", 0, 3, 1, 1, 10)), put(routeTo("a", "some")))
	if got, want := w.compiler.JudgeTwice("ns1", "a"), []string{"route/ns1/a"}; !slices.Equal(got, want) {
		t.Errorf("%q are put or removed, want %q", got, want)
	}
}
