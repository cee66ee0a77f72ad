package compile_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// refusing is a compiler whose routers refuse what a test says.
type refusing struct {
	*world
	t    *testing.T
	good snapshot.Snapshot // that routers have in force
}

func newRefusing(t *testing.T, manifests string) *refusing {
	t.Helper()
	r := &refusing{world: newWorld(), t: t}
	r.change(manifests)
	r.good = r.now()
	return r
}

func (r *refusing) now() snapshot.Snapshot { return snapshot.New(0, r.last.Config, r.last.Facts) }

func (r *refusing) change(manifests string) {
	r.t.Helper()
	r.apply(changesOf(r.t, strings.TrimPrefix(manifests, "---\n"))...)
}

// refuse has routers refuse resources as they are now.
func (r *refusing) refuse(good snapshot.Snapshot, names ...string) {
	r.t.Helper()
	holds := compile.Holds{Resources: map[string]compile.Hold{}}
	for _, name := range names {
		i, ok := r.now().Get(name)
		if !ok {
			r.t.Fatalf("there is no %s to be refused", name)
		}
		holds.Resources[name] = compile.Hold{Refused: i.Digest(), Good: good, Told: &tsujiv1.Quarantine{Message: "no good", Router: "r1"}}
	}
	r.compiler.Hold(holds)
	r.apply()
}

// served lists the Routes that are published, with their host and what is said of them.
func (r *refusing) served() string {
	r.t.Helper()
	var lines []string
	for i := range r.last.Config.All() {
		res, err := tsujiv1.Decode(i)
		if err != nil {
			r.t.Fatal(err)
		}
		if route := res.GetRoute(); route != nil {
			lines = append(lines, fmt.Sprintf("%s/%s %s%s", route.GetNamespace(), route.GetName(), route.GetHost(), route.GetPath()))
		}
	}
	for k, v := range r.verdicts {
		text := "admitted"
		if !v.GetAdmitted() {
			text = v.GetReason() + ": " + v.GetMessage()
		}
		for _, q := range v.GetQuarantines() {
			text += fmt.Sprintf(" [%s %q last good %t]", q.GetResource(), q.GetMessage(), q.GetLastGood())
		}
		if text != "admitted" {
			lines = append(lines, fmt.Sprintf("  %s/%s: %s", k.Namespace, k.Name, text))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

func (r *refusing) serves(want string) {
	r.t.Helper()
	if got := r.served(); got != strings.TrimPrefix(want, "\n") {
		r.t.Errorf("served:\n%swant:%s", got, want)
	}
}

func plainRoute(namespace, name, host string, more ...string) string {
	return fmt.Sprintf("---\nkind: Route\nmetadata: {namespace: %s, name: %s}\nspec:\n  host: %s\n  to: {kind: Service, name: web}\n%s\n",
		namespace, name, host, strings.Join(more, "\n"))
}

// secretOf is a Secret with a certificate, tls, in a namespace.
func secretOf(t *testing.T, namespace string) string {
	return fmt.Sprintf("---\nkind: Secret\nmetadata: {namespace: %s, name: tls}\ntype: kubernetes.io/tls\nstringData: {tls.crt: %q, tls.key: %q}\n",
		namespace, readCert(t, "leaf.crt"), readCert(t, "leaf.key"))
}

// A Route whose new content is refused goes on as it was last good, on the host that it had: a rival gets neither that
// host nor is kept from the one that the Route asked for in vain. When it changes it is free again.
func TestARefusedRouteIsServedAsItWas(t *testing.T) {
	t.Parallel()
	r := newRefusing(t, plainRoute("a", "r", "one.example.com"))
	r.change(plainRoute("a", "r", "two.example.com") + plainRoute("b", "rival", "one.example.com") + plainRoute("b", "other", "two.example.com"))
	r.refuse(r.good, "route/a/r")
	r.serves(`
  a/r: admitted [route/a/r "no good" last good true]
  b/rival: HostAlreadyClaimed: a route in another namespace holds one.example.com and is older than rival
a/r one.example.com/
b/other two.example.com/
`)
	if len(r.last.Ended) > 0 {
		t.Errorf("%v is not needed any more", r.last.Ended)
	}
	r.change(plainRoute("a", "r", "three.example.com"))
	r.serves(`
a/r three.example.com/
b/other two.example.com/
b/rival one.example.com/
`)
	if got := fmt.Sprint(r.last.Ended); got != "[route/a/r]" {
		t.Errorf("not needed any more is %s", got)
	}
}

// A Route that was never good is left out alone, and its host stays its own. Deleted, it frees the host.
func TestARefusedRouteThatWasNeverGoodKeepsItsHost(t *testing.T) {
	t.Parallel()
	r := newRefusing(t, plainRoute("z", "old", "z.example.com"))
	r.change(plainRoute("a", "r", "one.example.com") + plainRoute("b", "rival", "one.example.com"))
	r.refuse(snapshot.Snapshot{}, "route/a/r")
	r.serves(`
  a/r: Quarantined: routers refuse route/a/r: no good; it was never served before, and is left out until it changes [route/a/r "no good" last good false]
  b/rival: HostAlreadyClaimed: a route in another namespace holds one.example.com and is older than rival
z/old z.example.com/
`)
	gone := changesOf(t, strings.TrimPrefix(plainRoute("a", "r", "one.example.com"), "---\n"))
	gone[0].Object = nil
	r.apply(gone...)
	r.serves(`
b/rival one.example.com/
z/old z.example.com/
`)
	if got := fmt.Sprint(r.last.Ended); got != "[route/a/r]" {
		t.Errorf("not needed any more is %s", got)
	}
}

// What a router says that it has in force is served for a Route in its own namespace, and on a host that may be: it is
// not believed where it would lead elsewhere.
func TestLastGoodContentCannotLeadElsewhere(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what string
		good *tsujiv1.Route
		want bool
	}{
		{"its own", &tsujiv1.Route{Namespace: "a", Name: "r", Host: "one.example.com", Path: "/"}, true},
		{"another Route's", &tsujiv1.Route{Namespace: "b", Name: "r", Host: "one.example.com", Path: "/"}, false},
		{"another namespace's endpoints", &tsujiv1.Route{Namespace: "a", Name: "r", Host: "one.example.com", Path: "/",
			Backends: []*tsujiv1.BackendRef{{Endpoints: "endpoints/b/db/*", Weight: 1}}}, false},
		{"another namespace's certificate", &tsujiv1.Route{Namespace: "a", Name: "r", Host: "one.example.com", Path: "/",
			Termination: tsujiv1.Termination_TERMINATION_EDGE, Certificate: "cert/b/secret:tls"}, false},
		{"a host that cannot be", &tsujiv1.Route{Namespace: "a", Name: "r", Host: "one example", Path: "/"}, false},
		{"a wildcard, which is not allowed", &tsujiv1.Route{Namespace: "a", Name: "r", Host: "w.example.com", Wildcard: true, Path: "/"}, false},
	} {
		r := newRefusing(t, plainRoute("a", "r", "new.example.com")+secretOf(t, "b"))
		i, err := tsujiv1.Encode(&tsujiv1.Resource{Name: "route/a/r", Kind: &tsujiv1.Resource_Route{Route: c.good}})
		if err != nil {
			t.Fatal(err)
		}
		r.refuse(snapshot.New(0, snapshot.Set{}.With(i), snapshot.Set{}), "route/a/r")
		if _, got := r.last.Config.Get("route/a/r"); got != c.want {
			t.Errorf("%s: served is %t\n%s", c.what, got, r.served())
		}
	}
}

// A certificate that is refused stays as it was; one that was never good takes its Route out, and nothing else. Endpoints
// that were never good are none.
func TestRefusedFacts(t *testing.T) {
	t.Parallel()
	tls := func(cert string) string {
		return fmt.Sprintf("  tls: {termination: edge, certificate: %q, key: %q}", readCert(t, cert+".crt"), readCert(t, cert+".key"))
	}
	const web = "---\nkind: Service\nmetadata: {namespace: a, name: web}\nspec: {ports: [{port: 80}]}\n" +
		"---\nkind: EndpointSlice\nmetadata: {namespace: a, name: web-1, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n" +
		"ports: [{port: 8080}]\nendpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]\n"
	r := newRefusing(t, plainRoute("a", "r", "leaf.example.com", tls("leaf"))+plainRoute("a", "plain", "plain.example.com")+web)
	r.change(plainRoute("a", "r", "leaf.example.com", tls("renewed")) + plainRoute("a", "late", "leaf2.example.com", tls("renewed")) +
		strings.ReplaceAll(web, "10.0.0.1", "10.0.0.2"))
	late := r.now()
	r.refuse(r.good, "cert/a/route:r", "cert/a/route:late", "endpoints/a/web/*")
	was, _ := r.good.Get("cert/a/route:r")
	if is, _ := r.last.Facts.Get("cert/a/route:r"); is.Digest() != was.Digest() {
		t.Error("the certificate is not the one that was good")
	}
	r.serves(`
  a/late: Quarantined: routers refuse cert/a/route:late: no good; it was never served before, and is left out until it changes` +
		` [cert/a/route:late "no good" last good false] [endpoints/a/web/* "no good" last good true]
  a/plain: admitted [endpoints/a/web/* "no good" last good true]
  a/r: admitted [cert/a/route:r "no good" last good true] [endpoints/a/web/* "no good" last good true]
a/plain plain.example.com/
a/r leaf.example.com/
`)
	r.compiler.Hold(compile.Holds{})
	r.apply()
	r.refuse(snapshot.Snapshot{}, "endpoints/a/web/*")
	i, _ := r.last.Facts.Get("endpoints/a/web/*")
	if res, err := tsujiv1.Decode(i); err != nil || len(res.GetEndpoints().GetEndpoints()) > 0 {
		t.Errorf("endpoints that were never good are %v %v", res, err)
	}
	if is, _ := r.last.Facts.Get("cert/a/route:r"); true {
		if free, _ := late.Get("cert/a/route:r"); is.Digest() != free.Digest() {
			t.Error("the renewed certificate, refused no longer, is not served")
		}
	}
}

// Settings that are refused stay as they were, and are a fault; without good ones there are none, which publishes
// nothing. Routes and their facts are compiled all the same.
func TestRefusedSettings(t *testing.T) {
	t.Parallel()
	const ic = "---\nkind: IngressController\nmetadata: {namespace: openshift-ingress-operator, name: default}\nspec: {tuningOptions: {threadCount: %d}}\n"
	r := newRefusing(t, fmt.Sprintf(ic, 2)+plainRoute("a", "r", "one.example.com"))
	r.change(fmt.Sprintf(ic, 3) + plainRoute("a", "s", "two.example.com"))
	r.refuse(r.good, tsujiv1.SettingsName)
	was, _ := r.good.Get(tsujiv1.SettingsName)
	if is, ok := r.last.Config.Get(tsujiv1.SettingsName); !ok || is.Digest() != was.Digest() {
		t.Error("the Settings are not those that were good")
	}
	if len(r.last.Faults) != 1 || !strings.Contains(r.last.Faults[0].Message, "routers refuse settings: no good; what was good last is served") {
		t.Errorf("faults: %v", r.last.Faults)
	}
	r.serves("\na/r one.example.com/\na/s two.example.com/\n")
	r.compiler.Hold(compile.Holds{})
	r.apply()
	r.refuse(snapshot.Snapshot{}, tsujiv1.SettingsName)
	if _, ok := r.last.Config.Get(tsujiv1.SettingsName); ok {
		t.Error("Settings that were never good are published")
	}
}

// All changes of a namespace that is held wait, but for deletions; others' go on.
func TestAHeldNamespace(t *testing.T) {
	t.Parallel()
	r := newRefusing(t, plainRoute("a", "r", "one.example.com")+plainRoute("a", "s", "two.example.com")+plainRoute("b", "r", "b.example.com"))
	r.compiler.Hold(compile.Holds{Namespaces: map[string]compile.Hold{"a": {Any: true, Good: r.good, Told: &tsujiv1.Quarantine{Message: "too many"}}}})
	gone := changesOf(t, strings.TrimPrefix(plainRoute("a", "s", "two.example.com"), "---\n"))
	gone[0].Object = nil
	r.apply(gone...)
	r.change(plainRoute("a", "r", "moved.example.com") + plainRoute("a", "new", "new.example.com") + plainRoute("b", "new", "newb.example.com"))
	r.serves(`
  a/new: Quarantined: too many; route/a/new was never served before, and comes by itself when that is over [route/a/new "too many" last good false]
  a/r: admitted [route/a/r "too many" last good true]
a/r one.example.com/
b/new newb.example.com/
b/r b.example.com/
`)
	r.compiler.Hold(compile.Holds{})
	r.apply()
	r.serves(`
a/new new.example.com/
a/r moved.example.com/
b/new newb.example.com/
b/r b.example.com/
`)
}

// What is left out for a time only is told so, and comes when the time is over, though nothing changed.
func TestLeftOutForATime(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what string
		hold func(refused snapshot.Digest) compile.Hold
		want string
	}{
		{"refused for its rate", func(d snapshot.Digest) compile.Hold { return compile.Hold{Refused: d, Any: true, Passes: true} },
			"routers refuse route/a/r for now: no; it was never served before, and is tried again by itself"},
		{"other content of what was refused often", func(snapshot.Digest) compile.Hold { return compile.Hold{Any: true} },
			"routers refused route/a/r as it was before: no; it was never served, and as it is now it comes by itself in a few minutes at most"},
		{"refused, and any other content waits", func(d snapshot.Digest) compile.Hold { return compile.Hold{Refused: d, Any: true} },
			"routers refuse route/a/r: no; it was never served before, and is left out until it changes"},
	} {
		r := newRefusing(t, plainRoute("a", "r", "one.example.com"))
		i, _ := r.last.Config.Get("route/a/r")
		hold := c.hold(i.Digest())
		hold.Told = &tsujiv1.Quarantine{Message: "no"}
		r.compiler.Hold(compile.Holds{Resources: map[string]compile.Hold{"route/a/r": hold}})
		r.apply()
		if v := r.last.Verdicts[0]; v.GetAdmitted() || v.GetMessage() != c.want {
			t.Errorf("%s: admitted %t, %q; want %q", c.what, v.GetAdmitted(), v.GetMessage(), c.want)
		}
		r.compiler.Hold(compile.Holds{})
		r.apply()
		r.serves("\na/r one.example.com/\n")
	}
}

// What is held by name is not freer than its namespace: when it changes it waits with the others, and nothing is served
// in between that is taken back.
func TestAHeldNamespaceHoldsWhatWasHeldByName(t *testing.T) {
	t.Parallel()
	r := newRefusing(t, plainRoute("a", "r", "one.example.com"))
	r.change(plainRoute("a", "r", "two.example.com"))
	refused, _ := r.last.Config.Get("route/a/r")
	told := &tsujiv1.Quarantine{Message: "too many"}
	holds := compile.Holds{
		Resources:  map[string]compile.Hold{"route/a/r": {Refused: refused.Digest(), Good: r.good, Told: told}},
		Namespaces: map[string]compile.Hold{"a": {Any: true, Good: r.good, Told: told}},
	}
	r.compiler.Hold(holds)
	r.change(plainRoute("a", "r", "three.example.com"))
	const want = `
  a/r: admitted [route/a/r "too many" last good true]
a/r one.example.com/
`
	r.serves(want)
	if got := fmt.Sprint(r.last.Ended); got != "[route/a/r]" {
		t.Errorf("not needed any more is %s", got)
	}
	delete(holds.Resources, "route/a/r")
	r.compiler.Hold(holds)
	r.apply()
	r.serves(want)
}

// Settings that were good once refer to what Settings may refer to: a router that tells of them gains no Secret by it.
func TestLastGoodSettingsCannotLeadElsewhere(t *testing.T) {
	t.Parallel()
	for _, good := range []*tsujiv1.Settings{
		{DefaultCertificate: "cert/victim/secret:tls"},
		{ClientTls: &tsujiv1.ClientTLS{Ca: "cert/victim/configmap:ca"}},
		{DefaultCertificate: "cert/openshift-ingress/route:tls"},
	} {
		r := newRefusing(t, secretOf(t, "victim"))
		good.IngressController = "default"
		i, err := tsujiv1.Encode(&tsujiv1.Resource{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: good}})
		if err != nil {
			t.Fatal(err)
		}
		r.refuse(snapshot.New(0, snapshot.Set{}.With(i), snapshot.Set{}), tsujiv1.SettingsName)
		if n := r.last.Config.Len() + r.last.Facts.Len(); n > 0 {
			t.Errorf("%v leads to %d resources", good, n)
		}
	}
}

// Routers refuse what a Route has become, and it is served as it was good, when its Secret vanishes: it is served on, with
// the certificate that was good last. When that is refused as well, and never was good, the Route is left out, as ever.
func TestARefusedRouteKeepsItsCertificate(t *testing.T) {
	t.Parallel()
	r := newRefusing(t, secured("a", "1", "a.example.com", "", ofSecret)+"---\n"+pairSecret("t", "leaf.crt", "leaf.key"))
	good := r.now()
	r.change(strings.Replace(secured("a", "1", "a.example.com", "", ofSecret), "name: a,",
		"name: a, annotations: {haproxy.router.openshift.io/timeout: 5s},", 1))
	r.refuse(good, "route/ns1/a")
	r.apply(changesFrom(t, "gone: Secret ns1/t")...)
	for _, name := range []string{"route/ns1/a", "cert/ns1/secret:t"} {
		want, _ := good.Get(name)
		if got, ok := r.now().Get(name); !ok || got.Digest() != want.Digest() {
			t.Errorf("%s is not as it was good", name)
		}
	}
	v := r.verdicts[cluster.Key{Kind: cluster.Route, Namespace: "ns1", Name: "a"}]
	if !v.GetAdmitted() || len(v.GetQuarantines()) != 1 || len(v.GetLastGood()) != 1 {
		t.Errorf("verdict %v", v)
	}
	r.refuse(snapshot.Snapshot{}, "cert/ns1/secret:t")
	if _, ok := r.now().Get("route/ns1/a"); ok {
		t.Error("a certificate that was never good is served")
	}
	if len(r.last.Ended) > 0 {
		t.Errorf("ended: %v", r.last.Ended)
	}
	r.apply(changesFrom(t, "gone: Route ns1/a")...)
	if want := []string{"cert/ns1/secret:t"}; !slices.Equal(r.last.Ended, want) {
		t.Errorf("ended: %v, want %v", r.last.Ended, want)
	}
}
