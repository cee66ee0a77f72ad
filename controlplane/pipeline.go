package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/inspect"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// defaultIngressController is served even if no such object exists: a plain directory of Routes has none.
const defaultIngressController = "default"

// pause is the least time between two compilations: the first change goes out at once, and a burst behind it is
// taken together.
const pause = 25 * time.Millisecond

// pipeline takes changes from the source to the board. Its one goroutine owns the compilers and all that
// is in it.
type pipeline struct {
	source  cluster.Source
	board   *release.Board
	inspect *inspect.Server
	compile func(ingressController string) *compile.Compiler
	synced  func() // called once, when the source has been read and its snapshots are on the board
	now     func() time.Time
	log     *slog.Logger

	objects   map[cluster.Key]cluster.Change // what there is now: a new IngressController's compiler begins from it
	compilers map[string]*compile.Compiler   // by IngressController; nil: to be made
	faults    map[string][]cluster.Fault     // by IngressController
	held      map[string]*release.Held       // by IngressController; nil: nothing is
}

// run follows the source until ctx ends.
func (p *pipeline) run(ctx context.Context) error {
	p.objects = map[cluster.Key]cluster.Change{}
	p.faults = map[string][]cluster.Fault{}
	p.held = map[string]*release.Held{}
	p.compilers = map[string]*compile.Compiler{defaultIngressController: nil}
	for {
		changed := p.source.Changed()
		batch, synced := p.source.Take()
		if synced {
			p.handle(batch)
		} else {
			p.inspect.SetFaults(batch.Faults)
		}
		if err := wait(ctx, changed); err != nil {
			return ignoreCanceled(err)
		}
	}
}

// wait returns when the channel is closed, but not before the pause has passed.
func wait(ctx context.Context, changed <-chan struct{}) error {
	paused := time.NewTimer(pause)
	defer paused.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-paused.C:
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
		return nil
	}
}

// handle compiles a batch for every IngressController, and publishes what came of it. Verdicts and faults come
// first: who sees a version served finds there what was said of it.
func (p *pipeline) handle(batch cluster.Batch) {
	type outcome struct {
		name   string
		served snapshot.Snapshot
		result compile.Result
	}
	var outcomes []outcome
	for _, c := range batch.Changes {
		if c.Object == nil {
			delete(p.objects, c.Key)
			continue
		}
		p.objects[c.Key] = c
		if c.Key.Kind == cluster.IngressController && p.compilers[c.Key.Name] == nil {
			p.compilers[c.Key.Name] = nil // made below
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.compilers)) {
		c, changes := p.compilers[name], batch.Changes
		if c == nil {
			c = p.compile(name)
			p.compilers[name] = c
			changes = slices.Collect(maps.Values(p.objects))
		}
		result := c.Apply(changes)
		s := p.guard(name, snapshot.New(batch.Revision, result.Config, result.Facts))
		p.tell(name, result.Faults)
		for _, v := range result.Verdicts {
			if !v.GetAdmitted() {
				attributes := []any{"ingress_controller", name, "route", v.GetNamespace() + "/" + v.GetName()}
				if s := v.GetSource(); s != nil { // there is no object of that name
					attributes = append(attributes, "of", fmt.Sprintf("%s %s/%s", s.GetKind(), v.GetNamespace(), s.GetName()), "field", s.GetField())
				}
				p.log.Warn("route refused", append(attributes, "reason", v.GetReason(), "message", v.GetMessage())...)
			}
		}
		for _, n := range result.Notices {
			p.log.Info("external certificate changed", "ingress_controller", name, "route", n.Namespace+"/"+n.Name, "reason", n.Reason, "message", n.Message)
		}
		p.log.Debug("compiled", "ingress_controller", name, "version", s.Version().Short(), "changes", len(changes), "resources", s.Len())
		outcomes = append(outcomes, outcome{name, s, result})
	}
	p.inspect.SetFaults(append(slices.Clone(batch.Faults), p.alarms()...))
	for _, o := range outcomes {
		p.inspect.Observe(o.name, o.result)
		p.board.Publish(o.name, release.Target{Snapshot: o.served, Observed: batch.Observed, Reached: batch.Reached}, p.now())
	}
	if p.synced != nil {
		p.synced()
		p.synced = nil
	}
}

// allowAnnotation on an IngressController allows a drop that is held: its value is what the alarm tells.
const allowAnnotation = "tsuji.dev/allow-route-drop"

// guard returns what may be published of an IngressController when s was compiled: see [release.Guard].
func (p *pipeline) guard(name string, s snapshot.Snapshot) snapshot.Snapshot {
	current, ok, _ := p.board.Target(release.View{IngressController: name})
	if !ok {
		return s
	}
	var allow string
	if o, ok := p.objects[ingressControllerKey(name)]; ok {
		allow = o.Object.GetAnnotations()[allowAnnotation]
	}
	s, held := release.Guard(current.Snapshot, s, allow)
	before := p.held[name]
	switch {
	case held == nil && before != nil:
		p.log.Info("the drop of routes is no longer held", "ingress_controller", name)
	case held != nil && (before == nil || *held != *before):
		p.log.Error("most routes would be dropped: held", "ingress_controller", name, "routes", held.Before, "left", held.After, "allow_with", allowAnnotation+"="+held.Allow())
	}
	p.held[name] = held
	return s
}

// tell logs what is newly wrong with an IngressController, and keeps all of it for alarms.
func (p *pipeline) tell(name string, faults []cluster.Fault) {
	for _, f := range faults {
		if !slices.Contains(p.faults[name], f) {
			p.log.Warn("fault in an IngressController", "ingress_controller", name, "place", f.Place, "message", f.Message, "remedy", f.Remedy)
		}
	}
	p.faults[name] = faults
}

// alarms are what is wrong with IngressControllers, and what is held, as faults.
func (p *pipeline) alarms() []cluster.Fault {
	var all []cluster.Fault
	for _, name := range slices.Sorted(maps.Keys(p.faults)) {
		all = append(all, p.faults[name]...)
	}
	for _, name := range slices.Sorted(maps.Keys(p.held)) {
		if h := p.held[name]; h != nil {
			all = append(all, cluster.Fault{
				Place:   ingressControllerKey(name).String(),
				Message: h.String() + "; what was served still is",
				Remedy:  fmt.Sprintf("bring the Routes back, or allow it by the annotation %s: %q on the IngressController", allowAnnotation, h.Allow()),
			})
		}
	}
	return all
}

// ingressControllerKey is where OpenShift has its IngressControllers.
func ingressControllerKey(name string) cluster.Key {
	return cluster.Key{Kind: cluster.IngressController, Namespace: "openshift-ingress-operator", Name: name}
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
