package render_test

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

// oracle answers as OpenShift's router does, from the routes: one expression for each, the exact hosts
// before the wildcards, and of those that match the one with the longest path. An exact path, which OpenShift does
// not have, has nothing after it, and comes before the same path as a prefix.
type oracle []*tsujiv1.Route

func expression(r *tsujiv1.Route) *regexp.Regexp {
	host := regexp.QuoteMeta(r.GetHost())
	if r.GetWildcard() {
		_, parent, _ := strings.Cut(r.GetHost(), ".")
		host = `[^\.]*` + regexp.QuoteMeta("."+parent)
	}
	path, sub := regexp.QuoteMeta(r.GetPath()), `(/.*)?`
	switch {
	case r.GetExact():
		sub = ""
	case strings.Trim(r.GetPath(), "/") == "":
		path = ""
	case strings.HasSuffix(r.GetPath(), "/"):
		sub = `(.*)?`
	}
	return regexp.MustCompile(`^` + host + `\.?(:[0-9]+)?` + path + sub + `$`)
}

// first returns the most specific of the routes that are wanted and match.
func (o oracle) first(base string, wanted func(*tsujiv1.Route) bool) *tsujiv1.Route {
	var found []*tsujiv1.Route
	for _, r := range o {
		if wanted(r) && expression(r).MatchString(base) {
			found = append(found, r)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return slices.MinFunc(found, func(a, b *tsujiv1.Route) int {
		if a.GetWildcard() != b.GetWildcard() {
			if b.GetWildcard() {
				return -1
			}
			return 1
		}
		if n := cmp.Compare(len(b.GetPath()), len(a.GetPath())); n != 0 {
			return n
		}
		if a.GetExact() {
			return -1
		}
		return 1
	})
}

func terminated(r *tsujiv1.Route) bool {
	return r.GetTermination() == edge || r.GetTermination() == reencrypt
}

func (o oracle) http(base string) string {
	if r := o.first(base, func(*tsujiv1.Route) bool { return true }); r != nil && r.GetInsecurePolicy() == redirect {
		return "redirect:302"
	}
	return name(o.first(base, func(r *tsujiv1.Route) bool {
		return r.GetTermination() == insecure || terminated(r) && r.GetInsecurePolicy() == allow
	}))
}

func (o oracle) https(base string) string { return name(o.first(base, terminated)) }

// tls is https with the TLS that is passed through: of the host itself, or of the wildcard above it unless TLS of the
// host itself ends at the router; whatever the path.
func (o oracle) tls(host, path string) string {
	var passed, under *tsujiv1.Route
	ends := false
	for _, r := range o {
		_, parent, _ := strings.Cut(host, ".")
		_, domain, _ := strings.Cut(r.GetHost(), ".")
		switch {
		case r.GetWildcard():
			if domain == parent && r.GetTermination() == passthrough {
				under = r
			}
		case r.GetHost() == host:
			ends = ends || terminated(r)
			if r.GetTermination() == passthrough {
				passed = r
			}
		}
	}
	if passed == nil && !ends {
		passed = under
	}
	if passed != nil {
		return name(passed)
	}
	return o.https(host + path)
}

// answered is what a claim that answers comes to, in the words of the oracle.
func answered(c *render.Claim, plain bool) string {
	switch {
	case c == nil:
		return name(nil)
	case plain && c.Redirect != 0:
		return fmt.Sprintf("redirect:%d", c.Redirect)
	default:
		return name(c.Route)
	}
}

func name(r *tsujiv1.Route) string {
	if r == nil {
		return "503"
	}
	return map[tsujiv1.Termination]string{insecure: "be_http:", edge: "be_edge_http:", reencrypt: "be_secure:", passthrough: "be_tcp:"}[r.GetTermination()] +
		r.GetNamespace() + ":" + r.GetName()
}

// mapModel is a map file, looked up as HAProxy's map_beg does.
type mapModel map[string]string

func parseMap(t testing.TB, content string) mapModel {
	t.Helper()
	m := mapModel{}
	for line := range strings.Lines(content) {
		k, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok || strings.Contains(v, " ") || m[k] != "" || strings.HasPrefix(k, "#") {
			t.Fatalf("map line %q", line)
		}
		m[k] = v
	}
	return m
}

func (m mapModel) beg(key string) string {
	for n := len(key); n > 0; n-- {
		if v, ok := m[key[:n]]; ok {
			return v
		}
	}
	return ""
}

// program answers as the frontends' rules do, from the maps.
type program struct{ http, httpWild, https, httpsWild mapModel }

func programOf(t testing.TB, files map[string]string) program {
	t.Helper()
	return program{
		parseMap(t, files["maps/http.map"]), parseMap(t, files["maps/http_wildcard.map"]),
		parseMap(t, files["maps/https.map"]), parseMap(t, files["maps/https_wildcard.map"]),
	}
}

func (p program) answer(exact, wild mapModel, host, path string, plain bool) string {
	v := exact.beg(host + path + "/#")
	_, parent, _ := strings.Cut(host, ".")
	w := wild.beg(parent + path + "/#")
	full, rest := w, ""
	if plain {
		full, rest, _ = strings.Cut(w, "|")
	}
	if v == "" || v == "none" {
		v = full
	}
	if v == "tls-only" {
		v = rest
	}
	if !strings.Contains(v, ":") {
		return "503"
	}
	return v
}

// Whatever the routes of some hosts are, one lookup in the maps gives the answer that OpenShift's rules give, and so does
// Lookup. TestExplainAgreesWithHAProxy (./cmd/tsuji) asks HAProxy itself.
func TestMapsAnswerAsOpenShift(t *testing.T) {
	t.Parallel()
	hosts := []string{"a.x", "b.x", "x", "a.b.x"}
	segment := rapid.SampledFrom([]string{"", "/", "//", "/a", "/ab", "/b", "/a/"})
	path := rapid.Custom(func(t *rapid.T) string {
		return "/" + strings.TrimPrefix(strings.Join(rapid.SliceOfN(segment, 0, 4).Draw(t, "segments"), ""), "/")
	})
	rapid.Check(t, func(rt *rapid.T) {
		var all oracle
		var resources []*tsujiv1.Resource
		used := map[string]bool{}
		for i := range rapid.IntRange(1, 10).Draw(rt, "routes") {
			r := simple(fmt.Sprintf("r%d", i), rapid.SampledFrom(hosts).Draw(rt, "host"), path.Draw(rt, "path"), insecure, unset)
			r.Termination = rapid.SampledFrom([]tsujiv1.Termination{insecure, edge, edge, reencrypt, passthrough}).Draw(rt, "termination")
			if r.Termination != insecure {
				r.InsecurePolicy = rapid.SampledFrom([]tsujiv1.InsecurePolicy{none, allow, redirect}).Draw(rt, "policy")
			}
			if r.Termination == passthrough {
				r.Path = "/"
				if r.InsecurePolicy == allow {
					r.InsecurePolicy = none
				}
			}
			r.Exact = r.GetTermination() != passthrough && rapid.IntRange(0, 2).Draw(rt, "exact") == 0
			if !r.GetExact() && strings.Trim(r.GetPath(), "/") == "" {
				r.Path = "/"
			}
			r.Wildcard = rapid.IntRange(0, 3).Draw(rt, "wildcard") == 0 && strings.Contains(r.GetHost(), ".")
			_, parent, _ := strings.Cut(r.GetHost(), ".")
			key := r.GetHost() + r.GetPath()
			if r.GetWildcard() {
				key = "*." + parent + r.GetPath()
			}
			if r.GetExact() {
				key += " exactly"
			}
			if used[key] { // not admitted
				continue
			}
			used[key] = true
			all = append(all, r)
			resources = append(resources, routeOf(r))
		}
		r := renderer(t, options())
		apply(t, r, resources...)
		p := programOf(t, filesOf(r))
		for range 20 {
			host, path := rapid.SampledFrom(append(hosts, "c.x", "y")).Draw(rt, "asked host"), path.Draw(rt, "asked path")
			if got, want := p.answer(p.http, p.httpWild, host, path, true), all.http(host+path); got != want {
				rt.Errorf("http://%s%s: maps say %s, OpenShift %s", host, path, got, want)
			}
			if got, want := p.answer(p.https, p.httpsWild, host, path, false), all.https(host+path); got != want {
				rt.Errorf("https://%s%s: maps say %s, OpenShift %s", host, path, got, want)
			}
			l := r.Lookup(host, path)
			if got, want := answered(l.HTTP, true), all.http(host+path); got != want {
				rt.Errorf("http://%s%s: Lookup says %s, OpenShift %s", host, path, got, want)
			}
			if got, want := answered(l.HTTPS, false), all.tls(host, path); got != want {
				rt.Errorf("https://%s%s: Lookup says %s, OpenShift %s", host, path, got, want)
			}
			for _, c := range l.Claims {
				if got, want := c.Covers, expression(c.Route).MatchString(host+path); got != want {
					rt.Errorf("%s%s: Lookup says %s covers it: %t, OpenShift %t", host, path, name(c.Route), got, want)
				}
			}
		}
	})
}
