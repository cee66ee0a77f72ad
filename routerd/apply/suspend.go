package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

// Server names a server of a route's backend, as the renderer does.
type Server struct{ Backend, Name string }

// ErrNoServer says that there is no such server in force.
var ErrNoServer = errors.New("there is no such server")

// Suspend takes a server that is wanted out of service, because it is dead: it gets no new requests until Restore, and
// other changes leave it so. That is forgotten when the server leaves, or HAProxy begins anew from its files. Who
// suspends decides how many of a backend's servers may be: nothing is counted here.
func (a *Applier) Suspend(ctx context.Context, backend, name string) error {
	return a.setSuspended(ctx, server{backend, name}, true)
}

// Restore takes a server back into service that Suspend took out. That it was not suspended is no error.
func (a *Applier) Restore(ctx context.Context, backend, name string) error {
	return a.setSuspended(ctx, server{backend, name}, false)
}

// Suspended returns the servers that are out of service through Suspend, by backend and name.
func (a *Applier) Suspended() []Server {
	if list := a.suspendedNow.Load(); list != nil {
		return slices.Clone(*list)
	}
	return nil
}

// Servers returns the servers in force of a route's backend, by the renderer's name; none if there is no such backend.
func (a *Applier) Servers(ctx context.Context, backend string) ([]render.Server, error) {
	if err := a.take(ctx); err != nil {
		return nil, fmt.Errorf("servers of %s: %w", backend, err)
	}
	defer func() { <-a.turn }() // nothing has changed that Run should look at
	b, ok := a.cfg.Renderer.Backend(backend)
	if _, serving := a.InForce(); !serving || !ok {
		return nil, nil
	}
	return b.Servers, nil
}

func (a *Applier) setSuspended(ctx context.Context, s server, suspended bool) error {
	state, what := haproxy.Ready, "restore"
	if suspended {
		state, what = haproxy.Maint, "suspend"
	}
	if err := a.take(ctx); err != nil {
		return fmt.Errorf("%s server %s of %s: %w", what, s.name, s.backend, err)
	}
	defer a.give()
	ctx, done := a.working(ctx)
	defer done()
	if a.held.suspended[s] == suspended {
		return nil
	}
	b, ok := a.cfg.Renderer.Backend(s.backend)
	if _, serving := a.InForce(); !serving || !ok || !slices.ContainsFunc(b.Servers, func(x render.Server) bool { return x.Name == s.name }) {
		return fmt.Errorf("%s server %s of %s: %w", what, s.name, s.backend, ErrNoServer)
	}
	err := a.connectInForce(ctx)
	if err == nil {
		err = a.worker.Do(ctx, haproxy.SetServerState(a.held.name(s.backend), s.name, state))
	}
	if err != nil {
		return fmt.Errorf("%s server %s of %s: %w", what, s.name, s.backend, err)
	}
	if suspended {
		a.held.suspended[s] = true
	} else {
		delete(a.held.suspended, s)
	}
	a.publishSuspended()
	return nil
}

// publishSuspended makes Suspended say what is.
func (a *Applier) publishSuspended() {
	list := make([]Server, 0, len(a.held.suspended))
	for s := range a.held.suspended {
		list = append(list, Server{s.backend, s.name})
	}
	slices.SortFunc(list, func(x, y Server) int {
		if c := strings.Compare(x.Backend, y.Backend); c != 0 {
			return c
		}
		return strings.Compare(x.Name, y.Name)
	})
	a.suspendedNow.Store(&list)
	a.cfg.Metrics.Suspended.Set(float64(len(list)))
}
