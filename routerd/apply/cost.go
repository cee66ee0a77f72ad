package apply

import (
	"time"

	"github.com/tsuji-dev/tsuji/routerd/render"
)

// worthwhile is how many times as long as a reload a change by commands may take: a reload leaves an old worker
// behind, with all its memory, until its last connection ends.
const worthwhile = 2

// few operations are never worth a reload, whatever they have cost lately: where they take long the machine is busy, and
// a reload, which was measured at another time, would take longer as well.
const few = 1000

// What things cost before any was measured: on a small machine, with a thousand routes.
const (
	firstFixed   = 300 * time.Microsecond // of any change: stamps, waits for answers
	firstOp      = 15 * time.Microsecond  // of a command among others
	firstBackend = 300 * time.Microsecond // of a new backend beyond its command: HAProxy goes through all that it has
	firstReload  = 300 * time.Millisecond
)

// costs is what changes have cost lately on this HAProxy, as moving averages.
type costs struct {
	op, backend time.Duration
	reload      time.Duration // from the files to the worker that serves them; the last, not an average: it grows with what is served
}

func newCosts() costs { return costs{op: firstOp, backend: firstBackend, reload: firstReload} }

// online estimates how long so many commands take, so many of which add backends.
func (c *costs) online(operations, backends int) time.Duration {
	return firstFixed + time.Duration(operations)*c.op + time.Duration(backends)*c.backend
}

// tooLong tells whether a reload is better than to carry out a plan.
func (c *costs) tooLong(p *plan) bool { return c.tooMany(p.operations(), p.added) }

// tooMany tells whether a reload is better than so many commands, so many of which add backends.
func (c *costs) tooMany(operations, backends int) bool {
	return operations >= few && c.online(operations, backends) > worthwhile*c.reload
}

// atLeast returns how many operations the plan of a change has at least, and how many backends it adds at least, before
// anything is planned: where a reload is cheaper than that, no plan is made.
func (in planner) atLeast(c render.Change) (operations, backends int) {
	operations = 2*len(c.Entries) + len(c.CrtList) // each entry is read back
	for _, f := range c.CAs {
		if f.New != nil {
			operations++
		}
	}
	for _, f := range c.Certificates {
		if f.New != nil {
			operations += 3
		}
	}
	for _, b := range c.Backends {
		if b.New == nil {
			continue
		}
		operations++
		if b.Old != nil && b.Old.Kind() == b.New.Kind() || !in.can.DynamicBackends || len(in.held.leaving(b.Name)) > 0 {
			continue // it may be that next to nothing is to be done
		}
		backends++
		operations += 2 + 2*len(b.New.Servers)
	}
	return operations, backends
}

// learn takes in what a change has cost. A small one tells little about a large one.
func (c *costs) learn(operations, backends int, took time.Duration) {
	const enough = 8
	took -= firstFixed
	switch {
	case backends >= enough/4:
		took -= time.Duration(operations) * c.op
		average(&c.backend, took/time.Duration(backends))
	case backends == 0 && operations >= enough:
		average(&c.op, took/time.Duration(operations))
	}
}

// average moves an average a quarter of the way, and never to nothing. One pause of the machine says little: it counts as
// four times the average at most.
func average(avg *time.Duration, d time.Duration) {
	*avg += (min(max(d, 2*time.Microsecond), 4**avg) - *avg) / 4
}
