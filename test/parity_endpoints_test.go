package test

import (
	"fmt"
	"testing"
)

// parityEndpoints are what Services have behind them, and what it is called.
func parityEndpoints() []parityRow {
	return []parityRow{
		{"endpoints", underMain, true, func(p *parity) func(*testing.T) {
			endpoint := func(n int, conditions string) string {
				return fmt.Sprintf("  - {addresses: [%s]%s}\n", p.pod(n), conditions)
			}
			p.slice("web", fmt.Sprintf("ports: [{name: http, port: %d, protocol: TCP}]\nendpoints:\n", p.w.web)+
				endpoint(1, ", conditions: {ready: true}")+endpoint(2, "")+endpoint(3, ", conditions: {ready: false}")+
				endpoint(4, ", conditions: {ready: true, serving: true, terminating: true}")+endpoint(5, ", conditions: {ready: false, serving: true, terminating: true}")+
				endpoint(6, ", conditions: {ready: false, serving: false, terminating: true}"))
			p.add(fmt.Sprintf("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-2, namespace: $NS, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{name: http, port: %d, protocol: TCP}]\nendpoints: [{addresses: [%s]}]", p.w.web, p.pod(7)))
			p.add(fmt.Sprintf("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-3, namespace: $NS, labels: {kubernetes.io/service-name: web}}\naddressType: FQDN\nports: [{name: http, port: %d, protocol: TCP}]\nendpoints: [{addresses: [localhost]}]", p.w.web))
			host := p.route("web", "wildcardPolicy: None", "balance", "roundrobin")
			return func(t *testing.T) {
				n := counts(p.w.spread(t, "http://"+host+"/", 12))
				for pod, want := range map[int]int{1: 3, 2: 3, 3: 0, 4: 3, 5: 0, 6: 0, 7: 3} {
					if n[p.pod(pod)] != want {
						t.Errorf("endpoint %d has %d of 12 requests, want %d: %v", pod, n[p.pod(pod)], want, n)
					}
				}
				session := "Cookie: " + md5hex(" "+p.ns+":web") + "=" + md5hex(fmt.Sprintf("ept:web:http:%s:%d", p.pod(5), p.w.web))
				if n := counts(p.w.spread(t, "http://"+host+"/", 4, session)); n[p.pod(5)] != 4 {
					t.Errorf("a session with an endpoint that ends and still serves: %v", n)
				}
			}
		}},
		{"endpoints.addresses", underMain, true, func(p *parity) func(*testing.T) {
			list := func(kind, name, addresses string) string {
				return fmt.Sprintf("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: %s, namespace: $NS, labels: {kubernetes.io/service-name: web}}\naddressType: %s\nports: [{name: http, port: %d, protocol: TCP}]\nendpoints:\n%s", name, kind, p.w.web, addresses)
			}
			p.object("v1", "Service", "web", "spec: {ports: [{name: http, port: 80}]}")
			four := fmt.Sprintf("  - {addresses: [%s]}\n", p.pod(1))
			for _, a := range []string{"169.254.1.1", "224.0.0.1", "168.63.129.16"} {
				four += fmt.Sprintf("  - {addresses: [%s]}\n", a)
			}
			six := "  - {addresses: ['fd00:64::1']}\n"
			for _, a := range []string{"fe80::1", "ff02::1", "::ffff:169.254.1.1", "fd00:ec2::254"} {
				six += fmt.Sprintf("  - {addresses: [%q]}\n", a)
			}
			p.add(list("IPv4", "four", four))
			p.add(list("IPv6", "six", six))
			host := p.route("web", "wildcardPolicy: None", "balance", "roundrobin")
			return func(t *testing.T) {
				if all := p.w.spread(t, "http://"+host+"/", 12); !inTurn(all) || len(counts(all)) != 2 || counts(all)["fd00:64::1"] != 6 {
					t.Errorf("one of IPv4 and one of IPv6 may be reached: %v", all)
				}
			}
		}},
		{"endpoints.dual-stack", underMain, false, func(p *parity) func(*testing.T) {
			p.object("v1", "Service", "web", "spec: {ipFamilies: [IPv6, IPv4], ports: [{name: http, port: 80}]}")
			for kind, address := range map[string]string{"IPv4": p.pod(1), "IPv6": "fd00:64::2"} {
				p.add(fmt.Sprintf("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-%s, namespace: $NS, labels: {kubernetes.io/service-name: web}}\naddressType: %s\nports: [{name: http, port: %d, protocol: TCP}]\nendpoints: [{addresses: [%q], targetRef: {kind: Pod, name: one, namespace: $NS}}]", kind[3:], kind, p.w.web, address))
			}
			host := p.route("web", "wildcardPolicy: None", "balance", "roundrobin")
			return func(t *testing.T) {
				if n := counts(p.w.spread(t, "http://"+host+"/", 6)); n["fd00:64::2"] != 6 {
					t.Errorf("a Pod with two addresses is one endpoint: %v", n)
				}
			}
		}},
		{"endpoints.idled", underMain, false, func(p *parity) func(*testing.T) {
			p.add(fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: asleep, namespace: $NS, annotations: {idling.alpha.openshift.io/idled-at: '2024-05-01T10:00:00Z'}}\nspec: {clusterIP: %s, ports: [{name: http, port: %d}]}", p.pod(9), p.w.web))
			p.add(fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: empty, namespace: $NS}\nspec: {clusterIP: %s, ports: [{name: http, port: %d}]}", p.pod(9), p.w.web))
			asleep := p.route("asleep", "to: {kind: Service, name: asleep}")
			empty := p.route("empty", "to: {kind: Service, name: empty}")
			return func(t *testing.T) {
				if a := p.w.wants(t, "http://"+asleep+"/", 200); a.seen.Address != p.pod(9) {
					t.Errorf("%v", a)
				}
				p.w.wants(t, "http://"+empty+"/", 503)
			}
		}},
		{"appProtocol", underMain, true, func(p *parity) func(*testing.T) {
			for name, protocol := range map[string]string{"a": "h2c", "b": "kubernetes.io/h2c", "c": "http"} {
				p.slice(name, fmt.Sprintf("ports: [{name: http, port: %d, protocol: TCP, appProtocol: %s}]\nendpoints: [{addresses: [%s]}]", p.w.web, protocol, p.pod(1)))
				p.route(name, "to: {kind: Service, name: "+name+"}")
				p.route(name+"-edge", "to: {kind: Service, name: "+name+"}, tls: {termination: edge}")
			}
			return func(t *testing.T) {
				for name, want := range map[string]string{"a": "HTTP/2.0", "b": "HTTP/2.0", "c": "HTTP/1.1"} {
					for _, url := range []string{"http://" + p.host(name) + "/", "https://" + p.host(name+"-edge") + "/"} {
						if a := p.w.wants(t, url, 200); a.seen.Proto != want {
							t.Errorf("%s: %s, want %s", url, a.seen.Proto, want)
						}
					}
				}
			}
		}},
		{"names", underMain, true, func(p *parity) func(*testing.T) {
			p.service("web", p.w.web, 1)
			p.slice("ept", fmt.Sprintf("ports: [{name: http, port: %d, protocol: TCP}]\nendpoints: [{addresses: [%s]}]", p.w.web, p.pod(2)))
			p.service("tls", p.secure(p.w.site, "any"), 1)
			ca := ", destinationCACertificate: " + yamlText(string(p.w.site.CertPEM()))
			kinds := map[string]string{"http": "http", "edge": "https-edge", "re": "https", "pass": "tcp"}
			p.route("http", "alternateBackends: [{kind: Service, name: ept}]")
			p.route("edge", "tls: {termination: edge}")
			p.route("re", "to: {kind: Service, name: tls}, tls: {termination: reencrypt"+ca+"}")
			p.route("pass", "to: {kind: Service, name: tls}, tls: {termination: passthrough}")
			return func(t *testing.T) {
				p.w.spread(t, "http://"+p.host("http")+"/", 4)
				for _, r := range []string{"edge", "re", "pass"} {
					p.w.spread(t, "https://"+p.host(r)+"/", 2)
				}
				eventually(t, "the requests are counted", func() error {
					m := p.w.metrics(t)
					for route, kind := range kinds {
						want := "2"
						if route == "http" {
							want = "4"
						}
						name := fmt.Sprintf("haproxy_backend_connections_total{backend=%q,namespace=%q,route=%q}", kind, p.ns, route)
						if m[name] != want {
							return fmt.Errorf("%s is %q, want %s", name, m[name], want)
						}
					}
					for labels, want := range map[string]string{
						fmt.Sprintf(`{server="%s:%d",namespace=%q,route="http",pod="web-1",service="web"}`, p.pod(1), p.w.web, p.ns): "2",
						fmt.Sprintf(`{server="%s:%d",namespace=%q,route="http",pod="",service="ept"}`, p.pod(2), p.w.web, p.ns):      "2",
					} {
						if have := m["haproxy_server_connections_total"+labels]; have != want {
							return fmt.Errorf("%s is %q, want %s", labels, have, want)
						}
					}
					if m["haproxy_up"] != "1" || m[`haproxy_frontend_connections_total{frontend="public"}`] == "" {
						return fmt.Errorf("haproxy_up is %q", m["haproxy_up"])
					}
					return nil
				})
			}
		}},
		{"probes", underMain, true, func(p *parity) func(*testing.T) {
			return func(t *testing.T) {
				for _, path := range []string{"/healthz", "/healthz/ready"} {
					if code, _, err := get(p.w.r.stats, "stats", path); err != nil || code != 200 {
						t.Errorf("%s: %d %v", path, code, err)
					}
				}
			}
		}},
	}
}
