package controlplane

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/release"
)

const (
	// patienceWithRouters is how long a piece is waited for once some router has answered it: nobody waits for the
	// slowest.
	patienceWithRouters = 500 * time.Millisecond
	// patienceWithAll is how long it is waited for while none has: what would be published meanwhile would reach them
	// in one piece with what follows.
	patienceWithAll = 5 * time.Second
)

// publish makes t what the routers of an IngressController should have, or the next piece on the way there: see
// [release.Pace]. What they have not answered yet, and what is published next, are no more than a piece together; else
// it waits for their answers.
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
	if routers.Unheard == 0 {
		c.unanswered = 0
	}
	due := c.sent.Add(patienceWithAll)
	if routers.Unheard < routers.Connected {
		due = c.sent.Add(patienceWithRouters)
	}
	if now.Before(due) && routers.Unheard > 0 && len(urgent) == 0 && !c.pace.Little(c.unanswered) {
		c.due = due
		return
	}
	before := c.pace.Published().Version()
	published, weight := c.pace.Next(ability(routers), urgent...)
	if t.Snapshot = published; !published.Version().Equal(before) {
		if c.unanswered += weight; !now.Before(due) {
			c.unanswered = weight
		}
		c.sent = now
	}
	t.Waiting, c.due = c.pace.Waiting()+c.later, time.Time{}
	if c.pace.Waiting() > 0 {
		c.due = c.sent.Add(patienceWithAll)
	}
	p.log.Debug("published", "ingress_controller", c.name, "version", t.Snapshot.Version().Short(),
		"weight", weight, "waiting", t.Waiting)
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
