package deploy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/tsuji-dev/tsuji/identity/authority"
	"github.com/tsuji-dev/tsuji/test/kubetest"
)

// world is a cluster in which every right is used.
const world = `
{apiVersion: v1, kind: Namespace, metadata: {name: openshift-ingress}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: openshift-config}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Node, metadata: {name: node1, labels: {topology.kubernetes.io/zone: tok04}}}
---
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {ports: [{port: 80}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.64.0.1], nodeName: node1, conditions: {ready: true}}]
---
apiVersion: route.openshift.io/v1
kind: Route
metadata: {name: cart, namespace: shop}
spec:
  host: cart.example.com
  to: {kind: Service, name: cart}
  tls: {termination: edge, externalCertificate: {name: cart-tls}}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: tsuji}, spec: {controller: tsuji.dev/ingress}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: pay, namespace: shop}
spec:
  ingressClassName: tsuji
  rules:
    - host: pay.example.com
      http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: cart, port: {number: 80}}}}]}
---
apiVersion: operator.openshift.io/v1
kind: IngressController
metadata: {name: default, namespace: openshift-ingress-operator}
spec:
  httpErrorCodePages: {name: pages}
  namespaceSelector: {matchExpressions: [{key: closed, operator: DoesNotExist}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: pages, namespace: openshift-config}
data: {error-page-503.http: "HTTP/1.0 503 Closed\r\n\r\nclosed"}
`

// ingressConfig defines what an OpenShift cluster has beside IngressControllers.
const ingressConfig = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ingresses.config.openshift.io}
spec:
  group: config.openshift.io
  scope: Cluster
  names: {kind: Ingress, listKind: IngressList, plural: ingresses, singular: ingress}
  versions:
    - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`

// A right is one verb on one kind.
type right struct{ group, resource, name, namespace, verb string }

func (r right) String() string { return r.verb + " " + r.resource }

// rightsOf returns what rules allow, one by one; namespace is that of a Role.
func rightsOf(namespace string, rules []rbacv1.PolicyRule) []right {
	var out []right
	for _, r := range rules {
		names := r.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, g := range r.APIGroups {
			for _, k := range r.Resources {
				for _, n := range names {
					for _, v := range r.Verbs {
						out = append(out, right{g, k, n, namespace, v})
					}
				}
			}
		}
	}
	return out
}

// grant makes a service account that has these rights and no other, and returns its kubeconfig when they are in force.
func grant(t *testing.T, server *kubetest.Server, account string, rights []right) string {
	t.Helper()
	var objects []string
	add := func(o any) {
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, string(text))
	}
	meta := metav1.ObjectMeta{Name: account, Namespace: namespace}
	add(map[string]any{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
	subject := []rbacv1.Subject{{Kind: "ServiceAccount", Name: account, Namespace: namespace}}
	byNamespace := map[string][]rbacv1.PolicyRule{}
	for _, r := range rights {
		rule := rbacv1.PolicyRule{APIGroups: []string{r.group}, Resources: []string{r.resource}, Verbs: []string{r.verb}}
		if r.name != "" {
			rule.ResourceNames = []string{r.name}
		}
		byNamespace[r.namespace] = append(byNamespace[r.namespace], rule)
	}
	for in, rules := range byNamespace {
		kind := "Role"
		if in == "" {
			kind = "ClusterRole"
		}
		m := metav1.ObjectMeta{Name: account, Namespace: in}
		add(rbacv1.Role{TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: kind}, ObjectMeta: m, Rules: rules})
		add(rbacv1.RoleBinding{
			TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: kind + "Binding"}, ObjectMeta: m, Subjects: subject,
			RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: kind, Name: account},
		})
	}
	kubectl(t, server, strings.Join(objects, "---\n"), "apply", "--server-side", "-f", "-")
	path, err := server.KubeconfigFor(namespace, account)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rights {
		eventually(t, account+" may "+r.String(), func() error { return may(t, path, r) })
	}
	return path
}

// may returns nil if whose kubeconfig it is has the right.
func may(t *testing.T, kubeconfig string, r right) error {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Resource(schema.GroupVersionResource{Group: "authorization.k8s.io", Version: "v1", Resource: "selfsubjectaccessreviews"}).
		Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
			"spec": map[string]any{"resourceAttributes": map[string]any{"group": r.group, "resource": r.resource, "verb": r.verb, "name": r.name, "namespace": r.namespace}},
		}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if allowed, _, _ := unstructured.NestedBool(answer.Object, "status", "allowed"); !allowed {
		return fmt.Errorf("%s is not allowed", r)
	}
	return nil
}

// A control plane with the rights of its service account, and those that docs/install.md adds for what Routes and
// IngressControllers refer to, reads the cluster without a fault and follows it. Without any one of them it has a fault
// that names the kind.
func testRights(t *testing.T, server *kubetest.Server) {
	certPEM, keyPEM := someCertificate(t)
	kubectl(t, server, ingressConfig, "apply", "--server-side", "-f", "-")
	kubectl(t, server, "", "wait", "--for=condition=Established", "crd/ingresses.config.openshift.io")
	kubectl(t, server, world, "apply", "--server-side", "-f", "-")
	kubectl(t, server, secret("shop", "cart-tls", certPEM, keyPEM), "apply", "--server-side", "-f", "-")
	kubectl(t, server, secret("openshift-ingress", "apps-tls", certPEM, keyPEM), "apply", "--server-side", "-f", "-")
	kubectl(t, server, "", "patch", "ingresscontroller/default", "-n", "openshift-ingress-operator", "--type=merge", `-p={"spec":{"defaultCertificate":{"name":"apps-tls"}}}`)
	shell(t, server, t.TempDir(), "grants")

	var all []right
	all = append(all, rightsOf("", get[rbacv1.ClusterRole](t, server, "clusterrole", "", "tsuji-controlplane").Rules)...)
	for _, n := range [][2]string{{"shop", "tsuji-cart-tls"}, {"openshift-ingress", "tsuji-certificates"}, {"openshift-config", "tsuji-configmaps"}} {
		all = append(all, rightsOf(n[0], get[rbacv1.Role](t, server, "role", n[0], n[1]).Rules)...)
	}
	if want := 2 * (10 + 3); len(all) != want {
		t.Fatalf("there are %d rights, of which the story knows %d: %v", len(all), want, all)
	}

	t.Run("all of them", func(t *testing.T) {
		path, err := server.KubeconfigFor(namespace, "controlplane")
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			if err := may(t, path, r); err != nil {
				t.Error(err)
			}
		}
		if err := may(t, path, right{resource: "secrets", verb: "list"}); err == nil {
			t.Error("it may list every Secret")
		}
		testFollows(t, server, startControlPlane(t, path))
	})
	for i, lacking := range all {
		t.Run("all but "+strings.Trim(lacking.String()+" "+lacking.name, " "), func(t *testing.T) {
			t.Parallel()
			path := grant(t, server, fmt.Sprintf("lacking-%d", i), slices.Delete(slices.Clone(all), i, i+1))
			if err := may(t, path, lacking); err == nil {
				t.Fatal("it has the right all the same")
			}
			c := startControlPlane(t, path)
			eventually(t, "there is a fault", func() error {
				s := c.status(t)
				for _, f := range s.GetFaults() {
					if strings.Contains(f.GetMessage(), "forbidden") && strings.Contains(f.GetMessage(), lacking.resource) && strings.Contains(f.GetMessage(), "cannot "+lacking.verb) {
						return nil
					}
				}
				return fmt.Errorf("synced %v, faults %v", s.GetSynced(), s.GetFaults())
			})
		})
	}
}

// testFollows changes the cluster and sees the control plane follow, for every kind that anything is compiled from.
func testFollows(t *testing.T, server *kubetest.Server, c *controlPlane) {
	t.Helper()
	eventually(t, "the cluster is read without a fault", func() error {
		if s := c.status(t); !s.GetSynced() || len(s.GetFaults()) > 0 || s.GetRoutesAdmitted() != 2 {
			return fmt.Errorf("%v", s)
		}
		return nil
	})
	if s := c.compiled(t); !strings.Contains(s, "cart.example.com") || !strings.Contains(s, "tok04") || strings.Count(s, "BEGIN CERTIFICATE") != 2 {
		t.Errorf("the snapshot lacks something: %s", s)
	}
	otherCert, otherKey := someCertificate(t)
	for _, change := range []struct {
		what  string
		apply []string
		input string
	}{
		{"what HSTS headers are required", []string{"apply", "--server-side", "-f", "-"}, `{apiVersion: config.openshift.io/v1, kind: Ingress, metadata: {name: cluster}, spec: {requiredHSTSPolicies: [{domainPatterns: [cart.example.com], maxAge: {smallestMaxAge: 1}}]}}`},
		{"what HSTS headers are required", []string{"delete", "ingresses.config.openshift.io/cluster"}, ""},
		{"a Node", []string{"label", "node/node1", "topology.kubernetes.io/zone=tok05", "--overwrite"}, ""},
		{"an EndpointSlice", []string{"patch", "endpointslice/cart-1", "-n", "shop", "--type=merge", `-p={"endpoints":[{"addresses":["10.64.0.2"],"nodeName":"node1"}]}`}, ""},
		{"a Service", []string{"delete", "service/cart", "-n", "shop"}, ""},
		{"a Secret", []string{"apply", "--server-side", "-f", "-"}, secret("shop", "cart-tls", otherCert, otherKey)},
		{"a Route", []string{"patch", "route/cart", "-n", "shop", "--type=merge", `-p={"spec":{"path":"/cart"}}`}, ""},
		{"an IngressController", []string{"patch", "ingresscontroller/default", "-n", "openshift-ingress-operator", "--type=merge", `-p={"spec":{"tuningOptions":{"clientTimeout":"7s"}}}`}, ""},
		{"an IngressClass", []string{"delete", "ingressclass/tsuji"}, ""},
		{"an IngressClass", []string{"apply", "--server-side", "-f", "-"}, `{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: tsuji}, spec: {controller: tsuji.dev/ingress}}`},
		{"an Ingress", []string{"delete", "ingress/pay", "-n", "shop"}, ""},
		{"a Namespace", []string{"label", "namespace/shop", "closed=yes"}, ""},
	} {
		before := c.compiled(t)
		kubectl(t, server, change.input, change.apply...)
		eventually(t, "a change of "+change.what+" is compiled", func() error {
			if c.compiled(t) == before {
				return errors.New("it is as it was")
			}
			return nil
		})
	}
	kubectl(t, server, "", "label", "namespace/shop", "closed-")
	kubectl(t, server, world, "apply", "--server-side", "--force-conflicts", "-f", "-")
	if f := c.status(t).GetFaults(); len(f) > 0 {
		t.Errorf("faults: %v", f)
	}
}

// get reads an object.
func get[T any](t *testing.T, server *kubetest.Server, kind, namespace, name string) T {
	t.Helper()
	args := []string{"get", kind, name, "-o", "yaml"}
	if namespace != "" {
		args = append(args, "-n", namespace)
	}
	var out T
	decode(t, kubectl(t, server, "", args...), &out, false)
	return out
}

// someCertificate returns a certificate for cart.example.com and its key.
func someCertificate(t *testing.T) (certPEM, keyPEM []byte) {
	t.Helper()
	ca, err := authority.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM, err = ca.Issue(authority.Options{DNSNames: []string{"cart.example.com"}, NotAfter: time.Now().AddDate(1, 0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return certPEM, keyPEM
}

// secret is the manifest of one with a certificate.
func secret(namespace, name string, certPEM, keyPEM []byte) string {
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": map[string]any{"namespace": namespace, "name": name},
		"data": map[string]any{"tls.crt": certPEM, "tls.key": keyPEM},
	})
	if err != nil {
		panic(err) // of a map that is always the same
	}
	return string(text)
}
