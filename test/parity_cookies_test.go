package test

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

func md5hex(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

// parityCookies are what keeps a client with its endpoint.
func parityCookies() []parityRow {
	// cookies wants a Route to set one cookie, as it is written, and returns its name and value.
	cookies := func(t *testing.T, p *parity, url, name, attributes string) string {
		t.Helper()
		a := p.w.wants(t, url, 200, `Echo-Set: ETag: "1"`) // what could be cached is made private
		pair, rest, _ := strings.Cut(a.head.Get("Set-Cookie"), "; ")
		wantPair := name + "=" + md5hex(fmt.Sprintf("pod:web-%s:web:http:%s:%d", a.seen.Address[strings.LastIndexByte(a.seen.Address, '.')+1:], a.seen.Address, p.w.web))
		if pair != wantPair || rest != attributes || len(a.head.Values("Set-Cookie")) != 1 || a.head.Get("Cache-Control") != "private" {
			t.Errorf("%s: Set-Cookie %q, want %q; Cache-Control %q", url, a.head.Values("Set-Cookie"), wantPair+"; "+attributes, a.head.Get("Cache-Control"))
		}
		return pair
	}
	return []parityRow{
		{"cookie", underMain, true, func(p *parity) func(*testing.T) {
			p.web(4)
			p.route("plain", "wildcardPolicy: None")
			p.route("edge", "tls: {termination: edge}")
			p.route("redirect", "tls: {termination: edge, insecureEdgeTerminationPolicy: Redirect}")
			p.route("allow", "tls: {termination: edge, insecureEdgeTerminationPolicy: Allow}")
			return func(t *testing.T) {
				if name := md5hex(" ns1:edge"); name != "d81c0893cb6173ebf47d4c06d42a2fcd" {
					t.Fatalf("%s", name)
				}
				for url, attributes := range map[string]string{
					"http://" + p.host("plain"): "path=/; HttpOnly", "https://" + p.host("edge"): "path=/; HttpOnly; Secure; SameSite=None",
					"https://" + p.host("redirect"): "path=/; HttpOnly; Secure; SameSite=None", "https://" + p.host("allow"): "path=/; HttpOnly", "http://" + p.host("allow"): "path=/; HttpOnly",
				} {
					_, host, _ := strings.Cut(url, "://")
					route, _, _ := strings.Cut(host, ".")
					pair := cookies(t, p, url+"/", md5hex(" "+p.ns+":"+route), attributes)
					first := ""
					for range 8 {
						a := p.w.wants(t, url+"/", 200, "Cookie: a=1; "+pair+"; b=2")
						if first == "" {
							first = a.seen.Address
						}
						if _, value, _ := strings.Cut(pair, "="); a.seen.Address != first || a.head.Get("Set-Cookie") != "" || strings.Contains(fmt.Sprint(a.seen.Header["Cookie"]), value) {
							t.Errorf("%s with its cookie: %v", url, a)
						}
						if have := strings.Join(a.seen.Header["Cookie"], "; "); !strings.Contains(have, "a=1") || !strings.Contains(have, "b=2") {
							t.Errorf("%s: the endpoint saw cookies %q", url, have)
						}
					}
				}
				// Another Route's cookie, and one of no endpoint, are nothing.
				a := p.w.wants(t, "http://"+p.host("plain")+"/", 200, "Cookie: "+md5hex(" "+p.ns+":plain")+"="+md5hex("gone"))
				if a.head.Get("Set-Cookie") == "" {
					t.Error("a client with the cookie of an endpoint that is gone gets no other")
				}
			}
		}},
		{"cookie_name", underMain, true, func(p *parity) func(*testing.T) {
			p.web(2)
			const name = "router.openshift.io/cookie_name"
			p.route("own", "wildcardPolicy: None", name, "My_cookie-1")
			p.route("same-site", "tls: {termination: edge}", name, "S", "router.openshift.io/cookie-same-site", "Strict")
			wrong := map[string]string{"blank": "a b", "sign": "a;b", "dollar": "$a", "empty": "", "dot": "a.b"}
			for route, v := range wrong {
				p.route(route, "wildcardPolicy: None", name, v)
			}
			return func(t *testing.T) {
				pair := cookies(t, p, "http://"+p.host("own")+"/", "My_cookie-1", "path=/; HttpOnly")
				if n := counts(p.w.spread(t, "http://"+p.host("own")+"/", 8, "Cookie: "+pair)); len(n) != 1 {
					t.Errorf("%v", n)
				}
				cookies(t, p, "https://"+p.host("same-site")+"/", "S", "path=/; HttpOnly; Secure; SameSite=Strict")
				for route := range wrong {
					cookies(t, p, "http://"+p.host(route)+"/", md5hex(" "+p.ns+":"+route), "path=/; HttpOnly")
					p.warned(t, route, "cookie_name")
				}
			}
		}},
		{"cookie-same-site", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			const site = "router.openshift.io/cookie-same-site"
			values := map[string]string{"lax": "Lax", "strict": "Strict", "none": "None", "wrong": "lax", "other": "Any", "empty": ""}
			for route, v := range values {
				p.route(route, "tls: {termination: edge}", site, v)
			}
			p.route("allow", "tls: {termination: edge, insecureEdgeTerminationPolicy: Allow}", site, "Lax")
			p.route("plain", "wildcardPolicy: None", site, "Lax")
			return func(t *testing.T) {
				for route, v := range values {
					if v != "Lax" && v != "Strict" {
						v = "None"
					}
					cookies(t, p, "https://"+p.host(route)+"/", md5hex(" "+p.ns+":"+route), "path=/; HttpOnly; Secure; SameSite="+v)
				}
				cookies(t, p, "https://"+p.host("allow")+"/", md5hex(" "+p.ns+":allow"), "path=/; HttpOnly")
				cookies(t, p, "http://"+p.host("plain")+"/", md5hex(" "+p.ns+":plain"), "path=/; HttpOnly")
				p.warned(t, "wrong", "the default is used")
			}
		}},
		{"disable_cookies", underMain, true, func(p *parity) func(*testing.T) {
			p.web(2)
			values := map[string]string{"true": "true", "one": "1", "upper": "TRUE", "letter": "t", "false": "false", "wrong": "yes"}
			for route, v := range values {
				p.route(route, "wildcardPolicy: None", "disable_cookies", v, "balance", "roundrobin")
			}
			return func(t *testing.T) {
				for route, v := range values {
					if v == "false" || v == "yes" {
						cookies(t, p, "http://"+p.host(route)+"/", md5hex(" "+p.ns+":"+route), "path=/; HttpOnly")
						continue
					}
					cookie := md5hex(" "+p.ns+":"+route) + "=" + md5hex(fmt.Sprintf("pod:web-1:web:http:%s:%d", p.pod(1), p.w.web))
					a := p.w.wants(t, "http://"+p.host(route)+"/", 200, "Cookie: "+cookie)
					if a.head.Get("Set-Cookie") != "" || a.seen.Header.Get("Cookie") != cookie {
						t.Errorf("%s: %v", route, a)
					}
					if all := p.w.spread(t, "http://"+p.host(route)+"/", 8, "Cookie: "+cookie); !inTurn(all) {
						t.Errorf("%s: a cookie keeps a client: %v", route, all)
					}
				}
				p.warned(t, "wrong", "it counts as false")
			}
		}},
	}
}
