package kube

import (
	"unique"

	configv1 "github.com/openshift/api/config/v1"
	operatorv1 "github.com/openshift/api/operator/v1"
	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

// idledAt marks a Service that was scaled to nothing until someone asks for it.
const idledAt = "idling.alpha.openshift.io/idled-at"

// strip takes out of an object, which it modifies, what nobody reads, and fills in the defaults. What it
// keeps is what makes two objects differ. Stripping twice is stripping once.
func strip(obj metav1.Object) {
	labels, annotations := obj.GetLabels(), obj.GetAnnotations()
	var owners []metav1.OwnerReference
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	switch o := obj.(type) {
	case *routev1.Route:
		o.Status = routev1.RouteStatus{}
		cluster.SetDefaults(o)
		if owner := cluster.IngressOwner(o); owner != nil {
			owners = []metav1.OwnerReference{*owner}
		}
	case *networkingv1.Ingress:
		o.Status = networkingv1.IngressStatus{}
	case *configv1.Ingress:
		labels, annotations = nil, nil
		o.Spec = configv1.IngressSpec{RequiredHSTSPolicies: o.Spec.RequiredHSTSPolicies}
		o.Status = configv1.IngressStatus{}
	case *networkingv1.IngressClass:
		labels, annotations = nil, only(annotations, networkingv1.AnnotationIsDefaultIngressClass)
		o.Spec.Parameters = nil
	case *corev1.Service:
		annotations, labels = only(annotations, idledAt), nil
		o.Spec = corev1.ServiceSpec{
			Type: o.Spec.Type, Ports: o.Spec.Ports, ClusterIP: o.Spec.ClusterIP,
			IPFamilies: o.Spec.IPFamilies, ExternalName: o.Spec.ExternalName,
		}
		o.Status = corev1.ServiceStatus{}
	case *discoveryv1.EndpointSlice:
		annotations, labels = nil, only(labels, discoveryv1.LabelServiceName)
		for i := range o.Endpoints {
			stripEndpoint(&o.Endpoints[i])
		}
	case *corev1.Secret:
		annotations, labels = nil, nil
		for name := range o.Data {
			if name != corev1.TLSCertKey && name != corev1.TLSPrivateKeyKey {
				delete(o.Data, name)
			}
		}
	case *corev1.ConfigMap:
		annotations, labels, o.BinaryData = nil, nil, nil
	case *rbacv1.Role, *rbacv1.RoleBinding, *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding:
		labels, annotations = nil, nil
	case *corev1.Namespace:
		annotations, o.Spec, o.Status = nil, corev1.NamespaceSpec{}, corev1.NamespaceStatus{}
	case *operatorv1.IngressController:
		o.Status = operatorv1.IngressControllerStatus{Domain: o.Status.Domain}
	case *cluster.Zone:
		o.Status = cluster.ZoneStatus{}
		cluster.SetDefaults(o)
	}
	obj.SetLabels(labels)
	obj.SetAnnotations(annotations)
	obj.SetManagedFields(nil)
	obj.SetOwnerReferences(owners)
	obj.SetFinalizers(nil)
	obj.SetSelfLink("")
	obj.SetGenerateName("")
	obj.SetGeneration(0)
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetNamespace(one(obj.GetNamespace()))
}

// stripAccess keeps of an object of RBAC what it says about the reader and Secrets; nil: it says nothing.
func stripAccess(r cluster.Reader, obj metav1.Object) metav1.Object {
	switch o := obj.(type) {
	case *rbacv1.Role:
		if o.Rules = cluster.SecretRules(o); len(o.Rules) > 0 {
			return o
		}
	case *rbacv1.ClusterRole:
		if o.Rules = cluster.SecretRules(o); len(o.Rules) > 0 {
			o.AggregationRule = nil // what it adds is among the rules
			return o
		}
	default:
		if _, _, ok := r.BoundBy(obj); ok {
			return obj
		}
	}
	return nil
}

// stripEndpoint keeps of an endpoint who it is, where, and whether it may have traffic.
func stripEndpoint(e *discoveryv1.Endpoint) {
	e.Hints, e.DeprecatedTopology, e.Hostname = nil, nil, nil
	if t := e.TargetRef; t != nil {
		e.TargetRef = &corev1.ObjectReference{Kind: one(t.Kind), Name: t.Name}
	}
	if e.NodeName != nil {
		*e.NodeName = one(*e.NodeName)
	}
	if e.Zone != nil {
		*e.Zone = one(*e.Zone)
	}
}

// one returns a string that is equal, and of which there is one for all who hold it.
func one(s string) string { return unique.Make(s).Value() }

// only returns a map with the entries of those names.
func only(m map[string]string, names ...string) map[string]string {
	var out map[string]string
	for _, n := range names {
		if v, ok := m[n]; ok {
			if out == nil {
				out = map[string]string{}
			}
			out[n] = v
		}
	}
	return out
}

// same tells whether two stripped objects differ in nothing but their resourceVersion. For the time of the
// comparison it modifies b, which must not have been handed out.
func same(a, b metav1.Object) bool {
	if a == b {
		return true
	}
	v := b.GetResourceVersion()
	if a.GetUID() != b.GetUID() {
		return false
	}
	b.SetResourceVersion(a.GetResourceVersion())
	defer b.SetResourceVersion(v)
	return equality.Semantic.DeepEqual(a, b)
}
