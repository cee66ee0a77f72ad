// Package quarantine remembers which resources routers refuse, and what was good in their place.
//
// It guarantees that a refusal which names resources is answered by a version without them, whatever else that version
// has; that what is held is held no longer than its content is the refused one; that content which another router of
// the same HAProxy series and routerd serves is not held because one router alone refuses it; and that what one
// namespace can cost by refusals is bounded: its objects wait longer the more often they are refused, and beyond
// [MostRefusals] in an hour all its changes do.
//
// Do not assume that every replica holds the same: each holds what its own routers refuse. Nor that the last good
// content is known after a restart: then it is what routers tell of what they have in force, as far as they agree.
//
// It reads no clock: time is passed in.
package quarantine

import (
	"fmt"
	"sync"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// Registry is what routers refuse, by IngressController. It is safe for concurrent use.
type Registry struct {
	mu          sync.Mutex
	controllers map[string]*controller // guarded by mu
	changed     chan struct{}          // guarded by mu; closed when what is held is other
}

// controller is what the routers of one IngressController refuse, and have in force. Guarded by the registry's mu.
type controller struct {
	members map[*Member]struct{}
	good    snapshot.Snapshot   // that was acked last, by whichever router
	entries map[string]*entry   // by resource
	frozen  map[string]*frozen  // by namespace
	dissent map[string]*dissent // by resource
	strikes strikes

	asked     time.Time // when it was asked last what is held
	frozenNow int       // namespaces that were held when that was asked last
}

// entry is a resource that is held.
type entry struct {
	hold     compile.Hold
	kind     string              // of the routers that refused it
	refusers map[string]struct{} // by name
	// claims are by the digest of the content that routers say they have in force. A router that may name itself could
	// make up any number of them: there are mostClaims at the most.
	claims map[snapshot.Digest]claimants
	until  time.Time // before that no other content is let through either
	retry  bool      // at until the same content may be offered again
}

// claimants are the routers, by name, that claim to have some content in force; two at the most.
type claimants map[string]struct{}

// What is remembered of those who refuse a resource.
const (
	mostRefusers = 8  // names; two agree
	mostClaims   = 16 // contents
)

// frozen is a namespace all of whose changes are held.
type frozen struct {
	hold         compile.Hold
	since, until time.Time
	times        int // that it was frozen lately
	refusals     int // that led to it; zero: it pauses for a moment
}

// dissent is the refusal by a router of what another of its kind serves.
type dissent struct {
	digest   snapshot.Digest
	refusers map[string]struct{} // by name
}

// New makes an empty registry.
func New() *Registry {
	return &Registry{controllers: map[string]*controller{}, changed: make(chan struct{})}
}

// Changed returns a channel that is closed when what is held is other.
func (r *Registry) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// signal tells those who wait for a change. The caller holds mu.
func (r *Registry) signal() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// of returns what is known of an IngressController. The caller holds mu.
func (r *Registry) of(ingressController string) *controller {
	c := r.controllers[ingressController]
	if c == nil {
		c = &controller{
			members: map[*Member]struct{}{}, entries: map[string]*entry{}, frozen: map[string]*frozen{},
			dissent: map[string]*dissent{}, strikes: strikes{},
		}
		r.controllers[ingressController] = c
	}
	return c
}

// Holds returns what is held of an IngressController, and when that changes by itself; the zero time: it does not.
func (r *Registry) Holds(ingressController string, now time.Time) (h compile.Holds, next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.controllers[ingressController]
	if c == nil {
		return compile.Holds{}, time.Time{}
	}
	due := func(t time.Time) {
		if now.Before(t) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	c.asked = now
	h = compile.Holds{Resources: map[string]compile.Hold{}, Namespaces: map[string]compile.Hold{}}
	for name, e := range c.entries {
		if e.retry && !now.Before(e.until) {
			delete(c.entries, name)
			continue
		}
		hold := e.hold
		hold.Any = now.Before(e.until)
		h.Resources[name] = hold
		due(e.until)
	}
	for namespace, f := range c.frozen {
		switch {
		case now.Before(f.until):
			h.Namespaces[namespace] = f.hold
			due(f.until)
		case now.Sub(f.until) > memory:
			delete(c.frozen, namespace)
		}
	}
	c.frozenNow = len(h.Namespaces)
	return h, next
}

// Ended forgets those of held, by name, that need not be held any more, as compiling found: see [compile.Result]. It
// returns which those are: what has to wait does so, though it is good or gone meanwhile.
func (r *Registry) Ended(ingressController string, held compile.Holds, names []string) (forgotten []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.controllers[ingressController]
	if c == nil {
		return nil
	}
	for _, name := range names {
		// What was refused meanwhile stays.
		if e := c.entries[name]; e != nil && e.hold.Refused == held.Resources[name].Refused &&
			!c.asked.Before(e.until) {
			delete(c.entries, name)
			forgotten = append(forgotten, name)
		}
	}
	return forgotten
}

// Drop forgets what is held of an IngressController that is gone.
func (r *Registry) Drop(ingressController string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.controllers[ingressController]; c != nil {
		delete(r.controllers, ingressController)
		if len(c.members) > 0 {
			r.of(ingressController).members = c.members
		}
	}
}

// hold notes that content of a resource is refused, and tells whether that counts against its namespace.
func (c *controller) hold(m *Member, item snapshot.Item, said *tsujiv1.RefusedResource, base snapshot.Snapshot,
	now time.Time) (counts bool) {
	e := c.entries[item.Name()]
	switch {
	case e == nil || e.hold.Refused != item.Digest() && !e.isGood(item):
		e, counts = c.newEntry(m, item, said, base, now)
		c.entries[item.Name()] = e
	case e.hold.Refused != item.Digest(): // what was good is refused as well; what was refused first stays so
		if said.GetRetryAfter() == nil {
			e.hold.Good = snapshot.Snapshot{}
		}
		return false
	}
	if len(e.refusers) < mostRefusers {
		e.refusers[m.name] = struct{}{}
	}
	if _, known := e.hold.Good.Get(item.Name()); !known {
		c.consider(e, m, item, said)
	}
	return counts
}

// isGood tells whether content of the resource is what is served in its place.
func (e *entry) isGood(item snapshot.Item) bool {
	good, ok := e.hold.Good.Get(item.Name())
	return ok && good.Digest() == item.Digest()
}

func (c *controller) newEntry(m *Member, item snapshot.Item, said *tsujiv1.RefusedResource, base snapshot.Snapshot,
	now time.Time) (e *entry, counts bool) {
	digest := item.Digest()
	e = &entry{kind: m.kind, refusers: map[string]struct{}{}, claims: map[snapshot.Digest]claimants{}}
	e.hold = compile.Hold{
		Refused: digest,
		Good:    c.goodOf(item, base),
		Told:    &tsujiv1.Quarantine{Digest: digest[:], Message: said.GetMessage(), Router: m.name, Since: timestamp(now)},
	}
	if after := said.GetRetryAfter(); after != nil {
		e.until, e.retry = now.Add(min(max(after.AsDuration(), firstWait), mostFreeze)), true
		e.hold.Passes = true
		return e, false
	}
	times, again := c.strikes.refused(item, m.name, now)
	if !again {
		return e, false
	}
	e.until = now.Add(waitAfter(times))
	if namespace := tsujiv1.NamespaceOf(item.Name()); namespace != "" {
		if n := c.strikes.add(namespace+"/", now).count; n > MostRefusals {
			c.freeze(namespace, n, now)
		}
	}
	return e, true
}

// goodOf returns where the good content of a resource is: in what the router has in force, or else in what any router
// acked last.
func (c *controller) goodOf(item snapshot.Item, base snapshot.Snapshot) snapshot.Snapshot {
	for _, s := range []snapshot.Snapshot{base, c.good} {
		if i, ok := s.Get(item.Name()); ok && i.Digest() != item.Digest() {
			return s
		}
	}
	return snapshot.Snapshot{}
}

// consider takes a router's word for what it has in force, where nothing else is known of it. A router alone could
// bring in whatever it likes, so another must say the same, unless it is the only one that is connected.
func (c *controller) consider(e *entry, m *Member, item snapshot.Item, said *tsujiv1.RefusedResource) {
	if snapshot.PartOf(item.Name()) != snapshot.Config || len(said.GetInForce()) == 0 {
		return
	}
	claimed := snapshot.NewItem(item.Name(), said.GetInForce())
	if claimed.Digest() == item.Digest() || !is(claimed.Digest(), said.GetInForceDigest()) {
		return
	}
	if _, err := tsujiv1.Decode(claimed); err != nil {
		return
	}
	who := e.claims[claimed.Digest()]
	if who == nil {
		if len(e.claims) >= mostClaims {
			clear(e.claims)
		}
		who = claimants{}
		e.claims[claimed.Digest()] = who
	}
	if len(who) < 2 {
		who[m.name] = struct{}{}
	}
	if len(who) > 1 || len(c.members) == 1 {
		e.hold.Good = snapshot.New(0, snapshot.Set{}.With(claimed), snapshot.Set{})
	}
}

// freeze holds all changes of a namespace for a time, which doubles with each time that it has to be. It is not held
// while nothing is known to be good, for all of it would be left out; unless it goes on, which holds others up.
func (c *controller) freeze(namespace string, refusals int, now time.Time) {
	f := c.frozen[namespace]
	switch {
	case c.good.Len() == 0 && refusals <= 2*MostRefusals:
		return
	case f == nil:
		f = &frozen{}
		c.frozen[namespace] = f
	case now.Before(f.until) && f.refusals > 0: // and not for a moment
		return
	}
	f.since, f.until = now, now.Add(doubled(firstFreeze, mostFreeze, f.times))
	f.times++
	f.refusals = refusals
	f.hold = compile.Hold{Any: true, Endpoints: true, Good: c.good, Told: &tsujiv1.Quarantine{
		Message: fmt.Sprintf("routers refused more than %d resources of this namespace within an hour, so all its changes wait", MostRefusals),
		Since:   timestamp(now),
	}}
	delete(c.strikes, namespace+"/")
}

// pause holds all changes of a namespace for a moment that was in refusals before. Each of them costs everybody a round
// trip: a namespace that has something else refused every time would keep all others' changes back. Its endpoints wait
// if they are what is refused.
func (c *controller) pause(namespace string, endpoints bool, now time.Time) {
	n := c.strikes.add(namespace+"//", now).count
	f := c.frozen[namespace]
	switch {
	case n <= freeRefusals || c.good.Len() == 0:
		return
	case f == nil:
		f = &frozen{}
		c.frozen[namespace] = f
	case now.Before(f.until):
		return
	}
	f.since, f.until, f.refusals = now, now.Add(doubled(firstWait, mostPause, n-freeRefusals-1)), 0
	f.hold = compile.Hold{Any: true, Endpoints: endpoints, Good: c.good, Told: &tsujiv1.Quarantine{
		Message: fmt.Sprintf("routers refused something of this namespace %d times lately, so its changes wait for a moment", n),
		Since:   timestamp(now),
	}}
}

// forgive takes a refusal back that one router was alone with, and with it what followed for the resource's namespace.
func (c *controller) forgive(name string) {
	namespace := tsujiv1.NamespaceOf(name)
	delete(c.strikes, name)
	delete(c.strikes, namespace+"//")
	if k := c.strikes[namespace+"/"]; k != nil {
		k.count = max(k.count-1, 0)
		return
	}
	f := c.frozen[namespace]
	if f == nil || f.refusals == 0 {
		return
	}
	if f.refusals--; f.refusals != MostRefusals {
		return
	}
	c.strikes[namespace+"/"] = &strike{count: f.refusals, last: f.since}
	if f.times--; f.times == 0 {
		delete(c.frozen, namespace)
	} else {
		f.until = f.since
	}
}

// is tells whether a digest is the one that was sent, if any was.
func is(d snapshot.Digest, sent []byte) bool { return string(d[:]) == string(sent) }
