package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

const (
	driftPause = time.Second          // between two turns
	driftMost  = 150                  // backends or certificates at a time
	driftLeast = 8                    // and no fewer, however slow HAProxy is
	driftTime  = 5 * time.Millisecond // for a turn
	driftTold  = 20                   // differences that are logged one by one
)

// drift is how far the check has come that HAProxy still has what it should. It goes round all that can be changed by
// hand: maps, backends with their servers, certificates, CA certificates, the crt-list; and in the end the proxies.
// What is large is looked at a slice at a time.
type drift struct {
	round []look    // what is left of this round
	slice int       // how many names of the first look to take next
	due   time.Time // not before

	list   bool            // the round is over but for the proxies, which Run lists
	closed *haproxy.Closed // that list, when it is there
}

// look is names of one kind, some of which are looked at at a time.
type look struct {
	names   []string
	most    int // of them at a time
	compare comparison
}

// comparison compares names of one kind with what HAProxy has. It returns what differs, and a plan that repairs what is
// not to be left of that. After an error there is no plan; differences that it comes of have been found.
type comparison func(ctx context.Context, names []string) (*plan, []difference, error)

// Kinds of differences.
const (
	driftEntry       = "entry"       // of a map
	driftBackend     = "backend"     // that is not there, not published, or not known; or whose servers only another has right
	driftServer      = "server"      // its address, weight, state, or that it is there
	driftCertificate = "certificate" // with its key
	driftCA          = "ca"          // CA certificates
	driftLine        = "line"        // of the crt-list
	driftFrontend    = "frontend"    // that does not listen
)

// driftKinds are all that there are.
var driftKinds = []string{driftEntry, driftBackend, driftServer, driftCertificate, driftCA, driftLine, driftFrontend}

// newRound says what there is to look at.
func (a *Applier) newRound() []look {
	r := a.cfg.Renderer
	round := []look{
		{append(r.Maps(), readyMap, stampMap), 1, a.compareMap},
		{r.Backends(), driftMost, a.compareBackends},
		{r.Certificates(), driftMost, a.compareCertificates},
		{r.CAs(), 1, a.compareCA},
		{[]string{certificateFiles, caFiles}, 1, a.compareFiles},
		{[]string{"names"}, 1, a.compareNames},
	}
	if _, ok := r.CrtList(); ok {
		round = append(round, look{[]string{crtList}, 1, a.compareCrtList})
	}
	return slices.DeleteFunc(round, func(l look) bool { return len(l.names) == 0 })
}

// checkDrift looks at some of what HAProxy has, and repairs what is not as it should be. What commands cannot repair is
// left to Run, which reloads, once (drift_mend.go).
func (a *Applier) checkDrift(ctx context.Context, now time.Time) error {
	if now.Before(a.drift.due) || a.drift.list {
		return nil
	}
	a.drift.due = now.Add(driftPause)
	if err := a.connectInForce(ctx); err != nil {
		return err
	}
	if a.drift.closed != nil {
		err := a.lookAt(ctx, nil, a.compareClosed)
		a.drift.closed = nil
		a.endRound()
		return err
	}
	if len(a.drift.round) == 0 {
		a.drift.round, a.drift.slice = a.newRound(), driftLeast
	}
	for begun := time.Now(); len(a.drift.round) > 0 && time.Since(begun) < driftTime/4; {
		if err := a.lookOn(ctx); err != nil {
			return err
		}
	}
	a.drift.list = len(a.drift.round) == 0
	return nil
}

// lookOn looks at the next slice of the round.
func (a *Applier) lookOn(ctx context.Context) error {
	l := &a.drift.round[0]
	n := min(a.drift.slice, l.most, len(l.names))
	names, compare := l.names[:n], l.compare
	if l.names = l.names[n:]; len(l.names) == 0 {
		a.drift.round = a.drift.round[1:]
	}
	begun := time.Now()
	err := a.lookAt(ctx, names, compare)
	switch took := time.Since(begun); {
	case len(l.names) == 0:
		a.drift.slice = driftLeast // what comes next is of another kind
	case took > driftTime:
		a.drift.slice = max(n/2, driftLeast)
	case took < driftTime/2:
		a.drift.slice = min(n*2, driftMost)
	}
	return err
}

// planRepair plans a change that brings back what should be.
func (a *Applier) planRepair(c render.Change) (*plan, error) {
	p, err := newPlan(a.planner(), c)
	if err != nil {
		return nil, fmt.Errorf("plan a repair: %w", err)
	}
	return p, nil
}

// What compareFiles looks at.
const (
	certificateFiles = "certificates"
	caFiles          = "CA certificates"
)

// compareFiles finds certificates that nobody should have, which the janitor deletes; and forgets those that were on
// their way out and have gone by another hand than the janitor's.
func (a *Applier) compareFiles(ctx context.Context, which []string) (*plan, []difference, error) {
	ca, kind := which[0] == caFiles, driftCertificate
	if ca {
		kind = driftCA
	}
	paths, err := a.worker.CertificateFiles(ctx, ca)
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // says what was asked
	}
	there := make(map[string]bool, len(paths))
	var found []difference
	for _, path := range paths {
		there[path] = true
		if isDerived(path) && !a.cfg.Renderer.Has(path) && a.held.files[path] == nil {
			if d := a.differs(difference{kind: kind, object: path, what: path + " is no route's"}); !d.left {
				found = append(found, d)
				a.unswept = true
			}
		}
	}
	for path, f := range a.held.files {
		if f.ca == ca && !there[path] {
			delete(a.held.files, path)
		}
	}
	p, err := a.planRepair(render.Change{})
	return p, found, err
}

// compareNames finds backends that nobody should have, which the janitor deletes; and forgets servers that were on
// their way out and have gone by another hand than the janitor's.
func (a *Applier) compareNames(ctx context.Context, _ []string) (*plan, []difference, error) {
	if err := a.forgetServers(ctx); err != nil {
		return nil, nil, err
	}
	p, err := a.planRepair(render.Change{})
	if err != nil || !a.capabilities().DynamicBackends {
		return p, nil, err
	}
	names, err := a.worker.Backends(ctx)
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // says what was asked
	}
	wanted := a.actualNames()
	var found []difference
	for _, name := range names {
		if isRoutes(name) && !wanted[name] && a.held.backends[name] == nil {
			if d := a.differs(difference{kind: driftBackend, object: name, what: name + " is no route's"}); !d.left {
				found = append(found, d)
				a.unswept = true
			}
		}
	}
	return p, found, nil
}

// actualNames are what HAProxy calls the routes' backends.
func (a *Applier) actualNames() map[string]bool {
	list := a.cfg.Renderer.Backends()
	names := make(map[string]bool, len(list))
	for _, b := range list {
		names[a.held.name(b)] = true
	}
	return names
}

// forgetServers forgets servers that were on their way out of backends that stay, and are gone.
func (a *Applier) forgetServers(ctx context.Context) error {
	names := sortedKeys(a.held.servers)
	states, err := a.backendsState(ctx, names)
	if err != nil {
		return err
	}
	for i, backend := range names {
		for name := range a.held.servers[backend] {
			if _, ok := states[i][name]; !ok {
				a.held.forget(server{backend, name})
			}
		}
	}
	return nil
}

// listClosed lists the proxies that do not take requests, if the check has come to that. It is done without the turn,
// since HAProxy takes long for that with many backends, if a bit at a time: what it finds is looked at again with it.
func (a *Applier) listClosed(ctx context.Context) {
	var closed haproxy.Closed
	w, err := a.cfg.HAProxy.Connect(ctx)
	if err == nil {
		closed, err = w.Closed(ctx, w.Version().Capabilities().DynamicBackends)
		w.Close()
	}
	if a.take(ctx) != nil {
		return
	}
	defer func() { <-a.turn }()
	switch {
	case err != nil:
		a.cfg.Log.Warn("it is not known whether all proxies take requests", "error", err)
	case a.drift.list: // else HAProxy has begun anew
		a.drift.closed = &closed
	}
	a.drift.list = false
}

// closedMost is how many proxies are looked at again, and opened one by one. If all of them are closed, and there are
// more, a reload is better.
const closedMost = 16

// compareClosed finds proxies that were found closed, and are.
func (a *Applier) compareClosed(ctx context.Context, _ []string) (*plan, []difference, error) {
	c, wanted := *a.drift.closed, a.actualNames()
	c.Unpublished = slices.DeleteFunc(slices.Clone(c.Unpublished),
		func(name string) bool { return isRoutes(name) && !wanted[name] })
	names := slices.Concat(c.Stopped, c.Paused, c.Unpublished)
	if len(names) == 0 {
		return nil, nil, nil
	}
	// They may have been opened since: backends that were on their way out and have come back, for some.
	first := names[:min(len(names), closedMost)]
	now, err := a.worker.Closed(ctx, a.worker.Version().Capabilities().DynamicBackends, first...)
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // says what was asked
	}
	if closed := len(now.Stopped) + len(now.Paused) + len(now.Unpublished); len(now.Stopped) > 0 ||
		closed == len(first) && len(names) > closed {
		what := fmt.Sprintf("%d proxies do not take requests, %.200q first", len(names), names[0])
		return nil, []difference{a.differs(difference{kind: driftFrontend, object: "all", what: what})},
			errors.New("only a reload makes all proxies take requests")
	}
	p, err := a.planRepair(render.Change{})
	if err != nil {
		return nil, nil, err
	}
	var found []difference
	open := func(d difference, op haproxy.Op) {
		d = a.differs(d)
		if found = append(found, d); !d.left {
			p.servers = append(p.servers, op)
		}
	}
	for _, name := range now.Paused {
		open(difference{kind: driftFrontend, object: name, what: name + " does not listen"},
			haproxy.EnableFrontend(name))
	}
	for _, name := range now.Unpublished {
		open(difference{kind: driftBackend, object: name + " published", what: name + " is not published"},
			haproxy.PublishBackend(name))
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
