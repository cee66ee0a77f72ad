package release

import (
	"cmp"
	"maps"
	"slices"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// pieceWeight is what a piece weighs, but for its last unit: a router on HAProxy 3.4 needs some 0.1 s for it. A resource
// weighs one, and one more for each kilobyte: an endpoint, of which a resource may have thousands, is a command as well. A
// Route that is new weighs twice as much: HAProxy goes through all its backends for another one.
const pieceWeight = 256

// turnWeight is what a namespace may change in one turn: a Route with its Service and certificate, and some.
const turnWeight = 8

// Ability is what the routers of an IngressController do without a reload. Since a reload takes as long whatever is
// changed by it, what needs one is not cut into pieces.
type Ability int

// From what is changed by reloads to what is changed by commands.
const (
	Reloads Ability = iota // every change of Routes or endpoints, before HAProxy 3.0
	Facts                  // endpoints and certificates need none
	Routes                 // nor do Routes, from HAProxy 3.4 on
)

// Pace leads from what is published to what is wanted, at once if that is little, else in pieces, so that a large change
// of one tenant delays nobody else's by more than a piece takes.
//
// In a piece namespaces take turns, those with the least to change first: who changes one thing has it in the next
// piece, whatever others do. A host never has two owners in between, nor none that had one before and has one after; a
// Route comes with the facts that it needs or after them, and they go with it or after it. What is bound to each other by
// that makes a unit, which goes whole, however large. Pieces are a function of what is published and wanted: replicas of
// which these are equal make equal pieces. Each costs in proportion to what is in it.
//
// The zero Pace has published nothing; what is wanted first is published whole.
type Pace struct {
	published, wanted snapshot.Snapshot
	begun             bool // whether anything was published
	piece             int  // what a piece weighs; zero: pieceWeight

	pending map[string]*change // what differs between the two, by resource name
	weight  int                // of all that is pending
	tenants map[string]*tenant // what is pending, by namespace
	bonds   bonds              // of what is pending and was indexed
	fresh   map[string]*change // what is pending and was not
}

// change is a resource that differs.
type change struct {
	name          string
	from, to      snapshot.Item // the zero Item: there is none
	is, will      bool          // whether there is from, and to
	before, after routing       // of config, once it is indexed
	weight        int
}

// tenant is what is pending of a namespace.
type tenant struct {
	name    string
	changes map[string]*change
	weight  int
	queue   []*change // changes in their order, and what is pending no more; nil: to be made
}

// Want makes s what is wanted.
func (p *Pace) Want(s snapshot.Snapshot) {
	diff := snapshot.Diff(p.wanted, s)
	if p.wanted = s; !p.begun {
		return
	}
	for _, i := range diff.Put {
		p.note(i.Name(), i, true)
	}
	for _, name := range diff.Removed {
		p.note(name, snapshot.Item{}, false)
	}
}

// note makes a resource pending, or not, by what it is to be.
func (p *Pace) note(name string, to snapshot.Item, will bool) {
	p.settle(p.pending[name])
	from, is := p.published.Get(name)
	if is == will && from.Digest() == to.Digest() {
		return
	}
	c := &change{name: name, from: from, to: to, is: is, will: will, weight: 1 + (len(to.Encoded()) >> 10)}
	if will && !is && snapshot.PartOf(name) == snapshot.Config {
		c.weight++
	}
	if p.pending == nil {
		p.pending, p.tenants, p.fresh, p.bonds = map[string]*change{}, map[string]*tenant{}, map[string]*change{}, newBonds()
	}
	p.pending[name], p.fresh[name] = c, c
	p.weight += c.weight
	t := p.tenants[namespaceOf(name)]
	if t == nil {
		t = &tenant{name: namespaceOf(name), changes: map[string]*change{}}
		p.tenants[t.name] = t
	}
	t.changes[name], t.queue = c, nil
	t.weight += c.weight
}

// settle makes a change pending no more; nil is none.
func (p *Pace) settle(c *change) {
	if c == nil {
		return
	}
	if p.fresh[c.name] == nil {
		for _, fact := range p.bonds.remove(c) {
			p.release(fact)
		}
	}
	p.drop(c)
}

// drop takes a change from what is pending. The bonds do not have it.
func (p *Pace) drop(c *change) {
	delete(p.pending, c.name)
	delete(p.fresh, c.name)
	p.weight -= c.weight
	t := p.tenants[namespaceOf(c.name)]
	delete(t.changes, c.name)
	if t.weight -= c.weight; len(t.changes) == 0 {
		delete(p.tenants, t.name)
	}
}

// release has a fact that nobody needs any more looked at again, if it is to go.
func (p *Pace) release(fact string) {
	if c := p.pending[fact]; c != nil && !c.will {
		p.tenants[namespaceOf(fact)].queue = nil
	}
}

// Waiting returns how many resources are not yet published as they are wanted.
func (p *Pace) Waiting() int { return len(p.pending) }

// Waits tells whether a resource of this name is not yet published as it is wanted.
func (p *Pace) Waits(name string) bool { return p.pending[name] != nil }

// Published returns what is published.
func (p *Pace) Published() snapshot.Snapshot { return p.published }

// Next publishes: what is wanted, or the next piece on the way there. It returns what is published then. Resources that are
// urgent are in the piece, whatever else is.
func (p *Pace) Next(a Ability, urgent ...string) snapshot.Snapshot {
	if p.whole(a) {
		*p = Pace{published: p.wanted, wanted: p.wanted, begun: true, piece: p.piece}
		return p.published
	}
	for _, c := range p.fresh {
		c.before, c.after = routing{}, routing{}
		if c.is && snapshot.PartOf(c.name) == snapshot.Config {
			c.before = routingOf(c.from)
		}
		if c.will && snapshot.PartOf(c.name) == snapshot.Config {
			c.after = routingOf(c.to)
		}
		p.bonds.add(c)
	}
	clear(p.fresh)
	var piece snapshot.Delta
	for _, c := range p.cut(urgent) {
		if c.will {
			piece.Put = append(piece.Put, c.to)
		} else {
			piece.Removed = append(piece.Removed, c.name)
		}
	}
	if len(p.pending) == 0 {
		p.published = p.wanted
	} else {
		p.published = p.published.Apply(p.wanted.Version().Revision, piece)
	}
	return p.published
}

// whole tells whether what is wanted is published at once. Settings that are different are a reload everywhere.
func (p *Pace) whole(a Ability) bool {
	if _, ok := p.pending[tsujiv1.SettingsName]; ok || a == Reloads || p.Little() {
		return true
	}
	if a == Routes {
		return false
	}
	for name := range p.pending {
		if snapshot.PartOf(name) == snapshot.Config {
			return true
		}
	}
	return false
}

// Little tells whether all that is pending is no more than a piece, which need not wait for an answer to the one before.
func (p *Pace) Little() bool { return p.weight <= cmp.Or(p.piece, pieceWeight) }

// cut takes a piece from what is pending: what is urgent, and some of each namespace after the other, round by round.
func (p *Pace) cut(urgent []string) (piece []*change) {
	weight, most := 0, cmp.Or(p.piece, pieceWeight)
	take := func(seed *change) {
		for _, c := range p.unit(seed) {
			weight += c.weight
			piece = append(piece, c)
		}
	}
	for _, name := range urgent {
		if c := p.pending[name]; c != nil && !p.bonds.needed(c) {
			take(c)
		}
	}
	tenants := slices.SortedFunc(maps.Values(p.tenants), func(a, b *tenant) int {
		return cmp.Or(cmp.Compare(a.weight, b.weight), cmp.Compare(a.name, b.name))
	})
	for len(tenants) > 0 {
		left := tenants[:0]
		for _, t := range tenants {
			if weight >= most {
				return piece
			}
			seed := p.seed(t)
			for until := weight + min(turnWeight, most); seed != nil; seed = p.seed(t) {
				if take(seed); weight >= until {
					left = append(left, t)
					break
				}
			}
		}
		tenants = left
	}
	return piece
}

// seed returns the next change of a namespace that may go; nil: there is none left, or all that is left goes with what
// others change.
func (p *Pace) seed(t *tenant) *change {
	if t.queue == nil {
		t.queue = slices.SortedFunc(maps.Values(t.changes), func(a, b *change) int {
			return cmp.Or(cmp.Compare(a.order(), b.order()), cmp.Compare(a.name, b.name))
		})
	}
	for len(t.queue) > 0 {
		c := t.queue[0]
		t.queue = t.queue[1:]
		if p.pending[c.name] == c && !p.bonds.needed(c) {
			return c
		}
	}
	return nil
}

// order is which changes of a namespace come first: Settings and facts that come, Routes that give nothing up, those that
// do, facts that go. So it is rarely that one has to take others along.
func (c *change) order() int {
	switch {
	case snapshot.PartOf(c.name) == snapshot.Facts && !c.will:
		return 3
	case c.gives():
		return 2
	case isRoute(c.name):
		return 1
	default:
		return 0
	}
}

// unit takes a change, and all that is bound to it, from what is pending.
func (p *Pace) unit(seed *change) (unit []*change) {
	var free []string // facts that nobody needs any more
	take := func(c *change) {
		if p.pending[c.name] == c {
			unit = append(unit, c)
			free = append(free, p.bonds.remove(c)...)
			p.drop(c)
		}
	}
	take(seed)
	for i := 0; i < len(unit); i++ { // it grows
		p.bonds.visit(unit[i], p.pending, take)
	}
	for _, f := range free {
		if c := p.pending[f]; c != nil && !c.will && !p.bonds.needed(c) {
			take(c)
		}
	}
	return unit
}
