package cluster

import (
	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// SetDefaults fills in, in an object that nobody else has yet, what an API server would have. Doing so twice is doing
// so once.
func SetDefaults(obj metav1.Object) {
	switch o := obj.(type) {
	case *routev1.Route:
		defaultRoute(o)
	case *corev1.Service:
		defaultService(o)
	case *discoveryv1.EndpointSlice:
		defaultEndpointSlice(o)
	case *corev1.Secret:
		defaultSecret(o)
	case *Zone:
		o.setDefaults()
	}
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
