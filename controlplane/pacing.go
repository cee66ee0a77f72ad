package controlplane

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/release"
)

// patienceWithRouters is how long a piece of a large change is waited for, whoever has not answered by then: nobody waits
// for the slowest.
const patienceWithRouters = 500 * time.Millisecond

// publish makes t what the routers of an IngressController should have, or the next piece on the way there: see
// [release.Pace]. The next piece is published when they have answered the one before.
func (p *pipeline) publish(c *ingressController, t release.Target) {
	now := p.now()
	c.pace.Want(t.Snapshot)
	var urgent []string // what they refuse goes at once
	for _, name := range slices.Sorted(maps.Keys(c.quarantined.Resources)) {
		if c.pace.Waits(name) {
			urgent = append(urgent, name)
		}
	}
	routers := p.fleet.Progress(c.name, c.pace.Published().Version())
	if now.Before(c.due) && routers.Unheard > 0 && len(urgent) == 0 && !c.pace.Little() {
		return
	}
	t.Snapshot = c.pace.Next(ability(routers), urgent...)
	t.Waiting, c.due = c.pace.Waiting(), time.Time{}
	if t.Waiting > 0 {
		c.due = now.Add(patienceWithRouters)
	}
	p.log.Debug("published", "ingress_controller", c.name, "version", t.Snapshot.Version().Short(), "waiting", t.Waiting)
	p.board.Publish(c.name, t, now)
}

// ability is what all connected routers do without a reload. Nobody is delayed by a change where there is none.
func ability(routers fleet.Progress) release.Ability {
	if routers.Connected == 0 {
		return release.Reloads
	}
	all := release.Routes
	if routers.BackendsByReload {
		all = release.Facts
	}
	for _, v := range routers.HAProxyVersions {
		var major, minor int
		if _, err := fmt.Sscanf(v, "%d.%d", &major, &minor); err != nil {
			return release.Reloads // unknown
		}
		switch {
		case major < 3:
			return release.Reloads
		case major == 3 && minor < 4:
			all = release.Facts
		}
	}
	return all
}
