package apply

import "time"

// ReloadCosts makes the Applier believe that a reload takes so long, until there is one: an hour, and every change that can
// be is made by commands; nothing, and none is.
func (a *Applier) ReloadCosts(d time.Duration) {
	a.turn <- struct{}{}
	defer a.give()
	a.costs.reload = d
}
