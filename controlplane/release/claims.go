package release

import (
	"strings"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// claim is what a Route of a snapshot has: a host, or all hosts beside one, and a path there. Which two cannot stand
// side by side is what package compile decides by; a test there is held to both.
type claim struct {
	namespace string
	host      string // "*." and the parent domain for a wildcard
	claimedPath

	tls, passthrough bool
}

// claimedPath is what two Routes of a host cannot both have.
type claimedPath struct {
	path  string
	exact bool
}

func (c claim) wildcard() bool { return strings.HasPrefix(c.host, "*.") }

// above is the host of the wildcard that would answer for c's host, too.
func (c claim) above() string { return "*." + parentOf(c.host) }

func parentOf(host string) string {
	_, parent, _ := strings.Cut(host, ".")
	return parent
}

// routing is what matters of a resource of config when it stands beside others: its claim, and which facts it needs.
// Only a Route has a claim.
type routing struct {
	claim  claim
	facts  []string // names, each once
	others int      // how many of them come before the Endpoints, which are last
}

// routingOf reads a resource of config; the zero Item is none.
func routingOf(i snapshot.Item) routing {
	var r routing
	if i.Name() == "" {
		return r
	}
	res, err := tsujiv1.Decode(i)
	if err != nil {
		return r // what was compiled decodes
	}
	need := func(name string) {
		if name == "" {
			return
		}
		for _, have := range r.facts {
			if have == name {
				return
			}
		}
		r.facts = append(r.facts, name)
	}
	if s := res.GetSettings(); s != nil {
		need(s.GetDefaultCertificate())
		need(s.GetClientTls().GetCa())
		r.others = len(r.facts)
	}
	if route := res.GetRoute(); route != nil {
		r.claim = claimOf(route)
		need(route.GetCertificate())
		need(route.GetDestinationTls().GetCa())
		r.others = len(r.facts)
		for _, b := range route.GetBackends() {
			need(b.GetEndpoints())
		}
	}
	return r
}

func claimOf(r *tsujiv1.Route) claim {
	c := claim{
		namespace:   r.GetNamespace(),
		host:        r.GetHost(),
		claimedPath: claimedPath{r.GetPath(), r.GetExact()},
		tls:         r.GetTermination() > tsujiv1.Termination_TERMINATION_INSECURE,
		passthrough: r.GetTermination() == tsujiv1.Termination_TERMINATION_PASSTHROUGH,
	}
	if r.GetWildcard() {
		c.host = c.above()
	}
	return c
}

// claims are those that stand side by side.
type claims struct {
	// shared: Routes of different namespaces may share a host.
	shared bool
	hosts  map[string]*holders       // by host
	below  map[string]map[string]int // by wildcard: number of claims on single hosts that it answers for, by namespace
}

// holders are the claims on a host, by what others are refused for.
type holders struct {
	namespaces       map[string]int
	paths            map[claimedPath]int
	tls, passthrough int
}

func newClaims(shared bool) *claims {
	return &claims{shared: shared, hosts: map[string]*holders{}, below: map[string]map[string]int{}}
}

// add adds a claim n times; with a negative n it takes claims out.
func (c *claims) add(a claim, n int) {
	h := c.hosts[a.host]
	if h == nil {
		h = &holders{namespaces: map[string]int{}, paths: map[claimedPath]int{}}
		c.hosts[a.host] = h
	}
	count(h.namespaces, a.namespace, n)
	count(h.paths, a.claimedPath, n)
	if a.passthrough {
		h.passthrough += n
	}
	if a.tls {
		h.tls += n
	}
	if len(h.namespaces) == 0 {
		delete(c.hosts, a.host)
	}
	if a.wildcard() {
		return
	}
	above := a.above()
	if c.below[above] == nil {
		c.below[above] = map[string]int{}
	}
	if count(c.below[above], a.namespace, n); len(c.below[above]) == 0 {
		delete(c.below, above)
	}
}

// fits tells whether a claim can stand beside all that there are, the youngest of all.
func (c *claims) fits(a claim) bool {
	if h := c.hosts[a.host]; h != nil {
		if !c.shared && others(h.namespaces, a.namespace) || h.paths[a.claimedPath] > 0 ||
			a.tls && h.passthrough > 0 || a.passthrough && h.tls > 0 {
			return false
		}
	}
	switch {
	case c.shared:
		return true
	case a.wildcard():
		return !others(c.below[a.host], a.namespace)
	}
	h := c.hosts[a.above()]
	return h == nil || !others(h.namespaces, a.namespace)
}

// others tells whether there is a namespace but this one.
func others(namespaces map[string]int, but string) bool {
	return len(namespaces) > 1 || len(namespaces) == 1 && namespaces[but] == 0
}

// count adds to a counter, of which nothing is left at zero.
func count[K comparable](of map[K]int, k K, n int) {
	if of[k] += n; of[k] == 0 {
		delete(of, k)
	}
}
