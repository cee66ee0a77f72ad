package compile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// claim is a Route's claim of a host and path. What it holds is decided among the claims of its host
// alone (and of the wildcard above it), before anybody looks at the Route's content: a Route that is
// refused for its content keeps its host.
type claim struct {
	host        string
	path        string // "/" for the whole host
	exact       bool   // claims the path alone, and nothing below it
	wildcard    bool   // claims every host beside host, too
	tls         bool
	passthrough bool

	// Its age. The oldest of two wins.
	created time.Time // zero: the youngest of all
	uid     string
}

// parent returns what follows the first label.
func parent(host string) string {
	_, p, _ := strings.Cut(host, ".")
	return p
}

// claims decides which Route has which host. Its decisions are a function of the set of claims. A claim
// that changes costs as much as there are claims on its host; below a wildcard, as there are below its
// parent domain, because there one may displace any other.
type claims struct {
	byHost   map[string]map[id]*route       // exact claims
	hosts    map[string]map[string]struct{} // hosts that have exact claims, by parent
	byParent map[string]map[id]*route       // wildcard claims
	open     map[string]struct{}            // hosts and, with a leading "*.", parents to decide again
}

func newClaims() claims {
	return claims{
		byHost:   map[string]map[id]*route{},
		hosts:    map[string]map[string]struct{}{},
		byParent: map[string]map[id]*route{},
		open:     map[string]struct{}{},
	}
}

// put sets a route's claim; nil withdraws it.
func (c *claims) put(r *route, next *claim) {
	if r.claim != nil && next != nil && *r.claim == *next {
		return
	}
	if old := r.claim; old != nil {
		if old.wildcard {
			unlink(c.byParent, parent(old.host), r.id)
			c.open["*."+parent(old.host)] = struct{}{}
		} else {
			unlink(c.byHost, old.host, r.id)
			if c.byHost[old.host] == nil {
				p := parent(old.host)
				delete(c.hosts[p], old.host)
				if len(c.hosts[p]) == 0 {
					delete(c.hosts, p)
				}
			}
			c.open[old.host] = struct{}{}
		}
	}
	r.claim, r.lost = next, ""
	if next == nil {
		return
	}
	p := parent(next.host)
	if next.wildcard {
		link(c.byParent, p, r.id, r)
		c.open["*."+p] = struct{}{}
		return
	}
	link(c.byHost, next.host, r.id, r)
	if c.hosts[p] == nil {
		c.hosts[p] = map[string]struct{}{}
	}
	c.hosts[p][next.host] = struct{}{}
	c.open[next.host] = struct{}{}
}

// reopen has every host decided again.
func (c *claims) reopen() {
	for h := range c.byHost {
		c.open[h] = struct{}{}
	}
	for p := range c.byParent {
		c.open["*."+p] = struct{}{}
	}
}

// settle decides what is open, and returns the routes for which the decision is another.
func (c *claims) settle(strict bool) []*route {
	if len(c.open) == 0 {
		return nil
	}
	groups := map[string]struct{}{} // hosts that no wildcard is beside; else parents, with a leading "*."
	for key := range c.open {
		if !strings.HasPrefix(key, "*.") && len(c.byParent[parent(key)]) > 0 {
			key = "*." + parent(key)
		}
		groups[key] = struct{}{}
	}
	c.open = map[string]struct{}{} // not cleared: a map that was large once takes as long to walk for ever
	var changed []*route
	for key := range groups {
		var rs []*route
		if p, wild := strings.CutPrefix(key, "*."); wild {
			rs = slices.AppendSeq(rs, maps.Values(c.byParent[p]))
			for h := range c.hosts[p] {
				rs = slices.AppendSeq(rs, maps.Values(c.byHost[h]))
			}
		} else {
			rs = slices.AppendSeq(rs, maps.Values(c.byHost[key]))
		}
		slices.SortFunc(rs, older)
		for i, lost := range decide(rs, strict) {
			if rs[i].lost != lost {
				rs[i].lost = lost
				changed = append(changed, rs[i])
			}
		}
	}
	return changed
}

// older orders routes by age: creation (unknown is youngest), then uid, then namespace and name.
func older(a, b *route) int {
	if x, y := a.claim.created, b.claim.created; x.IsZero() != y.IsZero() {
		if x.IsZero() {
			return 1
		}
		return -1
	} else if n := x.Compare(y); n != 0 {
		return n
	}
	return cmp.Or(cmp.Compare(a.claim.uid, b.claim.uid), compareID(a.id, b.id))
}

// holders are the routes that hold a host.
type holders struct {
	first            *route // the oldest
	byPath           map[claimedPath]*route
	tls, passthrough *route // the oldest of these kinds; nil: there is none
}

// claimedPath is what two routes of a host cannot both have. A path and what is below it is another thing than the
// path alone.
type claimedPath struct {
	path  string
	exact bool
}

func (c *claim) claimed() claimedPath { return claimedPath{c.path, c.exact} }

func (h *holders) add(r *route) {
	if h.first == nil {
		h.first, h.byPath = r, map[claimedPath]*route{}
	}
	h.byPath[r.claim.claimed()] = r
	if r.claim.tls && h.tls == nil {
		h.tls = r
	}
	if r.claim.passthrough && h.passthrough == nil {
		h.passthrough = r
	}
}

// decide tells for each route, the oldest first, why it loses its claim; an empty text: it holds. The
// routes are those of one host, or of one parent domain that has a wildcard.
func decide(rs []*route, strict bool) []string {
	lost := make([]string, len(rs))
	held := map[string]*holders{} // by host; wildcards by "*." and parent
	var least leastHosts
	for i, r := range rs {
		key := r.claim.host
		if r.claim.wildcard {
			key = "*." + parent(key)
		}
		if held[key] == nil {
			held[key] = &holders{}
		}
		if lost[i] = held[key].against(r, key, strict); lost[i] == "" && strict {
			lost[i] = acrossWildcard(r, key, held, &least)
		}
		if lost[i] == "" {
			if held[key].first == nil && !r.claim.wildcard {
				least.add(key, r)
			}
			held[key].add(r)
		}
	}
	return lost
}

// against tells why a route loses to older ones of the same host.
//
// OpenShift's router: the namespace of the oldest route owns the host, and other paths may be its other
// routes'; passthrough cannot share a host with any other TLS. Without the ownership check only the path
// and passthrough count.
func (h *holders) against(r *route, host string, strict bool) string {
	var o *route
	switch {
	case h.first == nil:
	case strict && h.first.id.Namespace != r.id.Namespace:
		o = h.first
	case h.byPath[r.claim.claimed()] != nil:
		o = h.byPath[r.claim.claimed()]
	case r.claim.tls && h.passthrough != nil:
		o = h.passthrough
	case r.claim.passthrough && h.tls != nil:
		o = h.tls
	}
	switch {
	case o == nil:
		return ""
	case o.id.Namespace == r.id.Namespace:
		if sameSecond(o, r) {
			return fmt.Sprintf("route %s already exposes %s, was made in the same second, and comes first by UID and name", o.id.Name, host)
		}
		return fmt.Sprintf("route %s already exposes %s and is older", o.id.Name, host)
	default:
		return fmt.Sprintf("a route in another namespace holds %s and %s", host, before(o, r))
	}
}

// acrossWildcard tells why a route loses to an older wildcard above its host, or a wildcard to an older
// host below it: of another namespace, in both cases.
func acrossWildcard(r *route, key string, held map[string]*holders, least *leastHosts) string {
	if !r.claim.wildcard {
		above := "*." + parent(key)
		if h := held[above]; h != nil && h.first != nil && h.first.id.Namespace != r.id.Namespace {
			return fmt.Sprintf("a route in another namespace holds host %s and %s", above, before(h.first, r))
		}
		return ""
	}
	host, o := least.of(r.id.Namespace)
	if o == nil {
		return ""
	}
	return fmt.Sprintf("a route in another namespace has host %s, blocking %s, and %s", host, key, before(o, r))
}

// leastHosts are, of the hosts held by single Routes, the first by name, and the first that is another namespace's than
// that: who asks for the first of another namespace than some one need not go through all of them.
type leastHosts struct {
	host, other         string
	holder, otherHolder *route // nil: there is none
}

// add adds a host that was held by nobody before, with who holds it.
func (l *leastHosts) add(host string, r *route) {
	switch {
	case l.holder == nil:
		l.host, l.holder = host, r
	case host < l.host:
		if l.holder.id.Namespace != r.id.Namespace {
			l.other, l.otherHolder = l.host, l.holder
		}
		l.host, l.holder = host, r
	case l.holder.id.Namespace != r.id.Namespace && (l.otherHolder == nil || host < l.other):
		l.other, l.otherHolder = host, r
	}
}

// of returns the first host by name that is held from another namespace than this, and by whom; nil: there is none.
func (l *leastHosts) of(namespace string) (string, *route) {
	if l.holder != nil && l.holder.id.Namespace == namespace {
		return l.other, l.otherHolder
	}
	return l.host, l.holder
}

// before tells why a route of another namespace comes before r, in OpenShift's words where they are true.
func before(o, r *route) string {
	if sameSecond(o, r) {
		return fmt.Sprintf("comes before %s by UID and name: they were made in the same second", r.id.Name)
	}
	return "is older than " + r.id.Name
}

// sameSecond tells whether neither is the older: creation is told in seconds.
func sameSecond(o, r *route) bool {
	return !o.claim.created.IsZero() && o.claim.created.Equal(r.claim.created)
}
