package release

import (
	"strings"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// bonds tell which changes cannot go one without the other.
type bonds struct {
	gains, gives           map[string]set // Routes that come to a host, and those that leave it
	gainsBelow, givesBelow map[string]set // the same of the single hosts that a wildcard answers for
	users                  map[string]int // by fact: how many pending changes are of what needed it before
}

// set is changes, by name.
type set map[string]*change

func newBonds() bonds {
	return bonds{gains: map[string]set{}, gives: map[string]set{}, gainsBelow: map[string]set{},
		givesBelow: map[string]set{}, users: map[string]int{}}
}

// gains tells whether a change gives a Route a place that it had not.
func (c *change) gains() bool { return c.will && isRoute(c.name) && c.before.claim != c.after.claim }

// gives tells whether a change takes a Route from a place that it had.
func (c *change) gives() bool { return c.is && isRoute(c.name) && c.before.claim != c.after.claim }

// add indexes a change.
func (b *bonds) add(c *change) {
	b.each(c, func(of map[string]set, host string) {
		if of[host] == nil {
			of[host] = set{}
		}
		of[host][c.name] = c
	})
	for _, f := range c.before.facts {
		b.users[f]++
	}
}

// remove ends what add did, and returns the facts that nobody needs any more.
func (b *bonds) remove(c *change) (free []string) {
	b.each(c, func(of map[string]set, host string) {
		if delete(of[host], c.name); len(of[host]) == 0 {
			delete(of, host)
		}
	})
	for _, f := range c.before.facts {
		if count(b.users, f, -1); b.users[f] == 0 {
			free = append(free, f)
		}
	}
	return free
}

// each visits the indexes that a change is in.
func (b *bonds) each(c *change, visit func(of map[string]set, host string)) {
	if c.gains() {
		visit(b.gains, c.after.claim.host)
		if !c.after.claim.wildcard() {
			visit(b.gainsBelow, c.after.claim.above())
		}
	}
	if c.gives() {
		visit(b.gives, c.before.claim.host)
		if !c.before.claim.wildcard() {
			visit(b.givesBelow, c.before.claim.above())
		}
	}
}

// needed tells whether a change takes away a fact that is needed yet.
func (b *bonds) needed(c *change) bool { return !c.will && b.users[c.name] > 0 }

// visit tells take of the changes that have to go with c, or before it. It may be told of one twice. Of Endpoints that
// change much it is told only if none of those that there are stay: a Route can do with these meanwhile.
func (b *bonds) visit(c *change, pending map[string]*change, take func(*change)) {
	for _, f := range c.after.facts {
		if fact := pending[f]; fact != nil && fact.will && (!fact.turnover.many() || !fact.turnover.stay()) {
			take(fact)
		}
	}
	for _, other := range partners(c.name) {
		if r := pending[other]; r != nil {
			take(r)
		}
	}
	all := func(s set) {
		for _, o := range s {
			take(o)
		}
	}
	if c.gains() {
		b.against(c.after.claim, take)
	}
	if c.gives() { // who comes to where it leaves comes first
		claim := c.before.claim
		all(b.gains[claim.host])
		if claim.wildcard() {
			all(b.gainsBelow[claim.host])
		} else {
			all(b.gains[claim.above()])
		}
	}
}

// against tells take of those that leave a place that cannot stand beside a claim.
func (b *bonds) against(a claim, take func(*change)) {
	for _, c := range b.gives[a.host] {
		o := c.before.claim
		if o.namespace != a.namespace || o.claimedPath == a.claimedPath || o.passthrough && a.tls || o.tls &&
			a.passthrough {
			take(c)
		}
	}
	across := b.gives[a.above()]
	if a.wildcard() {
		across = b.givesBelow[a.host]
	}
	for _, c := range across {
		if c.before.claim.namespace != a.namespace {
			take(c)
		}
	}
}

// partners are the resources that are of one object with this one: a Route's own certificate is for the Route's host.
func partners(name string) []string {
	namespace := namespaceOf(name)
	if isRoute(name) {
		route := strings.TrimPrefix(name, "route/"+namespace+"/")
		return []string{
			tsujiv1.CertificateName(namespace, tsujiv1.FromRoute, route),
			tsujiv1.CertificateName(namespace, tsujiv1.FromDestinationCA, route),
		}
	}
	for _, source := range []tsujiv1.CertificateSource{tsujiv1.FromRoute, tsujiv1.FromDestinationCA} {
		if route, ok := strings.CutPrefix(name, tsujiv1.CertificateName(namespace, source, "")); ok {
			return []string{tsujiv1.RouteName(namespace, route)}
		}
	}
	return nil
}
