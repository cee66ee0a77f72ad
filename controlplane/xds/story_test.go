package xds_test

import (
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"

	"github.com/tsuji-dev/tsuji/controlplane/xds"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
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

// Of a version that was refused for a resource that the router names, the next without that content is sent at once. One
// that still has it is offered again after a time, because others may serve it: even if another version came into force
// in between.
func TestWhatIsRefusedByNameIsRemembered(t *testing.T) {
	t.Parallel()
	const retry = 300 * time.Millisecond
	r := newReplica(t, func(c *xds.Config) { c.RetryFirst, c.RetryMost = retry, time.Minute })
	r.publish("route/a/1=x")
	c := r.router("tok04", "r1")
	c.connect("")
	c.receive()
	c.ack()
	r.publish("route/a/1=bad")
	c.receive()
	at := time.Now()
	c.nack(content, "it is bad", "route/a/1")
	r.publish("route/a/1=x", "route/a/2=x")
	c.receive()
	c.ack()
	r.publish("route/a/1=bad", "route/a/2=x", "route/a/3=x")
	c.receive()
	if again := time.Since(at); again < retry {
		t.Errorf("the same content is offered again after %s", again)
	}
	c.ack()
	c.told(`
		< +route/a/1 commit v1 of 1 base nothing
		> ack
		< +route/a/1 commit v2 of 1 base v1
		> nack it is bad
		< +route/a/2 commit v3 of 2 base v1
		> ack
		< +route/a/1 +route/a/3 commit v4 of 3 base v3
		> ack`)
}

// While a version is refused, for no resource that the router could name or for a trouble of its own, its facts go to the
// router with the config that it has, and the refusal is still told. Endpoints that move do not offer it again. Facts that are gone stay, for that config may refer to
// them.
func TestFactsFlowWhateverBecomesOfConfig(t *testing.T) {
	for _, class := range []tsujiv1.RefusalClass{content, unsupported, local} {
		t.Run(class.String(), func(t *testing.T) {
			t.Parallel()
			r := newReplica(t, func(c *xds.Config) { c.RetryFirst = time.Hour; c.RetryMost = time.Hour })
			r.publish("route/a/1=x", "endpoints/a/s/*=x", "endpoints/a/old/*=x")
			c := r.router("tok04", "r1")
			c.connect("")
			c.receive()
			c.ack()
			r.publish("route/a/1=bad", "endpoints/a/s/*=y")
			c.receive()
			c.nack(class, "it is bad")
			c.receive()
			c.ack()
			r.publish("route/a/1=bad", "endpoints/a/s/*=z")
			c.receive()
			c.ack()
			c.told(`
		< +endpoints/a/old/* +endpoints/a/s/* +route/a/1 commit v1 of 3 base nothing
		> ack
		< +endpoints/a/s/* +route/a/1 -endpoints/a/old/* commit v2 of 2 base v1
		> nack it is bad
		< +endpoints/a/s/* commit v2 of 3 base v1
		> ack
		< +endpoints/a/s/* commit v3 of 3 base v2
		> ack`)
			r.becomes("tok04/r1 connected=true sent=v3 acked=v3 resources=7 refused=v2 (it is bad)\n")
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
