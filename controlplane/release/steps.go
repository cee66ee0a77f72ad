package release

import (
	"cmp"
	"hash/fnv"
	"slices"

	"google.golang.org/protobuf/proto"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// turnover is how Endpoints change, in numbers.
type turnover struct {
	before, after      int // endpoints that get requests
	come, leave, alter int // endpoints that begin to get requests; that get none any more; that are otherwise different
}

// edits counts what can be made in one step or in several.
func (t turnover) edits() int { return t.come + t.leave + t.alter }

// size is how many servers a backend has while it changes.
func (t turnover) size() int { return max(t.before, t.after) }

// many tells whether it is too much for one turn, however many Routes there are.
func (t turnover) many() bool { return t.weight() > turnWeight }

// weight is what all edits weigh for each Route.
func (t turnover) weight() int { return serverWeight*t.come + otherWeight*(t.leave+t.alter) }

// stay tells whether some endpoints that get requests go on to get them.
func (t turnover) stay() bool { return t.leave < t.before }

// endpointKey is what makes two endpoints one, as in package compile.
type endpointKey struct {
	address                          string
	port                             uint32
	portName, targetKind, targetName string
}

func keyOf(e *tsujiv1.Endpoint) endpointKey {
	return endpointKey{e.GetAddress(), e.GetPort(), e.GetPortName(), e.GetTargetKind(), e.GetTargetName()}
}

// used tells whether a router makes a server for an endpoint.
func used(e *tsujiv1.Endpoint) bool {
	return e.GetReady() || e.GetIdled() || e.GetServing() && e.GetTerminating()
}

func usedOf(list []*tsujiv1.Endpoint) (n int) {
	for _, e := range list {
		if used(e) {
			n++
		}
	}
	return n
}

// endpointsOf reads Endpoints; those of the zero Item are none.
func endpointsOf(i snapshot.Item) []*tsujiv1.Endpoint {
	if i.Name() == "" {
		return nil
	}
	r, err := tsujiv1.Decode(i)
	if err != nil {
		return nil // what was compiled decodes
	}
	return r.GetEndpoints().GetEndpoints()
}

// edits are the endpoints that are different in two lists.
type edits struct {
	come, leave, alter []endpointKey
	rest               []endpointKey // that get no requests, and come or go
}

func editsOf(old, now []*tsujiv1.Endpoint) (e edits) {
	before := make(map[endpointKey]*tsujiv1.Endpoint, len(old))
	for _, x := range old {
		before[keyOf(x)] = x
	}
	for _, x := range now {
		k := keyOf(x)
		was, is := before[k]
		switch {
		case used(x) && (!is || !used(was)):
			e.come = append(e.come, k)
		case is && used(was) && !used(x):
			e.leave = append(e.leave, k)
		case !is:
			e.rest = append(e.rest, k)
		case !proto.Equal(was, x):
			e.alter = append(e.alter, k)
		}
		delete(before, k)
	}
	for _, x := range old {
		k := keyOf(x)
		switch gone := before[k]; {
		case gone == nil:
		case used(gone):
			e.leave = append(e.leave, k)
		default:
			e.rest = append(e.rest, k)
		}
		delete(before, k)
	}
	return e
}

// first returns so many edits, in an order in which there are never fewer endpoints than before or after: what is only
// altered comes first, and then those that leave go as those come that come. Neighbours in the list are so on a node as
// well, so those come in an order that has nothing to do with it.
func (e edits) first(n int) map[endpointKey]bool {
	slices.SortFunc(e.come, func(a, b endpointKey) int { return cmp.Or(cmp.Compare(a.hash(), b.hash()), a.compare(b)) })
	chosen := make(map[endpointKey]bool, n)
	choose := func(k endpointKey) {
		if len(chosen) < n {
			chosen[k] = true
		}
	}
	for _, k := range e.alter {
		choose(k)
	}
	gone := 0
	for i, k := range e.come {
		choose(k)
		for ; gone < (i+1)*len(e.leave)/len(e.come); gone++ {
			choose(e.leave[gone])
		}
	}
	for _, k := range slices.Concat(e.leave[gone:], e.rest) {
		choose(k)
	}
	return chosen
}

func (k endpointKey) hash() uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(k.address + "/" + k.targetName))
	return h.Sum64()
}

func (k endpointKey) compare(o endpointKey) int {
	return cmp.Or(cmp.Compare(k.address, o.address), cmp.Compare(k.port, o.port), cmp.Compare(k.portName, o.portName),
		cmp.Compare(k.targetKind, o.targetKind), cmp.Compare(k.targetName, o.targetName))
}

// turnoverOf compares Endpoints, of which there may be none before or after.
func turnoverOf(from, to snapshot.Item) turnover {
	old, now := endpointsOf(from), endpointsOf(to)
	e := editsOf(old, now)
	return turnover{
		before: usedOf(old), after: usedOf(now),
		come: len(e.come), leave: len(e.leave), alter: len(e.alter) + len(e.rest),
	}
}

// step returns the Endpoints with as many of their edits as the piece has: those that stay, in their order, and then
// those that came.
func (c *change) step() snapshot.Item {
	res, err := tsujiv1.Decode(c.to)
	if err != nil {
		return c.to
	}
	old, now := endpointsOf(c.from), res.GetEndpoints().GetEndpoints()
	chosen := editsOf(old, now).first(c.steps)
	next := make(map[endpointKey]*tsujiv1.Endpoint, len(now))
	for _, x := range now {
		next[keyOf(x)] = x
	}
	var list []*tsujiv1.Endpoint
	for _, x := range old {
		k := keyOf(x)
		if after, stays := next[k]; !chosen[k] {
			list = append(list, x)
		} else if stays {
			list = append(list, after)
		}
		delete(next, k)
	}
	for _, x := range now {
		if k := keyOf(x); next[k] != nil && chosen[k] {
			list = append(list, x)
		}
	}
	res.GetEndpoints().Endpoints = list
	item, err := tsujiv1.Encode(res)
	if err != nil {
		return c.to
	}
	return item
}
