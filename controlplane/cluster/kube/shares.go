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

// joinLocked adds a reference's object to those of its namespace.
func (e *epoch) joinLocked(r *ref) {
	s := e.shares[r.key.Namespace]
	i, _ := slices.BinarySearchFunc(s, r.key, cluster.Key.Compare)
	s = slices.Insert(s, i, r.key)
	e.shares[r.key.Namespace] = s
	most := e.kube.perNamespace
	if len(s) == most+1 {
		e.kube.doubt = true
	}
	if i >= most {
		e.excludeLocked(r)
		return
	}
	e.watchLocked(r)
	if len(s) > most {
		e.excludeLocked(e.refs[s[most]])
	}
}

// leaveLocked takes it away again, and gives its place to the next one.
func (e *epoch) leaveLocked(r *ref) {
	s := e.shares[r.key.Namespace]
	i, ok := slices.BinarySearchFunc(s, r.key, cluster.Key.Compare)
	if !ok {
		return
	}
	s = slices.Delete(s, i, i+1)
	most := e.kube.perNamespace
	switch {
	case len(s) == 0:
		delete(e.shares, r.key.Namespace)
	default:
		e.shares[r.key.Namespace] = s
	}
	e.unwatchLocked(r)
	if len(s) == most {
		e.kube.doubt = true
	}
	if i < most && len(s) >= most {
		e.watchLocked(e.refs[s[most-1]])
	}
}

// excludeLocked ends the watching of an object that is beyond its namespace's share.
func (e *epoch) excludeLocked(r *ref) {
	e.unwatchLocked(r)
	why := fmt.Sprintf("namespace %s refers to more than %d objects, of which the first by name are read, "+
		"and this is none of them", r.key.Namespace, e.kube.perNamespace)
	u := &cluster.Unread{ObjectMeta: metav1.ObjectMeta{Namespace: r.key.Namespace, Name: r.key.Name}, Why: why}
	if e.storeLocked(r.key, u) && e.adopted {
		e.kube.signalLocked()
	}
	e.resolveRefLocked(r)
}

// crowdedLocked returns a fault for each namespace that refers to more than it may.
func (e *epoch) crowdedLocked() []cluster.Fault {
	var out []cluster.Fault
	for namespace, s := range e.shares {
		if len(s) > e.kube.perNamespace {
			out = append(out, cluster.Fault{
				Place: cluster.Key{Kind: cluster.Namespace, Name: namespace}.String(),
				Message: fmt.Sprintf("its Routes and Ingresses refer to more than %d Secrets, of which the first by name "+
					"are read; what refers to others goes without", e.kube.perNamespace),
				Remedy: "have Routes share certificates, or divide them among namespaces",
			})
		}
	}
	return out
}
