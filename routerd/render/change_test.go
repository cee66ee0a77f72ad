package render_test

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

var caDigest = regexp.MustCompile(`\.[0-9a-f]{12}\.pem$`)

// transcript tells a Change in words.
func transcript(c render.Change) string {
	var lines []string
	for _, r := range c.Reload {
		lines = append(lines, "reload, "+r)
	}
	for _, b := range c.Backends {
		for _, side := range []struct {
			sign string
			b    *render.Backend
		}{{"-", b.Old}, {"+", b.New}} {
			if side.b == nil {
				continue
			}
			line := fmt.Sprintf("%s %s from %s", side.sign, side.b.Name, side.b.Kind())
			for _, s := range side.b.Servers {
				line += fmt.Sprintf(", %s weight %d", s.HostPort(), s.Weight)
			}
			lines = append(lines, line)
		}
	}
	for _, e := range c.Entries {
		lines = append(lines, fmt.Sprintf("%s %s: %q -> %q", strings.TrimSuffix(strings.TrimPrefix(e.File, "maps/"), ".map"), e.Key, e.Old, e.New))
	}
	for _, f := range append(c.Certificates, c.CAs...) {
		switch path := caDigest.ReplaceAllString(f.Path, ".digest.pem"); {
		case f.Old == nil:
			lines = append(lines, "+ "+path)
		case f.New == nil:
			lines = append(lines, "- "+path)
		default:
			lines = append(lines, "~ "+path)
		}
	}
	slices.Sort(lines[len(lines)-len(c.CAs):])
	for _, l := range c.CrtList {
		lines = append(lines, fmt.Sprintf("%s for %s: %t", l.Certificate, l.Filter, l.Added))
	}
	return strings.Join(lines, "\n")
}

// A Change tells apart what commands can do from what needs a reload.
func TestChange(t *testing.T) {
	t.Parallel()
	ca := theAuthority()
	chain, key := ca.issue("a.example")
	renewedChain, renewedKey := ca.issue("a.example")
	otherChain, otherKey := ca.issue("b.example")
	route := simple("a", "a.example", "/", reencrypt, none)
	route.Certificate = tsujiv1.CertificateName("ns", tsujiv1.FromRoute, "a")
	route.DestinationTls = &tsujiv1.DestinationTLS{Verify: true, Ca: tsujiv1.CertificateName("ns", tsujiv1.FromDestinationCA, "a")}
	slower := simple("a", "a.example", "/", reencrypt, none)
	slower.Certificate, slower.DestinationTls, slower.Cookie = route.Certificate, route.DestinationTls, &tsujiv1.Cookie{Name: "c"}
	elsewhere := simple("a", "a.example", "/path", reencrypt, none)
	elsewhere.Certificate, elsewhere.DestinationTls, elsewhere.Cookie = slower.Certificate, slower.DestinationTls, slower.Cookie

	r := renderer(t, options())
	for _, step := range []struct {
		what     string
		resource *tsujiv1.Resource
		want     string
	}{
		{"a route arrives before everything else", routeOf(route),
			"+ be_secure:ns:a from http-append-random\nhttp a.example/: \"\" -> \"tls-only\"\nhttps a.example/: \"\" -> \"be_secure:ns:a\""},
		{"its endpoints, that cannot be verified yet", endpointsOf("ns", "a", endpoint("10.0.0.1", 80)), ""},
		{"its CA", bundleOf("ns", "a", ca.pem),
			"- be_secure:ns:a from http-append-random\n+ be_secure:ns:a from http-append-random, 10.0.0.1:80 weight 1\n+ ca/ns_destination-ca_a.digest.pem"},
		{"its certificate", certificateOf("ns", "a", chain, key), "+ certs/ns_route_a.pem\ncerts/ns_route_a.pem for a.example: true"},
		{"an endpoint more", endpointsOf("ns", "a", endpoint("10.0.0.1", 80), endpoint("10.0.0.2", 80)),
			"- be_secure:ns:a from http-append-random, 10.0.0.1:80 weight 1\n" +
				"+ be_secure:ns:a from http-append-random, 10.0.0.1:80 weight 1, 10.0.0.2:80 weight 1"},
		{"the same again", endpointsOf("ns", "a", endpoint("10.0.0.1", 80), endpoint("10.0.0.2", 80)), ""},
		{"none any more", endpointsOf("ns", "a"),
			"- be_secure:ns:a from http-append-random, 10.0.0.1:80 weight 1, 10.0.0.2:80 weight 1\n+ be_secure:ns:a from http-append-random"},
		{"a renewed certificate", certificateOf("ns", "a", renewedChain, renewedKey), "~ certs/ns_route_a.pem"},
		{"one for another name", certificateOf("ns", "a", otherChain, otherKey), "~ certs/ns_route_a.pem"},
		{"another CA", bundleOf("ns", "a", newAuthority().pem), "+ ca/ns_destination-ca_a.digest.pem\n- ca/ns_destination-ca_a.digest.pem"},
		{"a cookie, by another profile that is there", routeOf(slower),
			"- be_secure:ns:a from http-append-random\n+ be_secure:ns:a from http-append-random-cookie c|\ncookies be_secure:ns:a: \"\" -> \"c|\""},
		{"another path", routeOf(elsewhere), "http a.example/: \"tls-only\" -> \"\"\nhttp a.example/path/: \"\" -> \"tls-only\"\n" +
			"https a.example/: \"be_secure:ns:a\" -> \"\"\nhttps a.example/path/: \"\" -> \"be_secure:ns:a\""},
		{"Settings", settingsOf(&tsujiv1.Settings{AbortOnClose: true}), "reload, settings: changed"},
		{"Settings that routes follow", settingsOf(&tsujiv1.Settings{
			AbortOnClose: true, Headers: &tsujiv1.HeaderPolicy{Forwarded: tsujiv1.ForwardedPolicy_FORWARDED_POLICY_NEVER},
		}), "- be_secure:ns:a from http-append-random-cookie c|\n+ be_secure:ns:a from http-never-random-cookie c|"},
		{"a certificate that nothing uses", certificateOf("ns", "unused", chain, key), ""},
	} {
		if d := cmp.Diff(step.want, transcript(apply(t, r, step.resource))); d != "" {
			t.Errorf("%s: want (-), got (+):\n%s", step.what, d)
		}
	}
	c, err := r.Apply(snapshot.Delta{Removed: []string{routeOf(route).GetName()}})
	want := "- be_secure:ns:a from http-never-random-cookie c|\ncookies be_secure:ns:a: \"c|\" -> \"\"\nhttp a.example/path/: \"tls-only\" -> \"\"\n" +
		"https a.example/path/: \"be_secure:ns:a\" -> \"\"\n- certs/ns_route_a.pem\n- ca/ns_destination-ca_a.digest.pem\ncerts/ns_route_a.pem for a.example: false"
	if d := cmp.Diff(want, transcript(c)); err != nil || d != "" {
		t.Errorf("removed: %v, want (-), got (+):\n%s", err, d)
	}
	var many []*tsujiv1.Resource
	for i := range 100 {
		one := simple(fmt.Sprintf("r%03d", i), "many.example", fmt.Sprintf("/%d", i), insecure, unset)
		one.RequestHeaders = []*tsujiv1.HeaderAction{
			{Name: "X", Value: []*tsujiv1.HeaderValuePart{{Part: &tsujiv1.HeaderValuePart_Header{Header: &tsujiv1.HeaderFetch{Name: fmt.Sprintf("Y%d", i)}}}}},
		}
		many = append(many, routeOf(one))
	}
	if c := apply(t, r, many...); len(c.Reload) != 17 || c.Reload[16] != "and 84 more" || len(c.Backends) != 100 {
		t.Errorf("reasons for a hundred routes: %q", c.Reload)
	}
}

// Profiles that no route has any more do not gather without end: with a new one, which is a reload anyway, they go
// when there are many.
func TestProfilesAreForgotten(t *testing.T) {
	t.Parallel()
	r := renderer(t, options())
	rules := regexp.MustCompile(`^defaults \S+-[0-9a-f]{32}\n$`)
	most := 0
	for i := range 200 {
		one := simple("a", "a.example", "/", insecure, unset)
		one.RequestHeaders = []*tsujiv1.HeaderAction{{Name: "X", Value: fetchedValue(fmt.Sprintf("Y%d", i))}}
		if c := apply(t, r, routeOf(one)); len(c.Reload) != 1 {
			t.Fatalf("profile %d: %q", i, c.Reload)
		}
		n := 0
		for line := range strings.Lines(filesOf(r)["haproxy.cfg"]) {
			if strings.HasPrefix(line, "defaults ") && rules.MatchString(line) { // the whole takes a regexp long
				n++
			}
		}
		most = max(most, n)
	}
	if most < 60 || most > 66 {
		t.Errorf("at most %d profiles of the route's own", most)
	}
}

// What cannot be rendered is named, every resource of it, and the renderer is as it was. A line of
// haproxy.cfg is traced to its resource.
func TestFaults(t *testing.T) {
	t.Parallel()
	r := renderer(t, options())
	good := simple("good", "good.example", "/", insecure, unset)
	apply(t, r, routeOf(good))
	before := filesOf(r)
	badHost := simple("bad-host", "bad host", "/", insecure, unset)
	badPath := simple("bad-path", "bad.example", "/\n", insecure, unset)
	_, err := r.Apply(delta(t, routeOf(simple("fine", "fine.example", "/", insecure, unset)), routeOf(badHost), routeOf(badPath),
		certificateOf("ns", "c", []byte("no certificate"), []byte("no key"))))
	want := `render route/ns/bad-host: host "bad host": want a lower-case DNS name
render route/ns/bad-path: path "/\n": want a path that begins with / and has no blank or #
render cert/ns/route:c: no certificate`
	if err == nil || err.Error() != want {
		t.Errorf("error:\n%v\nwant:\n%s", err, want)
	}
	if first, ok := errors.AsType[*render.ResourceError](err); !ok || first.Resource != "route/ns/bad-host" {
		t.Errorf("first: %v", first)
	}
	if d := cmp.Diff(before, filesOf(r)); d != "" {
		t.Errorf("the files changed:\n%s", d)
	}
	for i, line := range strings.Split(before["haproxy.cfg"], "\n") {
		resource, ok := r.Locate(i + 1)
		switch {
		case strings.HasPrefix(line, "backend be_http:ns:good"):
			if !ok || resource != "route/ns/good" {
				t.Errorf("line %d is %q's", i+1, resource)
			}
		case strings.HasPrefix(line, "frontend "):
			if !ok || resource != "settings" {
				t.Errorf("line %d is %q's", i+1, resource)
			}
		}
	}
}

// Options are refused with every fault at once; each HAProxy listens on every kind of address.
func TestOptions(t *testing.T) {
	t.Parallel()
	_, err := render.New(render.Options{
		HTTP: []string{"80", "host:80", ":0"}, HTTPS: []string{"unix:", "[fe80::1%eth0]:443"}, Version: render.Version{Major: 2, Minor: 4}, Jail: true, FileDescriptors: -1,
	})
	if n := strings.Count(fmt.Sprint(err), "\n") + 1; n != 10 {
		t.Errorf("%d faults, want 10:\n%v", n, err)
	}
	for _, o := range []render.Options{
		{HTTP: []string{":8080", "[::]:8080", "127.0.0.1:8081", "[::1]:8081", "unix:run/http.sock"}, Stats: []string{"127.0.0.1:8082"}},
		{HTTPS: []string{":8443"}, Stats: []string{"127.0.0.1:8082"}, DefaultCertificate: ownPair()},
	} {
		for _, binary := range haproxytest.Binaries(t) {
			o.Jail, o.User, o.Group, o.FileDescriptors, o.Version = true, 65534, 65534, 4096, release(t, binary)
			r := renderer(t, o)
			chain, key := fixedPair()
			c := apply(t, r, routeOf(simple("a", "a.example", "/", edge, allow)), certificateOf("ns", "edge", chain, key))
			if len(c.Certificates) > 0 {
				t.Errorf("certificates that nothing reads: %v", c)
			}
			dir := shortDir(t)
			write(t, dir, r)
			if out, ok := check(t, binary, dir); !ok || strings.Contains(out, "WARNING") {
				t.Errorf("%s says:\n%s", binary, out)
			}
		}
	}
}
