package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
)

const (
	gracePause   = 2 * time.Second       // in which a backend that leaves stays as it is: requests are on their way there
	janitorPause = time.Second           // before the first try to delete something that leaves
	janitorMost  = 30 * time.Second      // between two tries
	janitorTurn  = 5 * time.Millisecond  // at a time; then who waits for the turn has it
	janitorRest  = 10 * time.Millisecond // between two turns while there is something to do

	never = 100 * 365 * 24 * time.Hour
)

// countHeld tells the metrics what is on its way out.
func (a *Applier) countHeld() {
	leaving := a.cfg.Metrics.Leaving
	leaving.WithLabelValues("servers").Set(float64(a.held.countServers()))
	leaving.WithLabelValues("backends").Set(float64(len(a.held.backends)))
	leaving.WithLabelValues("certificates").Set(float64(len(a.held.files)))
	a.publishSuspended()
}

// janitorDue tells when the janitor has something to try next.
func (h held) janitorDue() time.Time {
	due := time.Now().Add(never)
	earlier := func(t try) {
		if t.due.Before(due) {
			due = t.due
		}
	}
	for name, b := range h.backends {
		if b.whole != nil || len(h.servers[name]) == 0 { // else its servers come first
			earlier(b.try)
		}
	}
	for _, of := range h.servers {
		for _, s := range of {
			earlier(s.try)
		}
	}
	for _, f := range h.files {
		earlier(f.try)
	}
	return due
}

// clean deletes what is leaving and has drained: servers, then backends without servers, then files that those had
// used. What still has connections is tried again later. Each step does one thing at least, and when it has had its turn
// no more.
func (a *Applier) clean(ctx context.Context, now time.Time) {
	if now.Before(a.resting) || now.Before(a.held.janitorDue()) || a.connectInForce(ctx) != nil {
		return
	}
	now = time.Now()
	for _, step := range []func(context.Context, time.Time) error{a.emptyBackends, a.deleteServers, a.deleteBackends, a.deleteFiles} {
		if err := step(ctx, now); err != nil {
			a.cfg.Log.Warn("what has left could not be deleted", "error", err)
			break
		}
	}
	a.resting = time.Now().Add(janitorRest)
	a.countHeld()
}

// dueKeys returns the keys of what is due, what has been due longest first.
func dueKeys[K comparable, V any](m map[K]V, now time.Time, of func(V) try) []K {
	var keys []K
	for k, v := range m {
		if !now.Before(of(v).due) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(x, y K) int { return of(m[x]).due.Compare(of(m[y]).due) })
	return keys
}

// emptyBackends takes the servers of backends out of service whose grace has passed.
func (a *Applier) emptyBackends(ctx context.Context, now time.Time) error {
	for _, name := range dueKeys(a.held.backends, now, func(b *leavingBackend) try { return b.try }) {
		b := a.held.backends[name]
		if b.whole == nil {
			continue
		}
		ops := []haproxy.Op{haproxy.UnpublishBackend(name)}
		for _, s := range sortedKeys(b.whole) {
			ops = append(ops, haproxy.SetServerState(name, s, haproxy.Maint))
		}
		if err := a.worker.Do(ctx, ops...); err != nil {
			a.suspect = true // half of it is in service
			return fmt.Errorf("take backend %s out of service: %w", name, err)
		}
		for s, was := range b.whole {
			a.held.leave(server{name, s}, &leavingServer{&was, try{now, now}})
		}
		b.whole = nil
		if time.Since(now) > janitorTurn {
			break
		}
	}
	return nil
}

func (a *Applier) deleteServers(ctx context.Context, now time.Time) error {
	all := map[server]*leavingServer{}
	for backend, of := range a.held.servers {
		for name, l := range of {
			all[server{backend, name}] = l
		}
	}
	wait := a.capabilities().DelServerWait
	for _, s := range dueKeys(all, now, func(l *leavingServer) try { return l.try }) {
		var ops []haproxy.Op
		if wait {
			ops = append(ops, haproxy.AwaitRemovable(s.backend, s.name, 1))
		}
		gone, err := a.delete(ctx, &all[s].try, now, append(ops, haproxy.DelServer(s.backend, s.name))...)
		if err != nil {
			return fmt.Errorf("delete server %s of backend %s: %w", s.name, s.backend, err)
		}
		if gone {
			a.held.forget(s)
		}
		if time.Since(now) > janitorTurn {
			break
		}
	}
	return nil
}

func (a *Applier) deleteBackends(ctx context.Context, now time.Time) error {
	for _, name := range dueKeys(a.held.backends, now, func(b *leavingBackend) try { return b.try }) {
		b := a.held.backends[name]
		if b.whole != nil || len(a.held.servers[name]) > 0 {
			continue
		}
		gone, err := a.delete(ctx, &b.try, now, haproxy.AwaitBackendRemovable(name, 1), haproxy.DelBackend(name))
		if err != nil {
			return fmt.Errorf("delete backend %s: %w", name, err)
		}
		// The answer has what HAProxy said of the servers before, and only so much: its last line may be missing (3.4.7).
		if gone || a.noBackend(ctx, name) {
			delete(a.held.backends, name)
		}
		if time.Since(now) > janitorTurn {
			break
		}
	}
	return nil
}

// noBackend tells whether HAProxy says that there is no such backend.
func (a *Applier) noBackend(ctx context.Context, name string) bool {
	_, err := a.worker.BackendsState(ctx, name)
	var refused *haproxy.RefusedError
	return errors.As(err, &refused)
}

func (a *Applier) deleteFiles(ctx context.Context, now time.Time) error {
	for _, path := range dueKeys(a.held.files, now, func(f *leavingFile) try { return f.try }) {
		f := a.held.files[path]
		if f.unfit && a.cfg.Renderer.Has(path) { // it is kept, so that it comes back without a reload
			f.later(now)
			continue
		}
		op := haproxy.DelCertificate(path)
		if f.ca {
			op = haproxy.DelCA(path)
		}
		gone, err := a.delete(ctx, &f.try, now, op)
		if err != nil {
			return fmt.Errorf("delete %s: %w", path, err)
		}
		if gone {
			delete(a.held.files, path)
		}
		if time.Since(now) > janitorTurn {
			break
		}
	}
	return nil
}

// delete tries to delete something, and tells whether it is gone. That HAProxy refuses puts the next try off. One
// operation is done after the other: together, the deletion would be tried, and might succeed, after a wait that failed.
func (a *Applier) delete(ctx context.Context, t *try, now time.Time, ops ...haproxy.Op) (bool, error) {
	for _, op := range ops {
		err := a.worker.Do(ctx, op)
		var refused *haproxy.RefusedError
		if errors.As(err, &refused) {
			t.later(now)
			a.cfg.Log.Debug("still in use", "error", err, "since", t.since, "next", t.due)
			return false, nil
		}
		if err != nil {
			return false, err //nolint:wrapcheck // done by who knows what it is
		}
	}
	return true, nil
}

// inherit finds what an earlier routerd had left in the HAProxy that was taken over: names, and what was on its way
// out. What it is not known to be for is never used again. Servers that were suspended are in service again.
func (a *Applier) inherit(ctx context.Context) error {
	a.begunAnew()
	entries, err := a.worker.ShowMap(ctx, stampMap)
	if err != nil {
		return fmt.Errorf("read the names of backends: %w", err)
	}
	a.held.actual = readNames(entries)
	a.unswept = true
	return nil
}

// sweepUnknown finds what nobody knows of, if there may be something.
func (a *Applier) sweepUnknown(ctx context.Context, now time.Time) {
	if !a.unswept {
		return
	}
	a.unswept = false
	if err := a.sweep(ctx, now); err != nil {
		a.cfg.Log.Warn("what is left of an earlier life may stay in HAProxy until it is reloaded", "error", err)
	}
}

// sweep looks through all that HAProxy has.
func (a *Applier) sweep(ctx context.Context, now time.Time) error {
	if err := a.connectInForce(ctx); err != nil {
		return err
	}
	backends, err := a.worker.Backends(ctx)
	if err != nil {
		return err //nolint:wrapcheck // says what was asked
	}
	states, err := a.worker.ServersState(ctx)
	if err != nil {
		return err //nolint:wrapcheck // says what was asked
	}
	in := a.planner()
	wanted := map[string]map[string]haproxy.State{} // by HAProxy's name: servers, and the state that each should have
	for _, name := range a.cfg.Renderer.Backends() {
		b, _ := a.cfg.Renderer.Backend(name)
		servers := make(map[string]haproxy.State, len(b.Servers))
		for _, s := range b.Servers {
			servers[s.Name] = a.held.state(server{b.Name, s.Name})
		}
		wanted[a.held.name(name)] = servers
	}
	for _, name := range backends {
		if isRoutes(name) && wanted[name] == nil && a.held.backends[name] == nil && in.can.DynamicBackends {
			a.held.backends[name] = &leavingBackend{try: try{now, now}}
		}
	}
	var ops []haproxy.Op
	for _, s := range states {
		here := server{s.Backend, s.Name}
		switch {
		case !isRoutes(s.Backend) || a.held.servers[s.Backend][s.Name] != nil:
		case wanted[s.Backend][s.Name] != "":
			if want := wanted[s.Backend][s.Name]; s.State() != want {
				ops = append(ops, haproxy.SetServerState(s.Backend, s.Name, want))
			}
		case wanted[s.Backend] == nil && !in.can.DynamicBackends:
		case wanted[s.Backend] == nil && a.held.backends[s.Backend].whole != nil: // it left in this life
		default:
			if s.State() != haproxy.Maint {
				ops = append(ops, haproxy.SetServerState(s.Backend, s.Name, haproxy.Maint))
			}
			a.held.leave(here, &leavingServer{try: in.firstTry()})
		}
	}
	for name, b := range a.held.backends {
		if b.profile == "" {
			ops = append(ops, haproxy.UnpublishBackend(name))
		}
	}
	for _, ca := range []bool{false, true} {
		paths, err := a.worker.CertificateFiles(ctx, ca)
		if err != nil {
			return err //nolint:wrapcheck // says what was asked
		}
		for _, path := range paths {
			if isDerived(path) && !a.cfg.Renderer.Has(path) && a.held.files[path] == nil {
				a.held.files[path] = &leavingFile{ca: ca, try: try{now, now}}
			}
		}
	}
	a.countHeld()
	return a.worker.Do(ctx, ops...) //nolint:wrapcheck // says what was refused
}
