package kube

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	operatorv1 "github.com/openshift/api/operator/v1"
	routev1 "github.com/openshift/api/route/v1"
	"go.uber.org/goleak"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/test/kubetest"
	"github.com/tsuji-dev/tsuji/test/sourcetest"
)

// shared is the API server of all tests that do not stop theirs; each has namespaces of its own.
var shared struct {
	once   sync.Once
	dir    string
	server *kubetest.Server
	err    error
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(stopping{m}) }

// stopping stops what the tests of the package shared.
type stopping struct{ m *testing.M }

func (s stopping) Run() int {
	code := s.m.Run()
	if shared.server != nil {
		shared.server.Stop()
	}
	if shared.dir != "" {
		os.RemoveAll(shared.dir)
	}
	return code
}

// sharedServer returns the shared API server with the rights of the documentation granted to the service
// account tsuji/controlplane, and its kubeconfig.
func sharedServer(t testing.TB) (*api, *rest.Config) {
	t.Helper()
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "tj"); shared.err != nil {
			return
		}
		shared.server, shared.err = kubetest.Start(context.Background(), kubetest.Config{Dir: shared.dir + "/k"})
	})
	must(t, shared.err)
	a := newAPI(t, shared.server)
	a.apply(rights)
	config := a.as("controlplane")
	return a, config
}

// rights are those that the source needs, and no others.
const rights = `
{apiVersion: v1, kind: Namespace, metadata: {name: tsuji}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: openshift-ingress-operator}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: controlplane, namespace: tsuji}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: controlplane}
rules:
- {apiGroups: [route.openshift.io], resources: [routes], verbs: [list, watch]}
- {apiGroups: [""], resources: [services, namespaces, nodes], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
- {apiGroups: [networking.k8s.io], resources: [ingresses, ingressclasses], verbs: [list, watch]}
- {apiGroups: [config.openshift.io], resources: [ingresses], resourceNames: [cluster], verbs: [list, watch]}
- {apiGroups: [tsuji.dev], resources: [zones], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: controlplane}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: controlplane}
subjects: [{kind: ServiceAccount, name: controlplane, namespace: tsuji}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: controlplane, namespace: openshift-ingress-operator}
rules:
- {apiGroups: [operator.openshift.io], resources: [ingresscontrollers], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: controlplane, namespace: openshift-ingress-operator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: controlplane}
subjects: [{kind: ServiceAccount, name: controlplane, namespace: tsuji}]
`

// mayRead lets the source read one Secret.
func mayRead(namespace, secret string) string {
	return fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: read-%[2]s, namespace: %[1]s}
rules:
- {apiGroups: [""], resources: [secrets], resourceNames: [%[2]s], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: read-%[2]s, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: read-%[2]s}
subjects: [{kind: ServiceAccount, name: controlplane, namespace: tsuji}]
`, namespace, secret)
}

// allow lets the source read Secrets, and returns when the API server knows it.
func (a *api) allow(source *rest.Config, namespace string, secrets ...string) {
	a.t.Helper()
	for _, s := range secrets {
		a.apply(mayRead(namespace, s))
		a.awaitRight(source, authorizationv1.ResourceAttributes{Resource: "secrets", Namespace: namespace, Name: s}, true)
	}
}

// awaitRight waits until whose configuration it is may, or may not, list and watch something: who decides that at the API
// server hears of roles a little later than they are written.
func (a *api) awaitRight(source *rest.Config, to authorizationv1.ResourceAttributes, want bool) {
	a.t.Helper()
	h, err := rest.HTTPClientFor(source)
	must(a.t, err)
	defer utilnet.CloseIdleConnectionsFor(h.Transport)
	client, err := dynamic.NewForConfigAndClient(source, h)
	must(a.t, err)
	reviews := client.Resource(schema.GroupVersionResource{Group: "authorization.k8s.io", Version: "v1", Resource: "selfsubjectaccessreviews"})
	for _, to.Verb = range []string{"list", "watch"} {
		spec, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &to})
		must(a.t, err)
		for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			answer, err := reviews.Create(context.Background(), &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec,
			}}, metav1.CreateOptions{})
			must(a.t, err)
			if allowed, _, _ := unstructured.NestedBool(answer.Object, "status", "allowed"); allowed == want {
				break
			}
			if time.Now().After(end) {
				a.t.Fatalf("that %+v is allowed is still %t", to, !want)
			}
		}
	}
}

// api is an administrator at an API server.
type api struct {
	t      testing.TB
	server *kubetest.Server
	client dynamic.Interface
}

func newAPI(t testing.TB, s *kubetest.Server) *api {
	t.Helper()
	c := s.Config()
	c.WarningHandler = rest.NoWarnings{}
	h, err := rest.HTTPClientFor(c)
	must(t, err)
	client, err := dynamic.NewForConfigAndClient(c, h)
	must(t, err)
	t.Cleanup(func() { utilnet.CloseIdleConnectionsFor(h.Transport) })
	return &api{t, s, client}
}

// as returns a configuration with the rights of a service account in namespace tsuji.
func (a *api) as(account string) *rest.Config {
	a.t.Helper()
	path, err := a.server.KubeconfigFor("tsuji", account)
	must(a.t, err)
	c, err := LoadREST(path)
	must(a.t, err)
	return c
}

// resource returns where objects of a kind are.
func (a *api) resource(apiVersion, kind, namespace string) dynamic.ResourceInterface {
	a.t.Helper()
	gv, err := schema.ParseGroupVersion(apiVersion)
	must(a.t, err)
	plural := strings.ToLower(kind) + "s"
	if strings.HasSuffix(kind, "ss") {
		plural = strings.ToLower(kind) + "es"
	}
	r := a.client.Resource(gv.WithResource(plural))
	if namespace == "" {
		return r
	}
	return r.Namespace(namespace)
}

// apply makes the objects of a manifest what it says.
func (a *api) apply(manifest string) {
	a.t.Helper()
	ctx := context.Background()
	docs := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := docs.Decode(o); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			a.t.Fatalf("%v in %s", err, manifest)
		}
		if o.Object == nil {
			continue
		}
		r := a.resource(o.GetAPIVersion(), o.GetKind(), o.GetNamespace())
		_, err := r.Create(ctx, o, metav1.CreateOptions{})
		for range 20 {
			if !apierrors.IsAlreadyExists(err) && !apierrors.IsConflict(err) {
				break
			}
			var is *unstructured.Unstructured
			is, err = r.Get(ctx, o.GetName(), metav1.GetOptions{})
			must(a.t, err)
			o.SetResourceVersion(is.GetResourceVersion())
			if ip, ok, _ := unstructured.NestedString(is.Object, "spec", "clusterIP"); ok {
				must(a.t, unstructured.SetNestedField(o.Object, ip, "spec", "clusterIP"))
			}
			_, err = r.Update(ctx, o, metav1.UpdateOptions{})
		}
		if err != nil {
			a.t.Fatalf("%v in %s", err, manifest)
		}
	}
}

// remove deletes an object.
func (a *api) remove(apiVersion, kind, namespace, name string) {
	a.t.Helper()
	must(a.t, a.resource(apiVersion, kind, namespace).Delete(context.Background(), name, metav1.DeleteOptions{}))
}

// following starts a source at an API server; the test's end ends it and waits for it.
func following(t testing.TB, c Config, change ...func(*Source)) *Source {
	t.Helper()
	k, stop := followingUntil(t, c, change...)
	t.Cleanup(stop)
	return k
}

func followingUntil(t testing.TB, c Config, change ...func(*Source)) (*Source, func()) {
	t.Helper()
	if c.Log == nil {
		var log bytes.Buffer
		var mu sync.Mutex
		c.Log = slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(p)
		}), &slog.HandlerOptions{Level: slog.LevelDebug}))
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("log:\n%s", &log)
			}
		})
	}
	k, err := New(c)
	must(t, err)
	for _, f := range change {
		f(k)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	var once sync.Once
	return k, func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				must(t, err)
			case <-time.After(time.Minute):
				t.Error("Run does not end")
			}
		})
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// get returns an object that a mirror has.
func get[P any](m *sourcetest.Mirror, kind cluster.Kind, namespace, name string) P {
	o, _ := m.Objects[cluster.Key{Kind: kind, Namespace: namespace, Name: name}].(P)
	return o
}

const routeManifest = `
apiVersion: route.openshift.io/v1
kind: Route
metadata: {name: %[2]s, namespace: %[1]s, annotations: {note: %[3]q}}
spec: {host: %[2]s.%[1]s.example, to: {kind: Service, name: app}%[4]s}
`

func aRoute(namespace, name, note, more string) string {
	return fmt.Sprintf(routeManifest, namespace, name, note, more)
}

func aNamespace(name string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {team: a}, annotations: {a: b}}}", name)
}

func aService(namespace, name string, port int) string {
	return fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: %[2]s, namespace: %[1]s}, spec: {ports: [{name: http, port: %[3]d}]}}", namespace, name, port)
}

func aSlice(namespace, name, address, more string) string {
	return fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[2]s, namespace: %[1]s, labels: {kubernetes.io/service-name: app, other: x}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [%[3]s], conditions: {ready: true}%[4]s}]
`, namespace, name, address, more)
}

func aSecret(namespace, name, value string) string {
	v := base64.StdEncoding.EncodeToString([]byte(value))
	return fmt.Sprintf("{apiVersion: v1, kind: Secret, type: kubernetes.io/tls, metadata: {name: %s, namespace: %s}, data: {tls.crt: %s, tls.key: %s, other: %s}}", name, namespace, v, v, v)
}

const external = ", tls: {termination: edge, externalCertificate: {name: %s}}"

// Every kind: created, changed, changed where nobody looks, and deleted. Each arrives once, stripped of
// what nobody reads, with the documented rights and no others.
func TestFollows(t *testing.T) {
	t.Parallel()
	a, config := sharedServer(t)
	ns := "follows"
	k := following(t, Config{REST: config, Version: "test"})
	var m sourcetest.Mirror
	m.Until(t, k, "synced", m.Synchronized)
	for _, f := range m.Faults {
		if !strings.Contains(f.Place, " ") { // a kind: objects are other tests'
			t.Fatalf("fault with the documented rights: %v", f)
		}
	}
	zone := "{apiVersion: tsuji.dev/v1alpha1, kind: Zone, metadata: {name: follows}, spec: {order: %d}}"
	controller := "{apiVersion: operator.openshift.io/v1, kind: IngressController, metadata: {name: follows, namespace: openshift-ingress-operator}, spec: {replicas: %d}}"
	for _, step := range []struct {
		what    string
		do      func()
		changes map[cluster.Key]int
		ok      func() bool
	}{
		{"created", func() {
			a.apply(aNamespace(ns) + "\n---\n" + aService(ns, "app", 80) + "\n---\n" + aSlice(ns, "app-1", "10.1.1.1", "") + "\n---\n" + aRoute(ns, "r", "1", ""))
			a.apply(fmt.Sprintf(zone, 1) + "\n---\n" + fmt.Sprintf(controller, 1))
		}, map[cluster.Key]int{
			{Kind: cluster.Namespace, Name: ns}: 1, {Kind: cluster.Service, Namespace: ns, Name: "app"}: 1, {Kind: cluster.EndpointSlice, Namespace: ns, Name: "app-1"}: 1, {Kind: cluster.Route, Namespace: ns, Name: "r"}: 1,
			{Kind: cluster.ZoneKind, Name: "follows"}: 1, {Kind: cluster.IngressController, Namespace: "openshift-ingress-operator", Name: "follows"}: 1,
		}, func() bool { return true }},
		{"changed", func() {
			a.apply(aRoute(ns, "r", "2", "") + "\n---\n" + aService(ns, "app", 81) + "\n---\n" + aSlice(ns, "app-1", "10.1.1.2", ""))
			a.apply(fmt.Sprintf(zone, 2) + "\n---\n" + fmt.Sprintf(controller, 2))
		}, map[cluster.Key]int{
			{Kind: cluster.Service, Namespace: ns, Name: "app"}: 2, {Kind: cluster.EndpointSlice, Namespace: ns, Name: "app-1"}: 2, {Kind: cluster.Route, Namespace: ns, Name: "r"}: 2,
			{Kind: cluster.ZoneKind, Name: "follows"}: 2, {Kind: cluster.IngressController, Namespace: "openshift-ingress-operator", Name: "follows"}: 2,
		}, func() bool {
			ic := get[*operatorv1.IngressController](&m, cluster.IngressController, "openshift-ingress-operator", "follows")
			z := get[*cluster.Zone](&m, cluster.ZoneKind, "", "follows")
			return *ic.Spec.Replicas == 2 && z.Spec.Order == 2
		}},
		{"a status written", func() {
			a.status("route.openshift.io/v1", "Route", ns, "r", map[string]any{"ingress": []any{map[string]any{"host": "h", "routerName": "x"}}})
			a.apply(aRoute(ns, "other", "1", ""))
		}, map[cluster.Key]int{{Kind: cluster.Route, Namespace: ns, Name: "r"}: 2, {Kind: cluster.Route, Namespace: ns, Name: "other"}: 1}, func() bool { return true }},
		{"deleted", func() {
			a.remove("v1", "Service", ns, "app")
			a.remove("discovery.k8s.io/v1", "EndpointSlice", ns, "app-1")
			a.remove("tsuji.dev/v1alpha1", "Zone", "", "follows")
			a.remove("operator.openshift.io/v1", "IngressController", "openshift-ingress-operator", "follows")
			a.remove("route.openshift.io/v1", "Route", ns, "r")
		}, map[cluster.Key]int{
			{Kind: cluster.Service, Namespace: ns, Name: "app"}: 3, {Kind: cluster.EndpointSlice, Namespace: ns, Name: "app-1"}: 3, {Kind: cluster.Route, Namespace: ns, Name: "r"}: 3,
			{Kind: cluster.ZoneKind, Name: "follows"}: 3, {Kind: cluster.IngressController, Namespace: "openshift-ingress-operator", Name: "follows"}: 3,
		}, func() bool {
			for key := range m.Objects {
				if key.Namespace == ns && key.Name != "other" || key.Name == "follows" && key.Kind != cluster.Namespace {
					return false
				}
			}
			return true
		}},
	} {
		step.do()
		m.Until(t, k, step.what, func() bool { // each kind comes by a watch of its own
			for key, n := range step.changes {
				if m.Came[key] < n {
					return false
				}
			}
			return step.ok()
		})
		for key, n := range step.changes {
			if m.Came[key] != n {
				t.Errorf("%s: %s came %d times, want %d", step.what, key, m.Came[key], n)
			}
		}
		for _, o := range m.Objects {
			if len(o.GetManagedFields()) > 0 || o.GetGeneration() > 0 {
				t.Errorf("%s: not stripped: %v", step.what, o)
			}
		}
	}
	if n := get[*corev1.Namespace](&m, cluster.Namespace, "", ns); n.Labels["team"] != "a" || len(n.Annotations) > 0 {
		t.Errorf("namespace: %v", n)
	}
	o := m.Last.Observed
	if !strings.HasPrefix(o.GetEpoch(), "kube:") || len(o.GetKinds()) != len(cluster.Kinds())+1 {
		t.Errorf("observed: %v", o)
	}
	for _, kind := range o.GetKinds() {
		if kind.GetRevision() > m.Last.Revision || kind.GetRevision() == 0 && kind.GetKind() == "Route" {
			t.Errorf("observed of %s: %d, of all %d", kind.GetKind(), kind.GetRevision(), m.Last.Revision)
		}
	}
}

// status writes an object's status.
func (a *api) status(apiVersion, kind, namespace, name string, status map[string]any) {
	a.t.Helper()
	r := a.resource(apiVersion, kind, namespace)
	o, err := r.Get(context.Background(), name, metav1.GetOptions{})
	must(a.t, err)
	o.Object["status"] = status
	_, err = r.UpdateStatus(context.Background(), o, metav1.UpdateOptions{})
	must(a.t, err)
}

// A burst of changes is one batch, with each object as it is in the end.
func TestCoalesces(t *testing.T) {
	t.Parallel()
	a, config := sharedServer(t)
	ns := "coalesces"
	a.apply(aNamespace(ns))
	k := following(t, Config{REST: config})
	var m sourcetest.Mirror
	m.Until(t, k, "synced", m.Synchronized)
	for n := range 20 {
		a.apply(aRoute(ns, "r", fmt.Sprint(n), "") + "\n---\n" + aRoute(ns, "passing", fmt.Sprint(n), ""))
	}
	a.remove("route.openshift.io/v1", "Route", ns, "passing")
	a.apply(aRoute(ns, "last", "", ""))
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // without taking
		k.mu.Lock()
		_, ok := k.current.objects[cluster.Route][name{Namespace: ns, Name: "last"}]
		k.mu.Unlock()
		if ok {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the last Route did not come")
		}
	}
	before := m.Batches
	m.Until(t, k, "all", func() bool { return m.Came[cluster.Key{Kind: cluster.Route, Namespace: ns, Name: "last"}] == 1 })
	if m.Batches != before+1 || m.Came[cluster.Key{Kind: cluster.Route, Namespace: ns, Name: "r"}] != 1 || m.Came[cluster.Key{Kind: cluster.Route, Namespace: ns, Name: "passing"}] != 0 {
		t.Errorf("%d batches, changes %v", m.Batches-before, m.Came)
	}
	if r := get[*routev1.Route](&m, cluster.Route, ns, "r"); r.Annotations["note"] != "19" {
		t.Errorf("the Route is %v", r)
	}
	select {
	case <-k.Changed():
		if b, _ := k.Take(); len(b.Changes) == 0 && b.Revision == m.Last.Revision && slices.Equal(b.Faults, m.Faults) { // else it is another test's
			t.Error("there is something new that is nothing")
		}
	default:
	}
}

// Endpoints that do not say their zone have that of their node, which may come later and change; those that
// say it have their own.
func TestNodeZones(t *testing.T) {
	t.Parallel()
	a, config := sharedServer(t)
	ns := "zones"
	node := func(zone string) string {
		return fmt.Sprintf("{apiVersion: v1, kind: Node, metadata: {name: node-1, labels: {topology.kubernetes.io/zone: %s, other: x}}}", zone)
	}
	a.apply(aNamespace(ns) + "\n---\n" + aSlice(ns, "lacks", "10.1.1.1", ", nodeName: node-1") + "\n---\n" + aSlice(ns, "says", "10.1.1.1", ", nodeName: node-1, zone: own"))
	k := following(t, Config{REST: config})
	var m sourcetest.Mirror
	zone := func(slice string) string {
		s := get[*discoveryv1.EndpointSlice](&m, cluster.EndpointSlice, ns, slice)
		if s == nil || s.Endpoints[0].Zone == nil {
			return ""
		}
		return *s.Endpoints[0].Zone
	}
	m.Until(t, k, "synced", m.Synchronized)
	if zone("lacks") != "" {
		t.Errorf("zone %s without a node", zone("lacks"))
	}
	handedOut := get[*discoveryv1.EndpointSlice](&m, cluster.EndpointSlice, ns, "lacks").DeepCopy()
	before := get[*discoveryv1.EndpointSlice](&m, cluster.EndpointSlice, ns, "lacks")
	for _, want := range []string{"tok04", "tok05"} {
		a.apply(node(want))
		m.Until(t, k, "zone "+want, func() bool { return zone("lacks") == want })
	}
	a.status("v1", "Node", "", "node-1", map[string]any{"nodeInfo": nil, "phase": "Running"})
	a.apply(aSlice(ns, "lacks", "10.1.1.2", ", nodeName: node-1"))
	m.Until(t, k, "another address", func() bool {
		return m.Came[cluster.Key{Kind: cluster.EndpointSlice, Namespace: ns, Name: "lacks"}] == 4
	})
	if zone("lacks") != "tok05" {
		t.Errorf("a new endpoint has zone %q", zone("lacks"))
	}
	a.remove("v1", "Node", "", "node-1")
	m.Until(t, k, "no node", func() bool { return zone("lacks") == "" })
	if m.Came[cluster.Key{Kind: cluster.EndpointSlice, Namespace: ns, Name: "says"}] != 1 || zone("says") != "own" {
		t.Errorf("who says its zone came %d times with %s", m.Came[cluster.Key{Kind: cluster.EndpointSlice, Namespace: ns, Name: "says"}], zone("says"))
	}
	if !same(before, handedOut) {
		t.Error("a slice was modified after it was handed out")
	}
}

// An object that the API server lets in and Go's types do not is left out, alone, and told; one that becomes so stays as it was.
func TestOneBadObject(t *testing.T) {
	t.Parallel()
	a, config := sharedServer(t)
	ns := "bad"
	const huge = ", port: {targetPort: 99999999999}"
	a.apply(aNamespace(ns) + "\n---\n" + aRoute(ns, "bad", "1", huge) + "\n---\n" + aRoute(ns, "good", "1", ""))
	k := following(t, Config{REST: config})
	var m sourcetest.Mirror
	m.Until(t, k, "synced", m.Synchronized)
	if get[*routev1.Route](&m, cluster.Route, ns, "good") == nil || get[*routev1.Route](&m, cluster.Route, ns, "bad") != nil {
		t.Errorf("objects: %v", m.Objects)
	}
	if f := m.FaultAt("Route bad/bad"); !strings.Contains(f, "spec.port.targetPort") || !strings.Contains(f, "left out") {
		t.Errorf("fault: %s", f)
	}
	a.apply(aRoute(ns, "good", "2", huge))
	m.Until(t, k, "worse", func() bool { return m.FaultAt("Route bad/good") != "" })
	if f := m.FaultAt("Route bad/good"); !strings.Contains(f, "stays as it was") || get[*routev1.Route](&m, cluster.Route, ns, "good").Annotations["note"] != "1" {
		t.Errorf("fault: %s", f)
	}
	a.apply(aRoute(ns, "good", "3", ""))
	m.Until(t, k, "mended", func() bool {
		return m.FaultAt("Route bad/good") == "" && get[*routev1.Route](&m, cluster.Route, ns, "good").Annotations["note"] == "3"
	})
	a.remove("route.openshift.io/v1", "Route", ns, "bad")
	m.Until(t, k, "gone", func() bool { return m.FaultAt("Route bad/bad") == "" })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
