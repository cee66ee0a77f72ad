package xds_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tsuji-dev/tsuji/controlplane/xds"
)

// One identity with as many streams as it likes, none of which ever answers, does not take all turns to be sent a whole
// snapshot: another gets its own at once. Nor does one host of an identity, to the others that share it.
func TestTurnsAtAWholeSnapshotAreShared(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(c *xds.Config) {
		c.FirstSyncs, c.PartBytes = 16, 64
		c.SyncTimeout = time.Hour
	})
	r.publish("route/a/1=x", "route/a/2=x", "route/a/3=x")
	for i := range 20 {
		c := r.peer(routerID("tok04", ""))
		c.node = nodeOf(routerID("tok04", fmt.Sprint("mute", i)))
		c.connect("")
		eventually(t, "it has its turn, or waits", func() bool { return r.count("full_syncs_total") == float64(i+1) })
	}
	eventually(t, "most wait", func() bool { return r.count("full_syncs_waiting") >= 10 })
	shared := r.peerAt(routerID("tok04", ""), "127.0.0.2")
	shared.node = nodeOf(routerID("tok04", "r1"))
	for _, c := range []*router{r.router("tok05", "r1"), shared} {
		c.connect("")
		for !hasCommit(c.receive()) {
			c.ack()
		}
		c.ack()
	}
}

// Parts on their way have a bound, and who does not answer gives way to others.
func TestWhoDoesNotReadGivesWay(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(c *xds.Config) {
		c.PartBytes, c.FlightBytes, c.FlightTimeout = 40<<10, 200<<10, 10*time.Millisecond
	})
	large := strings.Repeat("x", 40<<10)
	r.publish("route/a/1="+large, "route/a/2="+large, "route/a/3="+large)
	c := r.router("tok05", "r1")
	for round := range 3 {
		for i := range 10 {
			mute := r.peer(routerID("tok04", ""))
			mute.node = nodeOf(routerID("tok04", fmt.Sprintf("mute%d-%d", round, i)))
			mute.connect("")
		}
		if round > 0 {
			c.end()
		}
		c.connect("")
		for !hasCommit(c.receive()) {
			c.ack()
		}
		c.ack()
	}
	eventually(t, "some of the others gave way", func() bool { return r.count("streams_ended_total", "reason=slow") > 0 })
	r.publish("route/a/1="+large, "route/a/2="+large, "route/a/3=y")
	c.receive()
	c.ack()
}

// A router's name has a few streams, wherever they come from. Who holds fewer than another host of them gets in.
func TestARouterHasAFewStreams(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.publish("route/a/1=x")
	var thief []*router
	for range 4 {
		c := r.router("tok04", "r1")
		c.connect("")
		c.receive()
		thief = append(thief, c)
	}
	fifth := r.router("tok04", "r1")
	fifth.connect("")
	if s := fifth.refused(); s.Code() != codes.ResourceExhausted || !strings.Contains(s.Message(), "routerd --name") {
		t.Errorf("the fifth of a host: %v", s)
	}
	for range 2 {
		c := r.peerAt(routerID("tok04", "r1"), "127.0.0.2")
		c.connect("")
		c.receive()
		c.ack()
	}
	for i := range 2 {
		if s := thief[i].refused(); s.Code() != codes.ResourceExhausted {
			t.Errorf("stream %d of the host with most: %v", i, s)
		}
	}
	other := r.router("tok04", "r2") // which nobody's streams count against
	other.connect("")
	other.receive()
	other.connect("")
	other.receive()
	other.connect("")
	if s := other.refused(); s.Code() != codes.ResourceExhausted || !strings.Contains(s.Message(), "this connection") {
		t.Errorf("the third on a connection: %v", s)
	}
}
