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

// referIngresses says what those Ingresses refer to for which an object matters. The caller holds mu.
func (l *life) referIngresses(key cluster.Key, obj metav1.Object) {
	for _, n := range l.ingresses.Put(key, obj) {
		k := cluster.Key{Kind: cluster.Ingress, Namespace: n.Namespace, Name: n.Name}
		l.refer(l.now, k, ingressReferences(l.ingresses.Ours(n)))
		l.moved[k] = struct{}{}
	}
	if key.Kind == cluster.IngressClass {
		l.kube.doubt = true // whether Routes are missed
	}
}

// takeIngresses has the references of Ingresses as they are handed out be those that they are now. It returns those
// that are to be taken back: they were handed out while they were another's, and something else than themselves has
// made them ours, such as their class that came. They are handed out again with their Secrets; what has their hosts
// keeps them until then, and nobody else waits. The caller holds mu.
func (l *life) takeIngresses() (back []cluster.Key) {
	for key := range l.moved {
		n := name{Namespace: key.Namespace, Name: key.Name}
		_, served := l.served[key]
		switch {
		case !l.held(key):
			l.refer(l.taken, key, l.now[key])
			delete(l.moved, key)
			if l.ingresses.Ours(n) != nil {
				l.served[key] = struct{}{}
			} else {
				delete(l.served, key)
			}
		case !served:
			had, changed := l.pending[key]
			if !changed {
				had = l.objects[key.Kind][n]
			}
			if l.pending[key] = nil; had != nil {
				back = append(back, key)
			}
		}
	}
	return back
}

// refer says what the object of key refers to, in one of the life's two indices. The caller holds mu.
func (l *life) refer(index map[cluster.Key][]cluster.Key, key cluster.Key, to []cluster.Key) {
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
		l.acquire(k)
	}
	for _, k := range old {
		l.release(k)
	}
}

// acquire begins to watch an object, if it is not watched yet. The caller holds mu.
func (l *life) acquire(key cluster.Key) {
	if r := l.refs[key]; r != nil {
		r.users++
		return
	}
	r := &ref{key: key, users: 1, since: l.kube.now()}
	l.refs[key] = r
	l.waiting++
	l.join(r)
}

// follow begins to watch an object that is referred to. The caller holds mu.
func (l *life) follow(r *ref) {
	if l.ended {
		return
	}
	ctx, cancel := context.WithCancel(l.ctx)
	f := newFeed(l, r.key.Kind, r)
	r.cancel, r.feed = cancel, f
	l.work.Go(func() { f.run(ctx) })
}

// unfollow ends that. The caller holds mu.
func (l *life) unfollow(r *ref) {
	if r.feed == nil {
		return
	}
	r.cancel()
	if _, ok := l.failing[r.feed]; ok {
		delete(l.failing, r.feed)
		l.kube.doubt = true
	}
	r.cancel, r.feed = nil, nil
}

// release ends a reference to an object, and with the last one the object. The caller holds mu.
func (l *life) release(key cluster.Key) {
	r := l.refs[key]
	if r == nil {
		return
	}
	if r.users--; r.users > 0 {
		return
	}
	delete(l.refs, key)
	if !r.settled {
		l.waiting--
	}
	l.leave(r)
	l.put(key, nil)
}

// held tells whether the object of key must wait for those that it refers to. The caller holds mu.
func (l *life) held(key cluster.Key) bool {
	for _, k := range l.now[key] {
		if r := l.refs[k]; r != nil && !r.settled {
			return true
		}
	}
	return false
}

// unread says that what was never read cannot be now. The caller holds mu.
func (l *life) unread(key cluster.Key, why string) {
	switch l.objects[key.Kind][name{Namespace: key.Namespace, Name: key.Name}].(type) {
	case nil, *cluster.Unread:
		u := &cluster.Unread{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Why: why}
		if l.store(key, u) && l.adopted {
			l.kube.signal()
		}
	}
}

// settleRef says that nobody needs to wait for r any more. The caller holds mu.
func (l *life) settleRef(r *ref) {
	if r.settled {
		return
	}
	r.settled = true
	l.waiting--
	if l.adopted && len(l.pending) > 0 {
		l.kube.signal()
	}
	l.settle()
}

// giveUp ends the waiting for objects that have been waited for long enough. The caller holds mu.
func (l *life) giveUp() {
	if l.waiting == 0 || l.read.IsZero() {
		return
	}
	now := l.kube.now()
	for _, r := range l.refs {
		from := r.since
		if l.read.After(from) { // many at once take longer
			from = l.read
		}
		if !r.settled && now.Sub(from) > l.kube.timing.hold {
			l.unread(r.key, "the API server does not answer")
			l.settleRef(r)
		}
	}
}
