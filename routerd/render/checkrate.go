package render

import (
	"iter"
	"maps"
	"slices"

	"github.com/tsuji-dev/tsuji/checkrate"
)

// rates are what the Routes of a namespace ask for and have.
type rates struct {
	counts checkrate.Counts
	share  checkrate.Share
}

// rateClass returns how many checks the route asks for, -1 if for none. There may be no route.
func (r *route) rateClass() int {
	if r == nil {
		return -1
	}
	return checkrate.Class(r.checked(), r.interval)
}

// slow has the route's interval doubled so often, and tells whether that is news. Its servers are not made again.
func (r *route) slow(n int) bool {
	if r.slowed == n {
		return false
	}
	r.slowed = n
	r.check = r.checkParams()
	return true
}

// stageRates decides again how often routes' servers are checked, of which stageChecks has decided whether they are.
// Where a namespace's share becomes another, the servers of all its Routes that it concerns are other ones.
func (r *Renderer) stageRates(s *Staged, f facts) {
	for name, now := range s.routes {
		old := r.routes[name]
		was, is := old.rateClass(), now.rateClass()
		if was == is {
			continue
		}
		namespace := now.namespaceOr(old)
		of := s.rates[namespace]
		if of == nil {
			of = new(rates)
			if *of = r.checks.of(namespace); s.rates == nil {
				s.rates = map[string]*rates{}
			}
			s.rates[namespace] = of
		}
		of.counts.Add(was, -1)
		of.counts.Add(is, 1)
	}
	for namespace, of := range s.rates {
		of.share = of.counts.Share(func(class int) []string { return r.asking(s, namespace, class) })
	}
	for name, rt := range s.routes {
		class := rt.rateClass()
		if class < 0 {
			continue
		}
		of := s.rates[rt.spec.GetNamespace()]
		if of == nil {
			before := r.checks.of(rt.spec.GetNamespace())
			of = &before
		}
		if rt.slow(of.share.Doublings(name, class, rt.interval)) {
			rt.resolve(f)
		}
	}
	for namespace, of := range s.rates {
		if of.share == r.checks.of(namespace).share {
			continue
		}
		for name, before := range r.others(s, namespace) {
			doublings := of.share.Doublings(name, before.rateClass(), before.interval)
			if rt := *before; rt.slow(doublings) {
				rt.resolve(f)
				s.routes[name] = &rt
			}
		}
	}
}

// others are the routes of a namespace that ask for checks, have them, and are not staged.
func (r *Renderer) others(s *Staged, namespace string) iter.Seq2[string, *route] {
	return func(yield func(string, *route) bool) {
		for name := range r.checks.wanted[namespace] {
			if _, staged := s.routes[name]; staged {
				continue
			}
			if rt := r.routes[name]; rt.checked() > 0 && !yield(name, rt) {
				return
			}
		}
	}
}

// asking returns the routes of a namespace that will ask for a class of checks, sorted.
func (r *Renderer) asking(s *Staged, namespace string, class int) (names []string) {
	for _, of := range []iter.Seq2[string, *route]{r.others(s, namespace), maps.All(s.routes)} {
		for name, rt := range of {
			if rt.rateClass() == class && rt.spec.GetNamespace() == namespace {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

func (r *route) namespaceOr(old *route) string {
	if r == nil {
		r = old
	}
	return r.spec.GetNamespace()
}

// of returns a namespace's rates. One that asks for nothing has all that there is.
func (c *checks) of(namespace string) rates {
	if of := c.rates[namespace]; of != nil {
		return *of
	}
	return rates{share: new(checkrate.Counts).Share(nil)}
}

// settle makes the rates of namespaces what was staged.
func (c *checks) settle(staged map[string]*rates) {
	for namespace, of := range staged {
		switch {
		case of.counts == checkrate.Counts{}:
			delete(c.rates, namespace)
		case c.rates == nil:
			c.rates = map[string]*rates{namespace: of}
		default:
			c.rates[namespace] = of
		}
	}
}

// slow counts the servers of a route that are checked less often than it asks for: one that comes, 1, or goes, -1.
func (c *checks) slow(rt *route, more int) {
	if rt.slowed == 0 {
		return
	}
	if c.slowed == nil {
		c.slowed = map[string]int{}
	}
	namespace := rt.spec.GetNamespace()
	if c.slowed[namespace] += more * rt.checked(); c.slowed[namespace] == 0 {
		delete(c.slowed, namespace)
	}
}

// SlowedChecks tells how many servers are checked less often than routes ask for, and of which namespaces.
func (r *Renderer) SlowedChecks() (servers int, namespaces []string) {
	for _, n := range r.checks.slowed {
		servers += n
	}
	return servers, sortedKeys(r.checks.slowed)
}
