package render_test

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// Clients show certificates where the Settings ask for them, and endpoints are told whose.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, clientCertificatesStory)
}

func clientCertificatesStory(t *testing.T, binary string) {
	t.Parallel()
	ca := theAuthority()
	headers := simple("edge", "edge.example", "/", edge, none)
	headers.RequestHeaders = []*tsujiv1.HeaderAction{{Name: "X-Der", Value: []*tsujiv1.HeaderValuePart{
		{Part: &tsujiv1.HeaderValuePart_ClientCertificate{ClientCertificate: &tsujiv1.ClientCertificateFetch{}}},
	}}}
	rt := start(t, binary, options(), // not in a jail: the other way through the socket for TLS
		&tsujiv1.Resource{Name: "settings", Kind: &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{ClientTls: &tsujiv1.ClientTLS{
			Ca: tsujiv1.CertificateName("ns", tsujiv1.FromConfigMap, "clients"), AllowedSubjectPatterns: []string{"^/CN=ann$", "^/CN=bob"},
		}}}},
		&tsujiv1.Resource{Name: tsujiv1.CertificateName("ns", tsujiv1.FromConfigMap, "clients"), Kind: &tsujiv1.Resource_Certificate{
			Certificate: &tsujiv1.Certificate{CaBundlePem: ca.pem},
		}},
		routeOf(headers), endpointsOf("ns", "edge", serve(t, "edge", nil)))
	for _, c := range []struct{ client, want string }{{"ann", "edge /"}, {"anna", "403"}, {"", "403"}} {
		rt.client = nil
		if c.client != "" {
			pair := ca.pair(c.client)
			cert, err := tls.X509KeyPair(pair, pair)
			if err != nil {
				t.Fatal(err)
			}
			rt.client = []tls.Certificate{cert}
		}
		got := rt.do("https://edge.example/", "", http.Header{"X-Ssl-Client-Cn": {"forged"}})
		if got.short() != c.want {
			t.Errorf("client %q: %s, want %s", c.client, got.short(), c.want)
		}
		if c.want != "403" {
			der := base64.StdEncoding.EncodeToString(rt.client[0].Certificate[0])
			if h := got.seen.Header; h.Get("X-Ssl-Client-Cn") != "ann" || h.Get("X-Ssl-Client-Verify") != "0" || h.Get("X-Der") != der {
				t.Errorf("client %q: endpoint saw %v", c.client, h)
			}
		}
	}
}

// Clients must have certificates, and there is no CA yet: none gets in where TLS ends at the router, whatever it shows.
// Where they may have one, none has. What is passed through, and plain HTTP, goes on.
func TestClientsWithoutCA(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, clientsWithoutCAStory)
}

func clientsWithoutCAStory(t *testing.T, binary string) {
	t.Parallel()
	pair := theAuthority().pair("ann")
	cert, err := tls.X509KeyPair(pair, pair)
	if err != nil {
		t.Fatal(err)
	}
	for _, required := range []bool{true, false} {
		want := "edge /"
		if required {
			want = "503"
		}
		for _, passthroughToo := range []bool{false, true} {
			resources := []*tsujiv1.Resource{
				settingsOf(&tsujiv1.Settings{ClientTls: &tsujiv1.ClientTLS{Required: required}}),
				routeOf(simple("edge", "edge.example", "/", edge, allow)), endpointsOf("ns", "edge", serve(t, "edge", nil)),
			}
			if passthroughToo {
				resources = append(resources, routeOf(simple("passed", "passed.example", "/", passthrough, none)), endpointsOf("ns", "passed", serve(t, "passed", theAuthority().pair("passed.own"))))
			}
			rt := start(t, binary, options(), resources...)
			for _, certificates := range [][]tls.Certificate{nil, {cert}} {
				rt.client = certificates
				got := rt.do("https://edge.example/", "", http.Header{"X-Ssl-Client-Cn": {"forged"}})
				if got.short() != want {
					t.Errorf("required %t, %d certificates: %s, want %s", required, len(certificates), got.short(), want)
				}
				if !required && (got.seen.Header.Get("X-Ssl-Client-Cn") != "" || got.seen.Header.Get("X-Ssl-Client-Der") != "") {
					t.Errorf("an endpoint is told of a client: %v", got.seen.Header)
				}
			}
			if got := rt.do("http://edge.example/", "", nil).short(); got != "edge /" {
				t.Errorf("plain HTTP: %s", got)
			}
			if passthroughToo {
				if got := rt.do("https://passed.example/", "", nil).short(); got != "passed /" {
					t.Errorf("passed through: %s", got)
				}
			}
		}
	}
}

// What clients say of their TLS themselves reaches endpoints only where the Settings keep it.
func TestClientTLSHeaders(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, clientTLSHeadersStory)
}

func clientTLSHeadersStory(t *testing.T, binary string) {
	t.Parallel()
	for _, keep := range []bool{false, true} {
		want := ""
		if keep {
			want = "me"
		}
		rt := start(t, binary, jailed(options()), settingsOf(&tsujiv1.Settings{KeepClientTlsHeaders: keep, ContinuousStatistics: keep}),
			routeOf(simple("a", "a.example", "/", edge, allow)), endpointsOf("ns", "a", serve(t, "a", nil)))
		for _, url := range []string{"http://a.example/", "https://a.example/"} {
			got := rt.do(url, "", http.Header{"X-Ssl-Client-Dn": {"me"}}).seen
			if got.Endpoint != "a" || got.Header.Get("X-Ssl-Client-Dn") != want {
				t.Errorf("kept %t, %s: endpoint saw %v", keep, url, got.Header)
			}
		}
	}
}

// CVE-2026-46579 of OpenShift's router: what a client says of its certificate over plain HTTP was believed. None of it
// reaches an endpoint, whether clients have certificates over TLS or not, and whatever the case of its letters.
func TestClientTLSHeadersOverPlainHTTP(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, plainClientTLSHeadersStory)
}

func plainClientTLSHeadersStory(t *testing.T, binary string) {
	t.Parallel()
	clients := bundleOf("ns", "clients", theAuthority().pem)
	for name, policy := range map[string]*tsujiv1.ClientTLS{"none": nil, "optional": {Ca: clients.GetName()}, "required": {Ca: clients.GetName(), Required: true}} {
		settings := &tsujiv1.Settings{ClientTls: policy}
		resources := []*tsujiv1.Resource{
			settingsOf(settings), routeOf(simple("a", "a.example", "/", edge, allow)), endpointsOf("ns", "a", serve(t, "a", nil)),
			routeOf(simple("b", "b.example", "/", insecure, unset)), endpointsOf("ns", "b", serve(t, "b", nil)),
		}
		if policy != nil {
			resources = append(resources, clients)
		}
		rt := start(t, binary, jailed(options()), resources...)
		forged := http.Header{"x-ssl-client-CN": {"me"}}
		for _, h := range []string{
			"X-SSL", "X-SSL-Client-Verify", "X-SSL-Client-Serial", "X-SSL-Client-Version", "X-SSL-Client-SHA1", "X-SSL-Client-DN", "X-SSL-Issuer",
			"X-SSL-Client-NotBefore", "X-SSL-Client-NotAfter", "X-SSL-Client-DER", "X-SSL-Anything",
		} {
			forged[h] = []string{"me", "and me"}
		}
		for _, host := range []string{"a", "b"} {
			got := rt.do("http://"+host+".example/", "", forged).seen
			for h := range got.Header {
				if strings.HasPrefix(strings.ToLower(h), "x-ssl") {
					t.Errorf("clients' certificates %s: endpoint %s saw %s: %q", name, host, h, got.Header[h])
				}
			}
			if got.Endpoint != host {
				t.Errorf("clients' certificates %s: endpoint %q, not %s", name, got.Endpoint, host)
			}
		}
	}
}

// Header changes of the Settings are made to each request, however its route was found; and where they change its host, it
// goes where it was going. (Before 3.4 too, and where one lookup is not enough: a host in capitals, one of a wildcard.)
func TestHeaderChangesOfSettings(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, headerChangesOfSettingsStory)
}

func headerChangesOfSettingsStory(t *testing.T, binary string) {
	t.Parallel()
	wild := simple("wild", "any.wild.example", "/", edge, allow)
	wild.Wildcard = true
	rt := start(t, binary, jailed(optionsFor(release(t, binary))), settingsOf(&tsujiv1.Settings{Headers: &tsujiv1.HeaderPolicy{
		Request: []*tsujiv1.HeaderAction{{Name: "X-Set", Value: literalValue("set")}, {Name: "Host", Value: literalValue("b.example")}},
	}}),
		routeOf(simple("a", "a.example", "/", edge, allow)), endpointsOf("ns", "a", serve(t, "a", nil)),
		routeOf(simple("b", "b.example", "/", edge, allow)), endpointsOf("ns", "b", serve(t, "b", nil)),
		routeOf(wild), endpointsOf("ns", "wild", serve(t, "wild", nil)))
	for host, want := range map[string]string{"a.example": "a", "A.Example:80": "a", "x.wild.example": "wild"} {
		for _, scheme := range []string{"http", "https"} {
			got := rt.do(scheme+"://a.example/", host, nil).seen
			if got.Endpoint != want || got.Header.Get("X-Set") != "set" || got.Host != "b.example" {
				t.Errorf("%s, %s: %s saw host %s, %v", scheme, host, got.Endpoint, got.Host, got.Header)
			}
		}
	}
}

// Revocation lists are a file of their own, whose path says what is in it: a renewed list is another program, and its
// predecessor's file goes. Settings that want lists where there are none are refused, and so is what is no list.
func TestRevocationLists(t *testing.T) {
	t.Parallel()
	ca := theAuthority()
	bundle := func(lists []byte) *tsujiv1.Resource {
		b := bundleOf("ns", "clients", ca.pem)
		b.GetCertificate().RevocationListsPem = lists
		return b
	}
	settings := settingsOf(&tsujiv1.Settings{ClientTls: &tsujiv1.ClientTLS{Ca: bundle(nil).GetName(), CheckRevocation: true}})
	r := renderer(t, options())
	lists := func() map[string]string {
		m := map[string]string{}
		for path, content := range filesOf(r) {
			if strings.HasPrefix(path, "crls/") {
				m[anyDigest.ReplaceAllString(path, ".digest.pem")] = content
				if !strings.Contains(filesOf(r)["haproxy.cfg"], " crl-file "+path+"\n") {
					t.Errorf("haproxy.cfg does not name %s", path)
				}
			}
		}
		return m
	}
	const path = "crls/ns_destination-ca_clients.digest.pem"
	first := bundle(ca.list(1))
	apply(t, r, settings, first)
	if d := cmp.Diff(map[string]string{path: string(first.GetCertificate().GetRevocationListsPem())}, lists()); d != "" {
		t.Error(d)
	}
	before := filesOf(r)
	renewed := bundle(append([]byte("as text\n"), ca.list(2)...))
	if got := transcript(apply(t, r, renewed)); got != "reload, settings: changed" {
		t.Errorf("a renewed list: %s", got)
	}
	want := string(bytes.TrimPrefix(renewed.GetCertificate().GetRevocationListsPem(), []byte("as text\n")))
	if d := cmp.Diff(map[string]string{path: want}, lists()); d != "" {
		t.Error(d)
	}
	if got := transcript(apply(t, r, renewed)); got != "" {
		t.Errorf("the same again: %s", got)
	}
	after := filesOf(r)
	chain, key := fixedPair()
	pair := certificateOf("ns", "pair", chain, key)
	pair.GetCertificate().RevocationListsPem = ca.list(1)
	for what, d := range map[string]snapshot.Delta{
		"no lists where they are wanted": delta(t, bundle(nil)),
		"no CA":                          {Removed: []string{first.GetName()}},
		"a CA among the lists":           delta(t, bundle(append(ca.list(1), ca.pem...))),
		"text":                           delta(t, bundle([]byte("nothing"))),
		"no list":                        delta(t, bundle([]byte("-----BEGIN X509 CRL-----\nMIHFMGw=\n-----END X509 CRL-----\n"))),
		"lists of what is no CA":         delta(t, pair),
	} {
		if _, err := r.Apply(d); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if d := cmp.Diff(after, filesOf(r)); d != "" {
		t.Errorf("after what was refused: %s", d)
	}
	apply(t, r, first)
	if d := cmp.Diff(before, filesOf(r)); d != "" {
		t.Errorf("the first list again: %s", d)
	}
}
