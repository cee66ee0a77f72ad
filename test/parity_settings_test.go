package test

import (
	"compress/gzip"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The settings under which rows are shown.
const (
	underMain     = "main"     // what rows need that differs from the defaults
	underBare     = "bare"     // no IngressController and no service CA at all
	underSettings = "settings" // defaults for Routes, all of them others than OpenShift's
	underClients  = "clients"  // behind a load balancer with the PROXY protocol, for clients with certificates
)

// paritySettings are the manifests of each.
func paritySettings(w *parityWorld) map[string]string {
	pem := func(name string, b []byte) string { return name + ": " + yamlText(string(b)) }
	var p parity
	p.w = w
	cert, key := p.issue(w.site, "default.example.com")
	_, port, err := net.SplitHostPort(w.syslog.LocalAddr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	controller := func(annotations, spec string) string {
		return "apiVersion: operator.openshift.io/v1\nkind: IngressController\nmetadata: {name: default, namespace: openshift-ingress-operator, annotations: {" + annotations + "}}\nspec:\n" + indent(spec, "  ") + "---\n"
	}
	configMap := func(namespace, name, data string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", namespace: " + namespace + "}\ndata:\n" + indent(data, "  ") + "---\n"
	}
	clients := configMap("openshift-config", "clients", pem("ca-bundle.pem", w.clients.CertPEM()))
	return map[string]string{
		underMain: controller(`ingress.operator.openshift.io/default-enable-http2: "true"`, `
domain: apps.example.com
routeAdmission: {wildcardPolicy: WildcardsAllowed}
httpHeaders: {headerNameCaseAdjustments: [X-BOGUS-case]}
defaultCertificate: {name: router-certs}
`) + "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: router-certs, namespace: openshift-ingress}\nstringData: {" +
			pem("tls.crt", cert) + ", " + pem("tls.key", key) + "}\n---\n" +
			configMap("openshift-ingress", "service-ca-bundle", pem("service-ca.crt", w.service.CertPEM())),
		underSettings: controller(`tsuji.dev/hostname-template: "${name}-${namespace}.template.example.com", tsuji.dev/override-domains: override.example.com, tsuji.dev/allowed-domains: "example.com,example.org", tsuji.dev/denied-domains: denied.example.com`, `
namespaceSelector: {matchExpressions: [{key: shard, operator: NotIn, values: [other]}]}
routeSelector: {matchExpressions: [{key: shard, operator: NotIn, values: [other]}]}
routeAdmission: {namespaceOwnership: InterNamespaceAllowed}
unsupportedConfigOverrides: {loadBalancingAlgorithm: leastconn}
tuningOptions: {serverTimeout: 2s, tunnelTimeout: 300ms, clientTimeout: 20s, connectTimeout: 2s}
httpErrorCodePages: {name: pages}
logging: {access: {destination: {type: Syslog, syslog: {address: 127.0.0.1, port: `+port+`}}, httpLogFormat: '%HM %ST %b <%[capture.req.hdr(0)]> <%CC>',
  httpCaptureHeaders: {request: [{name: User-Agent, maxLength: 5}]}, httpCaptureCookies: [{matchType: Prefix, namePrefix: sess, maxLength: 64}]}}
httpCompression: {mimeTypes: [application/json]}
clientTLS: {clientCertificatePolicy: Optional, clientCA: {name: clients}}
httpHeaders:
  forwardedHeaderPolicy: Replace
  uniqueId: {name: X-Unique, format: 'id-%[req.hdr(host)]'}
  actions:
    request:
    - {name: X-Both, action: {type: Set, set: {value: controller}}}
    - {name: X-Zone, action: {type: Set, set: {value: "tok04 %[req.hdr(host)]"}}}
    - {name: X-Debug, action: {type: Delete}}
    response:
    - {name: X-Both, action: {type: Set, set: {value: controller}}}
    - {name: Server, action: {type: Delete}}
`) + clients + configMap("openshift-config", "pages", `error-page-503.http: "HTTP/1.0 503 Service Unavailable\nContent-Length: 1\nX-Page: ours\n\nback soon"
error-page-404.http: "HTTP/1.0 404 Not Found\n\nno such host"`),
		underClients: controller("", `
endpointPublishingStrategy: {type: HostNetwork, hostNetwork: {protocol: PROXY}}
tlsSecurityProfile: {type: Modern, modern: {}}
clientTLS: {clientCertificatePolicy: Required, clientCA: {name: clients}, allowedSubjectPatterns: ['/CN=good\.example\.com$', '^nobody$']}
`) + clients,
	}
}

// parityControllers are what IngressControllers say.
func parityControllers() []parityRow {
	return []parityRow{
		{"routeSelector", underSettings, false, func(p *parity) func(*testing.T) {
			p.web(1)
			p.add("apiVersion: route.openshift.io/v1\nkind: Route\nmetadata: {name: out, namespace: $NS, labels: {shard: other}}\nspec: {host: " + p.host("out") + ", to: {kind: Service, name: web}}")
			p.add("apiVersion: route.openshift.io/v1\nkind: Route\nmetadata: {name: in, namespace: $NS, labels: {shard: this}}\nspec: {host: " + p.host("in") + ", to: {kind: Service, name: web}}")
			return func(t *testing.T) {
				p.w.wants(t, "http://"+p.host("in")+"/", 200)
				p.w.wants(t, "http://"+p.host("out")+"/", 404)
				if v := p.w.verdicts[p.ns+"/out"]; v != nil {
					t.Errorf("a verdict on a Route of another shard: %v", v)
				}
			}
		}},
		{"namespaceSelector", underSettings, false, func(p *parity) func(*testing.T) {
			p.add("apiVersion: v1\nkind: Namespace\nmetadata: {name: $NS, labels: {shard: other}}")
			p.web(1)
			host := p.route("web", "wildcardPolicy: None")
			return func(t *testing.T) {
				p.w.wants(t, "http://"+host+"/", 404)
				if v := p.w.verdicts[p.ns+"/web"]; v != nil {
					t.Errorf("a verdict on a Route of another shard: %v", v)
				}
			}
		}},
		{"namespaceOwnership", underSettings, false, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.host("shared")
			p.route("whole", "host: "+host)
			p.add("apiVersion: route.openshift.io/v1\nkind: Route\nmetadata: {name: part, namespace: $NS-2}\nspec: {host: " + host + ", path: /part, to: {kind: Service, name: gone}}")
			return func(t *testing.T) {
				p.w.wants(t, "http://"+host+"/", 200)
				p.w.wants(t, "http://"+host+"/part", 503)
				if v := p.w.verdicts[p.ns+"-2/part"]; !v.GetAdmitted() {
					t.Errorf("a path of another namespace: %v", v)
				}
			}
		}},
		{"hostname-template", underSettings, false, func(p *parity) func(*testing.T) {
			p.web(1)
			p.route("none", `host: ""`)
			p.route("other", "host: other.override.example.com")
			p.route("own", "host: "+p.host("own"))
			return func(t *testing.T) {
				for _, name := range []string{"none", "other"} {
					if a := p.w.wants(t, "http://"+name+"-"+p.ns+".template.example.com/", 200); a.seen.Address != p.pod(1) {
						t.Errorf("%s: %v", name, a)
					}
				}
				p.w.wants(t, "http://other.override.example.com/", 404)
				p.w.wants(t, "http://"+p.host("own")+"/", 200)
			}
		}},
		{"allowed-domains", underSettings, false, func(p *parity) func(*testing.T) {
			p.web(1)
			p.route("in", "host: in.example.org")
			p.route("out", "host: out.example.net")
			p.route("denied", "host: a.denied.example.com")
			return func(t *testing.T) {
				p.w.wants(t, "http://in.example.org/", 200)
				p.w.wants(t, "http://out.example.net/", 404)
				p.w.wants(t, "http://a.denied.example.com/", 404)
				p.refused(t, "out", "RouteNotAdmitted", "host not in the allowed list of domains")
				p.refused(t, "denied", "RouteNotAdmitted", "host in list of denied domains")
			}
		}},
		{"forwardedHeaderPolicy", underSettings, true, func(p *parity) func(*testing.T) {
			p.web(1)
			p.route("default", "wildcardPolicy: None")
			p.route("own", "wildcardPolicy: None", "set-forwarded-headers", "append")
			return func(t *testing.T) {
				a := p.w.get(t, "http://"+p.host("default")+"/", "X-Forwarded-For: 192.0.2.1")
				b := p.w.get(t, "http://"+p.host("own")+"/", "X-Forwarded-For: 192.0.2.1")
				if one, both := a.seen.Header.Values("X-Forwarded-For"), b.seen.Header.Values("X-Forwarded-For"); len(one) != 1 || one[0] != "127.0.0.1" || strings.Join(both, ", ") != "192.0.2.1, 127.0.0.1" {
					t.Errorf("replaced %q, appended %q", one, both)
				}
			}
		}},
		{"httpHeaders.actions", underSettings, true, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.route("web", `httpHeaders: {actions: {request: [{name: X-Both, action: {type: Set, set: {value: route}}}], response: [{name: X-Both, action: {type: Set, set: {value: route}}}, {name: X-Route, action: {type: Set, set: {value: "yes"}}}]}}`)
			return func(t *testing.T) {
				a := p.w.get(t, "http://"+host+"/", "X-Debug: 1", "Echo-Set: Server: echo")
				if h := a.seen.Header; h.Get("X-Both") != "route" || h.Get("X-Zone") != "tok04 "+host || h.Get("X-Debug") != "" {
					t.Errorf("of requests the Route's action is last: %v", h)
				}
				if a.head.Get("X-Both") != "controller" || a.head.Get("Server") != "" || a.head.Get("X-Route") != "yes" {
					t.Errorf("of responses the IngressController's action is last: %v", a.head)
				}
			}
		}},
		{"logging.access", underSettings, false, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.route("web", "wildcardPolicy: None")
			return func(t *testing.T) {
				p.w.get(t, "http://"+host+"/", "User-Agent: curl/8", "Cookie: a=b; session=1")
				eventually(t, "it is logged", func() error {
					return p.w.syslog.has("GET 200 be_http:" + p.ns + ":web <curl/> <session=1>")
				})
			}
		}},
		{"tlsSecurityProfile", underClients, false, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.route("web", "tls: {termination: edge}")
			good := p.client("good.example.com")
			return func(t *testing.T) {
				p.w.wantsOf(t, question{url: "https://" + host + "/", with: &good, tls: tls.VersionTLS13}, 200)
				p.w.wantsOf(t, question{url: "https://" + host + "/", with: &good, tls: tls.VersionTLS12}, 0)
			}
		}},
		{"tlsSecurityProfile.default", underBare, true, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.route("web", "tls: {termination: edge}")
			return func(t *testing.T) {
				p.w.wantsOf(t, question{url: "https://" + host + "/", tls: tls.VersionTLS13}, 200)
				p.w.wantsOf(t, question{url: "https://" + host + "/", tls: tls.VersionTLS12}, 200)
				p.w.wantsOf(t, question{url: "https://" + host + "/", tls: tls.VersionTLS11}, 0)
			}
		}},
		{"uniqueId", underSettings, false, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.route("web", "wildcardPolicy: None")
			return func(t *testing.T) {
				if a := p.w.get(t, "http://"+host+"/"); a.seen.Header.Get("X-Unique") != "id-"+host {
					t.Errorf("%v", a)
				}
			}
		}},
		{"httpCompression", underSettings, false, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.route("web", "wildcardPolicy: None")
			return func(t *testing.T) {
				a := p.w.get(t, "http://"+host+"/", "Accept-Encoding: gzip")
				z, err := gzip.NewReader(strings.NewReader(a.body))
				if a.head.Get("Content-Encoding") != "gzip" || err != nil {
					t.Fatalf("%v %v", a, err)
				}
				if b, err := io.ReadAll(z); err != nil || !strings.Contains(string(b), host) {
					t.Errorf("%q %v", b, err)
				}
			}
		}},
		{"httpErrorCodePages", underSettings, false, func(p *parity) func(*testing.T) {
			host := p.route("empty", "to: {kind: Service, name: none}")
			return func(t *testing.T) {
				if a := p.w.wants(t, "http://"+host+"/", 503); a.body != "back soon" || a.head.Get("X-Page") != "ours" {
					t.Errorf("%v", a)
				}
				if a := p.w.wants(t, "http://nobody.example.com/", 404); a.body != "no such host" {
					t.Errorf("%v", a)
				}
			}
		}},
		{"loadBalancingAlgorithm", underSettings, false, func(p *parity) func(*testing.T) {
			p.web(2)
			host := p.route("web", "wildcardPolicy: None", "timeout", "30s")
			return func(t *testing.T) { leastConnections(t, p, host) }
		}},
		{"tuningOptions.timeouts", underSettings, false, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.route("web", "wildcardPolicy: None")
			patient := p.route("patient", "wildcardPolicy: None", "timeout", "30s")
			open := p.route("open", "wildcardPolicy: None", "timeout-tunnel", "1h")
			return func(t *testing.T) {
				p.w.wants(t, "http://"+host+"/", 504, "Echo-Delay: 10s")
				p.w.wants(t, "http://"+patient+"/", 200, "Echo-Delay: 2500ms")
				p.w.wantsTunnel(t, question{url: "http://" + host + "/"}, true) // after the IngressController's time
				p.w.wantsTunnel(t, question{url: "http://" + open + "/"}, false)
			}
		}},
		{"clientTLS.optional", underSettings, false, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.route("web", "tls: {termination: edge, "+p.pair(p.host("web"))+"}")
			plain := p.route("plain", "wildcardPolicy: None")
			certificate := p.client("good.example.com")
			return func(t *testing.T) {
				a := p.w.wantsOf(t, question{url: "https://" + host + "/", with: &certificate, head: []string{"X-SSL-Client-CN: forged", "X-SSL-Other: forged"}}, 200)
				h := a.seen.Header
				for name, want := range map[string]string{"X-Ssl": "1", "X-Ssl-Client-Verify": "0", "X-Ssl-Client-Cn": `"good.example.com"`, "X-Ssl-Client-Dn": `"/CN=good.example.com"`, "X-Ssl-Issuer": `"/CN=clients"`, "X-Ssl-Client-Version": `"3"`} {
					if have := strings.Join(h.Values(name), "|"); have != want && have != strings.Trim(want, `"`) {
						t.Errorf("%s: %q, want %q", name, have, want)
					}
				}
				for _, name := range []string{"X-SSL-Client-Serial", "X-SSL-Client-SHA1", "X-SSL-Client-NotBefore", "X-SSL-Client-NotAfter", "X-SSL-Client-DER"} {
					if len(h.Get(name)) < 8 {
						t.Errorf("%s: %q", name, h.Get(name))
					}
				}
				if h.Get("X-SSL-Other") != "" {
					t.Error("a client's own X-SSL header reaches the endpoint")
				}
				without := p.w.wants(t, "https://"+host+"/", 200, "X-SSL-Client-CN: forged").seen.Header
				if cn := without.Get("X-SSL-Client-CN"); cn != "" && cn != `""` {
					t.Errorf("without a certificate: %q", cn)
				}
				if a := p.w.wants(t, "http://"+plain+"/", 200, "X-SSL-Client-CN: forged"); a.seen.Header.Get("X-SSL-Client-CN") != "" {
					t.Errorf("over plain HTTP: %v", a)
				}
			}
		}},
		{"clientTLS.required", underClients, false, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.route("web", "tls: {termination: edge, "+p.pair(p.host("web"))+"}")
			good, bad := p.client("good.example.com"), p.client("bad.example.com")
			return func(t *testing.T) {
				p.w.wantsOf(t, question{url: "https://" + host + "/", with: &good}, 200)
				p.w.wantsOf(t, question{url: "https://" + host + "/", with: &bad}, http.StatusForbidden)
				p.w.wants(t, "https://"+host+"/", 0)
			}
		}},
		{"proxyProtocol", underClients, false, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.route("web", "wildcardPolicy: None", "ip_allowlist", "192.0.2.7")
			return func(t *testing.T) {
				a := p.w.wants(t, "http://"+host+"/", 200)
				if h := a.seen.Header; h.Get("X-Forwarded-For") != "192.0.2.7" || h.Get("X-Forwarded-Port") != "8080" {
					t.Errorf("%v", h)
				}
			}
		}},
	}
}

// wantsTunnel opens a tunnel in which nothing happens, and wants it to end, or to last for longer than those that end.
func (w *parityWorld) wantsTunnel(t *testing.T, q question, ends bool) {
	t.Helper()
	c, err := w.connect(q)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.send("Connection: Upgrade", "Upgrade: echo"); err != nil {
		t.Fatal(err)
	}
	if a, err := c.read(); err != nil || a.status != http.StatusSwitchingProtocols {
		t.Fatalf("%s: no tunnel: %v %v", q.url, a, err)
	}
	quiet := patience
	if !ends {
		quiet = 700 * time.Millisecond
	}
	_ = c.SetReadDeadline(time.Now().Add(quiet))
	_, err = c.r.ReadByte()
	switch {
	case err == nil:
		t.Fatalf("%s: a byte that nobody sent", q.url)
	case isTimeout(err) == ends:
		t.Errorf("%s: a tunnel with nothing in it: %v; want it to end: %t", q.url, err, ends)
	case !ends:
		_ = c.SetDeadline(time.Now().Add(patience))
		_, err := c.Write([]byte{'x'})
		if b, rerr := c.r.ReadByte(); err != nil || rerr != nil || b != 'x' {
			t.Errorf("%s: the tunnel is not open: %v, %v, byte %q", q.url, err, rerr, b)
		}
	}
}
