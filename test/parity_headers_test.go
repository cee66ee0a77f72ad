package test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
)

// parityHeaders are what endpoints and clients are told.
func parityHeaders() []parityRow {
	return []parityRow{
		{"spec.httpHeaders.actions", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.route("web", `httpHeaders: {actions: {
  request: [{name: X-Set, action: {type: Set, set: {value: "it's \"a\" 100%% \\ # ; {x}"}}}, {name: X-From, action: {type: Set, set: {value: "<%[req.hdr(X-Old),lower]> %[req.hdr(X-Old),base64]"}}},
    {name: X-Old, action: {type: Delete}}, {name: X-After, action: {type: Set, set: {value: "[%[req.hdr(X-Old)]]"}}}, {name: x-twice, action: {type: Set, set: {value: one}}}, {name: X-Forwarded-Proto, action: {type: Delete}},
    {name: X-Escaped, action: {type: Set, set: {value: '"%{-E,+E,+Q}[req.hdr(X-Raw),lower]" %[req.hdr(X-Raw)]'}}}, {name: X-Flags, action: {type: Set, set: {value: "%{+Q,-X,E}[req.hdr(X-Raw)]%{+E,-E}[req.hdr(X-Raw)]"}}}],
  response: [{name: X-Answer, action: {type: Set, set: {value: "%[res.hdr(X-Given),lower]"}}}, {name: X-Given, action: {type: Delete}}, {name: X-Frame-Options, action: {type: Set, set: {value: DENY}}}]}}`)
			return func(t *testing.T) {
				a := p.w.get(t, "http://"+host+"/", "X-Old: ABC", `X-Raw: A"b\]`, "X-Twice: 1", "X-Twice: 2", "Echo-Set: X-Given: LOUD", "Echo-Set: X-Frame-Options: SAMEORIGIN")
				for name, want := range map[string]string{
					"X-Set": `it's "a" 100% \ # ; {x}`, "X-From": "<abc> QUJD", "X-Old": "", "X-After": "[]", "X-Twice": "one", "X-Forwarded-Proto": "",
					"X-Escaped": `"a\"b\\\]" A"b\]`, "X-Flags": `A"b\]A"b\]`,
				} {
					if have := strings.Join(a.seen.Header.Values(name), "|"); have != want {
						t.Errorf("the endpoint saw %s %q, want %q", name, have, want)
					}
				}
				for name, want := range map[string]string{"X-Answer": "loud", "X-Given": "", "X-Frame-Options": "DENY"} {
					if have := strings.Join(a.head.Values(name), "|"); have != want {
						t.Errorf("the client saw %s %q, want %q", name, have, want)
					}
				}
			}
		}},
		{"spec.httpHeaders.actions.rules", underMain, false, func(p *parity) func(*testing.T) {
			p.web(1)
			action := func(direction, name, action string) string {
				return "httpHeaders: {actions: {" + direction + ": [{name: " + name + ", action: " + action + "}]}}"
			}
			var many []string
			for i := range 21 {
				many = append(many, fmt.Sprintf("{name: X-%d, action: {type: Delete}}", i))
			}
			set := func(value string) string { return "{type: Set, set: {value: " + value + "}}" }
			wrong := map[string][2]string{
				"hsts": {action("response", "strict-transport-security", set("a")), "may not be changed"}, "proxy": {action("request", "Proxy", set("a")), "may not be changed"},
				"cookie": {action("request", "cookie", set("a")), "may not be changed"}, "set-cookie": {action("response", "Set-Cookie", "{type: Delete}"), "may not be changed"},
				"token": {action("request", `"a b"`, set("a")), "request[0].name"}, "percent": {action("request", "a", set(`"100%"`)), "write %% for a percent sign"},
				"alias": {action("request", "a", set(`"%ci"`)), "write %% for a percent sign"}, "fetch": {action("request", "a", set(`"%[env(HOME)]"`)), "use req.hdr(NAME)"},
				"other": {action("request", "a", set(`"%[res.hdr(a)]"`)), "use req.hdr(NAME)"}, "converter": {action("request", "a", set(`"%[req.hdr(a),upper]"`)), "converter"},
				"empty": {action("request", "a", set(`""`)), "Required"}, "pass": {action("request", "a", set("b")) + ", tls: {termination: passthrough}", "passthrough termination does not support header actions"},
				"flag":   {action("request", "a", set(`"%{+Z}[req.hdr(a)]"`)), "other flags than Q, X and E"},
				"double": {"httpHeaders: {actions: {response: [{name: X-A, action: {type: Delete}}, {name: x-a, action: " + set("b") + "}]}}", "Duplicate value"},
				"many":   {"httpHeaders: {actions: {request: [" + strings.Join(many, ", ") + "]}}", "must have at most 20 items"},
				"long":   {action("request", "a", set(strings.Repeat("v", 16385))), "no longer than 16384 bytes"},
			}
			for name, w := range wrong {
				p.route(name, w[0])
			}
			return func(t *testing.T) {
				for name, w := range wrong {
					p.refused(t, name, "ExtendedValidationFailed", w[1])
				}
			}
		}},
		{"set-forwarded-headers", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			for name, v := range map[string]string{"append": "append", "replace": "replace", "if-none": "if-none", "never": "never", "wrong": "Append"} {
				p.route(name, "wildcardPolicy: None", "set-forwarded-headers", v)
			}
			p.route("absent", "wildcardPolicy: None")
			p.route("edge", "tls: {termination: edge, "+p.pair(p.host("edge"))+"}")
			return func(t *testing.T) {
				_, port, _ := net.SplitHostPort(p.w.r.http)
				names := []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto", "Forwarded"}
				theirs := []string{"192.0.2.1", "theirs.example.com", "1", "theirs", "for=theirs"}
				ours := func(host string) []string {
					return []string{"127.0.0.1", host, port, "http", "for=127.0.0.1;host=" + host + ";proto=http"}
				}
				ask := func(route, who string, head []string, want func(i int, host string) string) {
					host := p.host(route)
					a := p.w.get(t, "http://"+host+"/", head...)
					for i, name := range names {
						if have := strings.Join(a.seen.Header.Values(name), ", "); have != want(i, host) {
							t.Errorf("%s, %s: the endpoint saw %s %q, want %q", route, who, name, have, want(i, host))
						}
					}
				}
				var sent []string
				for i, name := range names {
					sent = append(sent, name+": "+theirs[i])
				}
				for _, route := range []string{"append", "replace", "if-none", "wrong", "absent"} {
					ask(route, "without", nil, func(i int, host string) string { return ours(host)[i] })
				}
				ask("never", "without", nil, func(int, string) string { return "" })
				for _, route := range []string{"append", "wrong", "absent"} {
					ask(route, "with", sent, func(i int, host string) string { return theirs[i] + ", " + ours(host)[i] })
				}
				ask("replace", "with", sent, func(i int, host string) string { return ours(host)[i] })
				for _, route := range []string{"if-none", "never"} {
					ask(route, "with", sent, func(i int, _ string) string { return theirs[i] })
				}
				p.warned(t, "wrong", "the default is used")

				six := p.w.wantsOf(t, question{url: "http://" + p.host("append") + "/", from: "::1"}, 200)
				if have, want := six.seen.Header.Get("Forwarded"), `for="[::1]";host=`+p.host("append")+";proto=http"; have != want || six.seen.Header.Get("X-Forwarded-For") != "::1" {
					t.Errorf("from IPv6: %q, want %q; %v", have, want, six.seen.Header)
				}

				_, port, _ = net.SplitHostPort(p.w.r.https)
				a := p.w.get(t, "https://"+p.host("edge")+"/")
				if h := a.seen.Header; h.Get("X-Forwarded-Proto") != "https" || h.Get("X-Forwarded-Port") != port || h.Get("X-Forwarded-Proto-Version") != "" || h.Get("Forwarded") != "for=127.0.0.1;host="+p.host("edge")+";proto=https" {
					t.Errorf("over TLS: %v", h)
				}
			}
		}},
		{"X-Forwarded-Proto-Version", underMain, false, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.route("edge", "tls: {termination: edge, "+p.pair(p.host("edge"))+"}")
			return func(t *testing.T) {
				a := p.w.get2(t, p.w.http2(t), "https://"+host+"/")
				if a.seen.Header.Get("X-Forwarded-Proto-Version") != "h2" || a.seen.Proto != "HTTP/1.1" {
					t.Errorf("over HTTP/2: %v", a)
				}
			}
		}},
		{"hsts_header", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			tls := "tls: {termination: edge, insecureEdgeTerminationPolicy: Allow}"
			good := map[string]string{
				"plain": "max-age=31536000", "all": "max-age=1;includeSubDomains;preload", "before": "preload ; includeSubDomains; max-age = 5", "case": "MAX-AGE=1; includesubdomains",
				"quoted": `max-age="7" ; preload`, "zero": "max-age=0", "digits": "max-age=" + strings.Repeat("9", 40),
			}
			wrong := map[string]string{"number": "max-age=abc", "comma": "max-age=1, preload", "none": "preload", "negative": "max-age=-1", "more": "max-age=1; x=1", "quote": `max-age="1`, "empty": ""}
			for _, values := range []map[string]string{good, wrong} {
				for name, v := range values {
					p.route(name, tls, "hsts_header", v)
				}
			}
			semicolon := p.route("semicolon", tls, "hsts_header", "max-age=1; preload ;")
			insecure := p.route("insecure", "wildcardPolicy: None", "hsts_header", "max-age=1")
			return func(t *testing.T) {
				for name, want := range good {
					if a := p.w.get(t, "https://"+p.host(name)+"/"); a.head.Get("Strict-Transport-Security") != want {
						t.Errorf("%s: %q, want %q", name, a.head.Get("Strict-Transport-Security"), want)
					}
				}
				if a := p.w.get(t, "http://"+p.host("plain")+"/", "Echo-Set: Strict-Transport-Security: theirs"); a.head.Get("Strict-Transport-Security") != good["plain"] {
					t.Errorf("over plain HTTP, which the Route allows, and over the endpoint's own: %v", a.head)
				}
				for name := range wrong {
					if a := p.w.get(t, "https://"+p.host(name)+"/"); a.head.Get("Strict-Transport-Security") != "" {
						t.Errorf("%s: %q", name, a.head.Get("Strict-Transport-Security"))
					}
					p.warned(t, name, "the header is not set")
				}
				if a := p.w.get(t, "https://"+semicolon+"/"); a.head.Get("Strict-Transport-Security") != "max-age=1; preload" {
					t.Errorf("a semicolon at the end: %q", a.head.Get("Strict-Transport-Security"))
				}
				if a := p.w.get(t, "http://"+insecure+"/"); a.head.Get("Strict-Transport-Security") != "" {
					t.Errorf("an insecure Route: %v", a.head)
				}
			}
		}},
		{"h1-adjust-case", underMain, true, func(p *parity) func(*testing.T) {
			p.service("raw", p.w.raw, 1)
			to := "to: {kind: Service, name: raw}"
			on := p.route("on", to, "h1-adjust-case", "true")
			off := p.route("off", to)
			wrong := p.route("wrong", to, "h1-adjust-case", "yes")
			return func(t *testing.T) {
				for host, want := range map[string]string{on: "\nX-BOGUS-case: 1", off: "\nx-bogus-case: 1", wrong: "\nx-bogus-case: 1"} {
					if a := p.w.get(t, "http://"+host+"/", "X-Bogus-Case: 1", "X-Other: 2"); !strings.Contains(a.body, want+"\r") || !strings.Contains(a.body, "\nx-other: 2\r") {
						t.Errorf("%s: the endpoint saw %q, want %q", host, a.body, want)
					}
				}
				p.warned(t, "wrong", "it counts as false")
				if a := p.w.get(t, "http://"+off+"/"); !strings.Contains(a.raw, "\r\nX-BOGUS-case: 1\r\n") {
					t.Errorf("the client saw %q", a.raw)
				}
			}
		}},
		{"hardening", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			host := p.route("web", "tls: {termination: edge, insecureEdgeTerminationPolicy: Allow}")
			return func(t *testing.T) {
				for _, scheme := range []string{"http", "https"} {
					url := scheme + "://" + host + "/"
					if a := p.w.get(t, url, "Content-Length: "); a.status != http.StatusForbidden && a.status != http.StatusBadRequest {
						t.Errorf("%s: a length that is empty: %v", url, a)
					}
					a := p.w.wants(t, url, 200, "Proxy: 192.0.2.1", "X-SSL: 1", "X-SSL-Client-CN: forged", "X-Ssl-Client-DER: forged")
					for _, name := range []string{"Proxy", "X-SSL", "X-SSL-Client-CN", "X-SSL-Client-DER"} {
						if a.seen.Header.Get(name) != "" {
							t.Errorf("%s: the endpoint saw %s %q", scheme, name, a.seen.Header.Get(name))
						}
					}
				}
			}
		}},
	}
}
