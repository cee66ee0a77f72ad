package cluster

import (
	"fmt"
	"strings"

	configv1 "github.com/openshift/api/config/v1"
	operatorv1 "github.com/openshift/api/operator/v1"
	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// gvks are the versions of the kinds that a source follows.
var gvks = map[Kind]schema.GroupVersionKind{
	Route:             routev1.GroupVersion.WithKind("Route"),
	Service:           corev1.SchemeGroupVersion.WithKind("Service"),
	EndpointSlice:     discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"),
	Secret:            corev1.SchemeGroupVersion.WithKind("Secret"),
	ConfigMap:         corev1.SchemeGroupVersion.WithKind("ConfigMap"),
	Namespace:         corev1.SchemeGroupVersion.WithKind("Namespace"),
	IngressController: operatorv1.GroupVersion.WithKind("IngressController"),
	Ingress:           networkingv1.SchemeGroupVersion.WithKind("Ingress"),
	IngressClass:      networkingv1.SchemeGroupVersion.WithKind("IngressClass"),
	IngressConfig:     configv1.GroupVersion.WithKind("Ingress"),
	ZoneKind:          ZoneVersion.WithKind("Zone"),

	Role:               rbacv1.SchemeGroupVersion.WithKind("Role"),
	RoleBinding:        rbacv1.SchemeGroupVersion.WithKind("RoleBinding"),
	ClusterRole:        rbacv1.SchemeGroupVersion.WithKind("ClusterRole"),
	ClusterRoleBinding: rbacv1.SchemeGroupVersion.WithKind("ClusterRoleBinding"),
}

// The namespace of an object that names none: kubectl's, but for IngressControllers, which OpenShift
// looks for in one namespace only.
const (
	defaultNamespace    = "default"
	controllerNamespace = "openshift-ingress-operator"
)

// namespaced tells whether objects of the kind live in a namespace.
func (k Kind) namespaced() bool {
	return k != Namespace && k != IngressClass && k != IngressConfig && k != ZoneKind && k != ClusterRole && k != ClusterRoleBinding
}

// decoder turns JSON into objects with an API server's defaults.
type decoder struct {
	scheme *runtime.Scheme
	strict *json.Serializer
}

func newDecoder() *decoder {
	s := runtime.NewScheme()
	s.AddKnownTypes(routev1.GroupVersion, &routev1.Route{})
	s.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Service{}, &corev1.Secret{}, &corev1.ConfigMap{}, &corev1.Namespace{})
	s.AddKnownTypes(discoveryv1.SchemeGroupVersion, &discoveryv1.EndpointSlice{})
	s.AddKnownTypes(operatorv1.GroupVersion, &operatorv1.IngressController{})
	s.AddKnownTypes(networkingv1.SchemeGroupVersion, &networkingv1.Ingress{}, &networkingv1.IngressClass{})
	s.AddKnownTypes(configv1.GroupVersion, &configv1.Ingress{})
	s.AddKnownTypes(rbacv1.SchemeGroupVersion, &rbacv1.Role{}, &rbacv1.RoleBinding{}, &rbacv1.ClusterRole{}, &rbacv1.ClusterRoleBinding{})
	s.AddKnownTypes(ZoneVersion, &Zone{}, &ZoneList{})
	addDefaults(s, defaultRoute)
	addDefaults(s, defaultService)
	addDefaults(s, defaultEndpointSlice)
	addDefaults(s, defaultSecret)
	addDefaults(s, (*Zone).setDefaults)
	return &decoder{s, json.NewSerializerWithOptions(json.DefaultMetaFactory, s, s, json.SerializerOptions{Strict: true})}
}

// addDefaults has the scheme call f for objects of type *T.
func addDefaults[T any, P interface {
	*T
	runtime.Object
}](s *runtime.Scheme, f func(P)) {
	s.AddTypeDefaultingFunc(P(new(T)), func(o any) {
		if p, ok := o.(P); ok {
			f(p)
		}
	})
}

// defaultRoute does what OpenShift's API server does to a new Route, the choice of a host excepted.
func defaultRoute(r *routev1.Route) {
	if r.Spec.WildcardPolicy == "" {
		r.Spec.WildcardPolicy = routev1.WildcardPolicyNone
	}
	target := func(t *routev1.RouteTargetReference) {
		if t.Kind == "" {
			t.Kind = "Service"
		}
		if t.Weight == nil {
			t.Weight = new(int32(100))
		}
	}
	target(&r.Spec.To)
	for i := range r.Spec.AlternateBackends {
		target(&r.Spec.AlternateBackends[i])
	}
	if t := r.Spec.TLS; t != nil && t.Termination == "" && t.DestinationCACertificate == "" {
		t.Termination = routev1.TLSTerminationEdge
	}
	for i := range r.Status.Ingress {
		if r.Status.Ingress[i].WildcardPolicy == "" {
			r.Status.Ingress[i].WildcardPolicy = routev1.WildcardPolicyNone
		}
	}
}

func defaultService(s *corev1.Service) {
	if s.Spec.Type == "" {
		s.Spec.Type = corev1.ServiceTypeClusterIP
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
}

func defaultEndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Name == nil {
			p.Name = new("")
		}
		if p.Protocol == nil {
			p.Protocol = new(corev1.ProtocolTCP)
		}
	}
}

// defaultSecret merges stringData into data, which has the last word.
func defaultSecret(s *corev1.Secret) {
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = make(map[string][]byte, len(s.StringData))
	}
	for k, v := range s.StringData {
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
}

// recognize says what an object of that apiVersion and kind is to us. An empty kind is one that no source
// follows. An error is one that its author surely meant otherwise.
func recognize(apiVersion, kind string) (Kind, schema.GroupVersionKind, *problem) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	switch {
	case kind == "":
		return "", schema.GroupVersionKind{}, &problem{path: []string{"kind"}, message: "the document has no kind", remedy: "give it apiVersion and kind, such as route.openshift.io/v1 and Route"}
	case apiVersion == "":
		return "", schema.GroupVersionKind{}, &problem{path: []string{"kind"}, message: "the object has no apiVersion", remedy: "add " + wanted(Kind(kind))}
	case err != nil:
		return "", schema.GroupVersionKind{}, &problem{path: []string{"apiVersion"}, message: "apiVersion is not of the form group/version", remedy: "make it " + wanted(Kind(kind))}
	}
	gvk := gv.WithKind(kind)
	if gvk == gvks[IngressConfig] {
		return IngressConfig, gvk, nil
	}
	if want, ok := gvks[Kind(kind)]; ok {
		switch {
		case gvk == want:
			return Kind(kind), gvk, nil
		case gvk.Group == want.Group, Kind(kind) == Route && gvk.Group == "", // the Routes of OpenShift 3 had no group
			Kind(kind) == Ingress && gvk.Group == "extensions":
			return "", gvk, &problem{path: []string{"apiVersion"}, message: fmt.Sprintf("no %s of this apiVersion is understood", kind), remedy: "make it " + wanted(Kind(kind))}
		}
		return "", gvk, nil
	}
	for _, k := range []Kind{Route, ZoneKind} { // groups that have this one kind
		if w := gvks[k]; gvk.Group == w.Group && !strings.HasSuffix(kind, "List") && (k != ZoneKind || kind != "Release") {
			return "", gvk, &problem{path: []string{"kind"}, message: fmt.Sprintf("%s has no such kind", w.Group), remedy: fmt.Sprintf("make it %s", k)}
		}
	}
	return "", gvk, nil
}

// wanted is the apiVersion to write for a kind.
func wanted(k Kind) string {
	if gvk, ok := gvks[k]; ok {
		return "apiVersion: " + gvk.GroupVersion().String()
	}
	return "an apiVersion, such as apiVersion: v1"
}
