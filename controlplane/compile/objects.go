package compile

import (
	"cmp"
	"maps"
	"slices"

	operatorv1 "github.com/openshift/api/operator/v1"
	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// id is the namespace and name of an object whose kind is known.
type id = types.NamespacedName

func compareID(a, b id) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// route is a Route object, or one that was made of an Ingress, with what became of it.
type route struct {
	id     id
	rule   *rule          // of the Ingress that it was made of; nil: it is an object of its own
	object *routev1.Route // nil: it is gone, and is forgotten when it is judged

	secretDeleted bool // the Secret that it names as its certificate was there, and is gone

	// Where it stands, by stand.
	selected bool       // whether it is this IngressController's at all
	host     string     // the host that it asks for or was given
	hostBy   string     // by which field or annotation
	refusal  *refusal   // why it may not claim its host; nil: it does
	held     *heldRoute // if its own content is held; nil: it is not

	// What it claims, by claims: only changed there.
	claim *claim
	lost  string // why the claim was lost; empty: it holds, or there is none

	// What was made of it, by judge.
	verdict   *tsujiv1.RouteVerdict
	kept      *keptRoute // nil: nothing
	endpoints []endpointsRef
	secret    id       // the Secret whose Certificate it shares; zero: none
	serviceCA id       // the ConfigMap of the cluster's own CA, if it is verified with it; else zero
	owned     []string // Certificates that are its own
}

// path is the path that it is routed by.
func (r *route) path() string {
	if r.rule != nil && r.rule.exact {
		return r.object.Spec.Path
	}
	return cleanPath(r.object.Spec.Path)
}

// objects is a copy of what is compiled, indexed by what is asked of it. The objects are never modified.
type objects struct {
	routes             map[id]*route
	services           map[id]service
	slices             map[id]map[string]*discoveryv1.EndpointSlice // by Service, then name
	secrets            map[id]*corev1.Secret
	unread             map[id]string // why a Secret cannot be read that may be there
	configMaps         map[id]*corev1.ConfigMap
	unreadConfigMaps   map[id]string // the same of ConfigMaps
	namespaces         map[string]*corev1.Namespace
	ingressControllers map[id]*operatorv1.IngressController // of the one name, in whatever namespace

	serviceOfSlice    map[id]id
	routesByService   map[id]map[id]*route // by a Service they refer to, existing or not
	routesBySecret    map[id]map[id]*route
	routesByNamespace map[string]map[id]*route
	routesByServiceCA map[id]*route // those that verify their endpoints with the cluster's own CA
}

// service is what is used of a Service.
type service struct {
	primary discoveryv1.AddressType // the first of two address families; empty: it has one
	address string                  // of an idled Service: its own; else empty
	ports   []corev1.ServicePort    // of an idled Service
	offered offered
}

func newObjects() objects {
	return objects{
		routes:             map[id]*route{},
		services:           map[id]service{},
		slices:             map[id]map[string]*discoveryv1.EndpointSlice{},
		secrets:            map[id]*corev1.Secret{},
		unread:             map[id]string{},
		unreadConfigMaps:   map[id]string{},
		configMaps:         map[id]*corev1.ConfigMap{},
		namespaces:         map[string]*corev1.Namespace{},
		ingressControllers: map[id]*operatorv1.IngressController{},
		serviceOfSlice:     map[id]id{},
		routesByService:    map[id]map[id]*route{},
		routesBySecret:     map[id]map[id]*route{},
		routesByNamespace:  map[string]map[id]*route{},
		routesByServiceCA:  map[id]*route{},
	}
}

// putRoute returns the route, which has no object if it is gone; nil if it was never there.
func (o *objects) putRoute(k id, obj *routev1.Route) *route {
	r := o.routes[k]
	switch {
	case r == nil && obj == nil:
		return nil
	case r == nil:
		r = &route{id: k}
		o.routes[k] = r
		link(o.routesByNamespace, k.Namespace, r.id, r)
	}
	for _, s := range servicesOf(r.object) {
		unlink(o.routesByService, id{Namespace: k.Namespace, Name: s}, r.id)
	}
	if s := externalCertificateOf(r.object); s != "" {
		unlink(o.routesBySecret, id{Namespace: k.Namespace, Name: s}, r.id)
	}
	if externalCertificateOf(obj) != externalCertificateOf(r.object) {
		r.secretDeleted = false
	}
	r.object = obj
	delete(o.routesByServiceCA, k)
	if usesServiceCA(obj) {
		o.routesByServiceCA[k] = r
	}
	for _, s := range servicesOf(obj) {
		link(o.routesByService, id{Namespace: k.Namespace, Name: s}, r.id, r)
	}
	if s := externalCertificateOf(obj); s != "" {
		link(o.routesBySecret, id{Namespace: k.Namespace, Name: s}, r.id, r)
	}
	return r
}

// forget ends a route that is gone.
func (o *objects) forget(r *route) {
	delete(o.routes, r.id)
	unlink(o.routesByNamespace, r.id.Namespace, r.id)
}

// annIdledAt marks a Service that was scaled to nothing until somebody asks for it.
const annIdledAt = "idling.alpha.openshift.io/idled-at"

// putService tells whether a Service began or ceased to exist or offers something else, and whether its endpoints may
// be others.
func (o *objects) putService(k id, obj *corev1.Service) (offer, endpoints bool) {
	old, was := o.services[k]
	var s service
	if obj == nil {
		delete(o.services, k)
	} else {
		if f := obj.Spec.IPFamilies; len(f) > 1 {
			s.primary = discoveryv1.AddressType(f[0])
		}
		if ip := obj.Spec.ClusterIP; obj.Annotations[annIdledAt] != "" && ip != "" && ip != corev1.ClusterIPNone {
			s.address, s.ports = ip, obj.Spec.Ports
		}
		s.offered = offeredBy(obj)
		o.services[k] = s
	}
	return was != (obj != nil) || !old.offered.equal(s.offered), old.primary != s.primary || old.address != s.address ||
		!equality.Semantic.DeepEqual(old.ports, s.ports)
}

// putSlice returns the Services whose endpoints may differ.
func (o *objects) putSlice(k id, obj *discoveryv1.EndpointSlice) []id {
	var touched []id
	if s, ok := o.serviceOfSlice[k]; ok {
		touched = append(touched, s)
		delete(o.slices[s], k.Name)
		if len(o.slices[s]) == 0 {
			delete(o.slices, s)
		}
		delete(o.serviceOfSlice, k)
	}
	if obj == nil || obj.Labels[discoveryv1.LabelServiceName] == "" {
		return touched
	}
	s := id{Namespace: k.Namespace, Name: obj.Labels[discoveryv1.LabelServiceName]}
	if o.slices[s] == nil {
		o.slices[s] = map[string]*discoveryv1.EndpointSlice{}
	}
	o.slices[s][k.Name] = obj
	o.serviceOfSlice[k] = s
	return append(touched, s)
}

// slicesOf returns the EndpointSlices of a Service, by name.
func (o *objects) slicesOf(service id) []*discoveryv1.EndpointSlice {
	byName := o.slices[service]
	sorted := make([]*discoveryv1.EndpointSlice, 0, len(byName))
	for _, n := range slices.Sorted(maps.Keys(byName)) {
		sorted = append(sorted, byName[n])
	}
	return sorted
}

// putSecret takes a Secret, or that it cannot be read, nil if it is gone.
func (o *objects) putSecret(k id, obj any) {
	delete(o.secrets, k)
	delete(o.unread, k)
	switch s := obj.(type) {
	case *corev1.Secret:
		o.secrets[k] = s
	case *cluster.Unread:
		o.unread[k] = s.Why
	}
}

// putConfigMap takes a ConfigMap, or that it cannot be read, nil if it is gone.
func (o *objects) putConfigMap(k id, obj any) {
	delete(o.configMaps, k)
	delete(o.unreadConfigMaps, k)
	switch m := obj.(type) {
	case *corev1.ConfigMap:
		o.configMaps[k] = m
	case *cluster.Unread:
		o.unreadConfigMaps[k] = m.Why
	}
}

// ingressController returns the object in OpenShift's namespace, or else the one in the first namespace
// that has one (a directory need not say); nil if there is none.
func (o *objects) ingressController() *operatorv1.IngressController {
	var first *operatorv1.IngressController
	for _, k := range slices.SortedFunc(maps.Keys(o.ingressControllers), compareID) {
		if k.Namespace == operatorNamespace {
			return o.ingressControllers[k]
		}
		if first == nil {
			first = o.ingressControllers[k]
		}
	}
	return first
}

// servicesOf returns the names of the Services that a Route refers to, well formed or not.
func servicesOf(r *routev1.Route) []string {
	if r == nil {
		return nil
	}
	names := []string{r.Spec.To.Name}
	for _, b := range r.Spec.AlternateBackends {
		names = append(names, b.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// externalCertificateOf returns the name of the Secret that a Route refers to; empty: none.
func externalCertificateOf(r *routev1.Route) string {
	if r == nil || r.Spec.TLS == nil || r.Spec.TLS.ExternalCertificate == nil {
		return ""
	}
	return r.Spec.TLS.ExternalCertificate.Name
}

// usesServiceCA tells whether a Route re-encrypts without saying which CA its endpoints are to be verified
// with.
func usesServiceCA(r *routev1.Route) bool {
	return r != nil && r.Spec.TLS != nil && r.Spec.TLS.Termination == routev1.TLSTerminationReencrypt &&
		r.Spec.TLS.DestinationCACertificate == ""
}

// link puts a member, by its id, into what an index has for k.
func link[K comparable, V any](index map[K]map[id]V, k K, member id, v V) {
	if index[k] == nil {
		index[k] = map[id]V{}
	}
	index[k][member] = v
}

// unlink takes it out again; nothing is left of what was there for k if it was the last.
func unlink[K comparable, V any](index map[K]map[id]V, k K, member id) {
	if delete(index[k], member); len(index[k]) == 0 {
		delete(index, k)
	}
}

// put makes obj what m has for k; nil: nothing.
func put[K comparable, V any](m map[K]*V, k K, obj *V) {
	if obj == nil {
		delete(m, k)
		return
	}
	m[k] = obj
}
