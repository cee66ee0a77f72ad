package kube

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

// perNamespace is how many objects are watched each by itself in one namespace, which costs 34 KB and four goroutines
// for each. It is far more than applications have, and what somebody may take who refers to whatever there might be.
const perNamespace = 2000

// A share is what one namespace has of the objects that are referred to, in their order. The first of them are watched.
// Which ones follows from the references alone, so that all replicas agree.
type share []cluster.Key

// join adds a reference's object to those of its namespace. The caller holds mu.
func (l *life) join(r *ref) {
	s := l.shares[r.key.Namespace]
	i, _ := slices.BinarySearchFunc(s, r.key, cluster.Key.Compare)
	s = slices.Insert(s, i, r.key)
	l.shares[r.key.Namespace] = s
	most := l.kube.perNamespace
	if len(s) == most+1 {
		l.kube.doubt = true
	}
	if i >= most {
		l.exclude(r)
		return
	}
	l.follow(r)
	if len(s) > most {
		l.exclude(l.refs[s[most]])
	}
}

// leave takes it away again, and gives its place to the next one. The caller holds mu.
func (l *life) leave(r *ref) {
	s := l.shares[r.key.Namespace]
	i, ok := slices.BinarySearchFunc(s, r.key, cluster.Key.Compare)
	if !ok {
		return
	}
	s = slices.Delete(s, i, i+1)
	most := l.kube.perNamespace
	switch {
	case len(s) == 0:
		delete(l.shares, r.key.Namespace)
	default:
		l.shares[r.key.Namespace] = s
	}
	l.unfollow(r)
	if len(s) == most {
		l.kube.doubt = true
	}
	if i < most && len(s) >= most {
		l.follow(l.refs[s[most-1]])
	}
}

// exclude ends the watching of an object that is beyond its namespace's share. The caller holds mu.
func (l *life) exclude(r *ref) {
	l.unfollow(r)
	why := fmt.Sprintf("namespace %s refers to more than %d objects, of which the first by name are read, and this is none of them", r.key.Namespace, l.kube.perNamespace)
	u := &cluster.Unread{ObjectMeta: metav1.ObjectMeta{Namespace: r.key.Namespace, Name: r.key.Name}, Why: why}
	if l.store(r.key, u) && l.adopted {
		l.kube.signal()
	}
	l.settleRef(r)
}

// crowded returns a fault for each namespace that refers to more than it may. The caller holds mu.
func (l *life) crowded() []cluster.Fault {
	var out []cluster.Fault
	for namespace, s := range l.shares {
		if len(s) > l.kube.perNamespace {
			out = append(out, cluster.Fault{
				Place:   cluster.Key{Kind: cluster.Namespace, Name: namespace}.String(),
				Message: fmt.Sprintf("its Routes and Ingresses refer to more than %d Secrets, of which the first by name are read; what refers to others goes without", l.kube.perNamespace),
				Remedy:  "have Routes share certificates, or divide them among namespaces",
			})
		}
	}
	return out
}
