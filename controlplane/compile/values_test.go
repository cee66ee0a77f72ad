package compile_test

import (
	"slices"
	"strings"
	"testing"

	routev1 "github.com/openshift/api/route/v1"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// judgedWith compiles one Route with an annotation, and returns what became of it; nil: it was refused.
func judgedWith(t *testing.T, name, value string) (*tsujiv1.Route, *tsujiv1.RouteVerdict) {
	t.Helper()
	r := routeTo("r", "web")
	r.Annotations = map[string]string{name: value}
	r.Spec.TLS = &routev1.TLSConfig{Termination: routev1.TLSTerminationEdge}
	w := newWorld()
	w.apply(put(r))
	item, ok := w.last.Config.Get(tsujiv1.RouteName("ns1", "r"))
	if !ok {
		return nil, w.last.Verdicts[0]
	}
	res, err := tsujiv1.Decode(item)
	if err != nil {
		t.Fatal(err)
	}
	return res.GetRoute(), w.last.Verdicts[0]
}

// Allow lists have what OpenShift's router reads in them, by Go's package net: lengths that begin with zeros, and IPv4
// written as IPv6, even where there is more than IPv4 in it. Tabs are blanks. What is none is passed over, with a warning.
func TestAllowLists(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"10.0.0.0/08":                    "10.0.0.0/8",
		"10.1.2.3/8 10.0.0.0/8":          "10.0.0.0/8",
		"192.0.2.1\t198.51.100.0/24":     "192.0.2.1/32 198.51.100.0/24",
		"192.0.2.1\n":                    "192.0.2.1/32",
		" 192.0.2.1 \r\n":                "192.0.2.1/32",
		"::ffff:192.0.2.1":               "192.0.2.1/32",
		"::ffff:192.0.2.0/120":           "192.0.2.0/24",
		"::ffff:0:0/96":                  "0.0.0.0/0",
		"::ffff:0:0/90":                  "::ffc0:0:0/90",
		"::ffff:10.0.0.1/0":              "::/0",
		"2001:db8::1 2001:db8::/032":     "2001:db8::/32 2001:db8::1/128",
		"010.0.0.1 10.0.0.0/33 10.0.0.1": "10.0.0.1/32 (2 warnings)",
		"fe80::1%eth0 1.2.3 ::1":         "::1/128 (2 warnings)",
		"10.0.0.0/ 10.0.0.0/-1 /8 ::1":   "::1/128 (3 warnings)",
	} {
		route, v := judgedWith(t, "haproxy.router.openshift.io/ip_allowlist", value)
		got := strings.Join(route.GetAllowedSources(), " ")
		told := 0
		for _, w := range v.GetWarnings() {
			if strings.Contains(w, "ip_allowlist") {
				told++
			}
		}
		if told > 0 {
			got += " (" + string(rune('0'+told)) + " warnings)"
		}
		if !route.GetRestrictSources() || got != want {
			t.Errorf("%q: %s, want %s; %s", value, got, want, v.GetMessage())
		}
	}
}

// The line break with which a block of YAML ends is none of an annotation's value. Any other control character refuses
// the Route.
func TestEndOfValues(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{
		"haproxy.router.openshift.io/timeout":                    "5s",
		"haproxy.router.openshift.io/balance":                    "source",
		"haproxy.router.openshift.io/disable_cookies":            "true",
		"haproxy.router.openshift.io/hsts_header":                "max-age=1",
		"haproxy.router.openshift.io/rewrite-target":             "/x",
		"haproxy.router.openshift.io/pod-concurrent-connections": "5",
		"haproxy.router.openshift.io/ip_whitelist":               "10.0.0.0/8",
		"router.openshift.io/cookie_name":                        "name",
		"router.openshift.io/haproxy.health.check.interval":      "5s",
	} {
		_, plain := judgedWith(t, name, value)
		if !slices.Contains(plain.GetSetBy(), name) {
			t.Errorf("%s: %q is not in force", name, value)
		}
		for _, end := range []string{"\n", "\r\n"} {
			if _, v := judgedWith(t, name, value+end); !v.GetAdmitted() || !slices.Equal(v.GetSetBy(), plain.GetSetBy()) || len(v.GetWarnings()) != len(plain.GetWarnings()) {
				t.Errorf("%s: %q: admitted %t, set by %v, %q %v", name, value+end, v.GetAdmitted(), v.GetSetBy(), v.GetMessage(), v.GetWarnings())
			}
		}
		for _, odd := range []string{value + "\n\n", "\n" + value, value + "\r", value + "\n ", value + "\x00", value + "\v"} {
			if _, v := judgedWith(t, name, odd); v.GetAdmitted() || !strings.Contains(v.GetMessage(), "control character") {
				t.Errorf("%s: %q: admitted %t, %q", name, odd, v.GetAdmitted(), v.GetMessage())
			}
		}
		if _, v := judgedWith(t, name, value+"\t"); v.GetAdmitted() != strings.Contains(name, "ip_") {
			t.Errorf("%s: a tab: admitted %t, %q", name, v.GetAdmitted(), v.GetMessage())
		}
	}
}

// Blanks around a header and a list are none of it.
func TestBlanksAroundValues(t *testing.T) {
	t.Parallel()
	if route, v := judgedWith(t, "haproxy.router.openshift.io/hsts_header", "  max-age=1;preload  "); route.GetHsts() != "max-age=1;preload" {
		t.Errorf("HSTS %q: %v", route.GetHsts(), v)
	}
	if route, v := judgedWith(t, "haproxy.router.openshift.io/ip_allowlist", "  10.0.0.0/8  "); !slices.Equal(route.GetAllowedSources(), []string{"10.0.0.0/8"}) {
		t.Errorf("allow list %q: %v", route.GetAllowedSources(), v)
	}
}
