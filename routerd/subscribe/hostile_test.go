package subscribe

import (
	"fmt"
	"log/slog"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// fatal is what both testing and rapid offer.
type fatal interface {
	Fatalf(format string, args ...any)
}

// feed gives a session a response and applies what it passes on. It fails if that is not what the commit says.
// False: the stream has ended.
func feed(t fatal, s *session, a *applier, r *discovery.DeltaDiscoveryResponse) bool {
	for len(s.requests) > 0 {
		<-s.requests
	}
	if err := s.take(r); err != nil {
		return false
	}
	if len(s.versions) == 0 {
		return true
	}
	v := <-s.versions
	var commit *tsujiv1.Commit
	for _, res := range r.GetResources() {
		if res.GetName() == tsujiv1.CommitName {
			decoded, err := tsujiv1.Decode(snapshot.NewItem(tsujiv1.CommitName, res.GetResource().GetValue()))
			if err != nil {
				t.Fatalf("a version by a commit that cannot be read: %v", err)
			}
			commit = decoded.GetCommit()
		}
	}
	got := v.next.Version()
	if commit == nil || got.String() != commit.GetVersion() || v.next.Len() != int(commit.GetResources()) ||
		string(got.Config[:]) != string(commit.GetConfigDigest()) || string(got.Facts[:]) != string(commit.GetFactsDigest()) {
		t.Fatalf("to be applied: %s of %d resources; committed: %v", got, v.next.Len(), commit)
	}
	if base := commit.GetBase(); base != "" {
		if b, err := snapshot.ParseVersion(base); err != nil || !a.ok || !b.Equal(a.held.Version()) {
			t.Fatalf("applied on another base than %q", base)
		}
	}
	if to := a.held.Apply(got.Revision, v.delta); to.Version() != got {
		t.Fatalf("the difference leads to %s", to.Version())
	}
	a.held, a.ok = v.next, true
	s.applying.Store(false)
	return true
}

// A server that loses, repeats, exchanges and mixes what it sends, over several streams: what is applied is one
// of the versions that there are, whole.
func TestHostileServer(t *testing.T) {
	t.Parallel()
	var versions []snapshot.Snapshot
	known := map[string]bool{}
	s := snapshot.Snapshot{}
	for i := range 6 {
		s = s.Apply(uint64(i), snapshot.Delta{
			Put: []snapshot.Item{
				resource(t, fmt.Sprint("route/shop/r", i%3), fmt.Sprint("h", i)), resource(t, fmt.Sprint("endpoints/shop/s", i, "/*"), "x"), resource(t, "settings", "s"),
			},
			Removed: []string{fmt.Sprint("endpoints/shop/s", i-2, "/*")},
		})
		versions = append(versions, s)
		known[s.Version().String()] = true
	}
	version := rapid.SampledFrom(versions)
	applied := 0
	rapid.Check(t, func(rt *rapid.T) {
		session, a := bare(t, 0)
		for range rapid.IntRange(1, 8).Draw(rt, "series") {
			from, to := version.Draw(rt, "from"), version.Draw(rt, "to")
			whole := rapid.Bool().Draw(rt, "whole")
			if !whole && a.ok && rapid.Bool().Draw(rt, "honest base") {
				from = a.held
			}
			rs := parts(t, whole, from, to, rapid.IntRange(1, 3).Draw(rt, "parts"))
			for i, r := range rs {
				r.Nonce = fmt.Sprint(i)
				other := rs[rapid.IntRange(0, len(rs)-1).Draw(rt, "other")]
				at := func(label string) int { return rapid.IntRange(0, len(r.GetResources())-1).Draw(rt, label) }
				if len(r.GetResources()) == 0 {
					continue
				}
				switch rapid.IntRange(0, 14).Draw(rt, "damage") {
				case 0:
					k := at("lost")
					r.Resources = append(r.Resources[:k:k], r.Resources[k+1:]...)
				case 1:
					r.Resources = append(r.Resources, r.Resources[at("repeated")])
				case 2:
					r.Resources = append(r.Resources, other.GetResources()...)
				case 3:
					x, y := r.Resources[at("x")], r.Resources[at("y")]
					x.Resource, y.Resource = y.Resource, x.Resource
				case 4:
					x, y := r.Resources[at("x")], r.Resources[at("y")]
					x.Version, y.Version = y.Version, x.Version
				case 5:
					r.RemovedResources = append(r.RemovedResources, fmt.Sprint("route/shop/r", rapid.IntRange(0, 3).Draw(rt, "removed")))
				case 6:
					c := r.GetResources()[len(r.GetResources())-1]
					if c.GetName() == tsujiv1.CommitName {
						commit := commitOf(t, r)
						commit.Base = version.Draw(rt, "base").Version().String()
						setCommit(t, r, commit)
					}
				}
			}
			order := rs
			if rapid.IntRange(0, 4).Draw(rt, "reordered") == 0 {
				order = rapid.Permutation(rs).Draw(rt, "order")
			}
			for _, r := range order {
				before := a.held.Version()
				if !feed(rt, session, a, r) {
					session = newSession(session.c, "test", false) // what was staged is gone with its stream
				}
				if now := a.held.Version(); now != before {
					applied++
					if !known[now.String()] {
						rt.Fatalf("%s is in force, which nobody made", now)
					}
				}
			}
		}
	})
	if applied == 0 {
		t.Error("nothing was applied: the test shows nothing")
	}
}

// Whatever bytes arrive as responses: no panic, and nothing to apply but what the commit says.
func FuzzResponses(f *testing.F) {
	a := snapshot.Snapshot{}.Apply(1, snapshot.Delta{Put: []snapshot.Item{resource(f, "settings", "s"), resource(f, "route/shop/web", "a"), resource(f, "cert/shop/route:web", "c")}})
	b := a.Apply(2, snapshot.Delta{Put: []snapshot.Item{resource(f, "route/shop/web", "b")}, Removed: []string{"cert/shop/route:web"}})
	encode := func(rs ...*discovery.DeltaDiscoveryResponse) []byte {
		var out []byte
		for i, r := range rs {
			r.Nonce = fmt.Sprint(i)
			encoded, err := proto.Marshal(r)
			if err != nil {
				f.Fatal(err)
			}
			out = protowire.AppendBytes(out, encoded)
		}
		return out
	}
	f.Add(encode(parts(f, true, snapshot.Snapshot{}, a, 2)...))
	f.Add(encode(append(parts(f, true, snapshot.Snapshot{}, a, 1), parts(f, false, a, b, 1)...)...))
	f.Add(encode(parts(f, false, a, b, 1)...))
	f.Add(encode(&discovery.DeltaDiscoveryResponse{}))
	f.Fuzz(func(t *testing.T, in []byte) {
		s, applier := bare(t, 1<<20)
		for len(in) > 0 {
			encoded, n := protowire.ConsumeBytes(in)
			if n < 0 {
				return
			}
			in = in[n:]
			r := &discovery.DeltaDiscoveryResponse{}
			if proto.Unmarshal(encoded, r) != nil {
				continue
			}
			if !feed(t, s, applier, r) {
				s = newSession(s.c, "test", false)
			}
		}
	})
}

// A first sync of 10,000 resources, in parts of about 1 MiB: staged, verified, and ready to be applied.
func BenchmarkFirstSync(b *testing.B) {
	var d snapshot.Delta
	for i := range 5_000 {
		d.Put = append(d.Put,
			resource(b, fmt.Sprintf("route/shop-%d/web", i), fmt.Sprintf("shop-%d.example%0250d", i, i)),
			resource(b, fmt.Sprintf("endpoints/shop-%d/web/*", i), fmt.Sprintf("192.0.2.%d%0250d", i, i)))
	}
	rs := parts(b, true, snapshot.Snapshot{}, snapshot.Snapshot{}.Apply(1, d), 4)
	for i, r := range rs {
		r.Nonce = fmt.Sprint(i)
	}
	b.ReportAllocs()
	for b.Loop() {
		s, a := bare(b, 0)
		for _, r := range rs {
			if !feed(b, s, a, r) {
				b.Fatal("refused")
			}
		}
		if a.held.Len() != 10_000 {
			b.Fatal(a.held.Len())
		}
	}
}

// One change on 100 and on 10,000 resources.
func BenchmarkOneChange(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var d snapshot.Delta
			for i := range n {
				d.Put = append(d.Put, resource(b, fmt.Sprintf("route/shop-%d/web", i), "x"))
			}
			base := snapshot.Snapshot{}.Apply(1, d)
			next := base.Apply(2, snapshot.Delta{Put: []snapshot.Item{resource(b, "route/shop-1/web", "y")}})
			r := parts(b, false, base, next, 1)[0]
			r.Nonce = "n"
			s, a := bare(b, 0)
			b.ReportAllocs()
			for b.Loop() {
				a.held, a.ok = base, true
				if !feed(b, s, a, r) {
					b.Fatal("refused")
				}
			}
		})
	}
}
