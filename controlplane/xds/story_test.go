package xds_test

import (
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tsuji-dev/tsuji/controlplane/release"
	"github.com/tsuji-dev/tsuji/controlplane/xds"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	content     = tsujiv1.RefusalClass_REFUSAL_CLASS_CONTENT
	local       = tsujiv1.RefusalClass_REFUSAL_CLASS_LOCAL
	unsupported = tsujiv1.RefusalClass_REFUSAL_CLASS_UNSUPPORTED
)

// A router that has nothing gets everything, in parts that each wait for the answer to the one before; it
// gets the whole of one version though another is published meanwhile; then what differs.
func TestFirstSyncInParts(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(c *xds.Config) { c.PartBytes = 300 })
	r.publish("settings=s", "route/a/1=x", "route/a/2=x", "endpoints/a/b/c=x")
	c := r.router("tok04", "r1")
	c.connect("")
	c.receive()
	r.publish("settings=s", "route/a/1=y", "route/a/2=x", "endpoints/a/b/c=x")
	c.ack()
	c.receive()
	c.ack()
	c.receive()
	c.ack()
	c.told(`
		< +endpoints/a/b/c +route/a/1 more
		> ack
		< +route/a/2 +settings commit v1 of 4 base nothing
		> ack
		< +route/a/1 commit v2 of 4 base v1
		> ack`)
	r.becomes("tok04/r1 connected=true sent=v2 acked=v2 resources=5\n")
	if got := r.count("full_syncs_total"); got != 1 {
		t.Errorf("%v whole series", got)
	}
}

// A resource larger than a part goes alone; names that are gone count too.
func TestPartsAreBounded(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(c *xds.Config) { c.PartBytes = 400 })
	big := string(make([]byte, 1000))
	r.publish("route/a/1=x", "route/a/2="+big, "route/a/3=x")
	c := r.router("tok04", "r1")
	c.connect("")
	for range 3 {
		c.receive()
		c.ack()
	}
	long := string(make([]byte, 200))
	r.publish("route/"+long+"/1=x", "route/"+long+"/2=x", "route/"+long+"/3=x")
	for !hasCommit(c.receive()) {
		c.ack()
	}
	c.ack()
	c.story.Reset()
	r.publish()
	for !hasCommit(c.receive()) {
		if n := len(c.last.GetRemovedResources()); n != 1 {
			t.Errorf("%d names of 200 bytes in a part of 400", n)
		}
		c.ack()
	}
}

func hasCommit(r *discovery.DeltaDiscoveryResponse) bool {
	for _, res := range r.GetResources() {
		if res.GetName() == tsujiv1.CommitName {
			return true
		}
	}
	return false
}

// One changed resource is one resource sent, and the commit says what it comes to.
func TestOneChange(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.publish("settings=s", "route/a/1=x", "route/a/2=x")
	c := r.router("tok04", "r1")
	c.connect("")
	c.receive()
	c.ack()
	s := r.publish("settings=s", "route/a/1=x", "route/a/2=y")
	got := c.receive()
	c.ack()
	c.told(`
		< +route/a/1 +route/a/2 +settings commit v1 of 3 base nothing
		> ack
		< +route/a/2 commit v2 of 3 base v1
		> ack`)
	for _, res := range got.GetResources() {
		if res.GetName() != tsujiv1.CommitName {
			if i, _ := s.Get(res.GetName()); res.GetVersion() != i.Digest().String() || string(res.GetResource().GetValue()) != "y" {
				t.Errorf("sent %v", res)
			}
			continue
		}
		commit, err := decodeCommit(res)
		if err != nil {
			t.Fatal(err)
		}
		v := s.Version()
		if string(commit.GetConfigDigest()) != string(v.Config[:]) || string(commit.GetFactsDigest()) != string(v.Facts[:]) ||
			commit.GetObserved().GetKinds()[0].GetRevision() != 2 {
			t.Errorf("commit %v", commit)
		}
	}
}

// A router that is slow skips the versions in between, and its next difference is larger.
func TestASlowRouterSkipsVersions(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.publish("route/a/1=x")
	c := r.router("tok04", "r1")
	c.connect("")
	c.receive()
	r.publish("route/a/1=x", "route/a/2=x")
	r.publish("route/a/2=x", "route/a/3=x")
	r.publish("route/a/3=x", "route/a/4=x")
	c.ack()
	c.receive()
	c.ack()
	c.told(`
		< +route/a/1 commit v1 of 1 base nothing
		> ack
		< +route/a/3 +route/a/4 -route/a/1 commit v4 of 2 base v1
		> ack`)
}

// A version that was refused is not sent again, not even when the router asks again or the same content is
// published once more; the next that differs is, from what the router has.
func TestARefusedVersionIsNotSentAgain(t *testing.T) {
	for _, class := range []tsujiv1.RefusalClass{content, unsupported} {
		t.Run(class.String(), func(t *testing.T) {
			t.Parallel()
			r := newReplica(t)
			r.publish("route/a/1=x")
			c := r.router("tok04", "r1")
			c.connect("")
			c.receive()
			c.ack()
			r.publish("route/a/1=bad")
			c.receive()
			c.nack(class, "it is bad")
			r.becomes("tok04/r1 connected=true sent=v2 acked=v1 resources=2 refused=v2 (it is bad)\n")
			r.publish("route/a/1=bad")
			c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: tsujiv1.TypeURL})
			eventually(t, "the request without a nonce arrived", func() bool { return r.count("stale_answers_total") == 1 })
			r.publish("route/a/1=bad", "route/a/2=x")
			c.receive()
			c.ack()
			c.told(`
		< +route/a/1 commit v1 of 1 base nothing
		> ack
		< +route/a/1 commit v2 of 1 base v1
		> nack it is bad
		< +route/a/1 +route/a/2 commit v4 of 2 base v1
		> ack`)
			r.becomes("tok04/r1 connected=true sent=v4 acked=v4 resources=4\n")
		})
	}
}

// A refusal of any part refuses the version.
func TestAPartRefusedIsTheVersionRefused(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(c *xds.Config) { c.PartBytes = 200 })
	r.publish("route/a/1=x", "route/a/2=x", "route/a/3=x")
	c := r.router("tok04", "r1")
	c.connect("")
	c.receive()
	c.nack(content, "no")
	r.becomes("tok04/r1 connected=true sent=nothing acked=nothing resources=1 refused=v1 (no)\n")
	r.publish("route/a/9=x")
	c.receive()
	c.ack()
	c.told(`
		< +route/a/1 more
		> nack no
		< +route/a/9 commit v2 of 1 base nothing
		> ack`)
}

// A version that a router could not put into force for a reason of its own is offered again after a time
// that doubles, until it can.
func TestATroubleOfTheRoutersOwnIsTriedAgain(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(c *xds.Config) { c.RetryFirst, c.RetryMost = 20*time.Millisecond, time.Minute })
	r.publish("route/a/1=x")
	c := r.router("tok04", "r1")
	c.connect("")
	var first, second time.Duration
	c.receive()
	at := time.Now()
	c.nack(local, "disk full")
	c.receive()
	first = time.Since(at)
	at = time.Now()
	c.nack(local, "disk full")
	c.receive()
	second = time.Since(at)
	c.ack()
	if first < 20*time.Millisecond || second < 40*time.Millisecond {
		t.Errorf("offered again after %s and %s", first, second)
	}
	r.publish("route/a/1=y")
	c.receive()
	at = time.Now()
	c.nack(local, "disk full")
	c.receive()
	if again := time.Since(at); again < 20*time.Millisecond || again > time.Minute/2 {
		t.Errorf("after an ack, offered again after %s", again)
	}
	c.ack()
	c.told(`
		< +route/a/1 commit v1 of 1 base nothing
		> nack disk full
		< +route/a/1 commit v1 of 1 base nothing
		> nack disk full
		< +route/a/1 commit v1 of 1 base nothing
		> ack
		< +route/a/1 commit v2 of 1 base v1
		> nack disk full
		< +route/a/1 commit v2 of 1 base v1
		> ack`)
	r.becomes("tok04/r1 connected=true sent=v2 acked=v2 resources=5\n")
	if got := r.count("nacks_total", "class=local"); got != 3 {
		t.Errorf("%v refusals", got)
	}
}

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

// A stream without names is one with "*", as xDS has it.
func TestNoNamesAreAll(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.publish("route/a/1=x")
	c := r.router("tok04", "r1")
	c.open()
	q := c.first()
	q.ResourceNamesSubscribe = nil
	c.send(q)
	c.receive()
	c.ack()
	c.told(`
		< +route/a/1 commit v1 of 1 base nothing
		> ack`)
}

// A router that never answers is sent one response and no more, holds nobody else up, and loses its stream
// after a time.
func TestARouterThatNeverAnswers(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(c *xds.Config) { c.AckTimeout = 300 * time.Millisecond; c.FirstSyncs = 1 })
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
	if s := mute.refused(); s.Code() != codes.DeadlineExceeded {
		t.Errorf("ended with %v", s)
	}
	mute.told("< +route/a/1 commit v1 of 1 base nothing")
	r.becomes("tok04/mute connected=false sent=v1 acked=nothing resources=1\n" +
		"tok04/r1 connected=true sent=v2 acked=v2 resources=2\n")
}

// A router that does not even read, so that sending to it blocks, loses its stream too.
func TestARouterThatDoesNotRead(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(c *xds.Config) { c.AckTimeout = 200 * time.Millisecond })
	r.publish("route/a/1=" + string(make([]byte, 1<<20)))
	deaf := r.router("tok04", "deaf")
	deaf.connect("")
	r.becomes("tok04/deaf connected=false sent=v1 acked=nothing resources=1\n")
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
	r.board.Publish("default", release.Target{Snapshot: old, Observed: observed(1)}, time.Now())
	r.publish("route/a/1=new")
	eventually(t, "it has caught up", func() bool { return r.count("lag_waits_total", "outcome=caught_up") == 1 })
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

// Whole snapshots are sent to so many streams at a time; one that waits is served in the end.
func TestFirstSyncsWaitForEachOther(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(c *xds.Config) { c.FirstSyncs = 1; c.PartBytes = 200; c.SyncTimeout = time.Second })
	r.publish("route/a/1=x", "route/a/2=x")
	halfway := r.router("tok04", "halfway")
	halfway.connect("")
	halfway.receive() // and never answers
	c := r.router("tok04", "r1")
	c.connect("")
	c.receive()
	c.ack()
	c.receive()
	c.ack()
	c.told(`
		< +route/a/1 more
		> ack
		< +route/a/2 commit v1 of 2 base nothing
		> ack`)
	if got := r.count("full_sync_waits_total"); got != 1 {
		t.Errorf("%v waited", got)
	}
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
