package compile_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/certtest"
)

// keeper applies changes one by one, and tells of each what differs in the snapshot and what the verdicts say now.
type keeper struct {
	t        *testing.T
	compiler *compile.Compiler
	last     compile.Result
}

func newKeeper(t *testing.T, c compile.Config) *keeper {
	return &keeper{t: t, compiler: compile.New(c)}
}

// step applies manifests, or what is "gone: Kind namespace/name". said is what each verdict that is another says, as in
// "ns1/a: admitted" with what is told of the last good; part of it is enough.
func (k *keeper) step(what, change, differs string, said ...string) {
	k.t.Helper()
	k.apply(what, changesFrom(k.t, change), differs, said...)
}

func (k *keeper) apply(what string, changes []cluster.Change, differs string, said ...string) {
	k.t.Helper()
	next := k.compiler.Apply(changes)
	if got := strings.Join(difference(k.last, next), " "); got != differs {
		k.t.Errorf("%s: it changed %q, want %q", what, got, differs)
	}
	var got []string
	for _, v := range next.Verdicts {
		got = append(got, keptVerdict(v))
	}
	same := slices.EqualFunc(got, said, func(got, want string) bool {
		name, rest, _ := strings.Cut(want, ": ")
		return strings.HasPrefix(got, name+": ") && strings.Contains(got, rest) &&
			strings.Contains(got, "last good") == strings.Contains(want, "last good")
	})
	if !same {
		k.t.Errorf("%s: verdicts\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(said, "\n"))
	}
	k.last = next
}

func keptVerdict(v *tsujiv1.RouteVerdict) string {
	out := v.GetNamespace() + "/" + v.GetName() + ": "
	if !v.GetAdmitted() {
		return out + v.GetReason() + ": " + v.GetMessage()
	}
	out += "admitted"
	for _, g := range v.GetLastGood() {
		out += "; " + g.GetResource() + ": " + g.GetMessage()
	}
	return out
}

// pairSecret is a Secret of ns1.
func pairSecret(name, crt, key string) string {
	return fmt.Sprintf("kind: Secret\nmetadata: {namespace: ns1, name: %s}\ntype: kubernetes.io/tls\n"+
		"stringData: {tls.crt: \"@%s\", tls.key: \"@%s\"}\n", name, crt, key)
}

// secured is a Route of ns1 with the certificate of a Secret.
func secured(name, uid, host, more, tls string) string {
	return fmt.Sprintf("kind: Route\n"+
		"metadata: {namespace: ns1, name: %s, uid: %q, creationTimestamp: \"2024-01-02T00:00:00Z\"}\n"+
		"spec: {host: %s, to: {name: web}%s, tls: {termination: edge%s}}\n", name, uid, host, more, tls)
}

const (
	noSecret      = `spec.tls.externalCertificate: Not found: "secrets \"t\" not found"`
	missingSecret = "ExternalCertificateValidationFailed: " + noSecret
	staysSecret   = "the last good certificate stays in use for this Route and its host: " +
		"put a good Secret back, or name another"
	ofSecret = ", externalCertificate: {name: t}"
)

// The certificate in a Secret that vanishes, or cannot be used, stays in use for the Routes that it was good for, and
// they are told, until there is a good one.
func TestCertificateStays(t *testing.T) {
	t.Parallel()
	const cert = "cert/ns1/secret:t"
	k := newKeeper(t, compile.Config{})
	k.step("named before it is there",
		secured("a", "1", "a.example.com", "", ofSecret)+"---\n"+secured("b", "2", "b.example.com", "", ofSecret),
		"settings", "ns1/a: "+missingSecret, "ns1/b: "+missingSecret)
	k.step("it comes", pairSecret("t", "leaf.crt", "leaf.key"), cert+" endpoints/ns1/web/* route/ns1/a route/ns1/b",
		"ns1/a: admitted", "ns1/b: admitted")
	gone := ": admitted; " + cert + ": " + noSecret + "; " + staysSecret
	k.step("it is deleted: nothing changes", "gone: Secret ns1/t", "", "ns1/a"+gone, "ns1/b"+gone)
	k.step("who comes now never had it", secured("c", "3", "c.example.com", "", ofSecret), "", "ns1/c: "+missingSecret)
	k.step("a key that is not its own", pairSecret("t", "leaf.crt", "rsa.key"), "",
		"ns1/a: tls.key: tls: private key type does not match public key type; "+staysSecret,
		"ns1/b: "+staysSecret, "ns1/c: ExtendedValidationFailed")
	k.step("another type",
		strings.Replace(pairSecret("t", "renewed.crt", "renewed.key"), "kubernetes.io/tls", "Opaque", 1), "",
		`ns1/a: secret of type "kubernetes.io/tls" required; `+staysSecret, "ns1/b: "+staysSecret,
		"ns1/c: ExternalCertificateValidationFailed")
	const silent = "the API server does not answer"
	k.apply("it cannot be read", []cluster.Change{{
		Key:    cluster.Key{Kind: cluster.Secret, Namespace: "ns1", Name: "t"},
		Object: &cluster.Unread{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "t"}, Why: silent},
	}}, "", `ns1/a: secrets "t" cannot be read: `+silent+"; "+staysSecret, "ns1/b: "+staysSecret,
		"ns1/c: ExternalCertificateGetFailed")
	a := func(more, tls string) string { return secured("a", "1", "a.example.com", more, ofSecret+tls) }
	k.step("a Route goes on with other paths, Services and options",
		a(", path: /x, port: {targetPort: http}", ", insecureEdgeTerminationPolicy: Allow"),
		"endpoints/ns1/web/http route/ns1/a", "ns1/a: "+staysSecret)
	k.step("also after a mistake that is none of the certificate's", a(", path: x", ""),
		"-endpoints/ns1/web/http -route/ns1/a", "ns1/a: ExtendedValidationFailed")
	k.step("when that is mended", a("", ""), "route/ns1/a", "ns1/a: "+staysSecret)
	k.step("a renewed one flows, to all", pairSecret("t", "renewed.crt", "renewed.key"), cert+" route/ns1/c",
		"ns1/a: admitted", "ns1/b: admitted", "ns1/c: admitted")
	k.step("and is what stays then", "gone: Secret ns1/t", "",
		"ns1/a: "+staysSecret, "ns1/b: "+staysSecret, "ns1/c: "+staysSecret)
	k.step("a Route goes", "gone: Route ns1/a", "-route/ns1/a")
	k.step("and another", "gone: Route ns1/b", "-route/ns1/b")
	k.step("and the last: nothing is kept", "gone: Route ns1/c", "-"+cert+" -endpoints/ns1/web/* -route/ns1/c")
	if n := k.compiler.KeptBytes("ns1") + k.compiler.Kept().InUse(); n != 0 {
		t.Errorf("there is %d of something yet", n)
	}
}

// What is kept is for one Route, host and reference: when one of them is another it is gone, and does not come back.
func TestCertificateStaysForNobodyElse(t *testing.T) {
	t.Parallel()
	route := func(uid, host, more, tls string) string { return secured("a", uid, host, more, tls) }
	same := route("1", "a.example.com", "", ofSecret)
	older := "kind: Route\nmetadata: {namespace: ns0, name: rival, creationTimestamp: \"2024-01-01T00:00:00Z\"}\n" +
		"spec: {host: a.example.com, to: {name: web}}\n"
	for _, c := range []struct{ what, change, refused, back string }{
		{"another host", route("1", "b.example.com", "", ofSecret), missingSecret, same},
		{"another object of that name", route("2", "a.example.com", "", ofSecret), missingSecret, same},
		{"every host beside it", route("1", "a.example.com", ", wildcardPolicy: Subdomain", ofSecret), missingSecret, same},
		{"another Secret", route("1", "a.example.com", "", ", externalCertificate: {name: u}"), "not found", same},
		{
			"CA certificates that it adds",
			route("1", "a.example.com", "", ofSecret+`, caCertificate: "@ca.crt"`), missingSecret, same,
		},
		{
			"a certificate of its own",
			route("1", "a.example.com", "", `, certificate: "@leaf.crt", key: "@leaf.key"`), "", same,
		},
		{"none", route("1", "a.example.com", "", ""), "", same},
		{"no Route", "gone: Route ns1/a", "", same},
		{"its host is another's", older, "HostAlreadyClaimed", "gone: Route ns0/rival"},
		{
			"it is another IngressController's",
			controllerWith("routeSelector: {matchLabels: {a: b}}"), "", controllerWith("routeSelector: {}"),
		},
	} {
		k := newKeeper(t, compile.Config{})
		k.compiler.Apply(changesOf(t, controllerWith("routeAdmission: {wildcardPolicy: WildcardsAllowed}")))
		verdict := map[string]*tsujiv1.RouteVerdict{}
		apply := func(change string) {
			k.last = k.compiler.Apply(changesFrom(t, change))
			for _, v := range k.last.Verdicts {
				verdict[v.GetNamespace()+"/"+v.GetName()] = v
			}
			for _, r := range k.last.Removed {
				delete(verdict, r.Namespace+"/"+r.Name)
			}
		}
		apply(same + "---\n" + pairSecret("t", "leaf.crt", "leaf.key"))
		apply("gone: Secret ns1/t")
		if got := keptVerdict(verdict["ns1/a"]); !strings.Contains(got, staysSecret) {
			t.Fatalf("%s: before: %s", c.what, got)
		}
		apply(c.change)
		v := verdict["ns1/a"]
		if c.refused != "" && !strings.Contains(keptVerdict(v), c.refused) || v != nil && len(v.GetLastGood()) > 0 {
			t.Errorf("%s: %s, want %q", c.what, keptVerdict(v), c.refused)
		}
		if _, ok := k.last.Facts.Get("cert/ns1/secret:t"); ok {
			t.Errorf("%s: the certificate is still there", c.what)
		}
		apply(c.back)
		if got := keptVerdict(verdict["ns1/a"]); !strings.Contains(got, missingSecret) {
			t.Errorf("%s, and back: %s", c.what, got)
		}
	}
}

// The same of a Route that adds CA certificates to the chain: its Certificate is its own, and a Secret that is good for
// others may not be for it.
func TestOwnChainStays(t *testing.T) {
	t.Parallel()
	const own, shared = "cert/ns1/route:a", "cert/ns1/secret:t"
	k := newKeeper(t, compile.Config{})
	k.step("all is there", secured("a", "1", "a.example.com", "", ofSecret+`, caCertificate: "@ca.crt"`)+"---\n"+
		secured("b", "2", "b.example.com", "", ofSecret)+"---\n"+pairSecret("t", "leaf.crt", "leaf.key"),
		own+" "+shared+" endpoints/ns1/web/* route/ns1/a route/ns1/b settings", "ns1/a: admitted", "ns1/b: admitted")
	chain := certtest.Chain(certtest.Certificate{}.Sign(certtest.FixedKey()))
	k.step("it is renewed by another CA", fmt.Sprintf("kind: Secret\nmetadata: {namespace: ns1, name: t}\n"+
		"type: kubernetes.io/tls\nstringData: {tls.crt: %q, tls.key: %q}\n", chain, certtest.PrivateKey(certtest.FixedKey())), shared,
		"ns1/a: error verifying certificate: x509: certificate signed by unknown authority; "+staysSecret, "ns1/b: admitted")
	k.step("and goes", "gone: Secret ns1/t", "", `ns1/a: "secrets \"t\" not found"; `+staysSecret, "ns1/b: "+staysSecret)
	k.step("the first one is back", pairSecret("t", "leaf.crt", "leaf.key"), shared, "ns1/a: admitted", "ns1/b: admitted")
}

// The right to read a Secret is withdrawn from the reader: what is kept of it goes at once, and does not come back with
// the right. A Route that is made of an Ingress needs none.
func TestCertificateGoesWithTheRight(t *testing.T) {
	t.Parallel()
	role := func(verbs string) string {
		return "kind: ClusterRole\nmetadata: {name: reader}\n" +
			"rules: [{apiGroups: [\"\"], resources: [secrets], verbs: " + verbs + "}]\n"
	}
	const binding = "kind: ClusterRoleBinding\nmetadata: {name: reader}\nroleRef: {kind: ClusterRole, name: reader}\n" +
		"subjects: [{kind: ServiceAccount, namespace: openshift-ingress, name: router}]\n"
	const class = "kind: IngressClass\nmetadata: {name: tsuji}\nspec: {controller: tsuji.dev/ingress}\n"
	k := newKeeper(t, compile.Config{ExternalCertificateReader: router})
	k.compiler.Apply(changesOf(t, strings.Join([]string{
		role("[get, list, watch]"), binding, class,
		secured("a", "1", "a.example.com", "", ofSecret), pairSecret("t", "leaf.crt", "leaf.key"),
		ingressOf("", `ingressClassName: tsuji, tls: [{hosts: [i.example.com], secretName: t}], rules: [
  {host: i.example.com, http: {paths: [
    {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]`),
	}, "---\n")))
	k.last = k.compiler.Apply(nil)
	const made = "ns1/i-6ir4fruyhk"
	k.step("it is deleted", "gone: Secret ns1/t", "", "ns1/a: "+staysSecret,
		made+": spec.tls[0].secretName: Not found: "+`"secrets \"t\" not found"; `+staysSecret)
	k.step("the right is withdrawn", role("[get, list]"), "-endpoints/ns1/web/* -route/ns1/a",
		"ns1/a: does not have permission to watch this secret")
	k.step("and given back", role("[get, list, watch]"), "", "ns1/a: "+missingSecret)
	k.step("the Secret is back", pairSecret("t", "renewed.crt", "renewed.key"),
		"cert/ns1/secret:t endpoints/ns1/web/* route/ns1/a", "ns1/a: admitted", made+": admitted")
}

// What an Ingress refers to stays as it was last good: its certificate, and the CA of its endpoints; wherever the rule
// stands, and until it names something else.
func TestIngressStays(t *testing.T) {
	t.Parallel()
	ingress := func(uid, ca, first string) string {
		return fmt.Sprintf(`kind: Ingress
metadata: {namespace: ns1, name: i, uid: %q, creationTimestamp: "2024-01-02T00:00:00Z", annotations: {route.openshift.io/termination: reencrypt, route.openshift.io/destination-ca-certificate-secret: %s}}
spec: {ingressClassName: tsuji, tls: [{hosts: [a.example.com], secretName: t}], rules: [%s{host: a.example.com, http: {paths: [
  {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
`, uid, ca, first)
	}
	authority := func(name, crt string) string {
		return fmt.Sprintf("kind: Secret\nmetadata: {namespace: ns1, name: %s}\ntype: Opaque\nstringData: {tls.crt: %q}\n", name, crt)
	}
	const class = "kind: IngressClass\nmetadata: {name: tsuji}\nspec: {controller: tsuji.dev/ingress}\n"
	const made = "ns1/i-2sz3mczae5"
	const own = "cert/" + "ns1/destination-ca:i-2sz3mczae5"
	const staysCA = "the last good CA stays in use for this Route: put a good Secret back, or name another"
	k := newKeeper(t, compile.Config{})
	k.compiler.Apply(changesOf(t, strings.Join([]string{
		class, ingress("1", "ca", ""), authority("ca", "@ca.crt"), pairSecret("t", "leaf.crt", "leaf.key"),
	}, "---\n")))
	k.last = k.compiler.Apply(nil)
	if _, ok := k.last.Facts.Get(own); !ok {
		t.Fatalf("no %s among %v", own, names(k.last))
	}
	k.step("the CA is deleted", "gone: Secret ns1/ca", "",
		made+": "+own+`: metadata.annotations[route.openshift.io/destination-ca-certificate-secret]: `+
			`Invalid value: "ca": there is no such Secret in the namespace; `+staysCA)
	k.step("the certificate, too", "gone: Secret ns1/t", "", made+": "+staysCA+"; cert/ns1/secret:t: spec.tls[0].secretName: Not found")
	k.step("the CA is none", authority("ca", "nothing"), "", made+": failed to parse CA certificate: there is no certificate in it; "+staysCA)
	more := `{host: b.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}, `
	k.step("the rule stands elsewhere: nothing changes; the new one never had a CA", ingress("1", "ca", more), "",
		made+": "+staysCA+"; cert/ns1/secret:t: spec.tls[0].secretName: Not found", "ns1/i-mgvmqfq6v5: ExtendedValidationFailed")
	k.step("both Secrets are good", authority("ca", "@other-ca.crt")+"---\n"+pairSecret("t", "renewed.crt", "renewed.key"),
		own+" cert/ns1/destination-ca:i-mgvmqfq6v5 cert/ns1/secret:t route/ns1/i-mgvmqfq6v5", made+": admitted", "ns1/i-mgvmqfq6v5: admitted")
	k.step("the CA goes", "gone: Secret ns1/ca", "", made+": "+staysCA, "ns1/i-mgvmqfq6v5: "+staysCA)
	k.step("another is named that is not there", ingress("1", "none", ""), "-"+own+" -cert/ns1/destination-ca:i-mgvmqfq6v5 -cert/ns1/secret:t "+
		"-endpoints/ns1/web/80 -route/ns1/i-2sz3mczae5 -route/ns1/i-mgvmqfq6v5", made+": IncompleteIngressToRouteRules")
	k.step("and the first one again", ingress("1", "ca", ""), "", made+": IncompleteIngressToRouteRules")
}

// The cluster's own CA stays in use when its ConfigMap vanishes or breaks: no endpoint goes unverified, and both the owners
// of Routes and the administrator are told.
func TestServiceCAStays(t *testing.T) {
	t.Parallel()
	const ca = "cert/openshift-ingress/configmap:service-ca-bundle"
	const stays = "endpoints are verified with the last good one: have it put back, or give the Route a CA of its own"
	route := func(name string) string {
		return "kind: Route\nmetadata: {namespace: ns1, name: " + name + "}\nspec: {host: " + name + ".example.com, to: {name: web}, tls: {termination: reencrypt}}\n"
	}
	k := newKeeper(t, compile.Config{})
	fault := func(want string) {
		t.Helper()
		got := ""
		for _, f := range k.last.Faults {
			got += f.Place + ": " + f.Message + " (" + f.Remedy + ")"
		}
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("faults %q, want %q", got, want)
		}
	}
	k.step("there never was one", route("a"), "endpoints/ns1/web/* route/ns1/a settings", "ns1/a: admitted")
	fault("")
	k.step("it comes", bundle("@ca.crt"), ca+" route/ns1/a", "ns1/a: admitted")
	k.step("it is deleted", "gone: ConfigMap openshift-ingress/service-ca-bundle", "",
		`ns1/a: `+ca+`: spec.tls.destinationCACertificate is empty, and configmaps "service-ca-bundle" not found in namespace openshift-ingress; `+stays)
	fault("ConfigMap openshift-ingress/service-ca-bundle: configmaps \"service-ca-bundle\" not found in namespace " +
		"openshift-ingress; endpoints are verified with the last good one (put the CA")
	k.step("made again, and not yet filled", bundle(""), "", "ns1/a: there is no service-ca.crt in ConfigMap openshift-ingress/service-ca-bundle; "+stays)
	k.step("a Route that comes then is verified, too", route("b"), "route/ns1/b", "ns1/b: "+stays)
	k.step("it is none", bundle("nothing"), "", "ns1/a: there is no certificate in it; "+stays, "ns1/b: "+stays)
	k.step("it is filled", bundle("@other-ca.crt"), ca, "ns1/a: admitted", "ns1/b: admitted")
	fault("")
	k.step("it goes, and the Routes go", "gone: ConfigMap openshift-ingress/service-ca-bundle", "", "ns1/a: "+stays, "ns1/b: "+stays)
	k.step("one", "gone: Route ns1/a", "-route/ns1/a")
	k.step("two", "gone: Route ns1/b", "-"+ca+" -endpoints/ns1/web/* -route/ns1/b")
	fault("")
}

// What is kept of a namespace has a bound. Beyond it a Route whose Secret vanishes is refused; who keeps something goes on,
// and what Routes share counts once.
func TestBoundOfWhatStays(t *testing.T) {
	t.Parallel()
	leaf, key := readCert(t, "leaf.crt"), readCert(t, "leaf.key")
	chain := leaf + strings.Repeat(leaf, 31)
	most := compile.MaxKept / (len(chain) + len(key))
	c := compile.New(compile.Config{})
	var all, gone []cluster.Change
	for i := range most + 10 {
		name := fmt.Sprintf("s%05d", i)
		s := changesOf(t, fmt.Sprintf("kind: Secret\nmetadata: {namespace: ns1, name: %s}\ntype: kubernetes.io/tls\n"+
			"stringData: {tls.crt: %q, tls.key: %q}\n", name, chain, key))
		all = append(append(all, s...), changesOf(t, secured(name, name, name+".example.com", "", ", externalCertificate: {name: "+name+"}"))...)
		gone = append(gone, cluster.Change{Key: s[0].Key})
	}
	for i := range 100 {
		name := fmt.Sprintf("z%05d", i)
		all = append(all, changesOf(t, secured(name, name, name+".example.com", "", ", externalCertificate: {name: s00000}"))...)
	}
	c.Apply(all)
	if n := c.KeptBytes("ns1"); n != 0 {
		t.Errorf("%d bytes are kept of what is good", n)
	}
	served := func(r compile.Result) (n int) {
		for i := range r.Config.All() {
			if strings.HasPrefix(i.Name(), "route/") {
				n++
			}
		}
		return n
	}
	r := c.Apply(gone)
	n := served(r) - 100
	if kept := c.KeptBytes("ns1"); kept > compile.MaxKept || n < most-1 || n > most+1 {
		t.Errorf("%d Routes of %d keep %d bytes, of %d", n, most+10, kept, compile.MaxKept)
	}
	if again := c.Apply(all[:2]); served(again) != n+100 {
		t.Errorf("one is good again, and %d Routes are served, of %d", served(again)-100, n)
	}
	c.Apply(all)
	if n := c.KeptBytes("ns1"); n != 0 {
		t.Errorf("%d bytes are kept of what is good", n)
	}
}

// A refused Route that others' new ones come before does not bring back the certificate that it saw last when the Secret
// goes: what stays is what was good last, and was served.
func TestWhatStaysIsTheLastForAll(t *testing.T) {
	t.Parallel()
	const cert = "cert/ns1/secret:t"
	k := newKeeper(t, compile.Config{Most: 1})
	faulty := secured("a", "1", "a.example.com", "", ofSecret+", insecureEdgeTerminationPolicy: Odd")
	k.last = k.compiler.Apply(changesFrom(t, faulty+"---\n"+secured("b", "2", "b.example.com", "", ofSecret)+
		"---\n"+pairSecret("t", "leaf.crt", "leaf.key")))
	other := strings.ReplaceAll(secured("x", "3", "x.example.com", "", ""), "ns1", "ns0")
	k.last = k.compiler.Apply(changesFrom(t, pairSecret("t", "renewed.crt", "renewed.key")+"---\n"+other))
	renewed, ok := k.last.Facts.Get(cert)
	if !ok {
		t.Fatal("there is no certificate")
	}
	k.last = k.compiler.Apply(changesFrom(t, "gone: Secret ns1/t"))
	if now, ok := k.last.Facts.Get(cert); !ok || now.Digest() != renewed.Digest() {
		t.Error("the certificate is the one before the last")
	}
}
