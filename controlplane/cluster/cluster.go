// Package cluster follows a source of Kubernetes objects, telling which of them changed.
//
// It guarantees that a source is coherent: what Take returns, applied on top of everything it returned
// before, is the source's content at one moment, each key at most once. Nothing is called synced before
// the source was read whole. Objects that were handed out are never modified afterwards, and carry the
// defaults that an API server would have filled in. A wrong object is a [Fault] and harms nobody else:
// what was last good of it, and everything beside it, stays in force. The values in a Secret, or a
// Route's private key, never appear in a fault or a log.
//
// Do not assume that every state of the source is seen: changes coalesce by key until they are taken.
// Do not assume that objects refer to what exists: a Namespace, Service or Secret may come later or
// never. Objects are defaulted, not judged: that is the work of package compile.
package cluster

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// Kind is a kind of object that a source follows, as Kubernetes names it.
type Kind string

// The kinds, and what a [Change] holds for each.
const (
	Route             Kind = "Route"             // *routev1.Route (route.openshift.io/v1)
	Service           Kind = "Service"           // *corev1.Service
	EndpointSlice     Kind = "EndpointSlice"     // *discoveryv1.EndpointSlice
	Secret            Kind = "Secret"            // *corev1.Secret, stringData merged into data
	ConfigMap         Kind = "ConfigMap"         // *corev1.ConfigMap
	Namespace         Kind = "Namespace"         // *corev1.Namespace
	IngressController Kind = "IngressController" // *operatorv1.IngressController
	Ingress           Kind = "Ingress"           // *networkingv1.Ingress (networking.k8s.io/v1)
	IngressClass      Kind = "IngressClass"      // *networkingv1.IngressClass
	IngressConfig     Kind = "IngressConfig"     // *configv1.Ingress (config.openshift.io/v1), which is an Ingress too by its kind; one, "cluster"
	ZoneKind          Kind = "Zone"              // *Zone

	// Who may read which Secrets, as far as a source is asked to follow it (rbac.authorization.k8s.io/v1).
	Role               Kind = "Role"               // *rbacv1.Role
	RoleBinding        Kind = "RoleBinding"        // *rbacv1.RoleBinding
	ClusterRole        Kind = "ClusterRole"        // *rbacv1.ClusterRole
	ClusterRoleBinding Kind = "ClusterRoleBinding" // *rbacv1.ClusterRoleBinding
)

// Kinds returns every kind, sorted.
func Kinds() []Kind {
	return []Kind{
		ClusterRole, ClusterRoleBinding, ConfigMap, EndpointSlice, Ingress, IngressClass, IngressConfig, IngressController, Namespace,
		Role, RoleBinding, Route, Secret, Service, ZoneKind,
	}
}

// accessKinds returns those of RBAC.
func accessKinds() []Kind { return []Kind{ClusterRole, ClusterRoleBinding, Role, RoleBinding} }

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

// Fault is something in the source that a person must mend.
type Fault struct {
	// Place is a file relative to the directory, or "Kind namespace/name".
	Place string
	// Line is the line in the file, from 1; 0: unknown.
	Line int
	// Message says what is wrong, and what is in force meanwhile.
	Message string
	// Remedy says what to do about it.
	Remedy string
}

// String returns the fault in one line: "routes.yaml:12: message (remedy)".
func (f Fault) String() string {
	place := f.Place
	if f.Line > 0 {
		place = fmt.Sprintf("%s:%d", place, f.Line)
	}
	return fmt.Sprintf("%s: %s (%s)", place, f.Message, f.Remedy)
}

// printable returns the fault with nothing in it that a terminal would obey or a protobuf cannot hold: files may have
// such names.
func (f Fault) printable() Fault {
	f.Place, f.Message, f.Remedy = printable(f.Place), printable(f.Message), printable(f.Remedy)
	return f
}

func printable(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if unicode.IsPrint(r) && (r != utf8.RuneError || n > 1) {
			b.WriteString(s[:n])
		} else {
			quoted := strconv.Quote(s[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[n:]
	}
	return b.String()
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
