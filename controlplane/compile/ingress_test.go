package compile_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

// madeOfI1 is the name of the Route that is made of an Ingress i1 for c.example.com/p.
const madeOfI1 = "i1-qalowdhcd7"

// ingress draws one that gets into the way of the universe's Routes.
func (u universe) ingress(t *rapid.T) metav1.Object {
	i := &networkingv1.Ingress{ObjectMeta: meta(t, "i1", "i2")}
	i.UID = types.UID(pick(t, "uid", "", "a", "b"))
	if age := pick(t, "age", 0, 1, 2, 3); age > 0 {
		i.CreationTimestamp = metav1.NewTime(time.Unix(int64(age)*1000, 0))
	}
	i.Labels = map[string]string{"shard": pick(t, "shard", "a", "b")}
	i.Annotations = map[string]string{}
	for k, v := range map[string]string{
		"route.openshift.io/termination":                       pick(t, "termination", "", "", "edge", "reencrypt", "passthrough", "wrong"),
		"route.openshift.io/destination-ca-certificate-secret": pick(t, "destination", "", "t1", "t2"),
		"tsuji.dev/insecure-edge-termination-policy":           pick(t, "policy", "", "Allow", "wrong"),
		"haproxy.router.openshift.io/timeout":                  pick(t, "timeout", "", "5s"),
		"kubernetes.io/ingress.class":                          pick(t, "class annotation", "", "", "c1"),
	} {
		if v != "" {
			i.Annotations[k] = v
		}
	}
	if c := pick(t, "class", "", "c1", "c2"); c != "" {
		i.Spec.IngressClassName = &c
	}
	if pick(t, "default", false, false, true) {
		i.Spec.DefaultBackend = &networkingv1.IngressBackend{}
	}
	for range pick(t, "rules", 0, 1, 1, 2) {
		r := networkingv1.IngressRule{Host: pick(t, "host", "a.w.example.com", "c.example.com", "*.w.example.com", "")}
		if pick(t, "http", true, true, false) {
			r.HTTP = &networkingv1.HTTPIngressRuleValue{}
			for range pick(t, "paths", 1, 2) {
				p := networkingv1.HTTPIngressPath{
					Path:     pick(t, "path", "", "/", "/p", "/p/"),
					PathType: pick(t, "type", nil, new(networkingv1.PathTypePrefix), new(networkingv1.PathTypePrefix), new(networkingv1.PathTypeImplementationSpecific), new(networkingv1.PathTypeExact)),
				}
				if pick(t, "backend", true, true, true, false) {
					p.Backend.Service = &networkingv1.IngressServiceBackend{
						Name: pick(t, "to", "s1", "s2"), Port: pick(t, "port", networkingv1.ServiceBackendPort{Number: 80}, networkingv1.ServiceBackendPort{Name: "http"}, networkingv1.ServiceBackendPort{Number: 8080}),
					}
				}
				r.HTTP.Paths = append(r.HTTP.Paths, p)
			}
		}
		i.Spec.Rules = append(i.Spec.Rules, r)
	}
	for range pick(t, "tls", 0, 0, 1, 2) {
		i.Spec.TLS = append(i.Spec.TLS, networkingv1.IngressTLS{
			Hosts: pick(t, "hosts", nil, []string{"a.w.example.com"}, []string{"c.example.com", "*.w.example.com"}), SecretName: pick(t, "secret", "", "t1", "t2"),
		})
	}
	return i
}

func (u universe) ingressClass(t *rapid.T) metav1.Object {
	c := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: pick(t, "name", "c1", "c2")}}
	c.Spec.Controller = pick(t, "controller", cluster.IngressClassController, cluster.OpenShiftIngressClassController, "example.com/other")
	if pick(t, "default", false, true) {
		c.Annotations = map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}
	}
	return c
}

// shop is an Ingress with a rule of one path for each service and port.
const shop = `
kind: Service
metadata: {namespace: ns1, name: web}
spec: {ports: [{name: http, port: 80}, {name: admin, port: 8081}]}
---
kind: Service
metadata: {namespace: ns1, name: plain}
spec: {ports: [{port: 80}]}
---
kind: Secret
metadata: {namespace: ns1, name: t}
type: kubernetes.io/tls
stringData: {tls.crt: "@leaf.crt", tls.key: "@leaf.key"}
---
kind: Secret
metadata: {namespace: ns1, name: ca}
type: Opaque
stringData: {tls.crt: "@ca.crt"}
---
`

// ingressOf is one with those annotations and that spec.
func ingressOf(annotations, spec string) string {
	return fmt.Sprintf("kind: Ingress\nmetadata: {namespace: ns1, name: i, creationTimestamp: \"2024-01-02T00:00:00Z\", annotations: {%s}}\nspec: {%s}\n", annotations, spec)
}

const onePath = `rules: [{host: a.example.com, http: {paths: [{path: /a, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]`

// What becomes of each rule: the Route that is served, or why there is none.
func TestIngressRules(t *testing.T) {
	t.Parallel()
	path := func(path string) string { return strings.Replace(onePath, "{path: /a, pathType: Prefix", "{"+path, 1) }
	service := func(service string) string {
		return strings.Replace(onePath, "{name: web, port: {number: 80}}", service, 1)
	}
	tls := func(tls string) string { return onePath + ", tls: [" + tls + "]" }
	for _, c := range []struct{ what, annotations, spec, want string }{
		{"a path", "", onePath, "a.example.com/a insecure → web/http"},
		{"a Prefix with a slash at its end means itself, too", "", path("path: /a/, pathType: Prefix"), "a.example.com/a insecure → web/http"},
		{"a Prefix of everything", "", path("path: /, pathType: Prefix"), "a.example.com/ insecure → web/http"},
		{"ImplementationSpecific is as a Route's path", "", path("path: /a/, pathType: ImplementationSpecific"), "a.example.com/a/ insecure → web/http"},
		{"no path", "", path("pathType: ImplementationSpecific"), "a.example.com/ insecure → web/http"},
		{"Exact", "", path("path: /a, pathType: Exact"), "a.example.com/a exactly insecure → web/http"},
		{"Exact with a slash at its end", "", path("path: /a/, pathType: Exact"), "a.example.com/a/ exactly insecure → web/http"},
		{"Exact of slashes only", "", path("path: //, pathType: Exact"), "a.example.com// exactly insecure → web/http"},
		{"Exact without a path", "", path("pathType: Exact"), "IncompleteIngressToRouteRules: spec.rules[0].http.paths[0].path: Required value: an exact path must be given"},
		{"another type", "", path("path: /a, pathType: exact"), `IncompleteIngressToRouteRules: spec.rules[0].http.paths[0].pathType: Unsupported value: "exact": supported values: "Exact", "Prefix", "ImplementationSpecific"`},
		{"passthrough of an exact path", "route.openshift.io/termination: passthrough", path("path: /, pathType: Exact"), `ExtendedValidationFailed: spec.path: Invalid value: "/": passthrough termination does not support paths`},
		{"a path that no request can have", "", path(`path: "/a b", pathType: ImplementationSpecific`), `ExtendedValidationFailed: spec.path: Invalid value: "/a b": path cannot contain # or spaces: percent-encode them`},
		{"a port by name", "", service("{name: web, port: {name: admin}}"), "a.example.com/a insecure → web/admin"},
		{"a port without a name is any", "", service("{name: plain, port: {number: 80}}"), "a.example.com/a insecure → plain/*"},
		{"a port that the Service has not", "", service("{name: web, port: {number: 81}}"), `IncompleteIngressToRouteRules: spec.rules[0].http.paths[0].backend.service.port: Invalid value: "81": Service "web" has no such port`},
		{"a Service that does not exist", "", service("{name: later, port: {number: 81}}"), "a.example.com/a insecure → later/81"},
		{"no Service", "", strings.Replace(onePath, "service: {name: web, port: {number: 80}}", "resource: {kind: Bucket, name: b}", 1), "IncompleteIngressToRouteRules: spec.rules[0].http.paths[0].backend.service: Required value: only Services are served"},
		{"no host", "", strings.Replace(onePath, "host: a.example.com, ", "", 1), "IncompleteIngressToRouteRules: spec.rules[0].host: Required value: a rule without a host is not served"},
		{"no paths", "", "rules: [{host: a.example.com}]", "IncompleteIngressToRouteRules: spec.rules[0].http.paths: Required value: a rule without a path is not served"},
		{"no rules", "", "", "IncompleteIngressToRouteRules: spec.rules: Required value: there is nothing to serve"},
		{"a default backend alone", "", "defaultBackend: {service: {name: web, port: {number: 80}}}", "IncompleteIngressToRouteRules: spec.rules: Required value: a backend without a host is not served"},
		{"a default backend beside rules", "", onePath + ", defaultBackend: {service: {name: web, port: {number: 80}}}", "a.example.com/a insecure → web/http; spec.defaultBackend: a backend without a host is not served"},
		{"a wildcard, which the IngressController must allow", "", strings.Replace(onePath, "a.example.com", `"*.example.com"`, 1), "RouteNotAdmitted: wildcard routes are not allowed"},
		{"a Secret", "", tls("{hosts: [a.example.com], secretName: t}"), "a.example.com/a edge redirect cert/ns1/secret:t → web/http"},
		{"TLS with the default certificate", "", tls("{hosts: [a.example.com]}"), "a.example.com/a edge redirect → web/http"},
		{"TLS everywhere", "", tls("{}"), "a.example.com/a edge redirect → web/http"},
		{"TLS for a wildcard above the host", "", tls("{hosts: ['*.example.com'], secretName: t}"), `a.example.com/a insecure → web/http; spec.tls[0].hosts[0]: no rule has the host "*.example.com": it does not cover "a.example.com", name that`},
		{"TLS for another host", "", tls("{hosts: [b.example.com], secretName: t}"), `a.example.com/a insecure → web/http; spec.tls[0].hosts[0]: no rule has the host "b.example.com"`},
		{"a Secret for no host", "", tls("{secretName: t}"), "a.example.com/a insecure → web/http; spec.tls[0].hosts: it is empty, so the Secret is used for no host"},
		{"the first entry for the host counts", "", tls("{hosts: [a.example.com], secretName: t}, {hosts: [a.example.com], secretName: later}"), "a.example.com/a edge redirect cert/ns1/secret:t → web/http"},
		{"a Secret that is not there", "", tls("{hosts: [b.a], secretName: t}, {hosts: [a.example.com], secretName: later}"), `ExternalCertificateValidationFailed: spec.tls[1].secretName: Not found: "secrets \"later\" not found"`},
		{"a Secret of another type", "", tls("{hosts: [a.example.com], secretName: ca}"), `ExternalCertificateValidationFailed: spec.tls[0].secretName: Invalid value: "ca": secret of type "kubernetes.io/tls" required`},
		{"plain HTTP is served, too", "tsuji.dev/insecure-edge-termination-policy: Allow", tls("{}"), "a.example.com/a edge allow → web/http"},
		{"or not at all", "tsuji.dev/insecure-edge-termination-policy: None", tls("{}"), "a.example.com/a edge none → web/http"},
		{"or somehow", "tsuji.dev/insecure-edge-termination-policy: some", tls("{}"), `a.example.com/a edge redirect → web/http; annotation tsuji.dev/insecure-edge-termination-policy: "some" is not one of Allow, None, Redirect; Redirect is used`},
		{"edge by annotation", "route.openshift.io/termination: edge", onePath, "a.example.com/a edge redirect → web/http"},
		{"no termination", "route.openshift.io/termination: Edge", onePath, `a.example.com/a insecure → web/http; annotation route.openshift.io/termination: "Edge" is not one of edge, passthrough, reencrypt; it is ignored`},
		{"passthrough", "route.openshift.io/termination: passthrough", path("pathType: ImplementationSpecific"), "a.example.com/ passthrough redirect → web/http"},
		{"passthrough of everything, with a Secret that is not used", "route.openshift.io/termination: passthrough", path("path: /, pathType: Prefix") + ", tls: [{hosts: [a.example.com], secretName: later}]", "a.example.com/ passthrough redirect → web/http"},
		{"passthrough of a path", "route.openshift.io/termination: passthrough", onePath, `ExtendedValidationFailed: spec.path: Invalid value: "/a": passthrough termination does not support paths`},
		{"reencrypt with a CA", "route.openshift.io/termination: reencrypt, route.openshift.io/destination-ca-certificate-secret: ca", onePath, "a.example.com/a reencrypt redirect verified → web/http"},
		{"reencrypt with the CA of a Secret of certificates", "route.openshift.io/termination: reencrypt, route.openshift.io/destination-ca-certificate-secret: t", tls("{hosts: [a.example.com], secretName: t}"), "a.example.com/a reencrypt redirect cert/ns1/secret:t verified → web/http"},
		{"reencrypt with a CA that is not there", "route.openshift.io/termination: reencrypt, route.openshift.io/destination-ca-certificate-secret: later", onePath, `IncompleteIngressToRouteRules: metadata.annotations[route.openshift.io/destination-ca-certificate-secret]: Invalid value: "later": there is no such Secret in the namespace`},
		{"options", "haproxy.router.openshift.io/timeout: 5s, haproxy.router.openshift.io/hsts_header: max-age=1", tls("{}"), "a.example.com/a edge redirect timeout=5s hsts=max-age=1 → web/http"},
		{"an option that is none", "haproxy.router.openshift.io/nothing: x, nginx.ingress.kubernetes.io/y: z", onePath, "a.example.com/a insecure → web/http; annotation haproxy.router.openshift.io/nothing is not known and is ignored"},
	} {
		r := compile.New(compile.Config{}).Apply(changesOf(t, shop+ingressOf(c.annotations, c.spec)))
		if len(r.Verdicts) != 1 {
			t.Errorf("%s: %d verdicts: %v", c.what, len(r.Verdicts), r.Verdicts)
			continue
		}
		v := r.Verdicts[0]
		got := v.GetReason() + ": " + v.GetMessage()
		if v.GetAdmitted() {
			got = shortRoute(t, r, v.GetName())
			for _, w := range v.GetWarnings() {
				if !strings.Contains(w, "there is no Service") && !strings.Contains(w, "the certificate is not for") {
					got += "; " + w
				}
			}
		}
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.what, got, c.want)
		}
		if s := v.GetSource(); s.GetKind() != "Ingress" || s.GetName() != "i" || !strings.HasPrefix(s.GetField(), "spec.") {
			t.Errorf("%s: comes from %v", c.what, s)
		}
	}
}

// shortRoute writes a Route in a line.
func shortRoute(t *testing.T, r compile.Result, name string) string {
	t.Helper()
	i, ok := r.Config.Get(tsujiv1.RouteName("ns1", name))
	if !ok {
		return "no Route"
	}
	res, err := tsujiv1.Decode(i)
	if err != nil {
		t.Fatal(err)
	}
	x := res.GetRoute()
	lower := func(s fmt.Stringer, prefix string) string {
		return strings.ToLower(strings.TrimPrefix(s.String(), prefix))
	}
	exact := ""
	if x.GetExact() {
		exact = " exactly"
	}
	if x.GetExact() != slices.Contains(res.GetRequiredFeatures(), tsujiv1.FeatureExactPath) {
		t.Errorf("exact: %t, but the Route requires %q", x.GetExact(), res.GetRequiredFeatures())
	}
	parts := []string{x.GetHost() + x.GetPath() + exact, lower(x.GetTermination(), "TERMINATION_")}
	if x.GetInsecurePolicy() != 0 {
		parts = append(parts, lower(x.GetInsecurePolicy(), "INSECURE_POLICY_"))
	}
	if c := x.GetCertificate(); c != "" {
		parts = append(parts, c)
	}
	if x.GetDestinationTls().GetVerify() {
		parts = append(parts, "verified")
	}
	if d := x.GetTimeouts().GetServer(); d != nil {
		parts = append(parts, "timeout="+d.AsDuration().String())
	}
	if h := x.GetHsts(); h != "" {
		parts = append(parts, "hsts="+h)
	}
	return strings.Join(append(parts, "→", strings.TrimPrefix(x.GetBackends()[0].GetEndpoints(), "endpoints/ns1/")), " ")
}

// What a change of something that Ingresses depend on costs: the resources that differ, and no other; and the
// names of Routes stay.
func TestIngressIncremental(t *testing.T) {
	t.Parallel()
	c := compile.New(compile.Config{})
	last := c.Apply(changesOf(t, shop+`
kind: IngressClass
metadata: {name: tsuji}
spec: {controller: tsuji.dev/ingress}
---
`+ingressOf("", `ingressClassName: tsuji, tls: [{hosts: [a.example.com], secretName: t}], rules: [
  {host: a.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}, {path: /p, pathType: Prefix, backend: {service: {name: plain, port: {number: 80}}}}]}}]`)))
	const root, p = "i-2sz3mczae5", "i-mvnacn5xuu"
	step := func(what, manifests string, want ...string) {
		t.Helper()
		var changes []cluster.Change
		if name, ok := strings.CutPrefix(manifests, "gone: "); ok {
			kind, name, _ := strings.Cut(name, " ")
			k := cluster.Key{Kind: cluster.Kind(kind), Namespace: "ns1", Name: name}
			if k.Kind == cluster.IngressClass {
				k.Namespace = ""
			}
			changes = []cluster.Change{{Key: k}}
		} else {
			changes = changesOf(t, manifests)
		}
		next := c.Apply(changes)
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
	spec := func(class, to string) string {
		return `ingressClassName: ` + class + `, tls: [{hosts: [a.example.com], secretName: t}], rules: [{host: a.example.com, http: {paths: [
  {path: /p, pathType: Prefix, backend: {service: {name: plain, port: {number: 80}}}}, {path: /, pathType: Prefix, backend: {service: {name: ` + to + `, port: {number: 80}}}}]}}]`
	}
	step("the rules in another order: other fields, the same Routes", ingressOf("", spec("tsuji", "web")), root+": true", p+": true")
	step("a renewed Secret: one Certificate, no Route", `
kind: Secret
metadata: {namespace: ns1, name: t}
type: kubernetes.io/tls
stringData: {tls.crt: "@renewed.crt", tls.key: "@renewed.key"}
`, "cert/ns1/secret:t")
	step("another backend: its Route", ingressOf("", spec("tsuji", "plain")), "-endpoints/ns1/web/http", "route/ns1/"+root)
	step("the port has a name now", `
kind: Service
metadata: {namespace: ns1, name: plain}
spec: {ports: [{name: http, port: 80}, {name: admin, port: 81}]}
`, "-endpoints/ns1/plain/*", "endpoints/ns1/plain/http", "route/ns1/"+root, "route/ns1/"+p)
	step("a port more", `
kind: Service
metadata: {namespace: ns1, name: plain}
spec: {ports: [{name: http, port: 80}, {name: admin, port: 81}, {name: other, port: 82}]}
`)
	step("and no such port: refused, but the host is kept", `
kind: Service
metadata: {namespace: ns1, name: plain}
spec: {ports: [{name: http, port: 82}]}
`, "-cert/ns1/secret:t", "-endpoints/ns1/plain/http", "-route/ns1/"+root, "-route/ns1/"+p, root+": false IncompleteIngressToRouteRules", p+": false IncompleteIngressToRouteRules")
	step("a younger Route for the host", `
kind: Route
metadata: {namespace: ns2, name: younger, creationTimestamp: "2024-01-03T00:00:00Z"}
spec: {host: a.example.com, to: {name: web}}
`, "younger: false HostAlreadyClaimed")
	step("the port is back", `
kind: Service
metadata: {namespace: ns1, name: plain}
spec: {ports: [{port: 80}]}
`, "cert/ns1/secret:t", "endpoints/ns1/plain/*", "route/ns1/"+root, "route/ns1/"+p, root+": true", p+": true")
	step("an IngressClass of another", `
kind: IngressClass
metadata: {name: other}
spec: {controller: example.com/other}
`)
	step("its class ceases to be ours: the next one has the host", `
kind: IngressClass
metadata: {name: tsuji}
spec: {controller: example.com/other}
`, "-cert/ns1/secret:t", "-endpoints/ns1/plain/*", "-route/ns1/"+root, "-route/ns1/"+p, "endpoints/ns2/web/*", "route/ns2/younger",
		"younger: true", "no verdict: "+root, "no verdict: "+p)
	step("the class is ours again", `
kind: IngressClass
metadata: {name: tsuji}
spec: {controller: openshift.io/ingress-to-route}
`, "-endpoints/ns2/web/*", "-route/ns2/younger", "cert/ns1/secret:t", "endpoints/ns1/plain/*", "route/ns1/"+root, "route/ns1/"+p,
		root+": true", p+": true", "younger: false HostAlreadyClaimed")
	step("the cluster makes a Route of it by itself: that is served", `
kind: Route
metadata: {namespace: ns1, name: i-abcde, creationTimestamp: "2024-01-02T00:00:01Z", ownerReferences: [{apiVersion: networking.k8s.io/v1, kind: Ingress, name: i, controller: true, uid: x}]}
spec: {host: a.example.com, to: {name: web}}
`, "-cert/ns1/secret:t", "-endpoints/ns1/plain/*", "-route/ns1/"+root, "-route/ns1/"+p, "endpoints/ns1/web/*", "route/ns1/i-abcde",
		"i-abcde: true", "no verdict: "+root, "no verdict: "+p)
	step("and no more", "gone: Route i-abcde", "-endpoints/ns1/web/*", "-route/ns1/i-abcde", "cert/ns1/secret:t", "endpoints/ns1/plain/*", "route/ns1/"+root, "route/ns1/"+p,
		root+": true", p+": true", "no verdict: i-abcde")
	step("it is gone", "gone: Ingress i", "-cert/ns1/secret:t", "-endpoints/ns1/plain/*", "-route/ns1/"+root, "-route/ns1/"+p, "endpoints/ns2/web/*", "route/ns2/younger",
		"younger: true", "no verdict: "+root, "no verdict: "+p)
}

// Whatever is written into an Ingress: no panic; each of its rules has a verdict; what is admitted is safe, and routers
// take it.
func FuzzIngress(f *testing.F) {
	options := render.Options{DefaultCertificate: ownPair(f)}
	cert, key, ca := readCert(f, "leaf.crt"), readCert(f, "leaf.key"), readCert(f, "ca.crt")
	f.Add("a.example.com", "/a", "Prefix", "web", "http", int32(80), "a.example.com", "t", "edge", "Allow", "ca", "haproxy.router.openshift.io/timeout", "5s", uint8(0))
	f.Add("*.example.com", "/a/", "ImplementationSpecific", "web", "", int32(80), "*.example.com", "", "reencrypt", "None", "t", "haproxy.router.openshift.io/rewrite-target", "/", uint8(1))
	f.Add("", "", "Exact", "", "", int32(0), "", "t", "passthrough", "", "", "nginx.ingress.kubernetes.io/a", "b\n", uint8(2))
	f.Add("a.example.com", "/foo(", "Prefix", "a/b", "*", int32(-1), "b.example.com", "../t", "x", "x", "", "router.openshift.io/cookie_name", "a;b", uint8(255))
	f.Add("wildcard.example.com", "//", "", "web", "admin", int32(70000), "wildcard.example.com", "none", "", "", "ca", "haproxy.router.openshift.io/hsts_header", "max-age=1;\n", uint8(8))
	f.Fuzz(func(t *testing.T, host, path, pathType, service, port string, number int32, tlsHost, secret, termination, policy, destination, annotation, value string, shape uint8) {
		i := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "fuzzed", Annotations: map[string]string{
			annotation: value, "route.openshift.io/termination": termination, "tsuji.dev/insecure-edge-termination-policy": policy,
			"route.openshift.io/destination-ca-certificate-secret": destination,
		}}}
		delete(i.Annotations, cluster.IngressClassAnnotation)
		p := networkingv1.HTTPIngressPath{Path: path, PathType: (*networkingv1.PathType)(&pathType)}
		p.Backend.Service = &networkingv1.IngressServiceBackend{Name: service, Port: networkingv1.ServiceBackendPort{Name: port, Number: number}}
		r := networkingv1.IngressRule{Host: host}
		r.HTTP = &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{p, {Path: path + "/b", Backend: p.Backend}}}
		i.Spec.Rules = []networkingv1.IngressRule{r, {Host: "other.example.com", IngressRuleValue: r.IngressRuleValue}}
		i.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{tlsHost}, SecretName: secret}}
		verdicts := 4
		if shape&1 != 0 {
			i.Spec.Rules[1].HTTP = nil
			verdicts = 3
		}
		if shape&2 != 0 {
			i.Spec.DefaultBackend = &p.Backend
		}
		if shape&4 != 0 {
			i.Spec.Rules[0].HTTP.Paths[0].Backend.Service = nil
		}
		if shape&8 != 0 {
			i.Spec.TLS = append(i.Spec.TLS, networkingv1.IngressTLS{})
		}
		if host == "" {
			verdicts--
		}
		pair := func(name, crt, key string) cluster.Change {
			return put(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: name}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": []byte(crt), "tls.key": []byte(key)}})
		}
		web := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
		c := compile.New(compile.Config{})
		result := c.Apply([]cluster.Change{pair("t", cert, key), pair("ca", ca, ""), put(web), put(i)})
		checkSafeResult(t, result)
		if len(result.Verdicts) != verdicts {
			t.Errorf("%d verdicts, want %d: %v", len(result.Verdicts), verdicts, result.Verdicts)
		}
		for _, v := range result.Verdicts {
			if v.GetSource().GetName() != "fuzzed" {
				t.Errorf("the verdict does not name the Ingress: %v", v)
			}
		}
		if _, err := rendered(options, result); err != nil {
			t.Errorf("routers refuse it: %v", err)
		}
		if after := c.Apply([]cluster.Change{gone(i)}); after.Config.Len() != 1 || len(after.Removed) != verdicts {
			t.Errorf("%d resources and %d verdicts less when it is gone", after.Config.Len(), len(after.Removed))
		}
	})
}
