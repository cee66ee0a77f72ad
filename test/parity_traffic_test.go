package test

import (
	"fmt"
	"strings"
	"testing"
)

// parityTraffic are times, and endpoints that fail.
func parityTraffic() []parityRow {
	return []parityRow{
		{"timeout", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			p.service("tls", p.secure(p.w.site, "any"), 1)
			short := map[string]string{"ms": "100ms", "bare": "100", "us": "100000us"}
			long := map[string]string{"s": "20s", "m": "1m", "h": "1h", "d": "30d", "clipped": "99999999999999999999d", "invalid": "100 ms", "zero": "0ms", "fraction": "0.1s", "leading": "0100ms", "sign": "-1s", "unit": "100S", "empty": ""}
			for _, values := range []map[string]string{short, long} {
				for name, v := range values {
					p.route(name, "wildcardPolicy: None", "timeout", v)
				}
			}
			p.route("re", "to: {kind: Service, name: tls}, tls: {termination: reencrypt, destinationCACertificate: "+yamlText(string(p.w.site.CertPEM()))+"}", "timeout", "100ms")
			return func(t *testing.T) {
				for name := range short {
					p.w.wants(t, "http://"+p.host(name)+"/", 504, "Echo-Delay: 30s")
				}
				p.w.wants(t, "https://"+p.host("re")+"/", 504, "Echo-Delay: 30s")
				for name, v := range long {
					p.w.wants(t, "http://"+p.host(name)+"/", 200, "Echo-Delay: 150ms")
					if strings.ContainsAny(v, "smhd") && v[0] >= '1' && v[0] <= '9' && !strings.Contains(v, " ") {
						p.warned(t, name, "")
					} else {
						p.warned(t, name, "the default is used")
					}
				}
			}
		}},
		{"timeout-tunnel", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			p.service("tls", p.secure(p.w.site, "any"), 1)
			p.service("one", p.secureHTTP1(p.w.site, "any"), 1)
			pass := "to: {kind: Service, name: tls}, tls: {termination: passthrough}"
			ends := []question{
				{url: "http://" + p.route("tunnel", "wildcardPolicy: None", "timeout-tunnel", "200ms") + "/"},
				{url: "https://" + p.route("edge", "tls: {termination: edge}", "timeout-tunnel", "200ms") + "/"},
				{url: "https://" + p.route("re", "to: {kind: Service, name: one}, tls: {termination: reencrypt, destinationCACertificate: "+yamlText(string(p.w.site.CertPEM()))+"}", "timeout-tunnel", "200ms") + "/"},
				{url: "https://" + p.route("pass", pass, "timeout-tunnel", "900ms") + "/"},
				{url: "https://" + p.route("pass-timeout", pass, "timeout", "900ms") + "/"},
				{url: "https://" + p.route("pass-wrong", pass, "timeout", "900ms", "timeout-tunnel", "x") + "/"},
			}
			lasts := []question{
				{url: "http://" + p.route("default", "wildcardPolicy: None") + "/"},
				{url: "http://" + p.route("wrong", "wildcardPolicy: None", "timeout-tunnel", "0s") + "/"},
				{url: "http://" + p.route("server", "wildcardPolicy: None", "timeout", "200ms") + "/"},
				{url: "https://" + p.route("pass-both", pass, "timeout", "200ms", "timeout-tunnel", "1h") + "/"},
				{url: "https://" + p.route("pass-default", pass) + "/"},
			}
			return func(t *testing.T) {
				for _, want := range []struct {
					ends bool
					of   []question
				}{{true, ends}, {false, lasts}} {
					for _, q := range want.of {
						p.w.wantsTunnel(t, q, want.ends)
					}
				}
				p.warned(t, "wrong", "the default is used")
			}
		}},
		{"health.check.interval", underMain, false, func(p *parity) func(*testing.T) {
			const annotation = "router.openshift.io/haproxy.health.check.interval"
			p.slice("web", fmt.Sprintf("ports: [{name: http, port: %d, protocol: TCP}]\nendpoints: [{addresses: [%s]}]", p.w.web, p.pod(1)))
			p.slice("dead", fmt.Sprintf("ports: [{name: http, port: 9, protocol: TCP}]\nendpoints: [{addresses: [%s]}]", p.pod(2)))
			both := "to: {kind: Service, name: web}, alternateBackends: [{kind: Service, name: dead}]"
			checked := p.route("checked", both, annotation, "200ms")
			p.route("wrong", both, annotation, "0s")
			untrusted := "{termination: reencrypt, destinationCACertificate: " + yamlText(string(p.w.service.CertPEM())) + "}"
			trusted := "{termination: reencrypt, destinationCACertificate: " + yamlText(string(p.w.site.CertPEM())) + "}"
			p.service("tls", p.secure(p.w.site, "any"), 1)
			p.route("trusted", "to: {kind: Service, name: tls}, tls: "+trusted, annotation, "200ms")
			p.route("untrusted", "to: {kind: Service, name: tls}, tls: "+untrusted, annotation, "200ms")
			return func(t *testing.T) {
				up := func(route, service string) string {
					for name, v := range p.w.metrics(t) {
						if strings.HasPrefix(name, "haproxy_server_up{") && strings.Contains(name, fmt.Sprintf(`namespace=%q,route=%q`, p.ns, route)) && strings.HasSuffix(name, fmt.Sprintf(`service=%q}`, service)) {
							return v
						}
					}
					return ""
				}
				for route, service := range map[string]string{"checked": "dead", "untrusted": "tls"} {
					eventually(t, "an endpoint that fails its checks is down: "+route, func() error {
						if have := up(route, service); have != "0" {
							return fmt.Errorf("up is %q", have)
						}
						return nil
					})
				}
				if have := up("checked", "web") + up("trusted", "tls"); have != "11" {
					t.Errorf("endpoints that pass their checks: up is %q", have)
				}
				if have := up("wrong", "dead"); have != "1" {
					t.Errorf("a server that nobody checks: up is %q", have)
				}
				p.w.wants(t, "https://"+p.host("trusted")+"/", 200)
				if n := counts(p.w.spread(t, "http://"+checked+"/", 6)); n[p.pod(1)] != 6 {
					t.Errorf("%v", n)
				}
				p.warned(t, "wrong", "the default is used")
			}
		}},
		{"redispatch", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			p.slice("dead", fmt.Sprintf("ports: [{name: http, port: 9, protocol: TCP}]\nendpoints: [{addresses: [%s], targetRef: {kind: Pod, name: dead, namespace: $NS}}]", p.pod(2)))
			host := p.route("web", "alternateBackends: [{kind: Service, name: dead}]")
			return func(t *testing.T) {
				if n := counts(p.w.spread(t, "http://"+host+"/", 10)); n[p.pod(1)] != 10 {
					t.Errorf("%v", n)
				}
				sticky := "Cookie: " + md5hex(" "+p.ns+":web") + "=" + md5hex("pod:dead:dead:http:"+p.pod(2)+":9")
				if n := counts(p.w.spread(t, "http://"+host+"/", 4, sticky)); n[p.pod(1)] != 4 {
					t.Errorf("with the cookie of a dead endpoint: %v", n)
				}
			}
		}},
	}
}
