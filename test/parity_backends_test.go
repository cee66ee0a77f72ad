package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// parityBackends are which endpoints get the requests of a Route.
func parityBackends() []parityRow {
	return []parityRow{
		{"spec.to", underMain, true, func(p *parity) func(*testing.T) {
			p.web(2)
			p.route("web", "wildcardPolicy: None")
			p.route("nobody", "to: {kind: Service, name: none}")
			p.route("kind", "to: {kind: Pod, name: web}")
			p.route("unnamed", `to: {kind: Service, name: ""}`)
			return func(t *testing.T) {
				if n := counts(p.w.spread(t, "http://"+p.host("web")+"/", 40)); len(n) != 2 || n[p.pod(1)] == 0 || n[p.pod(2)] == 0 {
					t.Errorf("%v", n)
				}
				p.w.wants(t, "http://"+p.host("nobody")+"/", 503)
				p.warned(t, "nobody", `there is no Service "none"`)
				p.refused(t, "kind", "ExtendedValidationFailed", "spec.to.kind")
				p.refused(t, "unnamed", "ExtendedValidationFailed", "spec.to.name")
			}
		}},
		{"spec.alternateBackends", underMain, true, func(p *parity) func(*testing.T) {
			p.service("a", p.w.web, 2)
			p.service("b", p.w.web, 3)
			p.service("c", p.w.web, 1)
			host := p.route("web", "to: {kind: Service, name: a, weight: 100}, alternateBackends: [{kind: Service, name: b, weight: 50}, {kind: Service, name: c, weight: 0}]")
			p.route("many", "alternateBackends: [{name: a}, {name: b}, {name: c}, {name: d}]")
			return func(t *testing.T) {
				// 256 for each of a, 85 for each of b, none for c: a round of 767.
				n := counts(p.w.series(t, "http://"+host+"/", 767))
				for pod, want := range map[int]int{1: 256, 2: 256, 3: 85, 4: 85, 5: 85, 6: 0} {
					if have := n[p.pod(pod)]; have < want-2 || have > want+2 {
						t.Errorf("Pod %d has %d of 767 requests, want %d", pod, have, want)
					}
				}
				p.refused(t, "many", "ExtendedValidationFailed", "cannot specify more than 3 alternate backends")
			}
		}},
		{"spec.to.weight", underMain, false, func(p *parity) func(*testing.T) {
			p.service("a", p.w.web, 1)
			p.service("b", p.w.web, 1)
			p.service("empty", p.w.web, 0)
			alone := p.route("alone", "to: {kind: Service, name: a, weight: 0}")
			p.service("tls", p.secure(p.w.site, "any"), 1)
			pass := p.route("pass", "to: {kind: Service, name: tls, weight: 0}, tls: {termination: passthrough}")
			absent := p.route("absent", "to: {kind: Service, name: a}, alternateBackends: [{kind: Service, name: b}]")
			twice := p.route("twice", "to: {kind: Service, name: a, weight: 256}, alternateBackends: [{kind: Service, name: b, weight: 1}, {kind: Service, name: a, weight: 1}]")
			beyond := p.route("beyond", "to: {kind: Service, name: a, weight: 1000}, alternateBackends: [{kind: Service, name: b, weight: -1}]")
			one := p.route("one", "to: {kind: Service, name: a, weight: 1}, alternateBackends: [{kind: Service, name: empty, weight: 200}]")
			return func(t *testing.T) {
				p.w.wants(t, "http://"+alone+"/", 503)
				p.w.wants(t, "https://"+pass+"/", 0)
				if all := p.w.spread(t, "http://"+absent+"/", 20); !inTurn(all) {
					t.Errorf("two Services in turn: %v", all)
				}
				if all := p.w.spread(t, "http://"+twice+"/", 20); !inTurn(all) {
					t.Errorf("the last weight of a Service that is named twice: %v", all)
				}
				if n := counts(p.w.spread(t, "http://"+beyond+"/", 10)); n[p.pod(1)] != 10 {
					t.Errorf("%v", n)
				}
				p.warned(t, "beyond", "1000 is not between 0 and 256; 256 is used")
				if n := counts(p.w.spread(t, "http://"+one+"/", 10)); n[p.pod(1)] != 10 {
					t.Errorf("%v", n)
				}
			}
		}},
		{"spec.to.weight.zero-sticks", underMain, false, func(p *parity) func(*testing.T) {
			p.service("a", p.w.web, 1)
			p.service("b", p.w.web, 1)
			host := p.route("web", "to: {kind: Service, name: a, weight: 1}, alternateBackends: [{kind: Service, name: b, weight: 0}]")
			return func(t *testing.T) {
				if n := counts(p.w.spread(t, "http://"+host+"/", 6)); n[p.pod(1)] != 6 {
					t.Errorf("%v", n)
				}
				old := "Cookie: " + md5hex(" "+p.ns+":web") + "=" + md5hex(fmt.Sprintf("pod:b-2:b:http:%s:%d", p.pod(2), p.w.web))
				if n := counts(p.w.spread(t, "http://"+host+"/", 6, old)); n[p.pod(2)] != 6 {
					t.Errorf("with the cookie of an endpoint of weight 0: %v", n)
				}
			}
		}},
		{"spec.port.targetPort", underMain, true, func(p *parity) func(*testing.T) {
			second := p.w.echo.serve(p.w.t, nil)
			p.slice("web", fmt.Sprintf("ports: [{name: http, port: %d, protocol: TCP}, {name: other, port: %d, protocol: TCP}, {name: udp, port: %d, protocol: UDP}]\nendpoints: [{addresses: [%s]}]", p.w.web, second, p.w.raw, p.pod(1)))
			name := p.route("name", "port: {targetPort: other}")
			number := p.route("number", fmt.Sprintf("port: {targetPort: %d}", second))
			text := p.route("text", fmt.Sprintf(`port: {targetPort: "%d"}`, second))
			p.route("all", "wildcardPolicy: None", "balance", "roundrobin")
			p.route("none", "port: {targetPort: missing}")
			p.route("service-port", "port: {targetPort: 80}")
			p.route("udp", "port: {targetPort: udp}")
			p.route("zero", "port: {targetPort: 0}")
			return func(t *testing.T) {
				for _, host := range []string{name, number, text} {
					for range 3 {
						if a := p.w.wants(t, "http://"+host+"/", 200); a.seen.Port != fmt.Sprint(second) {
							t.Errorf("%s: port %s, want %d", host, a.seen.Port, second)
						}
					}
				}
				ports := map[string]bool{}
				for range 6 {
					ports[p.w.wants(t, "http://"+p.host("all")+"/", 200).seen.Port] = true
				}
				if len(ports) != 2 {
					t.Errorf("without a port: %v, want both of TCP", ports)
				}
				for _, r := range []string{"none", "service-port", "udp"} {
					p.w.wants(t, "http://"+p.host(r)+"/", 503)
				}
				p.refused(t, "zero", "ExtendedValidationFailed", "spec.port.targetPort")
			}
		}},
		{"balance", underMain, true, func(p *parity) func(*testing.T) {
			p.web(2)
			robin := p.route("robin", "wildcardPolicy: None", "balance", "roundrobin")
			least := p.route("least", "wildcardPolicy: None", "balance", "leastconn")
			source := p.route("source", "wildcardPolicy: None", "balance", "source")
			random := p.route("random", "wildcardPolicy: None", "balance", "random")
			return func(t *testing.T) {
				if all := p.w.spread(t, "http://"+robin+"/", 20); !inTurn(all) {
					t.Errorf("roundrobin: %v", all)
				}
				leastConnections(t, p, least)
				bySource(t, p, "http://"+source+"/")
				atRandom(t, p, "http://"+random+"/")
			}
		}},
		{"balance.default", underMain, true, func(p *parity) func(*testing.T) {
			p.web(2)
			p.service("tls", p.secure(p.w.site, "any"), 2)
			p.service("a", p.w.web, 1)
			p.service("b", p.w.web, 1)
			absent := p.route("absent", "wildcardPolicy: None")
			wrong := map[string]string{"first": "first", "upper": "RoundRobin", "blank": " roundrobin", "two": "roundrobin|source", "empty": ""}
			for name, v := range wrong {
				p.route(name, "wildcardPolicy: None", "balance", v)
			}
			several := p.route("several", "to: {kind: Service, name: a}, alternateBackends: [{kind: Service, name: b}]", "balance", "nonsense")
			pass := p.route("pass", "to: {kind: Service, name: tls}, tls: {termination: passthrough}")
			return func(t *testing.T) {
				atRandom(t, p, "http://"+absent+"/")
				for name := range wrong {
					atRandom(t, p, "http://"+p.host(name)+"/")
					p.warned(t, name, "the default is used")
				}
				if all := p.w.spread(t, "http://"+several+"/", 20); !inTurn(all) {
					t.Errorf("several Services: %v, want them in turn", all)
				}
				bySource(t, p, "https://"+pass+"/")
			}
		}},
		{"age", underMain, false, func(p *parity) func(*testing.T) {
			p.web(1)
			for _, r := range []struct{ name, created, uid, host string }{
				{"old", "2024-01-01T00:00:00Z", "b", "shared"}, {"young", "2025-01-01T00:00:00Z", "a", "shared"},
				{"uid-b", "2024-01-01T00:00:00Z", "b", "tie"}, {"uid-a", "2024-01-01T00:00:00Z", "a", "tie"},
			} {
				p.add("apiVersion: route.openshift.io/v1\nkind: Route\nmetadata: {name: " + r.name + ", namespace: $NS, creationTimestamp: " + r.created + ", uid: " + r.uid + "}\nspec: {host: " + p.host(r.host) +
					", to: {kind: Service, name: web}, httpHeaders: {actions: {response: [{name: X-Route, action: {type: Set, set: {value: " + r.name + "}}}]}}}")
			}
			return func(t *testing.T) {
				for host, want := range map[string]string{p.host("shared"): "old", p.host("tie"): "uid-a"} {
					if a := p.w.wants(t, "http://"+host+"/", 200); a.head.Get("X-Route") != want {
						t.Errorf("%s is %s's, want %s", host, a.head.Get("X-Route"), want)
					}
				}
				p.refused(t, "young", "HostAlreadyClaimed", "route old already exposes "+p.host("shared")+" and is older")
				p.refused(t, "uid-b", "HostAlreadyClaimed", "route uid-a already exposes "+p.host("tie")+", was made in the same second, and comes first by UID and name")
			}
		}},
	}
}

// leastConnections wants requests to go where none is held.
func leastConnections(t *testing.T, p *parity, host string) {
	t.Helper()
	c, err := p.w.connect(question{url: "http://" + host + "/"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.send("Echo-Hold: " + host); err != nil {
		t.Fatal(err)
	}
	p.w.echo.holding(t, host, 1)
	n := counts(p.w.series(t, "http://"+host+"/", 24))
	p.w.echo.release(host)
	a, err := c.read()
	if err != nil || len(n) != 1 || n[a.seen.Address] != 0 {
		t.Errorf("leastconn: while %q held one, the others went to %v; %v", a.seen.Address, n, err)
	}
}

// bySource wants each client to have one endpoint, and not all of them the same.
func bySource(t *testing.T, p *parity, url string) {
	t.Helper()
	var all []string
	for i := range 16 {
		q := question{url: url, from: fmt.Sprintf("127.0.%d.%d", i, i*7+2)}
		first := p.w.wantsOf(t, q, 200).seen.Address
		if again := p.w.wantsOf(t, q, 200).seen.Address; again != first {
			t.Errorf("source: %s had %s, then %s", q.from, first, again)
		}
		all = append(all, first)
	}
	if n := counts(all); len(n) != 2 {
		t.Errorf("source: 16 clients had %v, want both", n)
	}
}

// atRandom wants both endpoints, and no order.
func atRandom(t *testing.T, p *parity, url string) {
	t.Helper()
	all := p.w.spread(t, url, 40)
	if n := counts(all); len(n) != 2 || inTurn(all) || slices.Equal(all[:20], all[20:]) {
		t.Errorf("random: %s", strings.Join(all, " "))
	}
}
