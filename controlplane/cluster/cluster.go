// Package cluster is the vocabulary in which sources of Kubernetes objects speak: which kinds there are, a change of
// one object, a batch of changes, what a person must mend, and the [Source] that hands them out.
//
// The sources are packages of their own: kube follows an API server, manifests a directory, and serviceca puts a file
// over another source. What a source and package compile must agree on is here too, so that neither reads what the
// other does not count: whose Ingresses are served ([Ingresses]), whose rights to Secrets matter ([Reader]), and an API
// server's defaults ([SetDefaults]).
//
// A source guarantees that it is coherent: what Take returns, applied on top of everything it returned before, is the
// source's content at one moment, each key at most once. Nothing is called synced before the source was read whole.
// Objects that were handed out are never modified afterwards, and have an API server's defaults. A wrong object is a
// [Fault] and harms nobody else: what was last good of it, and everything beside it, stays in force. The values in a
// Secret, or a Route's private key, never appear in a fault or a log.
//
// Do not assume that every state of the source is seen: changes coalesce by key until they are taken.
// Do not assume that objects refer to what exists: a Namespace, Service or Secret may come later or
// never. Objects are defaulted, not judged: that is the work of package compile.
package cluster

import (
	"cmp"
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// Key names an object. Namespace is empty for what is in none.
type Key struct {
	Kind            Kind
	Namespace, Name string
}

// String returns "Route namespace/name", or "Zone name" for what has no namespace.
func (k Key) String() string {
	if k.Namespace == "" {
		return fmt.Sprintf("%s %s", k.Kind, k.Name)
	}
	return fmt.Sprintf("%s %s/%s", k.Kind, k.Namespace, k.Name)
}

// Compare orders keys by kind, namespace and name.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Kind, o.Kind), cmp.Compare(k.Namespace, o.Namespace), cmp.Compare(k.Name, o.Name))
}

// Change is an object that is new or different, or is gone.
type Change struct {
	// Key names the object.
	Key Key
	// Object is what it is now, of the type that its kind says, or [Unread]; nil: it is gone. Never modify it.
	Object metav1.Object
}

// Unread stands for an object that others refer to, and that was never read: it may be there or not. A Secret, a
// ConfigMap or an IngressConfig.
type Unread struct {
	metav1.ObjectMeta

	// Why it cannot be read: for its owner, so without addresses or anything that is another each time.
	Why string
}

// Batch is what is new since the last one.
type Batch struct {
	// Changes has one change for each key that changed since the last Take, sorted by key.
	Changes []Change
	// Faults are all that there are now, sorted by place and line.
	Faults []Fault
	// Observed tells how far the source was followed: for each kind, the highest revision that an object
	// had, or at which one was deleted, as far as that was seen. Nil before the first whole read of a
	// cluster.
	Observed *tsujiv1.Observed
	// Reached tells the same, and more where that is known: nothing happened to a kind between the
	// revision that Observed has and this one. Another who followed the same source is ahead if its
	// Observed is above this: of what was deleted before a source was read first, Observed knows nothing.
	Reached *tsujiv1.Observed
	// Revision is the highest resourceVersion handled, or for a directory the time of the read in
	// milliseconds since 1970, which grows with every change. It does not fall, but when a cluster's
	// storage is another. Zero before the first whole read.
	Revision uint64
}

// Source is where objects come from. Its methods may be called from any goroutine; Take by one only.
type Source interface {
	// Run follows the source until ctx ends, and then returns nil. It may be called once.
	Run(ctx context.Context) error
	// Changed returns a channel that is closed when Take has something new: changes, or other faults.
	// After each Take there is a new channel to ask for.
	Changed() <-chan struct{}
	// Take returns what is new. Until synced there are no changes, faults at the most; once synced is
	// true it stays so.
	Take() (b Batch, synced bool)
	// String names the source: "dir:examples/demo".
	String() string
}
