package render_test

import (
	"bufio"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

func literalValue(s string) []*tsujiv1.HeaderValuePart {
	return []*tsujiv1.HeaderValuePart{{Part: &tsujiv1.HeaderValuePart_Literal{Literal: s}}}
}

func fetchedValue(name string) []*tsujiv1.HeaderValuePart {
	return []*tsujiv1.HeaderValuePart{{Part: &tsujiv1.HeaderValuePart_Header{Header: &tsujiv1.HeaderFetch{Name: name}}}}
}

// Each option of a Route takes the way that docs/haproxy-program.md says: entries of maps, a profile that is always
// there, other servers; or a profile that comes with a reload, once and never again.
func TestOptionsTakeTheirWay(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/haproxy-program.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	for line := range strings.Lines(string(doc)) {
		if cells := strings.Split(line, "|"); len(cells) > 4 {
			told[strings.TrimSpace(cells[1])] = strings.ReplaceAll(strings.TrimSpace(cells[2]), "`", "")
		}
	}
	type spec = tsujiv1.Route
	for _, c := range []struct {
		option, way string
		base        func(*spec) // what the route has already
		change      func(*spec)
	}{
		{"host", "entries of http, https", nil, func(r *spec) { r.Host = "other.example" }},
		{"path", "entries of http, https", nil, func(r *spec) { r.Path = "/path" }},
		{"wildcard policy", "entries of http, http_wildcard, https, https_wildcard", nil, func(r *spec) { r.Wildcard = true }},
		{"insecure policy, redirect code", "entries of http", nil, func(r *spec) { r.InsecurePolicy, r.RedirectCode = redirect, 308 }},
		{"termination", "another backend; entries of http, https", nil, func(r *spec) { r.Termination, r.InsecurePolicy = insecure, unset }},
		{"the first passthrough Route", "a reload, once; another backend; entries of https, passthrough", nil, func(r *spec) { r.Termination = passthrough }},
		{"certificate", "a line of crt-list; a file", nil, func(r *spec) { r.Certificate = tsujiv1.CertificateName("ns", tsujiv1.FromRoute, "edge") }},
		{"balance", "profile", nil, func(r *spec) { r.Balance = tsujiv1.Balance_BALANCE_SOURCE }},
		{"forwarded headers", "profile", nil, func(r *spec) { r.Forwarded = tsujiv1.ForwardedPolicy_FORWARDED_POLICY_NEVER }},
		{"case of header names", "profile", nil, func(r *spec) { r.AdjustHeaderCase = true }},
		{"cookie", "profile; entries of cookies", nil, func(r *spec) { r.Cookie = &tsujiv1.Cookie{Name: "c"} }},
		{"cookie: name, Secure, SameSite", "another backend; entries of cookies", func(r *spec) { r.Cookie = &tsujiv1.Cookie{Name: "c"} },
			func(r *spec) { r.Cookie = &tsujiv1.Cookie{Name: "d", Secure: true, SameSite: "Lax"} }},
		{"the first of the following", "profile; entries of options and its own", nil, func(r *spec) { r.Hsts = "max-age=1" }},
		{"HSTS", "entries of hsts", hsts, func(r *spec) { r.Hsts = "max-age=2" }},
		{"allowed sources", "entries of allow, options", hsts, func(r *spec) { r.RestrictSources, r.AllowedSources = true, []string{"10.0.0.0/9"} }},
		{"rate limits", "entries of limits, options", hsts, func(r *spec) {
			r.RateLimit = &tsujiv1.RateLimit{ConcurrentConnections: 9, RequestsPer_10S: 8, DenyStatus: 429}
		}},
		{"server timeout", "entries of options, timeout_server", hsts, func(r *spec) { r.Timeouts = &tsujiv1.RouteTimeouts{Server: durationpb.New(7 * time.Second)} }},
		{"tunnel timeout", "entries of options, timeout_tunnel", hsts, func(r *spec) { r.Timeouts = &tsujiv1.RouteTimeouts{Tunnel: durationpb.New(7 * time.Second)} }},
		{"timeout of passthrough", "profile", passed, func(r *spec) { r.Timeouts = &tsujiv1.RouteTimeouts{Tunnel: durationpb.New(5001 * time.Millisecond)} }},
		{"rewrite", "entries of options, rewrite", hsts, func(r *spec) { r.Rewrite = &tsujiv1.PathRewrite{Target: "/x"} }},
		{"request headers: text", "entries of options, request_del, request_set", hsts,
			func(r *spec) {
				r.RequestHeaders = []*tsujiv1.HeaderAction{{Name: "A", Value: literalValue("a")}, {Name: "a", Value: literalValue("b")}, {Name: "C"}}
			}},
		{"response headers: text", "entries of options, response_del, response_set", hsts,
			func(r *spec) {
				r.ResponseHeaders = []*tsujiv1.HeaderAction{{Name: "A", Value: literalValue("b")}, {Name: "C"}}
			}},
		{"headers: read from the message", "a reload, once; profile", hsts, func(r *spec) { r.RequestHeaders = []*tsujiv1.HeaderAction{{Name: "A", Value: fetchedValue("B")}} }},
		{"headers: more than 4 kB", "a reload, once; profile", hsts,
			func(r *spec) {
				r.ResponseHeaders = []*tsujiv1.HeaderAction{{Name: "A", Value: literalValue(strings.Repeat("x", 5000))}}
			}},
		{"Services and weights", "profile; servers", nil, func(r *spec) { r.Backends = append(r.Backends, backend("ns", "two", 50)) }},
		{"health check interval", "servers", nil, func(r *spec) { r.HealthCheckInterval = durationpb.New(time.Second) }},
		{"connections for each endpoint", "servers", nil, func(r *spec) { r.MaxConnectionsPerEndpoint = 3 }},
		{"verification of endpoints", "servers; a CA file", func(r *spec) { r.Termination = reencrypt }, func(r *spec) {
			r.DestinationTls = &tsujiv1.DestinationTLS{Verify: true, Ca: tsujiv1.CertificateName("ns", tsujiv1.FromDestinationCA, "ca")}
		}},
	} {
		t.Run(c.option, func(t *testing.T) {
			t.Parallel()
			if told[c.option] != c.way {
				t.Errorf("docs/haproxy-program.md: %q, want %q", told[c.option], c.way)
			}
			chain, key := fixedPair()
			before := simple("a", "a.b.example", "/", edge, none)
			if c.base != nil {
				c.base(before)
			}
			after := simple("a", "a.b.example", "/", edge, none)
			if c.base != nil {
				c.base(after)
			}
			c.change(after)
			r := renderer(t, options())
			apply(t, r, settingsOf(&tsujiv1.Settings{Headers: &tsujiv1.HeaderPolicy{CaseAdjustments: []string{"X-A"}}}),
				endpointsOf("ns", "a", endpoint("10.0.0.1", 80)), endpointsOf("ns", "two", endpoint("10.0.0.2", 80)),
				certificateOf("ns", "edge", chain, key), bundleOf("ns", "ca", theAuthority().pem))
			if before.GetTermination() == passthrough {
				apply(t, r, routeOf(before))
			}
			apply(t, r, routeOf(before))
			way := func(c render.Change) string { return wayOf(c, before, after) }
			if got := way(apply(t, r, routeOf(after))); got != strings.ReplaceAll(c.way, "options and its own", "hsts, options") {
				t.Errorf("takes %q, want %q", got, c.way)
			}
			for _, again := range []*spec{before, after, before} {
				if c := apply(t, r, routeOf(again)); len(c.Reload) > 0 {
					t.Errorf("again: %q", c.Reload)
				}
			}
		})
	}
}

func hsts(r *tsujiv1.Route) { r.Hsts = "max-age=1" }

func passed(r *tsujiv1.Route) { r.Termination = passthrough }

// wayOf tells in words what a change of one route takes.
func wayOf(c render.Change, before, after *tsujiv1.Route) string {
	var parts []string
	if len(c.Reload) == 1 {
		parts = append(parts, "a reload, once")
	}
	if len(c.Backends) == 2 {
		parts = append(parts, "another backend")
	}
	if len(c.Backends) == 1 {
		old, now := c.Backends[0].Old, c.Backends[0].New
		switch {
		case old.Profile != now.Profile:
			parts = append(parts, "profile")
		case old.Kind() != now.Kind():
			parts = append(parts, "another backend")
		}
		if !slices.EqualFunc(old.Servers, now.Servers, func(a, b render.Server) bool { return a.Line() == b.Line() }) &&
			(before.GetTermination() == passthrough) == (after.GetTermination() == passthrough) {
			parts = append(parts, "servers")
		}
	}
	var files []string
	for _, e := range c.Entries {
		files = append(files, strings.TrimSuffix(strings.TrimPrefix(e.File, "maps/"), ".map"))
	}
	if slices.Sort(files); len(files) > 0 {
		parts = append(parts, "entries of "+strings.Join(slices.Compact(files), ", "))
	}
	if len(c.CrtList) > 0 {
		parts = append(parts, "a line of crt-list")
	}
	if len(c.Certificates) > 0 {
		parts = append(parts, "a file")
	}
	if len(c.CAs) > 0 {
		parts = append(parts, "a CA file")
	}
	return strings.Join(parts, "; ")
}

// A list of prefixes of any length lets in just those addresses that are in one of them; IPv4 counts as the part
// of IPv6 that it is.
func TestAllowListsAgreeWithPrefixes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		address := rapid.Custom(func(t *rapid.T) netip.Addr {
			b := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 10, 0x7f, 0x80, 0xff, 0xfe}), 16, 16).Draw(t, "bytes")
			switch rapid.IntRange(0, 2).Draw(t, "family") {
			case 0:
				return netip.AddrFrom4([4]byte(b))
			case 1:
				return netip.AddrFrom16(netip.AddrFrom4([4]byte(b)).As16())
			default:
				return netip.AddrFrom16([16]byte(b))
			}
		})
		var prefixes []netip.Prefix
		r := simple("a", "a.example", "/", insecure, unset)
		r.RestrictSources = true
		for range rapid.IntRange(0, 5).Draw(rt, "prefixes") {
			a := address.Draw(rt, "of")
			p := netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(rt, "bits")).Masked()
			prefixes = append(prefixes, p)
			r.AllowedSources = append(r.AllowedSources, p.String())
		}
		rr := renderer(t, render.Options{HTTP: []string{":80"}, Stats: []string{":1936"}})
		apply(t, rr, routeOf(r))
		keys := mapModel{}
		for k, v := range rr.Entries("maps/allow.map") {
			keys[k] = v
		}
		ask := []netip.Addr{address.Draw(rt, "asked")}
		for _, p := range prefixes { // the first and the last, and those beside
			first, last := p.Addr().As16(), p.Addr().As16()
			bits := p.Bits() + 128 - p.Addr().BitLen()
			for i := bits; i < 128; i++ {
				last[i/8] |= 0x80 >> (i % 8)
			}
			f, l := netip.AddrFrom16(first), netip.AddrFrom16(last)
			ask = append(ask, f, l, f.Prev(), l.Next(), f.Unmap(), l.Unmap())
		}
		for _, a := range ask {
			if !a.IsValid() {
				continue
			}
			wide := a.As16()
			want := slices.ContainsFunc(prefixes, func(p netip.Prefix) bool {
				mapped := netip.AddrFrom16(wide)
				return p.Contains(a) || p.Contains(mapped) || p.Contains(mapped.Unmap())
			})
			got := keys.beg("be_http:ns:a|"+strings.ToUpper(hex.EncodeToString(wide[:]))) != ""
			if got != want {
				rt.Fatalf("%v of %v: %t, want %t; keys %v", a, prefixes, got, want, keys)
			}
		}
	})
}

// atRunTime makes of the sections of haproxy.cfg what is made at run time: their cookies are data.
func atRunTime(config string) string {
	section := regexp.MustCompile(`(?m)^(backend be_\S+ from http-(?:append|replace|if-none|never)-[a-z]+)(\S*)\n  cookie .*$`)
	return section.ReplaceAllString(config, "$1-cookie$2")
}

// Sticky cookies answer the same from haproxy.cfg and from the map: other cookies pass as they are, in both
// directions, whatever they are called; the endpoint does not see the route's.
func TestCookies(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, binary string) {
		for name, edit := range map[string]func(string) string{"in haproxy.cfg": nil, "at run time": atRunTime} {
			t.Run(name, func(t *testing.T) { cookieStory(t, binary, edit) })
		}
	})
}

func cookieStory(t *testing.T, binary string, edit func(string) string) {
	t.Parallel()
	const cookie = "d81c"
	plain := simple("plain", "plain.example", "/", insecure, unset)
	plain.Cookie = &tsujiv1.Cookie{Name: cookie}
	strict := simple("strict", "strict.example", "/", edge, none)
	strict.Cookie = &tsujiv1.Cookie{Name: "strict-1_X", Secure: true, SameSite: "Strict"}
	strict.Hsts = "max-age=1" // a profile with options
	lax := simple("lax", "lax.example", "/", insecure, unset)
	lax.Cookie = &tsujiv1.Cookie{Name: "l", SameSite: "Lax"}
	resources := []*tsujiv1.Resource{}
	for _, r := range []*tsujiv1.Route{plain, strict, lax} {
		resources = append(resources, routeOf(r), endpointsOf("ns", r.GetName(), serve(t, r.GetName()+"-1", nil), serve(t, r.GetName()+"-2", nil)))
	}
	rt := startEdited(t, binary, jailed(options()), edit, resources...)
	for url, want := range map[string]string{
		"http://plain.example/":   `^d81c=[0-9a-f]{32}; path=/; HttpOnly$`,
		"https://strict.example/": `^strict-1_X=[0-9a-f]{32}; path=/; HttpOnly; Secure; SameSite=Strict$`,
		"http://lax.example/":     `^l=[0-9a-f]{32}; path=/; HttpOnly; SameSite=Lax$`,
	} {
		got := rt.do(url, "", nil)
		if h := got.header["Set-Cookie"]; len(h) != 1 || !regexp.MustCompile(want).MatchString(h[0]) {
			t.Errorf("%s: Set-Cookie %q", url, h)
		}
		value, _, _ := strings.Cut(got.header.Get("Set-Cookie"), ";")
		name, id, _ := strings.Cut(value, "=")
		other := "TSUJI_ENDPOINT" // what is the client's own under HAProxy's name is not the route's
		for sent, left := range map[string]string{
			value:                                 "",
			"a=b; " + value:                       "a=b",
			value + "; a=b":                       "a=b",
			"a=b; " + value + "; c=d":             "a=b; c=d",
			"a=b;" + value + ";c=d":               "a=b; c=d",
			"x" + name + "=1; " + value:           "x" + name + "=1",
			name + "x=1; " + value:                name + "x=1",
			`a="|` + name + `=x"; ` + value:       `a="|` + name + `=x"`,
			"|\\1=2; " + value + "; %[src]=%41$&": "|\\1=2; %[src]=%41$&",
			strings.Repeat("a=b; ", 1000) + value: strings.TrimSuffix(strings.Repeat("a=b; ", 1000), "; "),
		} {
			for range 4 {
				again := rt.do(url, "", http.Header{"Cookie": {sent}})
				if again.seen.Endpoint != got.seen.Endpoint {
					t.Errorf("%s, Cookie %.80q: %s, want %s", url, sent, again.seen.Endpoint, got.seen.Endpoint)
				}
				if c := again.seen.Header.Get("Cookie"); c != left || len(again.header["Set-Cookie"]) > 0 {
					t.Errorf("%s, Cookie %.80q: the endpoint saw %.80q, want %.80q; Set-Cookie %q", url, sent, c, left, again.header["Set-Cookie"])
				}
			}
		}
		for _, sent := range []string{name + "=unknown; a=b", "a=b", "a=b; x" + value, "a=b; " + strings.ToUpper(name) + "x=" + id} {
			again := rt.do(url, "", http.Header{"Cookie": {sent}})
			if len(again.header["Set-Cookie"]) != 1 || !strings.Contains(again.seen.Header.Get("Cookie"), "a=b") {
				t.Errorf("%s, Cookie %q: Set-Cookie %q, the endpoint saw %q", url, sent, again.header["Set-Cookie"], again.seen.Header.Get("Cookie"))
			}
		}
		if again := rt.do(url, "", http.Header{"Cookie": {other + "=" + id}}); again.seen.Endpoint == "" {
			t.Errorf("%s with a cookie of HAProxy's name: %s", url, again.short())
		}
	}
	got := rt.do("http://plain.example/", "", http.Header{"X-Ask": {"cookies"}}).header["Set-Cookie"]
	if !slices.Contains(got, "app=1; Path=/x") || len(got) < 2 {
		t.Errorf("cookies of the application: %q", got)
	}
	two := rt.do("http://plain.example/", "", http.Header{"Cookie": {"a=b", "c=d"}}).seen.Header["Cookie"]
	if strings.Join(two, "; ") != "a=b; c=d" { // at run time they become one
		t.Errorf("two Cookie headers became %q", two)
	}
}

// from sends a request as a load balancer does for a client, and returns the status line.
func (rt *router) from(source, host string) string {
	rt.t.Helper()
	family, to := "TCP4", "192.0.2.1"
	if strings.Contains(source, ":") {
		family, to = "TCP6", "2001:db8::1"
	}
	return rt.raw(fmt.Sprintf("PROXY %s %s %s 1000 80\r\nGET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", family, source, to, host))
}

// Allow lists go by the client's address, IPv4 and IPv6; rate limits by its address of IPv4, translated or not, and by its
// network of 64 bits of IPv6. Each Route counts for itself.
func TestSources(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, sourcesStory)
}

func sourcesStory(t *testing.T, binary string) {
	t.Parallel()
	resources := []*tsujiv1.Resource{settingsOf(&tsujiv1.Settings{ProxyProtocol: true})}
	add := func(name string) *tsujiv1.Route {
		r := simple(name, name+".example", "/", insecure, unset)
		resources = append(resources, routeOf(r), endpointsOf("ns", name, serve(t, name, nil)))
		return r
	}
	listed := add("listed")
	listed.RestrictSources, listed.AllowedSources = true, []string{"10.0.0.0/9", "192.0.2.128/27", "198.51.100.7/32", "2001:db8:8000::/33", "2001:db8::7/128"}
	everyone := add("everyone")
	everyone.RestrictSources, everyone.AllowedSources = true, []string{"::/0"}
	nobody := add("nobody")
	nobody.RestrictSources = true
	for _, code := range []uint32{0, 403, 429, 503} {
		add(fmt.Sprintf("code-%d", code)).RateLimit = &tsujiv1.RateLimit{RequestsPer_10S: 3, DenyStatus: code}
	}
	add("connections").RateLimit = &tsujiv1.RateLimit{ConnectionsPer_3S: 3}
	add("concurrent").RateLimit = &tsujiv1.RateLimit{ConcurrentConnections: 2, ConnectionsPer_3S: 1000}
	rt := start(t, binary, jailed(options()), resources...)
	const ok, closed = "HTTP/1.1 200 OK", ""
	for _, c := range []struct{ host, source, want string }{
		{"listed", "10.127.255.255", ok}, {"listed", "10.128.0.0", closed}, {"listed", "192.0.2.159", ok}, {"listed", "192.0.2.160", closed},
		{"listed", "198.51.100.7", ok}, {"listed", "198.51.100.8", closed}, {"listed", "::ffff:10.1.2.3", ok}, {"listed", "::ffff:10.200.2.3", closed},
		{"listed", "2001:db8:ffff::1", ok}, {"listed", "2001:db8:7fff::1", closed}, {"listed", "2001:db8::7", ok}, {"listed", "2001:db8::8", closed},
		{"everyone", "10.1.1.1", ok}, {"everyone", "2001:db8::1", ok}, {"nobody", "10.1.1.1", closed}, {"nobody", "::1", closed},
	} {
		if got := rt.from(c.source, c.host+".example"); got != c.want {
			t.Errorf("%s from %s: %q, want %q", c.host, c.source, got, c.want)
		}
	}
	for host, over := range map[string][]string{
		"code-0": {ok, closed}, "code-403": {ok, "HTTP/1.1 403 Forbidden"}, "code-429": {ok, "HTTP/1.1 429 Too Many Requests"},
		"code-503": {ok, "HTTP/1.1 503 Service Unavailable"}, "connections": {closed, closed}, // OpenShift's router counts so
	} {
		for _, client := range [][4]string{ // each by all addresses that count as it
			{"10.0.0.1", "10.0.0.1", "::ffff:10.0.0.1", "10.0.0.1"}, {"10.0.0.2", "10.0.0.2", "10.0.0.2", "::ffff:10.0.0.2"},
			{"::ffff:10.0.0.3", "::ffff:10.0.0.3", "::ffff:10.0.0.3", "10.0.0.3"},
			{"2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::"},
			{"2001:db8:0:2::1", "2001:db8:0:2::1", "2001:db8:0:2::1", "2001:db8:0:2:8000::"},
			{"64:ff9b::a00:1", "64:ff9b::a00:1", "64:ff9b::a00:1", "64:ff9b::a00:1"}, {"64:ff9b::a00:2", "64:ff9b::a00:2", "64:ff9b::a00:2", "64:ff9b::a00:2"},
			{"64:ff9b:0:0:1::1", "64:ff9b::1:0:0:1", "64:ff9b:0:0:1::2", "64:ff9b:0:0:2::"}, {"::1", "::2", "::fffe:0:1", "::8000:0:0:1"},
		} {
			got := []string{}
			for _, source := range client {
				got = append(got, rt.from(source, host+".example"))
			}
			if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", append([]string{ok, ok}, over...)) {
				t.Errorf("%s from %v: %q", host, client, got)
			}
		}
	}
	c, err := net.Dial("tcp", rt.http)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "PROXY TCP4 10.0.0.9 192.0.2.1 1000 80\r\nGET / HTTP/1.1\r\nHost: concurrent.example\r\nX-Ask: tunnel\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if line, _ := bufio.NewReader(c).ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 101") {
		t.Errorf("upgrade: %q", line)
	}
	if got := rt.from("10.0.0.9", "concurrent.example"); got != closed {
		t.Errorf("a second connection at once, where 2 are too many: %q", got)
	}
	if got := rt.from("10.0.0.8", "concurrent.example"); got != ok {
		t.Errorf("another client: %q", got)
	}
}

// Header actions set and delete, in requests and responses, text of any kind and length that the API lets pass; and
// rewrites keep odd characters.
func TestHeadersAndRewrites(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, headersStory)
}

func headersStory(t *testing.T, binary string) {
	t.Parallel()
	odd := `a'b"c %[env(HOME)] %41 $HOME #x \r\n\x0a; | ~ ä`
	actions := func(extra ...*tsujiv1.HeaderAction) []*tsujiv1.HeaderAction {
		return append([]*tsujiv1.HeaderAction{
			{Name: "X-Odd", Value: literalValue(odd)}, {Name: "X-239", Value: literalValue(strings.Repeat("x", 239))}, {Name: "X-240", Value: literalValue(strings.Repeat("y", 240))},
			{Name: "X-Parts", Value: append(literalValue("one"), literalValue("|two")...)}, {Name: "x-from-endpoint"}, {Name: "X-Gone"}, {Name: "X-Twice", Value: literalValue("once")},
			{Name: "X-Last", Value: literalValue("first")}, {Name: "x-last", Value: literalValue("last")}, {Name: "X-Back"}, {Name: "X-Back", Value: literalValue("set")},
			{Name: "X-Away", Value: literalValue("set")}, {Name: "x-away"},
		}, extra...)
	}
	both := func(name string, list []*tsujiv1.HeaderAction) []*tsujiv1.Resource {
		r := simple(name, name+".example", "/old", edge, allow)
		r.RequestHeaders, r.ResponseHeaders = list, list
		r.Hsts = "max-age=31536000; includeSubDomains;preload"
		r.Rewrite = &tsujiv1.PathRewrite{Target: `/n'%41|~"+$&\x`}
		return []*tsujiv1.Resource{routeOf(r), endpointsOf("ns", name, serve(t, name, nil))}
	}
	long := strings.Repeat("z", 2500)
	resources := slices.Concat(
		both("data", actions(&tsujiv1.HeaderAction{Name: "X-Long", Value: literalValue(long)})),
		both("rules", actions(&tsujiv1.HeaderAction{Name: "X-Long", Value: literalValue(long + long)})),
		both("fetched", actions(&tsujiv1.HeaderAction{Name: "X-Long", Value: fetchedValue("X-239")})),
	)
	rt := start(t, binary, jailed(options()), resources...)
	for host, length := range map[string]int{"data": 2500, "rules": 5000, "fetched": 239} {
		got := rt.do("https://"+host+".example/old/p?q=%7C", "", http.Header{"X-Gone": {"1", "2"}, "X-Twice": {"1", "2"}, "X-Last": {"1"}, "X-Back": {"1"}, "X-Away": {"1"}})
		for side, h := range map[string]http.Header{"request": got.seen.Header, "response": got.header} {
			for name, want := range map[string]string{
				"X-Odd": odd, "X-239": strings.Repeat("x", 239), "X-240": strings.Repeat("y", 240), "X-Parts": "one|two", "X-Gone": "", "X-Twice": "once", "X-From-Endpoint": "",
				"X-Last": "last", "X-Back": "set", "X-Away": "",
			} {
				if v := strings.Join(h[name], "&"); v != want {
					t.Errorf("%s, %s: %s is %q, want %q", host, side, name, v, want)
				}
			}
			if n := len(h.Get("X-Long")); n != length {
				t.Errorf("%s, %s: X-Long of %d bytes, want %d", host, side, n, length)
			}
		}
		if got.seen.Path != `/n'%41|~"+$&\x/p?q=%7C` {
			t.Errorf("%s: rewritten to %s", host, got.seen.Path)
		}
		if v := got.header.Get("Strict-Transport-Security"); v != "max-age=31536000; includeSubDomains;preload" {
			t.Errorf("%s: HSTS %q", host, v)
		}
	}
}

// A Route's own timeouts hold: for the endpoint's answer, for upgraded connections, and for those that are passed
// through.
func TestTimeoutsOfRoutes(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, timeoutsStory)
}

func timeoutsStory(t *testing.T, binary string) {
	t.Parallel()
	quick := simple("quick", "quick.example", "/", insecure, unset)
	quick.Timeouts = &tsujiv1.RouteTimeouts{Server: durationpb.New(300 * time.Millisecond), Tunnel: durationpb.New(600 * time.Millisecond)}
	longest := simple("longest", "longest.example", "/", insecure, unset)
	longest.Timeouts = &tsujiv1.RouteTimeouts{Server: durationpb.New(4_000_000 * time.Second), Tunnel: durationpb.New(4_000_000 * time.Second)}
	pass := simple("pass", "pass.example", "/", passthrough, none)
	pass.Timeouts = &tsujiv1.RouteTimeouts{Server: durationpb.New(450 * time.Millisecond)} // which becomes 500
	rt := start(t, binary, jailed(options()),
		routeOf(quick), endpointsOf("ns", "quick", serve(t, "quick", nil)), routeOf(longest), endpointsOf("ns", "longest", serve(t, "longest", nil)),
		routeOf(pass), endpointsOf("ns", "pass", serve(t, "pass", theAuthority().pair("pass.own"))))
	if got := rt.do("http://quick.example/", "", http.Header{"X-Ask": {"slow"}}).short(); got != "504" {
		t.Errorf("an endpoint that is slower than its Route: %s", got)
	}
	if got := rt.do("http://longest.example/", "", nil).short(); got != "longest /" {
		t.Errorf("the longest timeout: %s", got)
	}
	// idle says after how long a silent connection is closed, for at most a second and a half.
	idle := func(c net.Conn) time.Duration {
		began := time.Now()
		_ = c.SetReadDeadline(began.Add(1500 * time.Millisecond))
		_, err := io.Copy(io.Discard, c)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return time.Minute
		}
		return time.Since(began)
	}
	for host, closes := range map[string]bool{"quick": true, "longest": false} {
		c, err := net.Dial("tcp", rt.http)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+host+".example\r\nX-Ask: tunnel\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if line, _ := bufio.NewReader(c).ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 101") {
			t.Errorf("%s: upgrade: %q", host, line)
		}
		if d := idle(c); (d < time.Minute) != closes || d < 500*time.Millisecond {
			t.Errorf("%s: an upgraded connection is closed after %v", host, d)
		}
		_ = c.Close()
	}
	c, err := tls.Dial("tcp", rt.https, &tls.Config{InsecureSkipVerify: true, ServerName: "pass.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if d := idle(c); d > time.Minute/2 || d < 400*time.Millisecond {
		t.Errorf("a connection that is passed through is closed after %v", d)
	}
}
