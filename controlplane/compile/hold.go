package compile

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// reasonQuarantined is why a Route is not served that routers refuse, and that was never good.
const reasonQuarantined = "Quarantined"

// Holds are the resources that routers refuse. They are an input like the objects: what is compiled is a function of
// both. The zero Holds are none.
type Holds struct {
	// Resources are held by name.
	Resources map[string]Hold
	// Namespaces are those whose Routes and certificates are all held, whatever they compile to.
	Namespaces map[string]Hold
}

// Hold says what is not to be published of a resource, and what is in its place: the content that was good last, or
// else nothing. It holds nothing while the resource compiles to other content than was refused.
type Hold struct {
	// Refused is the content that routers refuse.
	Refused snapshot.Digest
	// Any holds all content but the good one, for a time.
	Any bool
	// Passes says that the refused content itself is held for a time only, after which it is offered again.
	Passes bool
	// Endpoints says that the endpoints of a namespace are held with it.
	Endpoints bool
	// Good has the content that was good last, under the resource's name, if there was any. What a Route or the
	// Settings refer to there is taken with them.
	Good snapshot.Snapshot
	// Told is for verdicts. Its resource and whether there is good content are filled in.
	Told *tsujiv1.Quarantine
}

func (h Hold) equal(o Hold) bool {
	return h.Refused == o.Refused && h.Any == o.Any && h.Passes == o.Passes && h.Endpoints == o.Endpoints &&
		h.Good.Version().Equal(o.Good.Version()) && proto.Equal(h.Told, o.Told)
}

func (h Holds) empty() bool { return len(h.Resources) == 0 && len(h.Namespaces) == 0 }

// may tells whether there is a hold on a resource, by its name or its namespace.
func (h Holds) may(name string) bool {
	if h.empty() {
		return false
	}
	if _, ok := h.Resources[name]; ok {
		return true
	}
	_, ok := h.ofNamespace(name)
	return ok
}

// ofNamespace returns the hold on a resource's namespace.
func (h Holds) ofNamespace(name string) (Hold, bool) {
	hold, ok := h.Namespaces[tsujiv1.NamespaceOf(name)]
	return hold, ok && (hold.Endpoints || !strings.HasPrefix(name, "endpoints/"))
}

// Hold makes h what is held from the next Apply on.
func (c *Compiler) Hold(h Holds) {
	differ := func(before, now map[string]Hold, into map[string]struct{}) {
		for k, was := range before {
			if is, ok := now[k]; !ok || !is.equal(was) {
				into[k] = struct{}{}
			}
		}
		for k := range now {
			if _, ok := before[k]; !ok {
				into[k] = struct{}{}
			}
		}
	}
	differ(c.holds.Resources, h.Resources, c.rehold.resources)
	differ(c.holds.Namespaces, h.Namespaces, c.rehold.namespaces)
	c.holds = Holds{Resources: maps.Clone(h.Resources), Namespaces: maps.Clone(h.Namespaces)}
}

// rehold is what is held otherwise since the last Apply.
type rehold struct{ resources, namespaces map[string]struct{} }

func newRehold() rehold {
	return rehold{resources: map[string]struct{}{}, namespaces: map[string]struct{}{}}
}

// markHolds marks what has to be compiled again because it is held, or is not any more.
func (c *Compiler) markHolds(d *dirty) {
	for name := range c.rehold.resources {
		c.markHold(name, d)
	}
	for namespace := range c.rehold.namespaces {
		maps.Copy(d.standing, c.objects.routesByNamespace[namespace])
		for service, ports := range c.refs.endpoints {
			if service.Namespace == namespace {
				for port := range ports {
					d.endpoints[endpointsRef{service, port}] = struct{}{}
				}
			}
		}
		c.markCertificates(namespace, d)
	}
	if len(c.rehold.resources)+len(c.rehold.namespaces) > 0 {
		c.rehold = newRehold()
	}
}

// markCertificates marks what is shared of a namespace, by the Settings or by Routes of others, too.
func (c *Compiler) markCertificates(namespace string, d *dirty) {
	for k := range c.refs.secrets {
		if k.Namespace == namespace {
			d.secrets[k] = struct{}{}
		}
	}
	for k := range c.refs.configMaps {
		if k.Namespace == namespace {
			d.configMaps[k] = struct{}{}
		}
	}
	d.settings = d.settings || namespace == ingressNamespace || namespace == configNamespace
	if namespace == serviceCA.Namespace {
		maps.Copy(d.content, c.objects.routesByServiceCA)
	}
}

func (c *Compiler) markHold(name string, d *dirty) {
	kind, rest, _ := strings.Cut(name, "/")
	namespace, rest, _ := strings.Cut(rest, "/")
	switch kind {
	case tsujiv1.SettingsName:
		d.settings = true
	case "route":
		c.markRoute(id{Namespace: namespace, Name: rest}, d)
	case "endpoints":
		service, port, _ := strings.Cut(rest, "/")
		s := id{Namespace: namespace, Name: service}
		d.endpoints[endpointsRef{s, port}] = struct{}{}
		maps.Copy(d.content, c.objects.routesByService[s])
	case "cert":
		source, of, _ := strings.Cut(rest, ":")
		k := id{Namespace: namespace, Name: of}
		switch tsujiv1.CertificateSource(source) {
		case tsujiv1.FromRoute, tsujiv1.FromDestinationCA:
			c.markRoute(k, d)
		case tsujiv1.FromSecret:
			d.secrets[k] = struct{}{}
			maps.Copy(d.content, c.objects.routesBySecret[k])
			d.settings = d.settings || c.settingsSecret(k)
		case tsujiv1.FromConfigMap:
			d.configMaps[k] = struct{}{}
			d.settings = d.settings || c.settingsConfigMap(k)
			if k == serviceCA {
				maps.Copy(d.content, c.objects.routesByServiceCA)
			}
		}
	}
}

// markRoute marks a Route that is held otherwise; where it stands may differ, too.
func (c *Compiler) markRoute(k id, d *dirty) {
	if r := c.objects.routes[k]; r != nil {
		d.standing[k] = r
	}
}

// promoteHeld has the standing of Routes that may be held looked at again with their content: what a held Route claims
// is what its good content claims, and whether it is held follows from its content.
func (c *Compiler) promoteHeld(d *dirty) {
	if c.holds.empty() {
		return
	}
	// Verdicts tell of endpoints that are held.
	for name := range c.holds.Resources {
		if ref, ok := endpointsOf(name); ok {
			if _, dirty := d.services[ref.service]; dirty {
				maps.Copy(d.content, c.objects.routesByService[ref.service])
			}
		}
	}
	for service := range d.services {
		if c.holds.Namespaces[service.Namespace].Endpoints {
			maps.Copy(d.content, c.objects.routesByService[service])
		}
	}
	touched := d.touched()
	for k, r := range c.heldRoutes {
		_, here := touched[k.Namespace]
		_, all := touched[""]
		if here || all {
			d.content[k] = r
		}
	}
	for k, r := range d.content {
		if c.holds.may(tsujiv1.RouteName(k.Namespace, k.Name)) {
			d.standing[k] = r
		}
	}
}

// touched are the namespaces whose Routes may refer to something that differs; the empty one: all.
func (d *dirty) touched() map[string]struct{} {
	namespaces := map[string]struct{}{}
	maps.Copy(namespaces, d.access) // not maps.Clone, for which all maps of d would be on the heap
	for _, set := range []map[id]struct{}{d.services, d.secrets} {
		for k := range set {
			namespaces[k.Namespace] = struct{}{}
		}
	}
	for ref := range d.endpoints {
		namespaces[ref.service.Namespace] = struct{}{}
	}
	if len(d.configMaps) > 0 {
		namespaces[""] = struct{}{}
	}
	return namespaces
}

// standIn is what a held resource is replaced by.
type standIn struct {
	hold   Hold
	byName bool // and not with its namespace
	passes bool // it is not held until it changes, but for a time
	told   *tsujiv1.Quarantine
	item   snapshot.Item // the good content
	good   bool          // whether there is any
}

// release forgets that a Route and what is its own are held; who compiles them finds out anew.
func (c *Compiler) release(r *route) {
	if len(c.holding) == 0 {
		return
	}
	if r.held == nil {
		delete(c.holding, tsujiv1.RouteName(r.id.Namespace, r.id.Name))
	}
	delete(c.holding, tsujiv1.CertificateName(r.id.Namespace, tsujiv1.FromRoute, r.id.Name))
	delete(c.holding, tsujiv1.CertificateName(r.id.Namespace, tsujiv1.FromDestinationCA, r.id.Name))
}

// held tells whether a resource is not to be published as it was compiled; nil: it may be. It notes whether the hold is
// needed: it is called where the resource is compiled.
func (c *Compiler) held(i snapshot.Item) *standIn {
	s := c.standIn(i)
	if s != nil && s.byName {
		c.holding[i.Name()] = struct{}{}
	} else {
		delete(c.holding, i.Name())
	}
	return s
}

// standIn is what held tells, for those who refer to the resource. What is not held by its name may be with its
// namespace.
func (c *Compiler) standIn(i snapshot.Item) *standIn {
	if hold, ok := c.holds.Resources[i.Name()]; ok {
		if s := hold.standIn(i); s != nil {
			s.byName = true
			return s
		}
	}
	if hold, ok := c.holds.ofNamespace(i.Name()); ok {
		return hold.standIn(i)
	}
	return nil
}

// standIn is what is served in place of a resource; nil: itself.
func (h Hold) standIn(i snapshot.Item) *standIn {
	s := &standIn{hold: h, passes: h.Passes || h.Refused != i.Digest()}
	s.item, s.good = h.Good.Get(i.Name())
	if s.good && s.item.Digest() == i.Digest() || !h.Any && h.Refused != i.Digest() {
		return nil
	}
	s.told = &tsujiv1.Quarantine{}
	proto.Merge(s.told, h.Told)
	s.told.Resource, s.told.LastGood = i.Name(), s.good
	return s
}

// message tells the owner of a Route that is left out.
func (s *standIn) message() string {
	name, why := s.told.GetResource(), s.told.GetMessage()
	switch {
	case !s.byName: // nobody has refused it
		return why + "; " + name + " was never served before, and comes by itself when that is over"
	case !s.passes:
		return "routers refuse " + name + ": " + why + "; it was never served before, and is left out until it changes"
	case s.hold.Passes:
		return "routers refuse " + name + " for now: " + why + "; it was never served before, and is tried again by itself"
	}
	return "routers refused " + name + " as it was before: " + why +
		"; it was never served, and as it is now it comes by itself in a few minutes at most"
}

// ended returns the names of what is held by name and need not be any more: the resource is gone, or compiles to other
// content than was refused. While Routes of a namespace wait nothing of it has ended.
func (c *Compiler) ended() []string {
	var names []string
	waiting := map[string]bool{} // not known yet: what their Routes need
	for k := range c.later {
		waiting[k.Namespace] = true
	}
	for name := range c.holds.Resources {
		_, rest, _ := strings.Cut(name, "/")
		namespace, _, _ := strings.Cut(rest, "/")
		if _, ok := c.holding[name]; !ok && !waiting[namespace] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
