package controlplane

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// allowAnnotation on an IngressController lets Routes go that are held: see [release.Allowed].
const allowAnnotation = "tsuji.dev/allow-route-drop"

// guarded returns what may be published when s was compiled: see [release.Guard].
func (c *ingressController) guarded(s snapshot.Snapshot, sharedHosts bool, now time.Time, log *slog.Logger) snapshot.Snapshot {
	allowed, _, _ := release.Allowed(c.annotation(allowAnnotation), now) // alarms tell what is wrong with it
	s, held := c.guard.Take(s, sharedHosts, allowed, now)
	switch before := c.held; {
	case held == nil && before != nil:
		log.Info("removed Routes are no longer held", "ingress_controller", c.name, "routes", before.Routes, "allowed", allowed)
	case held != nil && before == nil:
		log.Error("most Routes went: they are held, and served on", "ingress_controller", c.name, "what", held.String(), "allow_with", allowAnnotation)
	}
	c.held = held
	return s
}

// alarms are what is to be told of it beside the faults that were compiled.
func (c *ingressController) alarms(keep time.Duration, now time.Time) (all []cluster.Fault) {
	tell := func(message, remedy string) {
		all = append(all, cluster.Fault{Place: c.key().String(), Message: message, Remedy: remedy})
	}
	if !c.left.IsZero() {
		tell(fmt.Sprintf("it was deleted; its routers go on by what it said last, until none of them has been connected for %s", keep),
			"end its routers, or create it again")
	}
	if n := len(c.quarantined.Resources); n > 0 {
		first := slices.Min(slices.Collect(maps.Keys(c.quarantined.Resources)))
		tell(fmt.Sprintf("routers refuse %d resources, which are served as they were last good or not at all, until they change: %s (%s)",
			n, first, c.quarantined.Resources[first].Told.GetMessage()), "change what is refused: tsuji routes tells of each Route")
	}
	if c.held != nil {
		tell(c.held.String()+"; they are served on, but for those whose host is another's by now, and everything else is followed",
			fmt.Sprintf("bring the Routes back, or let them go: annotate the IngressController with %s and the present time, as in %q, which is good for %s",
				allowAnnotation, "2026-01-02T15:04:05Z", release.Window))
	}
	if _, _, err := release.Allowed(c.annotation(allowAnnotation), now); err != nil {
		tell(fmt.Sprintf("annotation %s: %s; it allows nothing", allowAnnotation, err), "give the present time in UTC, or take the annotation away")
	}
	return all
}
