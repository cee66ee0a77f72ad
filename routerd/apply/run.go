package apply

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
)

const (
	firstBackoff = 200 * time.Millisecond // after the first try, which is made at once
	lastBackoff  = 15 * time.Second       // between tries that fail
	servedMost   = time.Second            // from a try that succeeded to the next: it served meanwhile, and may at once again
	steady       = 10 * time.Second       // a HAProxy that has run so long did not end because of its start

	watchPause = 5 * time.Second // between two looks at who the worker is
	idlePause  = 3 * time.Second // without a change before files are written
	stalePause = time.Minute     // files are written after this, changes or not

	unwrittenMost = time.Minute // between two tries to write files, when the last failed
)

// Run starts HAProxy again when it ends, deletes what has drained, sees that HAProxy still has what it should, and keeps
// the files up to date. It returns when ctx ends; HAProxy goes on. The error is ErrOtherRelease, if any.
func (a *Applier) Run(ctx context.Context) error {
	defer func() {
		a.turn <- struct{}{}
		a.disconnect()
		<-a.turn
	}()
	var look time.Time // not before; the zero time is long ago
	for {
		if a.take(ctx) != nil {
			return nil // to be ended is what Run is for
		}
		now := time.Now()
		work, done := a.working(ctx)
		if a.broken() {
			if !now.Before(a.mending.retry) {
				err := a.mend(work)
				a.mending.tried(err)
				if err != nil {
					a.cfg.Log.Error("HAProxy does not run what it should", "attempts", a.mending.failures,
						"again_in", time.Until(a.mending.retry).Round(time.Millisecond), "error", err)
				}
			}
		} else {
			if now.Sub(a.mending.retry) > steady {
				a.mending = mending{}
			}
			if now.After(look) {
				a.look(work)
				look = now.Add(watchPause)
			}
			a.tidy(work, now)
		}
		done()
		if err := a.replaced; err != nil {
			<-a.turn
			return err
		}
		due, exited := a.nextWork(look)
		list := a.drift.list && !a.stopping && !a.broken()
		<-a.turn
		if list {
			a.listClosed(ctx)
		}
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
	if a.stopping || a.wanted == nil && a.inForce.Load() == nil {
		return false
	}
	return a.up && !a.alive() || a.suspect || a.inForce.Load() == nil
}

// nextWork tells when there is something to do, and what would tell earlier that HAProxy has ended.
func (a *Applier) nextWork(look time.Time) (time.Time, <-chan struct{}) {
	if a.broken() {
		return a.mending.retry, nil
	}
	due := time.Now().Add(time.Hour)
	earlier := func(t time.Time) {
		if t.Before(due) {
			due = t
		}
	}
	if !a.alive() || a.stopping {
		return due, nil
	}
	earlier(look)
	if !a.stale.IsZero() {
		earlier(a.filesDue())
	}
	if _, ok := a.InForce(); ok && !a.stopped {
		clean := a.held.janitorDue()
		if clean.Before(a.resting) {
			clean = a.resting
		}
		earlier(clean)
		earlier(a.drift.due)
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
	m, err := a.again(ctx, s.Version())
	a.cfg.Metrics.applied(m, err, time.Since(begun))
	if err != nil {
		return err
	}
	a.cfg.Log.Info("HAProxy runs what it should again", "version", s.Version().Short(), "method", string(m), "duration", time.Since(begun))
	return nil
}

// look finds out whether HAProxy was reloaded or told to stop behind our back, or its files were removed.
func (a *Applier) look(ctx context.Context) {
	s, ok := a.InForce()
	if !ok || a.stopping || !a.alive() {
		return
	}
	a.lookForFiles()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	a.countWorkers(ctx)
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
	if err := a.met(ctx, s.Version()); err != nil {
		a.cfg.Log.Warn("HAProxy was reloaded behind our back", "error", err)
		a.suspect = true
		return
	}
	if a.worker.PID() != a.pid {
		a.begunAnew()
	}
}

// tidy does what can wait.
func (a *Applier) tidy(ctx context.Context, now time.Time) {
	if _, ok := a.InForce(); !ok || a.stopped || !a.alive() {
		return
	}
	if !a.stale.IsZero() && !now.Before(a.filesDue()) {
		if err := a.writeFiles(); err != nil {
			if a.unwritten == 1 {
				a.cfg.Log.Warn("HAProxy's files are not up to date, and tried again", "error", err)
			}
		} else {
			a.sweepFiles()
			a.outlived(ctx)
		}
	}
	a.sweepUnknown(ctx, now)
	a.clean(ctx, now)
	if a.drained {
		return // closed doors are no drift
	}
	if err := a.checkDrift(ctx, now); err != nil {
		a.cfg.Log.Warn("HAProxy could not be compared with what it should run", "error", err)
	}
}

// filesDue tells when the files should be written.
func (a *Applier) filesDue() time.Time {
	if a.unwritten > 0 { // the disk is full, perhaps
		return a.stale.Add(min(idlePause<<min(a.unwritten, 16), unwrittenMost))
	}
	idle, last := a.touched.Add(idlePause), a.stale.Add(stalePause)
	if idle.Before(last) {
		return idle
	}
	return last
}

// mending is how it goes to have HAProxy run what it should.
type mending struct {
	retry    time.Time // not before; the zero time is long ago
	failures int       // tries in a row
	ends     int       // tries that succeeded, for a HAProxy that was not steady
}

// tried says when to try again. A HAProxy that came up and ended is not started in a loop either, but it served meanwhile.
func (m *mending) tried(err error) {
	if err == nil {
		m.ends++
		m.failures = 0
		m.retry = time.Now().Add(backoff(m.ends, servedMost))
		return
	}
	m.failures++
	m.retry = time.Now().Add(backoff(m.failures, lastBackoff))
}

// backoff returns how long to wait after so many tries: doubled each time, and scattered.
func backoff(tries int, most time.Duration) time.Duration {
	d := most
	if shift := tries - 1; shift < 16 {
		d = min(firstBackoff<<shift, most)
	}
	return d/2 + rand.N(d/2) //nolint:gosec // scatters, hides nothing
}
