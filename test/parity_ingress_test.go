package test

import (
	"strconv"
	"testing"
)

// parityIngress are the Routes that are made of Ingresses.
func parityIngress() []parityRow {
	return []parityRow{
		{"requiredHSTSPolicies", underMain, false, func(p *parity) func(*testing.T) {
			p.web(1)
			p.add("apiVersion: config.openshift.io/v1\nkind: Ingress\nmetadata: {name: cluster}\nspec: {domain: example.com, requiredHSTSPolicies: [{domainPatterns: ['*." + p.ns + ".example.com'], namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $NS}}, maxAge: {smallestMaxAge: 10, largestMaxAge: 20}, preloadPolicy: RequirePreload, includeSubDomainsPolicy: RequireNoIncludeSubDomains}]}")
			const tls = "tls: {termination: edge}"
			p.route("good", tls, "hsts_header", "max-age=10; preload")
			p.route("beside", "host: beside."+p.ns+".example.org, "+tls)
			wrong := map[string][2]string{
				"absent": {"", "max-age must be set correctly"}, "short": {"max-age=9;preload", "less than minimum age 10s"}, "long": {"max-age=21;preload", "greater than maximum age 20s"},
				"bare": {"max-age=10", "preload must be specified"}, "more": {"max-age=10;preload;includeSubDomains", "includeSubDomains must not be specified"},
			}
			for name, w := range wrong {
				p.route(name, tls, "hsts_header", w[0])
			}
			return func(t *testing.T) {
				if a := p.w.get(t, "https://"+p.host("good")+"/"); a.head.Get("Strict-Transport-Security") != "max-age=10; preload" {
					t.Errorf("%v", a)
				}
				p.w.wants(t, "https://beside."+p.ns+".example.org/", 200)
				for name, w := range wrong {
					p.refused(t, name, "ExtendedValidationFailed", w[1])
					p.w.wants(t, "https://"+p.host(name)+"/", 503)
				}
			}
		}},
		{"pathType", underMain, true, func(p *parity) func(*testing.T) {
			host := p.host("web")
			rules := ""
			for i, r := range [][2]string{{"/", "Prefix"}, {"/foo", "Prefix"}, {"/foo", "Exact"}, {"/slash/", "Exact"}, {"/below/", "Prefix"}, {"/own/", "ImplementationSpecific"}} {
				name := "s" + strconv.Itoa(i+1)
				p.service(name, p.w.web, 1)
				rules += "{path: " + r[0] + ", pathType: " + r[1] + ", backend: {service: {name: " + name + ", port: {number: 80}}}}, "
			}
			p.object("networking.k8s.io/v1", "Ingress", "web", "spec: {rules: [{host: "+host+", http: {paths: ["+rules+"]}}]}")
			return func(t *testing.T) {
				for path, want := range map[string]int{
					"/": 1, "/x": 1, "/foo": 3, "/foo?q": 3, "/foo/": 2, "/foo/x": 2, "/foox": 1, "/FOO": 1, "/slash/": 4, "/slash": 1, "/slash/x": 1, "/slash//": 1,
					"/below": 5, "/below/": 5, "/below/x": 5, "/own": 1, "/own/": 6, "/own/x": 6,
				} {
					if a := p.w.wants(t, "http://"+host+path, 200); a.seen.Address != p.pod(want) {
						t.Errorf("%s went to %s, want %s", path, a.seen.Address, p.pod(want))
					}
				}
			}
		}},
	}
}
