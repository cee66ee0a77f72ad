package compile

import (
	"maps"
	"slices"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// servers counts, of each namespace, the servers that its Routes are for a router: an endpoint is one for each Route
// that leads to its Service. Where they are too many, fewer endpoints travel of the Services that have most of them.
//
// Everything in it follows from who refers to what, and how many endpoints that has: the order of changes is nothing to
// it.
type servers struct {
	most  int // of a namespace
	sizes map[string]map[endpointsRef]size
	all   map[string]int // by namespace
	rooms map[string]int // of the namespaces that have too many: how many endpoints of a Service travel at most
}

// size is how many endpoints would travel if their namespace had few, and how many Routes refer to them.
type size struct{ endpoints, routes int }

func (s size) servers() int { return s.endpoints * s.routes }

func newServers() servers {
	return servers{
		most: maxServers, sizes: map[string]map[endpointsRef]size{}, all: map[string]int{}, rooms: map[string]int{},
	}
}

// put notes a size; one that no Route refers to is forgotten.
func (s *servers) put(ref endpointsRef, now size) {
	namespace := ref.service.Namespace
	of := s.sizes[namespace]
	s.all[namespace] += now.servers() - of[ref].servers()
	switch {
	case now.routes > 0 && of == nil:
		s.sizes[namespace] = map[endpointsRef]size{ref: now}
	case now.routes > 0:
		of[ref] = now
	default:
		delete(of, ref)
	}
	if len(s.sizes[namespace]) == 0 {
		delete(s.sizes, namespace)
		delete(s.all, namespace)
	}
}

// room returns how many endpoints of a Service of the namespace may travel, so that all its servers are not too many;
// zero: there is no need for less than each Service may have by itself. It goes down by halves, so that one more
// endpoint rarely makes a difference.
func (s *servers) room(namespace string) int {
	if s.all[namespace] <= s.most {
		return 0
	}
	for room := maxEndpoints / 2; room > leastEndpoints; room /= 2 {
		sum := 0
		for _, z := range s.sizes[namespace] {
			sum += min(z.endpoints, room) * z.routes
		}
		if sum <= s.most {
			return room
		}
	}
	return leastEndpoints
}

// allot finds the namespaces whose servers have become too many, or are no more, and compiles what of theirs is
// concerned. All Routes have been judged: those that are to be told otherwise are judged once more.
func (c *Compiler) allot(d *dirty, out *output) {
	namespaces := map[string]struct{}{}
	for s := range d.services {
		for port := range c.refs.endpoints[s] {
			d.counted[endpointsRef{s, port}] = struct{}{}
		}
	}
	for _, refs := range []map[endpointsRef]struct{}{d.counted, d.endpoints} {
		for ref := range refs {
			namespaces[ref.service.Namespace] = struct{}{}
			now := size{routes: c.refs.endpoints[ref.service][ref.port]}
			if now.routes > 0 {
				now.endpoints = c.endpointsOf(ref).size
			}
			c.servers.put(ref, now)
		}
	}
	again := map[id]*route{}
	for namespace := range namespaces {
		before, now := c.servers.rooms[namespace], c.servers.room(namespace)
		if before == now {
			continue
		}
		if now > 0 {
			c.servers.rooms[namespace] = now
		} else {
			delete(c.servers.rooms, namespace)
		}
		least := now
		if now == 0 || before > 0 && before < now {
			least = before
		}
		for ref, z := range c.servers.sizes[namespace] {
			if z.endpoints > least {
				delete(c.compiled, ref)
				d.endpoints[ref] = struct{}{}
				c.refs.setCrowded(ref, c.endpointsOf(ref).crowded)
				maps.Copy(again, c.objects.routesByService[ref.service])
			}
		}
	}
	c.judgeAgain(again, d, out)
}

// judgeAgain judges admitted Routes once more, to which nothing has changed but what they are told.
func (c *Compiler) judgeAgain(routes map[id]*route, d *dirty, out *output) {
	if len(routes) == 0 {
		return
	}
	var more output
	for _, k := range slices.SortedFunc(maps.Keys(routes), compareID) {
		if r := routes[k]; len(r.endpoints) > 0 {
			c.judge(r, d, &more)
		}
	}
	out.config.replace(more.config)
	out.facts.replace(more.facts)
	told := make(map[id]int, len(out.verdicts))
	for i, v := range out.verdicts {
		told[idOf(v)] = i
	}
	for _, v := range more.verdicts {
		if i, ok := told[idOf(v)]; ok {
			out.verdicts[i] = v
		} else {
			out.verdicts = append(out.verdicts, v)
		}
	}
	slices.SortStableFunc(out.verdicts, func(a, b *tsujiv1.RouteVerdict) int { return compareID(idOf(a), idOf(b)) })
}

// idOf returns whose verdict it is. A Route that was judged again is admitted, so that its name is printable as it is.
func idOf(v *tsujiv1.RouteVerdict) id { return id{Namespace: v.GetNamespace(), Name: v.GetName()} }
