package render

import "math"

// checks says which routes' servers have their health checked. HAProxy keeps a file descriptor for each server that is
// checked, and does not start when there are too few for them and for connections: so they have a part of the
// descriptors that is theirs, and connections have the rest, however many routes ask for checks.
type checks struct {
	wanted map[string]map[string]int // namespace → route → servers to check; none is 0
	total  int
	inUse  int               // servers that are checked
	left   map[string]bool   // routes whose servers are not checked, though they ask for it
	rates  map[string]*rates // by namespace
	slowed map[string]int    // namespace → servers that are checked less often than is asked for; none is 0
}

// ask notes that a route asks for so many more servers to be checked, or fewer.
func (c *checks) ask(namespace, route string, more int) {
	if more == 0 {
		return
	}
	of := c.wanted[namespace]
	if of == nil {
		if c.wanted == nil {
			c.wanted = map[string]map[string]int{}
		}
		of = map[string]int{}
		c.wanted[namespace] = of
	}
	c.total += more
	if of[route] += more; of[route] == 0 {
		delete(of, route)
	}
	if len(of) == 0 {
		delete(c.wanted, namespace)
	}
}

// mostChecks is how many servers can be checked.
func (o Options) mostChecks() int {
	if o.FileDescriptors == 0 {
		return math.MaxInt
	}
	return max(0, (o.FileDescriptors-descriptorReserve)/checkShare)
}

// leftOut returns the routes whose servers are not checked where no more than so many can be: of each namespace that
// asks for more than its share, those that do not fit into it any more, by name. The share is a power of two, so that
// what others do seldom changes it; a namespace that asks for less has all.
func leftOut(wanted map[string]map[string]int, most int) map[string]bool {
	sums := map[string]int{}
	for namespace, of := range wanted {
		for _, n := range of {
			sums[namespace] += n
		}
	}
	share := 1 << 30
	for ; share > 0; share /= 2 {
		all := 0
		for _, n := range sums {
			all += min(n, share)
		}
		if all <= most {
			break
		}
	}
	left := map[string]bool{}
	for namespace, of := range wanted {
		if sums[namespace] <= share {
			continue
		}
		room := share
		for _, route := range sortedKeys(of) {
			if of[route] > room {
				left[route] = true
			} else {
				room -= of[route]
			}
		}
	}
	return left
}

// stageChecks decides again which routes' servers are checked, if what routes ask for changes, and renders again those
// that it concerns.
func (r *Renderer) stageChecks(s *Staged, f facts) {
	s.leftOut = r.checks.left
	more := 0
	changed := false
	for name, now := range s.routes {
		if n := now.asks() - r.routes[name].asks(); n != 0 {
			more += n
			changed = true
		}
	}
	if most := r.options.mostChecks(); changed && (r.checks.total+more > most || len(r.checks.left) > 0) {
		s.leftOut = leftOut(r.wantedChecks(s), most)
	}
	if len(s.leftOut) == 0 && len(r.checks.left) == 0 {
		return
	}
	for name, rt := range s.routes {
		if rt != nil && rt.unchecked != s.leftOut[name] {
			rt.unchecked = s.leftOut[name]
			rt.resolve(f)
		}
	}
	for _, of := range []map[string]bool{r.checks.left, s.leftOut} {
		for name := range of {
			if _, staged := s.routes[name]; !staged && r.checks.left[name] != s.leftOut[name] {
				rt := *r.routes[name]
				rt.unchecked = s.leftOut[name]
				rt.resolve(f)
				s.routes[name] = &rt
			}
		}
	}
}

// wantedChecks returns what routes will ask for.
func (r *Renderer) wantedChecks(s *Staged) map[string]map[string]int {
	after := checks{}
	for namespace, of := range r.checks.wanted {
		for name, n := range of {
			if _, staged := s.routes[name]; !staged {
				after.ask(namespace, name, n)
			}
		}
	}
	for name, rt := range s.routes {
		if n := rt.asks(); n > 0 {
			after.ask(rt.spec.GetNamespace(), name, n)
		}
	}
	return after.wanted
}

// asks returns how many servers the route asks to be checked. There may be no route.
func (r *route) asks() int {
	if r == nil || len(r.check) == 0 {
		return 0
	}
	return r.checkable
}

// Checks tells how many servers routes ask to be checked, how many are, and whose are not, by name.
func (r *Renderer) Checks() (wanted, checked int, left []string) {
	left = sortedKeys(r.checks.left)
	return r.checks.total, r.checks.inUse, left
}

// Connections tells how many connections the Settings want, and how many file descriptors allow.
func (r *Renderer) Connections() (wanted, allowed uint32) {
	allowed = r.maxConnections()
	if wanted = r.program.maxConnections; wanted == 0 { // as many as fit
		wanted = allowed
	}
	return wanted, allowed
}
