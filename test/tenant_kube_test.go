package test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/identity/authority"
	"github.com/tsuji-dev/tsuji/test/podtest"
)

// The same with an API server, where what a tenant's Routes refer to is asked for: the victim has Secrets of his own, and waits for
// each of them as for a host.
func TestTenantKubernetes(t *testing.T) {
	f := newFleet(t)
	f.source = newCluster(t)
	w := newTenants(t, f, nil)
	t.Logf("the victim's hosts, while the tenant does nothing: %s", summary(w.quiet))
	for _, m := range []misdeed{
		{"N", "many references", 3, manyReferences, nil},
		{"H", "most of his Routes go", 3, func(w *tenants) []deed { return manyGo(w)[:2] }, nil},
	} {
		if m.letter == "N" {
			m.also = func(t *testing.T, w *tenants, _ deed) {
				t.Helper()
				t.Logf("the victim's Secrets: %s", summary(w.victimSecrets(t, 2)))
			}
		}
		t.Run(m.letter+" "+m.what, func(t *testing.T) { w.suffer(t, m, m.deeds(w)) })
	}
}

// victimSecrets adds hosts of the victim's whose certificates are in Secrets, and returns how long each took until it was served
// with its own.
func (w *tenants) victimSecrets(t *testing.T, hosts int) []time.Duration {
	t.Helper()
	var took []time.Duration
	for range hosts {
		host, name := w.nextHost()
		cert, key, err := w.ca.Issue(authority.Options{DNSNames: []string{host}})
		if err != nil {
			t.Fatal(err)
		}
		p := podtest.Begin(t)
		w.f.write(name+".yaml", in(victimNamespace, route(name, host, "web", "tls: {termination: edge, insecureEdgeTerminationPolicy: Allow, externalCertificate: {name: "+name+"}}")+
			"apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: "+name+", namespace: shop}\nstringData:\n"+indent(pemField("tls.crt", cert)+pemField("tls.key", key), "  ")))
		eventually(t, "the victim's host has its own certificate", func() error {
			leaf, err := leafOf(w.r, host)
			if err == nil && !isLeaf(cert, key, leaf) {
				err = errNotYet
			}
			return err
		})
		took = append(took, p.Within(slowest, "the victim's Secret "+name+" is in force"))
	}
	return took
}

// manyReferences are Routes that name Secrets.
func manyReferences(w *tenants) []deed {
	named := func(n int, secret func(i int) string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(w.route(fmt.Sprintf("ref%d", i), "", "tls: {termination: edge, externalCertificate: {name: "+secret(i)+"}}"))
		}
		return b.String()
	}
	most := 2100
	if long() {
		most = 20_000
	}
	none := func(i int) string { return fmt.Sprintf("none%x", sha256.Sum256([]byte(fmt.Sprint(i))))[:40] }
	return []deed{
		{what: "500 that are not there", do: func(w *tenants) { w.write("refs", named(500, none)) }},
		{what: "others with every edit", do: func(w *tenants) {
			for n := range 5 {
				w.write("refs", named(100, func(i int) string { return fmt.Sprintf("other%d-%d", n, i) }))
				w.victimAdds(w.t, 1)
			}
		}},
		{what: "more than may be", told: "refers to more than 2000 objects", do: func(w *tenants) { w.write("refs", named(most, none)) }},
		{what: "none any more, and then all again", do: func(w *tenants) {
			w.write("refs", named(500, none))
			w.write("refs", named(1, none))
			w.victimAdds(w.t, 1)
			w.write("refs", named(500, none))
		}},
		{what: "one of the largest that there are, in a hundred Routes, renewed", do: func(w *tenants) {
			w.write("refs", named(100, func(int) string { return "large" }))
			for n := range 3 {
				w.write("large", "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: large, namespace: "+hostileNamespace+"}\nstringData: {tls.crt: "+strings.Repeat(string(rune('a'+n)), 500_000)+", tls.key: "+strings.Repeat("k", 400_000)+"}\n---\n")
				w.victimAdds(w.t, 1)
			}
		}},
		{what: "an Ingress that names a hundred", do: func(w *tenants) {
			var b strings.Builder
			b.WriteString("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: many, namespace: " + hostileNamespace + "}\nspec:\n  ingressClassName: openshift-default\n  tls:\n")
			for i := range 100 {
				fmt.Fprintf(&b, "  - {hosts: [i%d.hostile%s], secretName: %s}\n", i, domain, none(i))
			}
			fmt.Fprintf(&b, "  rules: [{host: i0.hostile%s, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]\n---\n", domain)
			w.write("ingress", b.String())
		}},
	}
}
