package manifests

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

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

// defaultNamespace is that of an object that names none, as kubectl has it.
const defaultNamespace = "default"

// decoder turns JSON into objects, and says which fields are none.
type decoder struct{ strict *json.Serializer }

func newDecoder() *decoder {
	s := runtime.NewScheme()
	s.AddKnownTypes(routev1.GroupVersion, &routev1.Route{})
	s.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Service{}, &corev1.Secret{},
		&corev1.ConfigMap{}, &corev1.Namespace{})
	s.AddKnownTypes(discoveryv1.SchemeGroupVersion, &discoveryv1.EndpointSlice{})
	s.AddKnownTypes(operatorv1.GroupVersion, &operatorv1.IngressController{})
	s.AddKnownTypes(networkingv1.SchemeGroupVersion, &networkingv1.Ingress{}, &networkingv1.IngressClass{})
	s.AddKnownTypes(configv1.GroupVersion, &configv1.Ingress{})
	s.AddKnownTypes(rbacv1.SchemeGroupVersion, &rbacv1.Role{}, &rbacv1.RoleBinding{},
		&rbacv1.ClusterRole{}, &rbacv1.ClusterRoleBinding{})
	s.AddKnownTypes(cluster.ZoneVersion, &cluster.Zone{}, &cluster.ZoneList{})
	return &decoder{json.NewSerializerWithOptions(json.DefaultMetaFactory, s, s, json.SerializerOptions{Strict: true})}
}

// recognize says what an object of that apiVersion and kind is to us. An empty kind is one that no source
// follows. An error is one that its author surely meant otherwise.
func recognize(apiVersion, kind string) (cluster.Kind, schema.GroupVersionKind, *problem) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	switch {
	case kind == "":
		return "", schema.GroupVersionKind{}, &problem{
			path:    []string{"kind"},
			message: "the document has no kind",
			remedy:  "give it apiVersion and kind, such as route.openshift.io/v1 and Route",
		}
	case apiVersion == "":
		return "", schema.GroupVersionKind{}, &problem{
			path:    []string{"kind"},
			message: "the object has no apiVersion",
			remedy:  "add " + wanted(cluster.Kind(kind)),
		}
	case err != nil:
		return "", schema.GroupVersionKind{}, &problem{
			path:    []string{"apiVersion"},
			message: "apiVersion is not of the form group/version",
			remedy:  "make it " + wanted(cluster.Kind(kind)),
		}
	}
	gvk := gv.WithKind(kind)
	if gvk == cluster.IngressConfig.GroupVersionKind() {
		return cluster.IngressConfig, gvk, nil
	}
	if want := cluster.Kind(kind).GroupVersionKind(); !want.Empty() {
		switch {
		case gvk == want:
			return cluster.Kind(kind), gvk, nil
		case gvk.Group == want.Group,
			cluster.Kind(kind) == cluster.Route && gvk.Group == "", // the Routes of OpenShift 3 had no group
			cluster.Kind(kind) == cluster.Ingress && gvk.Group == "extensions":
			return "", gvk, &problem{
				path:    []string{"apiVersion"},
				message: fmt.Sprintf("no %s of this apiVersion is understood", kind),
				remedy:  "make it " + wanted(cluster.Kind(kind)),
			}
		}
		return "", gvk, nil
	}
	for _, k := range []cluster.Kind{cluster.Route, cluster.ZoneKind} { // groups that have this one kind
		if w := k.GroupVersionKind(); gvk.Group == w.Group && !strings.HasSuffix(kind, "List") &&
			(k != cluster.ZoneKind || kind != "Release") {
			return "", gvk, &problem{
				path:    []string{"kind"},
				message: fmt.Sprintf("%s has no such kind", w.Group),
				remedy:  fmt.Sprintf("make it %s", k),
			}
		}
	}
	return "", gvk, nil
}

// wanted is the apiVersion to write for a kind.
func wanted(k cluster.Kind) string {
	if gvk := k.GroupVersionKind(); !gvk.Empty() {
		return "apiVersion: " + gvk.GroupVersion().String()
	}
	return "an apiVersion, such as apiVersion: v1"
}
