package controlplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/inspect"
	"github.com/tsuji-dev/tsuji/controlplane/quarantine"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// pause is the least time between two compilations: the first change goes out at once, and a burst behind it is
// taken together.
const pause = 25 * time.Millisecond

// mostRoutes is how many new Routes are compiled before others' changes are looked at: some 50 ms on a quiet machine.
const mostRoutes = 2000

// pipeline takes changes from the source to the board. Its one goroutine owns the compilers and all that
// is in it.
type pipeline struct {
	source     cluster.Source
	board      *release.Board
	quarantine *quarantine.Registry
	inspect    *inspect.Server
	compile    func(ingressController string) *compile.Compiler
	synced     func() // called once, when the source has been read and its snapshots are on the board
	now        func() time.Time
	log        *slog.Logger

	fleet       *fleet.Fleet
	keep        time.Duration                  // how long an IngressController without object and routers is served yet
	objects     map[cluster.Key]cluster.Change // what there is now: a new IngressController's compiler begins from it
	controllers map[string]*ingressController  // those that are served, by name
}

// run follows the source until ctx ends.
func (p *pipeline) run(ctx context.Context) error {
	p.objects = map[cluster.Key]cluster.Change{}
	p.controllers = map[string]*ingressController{defaultIngressController: {name: defaultIngressController}}
	for {
		changed, refused, answered := p.source.Changed(), p.quarantine.Changed(), p.fleet.Changed()
		batch, synced := p.source.Take()
		var again time.Time
		if synced {
			p.retire()
			p.handle(batch)
			again = p.again()
		} else {
			p.inspect.SetFaults(batch.Faults)
		}
		if !p.pacing() {
			answered = nil
		}
		if err := p.wait(ctx, changed, refused, answered, again); err != nil {
			return ignoreCanceled(err)
		}
	}
}

// pacing tells whether a piece of a large change is under way, and another follows.
func (p *pipeline) pacing() bool {
	for _, c := range p.controllers {
		if !c.due.IsZero() {
			return true
		}
	}
	return false
}

// wait returns when one of the channels is closed, or at the time, zero being never; but not before the pause has
// passed.
func (p *pipeline) wait(ctx context.Context, changed, refused, answered <-chan struct{}, again time.Time) error {
	paused := time.NewTimer(pause)
	defer paused.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-paused.C:
	}
	var at <-chan time.Time
	if !again.IsZero() {
		timer := time.NewTimer(again.Sub(p.now()))
		defer timer.Stop()
		at = timer.C
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
	case <-refused:
	case <-answered:
	case <-at:
	}
	return nil
}

// handle compiles a batch for every IngressController, and publishes what came of it. Verdicts and faults come
// first: who sees a version served finds there what was said of it.
func (p *pipeline) handle(batch cluster.Batch) {
	type outcome struct {
		of     *ingressController
		served snapshot.Snapshot
		result compile.Result
	}
	var outcomes []outcome
	p.note(batch.Changes)
	p.setZones(batch.Changes)
	for _, name := range slices.Sorted(maps.Keys(p.controllers)) {
		c := p.controllers[name]
		result := p.apply(c, batch.Changes)
		p.tell(c, result)
		if _, ok := result.Config.Get(tsujiv1.SettingsName); !ok {
			p.inspect.Observe(name, result)
			continue // routers refuse the Settings, and none were ever good: closed
		}
		s := c.guarded(snapshot.New(batch.Revision, result.Config, result.Facts), result.SharedHosts, p.now(), p.log)
		p.log.Debug("compiled", "ingress_controller", name, "version", s.Version().Short(), "changes", len(batch.Changes), "resources", s.Len())
		outcomes = append(outcomes, outcome{c, s, result})
	}
	p.inspect.SetFaults(append(slices.Clone(batch.Faults), p.alarms()...))
	for _, o := range outcomes {
		p.inspect.Observe(o.of.name, o.result)
		p.publish(o.of, release.Target{Snapshot: o.served, Observed: batch.Observed, Reached: batch.Reached})
	}
	if p.synced != nil {
		p.synced()
		p.synced = nil
	}
}

// note takes changes over into what there is, and an IngressController that is new into those that are served.
func (p *pipeline) note(changes []cluster.Change) {
	for _, c := range changes {
		if c.Object == nil {
			delete(p.objects, c.Key)
			continue
		}
		p.objects[c.Key] = c
		if c.Key.Kind == cluster.IngressController && p.controllers[c.Key.Name] == nil {
			p.controllers[c.Key.Name] = &ingressController{name: c.Key.Name}
		}
	}
}

// setZones tells the board which zones there are, if that has changed.
func (p *pipeline) setZones(changes []cluster.Change) {
	if !slices.ContainsFunc(changes, func(c cluster.Change) bool { return c.Key.Kind == cluster.ZoneKind }) {
		return
	}
	zones := map[string]string{}
	for k, c := range p.objects {
		if z, ok := c.Object.(*cluster.Zone); ok {
			zones[k.Name] = cmp.Or(z.Spec.IngressController, defaultIngressController)
		}
	}
	p.board.SetZones(zones)
}

// apply compiles changes for an IngressController; for one that is new all that there is.
func (p *pipeline) apply(c *ingressController, changes []cluster.Change) compile.Result {
	if c.compiler == nil {
		c.compiler = p.compile(c.name)
		changes = slices.Collect(maps.Values(p.objects))
	}
	held, until := p.quarantine.Holds(c.name, p.now())
	asked := compile.Holds{Resources: maps.Clone(held.Resources)}
	c.compiler.Hold(held)
	result := c.compiler.Apply(c.take(changes, p.now()))
	for _, name := range result.Ended {
		delete(held.Resources, name)
	}
	for _, name := range p.quarantine.Ended(c.name, asked, result.Ended) {
		p.log.Info("a resource that routers refused is gone or another: it is held no longer", "ingress_controller", c.name, "resource", name)
	}
	c.quarantined, c.until, c.later = held, until, result.Later
	c.guard.LeftOut(leftOut(result.Verdicts))
	c.guard.Forget(result.Ended)
	return result
}

// leftOut names the Routes that are not served because routers refuse them, or what they refer to.
func leftOut(verdicts []*tsujiv1.RouteVerdict) (names []string) {
	for _, v := range verdicts {
		if !v.GetAdmitted() && len(v.GetQuarantines()) > 0 {
			names = append(names, tsujiv1.RouteName(v.GetNamespace(), v.GetName()))
		}
	}
	return names
}

// retire drops the IngressControllers that nobody needs any more.
func (p *pipeline) retire() {
	now := p.now()
	for name, c := range p.controllers {
		if c.over(p.keep, now) && p.fleet.Count(name, now) == 0 {
			p.log.Info("an IngressController that was deleted is served no more: none of its routers is left", "ingress_controller", name)
			delete(p.controllers, name)
			p.board.Drop(name)
			p.quarantine.Drop(name)
			p.inspect.Forget(name)
		}
	}
}

// again returns when there may be something to do though the source says nothing new; zero: never.
func (p *pipeline) again() (at time.Time) {
	now := p.now()
	for _, c := range p.controllers {
		for _, t := range c.again(p.keep, now) {
			if !t.IsZero() && (at.IsZero() || t.Before(at)) {
				at = t
			}
		}
	}
	return at
}

// tell logs what is newly wrong with an IngressController or its Routes, and keeps the faults for alarms.
func (p *pipeline) tell(c *ingressController, result compile.Result) {
	for _, f := range result.Faults {
		if !slices.Contains(c.faults, f) {
			p.log.Warn("fault in an IngressController", "ingress_controller", c.name, "place", f.Place, "message", f.Message, "remedy", f.Remedy)
		}
	}
	c.faults = result.Faults
	for _, v := range result.Verdicts {
		if !v.GetAdmitted() {
			attributes := []any{"ingress_controller", c.name, "route", v.GetNamespace() + "/" + v.GetName()}
			if s := v.GetSource(); s != nil { // there is no object of that name
				attributes = append(attributes, "of", fmt.Sprintf("%s %s/%s", s.GetKind(), v.GetNamespace(), s.GetName()), "field", s.GetField())
			}
			p.log.Warn("route refused", append(attributes, "reason", v.GetReason(), "message", v.GetMessage())...)
		}
	}
	for _, v := range result.Verdicts {
		for _, q := range v.GetQuarantines() {
			p.log.Warn("routers refuse a resource", "ingress_controller", c.name, "route", v.GetNamespace()+"/"+v.GetName(),
				"resource", q.GetResource(), "router", q.GetRouter(), "message", q.GetMessage(), "last_good_served", q.GetLastGood())
		}
	}
	for _, v := range result.Verdicts {
		for _, g := range v.GetLastGood() {
			p.log.Warn("what a Route refers to stays as it was last good", "ingress_controller", c.name,
				"route", v.GetNamespace()+"/"+v.GetName(), "resource", g.GetResource(), "message", g.GetMessage())
		}
	}
	for _, n := range result.Notices {
		p.log.Info("external certificate changed", "ingress_controller", c.name, "route", n.Namespace+"/"+n.Name, "reason", n.Reason, "message", n.Message)
	}
}

// alarms are what is wrong with IngressControllers, and what is held, as faults.
func (p *pipeline) alarms() []cluster.Fault {
	var all []cluster.Fault
	for _, name := range slices.Sorted(maps.Keys(p.controllers)) {
		c := p.controllers[name]
		all = append(all, c.faults...)
		all = append(all, c.alarms(p.keep, p.now())...)
	}
	return all
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
