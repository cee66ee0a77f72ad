package xds_test

import (
	"context"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tsuji-dev/tsuji/controlplane/xds"
	"github.com/tsuji-dev/tsuji/identity"
)

// A certificate decides what its owner may see. Who claims something else is turned away, with both sides in
// the log; nothing of it is sent, and nobody is listed.
func TestWhoClaimsAnotherIdentityIsTurnedAway(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.publish("route/a/1=x")
	c := r.router("tok04", "r1")
	for _, claim := range []identity.ID{
		routerID("tok05", "r1"),
		routerID("tok04", "r2"),
		{Role: identity.RoleRouter, IngressController: "internal", Zone: "tok04", Name: "r1"},
	} {
		c.open()
		q := c.first()
		q.Node = nodeOf(claim)
		c.send(q)
		if s := c.refused(); s.Code() != codes.PermissionDenied {
			t.Errorf("%v: ended with %v", claim, s)
		}
		claim.TrustDomain = domain
		line := "certificate=" + routerID("tok04", "r1").String() + " node=" + claim.String()
		if !strings.Contains(r.log.String(), line) {
			t.Errorf("the log has no %s:\n%s", line, r.log)
		}
	}
	if r.state() != "" || r.count("responses_total") != 0 {
		t.Errorf("the fleet is %s", r.state())
	}
	eventually(t, "all were counted", func() bool { return r.count("streams_ended_total", "reason=node") == 3 })
}

// Discovery is for routers: an operator's certificate, or a replica's, may not open it.
func TestOnlyRoutersOpenDiscovery(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.publish("route/a/1=x")
	for _, id := range []identity.ID{
		{TrustDomain: domain, Role: identity.RoleOperator, Name: "ada"},
		{TrustDomain: domain, Role: identity.RoleControlPlane, Name: "cp-1"},
	} {
		c := r.peer(id)
		c.node = nodeOf(routerID("tok04", "r1"))
		c.open()
		c.send(c.first())
		if s := c.refused(); s.Code() != codes.PermissionDenied {
			t.Errorf("%s: ended with %v", id, s)
		}
		if !strings.Contains(r.log.String(), "peer="+id.String()) {
			t.Errorf("%s is not in the log:\n%s", id, r.log)
		}
	}
}

// A node that changes in mid-stream ends it; one that is said again does not.
func TestTheNodeDoesNotChange(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.publish("route/a/1=x")
	c := r.router("tok04", "r1")
	c.connect("")
	c.receive()
	c.send(c.first())
	c.ack()
	r.becomes("tok04/r1 connected=true sent=v1 acked=v1 resources=1\n")
	q := c.first()
	q.Node = nodeOf(routerID("tok04", "r1"))
	q.Node.Metadata.Fields["instance"] = structpb.NewStringValue("another")
	c.send(q)
	if s := c.refused(); s.Code() != codes.PermissionDenied {
		t.Errorf("ended with %v", s)
	}
}

// A certificate for a zone that there is not gets nothing, nor does one whose zone is taken away: that one keeps what it
// has. The message says what to do. Other zones notice nothing, and one that is there again is served.
func TestZonesThatAreNot(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.board.SetZones(map[string]string{"tok04": "default", "tok05": "default"})
	r.publish("route/a/1=x")
	stranger, gone, stays := r.router("tok99", "r1"), r.router("tok05", "r2"), r.router("tok04", "r3")
	stranger.connect("")
	if s := stranger.refused(); s.Code() != codes.PermissionDenied || !strings.Contains(s.Message(), "make a Zone of that name") {
		t.Errorf("ended with %v", s)
	}
	for _, c := range []*router{gone, stays} {
		c.connect("")
		c.receive()
		c.ack()
	}
	r.becomes("tok04/r3 connected=true sent=v1 acked=v1 resources=1\ntok05/r2 connected=true sent=v1 acked=v1 resources=1\n")
	r.board.SetZones(map[string]string{"tok04": "default"})
	if s := gone.refused(); s.Code() != codes.PermissionDenied {
		t.Errorf("ended with %v", s)
	}
	v2 := r.publish("route/a/1=y")
	stays.receive()
	stays.ack()
	stays.told(`
		< +route/a/1 commit v1 of 1 base nothing
		> ack
		< +route/a/1 commit v2 of 1 base v1
		> ack`)
	r.board.SetZones(map[string]string{"tok04": "default", "tok05": "default"})
	gone.connect(snapshotOf(1, "route/a/1=x").Version().String())
	if got := describe(gone.receive()); got != "+route/a/1 commit v2 of 1 base v1" {
		t.Errorf("back, it is sent %q, want the difference to %s", got, v2.Version())
	}
	if n := strings.Count(r.log.String(), "its zone is not served"); n < 2 {
		t.Errorf("%d lines say that:\n%s", n, r.log)
	}
}

// A certificate without a name is a zone's: its routers name themselves.
func TestACertificateWithoutAName(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.publish("route/a/1=x")
	c := r.peer(routerID("tok04", ""))
	c.node = nodeOf(routerID("tok04", "r7"))
	c.connect("")
	c.receive()
	c.ack()
	r.becomes("tok04/r7 connected=true sent=v1 acked=v1 resources=1\n")
}

// What a node says of itself goes into logs and status, so it is held to a form.
func TestNodesAreHeldToAForm(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(c *xds.Config) {
		c.Authenticate = func(context.Context) (identity.ID, bool, error) { return identity.ID{}, false, nil }
	})
	r.publish("route/a/1=x")
	c := r.router("tok04", "r1")
	long := strings.Repeat("x", 254)
	text := func(field, value string) func(*corev3.Node) {
		return func(n *corev3.Node) { n.Metadata.Fields[field] = structpb.NewStringValue(value) }
	}
	for name, change := range map[string]func(*corev3.Node){
		"no name":         func(n *corev3.Node) { n.Id = "" },
		"slash in name":   func(n *corev3.Node) { n.Id = "r1/zone/tok05" },
		"newline in zone": func(n *corev3.Node) { n.Locality.Zone = "tok04\n" },
		"no zone":         func(n *corev3.Node) { n.Locality = nil },
		"no cluster":      func(n *corev3.Node) { n.Cluster = "" },
		"long name":       func(n *corev3.Node) { n.Id = long },
		"long instance":   text("instance", long),
		"newline":         text("routerd_version", "1\n2"),
		"escape":          text("haproxy_version", "\x1b[2J"),
		"connections":     text("max_connections", "-1"),
		"observed": func(n *corev3.Node) {
			o, _ := structpb.NewValue(map[string]any{"epoch": "e", "kinds": map[string]any{"Route": 12}})
			n.Metadata.Fields["observed"] = o
		},
	} {
		c.open()
		q := c.first()
		q.Node = nodeOf(routerID("tok04", "r1"))
		change(q.Node)
		c.send(q)
		if s := c.refused(); s.Code() != codes.InvalidArgument {
			t.Errorf("%s: ended with %v", name, s)
		}
	}
	c.open()
	q := c.first()
	q.Node = nil
	c.send(q)
	if s := c.refused(); s.Code() != codes.InvalidArgument {
		t.Errorf("no node: ended with %v", s)
	}
	c.connect("") // with no certificate, a node in order is believed
	c.receive()
	c.ack()
	c.told(`
		< +route/a/1 commit v1 of 1 base nothing
		> ack`)
}

// The other form of discovery says where to go.
func TestStateOfTheWorldIsNotServed(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	c := r.router("tok04", "r1")
	stream, err := c.client.StreamAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil || !strings.Contains(err.Error(), "call DeltaAggregatedResources") {
		t.Errorf("got %v", err)
	}
}
