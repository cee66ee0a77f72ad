package release

import (
	"iter"
	"maps"
	"strings"

	"github.com/tsuji-dev/tsuji/snapshot"
)

// Weights are in commands to HAProxy 3.4, of some 20 µs on a quiet machine, with what it takes to plan them and to
// read back what they did. docs/performance.md has what was measured.
const (
	// pieceWeight is what a piece weighs, but for its last unit: some 0.1 s.
	pieceWeight = 4096
	// turnWeight is what a namespace may change in one turn: a Route with its Service and certificate, and some.
	turnWeight = 128

	// Any resource: it is sent, read, and recorded.
	resourceWeight = 4
	// A Route that comes or changes: HAProxy goes through all its backends for another one. That a change needs none
	// only routers know.
	routeWeight = 32
	// A Route that goes.
	goneWeight = 16
	// A server for an endpoint that comes, once for each Route.
	serverWeight = 4
	// A server that goes, or stays and is another.
	otherWeight = 1
	// So many servers of a backend of which others change are looked at, and read back, in the time of a command.
	lookedAt = 2
	// A certificate.
	certificateWeight = 8

	// A Service takes so many steps for one change at most, since in each of them all its servers are looked at.
	mostSteps = 8
	// And so many where Routes share their requests between Services, since in each of them all weights may change.
	mostShared = 3
	// What namespaces weigh is compared up to so many pieces: those that weigh more are alike.
	enough = 4
	// A unit that is larger than a piece is passed over so many times while there is something else to do. A namespace
	// that had no turn in so many pieces comes before those with less in the second half of the next.
	patienceWithOthers = 4
)

// uses tell what published Routes make of Endpoints.
type uses struct {
	routes map[string]int // by name: how many Routes need them
	shared map[string]int // of them, those that need others as well, so that weights depend on numbers
}

// change notes that a Route needs other facts than before.
func (u *uses) change(name string, before, after routing) {
	if !isRoute(name) {
		return
	}
	if u.routes == nil {
		u.routes, u.shared = map[string]int{}, map[string]int{}
	}
	for _, r := range []struct {
		routing
		n int
	}{{before, -1}, {after, 1}} {
		endpoints := r.endpoints()
		for _, f := range endpoints {
			if count(u.routes, f, r.n); len(endpoints) > 1 {
				count(u.shared, f, r.n)
			}
		}
	}
}

// Weight returns what all that is pending weighs; what is more than a piece may be any more.
func (p *Pace) Weight() int { return p.weigh(maps.Values(p.pending), p.most()) }

// weigh returns what changes weigh together, or one more than most if they weigh more.
func (p *Pace) weigh(changes iter.Seq[*change], most int) (weight int) {
	for c := range changes {
		if weight += p.weight(c); weight > most {
			return most + 1
		}
	}
	return weight
}

// weight returns what a change weighs by itself, if it is made at once.
func (p *Pace) weight(c *change) int {
	switch {
	case isRoute(c.name) && !c.will:
		return goneWeight
	case isRoute(c.name):
		weight := routeWeight
		for _, f := range c.after.endpoints() {
			weight += serverWeight * p.size(f, true)
		}
		return weight
	case isEndpoints(c.name) && c.will:
		return resourceWeight + p.weightOf(c, p.uses.routes[c.name], p.uses.shared[c.name], c.turnover.edits())
	case snapshot.PartOf(c.name) == snapshot.Facts && c.will && !isEndpoints(c.name):
		return certificateWeight + len(c.to.Encoded())>>10
	default:
		return resourceWeight
	}
}

// weightOf returns what so many more edits of Endpoints weigh that so many Routes need, some of them with others.
func (p *Pace) weightOf(c *change, routes, shared, edits int) int {
	t := c.turnover
	each := edits * t.weight() / max(t.edits(), 1)
	if c.steps == 0 {
		each += t.size() / lookedAt
		return routes*each + shared*otherWeight*t.size()
	}
	return routes * each
}

// size returns how many servers Endpoints make for a Route: as they are wanted, or as they are in the piece that is
// made.
func (p *Pace) size(name string, wanted bool) int {
	c := p.pending[name]
	switch {
	case c == nil:
		i, _ := p.published.Get(name)
		return p.sizeOf(i)
	case wanted:
		return c.turnover.after
	default:
		return min(c.turnover.before+c.steps, c.turnover.size())
	}
}

// sizeOf counts the endpoints of an item that get requests.
func (p *Pace) sizeOf(i snapshot.Item) int {
	known, ok := p.sizes[i.Name()]
	if !ok || known.of != i.Digest() {
		if known = (size{i.Digest(), usedOf(endpointsOf(i))}); p.sizes == nil {
			p.sizes = map[string]size{}
		}
		p.sizes[i.Name()] = known
	}
	return known.endpoints
}

// size is how many endpoints of a content get requests.
type size struct {
	of        snapshot.Digest
	endpoints int
}

// weighUnit returns how much of each change of a unit is to be taken, where zero is all of it, and what that weighs.
func (p *Pace) weighUnit(unit []*change, whole bool) (steps []int, weight int) {
	gained, shared := map[string]int{}, map[string]int{} // by Endpoints: Routes of the unit that need them now
	for _, c := range unit {
		if !isRoute(c.name) || !c.will {
			continue
		}
		endpoints := c.after.endpoints()
		for _, f := range endpoints {
			if gained[f]++; len(endpoints) > 1 {
				shared[f]++
			}
		}
	}
	steps = make([]int, len(unit))
	for i, c := range unit {
		switch {
		case isRoute(c.name) && c.will:
			weight += routeWeight
			for _, f := range c.after.endpoints() {
				weight += serverWeight * p.size(f, false)
			}
		case isEndpoints(c.name) && c.will:
			routes, together := p.uses.routes[c.name]+gained[c.name], p.uses.shared[c.name]+shared[c.name]
			left := c.turnover.edits() - c.steps
			if !whole {
				steps[i] = p.stepOf(c, routes, together, left)
			}
			take := left
			if steps[i] > 0 {
				take = steps[i]
			}
			weight += resourceWeight + p.weightOf(c, routes, together, take)
		default:
			weight += p.weight(c)
		}
	}
	return steps, weight
}

// stepOf returns how many of the edits of Endpoints that are left are to be made in one step; zero: all of them.
func (p *Pace) stepOf(c *change, routes, shared, left int) int {
	steps := mostSteps
	if shared > 0 {
		steps = mostShared
	}
	t := c.turnover
	weight := max(p.most()/4/max(routes, 1), serverWeight*t.size()/steps)
	step := max(weight*t.edits()/max(t.weight(), 1), 1)
	if step >= left {
		return 0
	}
	return step
}

func isEndpoints(name string) bool { return strings.HasPrefix(name, "endpoints/") }

// endpoints are the Endpoints among the facts.
func (r routing) endpoints() []string { return r.facts[r.others:] }
