package apply

import (
	"context"
	"time"
)

// HurryDrift makes the check for drift take its next turn at once.
func (a *Applier) HurryDrift() {
	a.turn <- struct{}{}
	defer a.give()
	a.drift.due = time.Time{}
}

// BeginDrift begins a round of the check for drift, and looks at nothing yet.
func (a *Applier) BeginDrift() {
	a.turn <- struct{}{}
	defer a.give()
	a.drift.round, a.drift.slice = a.newRound(), driftLeast
}

// DriftTurn takes a turn of the check for drift, the list of proxies included, and tells whether that ended a round.
func (a *Applier) DriftTurn(ctx context.Context) (ended bool, err error) {
	a.turn <- struct{}{}
	a.drift.due = time.Time{}
	err = a.checkDrift(ctx, time.Now())
	ended = a.drift.list
	<-a.turn
	if ended {
		a.listClosed(ctx)
	}
	return ended, err
}

// ReloadCosts makes the Applier believe that a reload takes so long, until there is one: an hour, and every change that can
// be is made by commands; nothing, and none is.
func (a *Applier) ReloadCosts(d time.Duration) {
	a.turn <- struct{}{}
	defer a.give()
	a.costs.reload = d
}
