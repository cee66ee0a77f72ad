package apply

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

const (
	firstBackoff = 200 * time.Millisecond // after the first try, which is made at once
	lastBackoff  = 15 * time.Second
	steady       = 10 * time.Second // a HAProxy that has run so long did not end because of its start

	watchPause   = 5 * time.Second  // between two looks at who the worker is
	idlePause    = 3 * time.Second  // without a change before files are written
	stalePause   = time.Minute      // files are written after this, changes or not
	janitorPause = time.Second      // before the first try to delete a server
	janitorMost  = 30 * time.Second // between two tries
	janitorBatch = 8                // servers in a row: a try takes up to a millisecond

	never = 100 * 365 * 24 * time.Hour
)

// Run starts HAProxy again when it ends, deletes servers that have drained, and keeps the files up to
// date. It returns when ctx ends; HAProxy goes on.
func (a *Applier) Run(ctx context.Context) error {
	defer func() {
		a.turn <- struct{}{}
		a.disconnect()
		<-a.turn
	}()
	var failures int
	var retry, look time.Time // not before; the zero time is long ago
	for {
		if a.take(ctx) != nil {
			return nil // to be ended is what Run is for
		}
		now := time.Now()
		if a.broken() {
			if !now.Before(retry) {
				err := a.mend(ctx)
				failures++ // a HAProxy that ends at once again is not started in a loop either
				retry = time.Now().Add(backoff(failures))
				if err != nil {
					a.cfg.Log.Error("HAProxy does not run what it should", "attempts", failures, "again_in", time.Until(retry).Round(time.Millisecond), "error", err)
				}
			}
		} else {
			if now.Sub(retry) > steady {
				failures, retry = 0, time.Time{}
			}
			if now.After(look) {
				a.look(ctx)
				look = now.Add(watchPause)
			}
			a.tidy(ctx, now)
		}
		due, exited := a.nextWork(look, retry)
		<-a.turn
		timer := time.NewTimer(time.Until(due))
		select {
		case <-ctx.Done():
		case <-exited:
			a.cfg.Log.Error("HAProxy has ended", "reason", a.cfg.HAProxy.ExitReason())
		case <-a.changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// broken tells whether HAProxy does not run what it should. turn is held, here and below.
func (a *Applier) broken() bool {
	if a.stopping {
		return false
	}
	return a.up && !a.alive() || a.suspect || a.wanted != nil && a.inForce.Load() == nil
}

// nextWork tells when there is something to do, and what would tell earlier that HAProxy has ended.
func (a *Applier) nextWork(look, retry time.Time) (time.Time, <-chan struct{}) {
	if a.broken() {
		return retry, nil
	}
	due := time.Now().Add(time.Hour)
	earlier := func(t time.Time) {
		if t.Before(due) {
			due = t
		}
	}
	if !a.up || a.stopping {
		return due, nil
	}
	earlier(look)
	if !a.stale.IsZero() {
		earlier(a.filesDue())
	}
	for _, l := range a.leaving {
		earlier(l.due)
	}
	return due, a.cfg.HAProxy.Exited()
}

// mend makes HAProxy run what is in force, or what Start could not put into force.
func (a *Applier) mend(ctx context.Context) error {
	s, ok := a.InForce()
	if !ok {
		return a.begin(ctx, *a.wanted)
	}
	begun := time.Now()
	a.cfg.Metrics.Restarts.Inc()
	m, err := a.serve(ctx, s.Version())
	a.cfg.Metrics.applied(m, err, time.Since(begun))
	if err != nil {
		return err
	}
	a.cfg.Log.Info("HAProxy runs what it should again", "version", s.Version().Short(), "method", string(m), "duration", time.Since(begun))
	return nil
}

// look finds out whether HAProxy was reloaded or told to stop behind our back.
func (a *Applier) look(ctx context.Context) {
	s, ok := a.InForce()
	if !ok || a.stopping || !a.alive() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	known := a.worker
	if err := a.connect(ctx); err != nil {
		a.cfg.Log.Warn("HAProxy's worker does not answer", "error", err)
		// One that is only slow is left alone.
		a.suspect = errors.Is(err, haproxy.ErrGone) || errors.Is(err, errStopping)
		return
	}
	if a.worker == known {
		return
	}
	if err := a.verifyStamp(ctx, s.Version().String()); err != nil {
		a.cfg.Log.Warn("HAProxy was reloaded behind our back", "error", err)
		a.suspect = true
		return
	}
	if known != nil {
		clear(a.leaving)
	}
}

// tidy does what can wait.
func (a *Applier) tidy(ctx context.Context, now time.Time) {
	if _, ok := a.InForce(); !ok || a.stopped || !a.alive() {
		return
	}
	if !a.stale.IsZero() && !now.Before(a.filesDue()) {
		if err := a.writeFiles(); err != nil {
			a.stale, a.touched = now, now // later
			a.cfg.Log.Warn("HAProxy's files are not up to date", "error", err)
		} else {
			a.sweepFiles()
		}
	}
	if a.unswept {
		a.unswept = false
		if err := a.sweepServers(ctx, now); err != nil {
			a.cfg.Log.Warn("servers of an earlier life may be left in HAProxy until it is reloaded", "error", err)
		}
	}
	a.deleteServers(ctx, now)
}

// filesDue tells when the files should be written.
func (a *Applier) filesDue() time.Time {
	idle, last := a.touched.Add(idlePause), a.stale.Add(stalePause)
	if idle.Before(last) {
		return idle
	}
	return last
}

// leaver is a server that takes no new traffic and is to be deleted when its last connection has ended.
type leaver struct {
	server *render.Server // as it was; nil: it is of an earlier life
	since  time.Time
	due    time.Time // of the next try
}

// firstTry tells when to try to delete a server that has just left. Where servers are not added at run time
// (before HAProxy 3.0) they are not deleted either: its "del server" has crashed workers (haproxy#2298, #2323). The
// server stays in maintenance until the next reload, and can come back until then.
func firstTry(can haproxy.Capabilities, now time.Time) time.Time {
	if !can.DynamicServers {
		return now.Add(never)
	}
	return now.Add(janitorPause)
}

// sweepServers finds what an earlier routerd had left to delete. Only routerd puts servers into
// maintenance.
func (a *Applier) sweepServers(ctx context.Context, now time.Time) error {
	if err := a.connectInForce(ctx); err != nil {
		return err
	}
	states, err := a.worker.ServersState(ctx)
	if err != nil {
		return fmt.Errorf("look for servers in maintenance: %w", err)
	}
	can := a.worker.Version().Capabilities()
	for _, s := range states {
		if k := (server{s.Backend, s.Name}); s.State() == haproxy.Maint && a.leaving[k] == nil {
			a.leaving[k] = &leaver{since: now, due: firstTry(can, now)}
		}
	}
	a.cfg.Metrics.Leaving.Set(float64(len(a.leaving)))
	return nil
}

// deleteServers tries to delete some of those that are due. One whose connections live stays.
func (a *Applier) deleteServers(ctx context.Context, now time.Time) {
	var due []server
	for s, l := range a.leaving {
		if !now.Before(l.due) {
			due = append(due, s)
		}
	}
	if len(due) == 0 || a.connectInForce(ctx) != nil {
		return
	}
	slices.SortFunc(due, func(x, y server) int { return a.leaving[x].due.Compare(a.leaving[y].due) })
	wait := a.worker.Version().Capabilities().DelServerWait
	for _, s := range due[:min(len(due), janitorBatch)] {
		var ops []haproxy.Op
		if wait {
			ops = append(ops, haproxy.AwaitRemovable(s.backend, s.name, 1))
		}
		err := a.worker.Do(ctx, append(ops, haproxy.DelServer(s.backend, s.name))...)
		var refused *haproxy.RefusedError
		switch l := a.leaving[s]; {
		case err == nil:
			delete(a.leaving, s)
		case errors.As(err, &refused):
			l.due = now.Add(min(max(janitorPause, now.Sub(l.since)/4), janitorMost))
		default:
			a.cfg.Log.Warn("a drained server could not be deleted", "backend", s.backend, "server", s.name, "error", err)
			return
		}
	}
	a.cfg.Metrics.Leaving.Set(float64(len(a.leaving)))
}

// backoff returns how long to wait after so many failures: doubled each time, and scattered.
func backoff(failures int) time.Duration {
	d := lastBackoff
	if shift := failures - 1; shift < 16 {
		d = min(firstBackoff<<shift, lastBackoff)
	}
	return d/2 + rand.N(d/2) //nolint:gosec // scatters, hides nothing
}
