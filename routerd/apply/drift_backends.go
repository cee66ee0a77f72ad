package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

// isRoutes tells whether a backend of HAProxy is a route's, and none of the program's: "be_http:ns:name".
func isRoutes(name string) bool {
	return strings.HasPrefix(name, "be_") && strings.Count(name, ":") >= 2
}

// compareBackends compares backends and their servers with what HAProxy has.
func (a *Applier) compareBackends(ctx context.Context, names []string) (*plan, []difference, error) {
	var wanted []render.Backend
	var actual []string
	for _, name := range names {
		if b, ok := a.cfg.Renderer.Backend(name); ok { // else it has gone since the round began
			wanted = append(wanted, b)
			actual = append(actual, a.held.name(name))
		}
	}
	states, err := a.backendsState(ctx, actual)
	if err != nil {
		return nil, nil, err
	}
	var found []difference
	var replaced []render.BackendChange
	left := map[string]bool{} // backends that nothing is done about
	differs := func(i int, what string) bool {
		d := a.differs(difference{kind: driftBackend, object: actual[i], what: actual[i] + " " + what,
			of: wanted[i].Name})
		found, left[actual[i]] = append(found, d), d.left
		return !d.left
	}
	for i, b := range wanted {
		switch {
		case states[i] == nil && differs(i, "is not there"):
			delete(a.held.servers, actual[i]) // it had none any more
			replaced = append(replaced, render.BackendChange{Name: b.Name, New: &b})
		case states[i] == nil:
		case moved(b, states[i]) && a.capabilities().DynamicBackends && differs(i, "has a server at another address"): // it may have connections there
			replaced = append(replaced, render.BackendChange{Name: b.Name, Old: &b, New: &b})
		}
	}
	p, err := a.planReplaced(ctx, replaced)
	if err != nil {
		return nil, found, err
	}
	for i, b := range wanted {
		if _, replaced := p.names[b.Name]; replaced || left[actual[i]] {
			continue
		}
		of, err := a.compareServers(ctx, p, actual[i], b, states[i])
		found = append(found, of...)
		if err != nil {
			return nil, found, err
		}
	}
	return p, found, nil
}

// planReplaced plans that other backends take the place of these, or of none. The entries that lead to them, which
// several may share, are taken as HAProxy has them.
func (a *Applier) planReplaced(ctx context.Context, replaced []render.BackendChange) (*plan, error) {
	c, keys := replacing(a.cfg.Renderer.Routing, replaced)
	values, err := a.worker.GetMapKeys(ctx, keys)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what was asked
	}
	for i := range c.Entries {
		c.Entries[i].Old = values[i].Value
	}
	return a.planRepair(c)
}

// replacing returns the change by which other backends take the place of these, and the keys of its entries, whose
// values are to be filled in.
func replacing(
	routing func(backends ...string) []render.Entry, replaced []render.BackendChange,
) (render.Change, []haproxy.MapKey) {
	c := render.Change{Backends: slices.Clone(replaced)}
	names := make([]string, len(replaced))
	for i, b := range replaced {
		if names[i] = b.Name; b.Old != nil {
			// Of no kind: it cannot be changed where it is.
			c.Backends[i].Old = &render.Backend{Name: b.Old.Name, Servers: b.Old.Servers}
		}
	}
	entries := routing(names...)
	keys := make([]haproxy.MapKey, len(entries))
	for i, e := range entries {
		keys[i] = haproxy.MapKey{File: e.File, Key: e.Key}
		c.Entries = append(c.Entries, render.EntryChange{File: e.File, Key: e.Key, New: e.Value})
	}
	return c, keys
}

// moved tells whether a server is at another address.
func moved(b render.Backend, have map[string]haproxy.ServerState) bool {
	for _, s := range b.Servers {
		if h, ok := have[s.Name]; ok && !at(s, h) {
			return true
		}
	}
	return false
}

// compareServers compares a backend's servers with those that it has, and plans the repair.
func (a *Applier) compareServers(ctx context.Context, p *plan, name string, b render.Backend,
	have map[string]haproxy.ServerState) ([]difference, error) {
	var found []difference
	differs := func(server, aspect, what string, ops ...haproxy.Op) bool {
		object := name + "/" + server
		d := a.differs(difference{kind: driftServer, object: object + " " + aspect, what: object + " " + what,
			of: b.Name})
		if found = append(found, d); !d.left {
			p.servers = append(p.servers, ops...)
			p.backends[name] = &b
		}
		return !d.left
	}
	missing := false
	there := map[string]render.Server{}
	for _, s := range b.Servers {
		h, ok := have[s.Name]
		if !ok {
			missing = differs(s.Name, "there", "is not there") || missing
			continue
		}
		there[s.Name] = s
		if !at(s, h) {
			if differs(s.Name, "address", fmt.Sprintf("is at %s port %d", h.Address, h.Port)) {
				if err := a.moveBack(ctx, name, s); err != nil {
					return found, err
				}
			}
		}
		if tls := slices.Contains(s.Params, "ssl"); h.TLS != tls {
			differs(s.Name, "tls", fmt.Sprintf("has TLS %t", h.TLS), haproxy.SetServerTLS(name, s.Name, tls))
		}
		if h.Weight != s.Weight {
			differs(s.Name, "weight", fmt.Sprintf("has weight %d", h.Weight),
				haproxy.SetServerWeight(name, s.Name, s.Weight))
		}
		want := a.held.state(server{b.Name, s.Name})
		switch {
		case s.Checked() && !h.Checked:
			differs(s.Name, "check", "is not checked", haproxy.EnableHealth(name, s.Name))
		case !s.Checked() && h.State() == haproxy.Ready && !h.Running:
			differs(s.Name, "health", "is down", haproxy.SetServerHealth(name, s.Name))
		}
		if h.State() != want {
			differs(s.Name, "state", fmt.Sprintf("is in state %s", h.State()),
				haproxy.SetServerState(name, s.Name, want))
		}
	}
	for _, s := range b.Servers {
		if _, ok := there[s.Name]; !ok && a.held.servers[name][s.Name] != nil {
			a.held.forget(server{name, s.Name})
		}
	}
	if missing {
		in := a.planner()
		if err := in.fits(name, there, &b); err != nil {
			return found, fmt.Errorf("plan a repair of backend %s: %w", name, err)
		}
		p.planServers(in, name, there, &b)
	}
	wanted := byName(b.Servers)
	for _, other := range sortedKeys(have) {
		l := a.held.servers[name][other]
		if _, ok := wanted[other]; ok || l != nil && have[other].State() == haproxy.Maint {
			continue
		}
		if differs(other, "surplus", "should not take requests", haproxy.SetServerState(name, other, haproxy.Maint)) && l == nil {
			p.leavingServers[server{name, other}] = &leavingServer{try: a.planner().firstTry()}
		}
	}
	return found, nil
}

// moveBack gives a server its address again, and waits until it has it: HAProxy only queues the move.
func (a *Applier) moveBack(ctx context.Context, backend string, s render.Server) error {
	to, err := s.AddrPort()
	if err == nil {
		err = a.worker.Do(ctx, haproxy.SetServerAddr(backend, s.Name, to))
	}
	for begun := time.Now(); err == nil && time.Since(begun) < time.Second; {
		states, stateErr := a.worker.BackendsState(ctx, backend)
		if err = stateErr; err == nil && at(s, states[0][s.Name]) {
			return nil
		}
	}
	if err == nil {
		err = errors.New("HAProxy has not moved it within a second")
	}
	return fmt.Errorf("give server %s of %s its address again: %w", s.Name, backend, err)
}
