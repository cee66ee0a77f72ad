package test

import (
	"strconv"
	"testing"
)

// parityIngress are the Routes that are made of Ingresses.
func parityIngress() []parityRow {
	return []parityRow{
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
