package compile_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
)

// history applies changes one by one, and tells of each what differs and what is faulty then.
type history struct {
	t        *testing.T
	compiler *compile.Compiler
	last     compile.Result
}

func newHistory(t *testing.T) *history {
	h := &history{t: t, compiler: compile.New(compile.Config{})}
	h.last = h.compiler.Apply(nil)
	return h
}

// step applies manifests, or what is "gone: Kind namespace/name". fault is what the one fault says; empty: there is none.
func (h *history) step(what, change, fault string, want ...string) {
	h.t.Helper()
	next := h.compiler.Apply(changesFrom(h.t, change))
	if got := difference(h.last, next); !slices.Equal(got, want) {
		h.t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
	var faults string
	for _, f := range next.Faults {
		faults += f.Message + " (" + f.Remedy + ")\n"
	}
	if fault == "" && faults != "" || !strings.Contains(faults, fault) || strings.Count(faults, "\n") > 1 {
		h.t.Errorf("%s: faults\n%swant %q", what, faults, fault)
	}
	h.last = next
}

// changesFrom reads manifests, or what is "gone: Kind namespace/name".
func changesFrom(t testing.TB, text string) []cluster.Change {
	t.Helper()
	name, ok := strings.CutPrefix(text, "gone: ")
	if !ok {
		return changesOf(t, text)
	}
	var k cluster.Key
	kind, of, _ := strings.Cut(name, " ")
	k.Kind = cluster.Kind(kind)
	k.Namespace, k.Name, _ = strings.Cut(of, "/")
	return []cluster.Change{{Key: k}}
}

func controllerWith(spec string) string {
	return "kind: IngressController\nmetadata: {namespace: openshift-ingress-operator, name: default}\nspec: {" + spec + "}\n"
}

func defaultSecret(name, crt, key string) string {
	return fmt.Sprintf("kind: Secret\nmetadata: {namespace: openshift-ingress, name: %s}\ntype: kubernetes.io/tls\nstringData: {tls.crt: \"@%s\", tls.key: \"@%s\"}\n", name, crt, key)
}

// A default certificate that vanishes, or that cannot be used, stays in use as it was, and is told, until there is a
// good one, or none is wanted.
func TestDefaultCertificateStays(t *testing.T) {
	t.Parallel()
	const cert, other = "cert/openshift-ingress/secret:front", "cert/openshift-ingress/secret:other"
	h := newHistory(t)
	h.step("named before it is there: nothing was ever good", controllerWith("defaultCertificate: {name: front}"),
		"there is no such Secret; routers serve certificates of their own, which clients do not trust (put a Secret of type kubernetes.io/tls there")
	h.step("it comes", defaultSecret("front", "leaf.crt", "leaf.key"), "", cert, "settings")
	h.step("it is deleted", "gone: Secret openshift-ingress/front", "Secret openshift-ingress/front: there is no such Secret; the last good one, of Secret openshift-ingress/front, stays in use")
	h.step("and made again", defaultSecret("front", "leaf.crt", "leaf.key"), "")
	h.step("a key that is not its own", defaultSecret("front", "renewed.crt", "leaf.key"), "private key does not match public key; the last good one")
	h.step("another type", strings.Replace(defaultSecret("front", "renewed.crt", "renewed.key"), "kubernetes.io/tls", "Opaque", 1), "stays in use")
	h.step("a renewed one flows", defaultSecret("front", "renewed.crt", "renewed.key"), "", cert)
	h.step("another Secret is named, which is not there yet", controllerWith("defaultCertificate: {name: other}"),
		"Secret openshift-ingress/other: there is no such Secret; the last good one, of Secret openshift-ingress/front, stays in use")
	h.step("what is in use is renewed, although it is not named", defaultSecret("front", "leaf.crt", "leaf.key"), "of Secret openshift-ingress/front", cert)
	h.step("and broken", defaultSecret("front", "leaf.crt", "rsa.key"), "of Secret openshift-ingress/front")
	h.step("and gone", "gone: Secret openshift-ingress/front", "of Secret openshift-ingress/front")
	h.step("no name at all", controllerWith(`defaultCertificate: {name: "A b"}`), "of Secret openshift-ingress/front, stays in use")
	h.step("the other one is named, and comes", controllerWith("defaultCertificate: {name: other}"), "stays in use")
	h.step("now", defaultSecret("other", "renewed.crt", "renewed.key"), "", "-"+cert, other, "settings")
	h.step("none is named: nothing is kept", controllerWith(""), "", "-"+other, "settings")
	h.step("nor is it afterwards", "gone: Secret openshift-ingress/other", "")
	h.step("so that there is none", controllerWith("defaultCertificate: {name: other}"), "routers serve certificates of their own")
}

// The same of clients' CA certificates with their revocation lists, which are kept together.
func TestClientCAStays(t *testing.T) {
	t.Parallel()
	a, b := newCA(t, "a"), newCA(t, "b")
	const cert = "cert/openshift-config/configmap:clients"
	bundle := func(keys ...string) string {
		out := "kind: ConfigMap\nmetadata: {namespace: openshift-config, name: clients}\ndata:\n  other: x\n"
		for i := 0; i < len(keys); i += 2 {
			out += fmt.Sprintf("  %s: %q\n", keys[i], keys[i+1])
		}
		return out
	}
	required := controllerWith("clientTLS: {clientCertificatePolicy: Required, clientCA: {name: clients}}")
	h := newHistory(t)
	h.step("named before it is there", required, `not found in namespace openshift-config; until then every request whose TLS ends at a router is answered with 503 (put the CA certificates into ca-bundle.pem of ConfigMap openshift-config/clients)`, "settings")
	h.step("where clients may have certificates", controllerWith("clientTLS: {clientCertificatePolicy: Optional, clientCA: {name: clients}}"), "until then no client is asked", "settings")
	h.step("it comes", bundle("ca-bundle.pem", a.pem()), "", cert, "settings")
	h.step("it is required", required, "", "settings")
	h.step("it is deleted", "gone: ConfigMap openshift-config/clients", "the last good one, of ConfigMap openshift-config/clients, stays in use")
	h.step("it is broken", bundle("ca-bundle.pem", "x"), "stays in use")
	h.step("it comes with lists", bundle("ca-bundle.pem", a.pem(), "crl.pem", a.list(1)), "", cert, "settings")
	h.step("the lists are broken: the CA stays, too", bundle("ca-bundle.pem", a.pem()+b.pem(), "crl.pem", "x"), "there is no revocation list in it; the last good one")
	h.step("the lists have vanished", bundle("ca-bundle.pem", a.pem()), "crl.pem is gone from ConfigMap openshift-config/clients: nobody would count as revoked (if that is meant, leave an empty crl.pem); the last good one")
	h.step("all has vanished", "gone: ConfigMap openshift-config/clients", "stays in use")
	h.step("there are to be no lists", bundle("ca-bundle.pem", a.pem(), "crl.pem", ""), "", cert, "settings")
	h.step("so that their key may go", bundle("ca-bundle.pem", a.pem()), "")
	h.step("gone again", "gone: ConfigMap openshift-config/clients", "stays in use")
	h.step("clients need no certificates: nothing is kept", controllerWith(""), "", "-"+cert, "settings")
	h.step("so that there is none", required, "503", "settings")
}

// Error pages stay when their ConfigMap vanishes, or when they are none; one that the ConfigMap has no more goes.
func TestErrorPagesStay(t *testing.T) {
	t.Parallel()
	pages := func(p503, p404 string) string {
		return fmt.Sprintf("kind: ConfigMap\nmetadata: {namespace: openshift-config, name: pages}\ndata: {error-page-503.http: %q, error-page-404.http: %q}\n", p503, p404)
	}
	const good, better = "HTTP/1.0 503 Sorry\r\n\r\nsorry", "HTTP/1.0 503 Sorry\r\n\r\nvery sorry"
	big := "HTTP/1.0 503 Sorry\r\n\r\n" + strings.Repeat("x", 12000)
	named := controllerWith("httpErrorCodePages: {name: pages}")
	small := controllerWith("httpErrorCodePages: {name: pages}, tuningOptions: {headerBufferBytes: 16384}")
	h := newHistory(t)
	h.step("named before they are there", named, `configmaps "pages" not found in namespace openshift-config (put the ConfigMap back, or name none)`)
	h.step("they come", pages(good, good), "", "settings")
	h.step("they are deleted", "gone: ConfigMap openshift-config/pages", "not found in namespace openshift-config; the last good pages stay in use")
	h.step("one is none, and the other another", pages("sorry", better), "the last good page stays in use", "settings")
	h.step("one is not wanted", pages(better, ""), "", "settings")
	h.step("a large one", pages(big, ""), "", "settings")
	h.step("which does not fit any more", small, "12022 bytes are too many", "settings")
	h.step("nor without its ConfigMap", "gone: ConfigMap openshift-config/pages", "not found in namespace openshift-config (put")
	h.step("but does again", named, "the last good pages stay in use", "settings")
	h.step("none are named: nothing is kept", controllerWith(""), "", "settings")
	h.step("so that there are none", named, "openshift-config (put")
}
