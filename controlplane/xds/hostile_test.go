package xds_test

import (
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"

	"github.com/tsuji-dev/tsuji/controlplane/xds"
)

// Nonces that answer nothing are no acks and no nacks, and a router that sends nothing else loses its stream.
func TestForgedNonces(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.publish("route/a/1=x")
	c := r.router("tok04", "r1")
	c.connect("")
	c.receive()
	nonce := c.last.Nonce
	for _, forged := range []string{"", "0", "2", "-1", "x", nonce + " "} {
		c.last.Nonce = forged
		c.ack()
		c.nack(content, "forged")
	}
	eventually(t, "they arrived", func() bool { return r.count("stale_answers_total") == 12 })
	r.becomes("tok04/r1 connected=true sent=v1 acked=nothing resources=1\n")
	c.last.Nonce = nonce
	c.ack()
	r.becomes("tok04/r1 connected=true sent=v1 acked=v1 resources=1\n")
	c.ack() // once more: it answers nothing now
	r.publish("route/a/1=y")
	c.receive()
	for range 100 {
		c.last.Nonce = "x"
		c.ack()
	}
	if s := c.refused(); s.Code() != codes.ResourceExhausted {
		t.Errorf("ended with %v", s)
	}
}

// What would make the subscription another than "everything, of one type" ends the stream, and nobody
// else's.
func TestStrangeRequestsEndTheirStream(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.publish("route/a/1=x")
	good := r.router("tok04", "good")
	good.connect("")
	good.receive()
	good.ack()
	c := r.router("tok04", "r1")
	version := snapshotOf(1, "route/a/1=x").Version().String()
	for name, change := range map[string]func(*discovery.DeltaDiscoveryRequest){
		"a name":          func(q *discovery.DeltaDiscoveryRequest) { q.ResourceNamesSubscribe = []string{"route/a/1"} },
		"a name beside *": func(q *discovery.DeltaDiscoveryRequest) { q.ResourceNamesSubscribe = []string{"*", "route/a/1"} },
		"unsubscribe":     func(q *discovery.DeltaDiscoveryRequest) { q.ResourceNamesUnsubscribe = []string{"route/a/1"} },
		"unsubscribe *":   func(q *discovery.DeltaDiscoveryRequest) { q.ResourceNamesUnsubscribe = []string{"*"} },
		"another type": func(q *discovery.DeltaDiscoveryRequest) {
			q.TypeUrl = "type.googleapis.com/envoy.config.route.v3.Route"
		},
		"no type": func(q *discovery.DeltaDiscoveryRequest) { q.TypeUrl = "" },
		"resource locator": func(q *discovery.DeltaDiscoveryRequest) {
			q.ResourceLocatorsSubscribe = []*discovery.ResourceLocator{{Name: "x"}}
		},
	} {
		c.connect("")
		q := c.first()
		change(q)
		c.send(q)
		if s := c.refused(); s.Code() != codes.InvalidArgument {
			t.Errorf("%s, later: %v", name, s)
		}
		c.open()
		c.send(q)
		if s := c.refused(); s.Code() != codes.InvalidArgument {
			t.Errorf("%s, at first: %v", name, s)
		}
	}
	for name, versions := range map[string]map[string]string{
		"names":       {"route/a/1": "x"},
		"two names":   {"commit": version, "route/a/1": "x"},
		"a bucket":    {"bucket/000": "x"},
		"no version":  {"commit": "x"},
		"empty":       {"commit": ""},
		"a wrong one": {"commit": version + "0"},
	} {
		c.open()
		q := c.first()
		q.InitialResourceVersions = versions
		c.send(q)
		if s := c.refused(); s.Code() != codes.InvalidArgument {
			t.Errorf("%s in initial_resource_versions: %v", name, s)
		}
	}
	r.publish("route/a/1=y")
	good.receive()
	good.ack()
	good.told(`
		< +route/a/1 commit v1 of 1 base nothing
		> ack
		< +route/a/1 commit v2 of 1 base v1
		> ack`)
}

// A router that does not answer is sent one response and no more, and holds nobody else up.
func TestARouterThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(c *xds.Config) { c.FirstSyncs = 1; c.SyncTimeout = 10 * time.Millisecond })
	r.publish("route/a/1=x")
	mute := r.router("tok04", "mute")
	mute.connect("")
	mute.receive()
	c := r.router("tok04", "r1")
	c.connect("")
	c.receive()
	c.ack()
	r.publish("route/a/1=y")
	c.receive()
	c.ack()
	r.becomes("tok04/mute connected=true sent=v1 acked=nothing resources=1\n" +
		"tok04/r1 connected=true sent=v2 acked=v2 resources=2\n")
	mute.end() // which there is no second response before
}

// A router that never answers loses its stream after a time.
func TestARouterThatNeverAnswers(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(c *xds.Config) { c.AckTimeout = 10 * time.Millisecond })
	r.publish("route/a/1=x")
	mute := r.router("tok04", "mute")
	mute.connect("")
	mute.receive()
	if s := mute.refused(); s.Code() != codes.DeadlineExceeded {
		t.Errorf("ended with %v", s)
	}
	r.becomes("tok04/mute connected=false sent=v1 acked=nothing resources=1\n")
}

// A router that does not even read, so that sending to it blocks, loses its stream too.
func TestARouterThatDoesNotRead(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(c *xds.Config) { c.AckTimeout = 200 * time.Millisecond })
	r.publish("route/a/1=" + string(make([]byte, 1<<20)))
	deaf := r.router("tok04", "deaf")
	deaf.connect("")
	r.becomes("tok04/deaf connected=false sent=nothing acked=nothing resources=1\n")
	eventually(t, "it was counted", func() bool { return r.count("streams_ended_total", "reason=ack_timeout") == 1 })
}

// A stream on which nobody says anything is ended.
func TestASilentStreamIsEnded(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(c *xds.Config) { c.HelloTimeout = 10 * time.Millisecond })
	c := r.router("tok04", "r1")
	c.open()
	if s := c.refused(); s.Code() != codes.DeadlineExceeded {
		t.Errorf("ended with %v", s)
	}
}

// A router that refuses everything is sent each version once, and harms nobody.
func TestARouterThatRefusesEverything(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	sour, c := r.router("tok04", "sour"), r.router("tok04", "r1")
	sour.connect("")
	c.connect("")
	for _, v := range []string{"1", "2", "3"} {
		r.publish("route/a/1=" + v)
		sour.receive()
		sour.nack(content, "no")
		c.receive()
		c.ack()
	}
	sour.told(`
		< +route/a/1 commit v1 of 1 base nothing
		> nack no
		< +route/a/1 commit v2 of 1 base nothing
		> nack no
		< +route/a/1 commit v3 of 1 base nothing
		> nack no`)
	r.becomes("tok04/r1 connected=true sent=v3 acked=v3 resources=3\n" +
		"tok04/sour connected=true sent=v3 acked=nothing resources=3 refused=v3 (no)\n")
}
