package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// An epoch is what was read of a cluster while its storage was the same. When that is replaced, a new epoch
// reads everything anew, and is adopted when it has.
type epoch struct {
	kube   *Source
	ctx    context.Context //nolint:containedctx // of the goroutines that callbacks start; ends with run
	cancel context.CancelFunc
	uid    string // of namespace kube-system

	probing  chan struct{} // held by who asks for the storage; guards verified
	verified time.Time     // when it was last asked for, and was the same

	work sync.WaitGroup // every goroutine of the epoch; joined under mu, while not ended

	// Guarded by kube.mu. Objects are as they are handed out.
	feeds     []*feed
	system    *feed // of namespaces: failures to look at the storage are its
	routes    *feed
	refs      map[cluster.Key]*ref
	shares    map[string]share // of the keys of refs, by namespace
	objects   map[cluster.Kind]map[name]metav1.Object
	zones     *zones
	ingresses *cluster.Ingresses
	moved     map[cluster.Key]struct{}      // Ingresses that may refer to others than when they were handed out
	served    map[cluster.Key]struct{}      // Ingresses that were ours when they were handed out
	bad       map[cluster.Key]cluster.Fault // objects that cannot be used
	failing   map[*feed]struct{}
	waiting   int // refs that are not settled
	handled   map[cluster.Kind]uint64
	reached   map[cluster.Kind]uint64
	began     time.Time
	read      time.Time // when every kind was read; zero: not yet
	adopted   bool
	ended     bool
	// pending is what was handed out of the objects that are not as they were then; nil: nothing.
	pending map[cluster.Key]metav1.Object
	now     map[cluster.Key][]cluster.Key // what Routes, Ingresses and IngressControllers refer to
	taken   map[cluster.Key][]cluster.Key // the same, as they were handed out
}

func newEpoch(k *Source) *epoch {
	e := &epoch{
		kube: k, probing: make(chan struct{}, 1),
		refs: map[cluster.Key]*ref{}, shares: map[string]share{},
		objects: map[cluster.Kind]map[name]metav1.Object{}, zones: newZones(), ingresses: cluster.NewIngresses(),
		moved: map[cluster.Key]struct{}{}, served: map[cluster.Key]struct{}{},
		bad: map[cluster.Key]cluster.Fault{}, failing: map[*feed]struct{}{},
		handled: map[cluster.Kind]uint64{}, reached: map[cluster.Kind]uint64{},
		pending: map[cluster.Key]metav1.Object{},
		now:     map[cluster.Key][]cluster.Key{}, taken: map[cluster.Key][]cluster.Key{},
	}
	e.system = newFeed(e, cluster.Namespace, nil)
	e.feeds = []*feed{e.system}
	for _, kind := range []cluster.Kind{
		cluster.Route, cluster.Ingress, cluster.IngressClass, cluster.Service, cluster.EndpointSlice,
		cluster.IngressController, cluster.ZoneKind, node,
	} {
		f := newFeed(e, kind, nil)
		if kind == cluster.Route {
			e.routes = f
		}
		e.feeds = append(e.feeds, f)
	}
	if k.client.reader != (cluster.Reader{}) {
		for _, kind := range []cluster.Kind{
			cluster.ClusterRole, cluster.ClusterRoleBinding, cluster.Role, cluster.RoleBinding,
		} {
			e.feeds = append(e.feeds, newFeed(e, kind, nil))
		}
	}
	for _, kind := range cluster.Kinds() {
		e.objects[kind] = map[name]metav1.Object{}
	}
	return e
}

// run follows the cluster until its storage is replaced or ctx ends.
func (e *epoch) run(ctx context.Context) {
	k := e.kube
	e.ctx, e.cancel = context.WithCancel(ctx)
	k.mu.Lock()
	k.reading, e.began = e, k.now()
	k.mu.Unlock()
	if e.begin() {
		k.mu.Lock()
		for _, f := range e.feeds {
			e.work.Go(func() { f.run(e.ctx) })
		}
		k.mu.Unlock()
		k.log.Debug("reading the cluster", "source", k.String(), "server", k.client.host, "epoch", e.uid)
		<-e.ctx.Done()
	}
	e.cancel()
	k.mu.Lock()
	e.ended = true
	k.mu.Unlock()
	e.work.Wait()
}

// begin learns which storage it is.
func (e *epoch) begin() bool {
	for n := 0; ; n++ {
		uid, revision, err := e.kube.client.storage(e.ctx)
		if e.ctx.Err() != nil {
			return false
		}
		if err == nil {
			e.uid, e.verified = uid, time.Now()
			e.kube.log.Debug("the cluster's storage", "epoch", uid, "revision", revision)
			return true
		}
		e.system.note(err)
		if !sleep(e.ctx, e.kube.timing.backoff(n)) {
			return false
		}
	}
}

// errReplaced says that what is asked is not the storage that it was.
var errReplaced = errors.New("the cluster's storage is another")

// verify returns nil if the API server has the storage that the epoch is about. It is called with a watch
// that was just established: watching other storage from a revision that it has not reached yet is no
// error to the API server, and would lose what happens until then.
func (e *epoch) verify(ctx context.Context) error {
	now := time.Now()
	select {
	case e.probing <- struct{}{}:
		defer func() { <-e.probing }()
	case <-ctx.Done():
		return fmt.Errorf("wait for a look at the storage: %w", ctx.Err())
	}
	if now.Sub(e.verified) < time.Second { // no API server is back with other storage in less
		return nil
	}
	before := e.revision()
	uid, revision, err := e.kube.client.storage(ctx)
	if err != nil {
		return err
	}
	e.kube.mu.Lock()
	defer e.kube.mu.Unlock()
	switch {
	case uid != e.uid:
		e.replaceLocked("it is another cluster's: namespace " + kubeSystem + " is not the one that it was")
		return errReplaced
	case revision < before && e.adopted: // if not, some kind is in storage of its own
		e.replaceLocked(fmt.Sprintf("it was restored to an earlier state: its revision is %d, and had been %d",
			revision, before))
		return errReplaced
	}
	e.verified = now
	return nil
}

// revision is the highest that is known of the storage.
func (e *epoch) revision() uint64 {
	e.kube.mu.Lock()
	defer e.kube.mu.Unlock()
	var out uint64
	for kind, n := range e.reached {
		if e.kube.client.resources[kind].core {
			out = max(out, n)
		}
	}
	return out
}

// replaceLocked ends the epoch, for another to begin.
func (e *epoch) replaceLocked(why string) {
	k := e.kube
	if e.ctx.Err() != nil {
		return
	}
	k.replaced = &cluster.Fault{
		Place: apiServer,
		Message: fmt.Sprintf("the cluster's storage was replaced, as was found at %s: %s; "+
			"before all of it is read, what was read before stays in force",
			k.now().UTC().Format(time.RFC3339), why),
		Remedy: "if it was not meant to be, restore it; what is missing in it ceases to be served",
	}
	k.replacedUntil = time.Time{}
	k.updateFaultsLocked()
	e.cancel()
}

// putLocked takes what an object is now, nil if it is gone, as the API has it but stripped.
func (e *epoch) putLocked(key cluster.Key, obj metav1.Object) {
	n := name{Namespace: key.Namespace, Name: key.Name}
	if _, ok := e.bad[key]; ok {
		delete(e.bad, key)
		e.kube.doubt = true
	}
	switch key.Kind {
	case cluster.Namespace:
		if key.Name == kubeSystem && e.kube.client.namespace == "" && (obj == nil || string(obj.GetUID()) != e.uid) {
			e.replaceLocked("namespace " + kubeSystem + ", which cannot be deleted, is gone")
			return
		}
	case node:
		for s := range e.zones.putNode(key.Name, obj) {
			key := cluster.Key{Kind: cluster.EndpointSlice, Namespace: s.Namespace, Name: s.Name}
			e.setLocked(key, e.zones.fill(e.zones.lacking[s]))
		}
		return
	case cluster.EndpointSlice:
		s, _ := obj.(*discoveryv1.EndpointSlice) // nil when it is gone
		if s = e.zones.put(n, s); s == nil {
			obj = nil
		} else {
			obj = s
		}
	case cluster.Role, cluster.RoleBinding, cluster.ClusterRole, cluster.ClusterRoleBinding:
		obj = stripAccess(e.kube.client.reader, obj)
	default: // as it is
	}
	e.setLocked(key, obj)
}

// setLocked makes obj what will be handed out of key, with what it refers to.
func (e *epoch) setLocked(key cluster.Key, obj metav1.Object) {
	if !e.storeLocked(key, obj) {
		return
	}
	if key.Kind == cluster.Route || key.Kind == cluster.IngressController {
		e.referLocked(e.now, key, references(obj))
	}
	e.referIngressesLocked(key, obj)
	if e.adopted && !e.waitsLocked(key) {
		e.kube.signalLocked()
	}
}

// storeLocked makes obj what will be handed out of key, and tells whether it is another than before.
func (e *epoch) storeLocked(key cluster.Key, obj metav1.Object) bool {
	n := name{Namespace: key.Namespace, Name: key.Name}
	objects := e.objects[key.Kind]
	old := objects[n]
	if old == nil && obj == nil || old != nil && obj != nil && same(old, obj) {
		return false
	}
	if e.adopted {
		if _, ok := e.pending[key]; !ok {
			e.pending[key] = old
		}
	}
	if obj == nil {
		delete(objects, n)
	} else {
		objects[n] = obj
	}
	return true
}

// takeLocked returns what changed since the last time.
func (e *epoch) takeLocked() cluster.Batch {
	epoch := "kube:" + e.uid
	b := cluster.Batch{Observed: &tsujiv1.Observed{Epoch: epoch}, Reached: &tsujiv1.Observed{Epoch: epoch}}
	keys := make([]cluster.Key, 0, len(e.pending))
	for key := range e.pending {
		if !e.waitsLocked(key) {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		if key.Kind == cluster.Route || key.Kind == cluster.IngressController {
			e.referLocked(e.taken, key, e.now[key]) // which may end references, and so add to pending
		}
	}
	for _, key := range e.takeIngressesLocked() {
		b.Changes = append(b.Changes, cluster.Change{Key: key})
	}
	rest := map[cluster.Key]metav1.Object{} // a new one: clearing the old costs as much as it ever held
	for key, had := range e.pending {
		if e.waitsLocked(key) {
			rest[key] = had
			continue
		}
		obj := e.objects[key.Kind][name{Namespace: key.Namespace, Name: key.Name}]
		if obj == nil && had == nil || obj != nil && had != nil && same(had, obj) {
			continue
		}
		b.Changes = append(b.Changes, cluster.Change{Key: key, Object: obj})
	}
	e.pending = rest
	slices.SortFunc(b.Changes, func(x, y cluster.Change) int { return x.Key.Compare(y.Key) })
	kinds := append(cluster.Kinds(), node)
	slices.Sort(kinds)
	for _, kind := range kinds {
		b.Revision = max(b.Revision, e.handled[kind])
		b.Observed.Kinds = append(b.Observed.Kinds, &tsujiv1.ObservedKind{Kind: string(kind), Revision: e.handled[kind]})
		b.Reached.Kinds = append(b.Reached.Kinds, &tsujiv1.ObservedKind{Kind: string(kind), Revision: e.reached[kind]})
	}
	return b
}

// resolveLocked adopts the epoch if there is nothing more to wait for.
func (e *epoch) resolveLocked() {
	if e.adopted || e.ctx.Err() != nil {
		return
	}
	for _, f := range e.feeds {
		if !f.settled && !e.dispensableLocked(f) {
			return
		}
	}
	if e.read.IsZero() {
		e.read = e.kube.now()
	}
	if e.waiting > 0 {
		return
	}
	if e.dispensableLocked(e.routes) {
		e.kube.log.Info("this cluster has no API of Routes: only Ingresses are served", "source", e.kube.String())
	}
	e.kube.adoptLocked(e)
}

// dispensableLocked tells whether it is all the same that a feed has nothing to read: a cluster that has an
// IngressClass of ours need not have Routes. One that has neither has lost them, or is yet to get them.
func (e *epoch) dispensableLocked(f *feed) bool {
	return f.kind == cluster.Route && !f.settled && f.failure != nil && f.absent(f.failure) && e.ingresses.HaveClass()
}
