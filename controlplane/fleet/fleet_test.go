package fleet_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func version(n uint64) snapshot.Version {
	return snapshot.Version{Revision: n, Config: snapshot.NewItem("x", []byte{byte(n)}).Digest()}
}

func router(zone, name, instance string) fleet.Router {
	return fleet.Router{IngressController: "default", Zone: zone, Name: name, Instance: instance, Address: "192.0.2.1:1"}
}

// list writes the fleet as text: zone/name/instance, and what is known.
func list(f *fleet.Fleet, now time.Time) string {
	var b strings.Builder
	for _, r := range f.List(now) {
		fmt.Fprintf(&b, "%s/%s/%s", r.GetZone(), r.GetName(), r.GetInstance())
		if !r.GetConnected() {
			b.WriteString(" gone")
		}
		if v := r.GetSentVersion(); v != "" {
			fmt.Fprintf(&b, " sent %s", v[:1])
		}
		if v := r.GetAckedVersion(); v != "" {
			fmt.Fprintf(&b, " acked %s", v[:1])
		}
		if r.GetRefusal() != nil {
			fmt.Fprintf(&b, " refused (%s)", r.GetRefusal().GetMessage())
		}
		if r.GetResponsesSent() > 0 {
			fmt.Fprintf(&b, " responses %d resources %d bytes %d", r.GetResponsesSent(), r.GetResourcesSent(), r.GetBytesSent())
		}
		if r.GetDuplicate() {
			b.WriteString(" duplicate")
		}
		b.WriteString("\n")
	}
	return b.String()
}

func expect(t *testing.T, f *fleet.Fleet, now time.Time, lines ...string) {
	t.Helper()
	want := strings.Join(lines, "\n") + "\n"
	if len(lines) == 0 {
		want = ""
	}
	if got := list(f, now); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// A router is sent a version in two parts and acks it, refuses the next, and acks the one after.
func TestARoutersLife(t *testing.T) {
	f := fleet.New(fleet.Config{})
	m := f.Connect(router("tok04", "r1", "i"), start)
	m.Sent(version(1), 5, 100, false, start)
	expect(t, f, start, "tok04/r1/i responses 1 resources 5 bytes 100")
	m.Sent(version(1), 2, 50, true, start)
	m.Acked(version(1), start)
	expect(t, f, start, "tok04/r1/i sent 1 acked 1 responses 2 resources 7 bytes 150")
	m.Sent(version(2), 1, 10, true, start)
	m.Refused(&tsujiv1.Refusal{Message: "bad"}, start)
	expect(t, f, start, "tok04/r1/i sent 2 acked 1 refused (bad) responses 3 resources 8 bytes 160")
	m.Sent(version(3), 1, 10, true, start)
	m.Acked(version(3), start)
	expect(t, f, start, "tok04/r1/i sent 3 acked 3 responses 4 resources 9 bytes 170")
}

// A router that comes back is the same one, and its refusal is not over because it says again what it has
// in force. What its former connection still says does not count.
func TestARouterComesBack(t *testing.T) {
	f := fleet.New(fleet.Config{})
	old := f.Connect(router("tok04", "r1", "i"), start)
	old.Sent(version(2), 1, 10, true, start)
	old.Acked(version(1), start)
	old.Refused(&tsujiv1.Refusal{Message: "bad"}, start)
	m := f.Connect(router("tok04", "r1", "i"), start)
	m.Acked(version(1), start)
	old.Acked(version(9), start)
	old.Disconnected(start)
	expect(t, f, start, "tok04/r1/i sent 2 acked 1 refused (bad)")
	m.Disconnected(start)
	expect(t, f, start, "tok04/r1/i gone sent 2 acked 1 refused (bad)")
}

// Two processes of one name are duplicates while both are connected; the one that stays is what is listed.
func TestDuplicatesAreReported(t *testing.T) {
	f := fleet.New(fleet.Config{})
	a := f.Connect(router("tok04", "r1", "a"), start)
	f.Connect(router("tok05", "r1", "c"), start)
	b := f.Connect(router("tok04", "r1", "b"), start)
	expect(t, f, start, "tok04/r1/a duplicate", "tok04/r1/b duplicate", "tok05/r1/c")
	a.Disconnected(start)
	expect(t, f, start, "tok04/r1/b", "tok05/r1/c")
	b.Disconnected(start)
	expect(t, f, start, "tok04/r1/b gone", "tok05/r1/c")
	f.Connect(router("tok04", "r1", "d"), start)
	expect(t, f, start, "tok04/r1/d", "tok05/r1/c")
}

// Routers that are gone are listed for a while, and never more than a number of them.
func TestTheGoneAreForgotten(t *testing.T) {
	f := fleet.New(fleet.Config{Keep: time.Minute, Limit: 2})
	for i, n := range []string{"a", "b", "c"} {
		f.Connect(router("tok04", n, "i"), start).Disconnected(start.Add(time.Duration(i) * time.Second))
	}
	f.Connect(router("tok04", "d", "i"), start)
	expect(t, f, start.Add(time.Second), "tok04/b/i gone", "tok04/c/i gone", "tok04/d/i")
	expect(t, f, start.Add(61*time.Second), "tok04/c/i gone", "tok04/d/i")
	expect(t, f, start.Add(time.Hour), "tok04/d/i")
}
