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

func (a *Applier) stop(ctx context.Context) error {
	// A context that has ended already still stops HAProxy in order, if hastily.
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
	defer cancel()
	if err := a.take(work); err != nil {
		return fmt.Errorf("stop HAProxy: %w", err)
	}
	a.stopping = true
	err := a.adopt(work) // one of an earlier life, if nothing came into force in this one
	err = errors.Join(err, a.setReady(work, false))
	up, exited := a.up, a.cfg.HAProxy.Exited()
	a.give()
	if !up {
		exited = nil
		a.cfg.Log.Info("stopping: no HAProxy runs, so there is nothing to drain")
	} else {
		a.cfg.Log.Info("stopping: draining", "delay", a.cfg.ShutdownDelay, "timeout", a.cfg.DrainTimeout)
	}
	if up && !a.pause(ctx, exited, a.cfg.ShutdownDelay) {
		a.cfg.Log.Info("HAProxy stops listening; connections may finish", "within", a.cfg.DrainTimeout)
	}
	if takeErr := a.take(work); takeErr != nil {
		return errors.Join(err, fmt.Errorf("stop HAProxy: %w", takeErr))
	}
	a.stopped = true
	a.disconnect() // HAProxy would wait for it
	a.give()
	if !up {
		return err
	}
	err = errors.Join(err, a.cfg.HAProxy.SoftStop())
	if !a.pause(ctx, exited, a.cfg.DrainTimeout) {
		a.cfg.Log.Warn("HAProxy is killed with the connections that it still has")
		a.cfg.HAProxy.Kill()
	}
	return err
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
