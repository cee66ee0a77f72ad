package release

import (
	"fmt"
	"time"

	"github.com/tsuji-dev/tsuji/snapshot"
)

const (
	// smallDrop is how many Routes may go whatever they are of all: small clusters change by halves all the time.
	smallDrop = 20

	// Window is how long ago a Route may have gone to count as one of those that go together. It is long because who
	// deletes objects one by one takes a while.
	Window = 10 * time.Minute

	// slack is by how much the clock of who writes a permission may be ahead.
	slack = time.Minute
)

// Held says how many Routes are served on that are gone from what was compiled, since most went within a while and over
// many namespaces, as they do when a source loses its objects or a selector its sense.
type Held struct {
	Routes     int // that are served on
	Of         int // Routes that there were
	Namespaces int // that lost half of theirs, or more
	OfThem     int // namespaces that there were
}

// String tells what is held.
func (h Held) String() string {
	return fmt.Sprintf("%d of %d routes went within %s, from %d of %d namespaces", h.Routes, h.Of, Window, h.Namespaces,
		h.OfThem)
}

// Guard keeps most of the Routes of an IngressController from going together. Everything else passes it at once: Routes
// that are new or different, endpoints, certificates, Settings, and the removal of Routes by one tenant, however many.
//
// What went within the [Window], and had been there for as long, is remembered: Routes that come and go all the time
// are no mishap. Once that is more than half of all Routes, more than 20, and at least half of the Routes of more than
// half of the namespaces, it is held: all of it is served on, with the facts that it needs as they were when it went,
// but for Routes whose place somebody else has taken. So is what goes after that. It ends when it is allowed, when the
// Routes are back, and when so few were missing for a whole window that they would not have been held.
//
// The zero Guard has seen nothing. What it returns is a function of what it was given and when, where the order of
// changes within a window does not matter.
type Guard struct {
	last    snapshot.Snapshot // as it was compiled
	shared  bool              // of last
	present map[string]int    // Routes in last, by namespace; nil: it has seen nothing
	lost    losses            // what went within the window, or is held
	came    arrivals          // of what is in last
	claims  *claims           // of the Routes in last; nil: not needed lately

	leftOut map[string]struct{} // Routes that are to be gone from what Take gets next

	held *Held
	calm time.Time // since when what is held would not be held any more; zero: it still would
}

// Allowed tells whether a permission lets Routes go now. It is a time (RFC 3339), and good for a [Window] from then on:
// whatever else changes, on every replica, and not for the next mishap. from is when it begins to be good; zero: it has
// begun. The error says what is wrong with it.
func Allowed(permission string, now time.Time) (allowed bool, from time.Time, err error) {
	if permission == "" {
		return false, time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, permission)
	if err != nil {
		return false, time.Time{}, fmt.Errorf("%.40q is not a time like %q", permission, "2026-01-02T15:04:05Z")
	}
	if begins := at.Add(-slack); now.Before(begins) {
		return false, begins, nil
	}
	return now.Before(at.Add(Window)), time.Time{}, nil
}

// Take returns what may be published when next was compiled, and what of it is held; nil: nothing. With allowed set
// nothing is, and what went is forgotten. shared says that Routes of different namespaces may share a host in next.
func (g *Guard) Take(next snapshot.Snapshot, shared, allowed bool, now time.Time) (snapshot.Snapshot, *Held) {
	g.follow(next, shared, now)
	if allowed {
		g.end()
	}
	if g.held == nil {
		g.lost.expire(now, Window)
		// What was replaced is looked for only when all of it would be too much. A namespace whose Routes were all
		// replaced does not count in the end.
		if all, _ := g.weigh(g.lost.number); !tooMany(all.Routes, all.Of) || 2*all.Namespaces <= len(g.present) {
			g.claims = nil
			return next, nil
		}
	}
	back := g.fitting()
	lost := map[string]int{}
	for _, l := range back {
		lost[namespaceOf(l.route.Name())]++
	}
	held, most := g.weigh(lost)
	switch {
	case most:
		g.calm = time.Time{}
	case g.held == nil:
		return next, nil
	case g.calm.IsZero():
		g.calm = now
	}
	if len(back) == 0 || !most && now.Sub(g.calm) >= Window {
		g.end()
		return next, nil
	}
	g.held = &held
	return g.putBack(next, back), &held
}

// LeftOut says that Routes are missing from what is compiled next because routers refuse them: that is no loss, and to
// put them back would be to offer them again.
func (g *Guard) LeftOut(routes []string) {
	if g.leftOut == nil {
		g.leftOut = map[string]struct{}{}
	}
	for _, name := range routes {
		g.leftOut[name] = struct{}{}
	}
}

// Forget lets Routes go that are held: routers refuse them.
func (g *Guard) Forget(routes []string) {
	for _, name := range routes {
		g.lost.drop(name)
	}
}

// Again returns when Take may say something else though nothing changed; zero: never.
func (g *Guard) Again() time.Time {
	if g.held == nil || g.calm.IsZero() {
		return time.Time{}
	}
	return g.calm.Add(Window)
}

// end lets everything go that went.
func (g *Guard) end() { g.lost, g.held, g.calm = newLosses(), nil, time.Time{} }

// follow notes what is different in next.
func (g *Guard) follow(next snapshot.Snapshot, shared bool, now time.Time) {
	first := g.present == nil
	if first {
		g.present, g.lost, g.came = map[string]int{}, newLosses(), arrivals{at: map[string]time.Time{}}
	}
	g.came.expire(now, Window)
	if g.shared != shared {
		g.shared, g.claims = shared, nil
	}
	config := snapshot.DiffSets(g.last.Config(), next.Config())
	for _, i := range config.Put {
		if !isRoute(i.Name()) {
			continue
		}
		lost := g.lost.drop(i.Name())
		before, was := g.last.Config().Get(i.Name())
		if !was {
			g.present[namespaceOf(i.Name())]++
			if !first && !lost { // what is back had been there
				g.came.at[i.Name()] = now
			}
		}
		if g.claims != nil {
			if was {
				g.claims.add(routingOf(before).claim, -1)
			}
			g.claims.add(routingOf(i).claim, 1)
		}
	}
	for _, name := range config.Removed {
		if route, _ := g.last.Config().Get(name); isRoute(name) {
			l := loss{route: route, routing: routingOf(route), at: now}
			count(g.present, namespaceOf(name), -1)
			_, refused := g.leftOut[name]
			if recent := g.came.left(name, now, Window); !refused && (!recent || g.held != nil) {
				g.lost.add(l)
			}
			if g.claims != nil {
				g.claims.add(l.routing.claim, -1)
			}
		}
	}
	g.leftOut = nil
	if facts := snapshot.DiffSets(g.last.Facts(), next.Facts()); len(g.lost.routes) > 0 {
		for _, i := range facts.Put {
			g.lost.back(i.Name())
		}
		for _, name := range facts.Removed {
			if i, ok := g.last.Facts().Get(name); ok {
				g.lost.fact(i)
			}
		}
	}
	g.last = next
}

// tooMany tells whether so many Routes of so many may not go together.
func tooMany(lost, of int) bool { return lost > smallDrop && 2*lost > of }

// weigh tells what it would be to hold so many Routes of each namespace, and whether it is called for.
func (g *Guard) weigh(lost map[string]int) (Held, bool) {
	h := Held{OfThem: len(g.present)}
	for _, n := range g.present {
		h.Of += n
	}
	for namespace, n := range lost {
		h.Routes += n
		left := g.present[namespace]
		if left == 0 {
			h.OfThem++
		}
		if n >= left {
			h.Namespaces++
		}
	}
	h.Of += h.Routes
	return h, tooMany(h.Routes, h.Of) && 2*h.Namespaces > h.OfThem
}

// fitting returns those that went and whose place nobody has taken, each of which fits beside the others. Of two that
// were in one place the one that went later comes back.
func (g *Guard) fitting() []loss {
	if g.claims == nil {
		g.claims = newClaims(g.shared)
		for i := range g.last.Config().All() {
			if isRoute(i.Name()) {
				g.claims.add(routingOf(i).claim, 1)
			}
		}
	}
	var fit []loss
	for _, l := range g.lost.latest() {
		if g.claims.fits(l.routing.claim) {
			g.claims.add(l.routing.claim, 1)
			fit = append(fit, l)
		}
	}
	for _, l := range fit {
		g.claims.add(l.routing.claim, -1)
	}
	return fit
}

// putBack returns next with Routes that it lacks, and the facts that they need and it lacks.
func (g *Guard) putBack(next snapshot.Snapshot, back []loss) snapshot.Snapshot {
	config, facts := next.Config().Edit(), next.Facts().Edit()
	for _, l := range back {
		config.Put(l.route)
		for _, f := range l.routing.facts {
			if i, ok := g.lost.facts[f]; ok {
				facts.Put(i)
			}
		}
	}
	return snapshot.New(next.Version().Revision, config.Set(), facts.Set())
}
