package test

import (
	"net/http"
	"testing"
)

// parityTLS is where TLS ends, and with which certificates.
func parityTLS() []parityRow {
	return []parityRow{
		{"spec.tls.termination", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			p.service("re", p.secure(p.w.site, "any"), 1)
			p.service("pass", p.secure(p.w.site, p.host("pass")), 1)
			ca := ", destinationCACertificate: " + yamlText(string(p.w.site.CertPEM()))
			p.route("insecure", "wildcardPolicy: None")
			p.route("edge", "tls: {termination: edge}")
			p.route("re", "to: {kind: Service, name: re}, tls: {termination: reencrypt"+ca+"}")
			p.route("pass", "to: {kind: Service, name: pass}, tls: {termination: passthrough}")
			p.route("unknown", "tls: {termination: Edge}")
			return func(t *testing.T) {
				for _, c := range []struct {
					route            string
					http, https, pod int
					tls              bool
				}{{"insecure", 200, 503, 1, false}, {"edge", 503, 200, 1, false}, {"re", 503, 200, 2, true}, {"pass", 503, 200, 3, true}} {
					for scheme, want := range map[string]int{"http": c.http, "https": c.https} {
						a := p.w.wants(t, scheme+"://"+p.host(c.route)+"/", want)
						if want == 200 && (a.seen.Address != p.pod(c.pod) || a.seen.TLS != c.tls) {
							t.Errorf("%s over %s: %v", c.route, scheme, a)
						}
					}
				}
				if a := p.w.wants(t, "https://"+p.host("pass")+"/", 200); a.seen.SNI != p.host("pass") || a.tls.PeerCertificates[0].VerifyHostname(p.host("pass")) != nil {
					t.Errorf("passthrough shows another's TLS: %v", a)
				}
				if a := p.w.wants(t, "https://"+p.host("re")+"/", 200); a.seen.SNI != "" {
					t.Errorf("the endpoint of a re-encrypt Route was told the server name %q, want none", a.seen.SNI)
				}
				p.refused(t, "unknown", "ExtendedValidationFailed", "spec.tls.termination")
			}
		}},
		{"spec.tls.insecureEdgeTerminationPolicy", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			p.service("re", p.secure(p.w.site, "any"), 1)
			ca := ", destinationCACertificate: " + yamlText(string(p.w.site.CertPEM()))
			p.route("none", "tls: {termination: edge, insecureEdgeTerminationPolicy: None}")
			p.route("allow", "tls: {termination: edge, insecureEdgeTerminationPolicy: Allow}")
			p.route("re", "to: {kind: Service, name: re}, tls: {termination: reencrypt, insecureEdgeTerminationPolicy: Allow"+ca+"}")
			p.route("redirect", "tls: {termination: edge, insecureEdgeTerminationPolicy: Redirect}")
			p.route("pass", "tls: {termination: passthrough, insecureEdgeTerminationPolicy: Redirect}")
			p.route("pass-allow", "tls: {termination: passthrough, insecureEdgeTerminationPolicy: Allow}")
			mixed := p.host("mixed")
			p.route("mixed-whole", "host: "+mixed+", tls: {termination: edge, insecureEdgeTerminationPolicy: Redirect}")
			p.route("mixed-open", "host: "+mixed+", path: /open, tls: {termination: edge, insecureEdgeTerminationPolicy: Allow}")
			return func(t *testing.T) {
				p.w.wants(t, "http://"+p.host("none")+"/", 503)
				p.w.wants(t, "http://"+p.host("allow")+"/", 200)
				p.w.wants(t, "http://"+p.host("re")+"/", 200)
				for _, c := range []struct{ url, as, location string }{
					{p.host("redirect") + "/a?b=c", "", "https://" + p.host("redirect") + "/a?b=c"},
					{p.host("redirect") + "/", p.host("redirect") + ":8080", "https://" + p.host("redirect") + "/"},
					{p.host("pass") + "/x", "", "https://" + p.host("pass") + "/x"},
					{mixed + "/opening", "", "https://" + mixed + "/opening"},
				} {
					if a := p.w.wantsOf(t, question{url: "http://" + c.url, host: c.as}, http.StatusFound); a.head.Get("Location") != c.location {
						t.Errorf("%s leads to %q, want %q", c.url, a.head.Get("Location"), c.location)
					}
				}
				p.w.wants(t, "http://"+mixed+"/open/x", 200)
				p.refused(t, "pass-allow", "ExtendedValidationFailed", "acceptable values are None, Redirect, or empty")
			}
		}},
		{"redirect-code", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			codes := map[string]int{"301": 301, "302": 302, "307": 307, "308": 308, "303": 302}
			for code := range codes {
				p.route("r"+code, "tls: {termination: edge, insecureEdgeTerminationPolicy: Redirect}", "tsuji.dev/redirect-code", code)
			}
			return func(t *testing.T) {
				for code, want := range codes {
					p.w.wants(t, "http://"+p.host("r"+code)+"/", want)
				}
				p.warned(t, "r303", "tsuji.dev/redirect-code")
			}
		}},
		{"spec.tls.certificate", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			p.route("own", "tls: {termination: edge, caCertificate: "+yamlText(string(p.w.site.CertPEM()))+", "+p.pair(p.host("own"))+"}")
			p.route("default", "tls: {termination: edge}")
			cert, key := p.issue(p.w.site, p.host("inside"))
			p.route("inside", "tls: {termination: edge, certificate: "+yamlText(string(cert)+string(key))+"}")
			return func(t *testing.T) {
				for host, want := range map[string]string{p.host("own"): p.host("own"), p.host("inside"): p.host("inside"), p.host("default"): "default.example.com"} {
					a := p.w.wants(t, "https://"+host+"/", 200)
					if err := a.tls.PeerCertificates[0].VerifyHostname(want); err != nil {
						t.Errorf("%s: %v", host, err)
					}
					if chain := len(a.tls.PeerCertificates); chain != 1 && host != p.host("own") || chain != 2 && host == p.host("own") {
						t.Errorf("%s: a chain of %d", host, chain)
					}
				}
				a := p.w.wantsOf(t, question{url: "https://" + p.host("own") + "/", sni: "-"}, 200)
				if err := a.tls.PeerCertificates[0].VerifyHostname("default.example.com"); err != nil {
					t.Errorf("without a server name: %v", err)
				}
				// Over HTTP/1.1 the Host says which Route it is, whatever server name TLS had.
				if a := p.w.wantsOf(t, question{url: "https://" + p.host("default") + "/", sni: p.host("own")}, 200); a.seen.Host != p.host("default") {
					t.Errorf("%v", a)
				}
				p.w.wantsOf(t, question{url: "https://unknown.example.net/"}, 503)
			}
		}},
		{"spec.tls.certificate.rules", underMain, false, func(p *parity) func(*testing.T) {
			p.web(1)
			cert, _ := p.issue(p.w.site, "a")
			_, other := p.issue(p.w.site, "b")
			q := func(b []byte) string { return yamlText(string(b)) }
			p.route("no-key", "tls: {termination: edge, certificate: "+q(cert)+"}")
			p.route("other-key", "tls: {termination: edge, certificate: "+q(cert)+", key: "+q(other)+"}")
			p.route("no-pem", "tls: {termination: edge, certificate: nonsense, key: "+q(other)+"}")
			p.route("other-ca", "tls: {termination: edge, "+p.pair("c")+", caCertificate: "+q(p.w.service.CertPEM())+"}")
			p.route("pass", "tls: {termination: passthrough, "+p.pair("d")+"}")
			p.route("edge-ca", "tls: {termination: edge, destinationCACertificate: "+q(p.w.site.CertPEM())+"}")
			p.route("bad-ca", "tls: {termination: reencrypt, destinationCACertificate: nonsense}")
			return func(t *testing.T) {
				for name, message := range map[string]string{
					"no-key": "no key specified", "other-key": "spec.tls.key", "no-pem": "spec.tls.certificate", "other-ca": "spec.tls.certificate",
					"pass": "passthrough termination does not support certificates", "edge-ca": "edge termination does not support destination certificates",
					"bad-ca": "failed to parse CA certificate",
				} {
					p.refused(t, name, "ExtendedValidationFailed", message)
				}
			}
		}},
		{"spec.tls.externalCertificate", underMain, false, func(p *parity) func(*testing.T) {
			p.web(1)
			cert, key := p.issue(p.w.site, p.host("web"))
			p.object("v1", "Secret", "pair", "type: kubernetes.io/tls\nstringData: {tls.crt: "+yamlText(string(cert))+", tls.key: "+yamlText(string(key))+"}")
			p.object("v1", "Secret", "opaque", "type: Opaque\nstringData: {tls.crt: a}")
			p.route("web", "tls: {termination: edge, externalCertificate: {name: pair}}")
			p.route("missing", "tls: {termination: edge, externalCertificate: {name: missing}}")
			p.route("opaque", "tls: {termination: edge, externalCertificate: {name: opaque}}")
			return func(t *testing.T) {
				a := p.w.wants(t, "https://"+p.host("web")+"/", 200)
				if err := a.tls.PeerCertificates[0].VerifyHostname(p.host("web")); err != nil {
					t.Error(err)
				}
				p.refused(t, "missing", "ExternalCertificateValidationFailed", `Not found: "secrets \"missing\" not found"`)
				p.refused(t, "opaque", "ExternalCertificateValidationFailed", `secret of type "kubernetes.io/tls" required`)
			}
		}},
		{"spec.tls.destinationCACertificate", underMain, true, func(p *parity) func(*testing.T) {
			p.service("site", p.secure(p.w.site, "any-name"), 1)
			p.service("other", p.secure(p.w.clients, "any-name"), 1)
			tls := "tls: {termination: reencrypt, destinationCACertificate: " + yamlText(string(p.w.site.CertPEM())) + "}"
			good := p.route("good", "to: {kind: Service, name: site}, "+tls)
			bad := p.route("bad", "to: {kind: Service, name: other}, "+tls)
			return func(t *testing.T) {
				p.w.wants(t, "https://"+good+"/", 200)
				p.w.wants(t, "https://"+bad+"/", 503)
			}
		}},
		{"service-ca", underMain, true, func(p *parity) func(*testing.T) {
			p.service("one", p.secure(p.w.service, "one."+p.ns+".svc"), 1)
			p.service("two", p.secure(p.w.service, "two."+p.ns+".svc"), 1)
			p.service("misnamed", p.secure(p.w.service, "one."+p.ns+".svc"), 1)
			p.service("untrusted", p.secure(p.w.site, "untrusted."+p.ns+".svc"), 1)
			re := ", tls: {termination: reencrypt}"
			both := p.route("both", "to: {kind: Service, name: one}, alternateBackends: [{kind: Service, name: two}]"+re)
			p.route("misnamed", "to: {kind: Service, name: misnamed}"+re)
			p.route("untrusted", "to: {kind: Service, name: untrusted}"+re)
			return func(t *testing.T) {
				if n := counts(p.w.spread(t, "https://"+both+"/", 4)); len(n) != 2 {
					t.Errorf("each Service is verified by its own name: %v", n)
				}
				p.w.wants(t, "https://"+p.host("misnamed")+"/", 503)
				p.w.wants(t, "https://"+p.host("untrusted")+"/", 503)
			}
		}},
		{"service-ca.none", underBare, true, func(p *parity) func(*testing.T) {
			p.service("any", p.secure(p.w.clients, "nobody"), 1)
			host := p.route("any", "to: {kind: Service, name: any}, tls: {termination: reencrypt}")
			return func(t *testing.T) {
				if a := p.w.wants(t, "https://"+host+"/", 200); !a.seen.TLS || a.seen.Proto != "HTTP/1.1" {
					t.Errorf("%v", a)
				}
				p.warned(t, "any", "not verified")
			}
		}},
		{"http2", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			p.service("re", p.secure(p.w.site, "any"), 1)
			p.route("own", "tls: {termination: edge, "+p.pair(p.host("own"))+"}")
			p.route("default", "tls: {termination: edge}")
			p.route("re", "to: {kind: Service, name: re}, tls: {termination: reencrypt, destinationCACertificate: "+yamlText(string(p.w.site.CertPEM()))+", "+p.pair(p.host("re"))+"}")
			return func(t *testing.T) {
				c := p.w.http2(t)
				for _, name := range []string{"own", "re"} {
					if a := p.w.get2(t, c, "https://"+p.host(name)+"/"); a.proto != "HTTP/2.0" || a.status != 200 {
						t.Errorf("%s: %s %v, want HTTP/2", name, a.proto, a)
					}
				}
				if a := p.w.wants(t, "https://"+p.host("re")+"/", 200); a.seen.Proto != "HTTP/2.0" {
					t.Errorf("an endpoint that offers HTTP/2 over TLS was asked by %s", a.seen.Proto)
				}
				// The default certificate is many hosts': a client may use its connection for another of them.
				if offered(t, p.w, p.host("default")) == "h2" {
					if status := p.w.reused(t, p.host("default"), p.host("own")); status != http.StatusMisdirectedRequest {
						t.Errorf("a connection for one host is used for another's: %d", status)
					}
				}
			}
		}},
		{"http2.off", underBare, false, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.route("own", "tls: {termination: edge, "+p.pair(p.host("own"))+"}")
			return func(t *testing.T) {
				if proto := offered(t, p.w, host); proto == "h2" {
					t.Error("HTTP/2 without the IngressController's annotation")
				}
			}
		}},
	}
}
