package xds

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tsuji-dev/tsuji/controlplane/fair"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

func routes(revision uint64, n int) snapshot.Snapshot {
	var d snapshot.Delta
	for i := range n {
		d.Put = append(d.Put, snapshot.NewItem(fmt.Sprintf("route/a/%d", i), fmt.Appendf(nil, "%d of %d", i, revision)))
	}
	return snapshot.Snapshot{}.Apply(revision, d)
}

// However many streams need a difference at once, it is encoded once, and they share it.
func TestADifferenceIsEncodedOnce(t *testing.T) {
	t.Parallel()
	f := newFrames(1<<20, 1<<20, 1<<20)
	one, two := routes(1, 1000), routes(2, 1000)
	var all [50][]part
	var done sync.WaitGroup
	for i := range all {
		done.Go(func() { all[i] = f.between(false, one, two).parts })
	}
	done.Wait()
	for _, parts := range all {
		if len(parts) != 2 || &parts[0].encoded[0] != &all[0][0].encoded[0] {
			t.Fatal("a stream has a copy of its own")
		}
	}
	if p := all[0][0]; p.resources != 1000 || p.removed != 0 || len(p.encoded) != cap(p.encoded) {
		t.Errorf("%d resources, %d removed, %d of %d bytes", p.resources, p.removed, len(p.encoded), cap(p.encoded))
	}
}

// What is kept is bounded; the last difference is kept however large it is; everything, and the difference
// from an empty version, are not the same.
func TestWhatIsKeptIsBounded(t *testing.T) {
	t.Parallel()
	f := newFrames(1<<20, 100_000, 1<<20)
	s := routes(1, 300) // about 40 KB
	for i := range uint64(10) {
		next := routes(i+2, 300)
		f.between(false, s, next)
		s = next
	}
	if f.bytes > 100_000 || f.held.Len() != 2 {
		t.Errorf("%d differences of %d bytes are kept", f.held.Len(), f.bytes)
	}
	f.between(true, snapshot.Snapshot{}, routes(99, 3000))
	if f.held.Len() != 1 {
		t.Errorf("%d differences are kept", f.held.Len())
	}
	f.between(false, snapshot.Snapshot{}, routes(99, 3000))
	if f.bytes == 0 || f.held.Len() != 1 {
		t.Errorf("%d differences of %d bytes are kept", f.held.Len(), f.bytes)
	}
}

// What is held only because streams are being sent it is bounded. Whoever holds most of it gives way, its oldest first; who
// holds little does not, however old that is.
func TestWhoHoldsMostGivesWay(t *testing.T) {
	t.Parallel()
	const most = 500_000
	f := newFrames(1<<20, 1, most)
	last := routes(1, 300) // about 40 KB
	lost := map[string][]int{}
	var pins []*pin
	hold := func(identity, host string, n int) {
		next := routes(uint64(len(pins)+2), 300)
		fr := f.between(false, last, next)
		last = next
		pins = append(pins, f.pin(fr, fair.Peer{Identity: identity, Host: host}, func() { lost[identity+"/"+host] = append(lost[identity+"/"+host], n) }))
	}
	hold("modest", "a", 0)
	hold("many", "slow", 0)
	for i := range 100 {
		hold("many", "mallory", i)
		if f.strays.bytes > most {
			t.Fatalf("%d bytes are held after %d", f.strays.bytes, i)
		}
	}
	if len(lost) != 1 || len(lost["many/mallory"]) < 80 || !slices.IsSorted(lost["many/mallory"]) {
		t.Errorf("these gave way: %v", lost)
	}
	for _, p := range pins {
		f.release(p)
		f.release(p)
	}
	if f.strays.bytes != 0 || len(f.strays.frames) != 0 {
		t.Errorf("%d bytes of %d frames are held by nobody", f.strays.bytes, len(f.strays.frames))
	}
}

// A part that was encoded by hand reads as the message that protobuf would have written.
func TestPartsReadBack(t *testing.T) {
	t.Parallel()
	from := routes(1, 3)
	to := from.Apply(2, snapshot.Delta{
		Put:     []snapshot.Item{snapshot.NewItem("route/"+strings.Repeat("long", 50), make([]byte, 40_000))},
		Removed: []string{"route/a/0", "route/a/1"},
	})
	parts := cut(snapshot.Diff(from, to), 1<<20)
	r := &discovery.DeltaDiscoveryResponse{}
	if err := proto.Unmarshal(parts[0].encoded, r); err != nil || len(parts) != 2 || len(parts[1].encoded) > 0 {
		t.Fatal(err, len(parts))
	}
	if len(r.ProtoReflect().GetUnknown()) > 0 || len(r.GetResources()) != 1 || strings.Join(r.GetRemovedResources(), " ") != "route/a/0 route/a/1" {
		t.Fatalf("read back as %d resources, removed %q", len(r.GetResources()), r.GetRemovedResources())
	}
	res := r.GetResources()[0]
	item, _ := to.Get(res.GetName())
	if res.GetVersion() != item.Digest().String() || res.GetResource().GetTypeUrl() != tsujiv1.TypeURL ||
		string(res.GetResource().GetValue()) != string(item.Encoded()) || len(res.ProtoReflect().GetUnknown()) > 0 {
		t.Errorf("read back as %q at %q", res.GetName(), res.GetVersion())
	}
}

// The delta server is used in ways that its documentation does not promise: a session is the cache and the
// callbacks of one stream, the callback comes before the watch, cancel comes before the channel is closed.
// Whoever moves to another release reads its server again, then changes the number here.
func TestTheDeltaServerIsTheOneThatWasRead(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^\s*github\.com/envoyproxy/go-control-plane v0\.14\.0$`).Match(mod) {
		t.Error("go.mod asks for another release")
	}
}
