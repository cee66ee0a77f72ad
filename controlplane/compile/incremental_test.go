package compile_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// crowd is n Routes with a Service, endpoints and, every tenth, a certificate each.
func crowd(t testing.TB, n int) []cluster.Change {
	t.Helper()
	leaf, key := readCert(t, "leaf.crt"), readCert(t, "leaf.key")
	var changes []cluster.Change
	for i := range n {
		r := crowdRoute(i)
		if i%10 == 0 {
			r.Spec.TLS = &routev1.TLSConfig{Termination: routev1.TLSTerminationEdge, Certificate: leaf, Key: key}
		}
		changes = append(changes, put(r), put(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: r.Name}}), put(crowdSlice(i, 1)))
	}
	return changes
}

func crowdRoute(i int) *routev1.Route {
	r := &routev1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("ns%d", i/10), Name: fmt.Sprintf("app%d", i)}}
	r.Spec.Host = fmt.Sprintf("app%d.example.com", i)
	r.Spec.To = routev1.RouteTargetReference{Kind: "Service", Name: r.Name}
	return r
}

func crowdSlice(i, last int) *discoveryv1.EndpointSlice {
	name, port := "http", int32(8080)
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("ns%d", i/10), Name: fmt.Sprintf("app%d-1", i),
			Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("app%d", i)},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
	}
	for j := range 3 {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.%d.%d.%d", j, last/250, 1+last%250)},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: fmt.Sprintf("app%d-%d", i, j)},
		})
	}
	return s
}

// difference names what differs between two results, "-" in front of what is gone.
func difference(from, to compile.Result) []string {
	d := snapshot.Diff(snapshot.New(0, from.Config, from.Facts), snapshot.New(0, to.Config, to.Facts))
	var names []string
	for _, i := range d.Put {
		names = append(names, i.Name())
	}
	for _, n := range d.Removed {
		names = append(names, "-"+n)
	}
	slices.Sort(names)
	return names
}

// Three Routes arrive that must not be served: each is refused by itself, and not one of the hundred that
// are there differs by a byte.
func TestBadRoutesHarmNobody(t *testing.T) {
	t.Parallel()
	c := compile.New(compile.Config{})
	before := c.Apply(crowd(t, 100))
	if len(before.Verdicts) != 100 {
		t.Fatalf("%d verdicts", len(before.Verdicts))
	}
	for _, v := range before.Verdicts {
		if !v.GetAdmitted() {
			t.Errorf("%s/%s is refused: %s", v.GetNamespace(), v.GetName(), v.GetMessage())
		}
	}
	after := c.Apply(changesOf(t, `
kind: Route
metadata: {namespace: ns1, name: broken-certificate}
spec: {host: bad1.example.com, to: {name: app10}, tls: {termination: edge, certificate: "@leaf.crt", key: "@rsa.key"}}
---
kind: Route
metadata: {namespace: ns1, name: hostile-path}
spec: {host: bad2.example.com, path: "/a\n  use_backend other", to: {name: app10}}
---
kind: Route
metadata: {namespace: ns1, name: newline-in-option, annotations: {haproxy.router.openshift.io/balance: "source\n  server evil 10.0.0.1:1"}}
spec: {host: bad3.example.com, to: {name: app10}}
`))
	if d := difference(before, after); len(d) > 0 {
		t.Errorf("they changed %v", d)
	}
	for i, want := range []string{"spec.tls.key", "spec.path", "metadata.annotations[haproxy.router.openshift.io/balance]"} {
		v := after.Verdicts[i]
		if v.GetAdmitted() || v.GetReason() != "ExtendedValidationFailed" || !strings.Contains(v.GetMessage(), want) {
			t.Errorf("%s: %v", want, v)
		}
	}
}

// Change by change: what differs in the snapshot, and whose verdict, and nothing else.
func TestOneChangeTouchesItsOwn(t *testing.T) {
	t.Parallel()
	c := compile.New(compile.Config{})
	last := c.Apply(changesOf(t, `
kind: Route
metadata: {namespace: ns1, name: a, creationTimestamp: "2024-01-02T00:00:00Z"}
spec: {host: a.example.com, to: {name: web}, port: {targetPort: http}}
---
kind: Route
metadata: {namespace: ns1, name: b, creationTimestamp: "2024-01-02T00:00:00Z"}
spec: {host: b.example.com, to: {name: web}, tls: {termination: edge, externalCertificate: {name: t}}}
---
kind: Route
metadata: {namespace: ns1, name: c, creationTimestamp: "2024-01-02T00:00:00Z"}
spec: {host: c.example.com, to: {name: web}, tls: {termination: edge, externalCertificate: {name: t}}}
---
kind: Service
metadata: {namespace: ns1, name: web}
---
kind: Secret
metadata: {namespace: ns1, name: t}
type: kubernetes.io/tls
stringData: {tls.crt: "@leaf.crt", tls.key: "@leaf.key"}
---
kind: EndpointSlice
metadata: {namespace: ns1, name: web-6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080}]
endpoints: [{addresses: ["fd00::1"], targetRef: {kind: Pod, name: p}}]
`))
	step := func(what, manifests string, want ...string) {
		t.Helper()
		var next compile.Result
		if name, ok := strings.CutPrefix(manifests, "gone: "); ok {
			kind, name, _ := strings.Cut(name, " ")
			next = c.Apply([]cluster.Change{{Key: cluster.Key{Kind: cluster.Kind(kind), Namespace: "ns1", Name: name}}})
		} else {
			next = c.Apply(changesOf(t, manifests))
		}
		got := difference(last, next)
		for _, v := range next.Verdicts {
			got = append(got, strings.TrimSuffix(fmt.Sprintf("%s: %t %s", v.GetName(), v.GetAdmitted(), v.GetReason()), " "))
		}
		for _, k := range next.Removed {
			got = append(got, "no verdict: "+k.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", what, got, want)
		}
		last = next
	}
	step("an EndpointSlice: the Service's Endpoints, for each port asked for", `
kind: EndpointSlice
metadata: {namespace: ns1, name: web-4, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: p}}]
`, "endpoints/ns1/web/*", "endpoints/ns1/web/http")
	step("the Service is of two families now: the Pod counts once", `
kind: Service
metadata: {namespace: ns1, name: web}
spec: {ipFamilies: [IPv4, IPv6]}
`, "endpoints/ns1/web/*", "endpoints/ns1/web/http")
	step("something of the Service that is not used", `
kind: Service
metadata: {namespace: ns1, name: web, labels: {a: b}}
spec: {ipFamilies: [IPv4, IPv6], clusterIP: 10.1.1.1}
`)
	step("a renewed Secret: one Certificate, no Route", `
kind: Secret
metadata: {namespace: ns1, name: t}
type: kubernetes.io/tls
stringData: {tls.crt: "@renewed.crt", tls.key: "@renewed.key"}
`, "cert/ns1/secret:t")
	step("the Secret vanishes: the verdicts on Routes that use it", "gone: Secret t", "b: true", "c: true")
	step("one turns to another that is not there: it alone", `
kind: Route
metadata: {namespace: ns1, name: b, creationTimestamp: "2024-01-02T00:00:00Z"}
spec: {host: b.example.com, to: {name: web}, tls: {termination: edge, externalCertificate: {name: u}}}
`, "-route/ns1/b", "b: false ExternalCertificateValidationFailed")
	step("the last one that uses it goes, and with it what it referred to", "gone: Route c",
		"-cert/ns1/secret:t", "-endpoints/ns1/web/*", "-route/ns1/c", "no verdict: c")
	step("an older Route for a host, in another namespace", `
kind: Route
metadata: {namespace: ns0, name: older, creationTimestamp: "2024-01-01T00:00:00Z"}
spec: {host: a.example.com, to: {name: web}}
`, "-endpoints/ns1/web/http", "-route/ns1/a", "endpoints/ns0/web/*", "route/ns0/older", "older: true", "a: false HostAlreadyClaimed")
	step("a Route whose verdict and content stay", `
kind: Route
metadata: {namespace: ns1, name: a, creationTimestamp: "2024-01-02T00:00:00Z", resourceVersion: "7"}
spec: {host: a.example.com, to: {name: web}, port: {targetPort: http}}
`)
	step("the cluster's own CA, which no Route is verified with", bundle("@ca.crt"))
	step("a Route that is", `
kind: Route
metadata: {namespace: ns1, name: d}
spec: {host: d.example.com, to: {name: asleep}, tls: {termination: reencrypt}}
`, "cert/openshift-ingress/configmap:service-ca-bundle", "endpoints/ns1/asleep/*", "route/ns1/d", "d: true")
	step("a renewed CA: one Certificate, no Route", bundle("@other-ca.crt"), "cert/openshift-ingress/configmap:service-ca-bundle")
	step("the CA is empty: what was good verifies on, and the owner knows", bundle(""), "d: true")
	step("its Service is idled: its Endpoints", `
kind: Service
metadata: {namespace: ns1, name: asleep, annotations: {idling.alpha.openshift.io/idled-at: now}}
spec: {clusterIP: 10.2.2.2, ports: [{port: 80}]}
`, "endpoints/ns1/asleep/*", "d: true")
	step("and its Route goes", "gone: Route d", "-cert/openshift-ingress/configmap:service-ca-bundle", "-endpoints/ns1/asleep/*", "-route/ns1/d", "no verdict: d")
	step("a Route that is refused goes", "gone: Route a", "no verdict: a")
	step("a Route that never was goes", "gone: Route z")
	step("a Service that no Route refers to", `
kind: Service
metadata: {namespace: ns1, name: other}
`)
	if _, ok := last.Config.Get(tsujiv1.SettingsName); !ok {
		t.Error("there are no settings")
	}
}

// bundle is the ConfigMap of the cluster's own CA.
func bundle(ca string) string {
	return fmt.Sprintf("kind: ConfigMap\nmetadata: {namespace: openshift-ingress, name: service-ca-bundle}\ndata: {service-ca.crt: %q}\n", ca)
}

func benchmarkOne(b *testing.B, n int, change func(i int) cluster.Change) {
	c := compile.New(compile.Config{})
	c.Apply(crowd(b, n))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c.Apply([]cluster.Change{change(i)})
	}
}

func BenchmarkCompileOneRoute(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			benchmarkOne(b, n, func(i int) cluster.Change {
				r := crowdRoute(7)
				r.Spec.Path = fmt.Sprintf("/%d", i)
				return put(r)
			})
		})
	}
}

func BenchmarkCompileOneEndpointSlice(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			benchmarkOne(b, n, func(i int) cluster.Change { return put(crowdSlice(7, i)) })
		})
	}
}

func BenchmarkCompileAll10000(b *testing.B) {
	all := crowd(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		compile.New(compile.Config{}).Apply(all)
	}
}
