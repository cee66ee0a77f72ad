package test

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/identity/authority"
)

// What an administrator gets wrong about an IngressController is no outage: Routes and endpoints go on, what was closed stays
// closed, and hosts have the certificate that they had.
func TestTenantAdministrator(t *testing.T) {
	w := newTenants(t, newFleet(t), nil)
	t.Logf("the victim's hosts, while the administrator does nothing: %s", summary(w.quiet))
	leaf, err := leafOf(w.r, "nobody"+domain)
	if err != nil {
		t.Fatal(err)
	}
	shard := w.startShard()
	turn := 0
	for _, m := range []misdeed{
		{letter: "J", what: "what Settings refer to is missing", reloads: 4, deeds: missingReferences},
		{letter: "P", what: "the default certificate goes", reloads: 2, deeds: missingCertificate},
		{letter: "K", what: "an IngressController with a selector goes", reloads: 2, deeds: missingController},
	} {
		m.also = func(t *testing.T, w *tenants, _ deed) {
			t.Helper()
			turn++
			w.endpointMoves(t, turn)
			switch now, err := leafOf(w.r, "nobody"+domain); {
			case err != nil:
				t.Errorf("a host without a certificate of its own: %v", err)
			case !bytes.Equal(now.Raw, leaf.Raw):
				t.Errorf("a host without a certificate of its own has that of %q, and had that of %q", now.Subject, leaf.Subject)
			}
			if code, _, err := get(shard.http, w.lastHost(), "/"); err != nil || code == 200 {
				t.Errorf("a router of another IngressController answers %d for a Route that it does not select, %v", code, err)
			}
		}
		t.Run(m.letter+" "+m.what, func(t *testing.T) { w.suffer(t, m, m.deeds(w)) })
	}
}

// endpointMoves moves the endpoint of a host of the victim's, and waits until traffic follows.
func (w *tenants) endpointMoves(t *testing.T, turn int) {
	t.Helper()
	to := w.pods.start(fmt.Sprint("moved", turn))
	began := time.Now()
	w.f.write("moving.yaml", in(victimNamespace, podService("moving", []*pod{to}, nil)+route("moving", "moving.victim"+domain, "moving")))
	eventually(t, "the victim's endpoint has moved", func() error { return answers(w.r.http, "moving.victim"+domain, "/", to.name) })
	t.Logf("the victim's endpoint moved in %v", time.Since(began).Round(time.Millisecond))
}

const shardController = `apiVersion: operator.openshift.io/v1
kind: IngressController
metadata: {name: shard, namespace: openshift-ingress-operator}
spec: {routeSelector: {matchLabels: {shard: "yes"}}}
---
`

// startShard starts a router of an IngressController that selects none of the victim's Routes.
func (w *tenants) startShard() *router {
	w.t.Helper()
	w.f.write("shard.yaml", shardController)
	r := w.f.newRouter("tok05", "shard")
	files := w.f.issue("spiffe://tsuji.local/ingress/shard/zone/tok05/router/shard")
	r.start("--ingress-controller=shard", "--tls-cert="+files.Cert, "--tls-key="+files.Key)
	r.ready()
	return r
}

// rewritten is a deed that writes a file, which is as it was afterwards.
func rewritten(what, name, before, manifest, told string) deed {
	return deed{what: what, told: told, do: func(w *tenants) {
		w.f.write(name, manifest)
		w.t.Cleanup(func() { w.f.write(name, before) })
	}}
}

func missingReferences(w *tenants) []deed {
	before := w.controller
	with := func(what, spec, more, told string) deed {
		return rewritten(what, "controller.yaml", before, strings.Replace(before, "spec:\n", "spec:\n"+indent(spec, "  "), 1)+more, told)
	}
	optional := func(name string) string {
		return "clientTLS: {clientCertificatePolicy: Optional, clientCA: {name: " + name + "}}"
	}
	return []deed{
		with("no ConfigMap of the clients' CA", optional("nowhere"), "", "nowhere"),
		with("a CA that is none", optional("none"), configMap("none", "ca-bundle.pem", []byte("no certificate")), "none"),
		with("no ConfigMap of error pages", "httpErrorCodePages: {name: nowhere}", "", "nowhere"),
		with("error pages that are none", "httpErrorCodePages: {name: pages}", configMap("pages", "error-page-503.http", []byte("no page")), "pages"),
		with("a value that cannot be read", "tuningOptions: {clientTimeout: soon}", "", "not of the form"),
		with("values that cannot be", "tuningOptions: {headerBufferBytes: 1, maxConnections: 7, threadCount: 65000}", "", "maxConnections"),
		with("no such profile", "tlsSecurityProfile: {type: Newest}", "", "Newest"),
	}
}

func missingCertificate(w *tenants) []deed {
	before := w.controller
	other, key, err := w.ca.Issue(authority.Options{DNSNames: []string{"*" + domain}})
	if err != nil {
		w.t.Fatal(err)
	}
	head, secret, _ := strings.Cut(before, "---\n")
	with := func(what, secret, told string) deed {
		return rewritten(what, "controller.yaml", before, head+"---\n"+secret, told)
	}
	replaced := func(cert, key []byte) string {
		head, _, _ := strings.Cut(secret, "stringData:")
		return head + "stringData:\n" + indent(pemField("tls.crt", cert)+pemField("tls.key", key), "  ")
	}
	text := []byte("no certificate\n")
	m := newMint(w.t)
	odd := m.issue(func(c *x509.Certificate) { c.Subject.CommonName = "a\n> b" })
	return []deed{
		with("its Secret is deleted", "", "site"),
		with("its key is another's", replaced(other, newMint(w.t).named("x").key), "site"),
		with("it is no certificate", replaced(text, key), "site"),
		with("its key is none", replaced(other, text), "site"),
		with("its chain has what OpenSSL does not take", replaced(slices.Concat(other, m.withKey(oddKeys(w.t)["DSA-1024"])), key), "site"),
		with("its name has a line break", replaced(odd.cert, odd.key), "site"),
	}
}

func missingController(*tenants) []deed {
	gone := func(w *tenants) {
		w.f.remove("shard.yaml")
		w.t.Cleanup(func() { w.f.write("shard.yaml", shardController) })
	}
	return []deed{
		{what: "it is deleted", told: "shard", do: gone},
		{what: "it is deleted, and the control plane starts again", do: func(w *tenants) {
			gone(w)
			r := w.f.controlPlane()
			r.kill()
			w.f.startReplica(r)
			w.f.readyReplica(r)
		}},
		{what: "it is deleted, and created again", do: func(w *tenants) {
			w.f.remove("shard.yaml")
			w.victimAdds(w.t, 1)
			w.f.write("shard.yaml", shardController)
		}},
		rewritten("its selector cannot be", "shard.yaml", shardController, strings.Replace(shardController, "matchLabels: {shard: \"yes\"}", "matchExpressions: [{key: shard, operator: Sideways}]", 1), "shard"),
		rewritten("its selector selects nothing", "shard.yaml", shardController, strings.Replace(shardController, "yes", "nobody", 1), ""),
	}
}
