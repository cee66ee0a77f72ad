package kube

import (
	"context"
	"slices"
	"time"

	operatorv1 "github.com/openshift/api/operator/v1"
	routev1 "github.com/openshift/api/route/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

// Where OpenShift's IngressControllers look for what they name: the operator's documentation.
const (
	configNamespace = "openshift-config" // of spec.httpErrorCodePages and spec.clientTLS.clientCA
	ingressConfig   = "cluster"          // in no namespace
)

// A ref is an object that others refer to, and that is watched by itself for as long as they do. Its
// fields are guarded by kube.mu.
type ref struct {
	key     cluster.Key
	users   int // references to it, of objects as they are and as they were handed out
	since   time.Time
	settled bool // it was read, or cannot be; or it took too long, and nobody waits any more
	cancel  context.CancelFunc
	feed    *feed // nil: it is not watched, being beyond its namespace's share
}

// references returns what an object refers to; nil: nothing.
func references(obj metav1.Object) []cluster.Key {
	var out []cluster.Key
	add := func(kind cluster.Kind, namespace, name string) { out = appendKey(out, kind, namespace, name) }
	switch o := obj.(type) {
	case *routev1.Route:
		t := o.Spec.TLS
		if t != nil && t.ExternalCertificate != nil {
			add(cluster.Secret, o.Namespace, t.ExternalCertificate.Name)
		}
		if t != nil && t.Termination == routev1.TLSTerminationReencrypt && t.DestinationCACertificate == "" {
			add(cluster.ConfigMap, cluster.CertificateNamespace, cluster.ServiceCA) // what its endpoints are verified against
		}
	case *operatorv1.IngressController:
		if c := o.Spec.DefaultCertificate; c != nil {
			add(cluster.Secret, cluster.CertificateNamespace, c.Name)
		}
		add(cluster.ConfigMap, configNamespace, o.Spec.HttpErrorCodePages.Name)
		add(cluster.ConfigMap, configNamespace, o.Spec.ClientTLS.ClientCA.Name)
		add(cluster.IngressConfig, "", ingressConfig) // which HSTS headers are required
	}
	return out
}

// ingressReferences returns what an Ingress refers to; nil: nothing.
func ingressReferences(i *networkingv1.Ingress) []cluster.Key {
	if i == nil {
		return nil
	}
	var out []cluster.Key
	termination := i.Annotations[cluster.TerminationAnnotation]
	if termination != string(routev1.TLSTerminationPassthrough) {
		for _, t := range i.Spec.TLS {
			out = appendKey(out, cluster.Secret, i.Namespace, t.SecretName)
		}
	}
	if termination == string(routev1.TLSTerminationReencrypt) {
		out = appendKey(out, cluster.Secret, i.Namespace, i.Annotations[cluster.DestinationCAAnnotation])
	}
	slices.SortFunc(out, cluster.Key.Compare)
	return slices.Compact(out)
}

// appendKey appends a key, if the name is one that an object may have.
func appendKey(keys []cluster.Key, kind cluster.Kind, namespace, name string) []cluster.Key {
	if name == "" || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return keys
	}
	return append(keys, cluster.Key{Kind: kind, Namespace: namespace, Name: name})
}

// referIngressesLocked says what those Ingresses refer to for which an object matters.
func (e *epoch) referIngressesLocked(key cluster.Key, obj metav1.Object) {
	for _, n := range e.ingresses.Put(key, obj) {
		k := cluster.Key{Kind: cluster.Ingress, Namespace: n.Namespace, Name: n.Name}
		e.referLocked(e.now, k, ingressReferences(e.ingresses.Ours(n)))
		e.moved[k] = struct{}{}
	}
	if key.Kind == cluster.IngressClass {
		e.kube.doubt = true // whether Routes are missed
	}
}

// takeIngressesLocked has the references of Ingresses as they are handed out be those that they are now. It returns
// those that are to be taken back: they were handed out while they were another's, and something else than themselves
// has made them ours, such as their class that came. They are handed out again with their Secrets; what has their hosts
// keeps them until then, and nobody else waits.
func (e *epoch) takeIngressesLocked() (back []cluster.Key) {
	for key := range e.moved {
		n := name{Namespace: key.Namespace, Name: key.Name}
		_, served := e.served[key]
		switch {
		case !e.waitsLocked(key):
			e.referLocked(e.taken, key, e.now[key])
			delete(e.moved, key)
			if e.ingresses.Ours(n) != nil {
				e.served[key] = struct{}{}
			} else {
				delete(e.served, key)
			}
		case !served:
			had, changed := e.pending[key]
			if !changed {
				had = e.objects[key.Kind][n]
			}
			if e.pending[key] = nil; had != nil {
				back = append(back, key)
			}
		}
	}
	return back
}

// referLocked says what the object of key refers to, in one of the epoch's two indices.
func (e *epoch) referLocked(index map[cluster.Key][]cluster.Key, key cluster.Key, to []cluster.Key) {
	old := index[key]
	if slices.Equal(old, to) {
		return
	}
	if len(to) == 0 {
		delete(index, key)
	} else {
		index[key] = to
	}
	for _, k := range to {
		e.acquireLocked(k)
	}
	for _, k := range old {
		e.releaseLocked(k)
	}
}

// acquireLocked begins to watch an object, if it is not watched yet.
func (e *epoch) acquireLocked(key cluster.Key) {
	if r := e.refs[key]; r != nil {
		r.users++
		return
	}
	r := &ref{key: key, users: 1, since: e.kube.now()}
	e.refs[key] = r
	e.waiting++
	e.joinLocked(r)
}

// watchLocked begins to watch an object that is referred to.
func (e *epoch) watchLocked(r *ref) {
	if e.ended {
		return
	}
	ctx, cancel := context.WithCancel(e.ctx)
	f := newFeed(e, r.key.Kind, r)
	r.cancel, r.feed = cancel, f
	e.work.Go(func() { f.run(ctx) })
}

// unwatchLocked ends that.
func (e *epoch) unwatchLocked(r *ref) {
	if r.feed == nil {
		return
	}
	r.cancel()
	if _, ok := e.failing[r.feed]; ok {
		delete(e.failing, r.feed)
		e.kube.doubt = true
	}
	r.cancel, r.feed = nil, nil
}

// releaseLocked ends a reference to an object, and with the last one the object.
func (e *epoch) releaseLocked(key cluster.Key) {
	r := e.refs[key]
	if r == nil {
		return
	}
	if r.users--; r.users > 0 {
		return
	}
	delete(e.refs, key)
	if !r.settled {
		e.waiting--
	}
	e.leaveLocked(r)
	e.putLocked(key, nil)
}

// waitsLocked tells whether the object of key must wait for those that it refers to.
func (e *epoch) waitsLocked(key cluster.Key) bool {
	for _, k := range e.now[key] {
		if r := e.refs[k]; r != nil && !r.settled {
			return true
		}
	}
	return false
}

// unreadLocked says that what was never read cannot be now.
func (e *epoch) unreadLocked(key cluster.Key, why string) {
	switch e.objects[key.Kind][name{Namespace: key.Namespace, Name: key.Name}].(type) {
	case nil, *cluster.Unread:
		u := &cluster.Unread{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Why: why}
		if e.storeLocked(key, u) && e.adopted {
			e.kube.signalLocked()
		}
	}
}

// resolveRefLocked says that nobody needs to wait for r any more.
func (e *epoch) resolveRefLocked(r *ref) {
	if r.settled {
		return
	}
	r.settled = true
	e.waiting--
	if e.adopted && len(e.pending) > 0 {
		e.kube.signalLocked()
	}
	e.resolveLocked()
}

// giveUpLocked ends the waiting for objects that have been waited for long enough.
func (e *epoch) giveUpLocked() {
	if e.waiting == 0 || e.read.IsZero() {
		return
	}
	now := e.kube.now()
	for _, r := range e.refs {
		from := r.since
		if e.read.After(from) { // many at once take longer
			from = e.read
		}
		if !r.settled && now.Sub(from) > e.kube.timing.hold {
			e.unreadLocked(r.key, "the API server does not answer")
			e.resolveRefLocked(r)
		}
	}
}
