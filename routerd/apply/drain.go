package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
)

// A HAProxy that stops takes no command for its servers any more: "Proxy is disabled". That does not matter where it
// closes idle connections then, since what is open has its endpoint. Where each may have one more request, that would
// go where nobody wants it any more. So there HAProxy does not stop yet, but closes its doors: its frontends listen no
// more and close what they have with the next answer, and changes are made as ever, by commands alone. When all
// connections have ended it stops.

const (
	drainLook   = 500 * time.Millisecond // between two looks at how many connections are left
	inspectMost = 6 * time.Second        // in which a connection comes from the outer door to the inner one; OpenShift: 5 s
)

// drained is what a.program ends with when the doors are closed: a routerd that takes this HAProxy over has to open
// them.
const drained = "-drained"

var errDoorsClosed = errors.New("the router is stopping, and takes no more connections: a reload would open its ports again")

// drain closes the doors and waits until no connection is left, until last. It returns at once where HAProxy closes
// idle connections by itself when it stops, and early when HAProxy has ended, or there is haste.
func (a *Applier) drain(ctx context.Context, exited <-chan struct{}, last time.Time) error {
	a.takeFromOthers(ctx)
	doors, ok := a.cfg.Renderer.Doors()
	if !ok || !a.cfg.Renderer.KeepsIdle() {
		a.give()
		return nil
	}
	err := a.closeDoors(ctx, doors.Outer)
	a.give()
	for closed := time.Now(); err == nil; {
		if a.pause(ctx, exited, min(drainLook, time.Until(last))) || a.hurried(ctx) || !time.Now().Before(last) {
			return nil
		}
		a.takeFromOthers(ctx)
		if len(doors.Inner) > 0 && time.Since(closed) > inspectMost {
			err = a.ask(ctx, func(ctx context.Context) error { return a.worker.Do(ctx, stopAll(doors.Inner)...) })
			doors.Inner = nil
		}
		left := 0
		if err == nil {
			err = a.ask(ctx, func(ctx context.Context) (err error) {
				left, err = a.worker.FrontendSessions(ctx, doors.Outer...)
				return err
			})
		}
		a.give()
		if err == nil && left == 0 {
			return nil
		}
	}
	return fmt.Errorf("drain HAProxy: %w", err)
}

// closeDoors has HAProxy take no more connections, and go on in all else. turn is held, here and below.
func (a *Applier) closeDoors(ctx context.Context, outer []string) error {
	a.drained = true
	a.program += drained
	ops := []haproxy.Op{haproxy.SetMap(stampMap, programKey, a.program)}
	for _, name := range outer {
		ops = append(ops, haproxy.CloseFrontend(name)...)
	}
	return a.ask(ctx, func(ctx context.Context) error { return a.worker.Do(ctx, ops...) })
}

func stopAll(frontends []string) []haproxy.Op {
	var ops []haproxy.Op
	for _, name := range frontends {
		ops = append(ops, haproxy.StopFrontend(name))
	}
	return ops
}

// ask talks to the worker while the router stops: not for long.
func (a *Applier) ask(ctx context.Context, talk func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopAnswer)
	defer cancel()
	if err := a.connect(ctx); err != nil {
		return err
	}
	return talk(ctx)
}

// hurried tells whether there is haste.
func (a *Applier) hurried(ctx context.Context) bool {
	select {
	case <-a.hasten:
		return true
	default:
		return ctx.Err() != nil
	}
}
