package xds_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tsuji-dev/tsuji/controlplane/release"
	"github.com/tsuji-dev/tsuji/controlplane/xds"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// A router that comes back with the current version is sent nothing until something changes, also from a
// replica that compiled the same content by itself and calls it by another revision.
func TestReconnectWithTheCurrentVersion(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.publish("settings=s", "route/a/1=x")
	c := r.router("tok04", "r1")
	c.connect(snapshotOf(77, "settings=s", "route/a/1=x").Version().String())
	r.becomes("tok04/r1 connected=true sent=nothing acked=v1 resources=0\n")
	r.publish("settings=s", "route/a/1=y")
	c.receive()
	c.ack()
	c.told(`
		< +route/a/1 commit v2 of 2 base v77
		> ack`)
	if full, sent := r.count("full_syncs_total"), r.count("resources_total"); full != 0 || sent != 1 {
		t.Errorf("%v whole series, %v resources", full, sent)
	}
}

// A router that comes back with an earlier version gets the difference.
func TestReconnectWithAnEarlierVersion(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	one := r.publish("settings=s", "route/a/1=x")
	r.publish("settings=s", "route/a/1=y")
	r.publish("settings=s", "route/a/2=y")
	c := r.router("tok04", "r1")
	c.connect(one.Version().String())
	c.receive()
	c.ack()
	c.end()
	c.told(`
		< +route/a/2 -route/a/1 commit v3 of 2 base v1
		> ack
		> end`)
	r.becomes("tok04/r1 connected=false sent=v3 acked=v3 resources=1\n")
}

// A router that comes back with a version that nobody knows gets everything, with no base.
func TestReconnectWithAnUnknownVersion(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.publish("settings=s", "route/a/1=x")
	c := r.router("tok04", "r1")
	c.connect(snapshotOf(9, "settings=other").Version().String())
	c.receive()
	r.becomes("tok04/r1 connected=true sent=v1 acked=v9 resources=2\n")
	c.ack()
	c.told(`
		< +route/a/1 +settings commit v1 of 2 base nothing
		> ack`)
}

// A replica that is behind what a router has seen waits until it has caught up; one that does not catch up
// serves what it knows after a time; in another life of the source nothing is compared.
func TestAReplicaThatIsBehind(t *testing.T) {
	t.Parallel()
	seen := func(c *router, epoch, revision string) {
		o, err := structpb.NewStruct(map[string]any{"epoch": epoch, "kinds": map[string]any{"Route": revision}})
		if err != nil {
			t.Fatal(err)
		}
		c.node.Metadata.Fields["observed"] = structpb.NewStructValue(o)
	}
	r := newReplica(t, func(c *xds.Config) { c.LagTimeout = time.Hour })
	old := r.publish("route/a/1=old")
	c := r.router("tok04", "r1")
	seen(c, "e", "2")
	c.connect(snapshotOf(2, "route/a/1=new").Version().String())
	r.becomes("tok04/r1 connected=true sent=nothing acked=v2 resources=0\n")
	eventually(t, "it waits", func() bool { return r.count("streams_lagging") == 1 })
	r.board.Publish("default", release.Target{Snapshot: old, Observed: observed(1)}, time.Now())
	r.publish("route/a/1=new")
	eventually(t, "it has caught up", func() bool { return r.count("lag_waits_total", "outcome=caught_up") == 1 })
	if n := r.count("streams_lagging"); n != 0 {
		t.Errorf("%v wait", n)
	}
	other := r.router("tok04", "r2")
	seen(other, "another life", "99")
	other.connect("")
	other.receive()
	other.told("< +route/a/1 commit v2 of 1 base nothing")
	r.publish("route/a/1=newer")
	c.receive()
	c.told("< +route/a/1 commit v3 of 1 base v2") // which was not known here when the router named it

	r = newReplica(t, func(c *xds.Config) { c.LagTimeout = 10 * time.Millisecond })
	r.publish("route/a/1=old")
	c = r.router("tok04", "r1")
	seen(c, "e", "2")
	c.connect("")
	c.receive()
	c.told("< +route/a/1 commit v1 of 1 base nothing")
	if got := r.count("lag_waits_total", "outcome=gave_up"); got != 1 {
		t.Errorf("gave up %v times", got)
	}
}

// A router that connects before anything was published waits, and an IngressController of its own is served.
func TestNothingIsPublishedYet(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	id := routerID("tok04", "r1")
	id.IngressController = "internal"
	c := r.peer(id)
	c.connect("")
	r.becomes("tok04/r1 connected=true sent=nothing acked=nothing resources=0\n")
	r.publish("route/a/1=x")
	r.board.Publish("internal", release.Target{Snapshot: snapshot.New(7, snapshot.Set{}, snapshot.Set{})}, time.Now())
	c.receive()
	c.told("< commit v7 of 0 base nothing")
}

// Whole snapshots are sent to so many streams at a time; one that waits is served when another was sent all.
func TestFirstSyncsWaitForEachOther(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(c *xds.Config) { c.FirstSyncs = 1; c.PartBytes = 200; c.SyncTimeout = time.Hour })
	r.publish("route/a/1=x", "route/a/2=x")
	first, c := r.router("tok04", "first"), r.router("tok04", "r1")
	first.connect("")
	first.receive()
	c.connect("")
	eventually(t, "the second waits", func() bool { return r.count("full_syncs_waiting") == 1 })
	first.ack() // of all parts but the last
	c.receive()
	c.ack()
	c.receive()
	c.ack()
	c.told(`
		< +route/a/1 more
		> ack
		< +route/a/2 commit v1 of 2 base nothing
		> ack`)
	if entered, waiting := r.count("full_sync_waits_total", "outcome=entered"), r.count("full_syncs_waiting"); entered != 1 || waiting != 0 {
		t.Errorf("%v had their turn, %v wait", entered, waiting)
	}
}

// A stream that is slow over its whole snapshot does not hold up who waits for longer than a time.
func TestFirstSyncsWaitForNobodySlow(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(c *xds.Config) { c.FirstSyncs = 1; c.PartBytes = 200; c.SyncTimeout = 10 * time.Millisecond })
	r.publish("route/a/1=x", "route/a/2=x")
	slow, c := r.router("tok04", "slow"), r.router("tok04", "r1")
	slow.connect("")
	slow.receive() // and never answers
	c.connect("")
	c.receive()
	c.ack()
	c.receive()
	c.ack()
	r.becomes("tok04/r1 connected=true sent=v1 acked=v1 resources=2\n" +
		"tok04/slow connected=true sent=nothing acked=nothing resources=1\n")
}

// A replica that stops ends its streams with a status that sends routers elsewhere, and takes no more.
func TestDrain(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.publish("route/a/1=x")
	idle, busy, silent := r.router("tok04", "idle"), r.router("tok04", "busy"), r.router("tok04", "silent")
	idle.connect("")
	idle.receive()
	idle.ack()
	busy.connect("")
	busy.receive()
	silent.open()
	eventually(t, "all are there", func() bool { return r.count("streams") == 3 })
	r.server.Drain()
	late := r.router("tok04", "late")
	late.open()
	for _, c := range []*router{idle, busy, silent, late} {
		if s := c.refused(); s.Code() != codes.Unavailable {
			t.Errorf("ended with %v", s)
		}
	}
	eventually(t, "no stream is left", func() bool { return r.count("streams") == 0 })
}
