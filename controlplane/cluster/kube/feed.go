package kube

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/cluster/internal/malformed"
)

// A feed follows the objects of a kind, or one of them, and is the store of the reflector that does. A
// list, however it comes, arrives in the epoch as a whole.
type feed struct {
	epoch *epoch
	kind  cluster.Kind
	ref   *ref // the one object; nil: all of them

	namespace, selector string

	// Guarded by kube.mu.
	settled bool      // read, or it is known that there is nothing to read
	failure error     // of the last request; nil: it succeeded
	since   time.Time // when requests began to fail
	slot    bool      // one of kube.slots is taken
	good    time.Time // when the first request of this attempt succeeded; zero: none did
}

// What the reflector looks for in its store.
var (
	_ cache.ReflectorBookmarkStore = (*feed)(nil)
	_ cache.TransformingStore      = (*feed)(nil)
)

func newFeed(e *epoch, kind cluster.Kind, r *ref) *feed {
	f := &feed{epoch: e, kind: kind, ref: r}
	f.namespace, f.selector = e.kube.client.scope(kind)
	if r != nil {
		f.namespace, f.selector = r.key.Namespace, fields.OneTermEqualSelector(byName, r.key.Name).String()
	}
	return f
}

// healthy is how long a feed must last not to be one that fails again and again.
const healthy = 10 * time.Second

// run follows the objects until ctx ends.
func (f *feed) run(ctx context.Context) {
	t := f.timing()
	res := f.epoch.kube.client.resources[f.kind]
	lw := &cache.ListWatch{ListWithContextFunc: f.list, WatchFuncWithContext: f.watch}
	r := cache.NewReflectorWithOptions(lw, res.example, f, cache.ReflectorOptions{
		Name: string(f.kind), TypeDescription: res.api,
		Backoff: &wait.Backoff{Duration: t.retry, Factor: 2, Jitter: 0.5, Steps: 16, Cap: t.retryMax},
	})
	for n := 0; ctx.Err() == nil; n++ {
		if !f.start(ctx) {
			return
		}
		err := r.ListAndWatchWithContext(ctx)
		if f.free() {
			n = 0
		}
		if !sleep(ctx, f.pause(n, err)) {
			return
		}
	}
}

// start waits for its turn to begin, if there may be many.
func (f *feed) start(ctx context.Context) bool {
	f.epoch.kube.mu.Lock()
	waits := f.ref != nil && !f.settled
	f.epoch.kube.mu.Unlock()
	if !waits {
		return true
	}
	if f.epoch.kube.starts.wait(ctx, f.ref.key.Namespace) != nil {
		return false
	}
	f.epoch.kube.mu.Lock()
	f.slot = true
	f.epoch.kube.mu.Unlock()
	return true
}

// free ends an attempt: it lets another begin. It tells whether requests had succeeded for a while.
func (f *feed) free() (lasted bool) {
	f.epoch.kube.mu.Lock()
	defer f.epoch.kube.mu.Unlock()
	f.freeSlotLocked()
	lasted = !f.good.IsZero() && time.Since(f.good) > healthy
	f.good = time.Time{}
	return lasted
}

// freeSlotLocked lets another begin.
func (f *feed) freeSlotLocked() {
	if f.slot {
		f.slot = false
		<-f.epoch.kube.slots
	}
}

// turn waits for the turn of a request, if there may be many.
func (f *feed) turn(ctx context.Context) error {
	if f.ref == nil {
		return nil
	}
	return f.epoch.kube.requests.wait(ctx, f.ref.key.Namespace)
}

// pause is how long to wait after the nth failure in a row, which err was; nil: the watch ended.
func (f *feed) pause(n int, err error) time.Duration {
	t := f.timing()
	switch {
	case f.ref != nil && apierrors.IsForbidden(err):
		t.retry, t.retryMax = t.forbidden, t.forbiddenMax
	case f.absent(err) && f.epoch.kube.client.resources[f.kind].optional:
		return jitter(t.absent)
	}
	return t.backoff(n)
}

// timing is how long the feed waits for what.
func (f *feed) timing() timing {
	t := f.epoch.kube.timing
	if f.ref != nil {
		t.retryMax = t.retryOne
	}
	return t
}

// backoff is how long to wait after the nth failure in a row.
func (t timing) backoff(n int) time.Duration {
	return jitter(min(t.retry<<min(n, 16), t.retryMax))
}

func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1) //nolint:gosec // no secret
}

// sleep tells whether ctx had not ended by then.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// list lists, for the reflector.
func (f *feed) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	o.FieldSelector = f.selector
	if err := f.turn(ctx); err != nil {
		return nil, err
	}
	obj, err := f.epoch.kube.client.resources[f.kind].list(ctx, f.namespace, o)
	if err == nil {
		err = f.verify(ctx)
	} else {
		f.note(err)
	}
	if err != nil {
		return nil, err //nolint:wrapcheck // the reflector looks at it
	}
	return obj, nil
}

// watch watches, for the reflector.
func (f *feed) watch(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
	o.FieldSelector = f.selector
	if err := f.turn(ctx); err != nil {
		return nil, err
	}
	w, err := f.epoch.kube.client.resources[f.kind].watch(ctx, f.namespace, o)
	if err == nil {
		if err = f.verify(ctx); err != nil {
			w.Stop()
		}
	} else {
		f.note(err)
	}
	if err != nil && o.SendInitialEvents != nil && !expired(err) {
		return nil, plain{err} // or else the reflector would wait by itself, whatever ctx says
	}
	return w, err
}

// verify is the epoch's, after a request that succeeded.
func (f *feed) verify(ctx context.Context) error {
	err := f.epoch.verify(ctx)
	if err != nil {
		f.epoch.system.note(err)
		return err
	}
	f.note(nil)
	return nil
}

// plain is an error in which no cause can be found.
type plain struct{ cause error }

func (p plain) Error() string { return p.cause.Error() }

// expired tells whether an error says that the revision asked for is not to be had: ask without.
func expired(err error) bool {
	return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) ||
		apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge)
}

// absent tells whether an error says that there is no such API.
func (f *feed) absent(err error) bool { return apierrors.IsNotFound(err) }

// note takes notice of what came of a request.
func (f *feed) note(err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, errReplaced) || expired(err) {
		return
	}
	e := f.epoch
	e.kube.mu.Lock()
	defer e.kube.mu.Unlock()
	if f.goneLocked() {
		return
	}
	before := f.failure
	f.failure = err
	if err == nil {
		if f.good.IsZero() {
			f.good = time.Now()
		}
		if before != nil {
			delete(e.failing, f)
			e.kube.doubt = true
		}
		return
	}
	if before == nil {
		f.since = e.kube.now()
		e.failing[f] = struct{}{}
	}
	res := e.kube.client.resources[f.kind]
	switch {
	case apierrors.IsForbidden(err) && f.ref != nil:
		e.unreadLocked(f.ref.key, "the control plane is not allowed to")
		f.resolveLocked()
	case f.absent(err) && res.optional, apierrors.IsForbidden(err) && f.kind == node:
		f.resolveLocked()
	case e.dispensableLocked(f):
		e.resolveLocked()
	}
	e.kube.doubt = true
}

// goneLocked tells whether nobody cares for the feed any more.
func (f *feed) goneLocked() bool {
	return f.epoch.ctx.Err() != nil || f.ref != nil && (f.epoch.refs[f.ref.key] != f.ref || f.ref.feed != f)
}

// resolveLocked says that the feed was read, or need not be waited for.
func (f *feed) resolveLocked() {
	f.settled = true
	if f.ref != nil {
		f.epoch.resolveRefLocked(f.ref)
		return
	}
	f.epoch.resolveLocked()
}

// Transformer implements [cache.TransformingStore].
func (f *feed) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		if o, _ := read(obj); o != nil {
			strip(o)
		}
		return obj, nil
	}
}

// read returns the object that a reflector came with, nil if there is none, and what is wrong with it.
func read(obj any) (metav1.Object, *malformed.Mistake) {
	if l, ok := obj.(interface {
		read() (metav1.Object, *malformed.Mistake)
	}); ok {
		return l.read()
	}
	o, err := meta.Accessor(obj)
	if err != nil {
		return nil, nil
	}
	return o, nil
}

// putLocked takes an object as it is now.
func (f *feed) putLocked(obj any) error {
	o, p := read(obj)
	if o == nil {
		return fmt.Errorf("%T is no object", obj)
	}
	key := f.key(o)
	f.handleLocked(o.GetResourceVersion())
	if p == nil {
		strip(o)
		if t, ok := o.(runtime.Object); ok { // a list's items say their kind, and what a watch sends does not
			t.GetObjectKind().SetGroupVersionKind(f.kind.GroupVersionKind())
		}
		if z, ok := o.(*cluster.Zone); ok {
			if err := z.Validate(); err != nil {
				p = &malformed.Mistake{
					Message: err.Error(),
					Remedy:  "correct it, and install the schema of Zones, which would not have let it in",
				}
			}
		}
	}
	if p != nil {
		what := "is left out"
		if f.epoch.objects[key.Kind][name{Namespace: key.Namespace, Name: key.Name}] != nil {
			what = "stays as it was"
		}
		f.epoch.bad[key] = cluster.Fault{
			Place: key.String(), Message: p.Message + "; the " + string(key.Kind) + " " + what, Remedy: p.Remedy,
		}
		f.epoch.kube.doubt = true
		return nil
	}
	f.epoch.putLocked(key, o)
	return nil
}

func (f *feed) key(o metav1.Object) cluster.Key {
	return cluster.Key{Kind: f.kind, Namespace: o.GetNamespace(), Name: o.GetName()}
}

// handleLocked takes notice of a revision that an object had.
func (f *feed) handleLocked(revision string) {
	e, n := f.epoch, parseRevision(revision)
	e.handled[f.kind] = max(e.handled[f.kind], n)
	e.reached[f.kind] = max(e.reached[f.kind], n)
}

// Add implements [cache.ReflectorStore].
func (f *feed) Add(obj any) error {
	f.epoch.kube.mu.Lock()
	defer f.epoch.kube.mu.Unlock()
	if f.goneLocked() {
		return nil
	}
	return f.putLocked(obj)
}

// Update implements [cache.ReflectorStore].
func (f *feed) Update(obj any) error { return f.Add(obj) }

// Delete implements [cache.ReflectorStore].
func (f *feed) Delete(obj any) error {
	f.epoch.kube.mu.Lock()
	defer f.epoch.kube.mu.Unlock()
	o, _ := read(obj)
	if o == nil || f.goneLocked() {
		return nil
	}
	f.handleLocked(o.GetResourceVersion())
	f.epoch.putLocked(f.key(o), nil)
	return nil
}

// Replace implements [cache.ReflectorStore]: these are all objects there are.
func (f *feed) Replace(list []any, revision string) error {
	e := f.epoch
	e.kube.mu.Lock()
	defer e.kube.mu.Unlock()
	if f.goneLocked() {
		return nil
	}
	are := make(map[cluster.Key]struct{}, len(list))
	for _, obj := range list {
		if o, _ := read(obj); o != nil {
			are[f.key(o)] = struct{}{}
		}
	}
	for _, key := range f.haveLocked() {
		if _, ok := are[key]; !ok {
			f.epoch.putLocked(key, nil)
		}
	}
	for _, obj := range list {
		if err := f.putLocked(obj); err != nil {
			return err
		}
	}
	e.reached[f.kind] = max(e.reached[f.kind], parseRevision(revision))
	f.freeSlotLocked()
	if !f.settled {
		f.resolveLocked()
	}
	return nil
}

// haveLocked returns the keys of the objects that are the feed's.
func (f *feed) haveLocked() []cluster.Key {
	if f.ref != nil {
		return []cluster.Key{f.ref.key}
	}
	var out []cluster.Key
	if f.kind == node {
		for n := range f.epoch.zones.ofNode {
			out = append(out, cluster.Key{Kind: node, Name: n})
		}
	}
	for n := range f.epoch.objects[f.kind] {
		out = append(out, cluster.Key{Kind: f.kind, Namespace: n.Namespace, Name: n.Name})
	}
	for key := range f.epoch.bad {
		if key.Kind == f.kind {
			out = append(out, key)
		}
	}
	return out
}

// Bookmark implements [cache.ReflectorBookmarkStore].
func (f *feed) Bookmark(revision string) error {
	f.epoch.kube.mu.Lock()
	defer f.epoch.kube.mu.Unlock()
	f.epoch.reached[f.kind] = max(f.epoch.reached[f.kind], parseRevision(revision))
	return nil
}

// Resync implements [cache.ReflectorStore]: nothing asks for it.
func (f *feed) Resync() error { return nil }
