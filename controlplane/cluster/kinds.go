package cluster

import (
	configv1 "github.com/openshift/api/config/v1"
	operatorv1 "github.com/openshift/api/operator/v1"
	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
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
	IngressConfig     Kind = "IngressConfig"     // *configv1.Ingress (config.openshift.io/v1), one, "cluster"
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
		ClusterRole, ClusterRoleBinding, ConfigMap, EndpointSlice, Ingress, IngressClass, IngressConfig,
		IngressController, Namespace, Role, RoleBinding, Route, Secret, Service, ZoneKind,
	}
}

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

// GroupVersionKind returns the version of the kind that a source reads; zero: it is no kind of this package.
func (k Kind) GroupVersionKind() schema.GroupVersionKind { return gvks[k] }

// Namespaced tells whether objects of the kind live in a namespace.
func (k Kind) Namespaced() bool {
	return k != Namespace && k != IngressClass && k != IngressConfig && k != ZoneKind &&
		k != ClusterRole && k != ClusterRoleBinding
}

// Where OpenShift has what routers need: its operator's documentation.
const (
	// ControllerNamespace has the IngressControllers, which are looked for nowhere else.
	ControllerNamespace = "openshift-ingress-operator"
	// CertificateNamespace has the Secrets of spec.defaultCertificate, and the service CA.
	CertificateNamespace = "openshift-ingress"
	// ServiceCA is the ConfigMap there with the CA that signs the certificates of Services.
	ServiceCA = "service-ca-bundle"
)
