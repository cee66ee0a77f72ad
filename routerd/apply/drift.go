package apply

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

const (
	driftPause = time.Second          // between two slices
	driftMost  = 100                  // backends in a slice
	driftLeast = 8                    // and no fewer, however slow HAProxy is
	driftTime  = 5 * time.Millisecond // for a slice
)

// drift is how far the check has come that HAProxy still has what it should. It goes round all backends, a slice at
// a time: their servers, and the entries of maps that are theirs. At the end of a round it compares how many entries
// maps have: what is too many, or belongs to no backend, is found in that way.
type drift struct {
	round []string  // routes' backends of this round
	at    int       // how many of them were looked at
	slice int       // how many to look at next
	due   time.Time // not before

	sizes  map[string]int // entries that maps should have; nil: not known yet
	doubts int            // rounds in a row after which a map had another size
}

// isRoutes tells whether a backend of HAProxy is a route's, and none of the program's: "be_http:ns:name".
func isRoutes(name string) bool {
	return strings.HasPrefix(name, "be_") && strings.Count(name, ":") >= 2
}

// ours are the maps that nobody but routerd changes.
func ours(sizes map[string]int) map[string]int {
	maps.DeleteFunc(sizes, func(file string, _ int) bool { return file == suspectsMap || !strings.HasPrefix(file, "maps/") })
	return sizes
}

// checkDrift looks at a slice of what HAProxy has, and repairs what is not as it should be. What cannot be repaired is
// left to Run, which reloads.
func (a *Applier) checkDrift(ctx context.Context, now time.Time) error {
	if now.Before(a.drift.due) {
		return nil
	}
	a.drift.due = now.Add(driftPause)
	if err := a.connectInForce(ctx); err != nil {
		return err
	}
	if a.drift.sizes == nil {
		sizes, err := a.worker.MapSizes(ctx)
		if err != nil {
			return err //nolint:wrapcheck // says what was asked
		}
		a.drift.sizes = ours(sizes)
	}
	if a.drift.at >= len(a.drift.round) {
		a.drift.round, a.drift.at = a.cfg.Renderer.Backends(), 0
	}
	n := min(max(a.drift.slice, driftLeast), len(a.drift.round)-a.drift.at)
	slice := a.drift.round[a.drift.at : a.drift.at+n]
	a.drift.at += n
	begun := time.Now()
	p, found, err := a.compareSlice(ctx, slice)
	switch took := time.Since(begun); {
	case took > driftTime:
		a.drift.slice = max(a.drift.slice/2, driftLeast)
	case took < driftTime/2:
		a.drift.slice = min(a.drift.slice*2+driftLeast, driftMost)
	}
	if err != nil {
		return err
	}
	if len(found) > 0 {
		if err := a.repair(ctx, p, found); err != nil {
			return err
		}
	}
	if a.drift.at < len(a.drift.round) {
		return nil
	}
	return a.compareWhole(ctx)
}

// difference is something that HAProxy does not have as it should.
type difference struct{ kind, what string }

// repair carries out a plan against differences.
func (a *Applier) repair(ctx context.Context, p *plan, found []difference) error {
	for _, f := range found {
		a.cfg.Log.Warn("HAProxy has something else than it should; repairing", "kind", f.kind, "what", f.what)
	}
	s, _ := a.InForce()
	p.sizes = map[string]int{stampMap: p.sizes[stampMap]} // what is repaired in the others was counted already
	if err := a.carryOut(ctx, p, s.Version()); err != nil {
		a.suspect = true
		return fmt.Errorf("repair: %w", err)
	}
	for _, f := range found {
		a.cfg.Metrics.Repairs.WithLabelValues(f.kind).Inc()
	}
	return nil
}

// compareSlice compares some backends' servers and entries with what HAProxy has, and plans the repair.
func (a *Applier) compareSlice(ctx context.Context, names []string) (*plan, []difference, error) {
	r := a.cfg.Renderer
	var wanted []render.Backend
	var actual []string
	var entries []render.Entry
	for _, name := range names {
		b, ok := r.Backend(name)
		if !ok {
			continue // it has gone since the round began
		}
		wanted = append(wanted, b)
		actual = append(actual, a.held.name(name))
		entries = append(entries, r.Routing(name)...)
		entries = append(entries, r.RouteOptions(name)...)
	}
	states, err := a.backendsState(ctx, actual)
	if err != nil {
		return nil, nil, err
	}
	keys := make([]haproxy.MapKey, len(entries))
	for i, e := range entries {
		keys[i] = haproxy.MapKey{File: e.File, Key: e.Key}
	}
	values, err := a.worker.GetMapKeys(ctx, keys)
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // says what was asked
	}
	var found []difference
	var c render.Change
	for i, b := range wanted {
		if states[i] == nil {
			found = append(found, difference{"backend", actual[i] + " is not there"})
			c.Backends = append(c.Backends, render.BackendChange{Name: b.Name, New: &b})
		} else if moved(b, states[i]) {
			found = append(found, difference{"backend", actual[i] + " has a server at another address"})
			c.Backends = append(c.Backends, render.BackendChange{Name: b.Name, Old: &render.Backend{Name: b.Name, Servers: b.Servers}, New: &b})
		}
	}
	for i, e := range entries {
		want := e.Value
		if render.IsRouting(e.File) {
			want = render.Rename(want, a.held.name)
		}
		if values[i].Value != want {
			found = append(found, difference{"entry", fmt.Sprintf("%s has %.100q for %.200q", e.File, values[i].Value, e.Key)})
			c.Entries = append(c.Entries, render.EntryChange{File: e.File, Key: e.Key, Old: values[i].Value, New: e.Value})
		}
	}
	if len(c.Backends) > 0 && !a.capabilities().DynamicBackends {
		a.suspect = true
		return nil, nil, fmt.Errorf("%s: %s", found[0].kind, found[0].what)
	}
	p, err := newPlan(a.planner(), c)
	if err != nil {
		a.suspect = true
		return nil, nil, fmt.Errorf("plan a repair: %w", err)
	}
	for i, b := range wanted {
		if states[i] != nil && !moved(b, states[i]) {
			found = append(found, a.planServerRepair(p, actual[i], b, states[i])...)
		}
	}
	return p, found, nil
}

// backendsState returns the servers of backends; nil for one that is not there.
func (a *Applier) backendsState(ctx context.Context, names []string) ([]map[string]haproxy.ServerState, error) {
	states, err := a.worker.BackendsState(ctx, names...)
	var refused *haproxy.RefusedError
	if !errors.As(err, &refused) {
		return states, err //nolint:wrapcheck // says what was asked
	}
	states = make([]map[string]haproxy.ServerState, len(names))
	for i, name := range names {
		one, err := a.worker.BackendsState(ctx, name)
		switch {
		case err == nil:
			states[i] = one[0]
		case !errors.As(err, &refused):
			return nil, err //nolint:wrapcheck // says what was asked
		}
	}
	return states, nil
}

// moved tells whether a server is at another address, which only another backend puts right.
func moved(b render.Backend, have map[string]haproxy.ServerState) bool {
	for _, s := range b.Servers {
		if h, ok := have[s.Name]; ok && !at(s, h) {
			return true
		}
	}
	return false
}

// planServerRepair plans what makes a backend's servers as they should be.
func (a *Applier) planServerRepair(p *plan, name string, b render.Backend, have map[string]haproxy.ServerState) []difference {
	var found []difference
	differs := func(server, what string, ops ...haproxy.Op) {
		found = append(found, difference{"server", fmt.Sprintf("%s/%s %s", name, server, what)})
		p.servers = append(p.servers, ops...)
		p.backends[name] = &b
	}
	for _, s := range b.Servers {
		suspended := a.held.suspended[server{b.Name, s.Name}]
		h, ok := have[s.Name]
		if !ok {
			differs(s.Name, "is not there", addServer(name, s, !suspended)...)
			continue
		}
		if h.Weight != s.Weight {
			differs(s.Name, fmt.Sprintf("has weight %d", h.Weight), haproxy.SetServerWeight(name, s.Name, s.Weight))
		}
		want := haproxy.Ready
		if suspended {
			want = haproxy.Maint
		}
		if h.State() != want {
			differs(s.Name, fmt.Sprintf("is in state %s", h.State()), haproxy.SetServerState(name, s.Name, want))
		}
	}
	wanted := byName(b.Servers)
	for _, other := range sortedKeys(have) {
		l := a.held.servers[name][other]
		if _, ok := wanted[other]; ok || l != nil && have[other].State() == haproxy.Maint {
			continue
		}
		differs(other, "should not take requests", haproxy.SetServerState(name, other, haproxy.Maint))
		if l == nil {
			p.leavingServers[server{name, other}] = &leavingServer{try: a.planner().firstTry()}
		}
	}
	return found
}

// compareWhole compares, after a round, how many entries maps have, and which backends there are.
func (a *Applier) compareWhole(ctx context.Context) error {
	sizes, err := a.worker.MapSizes(ctx)
	if err != nil {
		return err //nolint:wrapcheck // says what was asked
	}
	if maps.Equal(ours(sizes), a.drift.sizes) {
		a.drift.doubts = 0
	} else if a.drift.doubts++; a.drift.doubts > 1 { // what a slice can repair another round has repaired
		a.suspect = true
		a.cfg.Metrics.Repairs.WithLabelValues("map").Inc()
		maps.DeleteFunc(sizes, func(file string, n int) bool { return a.drift.sizes[file] == n })
		return fmt.Errorf("these maps have another number of entries than they should: %v", sizes)
	}
	if !a.capabilities().DynamicBackends {
		return nil
	}
	names, err := a.worker.Backends(ctx)
	if err != nil {
		return err //nolint:wrapcheck // says what was asked
	}
	wanted := make(map[string]bool, len(names))
	for _, b := range a.cfg.Renderer.Backends() {
		wanted[a.held.name(b)] = true
	}
	for _, name := range names {
		if isRoutes(name) && !wanted[name] && a.held.backends[name] == nil {
			a.cfg.Log.Warn("HAProxy has a backend that no route has; deleting it", "backend", name)
			a.cfg.Metrics.Repairs.WithLabelValues("backend").Inc()
			a.unswept = true
		}
	}
	return nil
}
