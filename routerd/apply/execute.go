package apply

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// online makes a change by commands, and reads back what it touched. A *notOnline says that nothing was begun; after
// another error HAProxy runs what is in force, unless it is suspect. ResourceErrors say whose content HAProxy refuses.
func (a *Applier) online(ctx context.Context, c render.Change, v snapshot.Version) error {
	if len(c.Reload) > 0 {
		return &notOnline{becauseProgram, errors.New(strings.Join(c.Reload, "; "))}
	}
	if err := a.connectInForce(ctx); err != nil {
		return err
	}
	p, err := a.plan(c)
	if err != nil {
		return err
	}
	err = a.carryOut(ctx, p, v)
	var early *notSent
	if !errors.As(err, &early) {
		return err
	}
	if back := a.takeBack(ctx, c, p, early); back != nil {
		return errors.Join(err, fmt.Errorf("take back what was added: %w", back))
	}
	return a.blame(early)
}

// notOnline says why a change is not to be made by commands. Nothing was begun.
type notOnline struct {
	reason
	error
}

// plan plans a change for the worker that runs, if commands are the way to make it.
func (a *Applier) plan(c render.Change) (*plan, error) {
	in := a.planner()
	if operations, backends := in.atLeast(c); a.reloadIsBetter(operations, backends) {
		return nil, a.cheaper(operations, backends)
	}
	p, err := newPlan(in, c)
	var not *impossible
	switch {
	case errors.As(err, &not):
		return nil, &notOnline{becauseRelease, err}
	case err != nil:
		return nil, &notOnline{becauseProgram, err}
	}
	if a.reloadIsBetter(p.operations(), p.added) {
		return nil, a.cheaper(p.operations(), p.added)
	}
	return p, nil
}

// cheaper says that a reload is better than so many operations.
func (a *Applier) cheaper(operations, backends int) error {
	return &notOnline{becauseCheaper, fmt.Errorf("%d operations and %d new backends would take %s, a reload %s",
		operations, backends, a.costs.online(operations, backends).Round(time.Millisecond), a.costs.reload.Round(time.Millisecond))}
}

// reloadIsBetter tells whether a change that takes so many commands, so many of which add backends, is better made by a
// reload. Where none can be made commands are the way, however long they take. So they are where there were some
// reloads lately: what a tenant changes may be large each time, and old workers cost everybody more than that time.
func (a *Applier) reloadIsBetter(operations, backends int) bool {
	return !a.drained && a.unwritten == 0 && a.pace.free(time.Now()) && a.costs.tooMany(operations, backends)
}

func (a *Applier) planner() planner {
	return planner{
		can: a.capabilities(), held: a.held, routing: a.cfg.Renderer.Routing, now: time.Now(),
		release: a.worker.Version(), buffer: a.cfg.Renderer.BufferBytes(),
	}
}

// capabilities is what may be done with the worker that is connected.
func (a *Applier) capabilities() haproxy.Capabilities {
	can := a.worker.Version().Capabilities()
	can.DynamicBackends = can.DynamicBackends && !a.cfg.NoRuntimeBackends
	return can
}

// carryOut makes HAProxy what the plan says, and reads it back. After an error it is not known what it runs.
func (a *Applier) carryOut(ctx context.Context, p *plan, v snapshot.Version) error {
	begun := time.Now()
	if err := a.divert(); err != nil {
		return err
	}
	w := a.worker
	a.suspect = true
	applying := haproxy.SetMap(stampMap, versionKey, "applying "+v.String())
	refused, err := w.Try(ctx, append([]haproxy.Op{applying}, p.make()...)...)
	if err != nil {
		return fmt.Errorf("add what is new: %w", err)
	}
	if len(refused) > 0 {
		return &notSent{refused}
	}
	if err := w.Do(ctx, p.turn()...); err != nil {
		return fmt.Errorf("take away what is old: %w", err)
	}
	if err := a.unlist(ctx, p.lines); err != nil {
		return fmt.Errorf("take away what is old: %w", err)
	}
	p.commit(a.held)
	if err := a.readBack(ctx, p); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if err := a.setStamp(ctx, v); err != nil {
		return err
	}
	took := time.Since(begun)
	a.costs.learn(p.operations(), p.added, took)
	a.cfg.Metrics.online(p.operations(), took)
	a.touched = time.Now()
	if a.stale.IsZero() {
		a.stale = a.touched
	}
	a.countHeld()
	return nil
}

// setStamp says in HAProxy what it runs, now that this is known.
func (a *Applier) setStamp(ctx context.Context, v snapshot.Version) error {
	if err := a.worker.Do(ctx, haproxy.SetMap(stampMap, versionKey, v.String())); err != nil {
		return fmt.Errorf("set the stamp: %w", err)
	}
	if err := a.verifyStamp(ctx, v); err != nil {
		return err
	}
	if i, err := a.worker.Info(ctx); err != nil || i.Stopping {
		return errors.Join(errors.New("HAProxy was reloaded in the meantime"), err)
	}
	a.suspect = false
	return nil
}

// unlist deletes lines of the crt-list. Most certificates have one line there, for which no number is needed; the
// numbers of others are looked up.
func (a *Applier) unlist(ctx context.Context, lines []render.CrtListChange) error {
	var several []render.CrtListChange
	for _, l := range lines {
		err := a.worker.Do(ctx, haproxy.DelCrtList(crtList, l.Certificate, 0))
		var refused *haproxy.RefusedError
		switch {
		case err == nil:
		case errors.As(err, &refused):
			several = append(several, l)
		default:
			return err //nolint:wrapcheck // says what was asked
		}
	}
	if len(several) == 0 {
		return nil
	}
	have, err := a.worker.CrtList(ctx, crtList)
	if err != nil {
		return err //nolint:wrapcheck // says what was asked
	}
	numbers := map[render.CrtListChange]int{}
	for _, e := range have {
		numbers[render.CrtListChange{Certificate: e.Certificate, Filter: e.Filter}] = e.Line
	}
	ops := make([]haproxy.Op, 0, len(several))
	for _, l := range several {
		n, ok := numbers[l]
		if !ok {
			return fmt.Errorf("%s has no line %s %s", crtList, l.Certificate, l.Filter)
		}
		ops = append(ops, haproxy.DelCrtList(crtList, l.Certificate, n))
	}
	return a.worker.Do(ctx, ops...) //nolint:wrapcheck // says what was asked
}

// connectInForce makes sure of a connection to a worker that runs the snapshot in force.
func (a *Applier) connectInForce(ctx context.Context) error {
	known := a.worker
	if err := a.connect(ctx); err != nil {
		return err
	}
	if a.worker == known {
		return nil
	}
	if err := a.met(ctx, a.versionInForce()); err != nil {
		a.disconnect() // whoever comes next looks again
		return err
	}
	if a.worker.PID() != a.pid { // it began with the files, and nobody has told it anything since
		a.begunAnew()
	}
	return nil
}

// begunAnew notes that the worker began with files of the snapshot in force.
func (a *Applier) begunAnew() {
	a.pid = a.worker.PID()
	a.held = newHeld()
	a.drift = drift{due: time.Now().Add(driftPause)}
	a.countHeld()
}

// readBack compares what the plan touched with what HAProxy has.
func (a *Applier) readBack(ctx context.Context, p *plan) error {
	if len(p.entries) > 0 {
		keys := make([]haproxy.MapKey, 0, len(p.entries))
		for k := range p.entries {
			keys = append(keys, k)
		}
		values, err := a.worker.GetMapKeys(ctx, keys)
		if err != nil {
			return err //nolint:wrapcheck // says what was asked
		}
		for i, k := range keys {
			if want := p.entries[k]; values[i].Value != want || values[i].Found != (want != "") {
				return fmt.Errorf("map %s has %.200q for %.200q, not %.200q", k.File, values[i].Value, k.Key, want)
			}
		}
	}
	if len(p.backends) > 0 {
		names := sortedKeys(p.backends)
		states, err := a.worker.BackendsState(ctx, names...)
		if err != nil {
			return err //nolint:wrapcheck // says what was asked
		}
		for i, name := range names {
			if err := a.held.compare(name, p.backends[name], states[i]); err != nil {
				return fmt.Errorf("backend %s: %w", name, err)
			}
		}
	}
	return a.readPrints(ctx, p)
}

// readPrints compares certificates that the plan touched with those that HAProxy has. That it has put one into use it has
// said, and that counts where what it says of it cannot be read.
func (a *Applier) readPrints(ctx context.Context, p *plan) error {
	var pairs []string
	for _, path := range sortedKeys(p.prints) {
		if !p.cas[path] {
			pairs = append(pairs, path)
			continue
		}
		what, err := a.worker.CA(ctx, path, p.prints[path])
		if err != nil && !a.unread(err) {
			return err //nolint:wrapcheck // says what was asked
		}
		if what != "" {
			return fmt.Errorf("CA certificates %s: %s", path, what)
		}
	}
	if len(pairs) == 0 {
		return nil
	}
	have, err := a.worker.Certificates(ctx, pairs...)
	if err != nil {
		return err //nolint:wrapcheck // says what was asked
	}
	for i, path := range pairs {
		switch h := have[i]; {
		case h.Err != nil && !a.unread(h.Err):
			return h.Err
		case h.Err == nil && !h.Is(p.prints[path][0]):
			return fmt.Errorf("certificate %s is %v, not %v", path, h.CertificateInfo, p.prints[path][0])
		}
	}
	return nil
}

// unread tells whether an error only says that an answer of HAProxy's cannot be read, and if so notes that.
func (a *Applier) unread(err error) bool {
	var odd *haproxy.AnswerError
	if !errors.As(err, &odd) {
		return false
	}
	a.cfg.Metrics.Unread.Inc()
	a.cfg.Log.Warn("what HAProxy says cannot be read, and is taken to have what it has put into use", "error", err)
	return true
}

// compare compares the servers that a backend of HAProxy should have with those that it has: these, and beyond
// them none but those that are leaving. A server that is suspended is in maintenance.
func (h held) compare(name string, want *render.Backend, have map[string]haproxy.ServerState) error {
	for _, s := range want.Servers {
		state, ok := have[s.Name]
		if !ok {
			return fmt.Errorf("server %s is not there", s.Name)
		}
		if err := compareServer(s, state, h.state(server{want.Name, s.Name})); err != nil {
			return fmt.Errorf("server %s %w", s.Name, err)
		}
	}
	wanted := byName(want.Servers)
	for other, state := range have {
		if _, ok := wanted[other]; !ok && (h.servers[name][other] == nil || state.State() != haproxy.Maint) {
			return fmt.Errorf("server %s should not be there, and is in state %s", other, state.State())
		}
	}
	return nil
}

// at tells whether a server of HAProxy is where it should be.
func at(s render.Server, have haproxy.ServerState) bool {
	want, err := s.AddrPort()
	return err == nil && have.Address.Unmap() == want.Addr().Unmap() && have.Port == s.Port
}

func compareServer(s render.Server, have haproxy.ServerState, wantState haproxy.State) error {
	switch {
	case !at(s, have):
		return fmt.Errorf("is at %s port %d, not %s", have.Address, have.Port, s.HostPort())
	case have.Weight != s.Weight:
		return fmt.Errorf("has weight %d, not %d", have.Weight, s.Weight)
	case have.State() != wantState:
		return fmt.Errorf("is in state %s, not %s", have.State(), wantState)
	}
	return nil
}
