package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
)

// Ready sets what the readiness probe on the stats port is told. A router that serves is ready unless told
// otherwise.
func (a *Applier) Ready(ctx context.Context, ready bool) error {
	if err := a.take(ctx); err != nil {
		return fmt.Errorf("set readiness: %w", err)
	}
	defer a.give()
	ctx, done := a.working(ctx)
	defer done()
	return a.setReady(ctx, ready)
}

func (a *Applier) setReady(ctx context.Context, ready bool) error {
	a.cfg.Renderer.SetReady(ready)
	if !a.alive() {
		return nil // the files will say so
	}
	if a.stale.IsZero() {
		a.stale = time.Now()
	}
	err := a.connect(ctx)
	if err == nil {
		err = a.worker.Do(ctx, haproxy.SetMap(readyMap, readyKey, readyValue(ready)))
	}
	if err != nil {
		return fmt.Errorf("set readiness: %w", err)
	}
	return nil
}

// readyValue is what the map says.
func readyValue(ready bool) string {
	if ready {
		return "1"
	}
	return "0"
}

// Stop ends HAProxy gracefully: readiness fails for the shutdown delay, in which changes are still applied;
// then HAProxy stops listening, and connections have the drain timeout to finish; then it is killed. The
// end of ctx, or a second call, skips what waits. Every call returns when HAProxy has ended.
func (a *Applier) Stop(ctx context.Context) error {
	switch a.stops.Add(1) {
	case 1:
		defer close(a.ended)
		return a.stop(ctx)
	case 2:
		close(a.hasten)
	}
	<-a.ended
	return nil
}

// Stopping tells whether Stop was called: HAProxy may stop answering at any time.
func (a *Applier) Stopping() bool { return a.stops.Load() > 0 }

// Stopped returns a channel that is closed when Stop has told HAProxy to end with its last connection: nothing is put into
// force any more.
func (a *Applier) Stopped() <-chan struct{} { return a.deaf }

// What Stop waits for beside the delay and the timeout that it was given. A HAProxy that hangs must not hold it up.
const (
	stopPatience = 10 * time.Second // for a change that is under way
	stopAnswer   = 5 * time.Second  // for an answer of HAProxy's
)

func (a *Applier) stop(ctx context.Context) error {
	a.takeFromOthers(ctx)
	a.stopping = true
	err := a.farewell(ctx)
	up, exited := a.up, a.cfg.HAProxy.Exited()
	a.give()
	if !up {
		exited = nil
		a.cfg.Log.Info("stopping: no HAProxy runs, so there is nothing to drain")
	} else {
		a.cfg.Log.Info("stopping: draining", "delay", a.cfg.ShutdownDelay, "timeout", a.cfg.DrainTimeout)
	}
	passed := up && !a.pause(ctx, exited, a.cfg.ShutdownDelay)
	if a.cfg.HAProxy.Elsewhere() {
		return errors.Join(err, a.leave(ctx))
	}
	if passed {
		a.cfg.Log.Info("HAProxy stops listening; connections may finish", "within", a.cfg.DrainTimeout)
	}
	last := time.Now().Add(a.cfg.DrainTimeout)
	if up {
		err = errors.Join(err, a.drain(ctx, exited, last))
	}
	a.takeFromOthers(ctx)
	a.stopped = true
	a.disconnect() // HAProxy would wait for it
	close(a.deaf)
	a.give()
	// Also of one that does not answer, or that another has replaced.
	err = errors.Join(err, a.cfg.HAProxy.SoftStop())
	for _, exited := range a.cfg.HAProxy.AllExited() {
		if !a.pause(ctx, exited, time.Until(last)) {
			a.cfg.Log.Warn("HAProxy is killed with the connections that it still has")
			a.cfg.HAProxy.KillAll()
			break
		}
	}
	return err
}

// farewell takes over what an earlier life has left running, if nothing came into force in this one, and has readiness
// fail. turn is held.
func (a *Applier) farewell(ctx context.Context) error {
	// A context that has ended already still stops HAProxy in order, if hastily.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopAnswer)
	defer cancel()
	return errors.Join(a.adopt(ctx), a.setReady(ctx, false))
}

// takeFromOthers waits for the turn, and interrupts whoever has it for too long, or at once when there is haste.
func (a *Applier) takeFromOthers(ctx context.Context) {
	t := time.NewTimer(stopPatience)
	defer t.Stop()
	select {
	case a.turn <- struct{}{}:
		return
	case <-t.C:
		a.cfg.Log.Warn("a change that is under way for long is broken off, because the router stops")
	case <-a.hasten:
	case <-ctx.Done():
	}
	a.interrupt()
	a.turn <- struct{}{} // what it does ends with its context
}

// working returns the context of what the holder of turn does: one that ends after applyTimeout at the latest, and when
// Stop interrupts it. done must be called before turn is given back.
func (a *Applier) working(ctx context.Context) (work context.Context, done func()) {
	work, cancel := context.WithTimeout(ctx, applyTimeout)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.interrupted {
		cancel()
	}
	a.breakOff = cancel
	return work, func() {
		cancel()
		a.mu.Lock()
		defer a.mu.Unlock()
		a.breakOff = nil
	}
}

// interrupt breaks off what the holder of turn does, and all that is begun after it.
func (a *Applier) interrupt() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.interrupted = true
	if a.breakOff != nil {
		a.breakOff()
	}
}

// pause waits for d, less if there is haste. It returns early with true when HAProxy has ended.
func (a *Applier) pause(ctx context.Context, exited <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-exited:
		return true
	case <-t.C:
	case <-a.hasten:
	case <-ctx.Done():
	}
	select {
	case <-exited:
		return true
	default:
		return false
	}
}
