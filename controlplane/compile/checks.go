package compile

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tsuji-dev/tsuji/checkrate"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// checks are what the Routes of a namespace that are served ask for, and what they have.
type checks struct {
	counts checkrate.Counts
	names  map[int][]string // by class
	share  checkrate.Share
}

// checksOf goes through all Routes that are served, and returns what they ask for, by namespace. Routers count in the
// same way.
func checksOf(served snapshot.Snapshot) map[string]*checks {
	all, sizes := map[string]*checks{}, map[string]int{}
	for item := range served.Config().All() {
		if !strings.HasPrefix(item.Name(), "route/") {
			continue
		}
		r, err := tsujiv1.Decode(item)
		if err != nil || r.GetRoute().GetHealthCheckInterval() == nil {
			continue
		}
		route := r.GetRoute()
		class := checkrate.Class(checked(route, served, sizes), route.GetHealthCheckInterval().AsDuration())
		if class < 0 {
			continue
		}
		of := all[route.GetNamespace()]
		if of == nil {
			of = &checks{names: map[int][]string{}}
			all[route.GetNamespace()] = of
		}
		of.counts.Add(class, 1)
		of.names[class] = append(of.names[class], item.Name())
	}
	for _, of := range all {
		of.share = of.counts.Share(func(class int) []string {
			slices.Sort(of.names[class])
			return of.names[class]
		})
	}
	return all
}

// checked counts the servers of a Route whose health is checked. sizes has what is known of Endpoints already.
func checked(r *tsujiv1.Route, served snapshot.Snapshot, sizes map[string]int) (n int) {
	for _, b := range r.GetBackends() {
		if b.GetWeight() == 0 && r.GetTermination() == tsujiv1.Termination_TERMINATION_PASSTHROUGH {
			continue
		}
		size, known := sizes[b.GetEndpoints()]
		if !known {
			for _, e := range decoded(served, b.GetEndpoints()).GetEndpoints().GetEndpoints() {
				if (e.GetReady() || e.GetServing() && e.GetTerminating()) && !e.GetIdled() {
					size++
				}
			}
			sizes[b.GetEndpoints()] = size
		}
		n += size
	}
	return n
}

// lengthened tells of a Route whose endpoints are checked less often than it asks for; empty: they are not.
func (p *Passing) lengthened(r *tsujiv1.Route) string {
	if r.GetHealthCheckInterval() == nil {
		return ""
	}
	if p.checks == nil {
		p.checks = checksOf(p.served)
	}
	of := p.checks[r.GetNamespace()]
	if of == nil {
		return ""
	}
	asked, servers := r.GetHealthCheckInterval().AsDuration(), checked(r, p.served, map[string]int{})
	name := tsujiv1.RouteName(r.GetNamespace(), r.GetName())
	inForce := asked << of.share.Doublings(name, checkrate.Class(servers, asked), asked)
	if inForce == asked {
		return ""
	}
	return fmt.Sprintf("annotation %s: %d endpoints are checked every %s, and not every %s: all Routes of a namespace have "+
		"%d checks a second in a router, and one of them %d; ask for a longer interval", annCheckInterval, servers,
		short(inForce), short(asked), checkrate.Most, checkrate.MostOfOne)
}

// short writes a time as annotations have it, in the largest unit that it is whole in.
func short(d time.Duration) string {
	for _, u := range []struct {
		name string
		of   time.Duration
	}{{"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}} {
		if d%u.of == 0 {
			return fmt.Sprint(int64(d/u.of), u.name)
		}
	}
	return fmt.Sprint(d.Milliseconds(), "ms")
}
