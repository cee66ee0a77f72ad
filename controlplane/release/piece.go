package release

import (
	"cmp"
	"slices"
)

// piece is what is taken together.
type piece struct {
	*Pace
	changes []*change // of which those that are pending yet were begun
	weight  int
	had     map[string]bool // namespaces that had a turn
	passed  []*tenant       // those whose next unit is too large to go with others
	over    map[string]bool // their names
	large   string          // the namespace of which such a unit went all the same; empty: of none
}

// wait is for how many pieces in a row something of a namespace has waited.
type wait struct {
	turn  int // for any turn
	large int // for one for a unit that is too large to go with others
}

// cut takes a piece from what is pending: what is urgent, and some of each namespace after the other, round by round.
// From the middle of the piece on those come first who have waited for long.
func (p *Pace) cut(urgent []string) (changes []*change, weight int) {
	out := &piece{Pace: p, had: map[string]bool{}, over: map[string]bool{}}
	for _, name := range urgent {
		if c := p.pending[name]; c != nil && !p.bonds.needed(c) {
			out.take(c, true)
		}
	}
	tenants := p.byWeight()
	var late []*tenant
	for _, t := range tenants {
		if p.waits[t.name].turn >= patienceWithOthers {
			late = append(late, t)
		}
	}
	slices.SortStableFunc(late, func(a, b *tenant) int {
		return cmp.Compare(p.waits[b.name].turn, p.waits[a.name].turn)
	})
	room := p.most()
	if out.due() {
		room = max(room/2, 1)
	}
	if len(late) > 0 {
		tenants = out.rounds(tenants, room/2)
		out.rounds(late, room)
	}
	out.rounds(tenants, room)
	out.takeLarge()
	out.remember()
	return out.changes, out.weight
}

// rounds lets namespaces take turns until the piece weighs so much. It returns those that have something left then.
func (p *piece) rounds(tenants []*tenant, most int) []*tenant {
	tenants = slices.Clone(tenants)
	for len(tenants) > 0 {
		var left []*tenant
		for i, t := range tenants {
			if p.weight >= most {
				return append(tenants[i:], left...)
			}
			if p.turn(t) {
				left = append(left, t)
			}
		}
		tenants = left
	}
	return nil
}

// turn takes as much of a namespace as it may change in one turn, and tells whether there may be more in another.
func (p *piece) turn(t *tenant) bool {
	if p.over[t.name] {
		return false
	}
	until := p.weight + min(turnWeight, p.most())
	for seed := p.seed(t); seed != nil; seed = p.seed(t) {
		if !p.take(seed, false) {
			t.queue = append([]*change{seed}, t.queue...)
			p.passed, p.over[t.name] = append(p.passed, t), true
			return false
		}
		if p.had[t.name] = true; p.weight >= until {
			return true
		}
	}
	return false
}

// due tells whether a large unit is to be in the piece, whatever else is, as the only one.
func (p *piece) due() bool { return p.Pace.passed >= patienceWithOthers }

// takeLarge takes a unit that is too large to go with others, if there are none, or it is due. It is that of the
// namespace that has waited for longest.
func (p *piece) takeLarge() {
	if len(p.passed) == 0 || len(p.changes) > 0 && !p.due() {
		return
	}
	longest := p.passed[0]
	for _, t := range p.passed {
		if p.waits[t.name].large > p.waits[longest.name].large {
			longest = t
		}
	}
	if seed := p.seed(longest); seed != nil { // else it went with what another took
		p.large = longest.name
		p.take(seed, false)
		p.had[longest.name] = true
	}
}

// remember counts who waited for another piece.
func (p *piece) remember() {
	if p.Pace.passed++; p.large != "" || len(p.passed) == 0 {
		p.Pace.passed = 0
	}
	waits := make(map[string]wait, len(p.tenants))
	for name := range p.tenants {
		w := p.waits[name]
		if w.turn++; p.had[name] {
			w.turn = 0
		}
		waits[name] = w
	}
	for _, t := range p.passed {
		if w, ok := waits[t.name]; ok && t.name != p.large {
			w.large++
			waits[t.name] = w
		}
	}
	if w, ok := waits[p.large]; ok {
		w.large = 0
		waits[p.large] = w
	}
	p.waits = waits
}

// take takes a change, and all that is bound to it; of Endpoints that change much a step, or with whole set all. It
// takes nothing, and tells so, if that is too large to go with what was taken before.
func (p *piece) take(seed *change, whole bool) bool {
	unit, free := p.unit(seed)
	steps, weight := p.weighUnit(unit, whole)
	if !whole && p.large == "" && weight > p.most()/4 && (p.weight+weight > p.most() || p.due()) {
		for _, c := range unit {
			p.bonds.add(c)
		}
		return false
	}
	p.weight += weight
	for i, c := range unit {
		if c.steps == 0 {
			p.changes = append(p.changes, c)
		}
		if c.steps += steps[i]; steps[i] == 0 {
			p.drop(c)
			p.uses.change(c.name, c.before, c.after)
			continue
		}
		p.bonds.add(c)
		if c == seed { // for its next turn
			t := p.tenants[namespaceOf(c.name)]
			t.queue = append(t.queue, c)
		}
	}
	for _, f := range free { // that nobody needs any more
		if c := p.pending[f]; c != nil && !c.will && !p.bonds.needed(c) {
			p.weight += p.Pace.weight(c)
			p.changes = append(p.changes, c)
			p.bonds.remove(c)
			p.drop(c)
		}
	}
	return true
}
