package compile_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// The rules of OpenShift's API for Routes, which a plain custom resource does not have: a row for each, and beside
// it what it still lets through. What breaks a rule is refused for a reason, in words that name the field.
//
// One rule is none of compile's, because it is about two versions of a Route: wildcardPolicy may not change.
func TestRulesOfTheAPI(t *testing.T) {
	t.Parallel()
	const invalid = "ExtendedValidationFailed"
	header := func(name, action string) string {
		return fmt.Sprintf("to: {name: web}, httpHeaders: {actions: {request: [{name: %s, action: %s}]}}", name, action)
	}
	set := func(value string) string { return header("X-A", "{type: Set, set: {value: "+value+"}}") }
	respond := func(value string) string {
		return "to: {name: web}, httpHeaders: {actions: {response: [{name: X-A, action: {type: Set, set: {value: " + value + "}}}]}}"
	}
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "{name: X-%d, action: {type: Delete}}, ", i)
		}
		return b.String()
	}
	tls := func(fields string) string { return "to: {name: web}, tls: {" + fields + "}" }
	a := strings.Repeat("a", 1<<15)
	for _, c := range []struct {
		rule    string
		spec    string // without the host where it begins with no "host:"
		reason  string // empty: it is admitted
		message string // a part of it, or of a warning
	}{
		// Hosts.
		{"host: a DNS subdomain", `host: a_b.example.com, to: {name: web}`, "InvalidHost", "spec.host"},
		{"host: in lower case", `host: A.example.com, to: {name: web}`, "InvalidHost", "spec.host"},
		{"host: labels of at most 63", `host: ` + a[:64] + `.example.com, to: {name: web}`, "InvalidHost", "no more than 63"},
		{"host: labels of 63", `host: ` + a[:63] + `.example.com, to: {name: web}`, "", ""},
		{"host: at most 253", `host: ` + strings.Repeat(a[:49]+".", 5) + `comm, to: {name: web}`, "InvalidHost", "no more than 253"},
		{"host: 253", `host: ` + strings.Repeat(a[:49]+".", 5) + `com, to: {name: web}`, "", ""},
		{"host: there is one", `host: "", to: {name: web}`, "NoHostValue", "no host value was defined for the route"},
		{"subdomain: labels, even beside a host", `host: a.example.com, subdomain: a_b, to: {name: web}`, invalid, "spec.subdomain"},
		{"subdomain: beside a host it does nothing", `host: a.example.com, subdomain: a.b, to: {name: web}`, "", "spec.subdomain is not used"},
		{"wildcardPolicy: None or Subdomain", `wildcardPolicy: All, to: {name: web}`, "RouteNotAdmitted", `unknown wildcard policy "All"`},
		{"wildcardPolicy: Subdomain needs a host", `host: "", subdomain: a, wildcardPolicy: Subdomain, to: {name: web}`, invalid, "host name not specified for wildcard policy"},
		{"wildcardPolicy: Subdomain", `wildcardPolicy: Subdomain, to: {name: web}`, "", ""},

		// Paths.
		{"path: begins with /", `path: a, to: {name: web}`, invalid, "path must begin with /"},
		{"path: no #", `path: "/a#b", to: {name: web}`, invalid, "spec.path"},
		{"path: no blank", `path: "/a b", to: {name: web}`, invalid, "spec.path"},
		{"path: any other sign that a request line may have", `path: "/a[b(c*$^|{}\\'\"%zz", to: {name: web}`, "", ""},
		{"path: none on passthrough", `path: /a, ` + tls("termination: passthrough"), invalid, "passthrough termination does not support paths"},
		{"path: / is one", `path: /, ` + tls("termination: passthrough"), invalid, "passthrough termination does not support paths"},

		// Services.
		{"to.name: required", `to: {name: ""}`, invalid, "spec.to.name: Required"},
		{"to.kind: Service", `to: {kind: Pod, name: web}`, invalid, "spec.to.kind"},
		{"to.weight: at least 0", `to: {name: web, weight: -1}`, "", "spec.to.weight: -1 is not between 0 and 256; 0 is used"},
		{"to.weight: at most 256", `to: {name: web, weight: 257}`, "", "spec.to.weight: 257 is not between 0 and 256; 256 is used"},
		{"to.weight: 0 and 256", `to: {name: web, weight: 0}, alternateBackends: [{name: b, weight: 256}]`, "", ""},
		{"alternateBackends: at most 3", `to: {name: web}, alternateBackends: [{name: a}, {name: b}, {name: c}, {name: d}]`, invalid, "more than 3 alternate backends"},
		{"alternateBackends: 3", `to: {name: web}, alternateBackends: [{name: a}, {name: b}, {name: c}]`, "", ""},
		{"alternateBackends: name", `to: {name: web}, alternateBackends: [{name: ""}]`, invalid, "spec.alternateBackends[0].name: Required"},
		{"alternateBackends: kind", `to: {name: web}, alternateBackends: [{kind: Pod, name: a}]`, invalid, "spec.alternateBackends[0].kind"},
		{"alternateBackends: weight", `to: {name: web}, alternateBackends: [{name: a, weight: 300}]`, "", "spec.alternateBackends[0].weight: 300"},
		{"targetPort: not 0", `to: {name: web}, port: {targetPort: 0}`, invalid, "spec.port.targetPort: Required"},
		{"targetPort: not empty", `to: {name: web}, port: {targetPort: ""}`, invalid, "spec.port.targetPort: Required"},

		// Header actions.
		{"headers: a name", header(`""`, "{type: Delete}"), invalid, "request[0].name"},
		{"headers: a token", header(`"a b"`, "{type: Delete}"), invalid, "request[0].name"},
		{"headers: a name of at most 255", header(a[:256], "{type: Delete}"), invalid, "request[0].name"},
		{"headers: a name of 255, of any sign of a token", header("\"!#$%&'*+-.^_`|~"+a[:240]+"\"", "{type: Delete}"), "", ""},
		{"headers: not Strict-Transport-Security", header("strict-Transport-Security", "{type: Delete}"), invalid, "may not be changed"},
		{"headers: not Proxy", header("Proxy", "{type: Delete}"), invalid, "may not be changed"},
		{"headers: not Cookie", header("Cookie", "{type: Delete}"), invalid, "may not be changed"},
		{"headers: not Set-Cookie", header("Set-Cookie", "{type: Delete}"), invalid, "may not be changed"},
		{"headers: each once", `to: {name: web}, httpHeaders: {actions: {response: [{name: X-A, action: {type: Delete}}, {name: x-a, action: {type: Delete}}]}}`, invalid, "response[1].name: Duplicate"},
		{"headers: at most 20 on requests", `to: {name: web}, httpHeaders: {actions: {request: [` + many(21) + `]}}`, invalid, "request: Too many: 21"},
		{"headers: at most 20 on responses", `to: {name: web}, httpHeaders: {actions: {response: [` + many(21) + `]}}`, invalid, "response: Too many: 21"},
		{"headers: 20 on both", `to: {name: web}, httpHeaders: {actions: {request: [` + many(20) + `], response: [` + many(20) + `]}}`, "", ""},
		{"headers: Set or Delete", header("X-A", "{type: Append}"), invalid, "request[0].action.type"},
		{"headers: Set needs a value", header("X-A", "{type: Set}"), invalid, "request[0].action.set.value: Required"},
		{"headers: Set needs a value that is not empty", set(`""`), invalid, "request[0].action.set.value: Required"},
		{"headers: Delete has no value", header("X-A", "{type: Delete, set: {value: a}}"), invalid, "request[0].action.set: Forbidden"},
		{"headers: a value of at most 16384", set(a[:16385]), invalid, "no longer than 16384"},
		{"headers: a value of 16384", set(a[:16384]), "", ""},
		{"headers: no line break", set(`"a\r\nb: c"`), invalid, "line break"},
		{"headers: no tab", set(`"a\tb"`), invalid, "control character"},
		{"headers: % is %%", set(`"100%"`), invalid, "write %% for a percent sign"},
		{"headers: %%", set(`"100%%"`), "", ""},
		{"headers: no alias of log-format", set(`"%ci"`), invalid, "write %% for a percent sign"},
		{"headers: no other fetch", set(`"%[env(HOME)]"`), invalid, "use req.hdr(NAME) or ssl_c_der"},
		{"headers: requests read requests", set(`"%[res.hdr(a)]"`), invalid, "use req.hdr(NAME)"},
		{"headers: responses read responses", respond(`"%[req.hdr(a)]"`), invalid, "use res.hdr(NAME)"},
		{"headers: both fetches, both converters", respond(`"a%[res.hdr(A-1),lower,base64]b%[ssl_c_der,base64]"`), "", ""},
		{"headers: no other converter", set(`"%[req.hdr(a),upper]"`), invalid, `converter "upper" is not supported`},
		{"headers: a fetch is closed", set(`"%[req.hdr(a)"`), invalid, "not closed"},
		{"headers: none on passthrough", header("X-A", "{type: Delete}") + ", tls: {termination: passthrough}", invalid, "passthrough termination does not support header actions"},

		// TLS.
		{"tls: a termination that there is", tls("termination: Edge"), invalid, "spec.tls.termination"},
		{"tls: a termination", tls(`termination: ""`), invalid, "spec.tls.termination"},
		{"tls: an insecure policy that there is", tls("termination: edge, insecureEdgeTerminationPolicy: allow"), invalid, "acceptable values are None, Allow, Redirect, or empty"},
		{"tls: passthrough does not allow insecure", tls("termination: passthrough, insecureEdgeTerminationPolicy: Allow"), invalid, "acceptable values are None, Redirect, or empty"},
		{"tls: passthrough redirects", tls("termination: passthrough, insecureEdgeTerminationPolicy: Redirect"), "", ""},
		{"tls: passthrough has no certificate", tls(`termination: passthrough, certificate: "@leaf.crt"`), invalid, "spec.tls.certificate"},
		{"tls: passthrough has no key", tls(`termination: passthrough, key: "@leaf.key"`), invalid, "spec.tls.key"},
		{"tls: passthrough has no CA", tls(`termination: passthrough, caCertificate: "@ca.crt"`), invalid, "spec.tls.caCertificate"},
		{"tls: passthrough has no destination CA", tls(`termination: passthrough, destinationCACertificate: "@ca.crt"`), invalid, "spec.tls.destinationCACertificate"},
		{"tls: passthrough has no external certificate", tls("termination: passthrough, externalCertificate: {name: leaf}"), invalid, "spec.tls.externalCertificate"},
		{"tls: edge has no destination CA", tls(`termination: edge, destinationCACertificate: "@ca.crt"`), invalid, "edge termination does not support destination certificates"},
		{"tls: one certificate", tls(`termination: edge, certificate: "@leaf.crt", key: "@leaf.key", externalCertificate: {name: leaf}`), invalid, "cannot specify both"},
		{"tls: one certificate, reencrypt", tls(`termination: reencrypt, certificate: "@leaf.crt", key: "@leaf.key", externalCertificate: {name: leaf}`), invalid, "cannot specify both"},
		{"tls: an external certificate has its key", tls(`termination: edge, key: "@leaf.key", externalCertificate: {name: leaf}`), "", "spec.tls.key is not used"},
		{"tls: an external certificate that is there", tls("termination: edge, externalCertificate: {name: none}"), "ExternalCertificateValidationFailed", "Not found"},
		{"tls: a certificate has a key", tls(`termination: edge, certificate: "@leaf.crt"`), invalid, "no key specified"},
		{"tls: the certificate's key", tls(`termination: edge, certificate: "@leaf.crt", key: "@rsa.key"`), invalid, "spec.tls.key"},
		{"tls: a key that can be read, even without a certificate", tls(`termination: edge, key: "@ed25519.key"`), invalid, "spec.tls.key"},
		{"tls: a certificate that can be read", tls(`termination: edge, certificate: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", key: "@leaf.key"`), invalid, "spec.tls.certificate"},
		{"tls: a certificate of its CA", tls(`termination: edge, certificate: "@leaf.crt", key: "@leaf.key", caCertificate: "@other-ca.crt"`), invalid, "error verifying certificate"},
		{"tls: a destination CA that can be read", tls(`termination: reencrypt, destinationCACertificate: nonsense`), invalid, "spec.tls.destinationCACertificate"},
		{"tls: no certificate signed with SHA-1", tls(`termination: edge, certificate: "@sha1.crt", key: "@sha1.key"`), invalid, "SHA1"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			t.Parallel()
			spec := c.spec
			if !strings.HasPrefix(spec, "host:") {
				spec = "host: a.example.com, " + spec
			}
			r := compile.New(compile.Config{}).Apply(changesOf(t, `
kind: IngressController
metadata: {namespace: openshift-ingress-operator, name: default}
spec:
  domain: example.com
  routeAdmission: {wildcardPolicy: WildcardsAllowed}
  clientTLS: {clientCertificatePolicy: "", clientCA: {name: ""}}
  unsupportedConfigOverrides: null
---
kind: Secret
metadata: {namespace: ns1, name: leaf}
type: kubernetes.io/tls
stringData: {tls.crt: "@leaf.crt", tls.key: "@leaf.key"}
---
kind: Route
metadata: {namespace: ns1, name: r}
spec: {`+spec+"}\n"))
			if len(r.Verdicts) != 1 {
				t.Fatalf("%d verdicts", len(r.Verdicts))
			}
			v := r.Verdicts[0]
			_, served := r.Config.Get(tsujiv1.RouteName("ns1", "r"))
			if v.GetReason() != c.reason || served != (c.reason == "") || served != v.GetAdmitted() {
				t.Errorf("%q, want %q: %v", v.GetReason(), c.reason, v)
			}
			if said := v.GetMessage() + strings.Join(v.GetWarnings(), "\n"); !strings.Contains(said, c.message) {
				t.Errorf("%q does not say %q", said, c.message)
			}
		})
	}
}
