package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// Start puts the store's snapshot into force when the program starts, with no help from a control plane. A
// HAProxy that runs already goes on as it is if it says that it serves exactly this, and else gets a
// hitless reload; if none runs one is started. When that fails Run tries again, until Apply has brought
// something else. The end of ctx breaks it off: the router is about to stop.
func (a *Applier) Start(ctx context.Context, s snapshot.Snapshot) error {
	if err := a.take(ctx); err != nil {
		return fmt.Errorf("start with %s: %w", s.Version().Short(), err)
	}
	defer a.give()
	if _, ok := a.InForce(); ok {
		return fmt.Errorf("start with %s: a snapshot is in force already", s.Version().Short())
	}
	ctx, done := a.working(ctx)
	defer done()
	if err := a.begin(ctx, s); err != nil {
		a.wanted = &s
		return fmt.Errorf("start with %s: %w", s.Version().Short(), err)
	}
	return nil
}

func (a *Applier) begin(ctx context.Context, s snapshot.Snapshot) error {
	begun := time.Now()
	var none snapshot.Snapshot
	if _, err := a.cfg.Renderer.Apply(snapshot.Diff(none, s)); err != nil {
		return err //nolint:wrapcheck // names the resource
	}
	a.cfg.Renderer.SetStamp(s.Version())
	m := byNothing
	err := a.await(ctx)
	if err == nil && (!a.up || !a.agrees(ctx, s.Version()) || a.inherit(ctx) != nil) {
		m, err = a.serve(ctx, s.Version(), becauseMend)
	}
	a.cfg.Metrics.applied(m, err, time.Since(begun))
	if err != nil {
		return errors.Join(err, a.undo(ctx, none, snapshot.Diff(s, none), false))
	}
	if m == byNothing {
		a.cfg.Metrics.Adoptions.Inc()
		a.stale = begun
		if err := a.setReady(ctx, true); err != nil { // one that was about to stop may have said otherwise
			a.cfg.Log.Warn("HAProxy goes on, and may not be ready", "error", err)
		}
	}
	a.commit(s)
	a.sweepUnknown(ctx, begun) // before a change wants a name that is taken
	a.cfg.Log.Info("snapshot in force again", "version", s.Version().Short(), "method", string(m), "duration", time.Since(begun))
	return nil
}

// adopt takes over a HAProxy that runs in the directory, if there is one and it is not ours yet.
func (a *Applier) adopt(ctx context.Context) error {
	if a.alive() {
		return nil
	}
	ok, err := a.cfg.HAProxy.Adopt(ctx)
	if err != nil {
		return err //nolint:wrapcheck // says what it tried
	}
	if ok {
		a.disconnect()
		a.up = true
		a.suspect = a.suspect || a.torn
	}
	return nil
}

// agrees tells whether the worker says that it serves this version, in this program. It connects to it.
func (a *Applier) agrees(ctx context.Context, v snapshot.Version) bool {
	err := a.connect(ctx)
	if err == nil {
		err = a.verifyStamp(ctx, v)
	}
	if err != nil {
		a.cfg.Log.Info("HAProxy runs something else", "want", v.Short(), "error", err)
	}
	return err == nil
}

// serve writes the files of what the renderer holds, has HAProxy check them, and makes it run them: by a
// reload, or by a start if none runs. It returns when the worker's stamp says so.
func (a *Applier) serve(ctx context.Context, v snapshot.Version, why reason) (method, error) {
	m, begun := byReload, time.Now()
	if a.drained {
		return m, errDoorsClosed
	}
	if err := a.await(ctx); err != nil {
		return m, err
	}
	if !a.alive() {
		m = byStart
	}
	if err := a.writeFiles(); err != nil {
		return m, err
	}
	if err := a.settle(ctx); err != nil {
		return m, err
	}
	loading := time.Now()
	err := a.load(ctx, v, &m, why)
	a.cfg.OnReload(time.Since(loading), err)
	if err != nil {
		return m, err
	}
	a.suspect, a.unswept, a.torn = false, false, false
	a.begunAnew()
	a.costs.reload, a.postponed = time.Since(begun), 0
	if m == byReload {
		a.pace.reloaded(time.Now())
	}
	a.countWorkers(ctx)
	a.sweepFiles()
	return m, nil
}

// load has HAProxy check the files and run them, and waits until the worker's stamp says so.
func (a *Applier) load(ctx context.Context, v snapshot.Version, m *method, why reason) error {
	elsewhere := a.cfg.HAProxy.Elsewhere()
	if !elsewhere {
		checking := time.Now()
		err := a.cfg.HAProxy.Check(ctx)
		a.slow("check files", checking)
		if err != nil {
			return &checkFailed{err}
		}
	}
	first := !a.up
	err := a.run(ctx, m, why)
	if err == nil {
		err = a.verifyStamp(ctx, v)
	}
	var refused *haproxy.CheckError
	if elsewhere && errors.As(err, &refused) && !refused.Address() {
		return &checkFailed{err}
	}
	if err != nil && first && !elsewhere { // nothing is bound before a snapshot is in force
		a.disconnect()
		a.cfg.HAProxy.Kill()
		a.up = false
	}
	return err
}

// slowStep is how long a step of a reload may take before it is told: no change of anybody comes into force meanwhile.
const slowStep = 2 * time.Second

// slow tells which step of a reload took long.
func (a *Applier) slow(step string, begun time.Time) {
	if took := time.Since(begun); took > slowStep {
		a.cfg.Log.Info("a step of a reload took long", "step", step, "duration", took)
	}
}

// checkFailed says that the check of the files failed, before anything was done with them. What fails
// later, an address that is taken for one, is not the content's fault.
type checkFailed struct{ error }

func (e *checkFailed) Unwrap() error { return e.error }

// run makes HAProxy run the files, and connects to its worker. It sets suspect when it is not known afterwards what runs.
func (a *Applier) run(ctx context.Context, m *method, why reason) error {
	if a.alive() {
		*m = byReload
		keeping := time.Now()
		a.cfg.BeforeReload(ctx)
		a.slow("keep what the worker has counted", keeping)
		loading := time.Now()
		w, err := a.cfg.HAProxy.Reload(ctx)
		a.slow("reload", loading)
		// The old worker would wait for this connection to end.
		a.disconnect()
		a.worker = w
		var refused *haproxy.CheckError
		if err == nil || errors.As(err, &refused) {
			a.cfg.Metrics.Reloads.WithLabelValues(string(why)).Inc()
			if err == nil {
				err = a.sameRelease(w)
			}
			return err //nolint:wrapcheck // says what it tried
		}
		a.suspect = true
		if a.alive() && !errors.Is(err, haproxy.ErrGone) {
			return err //nolint:wrapcheck // says what it tried
		}
		a.cfg.HAProxy.Leave()
		if a.cfg.HAProxy.Elsewhere() { // who runs it starts another, which is not to begin with this
			return errors.Join(err, a.divert())
		}
		a.cfg.Log.Warn("HAProxy cannot be reloaded any more; starting another", "error", err)
	} else if a.cfg.HAProxy.Elsewhere() {
		a.suspect = true
		return errors.Join(haproxy.ErrGone, a.divert())
	}
	*m = byStart
	a.disconnect()
	if a.stopping {
		return errStopped
	}
	w, err := a.cfg.HAProxy.Start(ctx)
	if err != nil {
		a.suspect = a.up
		return err //nolint:wrapcheck // says what it tried
	}
	a.worker, a.up = w, true
	return nil
}

// alive tells whether HAProxy should be running, and is.
func (a *Applier) alive() bool {
	if !a.up {
		return false
	}
	select {
	case <-a.cfg.HAProxy.Exited():
		return false
	default:
		return true
	}
}

// stoppingPause is how long a worker that is stopping may answer in its successor's place.
const stoppingPause = time.Second

var errStopping = errors.New("HAProxy's worker is stopping")

// connect makes sure that there is a connection to the worker that serves now, and no older one.
func (a *Applier) connect(ctx context.Context) error {
	if a.worker != nil {
		if i, err := a.worker.Info(ctx); err == nil && !i.Stopping {
			return nil
		}
		a.disconnect()
	}
	for begun := time.Now(); ; {
		w, err := a.cfg.HAProxy.Connect(ctx)
		if err != nil {
			return err //nolint:wrapcheck // says what it tried
		}
		if err := a.sameRelease(w); err != nil {
			w.Close()
			return err
		}
		if !w.Stopping() {
			a.worker = w
			return nil
		}
		w.Close()
		if time.Since(begun) > stoppingPause {
			return errStopping
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (a *Applier) disconnect() {
	if a.worker != nil {
		a.worker.Close()
		a.worker = nil
	}
}

// verifyStamp checks what the worker that connect found says of itself.
func (a *Applier) verifyStamp(ctx context.Context, want snapshot.Version) error {
	values, err := a.worker.GetMapKeys(ctx, []haproxy.MapKey{{File: stampMap, Key: versionKey}, {File: stampMap, Key: programKey}})
	if err != nil {
		return fmt.Errorf("read the stamp: %w", err)
	}
	if got := values[0].Value; !isVersion(got, want) {
		return fmt.Errorf("the stamp's version is %.200q, not %q", got, want)
	}
	if got := values[1].Value; got != a.program {
		return fmt.Errorf("the stamp's program is %.200q, not %q", got, a.program)
	}
	return nil
}

// isVersion tells whether a stamp is that of a version. It may have another revision, under which the same content came
// before; and "applying V" is none.
func isVersion(stamp string, v snapshot.Version) bool {
	got, err := snapshot.ParseVersion(stamp)
	return err == nil && got.Equal(v)
}
