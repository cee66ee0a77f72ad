package cluster

import (
	"maps"
	"slices"
	"strings"

	routev1 "github.com/openshift/api/route/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// The controllers whose IngressClasses are ours: Tsuji's own, and the one that OpenShift's translation of
// Ingresses to Routes goes by, so that manifests can come from there as they are.
const (
	IngressClassController          = "tsuji.dev/ingress"
	OpenShiftIngressClassController = string(routev1.IngressToRouteIngressClassControllerName)
)

// The annotations of Ingresses that say what they refer to.
const (
	// IngressClassAnnotation names an IngressClass, and comes before spec.ingressClassName.
	IngressClassAnnotation = "kubernetes.io/ingress.class"
	// TerminationAnnotation says where TLS ends: edge, reencrypt or passthrough.
	TerminationAnnotation = "route.openshift.io/termination"
	// DestinationCAAnnotation names the Secret whose tls.crt endpoints are verified with, for reencrypt.
	DestinationCAAnnotation = "route.openshift.io/destination-ca-certificate-secret"
)

// Ingresses tells which Ingresses are ours to serve. Its answers are a function of the objects that it was
// told of, in whatever order:
//
//   - One that names a class is ours if there is such an IngressClass, and its controller is ours.
//   - One that names none is ours if the default IngressClass is; if none is the default, then if no
//     IngressClass is another controller's.
//   - One that the cluster itself makes Routes of is not ours: those Routes are served. They have the Ingress
//     as their controller.
//
// It is not for several goroutines.
type Ingresses struct {
	objects map[name]*networkingv1.Ingress
	byClass map[className]map[name]struct{}
	classes map[string]*networkingv1.IngressClass
	unnamed bool                       // whether an Ingress that names no class is ours
	madeOf  map[name]name              // the Ingress that a Route was made of, by the Route
	made    map[name]map[name]struct{} // the same by the Ingress
}

// A name is that of an object whose kind is known.
type name = types.NamespacedName

// A className is what an Ingress says about its class; the zero value: nothing.
type className struct {
	name  string
	named bool
}

// NewIngresses returns one that was told of nothing.
func NewIngresses() *Ingresses {
	return &Ingresses{
		objects: map[name]*networkingv1.Ingress{}, byClass: map[className]map[name]struct{}{},
		classes: map[string]*networkingv1.IngressClass{},
		unnamed: true, madeOf: map[name]name{}, made: map[name]map[name]struct{}{},
	}
}

// Put takes what an object is now, nil if it is gone, and returns the names of the Ingresses that may be
// ours now and were not, or the other way, or have or lack a class, or are another: each to be asked for again. Objects
// of other kinds than Ingress, IngressClass and Route do not matter.
func (s *Ingresses) Put(key Key, obj metav1.Object) []types.NamespacedName {
	n := name{Namespace: key.Namespace, Name: key.Name}
	switch key.Kind {
	case Ingress:
		i, _ := obj.(*networkingv1.Ingress) // nil when it is gone, here and below
		s.put(n, i)
		return []name{n}
	case IngressClass:
		c, _ := obj.(*networkingv1.IngressClass)
		return s.putClass(key.Name, c)
	case Route:
		r, _ := obj.(*routev1.Route)
		return s.putRoute(n, r)
	default:
		return nil
	}
}

// Ours returns the Ingress of that name; nil if there is none, or it is another's.
func (s *Ingresses) Ours(n types.NamespacedName) *networkingv1.Ingress {
	i := s.objects[n]
	if i == nil || len(s.made[n]) > 0 {
		return nil
	}
	c := classOf(i)
	if c.named && !isOurs(s.classes[c.name]) || !c.named && !s.unnamed {
		return nil
	}
	return i
}

// WithoutClass returns the Ingress of that name, and the class that its spec names, if there is no such IngressClass;
// nil: there is one, or it names none there. Where an annotation names a class there need not be such an object: other
// controllers go by the name alone.
func (s *Ingresses) WithoutClass(n types.NamespacedName) (i *networkingv1.Ingress, class string) {
	if i = s.objects[n]; i == nil || len(s.made[n]) > 0 || i.Spec.IngressClassName == nil {
		return nil, ""
	}
	class = *i.Spec.IngressClassName
	if _, ok := i.Annotations[IngressClassAnnotation]; ok || s.classes[class] != nil {
		return nil, ""
	}
	return i, class
}

// HaveClass tells whether there is an IngressClass whose controller is ours.
func (s *Ingresses) HaveClass() bool {
	for _, c := range s.classes {
		if isOurs(c) {
			return true
		}
	}
	return false
}

func (s *Ingresses) put(n name, obj *networkingv1.Ingress) {
	if old := s.objects[n]; old != nil {
		removeFrom(s.byClass, classOf(old), n)
		delete(s.objects, n)
	}
	if obj != nil {
		addTo(s.byClass, classOf(obj), n)
		s.objects[n] = obj
	}
}

func (s *Ingresses) putClass(class string, obj *networkingv1.IngressClass) []name {
	was, wasUnnamed, had := isOurs(s.classes[class]), s.unnamed, s.classes[class] != nil
	if obj == nil {
		delete(s.classes, class)
	} else {
		s.classes[class] = obj
	}
	s.unnamed = s.oursByDefault()
	var touched []name
	if was != isOurs(obj) || had != (obj != nil) {
		touched = slices.AppendSeq(touched, maps.Keys(s.byClass[className{class, true}]))
	}
	if wasUnnamed != s.unnamed {
		touched = slices.AppendSeq(touched, maps.Keys(s.byClass[className{}]))
	}
	return touched
}

func (s *Ingresses) putRoute(n name, obj *routev1.Route) []name {
	var touched []name
	old, was := s.madeOf[n]
	now, is := name{}, false
	if obj != nil {
		now, is = ingressOf(obj)
	}
	if was == is && old == now {
		return nil
	}
	if was {
		delete(s.madeOf, n)
		if removeFrom(s.made, old, n); len(s.made[old]) == 0 {
			touched = append(touched, old)
		}
	}
	if is {
		s.madeOf[n] = now
		if addTo(s.made, now, n); len(s.made[now]) == 1 {
			touched = append(touched, now)
		}
	}
	return touched
}

// oursByDefault tells whether an Ingress that names no class is ours. Of several defaults the API server
// takes the newest, and of equally old ones the first by name.
func (s *Ingresses) oursByDefault() bool {
	var first *networkingv1.IngressClass
	others := false
	for _, c := range s.classes {
		others = others || !isOurs(c)
		if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] != "true" {
			continue
		}
		if first == nil || c.CreationTimestamp.After(first.CreationTimestamp.Time) ||
			c.CreationTimestamp.Equal(&first.CreationTimestamp) && c.Name < first.Name {
			first = c
		}
	}
	if first != nil {
		return isOurs(first)
	}
	return !others
}

func isOurs(c *networkingv1.IngressClass) bool {
	return c != nil && (c.Spec.Controller == IngressClassController ||
		c.Spec.Controller == OpenShiftIngressClassController)
}

func classOf(i *networkingv1.Ingress) className {
	if c, ok := i.Annotations[IngressClassAnnotation]; ok {
		return className{c, true}
	}
	if c := i.Spec.IngressClassName; c != nil {
		return className{*c, true}
	}
	return className{}
}

// ingressOf returns the Ingress that the cluster made a Route of, if it did.
func ingressOf(r *routev1.Route) (name, bool) {
	if o := IngressOwner(r); o != nil {
		return name{Namespace: r.Namespace, Name: o.Name}, true
	}
	return name{}, false
}

// IngressOwner returns the reference of a Route to the Ingress that the cluster made it of; nil: it did not. It points
// into the Route.
func IngressOwner(r *routev1.Route) *metav1.OwnerReference {
	for i := range r.OwnerReferences {
		o := &r.OwnerReferences[i]
		group, _, _ := strings.Cut(o.APIVersion, "/")
		if o.Kind == string(Ingress) && o.Controller != nil && *o.Controller &&
			(group == networkingv1.GroupName || group == "extensions") {
			return o
		}
	}
	return nil
}

func addTo[K, V comparable](index map[K]map[V]struct{}, k K, v V) {
	if index[k] == nil {
		index[k] = map[V]struct{}{}
	}
	index[k][v] = struct{}{}
}

func removeFrom[K, V comparable](index map[K]map[V]struct{}, k K, v V) {
	delete(index[k], v)
	if len(index[k]) == 0 {
		delete(index, k)
	}
}
