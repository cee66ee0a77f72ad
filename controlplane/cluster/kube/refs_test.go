package kube

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	routev1 "github.com/openshift/api/route/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/test/sourcetest"
)

// impatient makes a source ask again soon for what it may not read, and wait for what it may.
func impatient(k *Source) {
	k.timing.forbidden, k.timing.forbiddenMax = 200*time.Millisecond, 200*time.Millisecond
	k.timing.absent, k.timing.hold = 200*time.Millisecond, time.Hour
}

// A Secret is watched, by itself, while a Route refers to it: it appears, changes, vanishes; it may not be
// read, and then may. Others are never asked for.
func TestSecrets(t *testing.T) {
	t.Parallel()
	a, config := sharedServer(t)
	ns := "secrets"
	a.apply(aNamespace(ns))
	a.allow(config, ns, "one", "two")
	a.apply(aSecret(ns, "one", "1") + "\n---\n" + aSecret(ns, "hidden", "1") + "\n---\n" + aSecret(ns, "unused", "1") + "\n---\n" +
		aRoute(ns, "a", "", fmt.Sprintf(external, "one")) + "\n---\n" + aRoute(ns, "b", "", fmt.Sprintf(external, "one")))
	var asked asking
	k := following(t, Config{REST: asked.wrap(config)}, impatient)
	var m sourcetest.Mirror
	secret := func(name string) *corev1.Secret { return get[*corev1.Secret](&m, cluster.Secret, ns, name) }
	m.Until(t, k, "synced", m.Synchronized)
	if s := secret("one"); s == nil || string(s.Data["tls.crt"]) != "1" || s.Data["other"] != nil || s.Type != corev1.SecretTypeTLS {
		t.Fatalf("synced without the Secret that is referred to: %v", s)
	}
	a.apply(aSecret(ns, "one", "2"))
	m.Until(t, k, "changed", func() bool { return string(secret("one").Data["tls.crt"]) == "2" })
	a.remove("v1", "Secret", ns, "one")
	m.Until(t, k, "vanished", func() bool { return secret("one") == nil })
	a.apply(aSecret(ns, "one", "3"))
	m.Until(t, k, "back", func() bool { return secret("one") != nil && string(secret("one").Data["tls.crt"]) == "3" })

	// A Route turns to another Secret: never is it without one.
	a.apply(aSecret(ns, "two", "2"))
	turn := func(r, to string) {
		t.Helper()
		a.apply(aRoute(ns, r, "", fmt.Sprintf(external, to)))
		m.Until(t, k, r+" turned to "+to, func() bool {
			now := get[*routev1.Route](&m, cluster.Route, ns, r).Spec.TLS.ExternalCertificate.Name
			if secret(now) == nil {
				t.Fatalf("route %s was handed out without its Secret %s", r, now)
			}
			return now == to
		})
	}
	turn("a", "two")
	turn("b", "two")
	a.remove("route.openshift.io/v1", "Route", ns, "b")
	m.Until(t, k, "b is gone", func() bool { return get[*routev1.Route](&m, cluster.Route, ns, "b") == nil })
	for range 5 {
		turn("a", "one")
		turn("a", "two")
	}
	m.Until(t, k, "the Secret that was left", func() bool { return secret("one") == nil })

	// One that may not be read.
	a.awaitRight(config, authorizationv1.ResourceAttributes{Resource: "secrets", Namespace: ns, Name: "hidden"}, false)
	a.apply(aRoute(ns, "c", "", fmt.Sprintf(external, "hidden")))
	m.Until(t, k, "forbidden", func() bool {
		return m.FaultAt("Secret secrets/hidden") != "" && m.Came[cluster.Key{Kind: cluster.Route, Namespace: ns, Name: "c"}] == 1
	})
	if f := m.FaultAt("Secret secrets/hidden"); !strings.Contains(f, "forbidden") || !strings.Contains(f, "resourceNames: [hidden]") {
		t.Errorf("fault: %s", f)
	}
	if u := get[*cluster.Unread](&m, cluster.Secret, ns, "hidden"); u == nil || u.Why != "the control plane is not allowed to" {
		t.Errorf("the Secret that may not be read: %v", u)
	}
	again, stop := followingUntil(t, Config{REST: config})
	var m2 sourcetest.Mirror
	m2.Until(t, again, "synced though a Secret may not be read", m2.Synchronized)
	stop()
	a.apply(mayRead(ns, "hidden"))
	defer a.remove("rbac.authorization.k8s.io/v1", "RoleBinding", ns, "read-hidden") // -count=2 finds the API server as it is left
	m.Until(t, k, "allowed", func() bool { return m.FaultAt("Secret secrets/hidden") == "" && secret("hidden") != nil })

	// Nobody refers to any.
	for _, r := range []string{"a", "c"} {
		a.remove("route.openshift.io/v1", "Route", ns, r)
	}
	m.Until(t, k, "no references", func() bool { return secret("two") == nil && secret("hidden") == nil })
	k.mu.Lock()
	for key := range k.current.refs {
		if key.Namespace == ns {
			t.Errorf("%s is still watched", key)
		}
	}
	k.mu.Unlock()
	for _, q := range asked.queries() {
		if strings.Contains(q, "/secrets") && (strings.Contains(q, "unused") || !strings.Contains(q, "fieldSelector=metadata.name")) {
			t.Errorf("asked for %s", q)
		}
	}
}

// An object that takes too long is waited for, and not for ever: neither at first, nor when a Route turns to it.
func TestSlowSecret(t *testing.T) {
	t.Parallel()
	a, _ := sharedServer(t)
	release := make(chan struct{})
	config := intercept(a.server.Config(), func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		if strings.Contains(r.URL.Path, "/secrets") {
			select {
			case <-release:
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}
		return next.RoundTrip(r)
	})

	ns := "held"
	a.apply(aNamespace(ns) + "\n---\n" + aRoute(ns, "b", "1", ""))
	patient := following(t, Config{REST: config, Namespace: ns}, func(k *Source) { k.timing.hold = time.Hour })
	var held sourcetest.Mirror
	held.Until(t, patient, "synced", held.Synchronized)
	a.apply(aRoute(ns, "b", "2", fmt.Sprintf(external, "slower")))
	a.apply(aRoute(ns, "c", "", "")) // which comes behind it
	held.Until(t, patient, "who refers to nothing", func() bool { return get[*routev1.Route](&held, cluster.Route, ns, "c") != nil })
	if note := get[*routev1.Route](&held, cluster.Route, ns, "b").Annotations["note"]; note != "1" {
		t.Error("a Route was handed out without its Secret at once")
	}

	ns = "slow"
	a.apply(aNamespace(ns) + "\n---\n" + aRoute(ns, "a", "", fmt.Sprintf(external, "slow")) + "\n---\n" + aRoute(ns, "b", "1", "") + "\n---\n" + aSecret(ns, "slow", "1"))
	k := following(t, Config{REST: config, Namespace: ns}, func(k *Source) { k.timing.hold, k.timing.tick = 300*time.Millisecond, 50*time.Millisecond })
	var m sourcetest.Mirror
	m.Until(t, k, "synced", m.Synchronized)
	a.apply(aRoute(ns, "b", "2", fmt.Sprintf(external, "slower")))
	m.Until(t, k, "waited for long enough", func() bool { return get[*routev1.Route](&m, cluster.Route, ns, "b").Annotations["note"] == "2" })
	if get[*corev1.Secret](&m, cluster.Secret, ns, "slow") != nil {
		t.Error("the Secret was there")
	}
	close(release)
	m.Until(t, k, "the Secret", func() bool { return get[*corev1.Secret](&m, cluster.Secret, ns, "slow") != nil })
}

// asking notes what is asked of the API server.
type asking struct {
	mu   sync.Mutex
	urls []string
}

func (a *asking) wrap(c *rest.Config) *rest.Config {
	return intercept(c, func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		a.mu.Lock()
		a.urls = append(a.urls, r.Method+" "+r.URL.RequestURI())
		a.mu.Unlock()
		return next.RoundTrip(r)
	})
}

// intercept has do make the requests.
func intercept(c *rest.Config, do func(r *http.Request, next http.RoundTripper) (*http.Response, error)) *rest.Config {
	c = rest.CopyConfig(c)
	c.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper{func(r *http.Request) (*http.Response, error) { return do(r, next) }, next}
	})
	return c
}

func (a *asking) queries() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.urls)
}

type roundTripper struct {
	do   func(*http.Request) (*http.Response, error)
	next http.RoundTripper
}

func (r roundTripper) RoundTrip(q *http.Request) (*http.Response, error) { return r.do(q) }
func (r roundTripper) WrappedRoundTripper() http.RoundTripper            { return r.next }

// What an IngressController names is watched where OpenShift looks for it.
func TestControllersReferences(t *testing.T) {
	t.Parallel()
	a, _ := sharedServer(t)
	a.apply(aNamespace("openshift-ingress") + "\n---\n" + aNamespace("openshift-config") + "\n---\n" + aSecret("openshift-ingress", "refs-default", "1") + `
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: refs-pages, namespace: openshift-config}, data: {a: b}}
---
apiVersion: operator.openshift.io/v1
kind: IngressController
metadata: {name: refs, namespace: openshift-ingress-operator}
spec: {defaultCertificate: {name: refs-default}, httpErrorCodePages: {name: refs-pages}, clientTLS: {clientCA: {name: refs-ca}, clientCertificatePolicy: Optional}}
`)
	k := following(t, Config{REST: a.server.Config()})
	var m sourcetest.Mirror
	m.Until(t, k, "synced", m.Synchronized)
	if get[*corev1.Secret](&m, cluster.Secret, "openshift-ingress", "refs-default") == nil || get[*corev1.ConfigMap](&m, cluster.ConfigMap, "openshift-config", "refs-pages") == nil {
		t.Fatalf("objects %v, faults %v", m.Objects, m.Faults)
	}
	a.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: refs-ca, namespace: openshift-config}, data: {a: b}}")
	m.Until(t, k, "the one that was not there", func() bool {
		return get[*corev1.ConfigMap](&m, cluster.ConfigMap, "openshift-config", "refs-ca") != nil
	})
	a.remove("operator.openshift.io/v1", "IngressController", "openshift-ingress-operator", "refs")
	m.Until(t, k, "gone", func() bool {
		return get[*corev1.Secret](&m, cluster.Secret, "openshift-ingress", "refs-default") == nil && get[*corev1.ConfigMap](&m, cluster.ConfigMap, "openshift-config", "refs-ca") == nil
	})
}

// restricted are the rights that a source needs that is restricted to namespace inside.
const restricted = `
{apiVersion: v1, kind: ServiceAccount, metadata: {name: restricted, namespace: tsuji}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: restricted}
rules:
- {apiGroups: [""], resources: [namespaces], resourceNames: [inside, kube-system], verbs: [list, watch]}
- {apiGroups: [""], resources: [nodes], verbs: [list, watch]}
- {apiGroups: [networking.k8s.io], resources: [ingressclasses], verbs: [list, watch]}
- {apiGroups: [config.openshift.io], resources: [ingresses], resourceNames: [cluster], verbs: [list, watch]}
- {apiGroups: [tsuji.dev], resources: [zones], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: restricted}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: restricted}
subjects: [{kind: ServiceAccount, name: restricted, namespace: tsuji}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: restricted, namespace: inside}
rules:
- {apiGroups: [route.openshift.io], resources: [routes], verbs: [list, watch]}
- {apiGroups: [""], resources: [services, secrets], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
- {apiGroups: [networking.k8s.io], resources: [ingresses], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: restricted, namespace: inside}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: restricted}
subjects: [{kind: ServiceAccount, name: restricted, namespace: tsuji}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: restricted, namespace: openshift-ingress-operator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: controlplane}
subjects: [{kind: ServiceAccount, name: restricted, namespace: tsuji}]
`

// A source that is restricted to a namespace needs rights in that one, and sees that one.
func TestOneNamespace(t *testing.T) {
	t.Parallel()
	a, _ := sharedServer(t)
	a.apply(aNamespace("inside") + "\n---\n" + aNamespace("outside") + "\n---\n" + restricted)
	for _, ns := range []string{"inside", "outside"} {
		a.apply(aRoute(ns, "r", "", fmt.Sprintf(external, "s")) + "\n---\n" + aService(ns, "app", 80) + "\n---\n" + aSlice(ns, "app-1", "10.1.1.1", "") + "\n---\n" + aSecret(ns, "s", "1"))
	}
	k := following(t, Config{REST: a.as("restricted"), Namespace: "inside"})
	if k.String() != "kube:inside" {
		t.Errorf("named %s", k)
	}
	var m sourcetest.Mirror
	m.Until(t, k, "synced", m.Synchronized)
	if len(m.Faults) > 0 {
		t.Errorf("faults: %v", m.Faults)
	}
	var have []string
	for key := range m.Objects {
		if key.Kind != cluster.IngressController && key.Kind != cluster.ZoneKind && key.Kind != cluster.IngressClass && key.Kind != cluster.IngressConfig { // other tests'
			have = append(have, key.String())
		}
	}
	slices.Sort(have)
	if want := []string{"EndpointSlice inside/app-1", "Namespace inside", "Route inside/r", "Secret inside/s", "Service inside/app"}; !slices.Equal(have, want) {
		t.Errorf("has %v, want %v", have, want)
	}
}

// Without any one of the documented rights, a fault says which, and nothing is handed out before it is
// there, but for the right to see nodes. When a right is taken away later, everything stays.
func TestEveryRight(t *testing.T) {
	t.Parallel()
	a, _ := sharedServer(t)
	a.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: short, namespace: tsuji}}\n---\n" + strings.ReplaceAll(strings.ReplaceAll(rights,
		"metadata: {name: controlplane", "metadata: {name: short"), "name: controlplane", "name: short"))
	short := a.as("short")
	line := newRelay(t, short)
	roles := a.resource("rbac.authorization.k8s.io/v1", "ClusterRole", "")
	patch := func(rules string) {
		t.Helper()
		_, err := roles.Patch(context.Background(), "short", types.MergePatchType, []byte(`{"rules":[`+rules+`]}`), metav1.PatchOptions{})
		must(t, err)
	}
	all := map[string]authorizationv1.ResourceAttributes{
		"Route": {Group: "route.openshift.io", Resource: "routes"}, "Service": {Resource: "services"}, "Namespace": {Resource: "namespaces"},
		"EndpointSlice": {Group: "discovery.k8s.io", Resource: "endpointslices"}, "Zone": {Group: "tsuji.dev", Resource: "zones"}, "Node": {Resource: "nodes"},
		"Ingress": {Group: "networking.k8s.io", Resource: "ingresses"}, "IngressClass": {Group: "networking.k8s.io", Resource: "ingressclasses"},
	}
	allBut := func(without string) string {
		var rules []string
		for kind, r := range all {
			if kind != without {
				rules = append(rules, fmt.Sprintf(`{"apiGroups":[%q],"resources":[%q],"verbs":["list","watch"]}`, r.Group, r.Resource))
			}
		}
		return strings.Join(rules, ",")
	}
	without := func(kind string) {
		t.Helper()
		patch(allBut(kind))
		a.awaitRight(short, all[kind], false)
	}
	const ns = "rights"
	a.apply(aNamespace(ns) + "\n---\n" + aRoute(ns, "r", "", "") + "\n---\n" + aService(ns, "app", 80) + "\n---\n" + aSlice(ns, "app-1", "10.1.1.1", ", nodeName: rights") + `
---
{apiVersion: tsuji.dev/v1alpha1, kind: Zone, metadata: {name: rights}, spec: {order: 1}}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: rights}, spec: {controller: example.com/other}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i, namespace: rights}, spec: {ingressClassName: rights, defaultBackend: {service: {name: app, port: {number: 80}}}}}
---
{apiVersion: v1, kind: Node, metadata: {name: rights, labels: {topology.kubernetes.io/zone: tok04}}}
`)
	own := func(m *sourcetest.Mirror) string { // what is there of this test
		var out []string
		for key, o := range m.Objects {
			if key.Namespace != ns && key.Name != ns {
				continue
			}
			out = append(out, key.String())
			if s, ok := o.(*discoveryv1.EndpointSlice); ok && s.Endpoints[0].Zone != nil {
				out = append(out, "zone "+*s.Endpoints[0].Zone)
			}
		}
		slices.Sort(out)
		return strings.Join(out, ", ")
	}
	const want = "EndpointSlice rights/app-1, Ingress rights/i, IngressClass rights, Namespace rights, Route rights/r, Service rights/app, Zone rights, zone tok04"
	for kind := range all {
		without(kind)
		k, stop := followingUntil(t, Config{REST: line.config}, impatient)
		var m sourcetest.Mirror
		m.Until(t, k, "fault without "+kind, func() bool { return strings.Contains(m.FaultAt(kind), "allow the verbs list and watch") })
		if kind == "Node" {
			m.Until(t, k, "synced without "+kind, m.Synchronized)
		} else if m.Synced {
			t.Errorf("synced without %s", kind)
		}
		patch(allBut(""))
		m.Until(t, k, "synced with "+kind, func() bool { return m.Synced && m.FaultAt(kind) == "" && own(&m) == want })
		without(kind)
		line.cut()
		m.Until(t, k, "fault without "+kind, func() bool { return m.FaultAt(kind) != "" })
		if have := own(&m); have != want {
			t.Errorf("without %s there are %s, and were %s", kind, have, want)
		}
		stop()
	}
}
