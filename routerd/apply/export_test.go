package apply

import (
	"context"
	"time"
)

// Freeze keeps whatever the Applier still does from HAProxy, a Stop that is under way too, as the end of the process would.
// thaw ends that.
func (a *Applier) Freeze() (thaw func()) {
	a.turn <- struct{}{}
	return a.give
}

// HurryDrift makes the check for drift take its next turn at once.
func (a *Applier) HurryDrift() {
	a.turn <- struct{}{}
	defer a.give()
	a.drift.due = time.Time{}
}

// ServedMost is the longest that a HAProxy which came up, and ended, is left alone.
const ServedMost = servedMost

// NextTry returns how long HAProxy is left alone from now on, should it end.
func (a *Applier) NextTry() time.Duration {
	a.turn <- struct{}{}
	defer a.give()
	return time.Until(a.mending.retry)
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

// TryDeletions makes the janitor try at once to delete all that is on its way out, but for what it is never to try.
func (a *Applier) TryDeletions(ctx context.Context) {
	a.turn <- struct{}{}
	defer a.give()
	begun := time.Now()
	hurry := func(t *try) {
		if t.due.Before(begun.Add(never / 2)) {
			t.due = begun
		}
	}
	for _, b := range a.held.backends {
		hurry(&b.try)
	}
	for _, of := range a.held.servers {
		for _, s := range of {
			hurry(&s.try)
		}
	}
	for _, f := range a.held.files {
		hurry(&f.try)
	}
	for !a.held.janitorDue().After(begun) {
		a.resting = time.Time{}
		a.clean(ctx, time.Now())
	}
}

// ReloadCosts makes the Applier believe that a reload takes so long, until there is one: an hour, and every change that can
// be is made by commands; nothing, and none is.
func (a *Applier) ReloadCosts(d time.Duration) {
	a.turn <- struct{}{}
	defer a.give()
	a.costs.reload = d
}

// HurryMends makes the check for drift try again at once what a repair has not changed; with reload as if HAProxy had not
// been reloaded for anything else lately.
func (a *Applier) HurryMends(reload bool) {
	a.turn <- struct{}{}
	defer a.give()
	for _, m := range a.mends.list {
		m.next = time.Time{}
	}
	if reload {
		a.mends.reload = time.Time{}
	}
}

// HoldReloads makes the Applier believe that there were many reloads, the last of them so long from now; with nothing, that
// there were none.
func (a *Applier) HoldReloads(d time.Duration) {
	a.turn <- struct{}{}
	defer a.give()
	a.pace = pace{}
	if d > 0 {
		a.pace = pace{last: time.Now().Add(d), streak: 100}
	}
}
