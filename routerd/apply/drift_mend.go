package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
)

const (
	mendPause = time.Minute   // before something is tried again that a repair did not change; doubled each time
	mendMost  = 4 * time.Hour // and no longer
)

// difference is something that HAProxy does not have as it should.
type difference struct {
	kind   string
	object string // what differs, the same each time that it is found
	what   string // how it differs, for people
	of     string // the route's backend or the file that it belongs to; empty: no resource's

	odd  bool // it is not known what HAProxy has; so neither is whether a repair changes it
	left bool // nothing is to be done about it now
}

func (d difference) key() string { return d.kind + " " + d.object }

// mend is a difference that was there again after a repair, or may be.
type mend struct {
	kind     string
	seen     int       // the round that found it last
	reloaded bool      // HAProxy was reloaded for it, which is done once
	failures int       // repairs that changed nothing
	next     time.Time // not to be tried again before
}

// mends are the differences that repairs have not changed. What nobody has changed again since is repaired by commands
// or a reload, and forgotten when a round finds it no more. What is still there is told of, and tried again ever more
// seldom, and never by a reload: that would cost everybody something, and change nothing. Everything else is looked at
// as ever.
type mends struct {
	list   map[string]*mend
	round  int
	only   string        // the one difference that something is done about; empty: all
	reload time.Time     // no reload for any of them before
	pause  time.Duration // to the reload after that
}

// backoff returns how long to wait after so many failures.
func (m *mend) backoff() time.Duration { return min(mendPause<<min(m.failures-1, 16), mendMost) }

// differs notes a difference that was found, and says whether it is to be left.
func (a *Applier) differs(d difference) difference {
	if a.mends.only != "" && d.key() != a.mends.only {
		d.left = true
		return d
	}
	m := a.mends.list[d.key()]
	if m == nil {
		return d
	}
	m.seen = a.mends.round
	if m.reloaded && m.failures == 0 && d.kind != driftFrontend {
		a.unchanged(d)
	}
	d.left = time.Now().Before(m.next)
	return d
}

// remember returns what is known of a difference's repairs.
func (a *Applier) remember(d difference) *mend {
	m := a.mends.list[d.key()]
	if m == nil {
		m = &mend{kind: d.kind}
		if a.mends.list == nil {
			a.mends.list = map[string]*mend{}
		}
		a.mends.list[d.key()] = m
	}
	m.seen = a.mends.round
	return m
}

// unchanged notes that a repair changed nothing.
func (a *Applier) unchanged(d difference) {
	m := a.remember(d)
	m.failures++
	m.next = time.Now().Add(m.backoff())
	resource, _ := a.cfg.Renderer.Owner(d.of)
	a.cfg.Log.Warn("HAProxy has something else than it should, which a repair did not change", "kind", d.kind, "what", d.what,
		"resource", resource, "repairs", m.failures, "again_in", m.backoff())
	a.countMends()
}

// repaired notes that differences are repaired.
func (a *Applier) repaired(found []difference) {
	for i, d := range found {
		a.cfg.Metrics.Repairs.WithLabelValues(d.kind).Inc()
		if i < driftTold {
			a.cfg.Log.Warn("HAProxy had something else than it should, and has it again", "kind", d.kind, "what", d.what)
		}
		if d.odd {
			a.unchanged(d)
		} else {
			delete(a.mends.list, d.key())
		}
	}
	if n := len(found) - driftTold; n > 0 {
		a.cfg.Log.Warn("HAProxy had more that was not as it should be", "differences", n)
	}
	a.countMends()
}

// endRound forgets what the round that ends has not found.
func (a *Applier) endRound() {
	clean := true
	for key, m := range a.mends.list {
		if m.seen < a.mends.round {
			delete(a.mends.list, key)
		}
		clean = clean && m.seen < a.mends.round
	}
	if clean && time.Now().After(a.mends.reload) {
		a.mends.pause = 0
	}
	a.mends.round++
	a.countMends()
}

// countMends tells the metrics what is not repaired.
func (a *Applier) countMends() {
	n := map[string]int{}
	for _, m := range a.mends.list {
		if m.failures > 0 {
			n[m.kind]++
		}
	}
	for _, kind := range driftKinds {
		a.cfg.Metrics.Unrepaired.WithLabelValues(kind).Set(float64(n[kind]))
	}
}

// errSlow says that a reload repairs differences faster.
var errSlow = errors.New("a reload repairs it faster")

// lookAt compares some names with what HAProxy has, and repairs what differs. Where that fails each difference is
// repaired by itself, so that one that cannot be is nothing to the others.
func (a *Applier) lookAt(ctx context.Context, names []string, compare comparison) error {
	p, all, err := compare(ctx, names)
	var found []difference
	for _, d := range all {
		if !d.left {
			found = append(found, d)
		}
	}
	if err == nil && len(found) > 0 {
		err = a.repair(ctx, p, found)
	}
	switch {
	case err == nil || len(found) == 0:
		return err
	case a.suspect: // a reload is next, whatever there was
		for _, d := range found {
			a.remember(d).reloaded = true
		}
		return err
	case errors.Is(err, haproxy.ErrClosed): // that says nothing of what differs
		return err
	case len(found) == 1 || errors.Is(err, errSlow) && a.mayReload(found):
		return a.reloadFor(found, err)
	}
	outer := a.mends.only
	defer func() { a.mends.only = outer }()
	for _, d := range found[:min(len(found), driftTold)] { // the rest in the next round
		a.mends.only = d.key()
		if err := a.lookAt(ctx, names, compare); err != nil && a.suspect {
			return err
		}
	}
	return nil
}

// mayReload tells whether HAProxy may be reloaded for differences: it has not been for one of them, nor lately for
// others.
func (a *Applier) mayReload(found []difference) bool {
	if time.Now().Before(a.mends.reload) {
		return false
	}
	for _, d := range found {
		if m := a.mends.list[d.key()]; m == nil || !m.reloaded || d.kind == driftFrontend {
			return true
		}
	}
	return false
}

// reloadFor has HAProxy reloaded because of differences that commands do not repair, if it may be.
func (a *Applier) reloadFor(found []difference, why error) error {
	if !a.mayReload(found) {
		for _, d := range found {
			a.unchanged(d)
		}
		return nil
	}
	for i, d := range found {
		a.remember(d).reloaded = true
		a.cfg.Metrics.Repairs.WithLabelValues(d.kind).Inc()
		if i < driftTold {
			a.cfg.Log.Warn("HAProxy has something else than it should; reloading", "kind", d.kind, "what", d.what)
		}
	}
	a.mends.pause = min(max(2*a.mends.pause, mendPause), mendMost)
	a.mends.reload = time.Now().Add(a.mends.pause)
	a.suspect = true
	return fmt.Errorf("%d differences are repaired by a reload: %w", len(found), why)
}

// repair carries out a plan against differences. After an error it is known what HAProxy runs, if it is not suspect.
func (a *Applier) repair(ctx context.Context, p *plan, found []difference) error {
	if a.costs.tooLong(p) {
		return errSlow
	}
	v := a.versionInForce()
	err := a.carryOut(ctx, p, v)
	if err == nil {
		a.repaired(found)
		return nil
	}
	var early *notSent
	if errors.Is(err, haproxy.ErrClosed) || len(p.names) > 0 && !errors.As(err, &early) {
		return fmt.Errorf("repair: %w", err)
	}
	a.unswept = true // what is half there is nobody's
	if stampErr := a.setStamp(ctx, v); stampErr != nil {
		return fmt.Errorf("repair: %w", errors.Join(err, stampErr))
	}
	return fmt.Errorf("repair: %w", err)
}
