package release

import "github.com/tsuji-dev/tsuji/snapshot"

// MostLost is a bound of what a Guard remembers.
const MostLost = mostLost

// Remembered returns how many bytes of Routes that went, and of facts that they need, a guard remembers.
func Remembered(g *Guard) (bytes int) {
	for _, l := range g.lost.routes {
		bytes += len(l.route.Encoded())
	}
	for _, f := range g.lost.facts {
		bytes += len(f.Encoded())
	}
	return bytes
}

// Fits tells whether a Route can stand beside those of a set, the youngest of all.
func Fits(shared bool, beside snapshot.Set, r snapshot.Item) bool {
	c := newClaims(shared)
	for i := range beside.All() {
		if isRoute(i.Name()) && i.Name() != r.Name() {
			c.add(routingOf(i).claim, 1)
		}
	}
	return c.fits(routingOf(r).claim)
}

// Small makes the pieces so small that little is cut, too.
func Small(p *Pace) { p.piece = 1 }
