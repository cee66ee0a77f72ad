package compile

import (
	"cmp"
	"maps"
	"slices"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// given are hosts of which some were served and are not any more, so that others may have to answer for them.
type given struct {
	claims []*claim            // those of which touches was not asked yet
	hosts  map[string]struct{} // wildcards by "*." and parent
	below  map[string]struct{} // wildcards that answer for the single ones of these
}

func (g *given) add(c *claim) { g.claims = append(g.claims, c) }

// index takes in the claims. Nearly always nobody asks for them.
func (g *given) index() {
	if g.hosts == nil {
		g.hosts, g.below = map[string]struct{}{}, map[string]struct{}{}
	}
	for _, c := range g.claims {
		g.hosts[c.key()] = struct{}{}
		if !c.wildcard {
			g.below["*."+parent(c.host)] = struct{}{}
		}
	}
	g.claims = nil
}

// touches tells whether who has a claim may have to answer for one of the hosts.
func (g *given) touches(c *claim) bool {
	if len(g.claims) > 0 {
		g.index()
	}
	if _, ok := g.hosts[c.key()]; ok {
		return true
	}
	if c.wildcard {
		_, ok := g.below[c.key()]
		return ok
	}
	_, ok := g.hosts["*."+parent(c.host)]
	return ok
}

// key is the host, or what stands for all hosts of a wildcard.
func (c *claim) key() string {
	if c.wildcard {
		return "*." + parent(c.host)
	}
	return c.host
}

// published tells whether a route was served after the last Apply.
func (c *Compiler) published(r *route) bool {
	_, ok := c.config.Get(tsujiv1.RouteName(r.id.Namespace, r.id.Name))
	return ok
}

// putOff leaves routes that are new to a later Apply where there are more than one is to look at: those of the
// namespaces that have most. But half of what is looked at is for those of which nothing was in the Applies before, if
// there are any, who waited for longest first: nobody waits for ever for those that have less. What stands where is
// decided with all of them, so nobody has a host meanwhile whom they come before; and one that comes to a host in place
// of another comes as that one goes.
func (c *Compiler) putOff(d *dirty, g *given) {
	for k, r := range c.later {
		if _, ok := d.content[k]; !ok {
			d.content[k] = r
		}
	}
	if len(c.later) > 0 || c.later == nil {
		c.later = map[id]*route{} // not cleared: see claims.settle
	}
	if c.most == 0 {
		return
	}
	was := c.waits
	c.waits = nil
	all, total := c.waiting(d, g)
	if total <= c.most {
		return
	}
	var late []*waiting
	for _, w := range all {
		if slices.SortFunc(w.routes, older); was[w.namespace] > 0 {
			late = append(late, w)
		}
	}
	slices.SortStableFunc(late, func(a, b *waiting) int { return cmp.Compare(was[b.namespace], was[a.namespace]) })
	half := (c.most + 1) / 2
	c.share(all, c.most-half+c.share(late, half))
	c.waits = map[string]int{}
	for _, w := range all {
		for _, r := range w.routes {
			delete(d.content, r.id)
			c.later[r.id] = r
		}
		if len(w.routes) > 0 && !w.had {
			c.waits[w.namespace] = was[w.namespace] + 1
		}
	}
}

// waiting returns the routes that may wait, those of the namespaces that have least first, and what they cost.
func (c *Compiler) waiting(d *dirty, g *given) (all []*waiting, total int) {
	byNamespace := map[string]*waiting{}
	for k, r := range d.content {
		if !c.mayWait(r) || g.touches(r.claim) {
			continue
		}
		w := byNamespace[k.Namespace]
		if w == nil {
			w = &waiting{namespace: k.Namespace}
			byNamespace[k.Namespace] = w
		}
		cost := c.cost(r)
		w.routes = append(w.routes, r)
		w.cost += cost
		total += cost
	}
	return slices.SortedFunc(maps.Values(byNamespace), func(a, b *waiting) int {
		return cmp.Or(cmp.Compare(a.cost, b.cost), cmp.Compare(a.namespace, b.namespace))
	}), total
}

// share gives each namespace its share of what may be looked at, and returns what is left. What the first ones do not
// need is shared by the others; what a single route costs more than the share is theirs, too.
func (c *Compiler) share(all []*waiting, left int) int {
	for i, w := range all {
		rest := len(all) - i
		share, taken := min(w.cost, (left+rest-1)/rest), 0
		for taken < share && len(w.routes) > 0 {
			taken += c.cost(w.routes[0])
			w.routes, w.had = w.routes[1:], true
		}
		w.cost -= taken
		left = max(left-taken, 0)
	}
	return left
}

// waiting are the routes of a namespace that may wait.
type waiting struct {
	namespace string
	routes    []*route // that have no turn yet
	cost      int      // of these
	had       bool     // whether one had its turn
}

// endpointsForOne is how many endpoints cost as much as a route.
const endpointsForOne = 8

// cost is what it costs to look at a route that is new, as many times as a usual one.
func (c *Compiler) cost(r *route) int {
	endpoints := 0
	for _, name := range servicesOf(r.object) {
		for _, s := range c.objects.slices[id{Namespace: r.id.Namespace, Name: name}] {
			endpoints += len(s.Endpoints)
		}
	}
	return 1 + endpoints/endpointsForOne
}

// mayWait tells whether a route can be looked at later: it is not served, and nothing is known yet that keeps it from
// being served. One for which something is kept has to see each change of that, as others do that share it: see
// keptShared.
func (c *Compiler) mayWait(r *route) bool {
	return r.object != nil && r.selected && r.claim != nil && r.refusal == nil && r.lost == "" &&
		r.kept == nil && !c.published(r)
}
