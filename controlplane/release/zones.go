package release

import (
	"fmt"
	"maps"
)

// SetZones says which zones there are, by name, and of which IngressController each is. With none of them nobody has
// said which zones there may be, and each is served.
func (b *Board) SetZones(zones map[string]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if maps.Equal(b.zones, zones) {
		return
	}
	b.zones = maps.Clone(zones)
	// Those who wait for a target look whether they may have one yet.
	for _, s := range b.series {
		close(s.changed)
		s.changed = make(chan struct{})
	}
	close(b.another)
	b.another = make(chan struct{})
}

// Refuses tells why the routers of a view get nothing, by a message with what to do; empty: they get their target.
// Before anything was published it is not known which zones there are, and nobody gets anything.
func (b *Board) Refuses(v View) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	of, ok := b.zones[v.Zone]
	switch {
	case len(b.zones) == 0, of == v.IngressController:
		return ""
	case ok:
		return fmt.Sprintf("zone %q is of the IngressController %q, and not of %q: correct spec.ingressController of Zone %s, "+
			"or routerd --ingress-controller and its certificate", v.Zone, of, v.IngressController, v.Zone)
	default:
		return fmt.Sprintf("there is no zone %q: make a Zone of that name with spec.ingressController %q, "+
			"or correct routerd --zone and its certificate", v.Zone, v.IngressController)
	}
}
