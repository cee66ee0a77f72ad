package render

import (
	"cmp"
	"fmt"
	"slices"
)

// maxReasons is how many reasons to reload are told.
const maxReasons = 16

// changes collects a Change.
type changes struct {
	Change
	reasons       int
	touchedRoutes map[string]bool  // resources whose route was put, changed or removed
	explained     map[hostKey]bool // hosts a route of which is a reason already
}

// reload adds a reason.
func (c *changes) reload(what, why string) {
	if c.reasons++; c.reasons <= maxReasons {
		c.Reload = append(c.Reload, what+": "+why)
	}
}

// route compares a route before and after; either may be nil, for none. It tells whether anything differs.
func (c *changes) route(before, now *route) bool {
	if c.touchedRoutes == nil {
		c.touchedRoutes, c.explained = map[string]bool{}, map[hostKey]bool{}
	}
	one := now
	if one == nil {
		one = before
	}
	c.touchedRoutes[one.resource] = true
	var why string
	switch {
	case before == nil:
		why = "added"
	case now == nil:
		why = "removed"
	case before.text != now.text, before.caFile != now.caFile:
		why = "changed"
	case slices.EqualFunc(before.servers, now.servers, Server.equal):
		return false
	case otherParams(before.servers, now.servers):
		why = "servers of other kinds"
	default:
		c.Backends = append(c.Backends, BackendChange{
			Name: now.backend, Old: &Backend{Name: now.backend, Servers: before.servers}, New: &Backend{Name: now.backend, Servers: now.servers},
		})
		return true
	}
	c.reload(one.title(), why)
	for _, r := range []*route{before, now} {
		if r != nil {
			c.explained[r.host] = true
		}
	}
	return true
}

// otherParams tells whether servers of one name differ in more than weight.
func otherParams(before, now []Server) bool {
	byName := make(map[string]Server, len(before))
	for _, s := range before {
		byName[s.Name] = s
	}
	for _, s := range now {
		if b, ok := byName[s.Name]; ok && !b.sameButWeight(s) {
			return true
		}
	}
	return false
}

// host adds a reason for a host's entries, unless a route of it is one.
func (c *changes) host(k hostKey, why string) {
	if !c.explained[k] {
		c.reload(k.String(), why)
	}
}

// finish returns what was collected, in order.
func (c *changes) finish() Change {
	if n := c.reasons - len(c.Reload); n > 0 {
		c.Reload = append(c.Reload, fmt.Sprintf("and %d more", n))
	}
	slices.SortFunc(c.Backends, func(a, b BackendChange) int { return cmp.Compare(a.Name, b.Name) })
	byPath := func(a, b FileChange) int { return cmp.Compare(a.Path, b.Path) }
	slices.SortFunc(c.Certificates, byPath)
	slices.SortFunc(c.CAs, byPath)
	return c.Change
}
