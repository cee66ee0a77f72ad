package quarantine

import (
	"slices"
	"strings"
	"time"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// Member is a router's connection. Its methods are called one at a time.
type Member struct {
	registry          *Registry
	ingressController string
	name              string            // of the router
	kind              string            // its HAProxy series and routerd's version: what refuses alike
	inForce           snapshot.Snapshot // that it acked last
	before            snapshot.Snapshot // that was good when it connected
}

// Connect notes that a router connected. Its kind is what routers have in common that should refuse the same.
func (r *Registry) Connect(ingressController, name, kind string) *Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.of(ingressController)
	m := &Member{registry: r, ingressController: ingressController, name: name, kind: kind, before: c.good}
	c.members[m] = struct{}{}
	return m
}

// Disconnected notes that the connection ended.
func (m *Member) Disconnected() {
	r := m.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.of(m.ingressController)
	delete(c.members, m)
	if len(c.members) == 0 && len(c.entries) == 0 && len(c.frozen) == 0 && c.good.Len() == 0 {
		delete(r.controllers, m.ingressController)
	}
}

// Acked notes that the router has a snapshot in force. What is held only because one router of its kind refused it, and
// this one serves, is held no longer. It returns which resources those are.
func (m *Member) Acked(s snapshot.Snapshot) (released []string) {
	r := m.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.of(m.ingressController)
	c.good = s
	return c.serves(m, s)
}

// AckedFacts is Acked for the facts of a version whose config the router refuses: its old config is not what was good
// last.
func (m *Member) AckedFacts(s snapshot.Snapshot) (released []string) {
	r := m.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.of(m.ingressController).serves(m, s)
}

// serves notes what a member has in force. The caller holds mu.
func (c *controller) serves(m *Member, s snapshot.Snapshot) (released []string) {
	m.inForce = s
	for name, e := range c.entries {
		i, ok := s.Get(name)
		if ok && i.Digest() == e.hold.Refused && e.kind == m.kind && len(e.refusers) < 2 && !e.retry {
			c.disagree(name, e.hold.Refused, e.refusers)
			delete(c.entries, name)
			c.forgive(name)
			released = append(released, name)
		}
	}
	if len(released) > 0 {
		slices.Sort(released)
		m.registry.signal()
	}
	return released
}

// Refused notes what the router refuses of target. Base is what it has in force; zero: that is not known. It returns
// the resources of which it differs from other routers, which serve them: they are not held.
func (m *Member) Refused(refusal *tsujiv1.Refusal, target, base snapshot.Snapshot, now time.Time) (differs []string) {
	if refusal.GetClass() == tsujiv1.RefusalClass_REFUSAL_CLASS_LOCAL {
		return nil
	}
	r := m.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.of(m.ingressController)
	held := false
	again := map[string]bool{} // namespaces of what is held; whether these are endpoints, too
	for _, said := range refusal.GetResources() {
		item, ok := target.Get(said.GetResource())
		if !ok || len(said.GetDigest()) > 0 && !is(item.Digest(), said.GetDigest()) {
			continue // it was not sent that
		}
		if c.dissents(m, item, said.GetRetryAfter() != nil) {
			differs = append(differs, item.Name())
			continue
		}
		held = true
		if namespace := tsujiv1.NamespaceOf(item.Name()); c.hold(m, item, said, base, now) && namespace != "" {
			again[namespace] = again[namespace] || strings.HasPrefix(item.Name(), "endpoints/")
		}
	}
	for namespace, endpoints := range again {
		c.pause(namespace, endpoints, now)
	}
	if held {
		r.signal()
	}
	return differs
}

// dissents tells whether a router is alone in refusing what another of its kind serves, or what any other serves since
// before it came: of what kind it is it only says. What is refused for its rate, others may serve: each has its own
// budget. A router that comes has all of it.
func (c *controller) dissents(m *Member, item snapshot.Item, rate bool) bool {
	was, ok := m.before.Get(item.Name())
	before := ok && was.Digest() == item.Digest()
	served := false
	for o := range c.members {
		if o == m || o.name == m.name || !before && (rate || o.kind != m.kind) {
			continue
		}
		if i, ok := o.inForce.Get(item.Name()); ok && i.Digest() == item.Digest() {
			served = true
			break
		}
	}
	if !served {
		delete(c.dissent, item.Name())
		return false
	}
	d := c.dissent[item.Name()]
	if d == nil || d.digest != item.Digest() {
		d = c.disagree(item.Name(), item.Digest(), map[string]struct{}{})
	}
	if len(d.refusers) < mostRefusers {
		d.refusers[m.name] = struct{}{}
	}
	return len(d.refusers) < 2
}

// disagree remembers that these routers refuse what others serve.
func (c *controller) disagree(name string, digest snapshot.Digest, refusers map[string]struct{}) *dissent {
	if len(c.dissent) >= mostDissent {
		clear(c.dissent)
	}
	d := &dissent{digest: digest, refusers: refusers}
	c.dissent[name] = d
	return d
}
