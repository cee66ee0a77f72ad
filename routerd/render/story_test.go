package render_test

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// Requests reach the route whose host they name and whose path is the longest that they match, over plain
// HTTP as the routes' policies say.
func TestLookup(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, lookupStory)
}

func lookupStory(t *testing.T, binary string) {
	t.Parallel()
	var resources []*tsujiv1.Resource
	add := func(r *tsujiv1.Route) *tsujiv1.Route {
		resources = append(resources, routeOf(r), endpointsOf("ns", r.GetName(), serve(t, r.GetName(), nil)))
		return r
	}
	add(simple("root", "a.example", "/", insecure, unset))
	add(simple("api", "a.example", "/api", insecure, unset))
	add(simple("api-v2", "a.example", "/api/v2", insecure, unset))
	add(simple("slash", "a.example", "/slash/", insecure, unset))
	add(simple("only-slash", "b.example", "/foo/", insecure, unset))
	add(simple("m-root", "m.example", "/", insecure, unset))
	add(simple("m-none", "m.example", "/none", edge, none))
	add(simple("m-allow", "m.example", "/allow", edge, allow))
	add(simple("m-redirect", "m.example", "/redirect", edge, redirect)).RedirectCode = 308
	add(simple("none", "none.example", "/", edge, none))
	add(simple("wild", "wild.w.example", "/", insecure, unset)).Wildcard = true
	add(simple("wild-redirect", "wild.w.example", "/secure", edge, redirect)).Wildcard = true
	add(simple("exact", "x.w.example", "/x", insecure, unset))
	add(simple("exact-none", "y.w.example", "/", edge, none))
	add(simple("wild-only-redirect", "any.v.example", "/", edge, redirect)).Wildcard = true
	add(simple("beside-none", "y.v.example", "/", edge, none))
	add(simple("tcp-redirect", "tcp.example", "/", passthrough, redirect))
	add(simple("strip", "r.example", "/app", insecure, unset)).Rewrite = &tsujiv1.PathRewrite{Target: "/"}
	add(simple("replace", "r.example", "/old", insecure, unset)).Rewrite = &tsujiv1.PathRewrite{Target: "/new%41"}
	add(simple("prepend", "r.example", "/", insecure, unset)).Rewrite = &tsujiv1.PathRewrite{Target: "/base"}
	add(simple("versioned", "version.example", "/", insecure, unset)).Rewrite = &tsujiv1.PathRewrite{Target: "/v2/"}
	for name, path := range map[string]string{"is-root": "/", "is-foo": "/foo", "is-foo-slash": "/foo/", "is-deep": "/x/y"} {
		add(simple(name, "e.example", path, insecure, unset)).Exact = true
	}
	add(simple("e-foo", "e.example", "/foo", insecure, unset)).Rewrite = &tsujiv1.PathRewrite{Target: "/prefix"}
	add(simple("is-secret", "e.example", "/foo/secret", edge, redirect)).Exact = true
	r := add(simple("is-rewritten", "e.example", "/from", insecure, unset))
	r.Exact, r.Rewrite = true, &tsujiv1.PathRewrite{Target: "/to"}
	r = add(simple("is-wild", "any.u.example", "/wild", insecure, unset))
	r.Exact, r.Wildcard = true, true
	rt := start(t, binary, jailed(options()), resources...)

	for _, c := range []struct{ url, host, want string }{
		{"http://e.example/", "", "is-root /"},
		{"http://e.example/?q", "E.example.:80", "is-root /?q"},
		{"http://e.example//", "", "503"},
		{"http://e.example/bar", "", "503"},
		{"http://e.example/foo", "", "is-foo /foo"},
		{"http://e.example/foo?/bar", "", "is-foo /foo?/bar"},
		{"http://e.example/foo/", "", "is-foo-slash /foo/"},
		{"http://e.example/foo//", "", "e-foo /prefix//"},
		{"http://e.example/foo/x", "", "e-foo /prefix/x"},
		{"http://e.example/foo/secret", "", "302 https://e.example/foo/secret"},
		{"http://e.example/foo/secret/", "", "e-foo /prefix/secret/"},
		{"http://e.example/foox", "", "503"},
		{"http://e.example/Foo", "", "503"},
		{"http://e.example/x/y", "", "is-deep /x/y"},
		{"http://e.example/x", "", "503"},
		{"http://e.example/x/y/", "", "503"},
		{"http://e.example/x/y%2F", "", "503"},
		{"http://e.example/from?q", "", "is-rewritten /to?q"},
		{"http://e.example/from/x", "", "503"},
		{"https://e.example/foo/secret", "", "is-secret /foo/secret"},
		{"https://e.example/foo/secret/x", "", "503"},
		{"http://b.u.example/wild", "", "is-wild /wild"},
		{"http://b.u.example/wild/", "", "503"},
		{"http://b.u.example/", "", "503"},
		{"http://a.example/", "", "root /"},
		{"http://a.example/apix", "", "root /apix"},
		{"http://a.example/api", "", "api /api"},
		{"http://a.example/api?q=/v2", "", "api /api?q=/v2"},
		{"http://a.example/api/v1", "", "api /api/v1"},
		{"http://a.example/api/v2", "", "api-v2 /api/v2"},
		{"http://a.example/api/v2/x", "", "api-v2 /api/v2/x"},
		{"http://a.example/API", "", "root /API"},
		{"http://a.example/slash", "", "root /slash"},
		{"http://a.example/slash/", "", "slash /slash/"},
		{"http://a.example/slash/x", "", "slash /slash/x"},
		{"http://b.example/foo", "", "503"},
		{"http://b.example/foo/", "", "only-slash /foo/"},
		{"http://b.example/", "", "503"},
		{"http://a.example/", "A.Example:8080", "root /"},
		{"http://a.example/", "a.example.", "root /"},
		{"http://a.example/", "a.example.:80", "root /"},
		{"http://a.example/", "[::1]", "503"},
		{"http://a.example/", "[::1]:80", "503"},
		{"http://a.example/", "unknown.example", "503"},
		{"http://m.example/none/x", "", "m-root /none/x"},
		{"http://m.example/allow/x", "", "m-allow /allow/x"},
		{"http://m.example/redirect/x?y=z", "m.example:8080", "308 https://m.example/redirect/x?y=z"},
		{"http://none.example/", "", "503"},
		{"http://z.w.example/", "", "wild /"},
		{"http://z.w.example/secure/x", "", "302 https://z.w.example/secure/x"},
		{"http://z.z.w.example/", "", "503"},
		{"http://m.example/redirect", "m.example.", "308 https://m.example/redirect"},
		{"http://m.example/redirect", "m.example.:80", "308 https://m.example/redirect"},
		{"http://w.example/", "", "503"},
		{"http://x.w.example/x", "", "exact /x"},
		{"http://x.w.example/other", "", "wild /other"},
		{"http://x.w.example/secure", "", "302 https://x.w.example/secure"},
		{"http://y.w.example/secure", "", "wild /secure"},
		{"http://z.v.example/", "", "302 https://z.v.example/"},
		{"http://y.v.example/", "", "503"},
		{"http://tcp.example/x", "", "302 https://tcp.example/x"},
		{"http://r.example/app", "", "strip /"},
		{"http://r.example/app/", "", "strip /"},
		{"http://r.example/app/x/y?q", "", "strip /x/y?q"},
		{"http://r.example/old", "", "replace /new%41"},
		{"http://r.example/old/x?q", "", "replace /new%41/x?q"},
		{"http://r.example/x", "", "prepend /base/x"},
		{"http://version.example/x/y?q", "", "versioned /v2/x/y?q"},
		{"http://version.example/", "", "versioned /v2/"},
		{"http://version.example", "", "versioned /v2/"},
		{"https://m.example/none/x", "", "m-none /none/x"},
		{"https://m.example/", "", "503"},
		{"https://none.example/", "", "none /"},
		{"https://q.w.example/secure", "", "wild-redirect /secure"},
	} {
		if got := rt.do(c.url, c.host, nil).short(); got != c.want {
			t.Errorf("GET %s, Host %q: %s, want %s", c.url, c.host, got, c.want)
		}
	}
	for _, c := range []struct{ request, want string }{
		{"GET / HTTP/1.0\r\n\r\n", "503"},
		{"GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n", "400"},
		{"GET http://a.example/api HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n", "200"},
		{"OPTIONS * HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n", "200"},
		{"GET http://e.example/foo HTTP/1.1\r\nHost: e.example\r\nConnection: close\r\n\r\n", "200"},
		{"GET http://e.example HTTP/1.1\r\nHost: e.example\r\nConnection: close\r\n\r\n", "200"}, // an empty path is "/"
		{"OPTIONS * HTTP/1.1\r\nHost: e.example\r\nConnection: close\r\n\r\n", "503"},
		{"GET /foo/# HTTP/1.1\r\nHost: e.example\r\nConnection: close\r\n\r\n", "400"},
		{"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length:\r\n\r\n", "4"},
	} {
		if got := rt.raw(c.request); !strings.HasPrefix(strings.TrimPrefix(strings.TrimPrefix(got, "HTTP/1.1 "), "HTTP/1.0 "), c.want) {
			t.Errorf("%q: %s, want %s", c.request, got, c.want)
		}
	}
}

// Over TLS a host's own certificate is served, the server name decides between passing through and ending
// TLS, and each termination reaches its endpoint in its own way.
func TestTerminations(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, terminationsStory)
}

func terminationsStory(t *testing.T, binary string) {
	t.Parallel()
	ca := theAuthority()
	edgeChain, edgeKey := ca.issue("edge.example")
	secureChain, secureKey := ca.issue("secure.example")
	sharedChain, sharedKey := ca.issue("shared-a.example", "shared-b.example")
	route := func(name, host string, termination tsujiv1.Termination) *tsujiv1.Route {
		return simple(name, host, "/", termination, none)
	}
	withCert := func(r *tsujiv1.Route, name string) *tsujiv1.Route {
		r.Certificate = tsujiv1.CertificateName("ns", tsujiv1.FromRoute, name)
		return r
	}
	verified := func(r *tsujiv1.Route, ca string, host bool) *tsujiv1.Route {
		r.DestinationTls = &tsujiv1.DestinationTLS{Verify: true, Ca: tsujiv1.CertificateName("ns", tsujiv1.FromDestinationCA, ca), VerifyServiceHost: host}
		return r
	}
	wildcard := route("pass-wild", "x.p.example", passthrough)
	wildcard.Wildcard = true
	resources := []*tsujiv1.Resource{
		{Name: "settings", Kind: &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{Http2: true}}},
		certificateOf("ns", "edge", edgeChain, edgeKey),
		certificateOf("ns", "secure", secureChain, secureKey),
		certificateOf("ns", "shared", sharedChain, sharedKey),
		bundleOf("ns", "good", ca.pem),
		bundleOf("ns", "other", newAuthority().pem),
		routeOf(withCert(route("edge", "edge.example", edge), "edge")),
		routeOf(withCert(route("shared-a", "shared-a.example", edge), "shared")),
		routeOf(withCert(route("shared-b", "shared-b.example", edge), "shared")),
		routeOf(withCert(route("absent", "absent.example", edge), "absent")),
		routeOf(withCert(verified(route("secure", "secure.example", reencrypt), "good", false), "secure")),
		routeOf(verified(route("named", "named.example", reencrypt), "good", true)),
		routeOf(verified(route("misnamed", "misnamed.example", reencrypt), "good", true)),
		routeOf(verified(route("distrusted", "distrusted.example", reencrypt), "other", false)),
		routeOf(verified(route("no-ca", "no-ca.example", reencrypt), "absent", false)),
		routeOf(route("unverified", "unverified.example", reencrypt)),
		routeOf(route("pass", "pass.example", passthrough)),
		routeOf(wildcard),
		routeOf(route("beside", "beside.p.example", edge)),
		endpointsOf("ns", "edge", serve(t, "edge", nil)),
		endpointsOf("ns", "shared-a", serve(t, "shared-a", nil)),
		endpointsOf("ns", "shared-b", serve(t, "shared-b", nil)),
		endpointsOf("ns", "absent", serve(t, "absent", nil)),
		endpointsOf("ns", "beside", serve(t, "beside", nil)),
		endpointsOf("ns", "secure", serve(t, "secure", ca.pair("any.name"))),
		endpointsOf("ns", "named", serve(t, "named", ca.pair("named.ns.svc"))),
		endpointsOf("ns", "misnamed", serve(t, "misnamed", ca.pair("misnamed.example"))),
		endpointsOf("ns", "distrusted", serve(t, "distrusted", ca.pair("distrusted.ns.svc"))),
		endpointsOf("ns", "no-ca", serve(t, "no-ca", ca.pair("no-ca.ns.svc"))),
		endpointsOf("ns", "unverified", serve(t, "unverified", ca.pair("whatever"))),
		endpointsOf("ns", "pass", serve(t, "pass", ca.pair("pass.own"))),
		endpointsOf("ns", "pass-wild", serve(t, "pass-wild", ca.pair("pass-wild.own"))),
	}
	rt := start(t, binary, jailed(options()), resources...)
	var all sync.WaitGroup
	for _, c := range []struct{ host, want, certificate, proto string }{
		{"edge.example", "edge /", "edge.example", "HTTP/2.0"},
		{"shared-a.example", "shared-a /", "shared-a.example", "HTTP/2.0"},
		{"absent.example", "absent /", "router.invalid", "HTTP/2.0"},
		{"secure.example", "secure /", "secure.example", "HTTP/2.0"},
		{"named.example", "named /", "router.invalid", "HTTP/2.0"},
		{"misnamed.example", "503", "router.invalid", "HTTP/2.0"},
		{"distrusted.example", "503", "router.invalid", "HTTP/2.0"},
		{"no-ca.example", "503", "router.invalid", "HTTP/2.0"},
		{"unverified.example", "unverified /", "router.invalid", "HTTP/2.0"},
		{"pass.example", "pass /", "pass.own", "HTTP/2.0"},
		{"PASS.example", "pass /", "pass.own", "HTTP/2.0"},
		{"any.p.example", "pass-wild /", "pass-wild.own", "HTTP/2.0"},
		{"beside.p.example", "beside /", "router.invalid", "HTTP/2.0"},
		{"unknown.example", "503", "router.invalid", "HTTP/2.0"},
	} {
		all.Go(func() { // HAProxy tries again for some seconds where it must end in 503
			got := rt.do("https://"+c.host+"/", "", nil, "h2", "http/1.1")
			if got.cert == nil || got.short() != c.want || got.cert.Subject.CommonName != c.certificate || got.proto != c.proto {
				t.Errorf("%s: %s, %s, certificate %v; want %s, %s, %s", c.host, got.short(), got.proto, got.cert, c.want, c.proto, c.certificate)
			}
		})
	}
	all.Wait()
	if got := rt.do("https://edge.example/", "pass.example", nil).short(); got != "503" {
		t.Errorf("a passthrough host behind another's server name: %s", got)
	}
	for _, c := range []struct{ host, alpn, want string }{
		{"shared-b.example", "h2", "421"}, {"shared-b.example", "http/1.1", "shared-b /"}, {"Shared-A.example:443", "h2", "shared-a /"},
		{"shared-a.example.", "h2", "shared-a /"}, {"unknown.example", "h2", "421"},
	} {
		if got := rt.do("https://shared-a.example/", c.host, nil, c.alpn).short(); got != c.want {
			t.Errorf("host %s by %s on a connection that was made for shared-a.example: %s, want %s", c.host, c.alpn, got, c.want)
		}
	}
	if got := rt.do("https://127.0.0.1/", "shared-b.example", nil, "h2").short(); got != "shared-b /" {
		t.Errorf("on a connection without a server name: %s", got)
	}
}

// A route's options show on requests and responses as OpenShift's router has them.
func TestOptionsOfRoutes(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, optionsOfRoutesStory)
}

func optionsOfRoutesStory(t *testing.T, binary string) {
	t.Parallel()
	lit := func(s string) []*tsujiv1.HeaderValuePart {
		return []*tsujiv1.HeaderValuePart{{Part: &tsujiv1.HeaderValuePart_Literal{Literal: s}}}
	}
	fetch := func(name string, conv ...string) *tsujiv1.HeaderValuePart {
		return &tsujiv1.HeaderValuePart{Part: &tsujiv1.HeaderValuePart_Header{Header: &tsujiv1.HeaderFetch{Name: name, Converters: conv}}}
	}
	sticky := simple("sticky", "sticky.example", "/", edge, none)
	sticky.Cookie = &tsujiv1.Cookie{Name: "d81c0893cb6173ebf47d4c06d42a2fcd", Secure: true, SameSite: "None"}
	sticky.Hsts = "max-age=31536000;includeSubDomains"
	headers := simple("headers", "headers.example", "/", insecure, unset)
	headers.RequestHeaders = []*tsujiv1.HeaderAction{
		{Name: "X-Quote'd", Value: lit(`a'b"c %[env(HOME)] $HOME #x \r\n\x0a;`)},
		{Name: "X-Copy", Value: append(lit("100%="), fetch("X-In", "lower", "base64"))},
		{Name: "X-Gone"},
	}
	headers.ResponseHeaders = []*tsujiv1.HeaderAction{{Name: "X-Out", Value: []*tsujiv1.HeaderValuePart{fetch("X-From-Endpoint")}}}
	closed := simple("closed", "closed.example", "/", insecure, unset)
	closed.RestrictSources = true
	listed := simple("listed", "listed.example", "/", insecure, unset)
	listed.RestrictSources = true
	for i := range 200 {
		listed.AllowedSources = append(listed.AllowedSources, fmt.Sprintf("10.%d.0.0/16", i))
	}
	listed.AllowedSources = append(listed.AllowedSources, "127.0.0.0/8")
	unlisted := simple("unlisted", "unlisted.example", "/", insecure, unset)
	unlisted.RestrictSources, unlisted.AllowedSources = true, []string{"10.0.0.0/8", "fd00::/8"}
	limited := simple("limited", "limited.example", "/", insecure, unset)
	limited.RateLimit = &tsujiv1.RateLimit{RequestsPer_10S: 3, DenyStatus: 429}
	replace := simple("replace", "replace.example", "/", insecure, unset)
	replace.Forwarded = tsujiv1.ForwardedPolicy_FORWARDED_POLICY_REPLACE
	never := simple("never", "never.example", "/", insecure, unset)
	never.Forwarded = tsujiv1.ForwardedPolicy_FORWARDED_POLICY_NEVER
	ifNone := simple("if-none", "if-none.example", "/", insecure, unset)
	ifNone.Forwarded = tsujiv1.ForwardedPolicy_FORWARDED_POLICY_IF_NONE

	var resources []*tsujiv1.Resource
	for _, r := range []*tsujiv1.Route{headers, closed, listed, unlisted, limited, replace, never, ifNone} {
		resources = append(resources, routeOf(r), endpointsOf("ns", r.GetName(), serve(t, r.GetName(), nil)))
	}
	draining := serve(t, "draining", nil)
	draining.Ready, draining.Terminating = false, true
	gone := serve(t, "gone", nil)
	gone.Ready, gone.Serving = false, false
	resources = append(resources, routeOf(sticky), endpointsOf("ns", "sticky", serve(t, "one", nil), serve(t, "two", nil), draining, gone))
	rt := start(t, binary, jailed(options()), resources...)

	first := rt.do("https://sticky.example/", "", nil)
	set := first.header.Get("Set-Cookie")
	if !strings.HasPrefix(set, "d81c0893cb6173ebf47d4c06d42a2fcd=") || !strings.HasSuffix(set, "; path=/; HttpOnly; Secure; SameSite=None") {
		t.Errorf("Set-Cookie: %s", set)
	}
	if got := first.header.Get("Strict-Transport-Security"); got != sticky.GetHsts() {
		t.Errorf("HSTS: %q", got)
	}
	value, _, _ := strings.Cut(set, ";")
	answered := map[string]int{}
	for range 10 {
		answered["with cookie "+rt.do("https://sticky.example/", "", http.Header{"Cookie": {value}}).seen.Endpoint]++
		answered["without "+rt.do("https://sticky.example/", "", nil).seen.Endpoint]++
	}
	if answered["with cookie "+first.seen.Endpoint] != 10 || answered["without draining"]+answered["without gone"] > 0 {
		t.Errorf("first answered %s, then %v", first.seen.Endpoint, answered)
	}

	name := fmt.Sprintf("pod:%s:sticky:http:127.0.0.1:%d", draining.GetTargetName(), draining.GetPort())
	sum := md5.Sum([]byte(name))
	cookie := http.Header{"Cookie": {sticky.GetCookie().GetName() + "=" + hex.EncodeToString(sum[:])}}
	if got := rt.do("https://sticky.example/", "", cookie).seen.Endpoint; got != "draining" {
		t.Errorf("the cookie of an endpoint that ends, as OpenShift's router made it: %s", got)
	}

	h := rt.do("http://headers.example/", "", http.Header{"X-In": {"ABC"}, "X-Gone": {"1"}, "Proxy": {"x"}, "X-Ssl-Client-Dn": {"me"}})
	for name, want := range map[string]string{
		"X-Quote'd": `a'b"c %[env(HOME)] $HOME #x \r\n\x0a;`, "X-Copy": "100%=YWJj", "X-Gone": "", "Proxy": "", "X-Ssl-Client-Dn": "",
		"X-Forwarded-Host": "headers.example", "X-Forwarded-Proto": "http", "X-Forwarded-For": "127.0.0.1",
		"Forwarded": "for=127.0.0.1;host=headers.example;proto=http",
	} {
		got := h.seen.Header.Get(name)
		if v := h.seen.Header[name]; len(v) > 0 {
			got = v[0]
		}
		if name == "X-Quote'd" {
			for k, v := range h.seen.Header {
				if strings.EqualFold(k, name) {
					got = v[0]
				}
			}
		}
		if got != want {
			t.Errorf("endpoint saw %s: %q, want %q", name, got, want)
		}
	}
	if got := h.header.Get("X-Out"); got != "headers" {
		t.Errorf("X-Out: %q", got)
	}

	in := http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}}
	for _, c := range []struct{ host, header, want string }{
		{"headers.example", "X-Forwarded-For", "192.0.2.1 127.0.0.1"},
		{"headers.example", "X-Forwarded-Proto", "https http"},
		{"replace.example", "X-Forwarded-For", "127.0.0.1"},
		{"replace.example", "X-Forwarded-Proto", "http"},
		{"if-none.example", "X-Forwarded-For", "192.0.2.1"},
		{"if-none.example", "X-Forwarded-Host", "if-none.example"},
		{"never.example", "X-Forwarded-Proto", "https"},
		{"never.example", "Forwarded", ""},
	} {
		if got := strings.Join(rt.do("http://"+c.host+"/", "", in).seen.Header[c.header], " "); got != c.want {
			t.Errorf("%s: %s: %q, want %q", c.host, c.header, got, c.want)
		}
	}

	get := "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"
	for host, want := range map[string]string{"closed.example": "", "unlisted.example": "", "listed.example": "HTTP/1.1 200 OK"} {
		if got := rt.raw(fmt.Sprintf(get, host)); got != want {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
	}
	var codes []int
	for range 4 {
		codes = append(codes, rt.do("http://limited.example/", "", nil).status)
	}
	if fmt.Sprint(codes) != "[200 200 200 429]" {
		t.Errorf("limited to 3 in 10 s: %v", codes)
	}
}

// An endpoint that does not answer costs no request; one that speaks HTTP/2 without TLS is spoken to so.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, endpointsStory)
}

func endpointsStory(t *testing.T, binary string) {
	t.Parallel()
	address := netip.MustParseAddrPort(haproxytest.FreeAddress(t))
	dead := endpoint(address.Addr().String(), uint32(address.Port()))
	h2c := serve(t, "h2c", nil)
	h2c.AppProtocol = tsujiv1.AppProtocol_APP_PROTOCOL_H2C
	rt := start(t, binary, jailed(options()),
		routeOf(simple("half", "half.example", "/", insecure, unset)), endpointsOf("ns", "half", dead, serve(t, "alive", nil)),
		routeOf(simple("h2c", "h2c.example", "/", insecure, unset)), endpointsOf("ns", "h2c", h2c),
		routeOf(simple("empty", "empty.example", "/", insecure, unset)),
		routeOf(simple("pass", "pass.example", "/", passthrough, none)),
		endpointsOf("ns", "pass", dead, serve(t, "pass", theAuthority().pair("pass.own"))),
	)
	began := time.Now()
	for range 10 {
		if got := rt.do("http://half.example/", "", nil).short(); got != "alive /" {
			t.Errorf("one of two endpoints is dead: %s", got)
		}
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("ten requests took %v", d)
	}
	if haproxytest.AtLeast(t, binary, 3, 0) {
		if got := rt.command("show map maps/suspects.map"); !strings.HasSuffix(got, " be_http:ns:half 1") {
			t.Errorf("backends that had to try again: %q", got)
		}
	}
	if got := rt.do("http://h2c.example/", "", nil); got.seen.Proto != "HTTP/2.0" {
		t.Errorf("h2c: %s by %q", got.short(), got.seen.Proto)
	}
	if got := rt.do("http://empty.example/", "", nil).short(); got != "503" {
		t.Errorf("no endpoints: %s", got)
	}
	if got := rt.do("https://pass.example/", "", nil).short(); got != "pass /" {
		t.Errorf("passed through with one of two endpoints dead: %s", got)
	}
}

// A route that has no endpoints at first gets one while HAProxy runs, by the command that the Server knows:
// also where it must be verified against CA certificates, which HAProxy in its jail cannot read any more.
// HAProxy 2.6 has a command of that name that takes no cookie, so there routerd adds none.
func TestAddCommand(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, addCommandStory)
}

func addCommandStory(t *testing.T, binary string) {
	t.Parallel()
	if !haproxytest.AtLeast(t, binary, 3, 0) {
		return
	}
	ca := theAuthority()
	secure := simple("secure", "secure.example", "/", reencrypt, none)
	secure.DestinationTls = &tsujiv1.DestinationTLS{Verify: true, Ca: tsujiv1.CertificateName("ns", tsujiv1.FromDestinationCA, "ca"), VerifyServiceHost: true}
	secure.MaxConnectionsPerEndpoint = 9
	before := []*tsujiv1.Resource{
		bundleOf("ns", "ca", ca.pem), routeOf(secure), routeOf(simple("plain", "plain.example", "/", edge, none)), routeOf(simple("pass", "pass.example", "/", passthrough, none)),
	}
	rt := start(t, binary, jailed(options()), before...)
	r := renderer(t, optionsFor(release(t, binary)))
	apply(t, r, before...)
	c := apply(t, r,
		endpointsOf("ns", "secure", serve(t, "secure", ca.pair("secure.ns.svc"))),
		endpointsOf("ns", "plain", serve(t, "plain", nil)),
		endpointsOf("ns", "pass", serve(t, "pass", ca.pair("pass.own"))))
	if len(c.Reload) > 0 || len(c.Backends) != 3 {
		t.Fatalf("endpoints came: %v", c)
	}
	for _, b := range c.Backends {
		s := b.New.Servers[0]
		for _, command := range []string{s.AddCommand(b.Name), "set server " + b.Name + "/" + s.Name + " state ready"} {
			if text := rt.command(command); text != "" && text != "New server registered." {
				t.Errorf("%s: %s", command, text)
			}
		}
	}
	for _, name := range []string{"secure", "plain", "pass"} {
		if got := rt.do("https://"+name+".example/", "", nil).short(); got != name+" /" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// The stats address answers probes, metrics and the version in force, and nothing else.
func TestStats(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, statsStory)
}

func statsStory(t *testing.T, binary string) {
	t.Parallel()
	rt := start(t, binary, jailed(options()))
	for path, want := range map[string]string{
		"/healthz": "200 ok", "/healthz/ready": "200 ok", "/_tsuji/version": "200 none", "/": "404 not found", "/metrics/x": "404 not found",
	} {
		res, err := http.Get("http://" + rt.stats + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if got := fmt.Sprintf("%d %s", res.StatusCode, body); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	for _, written := range []bool{false, true} { // routerd is away, and there
		want := "503"
		if written {
			want = "200 tsuji_up 1"
			l, err := net.Listen("unix", rt.dir+map[bool]string{true: "/run/jail/metrics.sock", false: "/run/metrics.sock"}[os.Geteuid() == 0])
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(l.Addr().String(), 0o666); err != nil {
				t.Fatal(err)
			}
			s := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "tsuji_up 1") })}
			go func() { _ = s.Serve(l) }()
			t.Cleanup(func() { _ = s.Close() })
		}
		res, err := http.Get("http://" + rt.stats + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if got := fmt.Sprintf("%d %s", res.StatusCode, body); !strings.HasPrefix(got, want) {
			t.Errorf("/metrics: %s, want %s", got, want)
		}
	}
	res, err := http.Post("http://"+rt.stats+"/metrics", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST /metrics: %d", res.StatusCode)
	}
}
