package test

import (
	"strings"
	"testing"
)

// parityRefusals are the reasons why a Route is not admitted, and their messages.
func parityRefusals() []parityRow {
	aged := func(p *parity, namespace, name, year, spec string) {
		p.add("apiVersion: route.openshift.io/v1\nkind: Route\nmetadata: {name: " + name + ", namespace: " + namespace + ", creationTimestamp: " + year + "-01-01T00:00:00Z}\nspec: {" + spec + ", to: {kind: Service, name: web}}")
	}
	return []parityRow{
		{"HostAlreadyClaimed", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.host("web")
			aged(p, "$NS", "first", "2024", "host: "+host)
			aged(p, "$NS", "same-path", "2025", "host: "+host)
			aged(p, "$NS", "other-path", "2025", "host: "+host+", path: /other")
			aged(p, "$NS-2", "intruder", "2025", "host: "+host+", path: /mine")
			pass := p.host("pass")
			aged(p, "$NS", "edge", "2024", "host: "+pass+", path: /x, tls: {termination: edge}")
			aged(p, "$NS", "pass", "2025", "host: "+pass+", tls: {termination: passthrough}")
			wild := "w." + p.ns + ".example.com"
			aged(p, "$NS", "wild", "2024", "host: any."+wild+", wildcardPolicy: Subdomain")
			aged(p, "$NS-2", "below", "2025", "host: beneath."+wild)
			aged(p, "$NS", "own", "2025", "host: own."+wild)
			late := "late." + p.ns + ".example.com"
			aged(p, "$NS-2", "there", "2024", "host: there."+late)
			aged(p, "$NS", "late", "2025", "host: any."+late+", wildcardPolicy: Subdomain")
			return func(t *testing.T) {
				const claimed = "HostAlreadyClaimed"
				p.refused(t, "same-path", claimed, "route first already exposes "+host+" and is older")
				other := &parity{w: p.w, ns: p.ns + "-2"}
				other.refused(t, "intruder", claimed, "a route in another namespace holds "+host+" and is older than intruder")
				p.refused(t, "pass", claimed, "route edge already exposes "+pass+" and is older")
				other.refused(t, "below", claimed, "a route in another namespace holds host *."+wild+" and is older than below")
				p.refused(t, "late", claimed, "blocking *."+late)
				p.w.wants(t, "http://"+host+"/mine", 200)
				p.w.wants(t, "http://"+host+"/other", 200)
				p.w.wants(t, "http://beneath."+wild+"/", 200) // the wildcard's
				p.w.wants(t, "http://own."+wild+"/", 200)
				p.w.wants(t, "https://"+pass+"/x", 200)
				p.w.wants(t, "http://any."+late+"/", 503)
			}
		}},
		{"NoHostValue", underMain, false, func(p *parity) func(*testing.T) {
			p.route("none", `host: ""`)
			return func(t *testing.T) { p.refused(t, "none", "NoHostValue", "no host value was defined for the route") }
		}},
		{"InvalidHost", underMain, false, func(p *parity) func(*testing.T) {
			hosts := map[string]string{
				"underscore": "a_b.example.com", "upper": "A.example.com", "label": strings.Repeat("a", 64) + ".example.com", "long": strings.Repeat("a.", 126) + "aa.example.com",
				"dash": "-a.example.com", "address": "[::1]", "dots": "a..example.com", "blank": "a b.example.com",
			}
			for name, host := range hosts {
				p.route(name, "host: "+yamlText(host))
			}
			p.add("apiVersion: route.openshift.io/v1\nkind: Route\nmetadata: {name: allowed, namespace: $NS, annotations: {route.openshift.io/allow-non-dns-compliant-host: 'true'}}\nspec: {host: " + strings.Repeat("b", 64) + ".example.com, to: {kind: Service, name: web}}")
			return func(t *testing.T) {
				for name := range hosts {
					p.refused(t, name, "InvalidHost", "host name validation errors: ")
				}
				p.refused(t, "allowed", "InvalidHost", "host name validation errors: ")
			}
		}},
		{"annotations.unknown", underMain, false, func(p *parity) func(*testing.T) {
			p.web(1)
			p.route("web", "wildcardPolicy: None", "balnce", "random")
			p.route("pool", "wildcardPolicy: None", "router.openshift.io/pool-size", "5")
			p.route("foreign", "wildcardPolicy: None", "example.com/anything", "at all")
			return func(t *testing.T) {
				for _, name := range []string{"web", "pool", "foreign"} {
					p.w.wants(t, "http://"+p.host(name)+"/", 200)
				}
				p.warned(t, "web", "haproxy.router.openshift.io/balnce is not known and is ignored")
				p.warned(t, "pool", "")
				p.warned(t, "foreign", "")
			}
		}},
	}
}
