package test

import (
	"strconv"
	"strings"
	"testing"
)

// parityHosts are how a request finds its Route.
func parityHosts() []parityRow {
	return []parityRow{
		{"spec.host", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.route("web", "wildcardPolicy: None")
			return func(t *testing.T) {
				for _, as := range []string{host, host + ":8080", host + ".", host + ".:80", "WEB." + p.ns + ".Example.COM"} {
					if a := p.w.wantsOf(t, question{url: "http://" + host + "/", host: as}, 200); a.seen.Address != p.pod(1) {
						t.Errorf("Host %s: %v", as, a)
					}
				}
				if a := p.w.wantsOf(t, question{url: "http://" + host + "/", host: "WEB." + p.ns + ".Example.COM"}, 200); a.seen.Host != host {
					t.Errorf("the endpoint saw Host %q, want it in lower case", a.seen.Host)
				}
				for _, as := range []string{"other." + host, "x" + host, p.ns + ".example.com"} {
					p.w.wantsOf(t, question{url: "http://" + host + "/", host: as}, 503)
				}
			}
		}},
		{"spec.subdomain", underMain, false, func(p *parity) func(*testing.T) {
			p.web(1)
			p.route("by", `host: "", subdomain: by-subdomain`)
			p.route("own", "host: "+p.host("own")+", subdomain: not-used")
			return func(t *testing.T) {
				p.w.wants(t, "http://by-subdomain.apps.example.com/", 200)
				p.w.wants(t, "http://"+p.host("own")+"/", 200)
				p.w.wants(t, "http://not-used.apps.example.com/", 503)
			}
		}},
		{"spec.path", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.host("web")
			for name, path := range map[string]string{"whole": "", "foo": "/foo", "bar": "/foo/bar", "slash": "/slash/", "dots": "/a.b"} {
				p.service(name, p.w.web, 1)
				p.route(name, "host: "+host+", path: "+yamlText(path)+", to: {kind: Service, name: "+name+"}, httpHeaders: {actions: {response: [{name: X-Route, action: {type: Set, set: {value: "+name+"}}}]}}")
			}
			return func(t *testing.T) {
				for path, want := range map[string]string{
					"/": "whole", "/foo": "foo", "/foo/": "foo", "/foo/x?y=/foo/bar": "foo", "/foobar": "whole", "/foo/bar": "bar", "/foo/bar/x": "bar",
					"/foo/barx": "foo", "/FOO": "whole", "/slash": "whole", "/slash/": "slash", "/slash/x": "slash", "/a.b/c": "dots", "/axb/c": "whole",
					"/foo?q": "foo", "//foo": "whole",
				} {
					if a := p.w.wants(t, "http://"+host+path, 200); a.head.Get("X-Route") != want || a.seen.Path != path {
						t.Errorf("%s went to %q as %q, want %q", path, a.head.Get("X-Route"), a.seen.Path, want)
					}
				}
			}
		}},
		{"spec.path.empty-and-slash", underMain, false, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.host("web")
			p.route("a", "host: "+host)
			p.route("b", "host: "+host+", path: /")
			return func(t *testing.T) {
				p.w.wants(t, "http://"+host+"/x", 200)
				p.refused(t, "b", "HostAlreadyClaimed", "route a already exposes "+host+"")
			}
		}},
		{"spec.path.rules", underMain, false, func(p *parity) func(*testing.T) {
			p.web(1)
			p.route("relative", "path: foo")
			p.route("hash", `path: "/a#b"`)
			p.route("blank", `path: "/a b"`)
			p.route("control", `path: "/a\tb"`)
			p.route("passthrough", "path: /a, tls: {termination: passthrough}")
			return func(t *testing.T) {
				p.refused(t, "relative", "ExtendedValidationFailed", "path must begin with /")
				p.refused(t, "hash", "ExtendedValidationFailed", "spec.path")
				p.refused(t, "blank", "ExtendedValidationFailed", "spec.path")
				p.refused(t, "control", "ExtendedValidationFailed", "spec.path")
				p.refused(t, "passthrough", "ExtendedValidationFailed", "passthrough termination does not support paths")
			}
		}},
		{"spec.wildcardPolicy", underMain, true, func(p *parity) func(*testing.T) {
			p.service("wild", p.w.web, 1)
			p.service("exact", p.w.web, 1)
			p.route("wild", "wildcardPolicy: Subdomain, to: {kind: Service, name: wild}, tls: {termination: edge, insecureEdgeTerminationPolicy: Allow, "+p.pair("*."+p.ns+".example.com")+"}")
			p.service("pass", p.secure(p.w.site, "pass"), 1)
			p.route("pass", "host: any.pass."+p.ns+".example.com, wildcardPolicy: Subdomain, to: {kind: Service, name: pass}, tls: {termination: passthrough}")
			p.route("exact", "path: /x, to: {kind: Service, name: exact}")
			return func(t *testing.T) {
				for url, want := range map[string]string{
					"http://any." + p.ns + ".example.com/": p.pod(1), "http://" + p.host("wild") + "/": p.pod(1), "https://any." + p.ns + ".example.com/": p.pod(1),
					"http://" + p.host("exact") + "/x": p.pod(2), "http://" + p.host("exact") + "/y": p.pod(1),
				} {
					a := p.w.wants(t, url, 200)
					if a.seen.Address != want {
						t.Errorf("%s: %v, want %s", url, a, want)
					}
					if a.tls != nil {
						if err := a.tls.PeerCertificates[0].VerifyHostname("any." + p.ns + ".example.com"); err != nil {
							t.Error(err)
						}
					}
				}
				if a := p.w.wants(t, "https://other.pass."+p.ns+".example.com/", 200); a.seen.Address != p.pod(3) || a.seen.SNI != "other.pass."+p.ns+".example.com" {
					t.Errorf("passthrough: %v", a)
				}
				p.w.wants(t, "http://a.b."+p.ns+".example.com/", 503)
				p.w.wants(t, "http://"+p.ns+".example.com/", 503)
			}
		}},
		{"spec.wildcardPolicy.denied", underBare, false, func(p *parity) func(*testing.T) {
			p.web(1)
			p.route("wild", "wildcardPolicy: Subdomain")
			p.route("unknown", "wildcardPolicy: All")
			return func(t *testing.T) {
				p.refused(t, "wild", "RouteNotAdmitted", "wildcard routes are not allowed")
				p.refused(t, "unknown", "RouteNotAdmitted", "unknown wildcard policy")
			}
		}},
		{"rewrite-target", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			root := p.route("root", "path: /foo", "rewrite-target", "/")
			other := p.route("other", "path: /foo", "rewrite-target", "/bar")
			slash := p.route("slash", "path: /foo/", "rewrite-target", "/")
			slashes := p.route("slashes", "path: /foo/", "rewrite-target", "/bar/")
			whole := p.route("whole", "wildcardPolicy: None", "rewrite-target", "/base")
			version := p.route("version", "path: /", "rewrite-target", "/v2/")
			same := p.route("same", "path: /", "rewrite-target", "/")
			encoded := p.route("encoded", "path: /foo", "rewrite-target", "/a%20b%2f")
			signs := p.route("signs", "path: /foo", "rewrite-target", "/a$1&~(b)*+,;=:@!")
			return func(t *testing.T) {
				for url, want := range map[string]string{
					root + "/foo": "/", root + "/foo/": "/", root + "/foo/bar": "/bar", root + "/foo/bar?x=/foo": "/bar?x=/foo", root + "/foo?x": "/?x", root + "/foo//x": "//x",
					other + "/foo": "/bar", other + "/foo/": "/bar/", other + "/foo/bar": "/bar/bar", other + "/foo/%2Ffoo": "/bar/%2Ffoo",
					slash + "/foo/": "/", slash + "/foo/x": "/x", slashes + "/foo/x": "/bar/x",
					whole + "/": "/base/", whole + "/x": "/base/x", same + "/x/y": "/x/y",
					version + "/": "/v2/", version + "/x": "/v2/x",
					// Of a doubled slash OpenShift's router takes both, where the path ends in one.
					slash + "/foo//x": "//x", same + "//x": "//x",
					encoded + "/foo/x": "/a%20b%2f/x",
					signs + "/foo/x":   "/a$1&~(b)*+,;=:@!/x",
				} {
					p.w.wantsPath(t, "http://"+url, want)
				}
			}
		}},
		{"rewrite-target.invalid", underMain, false, func(p *parity) func(*testing.T) {
			p.web(1)
			values := map[string]string{"relative": "bar", "quote": `/a"b`, "percent": "/a%b", "backslash": `/a\1`, "hash": "/a#b", "blank": "/a b", "empty": ""}
			for name, v := range values {
				p.route(name, "path: /foo", "rewrite-target", v)
			}
			return func(t *testing.T) {
				for name := range values {
					p.w.wantsPath(t, "http://"+p.host(name)+"/foo/x", "/foo/x")
					p.warned(t, name, "rewrite-target")
				}
			}
		}},
	}
}

// parityKillers are what stopped OpenShift's router, or opened it.
func parityKillers() []parityRow {
	return []parityRow{
		{"killer.path-is-no-pattern", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			p.service("raw", p.w.raw, 1)
			paths := map[string]string{"paren": "/foo(", "bracket": "/a[b", "stars": "/a**", "brace": "/a{2,1}", "end": "/a$", "back": `/a\`, "quote": `/a'b"c`, "percent": "/a%[src]", "pipe": "/a|b", "control": "/a}%]"}
			for name, path := range paths {
				p.route(name, "path: "+yamlText(path), "rewrite-target", "/new")
				p.route(name+"-plain", "to: {kind: Service, name: raw}, path: "+yamlText(path))
			}
			return func(t *testing.T) {
				for name, path := range paths {
					p.w.wantsPath(t, "http://"+p.host(name)+path+"/x", "/new/x")
					if a := p.w.wants(t, "http://"+p.host(name+"-plain")+path+"/x", 200); !strings.HasPrefix(a.body, "GET "+path+"/x HTTP/1.1\r\n") {
						t.Errorf("%s: the endpoint saw %q", path, a.body)
					}
					p.w.wants(t, "http://"+p.host(name)+"/x", 503)
				}
			}
		}},
		{"killer.line-breaks", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			tls := "tls: {termination: edge}"
			p.route("hsts-lf", tls, "hsts_header", "max-age=1;\nincludeSubDomains")
			p.route("hsts-cr", tls, "hsts_header", "max-age=1;\rincludeSubDomains")
			p.route("rewrite", "path: /a", "rewrite-target", "/b\r")
			p.route("rewrite-lf", "path: /a", "rewrite-target", "/b\n  http-request deny")
			p.route("cookie", "wildcardPolicy: None", "router.openshift.io/cookie_name", "a\nb")
			p.route("timeout", "wildcardPolicy: None", "timeout", "5s\n  http-request deny")
			p.route("list", "wildcardPolicy: None", "ip_allowlist", "127.0.0.1\n127.0.0.2")
			p.route("header", `httpHeaders: {actions: {request: [{name: X-A, action: {type: Set, set: {value: "a\nhttp-request deny"}}}]}}`)
			p.route("path", `path: "/a\nb"`)
			p.route("good", "wildcardPolicy: None")
			return func(t *testing.T) {
				for _, name := range []string{"hsts-lf", "hsts-cr", "rewrite", "rewrite-lf", "cookie", "timeout", "list", "header", "path"} {
					p.refused(t, name, "ExtendedValidationFailed", "a line break or another control character is not allowed")
				}
				p.w.wants(t, "http://"+p.host("good")+"/", 200)
			}
		}},
		{"killer.long-lines", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			list := "127.0.0.1"
			for i := range 9000 {
				list += " 172." + strconv.Itoa(16+i>>12) + "." + strconv.Itoa(i>>4&255) + "." + strconv.Itoa(i<<4&255) + "/28"
			}
			p.route("list", "wildcardPolicy: None", "ip_allowlist", list)
			path := "/" + strings.Repeat("p", 1000)
			p.route("path", "path: "+path, "rewrite-target", "/"+strings.Repeat("r", 1000))
			p.route("path-too-long", "path: /"+strings.Repeat("p", 5000))
			value := strings.Repeat("v", 8000)
			p.route("header", "httpHeaders: {actions: {request: [{name: X-A, action: {type: Set, set: {value: "+value+"}}}]}}")
			many := ""
			for i := range 20 {
				many += "{name: X-" + strconv.Itoa(i) + ", action: {type: Set, set: {value: " + strings.Repeat("v", 16384) + "}}}, "
			}
			p.route("headers", "httpHeaders: {actions: {request: ["+many+"]}}")
			return func(t *testing.T) {
				p.w.wants(t, "http://"+p.host("list")+"/", 200)
				p.w.wantsOf(t, question{url: "http://" + p.host("list") + "/", from: "127.0.0.2"}, 0)
				p.w.wantsOf(t, question{url: "http://" + p.host("list") + "/", from: "127.0.0.1"}, 200)
				p.w.wantsPath(t, "http://"+p.host("path")+path+"/x", "/"+strings.Repeat("r", 1000)+"/x")
				p.refused(t, "path-too-long", "ExtendedValidationFailed", "path must be no longer than")
				if a := p.w.wants(t, "http://"+p.host("header")+"/", 200); a.seen.Header.Get("X-A") != value {
					t.Errorf("a header of %d bytes, want %d", len(a.seen.Header.Get("X-A")), len(value))
				}
				// The API takes headers that no buffer has room for: HAProxy answers that request itself.
				if a, err := p.w.ask(question{url: "http://" + p.host("headers") + "/"}); err != nil || a.status < 500 {
					t.Errorf("20 headers of 16384 bytes: %v %v", a, err)
				}
			}
		}},
	}
}
