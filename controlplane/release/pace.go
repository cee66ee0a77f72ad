package release

import (
	"cmp"
	"maps"
	"slices"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// Ability is what the routers of an IngressController do without a reload. Since a reload takes as long whatever is
// changed by it, what needs one is not cut into pieces.
type Ability int

// From what is changed by reloads to what is changed by commands.
const (
	Reloads Ability = iota // every change of Routes or endpoints, before HAProxy 3.0
	Facts                  // endpoints and certificates need none
	Routes                 // nor do Routes, from HAProxy 3.4 on
)

// Pace leads from what is published to what is wanted, at once if that is little, else in pieces, so that a large
// change of one tenant delays nobody else's by more than a piece takes.
//
// In a piece namespaces take turns, those with the least to change first: who changes one thing has it in the next
// piece, whatever others do. Who has waited for several pieces has a part of the next one, so that nobody waits for ever
// for those that change less. A host never has two owners in between, nor none that had one before and has one after; a
// Route comes with the facts that it needs or after them, and they go with it or after it. What is bound to each other
// by that makes a unit, which goes whole, however large; but of a unit that is larger than a piece others are not kept
// waiting: it goes by itself. Endpoints of one Service that are many come, and go, in steps. Pieces are a function of
// what is published and wanted, and of who has waited for how many: replicas of which these are equal make equal pieces.
// Each costs in proportion to what is in it.
//
// The zero Pace has published nothing; what is wanted first is published whole.
type Pace struct {
	published, wanted snapshot.Snapshot
	begun             bool // whether anything was published
	piece             int  // what a piece weighs; zero: pieceWeight

	pending map[string]*change // what differs between the two, by resource name
	tenants map[string]*tenant // what is pending, by namespace
	bonds   bonds              // of what is pending
	uses    uses               // of what is published
	sizes   map[string]size    // of published Endpoints, by name, as far as somebody asked
	waits   map[string]wait    // of what is pending, by namespace
	passed  int                // pieces in a row that a large unit was left out of
}

// change is a resource that differs.
type change struct {
	name          string
	from, to      snapshot.Item // the zero Item: there is none
	is, will      bool          // whether there is from, and to
	before, after routing       // of config
	turnover      turnover      // of Endpoints
	steps         int           // how much of the turnover is in the piece that is being made
}

// tenant is what is pending of a namespace.
type tenant struct {
	name    string
	changes map[string]*change
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
	c := &change{name: name, from: from, to: to, is: is, will: will}
	delete(p.sizes, name)
	if snapshot.PartOf(name) == snapshot.Config {
		c.before, c.after = routingOf(from), routingOf(to)
	} else if isEndpoints(name) {
		c.turnover = turnoverOf(from, to)
	}
	if p.pending == nil {
		p.pending, p.tenants, p.bonds = map[string]*change{}, map[string]*tenant{}, newBonds()
	}
	p.pending[name] = c
	t := p.tenants[namespaceOf(name)]
	if t == nil {
		t = &tenant{name: namespaceOf(name), changes: map[string]*change{}}
		p.tenants[t.name] = t
	}
	t.changes[name], t.queue = c, nil
	p.bonds.add(c)
}

// settle makes a change pending no more; nil is none.
func (p *Pace) settle(c *change) {
	if c == nil {
		return
	}
	for _, fact := range p.bonds.remove(c) {
		p.release(fact)
	}
	p.drop(c)
}

// drop takes a change from what is pending. The bonds do not have it.
func (p *Pace) drop(c *change) {
	delete(p.pending, c.name)
	t := p.tenants[namespaceOf(c.name)]
	if delete(t.changes, c.name); len(t.changes) == 0 {
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

// Waits tells whether a resource of this name is not yet published as it is wanted, and can be in the next piece. A fact
// that is to go cannot while there is something that needs it.
func (p *Pace) Waits(name string) bool {
	c := p.pending[name]
	return c != nil && !p.bonds.needed(c)
}

// Published returns what is published.
func (p *Pace) Published() snapshot.Snapshot { return p.published }

// Next publishes: what is wanted, or the next piece on the way there. It returns what is published then, and what the
// difference weighs. Resources that are urgent are in the piece, whatever else is.
func (p *Pace) Next(a Ability, urgent ...string) (s snapshot.Snapshot, weight int) {
	if p.whole(a) {
		return p.all()
	}
	changes, weight := p.cut(urgent)
	var piece snapshot.Delta
	var begun []*change
	for _, c := range changes {
		switch {
		case p.pending[c.name] == c:
			piece.Put = append(piece.Put, c.step())
			begun = append(begun, c)
		case c.will:
			piece.Put = append(piece.Put, c.to)
		default:
			piece.Removed = append(piece.Removed, c.name)
		}
	}
	if len(p.pending) == 0 {
		p.published = p.wanted
	} else {
		p.published = p.published.Apply(p.wanted.Version().Revision, piece)
	}
	for _, c := range begun { // of which more is to come
		p.note(c.name, c.to, true)
	}
	return p.published, weight
}

// all publishes all that is wanted.
func (p *Pace) all() (s snapshot.Snapshot, weight int) {
	weight = p.Weight()
	if !p.begun {
		for i := range p.wanted.Config().All() {
			p.uses.change(i.Name(), routing{}, routingOf(i))
		}
	}
	for _, c := range p.pending {
		p.uses.change(c.name, c.before, c.after)
	}
	*p = Pace{published: p.wanted, wanted: p.wanted, begun: true, piece: p.piece, uses: p.uses, sizes: p.sizes}
	return p.published, weight
}

// whole tells whether what is wanted is published at once. Settings that are different are a reload everywhere.
func (p *Pace) whole(a Ability) bool {
	if _, ok := p.pending[tsujiv1.SettingsName]; ok || a == Reloads || p.Little(0) {
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

// Little tells whether all that is pending is no more than a piece, with what weighs so much beside it.
func (p *Pace) Little(beside int) bool { return len(p.pending) == 0 || beside+p.Weight() <= p.most() }

// most is what a piece weighs, but for its last unit.
func (p *Pace) most() int { return cmp.Or(p.piece, pieceWeight) }

// byWeight returns the namespaces in the order in which they have their turns.
func (p *Pace) byWeight() []*tenant {
	weights := make(map[*tenant]int, len(p.tenants))
	for _, t := range p.tenants {
		weights[t] = p.weigh(maps.Values(t.changes), enough*p.most())
	}
	return slices.SortedFunc(maps.Values(p.tenants), func(a, b *tenant) int {
		return cmp.Or(cmp.Compare(weights[a], weights[b]), cmp.Compare(a.name, b.name))
	})
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

// order is which changes of a namespace come first: Settings and facts, Routes that give nothing up, those that do,
// facts that go. So it is rarely that one has to take others along. Endpoints that are new come with the Route that
// needs them, and many in steps, for which Routes do not wait.
func (c *change) order() int {
	switch {
	case snapshot.PartOf(c.name) == snapshot.Facts && !c.will:
		return 4
	case isEndpoints(c.name) && (!c.is || c.turnover.many()):
		return 3
	case c.gives():
		return 2
	case isRoute(c.name):
		return 1
	default:
		return 0
	}
}

// unit takes a change, and all that is bound to it, out of the bonds. It returns them, and the facts that then nobody
// needs any more.
func (p *Pace) unit(seed *change) (unit []*change, free []string) {
	in := map[*change]bool{}
	take := func(c *change) {
		if in[c] || c != seed && c.steps > 0 { // of what is begun there is enough in the piece
			return
		}
		in[c] = true
		unit = append(unit, c)
		free = append(free, p.bonds.remove(c)...)
	}
	take(seed)
	for i := 0; i < len(unit); i++ { // it grows
		p.bonds.visit(unit[i], p.pending, take)
	}
	return unit, free
}
