// Package apply makes HAProxy run what a snapshot says, and knows which snapshot that is.
//
// It guarantees that Apply returns nil only when the snapshot serves and every key that was touched has been
// read back from HAProxy; that a snapshot which is refused leaves in force what was in force, with nothing
// of it half-applied; that a HAProxy which ends is started again with the snapshot in force; and that a
// HAProxy which outlived its routerd goes on without a reload, if it says itself that it runs exactly what
// it should.
//
// Do not assume that the files on disk are up to date: they are derived, written before each start or
// reload, and otherwise when there is nothing better to do. The truth is the snapshot in force, and the
// store's record of it. Do not assume either that what left the snapshot has left HAProxy: a server or backend
// gets no new traffic, and is deleted when its last connection has ended. Nor that a backend has its own name in
// HAProxy: one that replaces another while that one drains is called NAME:2 (names.go).
//
// A change becomes a plan of commands (plan.go), make before break, which is carried out and read back (execute.go).
// On HAProxy 3.4 that is every change of routes, endpoints and certificates. What a release cannot do at run time
// (docs/haproxy-versions.md), Settings, a profile that is new, and a change so large that it is cheaper (cost.go) are a
// reload, one at a time: one snapshot is applied at a time, and who brings them brings the newest, so that all that
// changes during a reload makes one other. So is whatever fails on its way; but what HAProxy refuses while nothing is
// sent there yet is taken back (back.go), and a certificate's content is then refused by name, and remembered
// (refused.go). Behind the ack the janitor deletes what has drained (janitor.go), and the check for drift goes round what
// HAProxy has, a slice at a time, and repairs it (drift.go).
//
// In HAProxy's memory there is a stamp: the version that it serves, and a digest of the program that was
// rendered around it. The version is "applying V" while V is being put into force. Names are kept beside it.
package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// Config is what an Applier needs.
type Config struct {
	Renderer *render.Renderer // of the empty snapshot; belongs to the Applier from now on. Required.
	HAProxy  *haproxy.Process // nothing started or adopted yet. Required.
	Log      *slog.Logger     // nil: nothing is logged
	Metrics  *Metrics         // nil: nothing is counted

	// NoRuntimeBackends says that backends are added and deleted by reloads only, whatever HAProxy can do.
	NoRuntimeBackends bool

	// ShutdownDelay is how long Stop lets readiness fail before HAProxy stops listening. Zero: not at all.
	ShutdownDelay time.Duration
	// DrainTimeout is how long Stop lets connections finish after that. Zero: not at all.
	DrainTimeout time.Duration

	// BeforeReload is called when a HAProxy that runs is about to be reloaded: what it counts is lost with its worker.
	// It is waited for. Nil: nothing is called.
	BeforeReload func(context.Context)
	// OnReload is told of each reload and each start: how long it took, the check of the files before it included, and
	// how it ended. Nil: nobody is told.
	OnReload func(took time.Duration, err error)
	// OnWrite is told how long it took to write HAProxy's files, each time that some were written. Nil: nobody is told.
	OnWrite func(took time.Duration)
}

// Timeouts. Nothing here is waited for in good times.
const (
	applyTimeout = 5 * time.Minute  // one Apply, its undoing included
	faultTimeout = 10 * time.Second // finding the resource at fault
)

// Applier puts snapshots into force on one HAProxy. It is safe for concurrent use.
type Applier struct {
	cfg     Config
	program string // digest of what is rendered around a snapshot

	// What serves. Written by the holder of turn only; nil: nothing does yet.
	inForce atomic.Pointer[snapshot.Snapshot]
	// What Suspended returns. Written by the holder of turn only.
	suspendedNow atomic.Pointer[[]Server]

	// turn is held by one at a time, who owns all that follows and HAProxy with it. It is a channel so that
	// waiting for it can be cancelled.
	turn chan struct{}
	// The renderer holds the snapshot in force whenever turn is free, the empty one while there is none.
	worker    *haproxy.Runtime   // to the worker that serves; nil: connect first
	up        bool               // HAProxy was started or adopted, and should be running
	suspect   bool               // HAProxy may run something else than the snapshot in force
	unswept   bool               // HAProxy may hold what nobody knows of
	swept     bool               // there are no files of an earlier life
	wanted    *snapshot.Snapshot // what Start could not put into force yet
	pid       int                // of the worker that held is about
	held      held               // how HAProxy differs from its files
	drift     drift              // the check that it does in nothing else
	mends     mends              // what that check found, and repairs did not change
	costs     costs              // of changes
	pace      pace               // of reloads
	told      told               // of limits
	refused   refusals           // content that HAProxy has refused
	postponed int                // reloads that could not be made, in a row
	mending   mending            // of a HAProxy that ended, or runs something else
	resting   time.Time          // until when the janitor rests
	stale     time.Time          // since when the files are not up to date; zero: they are
	unwritten int                // tries to write the files that have failed since
	touched   time.Time          // when the last change was made at run time
	stopping  bool               // Stop was called: HAProxy is not started any more
	drained   bool               // and listens no more, but goes on: there is no reload any more
	stopped   bool               // and takes no more commands
	diverted  bool               // a HAProxy elsewhere would begin with nothing
	torn      bool               // one that has begun may have read some files before they were written, some after
	replaced  error              // by a HAProxy that is not rendered for

	changed chan struct{} // wakes Run up; holds one
	hasten  chan struct{} // closed by the second Stop
	stops   atomic.Int32  // calls of Stop
	deaf    chan struct{} // closed when stopped is set
	ended   chan struct{} // closed when the first Stop is done

	mu          sync.Mutex
	breakOff    context.CancelFunc // guarded by mu; of what the holder of turn does; nil: nothing that takes long
	interrupted bool               // guarded by mu; by Stop
}

// New makes an Applier. Nothing runs until Start or the first Apply.
func New(cfg Config) *Applier {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil)
	}
	if cfg.BeforeReload == nil {
		cfg.BeforeReload = func(context.Context) {}
	}
	if cfg.OnReload == nil {
		cfg.OnReload = func(time.Duration, error) {}
	}
	if cfg.OnWrite == nil {
		cfg.OnWrite = func(time.Duration) {}
	}
	return &Applier{
		cfg:     cfg,
		program: programDigest(cfg.Renderer),
		turn:    make(chan struct{}, 1),
		held:    newHeld(),
		costs:   newCosts(),
		refused: newRefusals(),
		changed: make(chan struct{}, 1),
		hasten:  make(chan struct{}),
		deaf:    make(chan struct{}),
		ended:   make(chan struct{}),
	}
}

// take waits for the turn.
func (a *Applier) take(ctx context.Context) error {
	select {
	case a.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// give gives the turn back, and lets Run look at what has changed.
func (a *Applier) give() {
	<-a.turn
	a.wake()
}

func (a *Applier) wake() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// InForce returns the snapshot that serves; false while none does.
func (a *Applier) InForce() (snapshot.Snapshot, bool) {
	if s := a.inForce.Load(); s != nil {
		return *s, true
	}
	return snapshot.Snapshot{}, false
}

func (a *Applier) versionInForce() snapshot.Version {
	s, _ := a.InForce()
	return s.Version()
}

// Apply puts next into force, to which d leads from the snapshot in force. It returns nil when next serves
// and that was verified. Otherwise next is refused, and what was in force still is.
//
// Once it has begun, the end of ctx does not stop it: half of a change is of no use to anybody. Only Stop does, if it takes
// too long.
func (a *Applier) Apply(ctx context.Context, next snapshot.Snapshot, d snapshot.Delta) *tsujiv1.Refusal {
	if err := a.take(ctx); err != nil {
		return refusal(next, fmt.Errorf("wait for the change before: %w", err))
	}
	defer a.give()
	begun := time.Now()
	m, err := a.applyOnce(ctx, next, d)
	for soon := (*tooSoon)(nil); errors.As(err, &soon); m, err = a.applyOnce(ctx, next, d) {
		if err := a.rest(ctx, soon.after); err != nil {
			return refusal(next, fmt.Errorf("wait for a reload: %w", err))
		}
	}
	a.cfg.Metrics.applied(m, err, time.Since(begun))
	if err != nil {
		a.cfg.Log.Warn("snapshot refused", "version", next.Version().Short(), "error", err)
		return refusal(next, err)
	}
	a.cfg.Log.Info("snapshot in force", "version", next.Version().Short(), "method", string(m), "put", len(d.Put), "removed", len(d.Removed), "duration", time.Since(begun))
	return nil
}

func (a *Applier) applyOnce(ctx context.Context, next snapshot.Snapshot, d snapshot.Delta) (method, error) {
	ctx, done := a.working(context.WithoutCancel(ctx))
	defer done()
	return a.apply(ctx, next, d)
}

// rest lets others have the turn for a while. After an error too it has the turn again.
func (a *Applier) rest(ctx context.Context, d time.Duration) error {
	a.give()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	a.turn <- struct{}{}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// method is how a snapshot came into force.
type method string

const (
	byNothing method = "none"    // HAProxy has it already
	byRuntime method = "runtime" // commands
	byReload  method = "reload"  // files, and a new worker
	byStart   method = "start"   // files, and a new HAProxy
)

// reason is why there is a reload.
type reason string

const (
	becauseProgram reason = "program" // what is around the routes changes
	becauseRelease reason = "release" // this HAProxy cannot do it at run time, or may not
	becauseCheaper reason = "cheaper" // commands would take longer
	becauseFailure reason = "failure" // commands were tried
	becauseMend    reason = "mend"    // HAProxy ran something else
)

// reasons are all that there are.
var reasons = []reason{becauseProgram, becauseRelease, becauseCheaper, becauseFailure, becauseMend}

var errStopped = errors.New("the router is stopping")

func (a *Applier) apply(ctx context.Context, next snapshot.Snapshot, d snapshot.Delta) (method, error) {
	begun := time.Now()
	if a.stopped {
		return byNothing, errStopped
	}
	base, serving := a.InForce()
	if serving && base.Version().Equal(next.Version()) && !a.suspect {
		a.inForce.Store(&next) // the revision may differ: HAProxy's stamp has the older one until the next change
		a.cfg.Renderer.SetStamp(next.Version())
		return byNothing, nil
	}
	if !base.Apply(next.Version().Revision, d).Version().Equal(next.Version()) {
		d = snapshot.Diff(base, next)
	}
	if err := a.refused.known(next, d); err != nil {
		return byNothing, err
	}
	r := a.cfg.Renderer
	staged, err := r.Stage(d)
	if err != nil {
		return byNothing, err //nolint:wrapcheck // names the resource
	}
	change := r.Commit(staged)
	r.SetStamp(next.Version())
	why := becauseMend
	var needs map[string]string
	if serving && a.up && !a.suspect && a.worker != nil { // with no worker a reload would leave nothing behind
		needs = a.needs(change)
		if err := a.afford(needs, d, begun); err != nil {
			return byNothing, errors.Join(err, a.goBack(base, snapshot.Diff(next, base)))
		}
	}
	if serving && a.up && !a.suspect {
		err := a.online(ctx, change, next.Version())
		if err == nil {
			a.commit(next)
			return byRuntime, nil
		}
		var not *notOnline
		var content *render.ResourceError
		if errors.As(err, &content) && !a.suspect { // nothing is left of it
			a.refused.add(next, err)
			return byRuntime, errors.Join(err, a.goBack(base, snapshot.Diff(next, base)))
		}
		if errors.As(err, &not) {
			why = not.reason
			if soon := a.tooSoon(why, begun); soon != nil {
				return byNothing, errors.Join(soon, a.undo(ctx, base, snapshot.Diff(next, base), serving))
			}
			a.cfg.Log.Info("the change is made by a reload", "version", next.Version().Short(), "reason", string(why), "why", err)
		} else {
			why = becauseFailure
			a.cfg.Metrics.Fallbacks.Inc()
			a.cfg.Log.Warn("the change could not be made at run time; reloading", "version", next.Version().Short(), "error", err)
		}
	}
	m, err := a.serve(ctx, next.Version(), why)
	if err == nil {
		a.commit(next)
		return m, nil
	}
	err = a.explain(ctx, base, next, d, err)
	a.refused.add(next, err)
	if serving {
		err = a.postpone(sortedKeys(needs), err)
	}
	return m, errors.Join(err, a.undo(ctx, base, snapshot.Diff(next, base), serving))
}

// commit makes next the snapshot in force.
func (a *Applier) commit(next snapshot.Snapshot) {
	a.inForce.Store(&next)
	a.cfg.Renderer.Loaded()
	a.tellLimits()
	a.wanted = nil
}

// undo takes the renderer, the files and, if it came that far, HAProxy back to base.
func (a *Applier) undo(ctx context.Context, base snapshot.Snapshot, back snapshot.Delta, serving bool) error {
	if err := a.goBack(base, back); err != nil {
		return err
	}
	if !serving {
		return a.divert() // a later start writes the files
	}
	if !a.suspect {
		if a.cfg.HAProxy.Elsewhere() {
			_ = a.connect(ctx) // to whoever outlives what comes
		}
		if err := a.writeFiles(); err != nil {
			a.stale = time.Now() // written when idle
			a.cfg.Log.Warn("the files of a refused snapshot are still there", "error", err)
		}
		a.outlived(ctx)
		return nil
	}
	if _, err := a.serve(ctx, base.Version(), becauseMend); err != nil {
		return fmt.Errorf("go back to %s, which Run tries again: %w", base.Version().Short(), err)
	}
	return nil
}

// goBack takes the renderer back to base.
func (a *Applier) goBack(base snapshot.Snapshot, back snapshot.Delta) error {
	if _, err := a.cfg.Renderer.Apply(back); err != nil {
		return fmt.Errorf("go back to %s: %w", base.Version().Short(), err)
	}
	a.cfg.Renderer.NotLoaded()
	a.cfg.Renderer.SetStamp(base.Version())
	return nil
}

// maxRefused is how many resources a refusal names.
const maxRefused = 100

// refusal says why next is refused, and whose fault that is.
func refusal(next snapshot.Snapshot, err error) *tsujiv1.Refusal {
	first, _, _ := strings.Cut(err.Error(), "\n")
	r := &tsujiv1.Refusal{
		Class:   tsujiv1.RefusalClass_REFUSAL_CLASS_LOCAL,
		Version: next.Version().String(),
		Message: limit(first),
	}
	each(err, func(e *render.ResourceError) {
		if len(r.Resources) == maxRefused {
			return
		}
		refused := &tsujiv1.RefusedResource{Resource: e.Resource, Message: limit(e.Err.Error())}
		var later *laterError
		if errors.As(e.Err, &later) {
			refused.RetryAfter = durationpb.New(later.after)
		}
		if i, ok := next.Get(e.Resource); ok {
			d := i.Digest()
			refused.Digest = d[:]
		}
		r.Class = tsujiv1.RefusalClass_REFUSAL_CLASS_CONTENT
		r.Resources = append(r.Resources, refused)
	})
	return r
}

// each calls f for every ResourceError in the tree of err.
func each(err error, f func(*render.ResourceError)) {
	switch e := err.(type) { //nolint:errorlint // the tree is walked here
	case *render.ResourceError:
		f(e)
	case interface{ Unwrap() []error }:
		for _, e := range e.Unwrap() {
			each(e, f)
		}
	case interface{ Unwrap() error }:
		each(e.Unwrap(), f)
	}
}

// limit keeps a message within what a trailer may carry, and what protobuf calls a string.
func limit(s string) string {
	const most = 1000
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "")
}
