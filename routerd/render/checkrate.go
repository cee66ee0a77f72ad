package render

import (
	"math/bits"
	"time"
)

const (
	// ratePerCheck is a check each second in the unit of rates.
	ratePerCheck = 1 << 20
	// mostRate is what the Routes of a namespace may have: 640 checks a second, a tenth of a core of HAProxy's.
	// widestShare is the class of what one of them may: 512, so that a large one leaves something to small ones.
	mostRate, widestShare = 640 * ratePerCheck, 29
	// longestInterval is where an interval is not lengthened any more: 50,000 servers are 14 checks a second then.
	longestInterval = time.Hour
)

// rates counts a namespace's Routes by how many checks a second they ask for, in classes: one of class c asks for
// 2^c units at most, and for more than half as many.
type rates [64]int

// share returns the class that each Route may have so that all together are no more than the bound; of one that asks
// for more the interval is doubled until it fits. So those that ask for little keep what they ask for, whatever others
// do, and what one more endpoint changes is rarely a class.
func (r *rates) share() int {
	share := widestShare
	for ; r != nil && share > 0; share-- {
		sum := 0
		for class, n := range r {
			sum += n << min(class, share)
		}
		if sum <= mostRate {
			break
		}
	}
	return share
}

// rateClass returns how many checks the route asks for, -1 if for none. There may be no route.
func (r *route) rateClass() int {
	if r == nil || r.checked() == 0 {
		return -1
	}
	const second = uint64(time.Second / time.Millisecond)
	interval := uint64(max(1, r.interval/time.Millisecond))
	units := (uint64(r.checked())*second*ratePerCheck + interval - 1) / interval
	return bits.Len64(units - 1)
}

// doublings returns how often the route's interval is doubled where so much is its share.
func (r *route) doublings(share int) int {
	n := 0
	for class := r.rateClass(); class-n > share && r.interval<<n < longestInterval; {
		n++
	}
	return n
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
// Where a namespace's share becomes another, the servers of all its Routes that are beyond it are other ones.
func (r *Renderer) stageRates(s *Staged, f facts) {
	after := map[string]*rates{}
	for name, now := range s.routes {
		old := r.routes[name]
		was, is := old.rateClass(), now.rateClass()
		if was == is {
			continue
		}
		namespace := now.namespaceOr(old)
		of := after[namespace]
		if of == nil {
			of = new(rates)
			if before := r.checks.rates[namespace]; before != nil {
				*of = *before
			}
			after[namespace] = of
		}
		of.count(was, -1)
		of.count(is, 1)
	}
	for _, rt := range s.routes {
		if rt.rateClass() < 0 {
			continue
		}
		namespace := rt.spec.GetNamespace()
		of, differs := after[namespace]
		if !differs {
			of = r.checks.rates[namespace]
		}
		if rt.slow(rt.doublings(of.share())) {
			rt.resolve(f)
		}
	}
	for namespace, of := range after {
		share := of.share()
		if share == r.checks.rates[namespace].share() {
			continue
		}
		for name := range r.checks.wanted[namespace] {
			if _, staged := s.routes[name]; staged {
				continue
			}
			if rt := *r.routes[name]; rt.slow(rt.doublings(share)) {
				rt.resolve(f)
				s.routes[name] = &rt
			}
		}
	}
}

func (r *route) namespaceOr(old *route) string {
	if r == nil {
		r = old
	}
	return r.spec.GetNamespace()
}

func (r *rates) count(class, more int) {
	if class >= 0 {
		r[class] += more
	}
}

// rate counts a route that comes, 1, or goes, -1.
func (c *checks) rate(rt *route, more int) {
	class, namespace := rt.rateClass(), rt.spec.GetNamespace()
	if class < 0 {
		return
	}
	if c.rates == nil {
		c.rates, c.slowed = map[string]*rates{}, map[string]int{}
	}
	of := c.rates[namespace]
	if of == nil {
		of = new(rates)
		c.rates[namespace] = of
	}
	if of.count(class, more); *of == (rates{}) {
		delete(c.rates, namespace)
	}
	if rt.slowed > 0 {
		if c.slowed[namespace] += more * rt.checked(); c.slowed[namespace] == 0 {
			delete(c.slowed, namespace)
		}
	}
}

// SlowedChecks tells how many servers are checked less often than routes ask for, and of which namespaces.
func (r *Renderer) SlowedChecks() (servers int, namespaces []string) {
	for _, n := range r.checks.slowed {
		servers += n
	}
	return servers, sortedKeys(r.checks.slowed)
}
