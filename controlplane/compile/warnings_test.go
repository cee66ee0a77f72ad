package compile_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// What passes is told when somebody looks, by what is served and the time: endpoints that come and go change no verdict.
func TestPassing(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	slice := func(ready bool) string {
		return fmt.Sprintf("kind: EndpointSlice\nmetadata: {namespace: ns1, name: web-1, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n"+
			"ports: [{name: http, port: 80}]\nendpoints: [{addresses: [10.0.0.1], conditions: {ready: %t, serving: true}}]\n", ready)
	}
	c := compile.New(compile.Config{})
	r := c.Apply(changesOf(t, `
kind: Route
metadata: {namespace: ns1, name: a}
spec: {host: www.example.com, to: {name: web}, alternateBackends: [{name: other}, {name: idle, weight: 0}], port: {targetPort: http}, tls: {termination: edge, certificate: "@leaf.crt", key: "@leaf.key"}}
---
kind: Route
metadata: {namespace: ns1, name: refused}
spec: {host: www.example.com, to: {name: web}}
---
kind: Service
metadata: {namespace: ns1, name: web}
---
kind: Service
metadata: {namespace: ns1, name: other}
---
kind: Service
metadata: {namespace: ns1, name: idle}
---
`+slice(true)))
	end := time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC)
	v := r.Verdicts[0]
	if got := v.GetCertificateNotAfter(); !got.AsTime().Equal(end) || got == nil {
		t.Errorf("the certificate ends at %v", got.AsTime())
	}
	other := `Service "other" has no endpoint that is ready at port "http"`
	web := strings.Replace(other, "other", "web", 1)
	for _, at := range []struct {
		now   time.Time
		ready bool
		want  []string
	}{
		{end.Add(-7 * day), true, []string{other}},
		{end.Add(-7*day + time.Second), true, []string{"the certificate for the host expires at 2120-01-01T00:00:00Z, within 7 days", other}},
		{end.Add(-time.Second), true, []string{"the certificate for the host expires at 2120-01-01T00:00:00Z, within 1 days", other}},
		{end.Add(time.Second), false, []string{"the certificate for the host expired at 2120-01-01T00:00:00Z: clients that verify it do not take it", web, other + ": requests are answered with 503"}},
	} {
		now := c.Apply(changesOf(t, slice(at.ready)))
		if len(now.Verdicts) > 0 {
			t.Errorf("an endpoint changed verdicts: %v", now.Verdicts)
		}
		if got := compile.NewPassing(snapshot.New(0, now.Config, now.Facts), at.now).Of(v); !slices.Equal(got, at.want) {
			t.Errorf("%s, ready %t:\n got %q\nwant %q", at.now, at.ready, got, at.want)
		}
	}
	if got := compile.NewPassing(snapshot.New(0, r.Config, r.Facts), end).Of(r.Verdicts[1]); len(got) > 0 {
		t.Errorf("of a Route that is refused: %q", got)
	}
}

// A Service that offers something else judges its own Routes again, and those alone; what it does not offer does not.
func TestServicesAreHeldAgainstTheirOwn(t *testing.T) {
	t.Parallel()
	c := compile.New(compile.Config{})
	c.Apply(crowd(t, 100))
	service := func(spec string) string {
		return "kind: Service\nmetadata: {namespace: ns0, name: app7}\nspec: {" + spec + "}\n---\nkind: Route\nmetadata: {namespace: ns0, name: app7}\n" +
			"spec: {host: app7.example.com, to: {kind: Service, name: app7}, port: {targetPort: http}}\n"
	}
	for _, step := range []struct{ what, spec, warns string }{
		{"it has the port", "selector: {a: b}, ports: [{name: http, port: 80}]", ""},
		{"it has another", "selector: {a: b}, ports: [{name: https, port: 443}, {name: admin, port: 1}]", `no endpoint of Service "app7" can have port "http", so that it gets no requests; it has "https", "admin", 443, 1`},
		{"it says something else", "selector: {a: c}, clusterIP: 10.0.0.9, ports: [{name: https, port: 443}, {name: admin, port: 1}]", "same"},
		{"it is elsewhere", "type: ExternalName, externalName: example.org", "is of type ExternalName"},
		{"it is as it was", "selector: {a: b}, ports: [{name: http, port: 80}]", ""},
	} {
		r := c.Apply(changesOf(t, service(step.spec)))
		switch {
		case step.warns == "same":
			if len(r.Verdicts) > 0 {
				t.Errorf("%s: %v", step.what, r.Verdicts)
			}
		case len(r.Verdicts) > 1 || len(r.Verdicts) == 1 && r.Verdicts[0].GetName() != "app7":
			t.Errorf("%s: verdicts %v", step.what, r.Verdicts)
		case step.warns != "" && (len(r.Verdicts) == 0 || len(r.Verdicts[0].GetWarnings()) != 1 || !strings.Contains(r.Verdicts[0].GetWarnings()[0], step.warns)):
			t.Errorf("%s: verdicts %v, want %q", step.what, r.Verdicts, step.warns)
		case step.warns == "" && len(r.Verdicts) == 1 && len(r.Verdicts[0].GetWarnings()) > 0:
			t.Errorf("%s: verdicts %v", step.what, r.Verdicts)
		}
	}
}

// An Ingress whose class does not exist claims nothing, and is served when the class comes; the class of another
// controller takes the verdict away.
func TestIngressWithoutClass(t *testing.T) {
	t.Parallel()
	class := func(controller string) string {
		return "kind: IngressClass\nmetadata: {name: late}\nspec: {controller: " + controller + "}\n"
	}
	w := newWorld()
	w.apply(changesOf(t, `
kind: Ingress
metadata: {namespace: ns1, name: i, creationTimestamp: "2024-01-01T00:00:00Z"}
spec: {ingressClassName: late, rules: [{host: a.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
kind: Route
metadata: {namespace: ns1, name: younger, creationTimestamp: "2025-01-01T00:00:00Z"}
spec: {host: a.example.com, to: {name: web}}
`)...)
	state := func() string {
		var out []string
		for _, v := range w.verdicts {
			out = append(out, strings.TrimSpace(fmt.Sprintf("%s %t %s", v.GetSource().GetKind(), v.GetAdmitted(), v.GetReason())))
		}
		slices.Sort(out)
		return strings.Join(out, ", ")
	}
	for _, step := range []struct{ change, want string }{
		{"", "Ingress false " + compile.ReasonNoIngressClass + ", true"},
		{class("example.com/other"), "true"},
		{"gone", "Ingress false " + compile.ReasonNoIngressClass + ", true"},
		{class("tsuji.dev/ingress"), "Ingress true, false HostAlreadyClaimed"},
		{"gone", "Ingress false " + compile.ReasonNoIngressClass + ", true"},
	} {
		switch step.change {
		case "":
		case "gone":
			w.apply(cluster.Change{Key: cluster.Key{Kind: cluster.IngressClass, Name: "late"}})
		default:
			w.apply(changesOf(t, step.change)...)
		}
		if got := state(); got != step.want {
			t.Errorf("%q: %s, want %s", step.change, got, step.want)
		}
	}
}

// A default certificate and a CA of clients that have expired, or soon will, are told of.
func TestPassingFaults(t *testing.T) {
	t.Parallel()
	clients := newCA(t, "clients")
	r := compile.New(compile.Config{}).Apply(changesOf(t, controllerWith("defaultCertificate: {name: front}, clientTLS: {clientCertificatePolicy: Required, clientCA: {name: clients}}")+
		"---\n"+defaultSecret("front", "leaf.crt", "leaf.key")+
		fmt.Sprintf("---\nkind: ConfigMap\nmetadata: {namespace: openshift-config, name: clients}\ndata: {ca-bundle.pem: %q, crl.pem: %q}\n", clients.pem(), clients.list(1))))
	if len(r.Faults) > 0 {
		t.Fatal(r.Faults)
	}
	served := snapshot.New(0, r.Config, r.Facts)
	told := func(now time.Time) string {
		var all []string
		for _, f := range compile.PassingFaults("here", served, now) {
			all = append(all, f.Place+": "+f.Message)
		}
		return strings.Join(all, "\n")
	}
	soon := clients.cert.NotAfter.Add(-time.Minute)
	if got := told(soon); !strings.HasPrefix(got, `here: spec.clientTLS.clientCA.name: CA "CN=clients" expires at `) || strings.Contains(got, "\n") {
		t.Errorf("before the CA's end: %s", got)
	}
	late := time.Date(2120, 1, 2, 0, 0, 0, 0, time.UTC)
	for _, want := range []string{"spec.defaultCertificate.name: the default certificate expired at 2120", `CA "CN=clients" expired`, `the revocation list of CA "CN=clients" expired`} {
		if got := told(late); !strings.Contains(got, want) {
			t.Errorf("%s is not told: %s", want, got)
		}
	}
}

// Owners are told where routers check less often than their Route asks for, how often they do, and why. The intervals are
// those that package render's TestCheckRate has of the same Routes.
func TestLengthenedChecksAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld()
	add := func(namespace, name string, endpoints int, interval string) {
		slice, r := sliceOf(name, 0, endpoints, 1, 1, 10), routeTo(name, name)
		for i := range slice.Endpoints {
			slice.Endpoints[i].Conditions.Ready = nil // they are ready
		}
		slice.Namespace, r.Namespace = namespace, namespace
		r.Annotations = map[string]string{"router.openshift.io/haproxy.health.check.interval": interval}
		w.apply(put(slice), put(r))
	}
	told := func() string {
		passing := compile.NewPassing(snapshot.New(0, w.last.Config, w.last.Facts), time.Time{})
		var all []string
		for _, v := range w.verdicts {
			for _, warning := range passing.Of(v) {
				if text, ok := strings.CutPrefix(warning, "annotation router.openshift.io/haproxy.health.check.interval: "); ok {
					text, _, _ = strings.Cut(text, ": all Routes of a namespace have 640 checks a second")
					all = append(all, v.GetName()+": "+text)
				}
			}
		}
		slices.Sort(all)
		return strings.Join(all, "\n")
	}
	add("ns1", "few", 10, "5s")
	add("ns1", "many", 500, "1s")
	if got := told(); got != "" {
		t.Errorf("told without a need: %s", got)
	}
	add("ns1", "many", 5000, "1s")
	add("ns1", "most", 5000, "2s")
	add("ns1", "too", 5000, "1s")
	add("ns2", "elsewhere", 500, "1s")
	want := "many: 5000 endpoints are checked every 64s, and not every 1s\n" +
		"most: 5000 endpoints are checked every 32s, and not every 2s\n" +
		"too: 5000 endpoints are checked every 64s, and not every 1s"
	if got := told(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	add("ns1", "too", 0, "1s")
	add("ns1", "most", 0, "2s")
	if got, want := told(), "many: 5000 endpoints are checked every 16s, and not every 1s"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
