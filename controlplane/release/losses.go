package release

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tsuji-dev/tsuji/snapshot"
)

// mostLost is how many bytes of Routes that went, with the facts that they need, are remembered of one namespace: some
// 30,000 Routes. Beyond it those that went first are forgotten, so that nobody fills the memory by Routes that come and
// go.
const mostLost = 32 << 20

// loss is a Route that went.
type loss struct {
	route   snapshot.Item
	routing routing
	at      time.Time
}

// losses are the Routes that went lately, with the facts that nobody else needs any more.
type losses struct {
	routes map[string]loss          // by resource name
	number map[string]int           // of them, by namespace
	order  []departure              // all that went, the first first; what came back meanwhile is in it, too
	bytes  map[string]int           // by namespace
	users  map[string]int           // by fact: how many of the Routes need it
	facts  map[string]snapshot.Item // those that somebody needs and that went, as they were
}

// departure is that a Route went.
type departure struct {
	name string
	at   time.Time
}

func newLosses() losses {
	return losses{
		routes: map[string]loss{}, number: map[string]int{}, bytes: map[string]int{},
		users: map[string]int{}, facts: map[string]snapshot.Item{},
	}
}

// add takes in a Route that went.
func (l *losses) add(n loss) {
	name, namespace := n.route.Name(), namespaceOf(n.route.Name())
	l.routes[name] = n
	if l.order = append(l.order, departure{name, n.at}); len(l.order) > 1024+2*len(l.routes) {
		l.order = slices.Clip(slices.DeleteFunc(l.order, func(d departure) bool { return !l.current(d) }))
	}
	count(l.number, namespace, 1)
	for _, f := range n.routing.facts {
		l.users[f]++
	}
	l.charge(namespace, len(n.route.Encoded()))
}

// current tells whether a Route has not come back since.
func (l *losses) current(d departure) bool {
	n, ok := l.routes[d.name]
	return ok && n.at.Equal(d.at)
}

// fact takes in a fact that went.
func (l *losses) fact(i snapshot.Item) {
	if l.users[i.Name()] > 0 {
		l.facts[i.Name()] = i
		l.charge(namespaceOf(i.Name()), len(i.Encoded()))
	}
}

// back takes note that there is a fact of this name again.
func (l *losses) back(fact string) {
	if i, ok := l.facts[fact]; ok {
		delete(l.facts, fact)
		count(l.bytes, namespaceOf(fact), -len(i.Encoded()))
	}
}

// charge counts bytes of a namespace, and forgets half of what it has, that which went first, when they are too many.
func (l *losses) charge(namespace string, bytes int) {
	if count(l.bytes, namespace, bytes); l.bytes[namespace] <= mostLost {
		return
	}
	latest := l.latest()
	for _, n := range slices.Backward(latest) {
		if namespaceOf(n.route.Name()) == namespace && l.bytes[namespace] > mostLost/2 {
			l.drop(n.route.Name())
		}
	}
}

// drop forgets a Route, and tells whether it was there.
func (l *losses) drop(name string) bool {
	old, ok := l.routes[name]
	if !ok {
		return false
	}
	delete(l.routes, name)
	count(l.number, namespaceOf(name), -1)
	count(l.bytes, namespaceOf(name), -len(old.route.Encoded()))
	for _, f := range old.routing.facts {
		if count(l.users, f, -1); l.users[f] == 0 {
			l.back(f)
		}
	}
	return true
}

// expire forgets what went so long before now.
func (l *losses) expire(now time.Time, ago time.Duration) {
	for len(l.order) > 0 && now.Sub(l.order[0].at) >= ago {
		if l.current(l.order[0]) {
			l.drop(l.order[0].name)
		}
		l.order = l.order[1:]
	}
}

// arrivals are when Routes came that came lately.
type arrivals struct {
	at     map[string]time.Time // by resource name
	pruned time.Time
}

// left takes note that a Route went, and tells whether it had come less than so long before now.
func (a *arrivals) left(name string, now time.Time, ago time.Duration) bool {
	at, ok := a.at[name]
	delete(a.at, name)
	return ok && now.Sub(at) < ago
}

// expire forgets, every now and then, what came longer ago.
func (a *arrivals) expire(now time.Time, ago time.Duration) {
	if now.Sub(a.pruned) < ago {
		return
	}
	a.pruned = now
	maps.DeleteFunc(a.at, func(_ string, at time.Time) bool { return now.Sub(at) >= ago })
}

// latest returns the Routes, the last that went first.
func (l *losses) latest() []loss {
	return slices.SortedFunc(maps.Values(l.routes), func(a, b loss) int {
		return cmp.Or(b.at.Compare(a.at), cmp.Compare(a.route.Name(), b.route.Name()))
	})
}

// namespaceOf returns the namespace in a resource's name; empty: it is in none.
func namespaceOf(name string) string {
	_, rest, _ := strings.Cut(name, "/")
	namespace, _, _ := strings.Cut(rest, "/")
	return namespace
}

func isRoute(name string) bool { return strings.HasPrefix(name, "route/") }
