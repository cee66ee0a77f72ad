package release_test

import (
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/controlplane/release"
)

// Where nobody says which zones there are each is served; else those that are named, each for its IngressController. Who
// waits learns that it is another matter now.
func TestZones(t *testing.T) {
	b := release.NewBoard(1)
	refused := func(ingressController, zone, want string) {
		t.Helper()
		why := b.Refuses(release.View{IngressController: ingressController, Zone: zone})
		if (why == "") != (want == "") || !strings.Contains(why, want) {
			t.Errorf("%s in %s: %q, want %q", ingressController, zone, why, want)
		}
	}
	refused("default", "anywhere", "")
	b.Publish("default", target(1, "x", 1), start)
	_, _, waits := b.Target(view)
	_, _, waitsForAnother := b.Target(release.View{IngressController: "other"})
	b.SetZones(map[string]string{"tok04": "default", "tok05": "internal"})
	if !closed(waits) || !closed(waitsForAnother) {
		t.Error("who waits does not learn that there are zones")
	}
	refused("default", "tok04", "")
	refused("internal", "tok05", "")
	refused("default", "tok06", `make a Zone of that name with spec.ingressController "default"`)
	refused("default", "tok05", `of the IngressController "internal"`)
	_, _, waits = b.Target(view)
	b.SetZones(map[string]string{"tok04": "default", "tok05": "internal"})
	if closed(waits) {
		t.Error("who waits is woken though the zones are the same")
	}
	b.SetZones(nil)
	refused("default", "tok06", "")
}
