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

// A life is what was read of a cluster while its storage was the same. When that is replaced, a new life
// reads everything anew, and is adopted when it has.
type life struct {
	kube   *Source
	ctx    context.Context //nolint:containedctx // of the goroutines that callbacks start; ends with run
	cancel context.CancelFunc
	epoch  string // uid of namespace kube-system

	probing  chan struct{} // held by who asks for the storage; guards verified
	verified time.Time     // when it was last asked for, and was the same

	work sync.WaitGroup // every goroutine of the life; joined under mu, while not ended

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
	pending   map[cluster.Key]metav1.Object // what was handed out of the objects that are not as they were then; nil: nothing
	now       map[cluster.Key][]cluster.Key // what Routes, Ingresses and IngressControllers refer to
	taken     map[cluster.Key][]cluster.Key // the same, as they were handed out
}

func newLife(k *Source) *life {
	l := &life{
		kube: k, probing: make(chan struct{}, 1),
		refs: map[cluster.Key]*ref{}, shares: map[string]share{}, objects: map[cluster.Kind]map[name]metav1.Object{}, zones: newZones(), ingresses: cluster.NewIngresses(), moved: map[cluster.Key]struct{}{}, served: map[cluster.Key]struct{}{}, bad: map[cluster.Key]cluster.Fault{}, failing: map[*feed]struct{}{},
		handled: map[cluster.Kind]uint64{}, reached: map[cluster.Kind]uint64{},
		pending: map[cluster.Key]metav1.Object{}, now: map[cluster.Key][]cluster.Key{}, taken: map[cluster.Key][]cluster.Key{},
	}
	l.system = newFeed(l, cluster.Namespace, nil)
	l.feeds = []*feed{l.system}
	for _, kind := range []cluster.Kind{cluster.Route, cluster.Ingress, cluster.IngressClass, cluster.Service, cluster.EndpointSlice, cluster.IngressController, cluster.ZoneKind, node} {
		f := newFeed(l, kind, nil)
		if kind == cluster.Route {
			l.routes = f
		}
		l.feeds = append(l.feeds, f)
	}
	if k.client.reader != (cluster.Reader{}) {
		for _, kind := range []cluster.Kind{cluster.ClusterRole, cluster.ClusterRoleBinding, cluster.Role, cluster.RoleBinding} {
			l.feeds = append(l.feeds, newFeed(l, kind, nil))
		}
	}
	for _, kind := range cluster.Kinds() {
		l.objects[kind] = map[name]metav1.Object{}
	}
	return l
}

// run follows the cluster until its storage is replaced or ctx ends.
func (l *life) run(ctx context.Context) {
	k := l.kube
	l.ctx, l.cancel = context.WithCancel(ctx)
	k.mu.Lock()
	k.reading, l.began = l, k.now()
	k.mu.Unlock()
	if l.begin() {
		k.mu.Lock()
		for _, f := range l.feeds {
			l.work.Go(func() { f.run(l.ctx) })
		}
		k.mu.Unlock()
		k.log.Debug("reading the cluster", "source", k.String(), "server", k.client.host, "epoch", l.epoch)
		<-l.ctx.Done()
	}
	l.cancel()
	k.mu.Lock()
	l.ended = true
	k.mu.Unlock()
	l.work.Wait()
}

// begin learns which storage it is.
func (l *life) begin() bool {
	for n := 0; ; n++ {
		uid, revision, err := l.kube.client.storage(l.ctx)
		if l.ctx.Err() != nil {
			return false
		}
		if err == nil {
			l.epoch, l.verified = uid, time.Now()
			l.kube.log.Debug("the cluster's storage", "epoch", uid, "revision", revision)
			return true
		}
		l.system.note(err)
		if !sleep(l.ctx, l.kube.timing.backoff(n)) {
			return false
		}
	}
}

// errReplaced says that what is asked is not the storage that it was.
var errReplaced = errors.New("the cluster's storage is another")

// verify returns nil if the API server has the storage that the life is about. It is called with a watch
// that was just established: watching other storage from a revision that it has not reached yet is no
// error to the API server, and would lose what happens until then.
func (l *life) verify(ctx context.Context) error {
	now := time.Now()
	select {
	case l.probing <- struct{}{}:
		defer func() { <-l.probing }()
	case <-ctx.Done():
		return fmt.Errorf("wait for a look at the storage: %w", ctx.Err())
	}
	if now.Sub(l.verified) < time.Second { // no API server is back with other storage in less
		return nil
	}
	before := l.revision()
	uid, revision, err := l.kube.client.storage(ctx)
	if err != nil {
		return err
	}
	l.kube.mu.Lock()
	defer l.kube.mu.Unlock()
	switch {
	case uid != l.epoch:
		l.replace("it is another cluster's: namespace " + kubeSystem + " is not the one that it was")
		return errReplaced
	case revision < before && l.adopted: // if not, some kind is in storage of its own
		l.replace(fmt.Sprintf("it was restored to an earlier state: its revision is %d, and had been %d", revision, before))
		return errReplaced
	}
	l.verified = now
	return nil
}

// revision is the highest that is known of the storage.
func (l *life) revision() uint64 {
	l.kube.mu.Lock()
	defer l.kube.mu.Unlock()
	var out uint64
	for kind, n := range l.reached {
		if l.kube.client.resources[kind].core {
			out = max(out, n)
		}
	}
	return out
}

// replace ends the life, for another to begin. The caller holds mu.
func (l *life) replace(why string) {
	k := l.kube
	if l.ctx.Err() != nil {
		return
	}
	k.replaced = &cluster.Fault{
		Place: apiServer,
		Message: fmt.Sprintf("the cluster's storage was replaced, as was found at %s: %s; before all of it is read, what was read before stays in force",
			k.now().UTC().Format(time.RFC3339), why),
		Remedy: "if it was not meant to be, restore it; what is missing in it ceases to be served",
	}
	k.replacedUntil = time.Time{}
	k.judge()
	l.cancel()
}

// put takes what an object is now, nil if it is gone, as the API has it but stripped. The caller holds mu.
func (l *life) put(key cluster.Key, obj metav1.Object) {
	n := name{Namespace: key.Namespace, Name: key.Name}
	if _, ok := l.bad[key]; ok {
		delete(l.bad, key)
		l.kube.doubt = true
	}
	switch key.Kind {
	case cluster.Namespace:
		if key.Name == kubeSystem && l.kube.client.namespace == "" && (obj == nil || string(obj.GetUID()) != l.epoch) {
			l.replace("namespace " + kubeSystem + ", which cannot be deleted, is gone")
			return
		}
	case node:
		for s := range l.zones.putNode(key.Name, obj) {
			l.set(cluster.Key{Kind: cluster.EndpointSlice, Namespace: s.Namespace, Name: s.Name}, l.zones.fill(l.zones.lacking[s]))
		}
		return
	case cluster.EndpointSlice:
		s, _ := obj.(*discoveryv1.EndpointSlice) // nil when it is gone
		if s = l.zones.put(n, s); s == nil {
			obj = nil
		} else {
			obj = s
		}
	case cluster.Role, cluster.RoleBinding, cluster.ClusterRole, cluster.ClusterRoleBinding:
		obj = stripAccess(l.kube.client.reader, obj)
	default: // as it is
	}
	l.set(key, obj)
}

// set makes obj what will be handed out of key, with what it refers to. The caller holds mu.
func (l *life) set(key cluster.Key, obj metav1.Object) {
	if !l.store(key, obj) {
		return
	}
	if key.Kind == cluster.Route || key.Kind == cluster.IngressController {
		l.refer(l.now, key, references(obj))
	}
	l.referIngresses(key, obj)
	if l.adopted && !l.held(key) {
		l.kube.signal()
	}
}

// store makes obj what will be handed out of key, and tells whether it is another than before. The caller holds mu.
func (l *life) store(key cluster.Key, obj metav1.Object) bool {
	n := name{Namespace: key.Namespace, Name: key.Name}
	objects := l.objects[key.Kind]
	old := objects[n]
	if old == nil && obj == nil || old != nil && obj != nil && same(old, obj) {
		return false
	}
	if l.adopted {
		if _, ok := l.pending[key]; !ok {
			l.pending[key] = old
		}
	}
	if obj == nil {
		delete(objects, n)
	} else {
		objects[n] = obj
	}
	return true
}

// take returns what changed since the last time. The caller holds mu.
func (l *life) take() cluster.Batch {
	epoch := "kube:" + l.epoch
	b := cluster.Batch{Observed: &tsujiv1.Observed{Epoch: epoch}, Reached: &tsujiv1.Observed{Epoch: epoch}}
	keys := make([]cluster.Key, 0, len(l.pending))
	for key := range l.pending {
		if !l.held(key) {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		if key.Kind == cluster.Route || key.Kind == cluster.IngressController {
			l.refer(l.taken, key, l.now[key]) // which may end references, and so add to pending
		}
	}
	for _, key := range l.takeIngresses() {
		b.Changes = append(b.Changes, cluster.Change{Key: key})
	}
	rest := map[cluster.Key]metav1.Object{} // a new one: clearing the old costs as much as it ever held
	for key, had := range l.pending {
		if l.held(key) {
			rest[key] = had
			continue
		}
		obj := l.objects[key.Kind][name{Namespace: key.Namespace, Name: key.Name}]
		if obj == nil && had == nil || obj != nil && had != nil && same(had, obj) {
			continue
		}
		b.Changes = append(b.Changes, cluster.Change{Key: key, Object: obj})
	}
	l.pending = rest
	slices.SortFunc(b.Changes, func(x, y cluster.Change) int { return x.Key.Compare(y.Key) })
	kinds := append(cluster.Kinds(), node)
	slices.Sort(kinds)
	for _, kind := range kinds {
		b.Revision = max(b.Revision, l.handled[kind])
		b.Observed.Kinds = append(b.Observed.Kinds, &tsujiv1.ObservedKind{Kind: string(kind), Revision: l.handled[kind]})
		b.Reached.Kinds = append(b.Reached.Kinds, &tsujiv1.ObservedKind{Kind: string(kind), Revision: l.reached[kind]})
	}
	return b
}

// settle adopts the life if there is nothing more to wait for. The caller holds mu.
func (l *life) settle() {
	if l.adopted || l.ctx.Err() != nil {
		return
	}
	for _, f := range l.feeds {
		if !f.settled && !l.dispensable(f) {
			return
		}
	}
	if l.read.IsZero() {
		l.read = l.kube.now()
	}
	if l.waiting > 0 {
		return
	}
	if l.dispensable(l.routes) {
		l.kube.log.Info("this cluster has no API of Routes: only Ingresses are served", "source", l.kube.String())
	}
	l.kube.adopt(l)
}

// dispensable tells whether it is all the same that a feed has nothing to read: a cluster that has an
// IngressClass of ours need not have Routes. One that has neither has lost them, or is yet to get them. The
// caller holds mu.
func (l *life) dispensable(f *feed) bool {
	return f.kind == cluster.Route && !f.settled && f.failure != nil && f.absent(f.failure) && l.ingresses.HaveClass()
}
