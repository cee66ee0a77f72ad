package main

import (
	"fmt"
	"slices"
	"strings"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// answer is what a router answers to a request.
type answer struct {
	Text   string `json:"text"`             // for people
	Status int    `json:"status,omitempty"` // of the router's own answer: a redirect, or 503; 0: the endpoint answers
	Route  string `json:"route,omitempty"`  // namespace/name; empty: none
}

// candidate is a Route that asks for the host.
type candidate struct {
	Route       string `json:"route"`            // namespace/name
	Source      string `json:"source,omitempty"` // what it was made of: "Ingress shop, spec.rules[0]"
	Place       string `json:"place,omitempty"`  // file and line
	Host        string `json:"host"`
	Path        string `json:"path"`
	Exact       bool   `json:"exact,omitempty"` // the path alone, and nothing below it
	Termination string `json:"termination"`
	Admitted    bool   `json:"admitted"`
	HTTP        string `json:"http"`  // what it does for plain HTTP, or why nothing
	HTTPS       string `json:"https"` // the same for HTTPS
	Reason      string `json:"reason,omitempty"`
	Message     string `json:"message,omitempty"`

	shown string // place and age, for people
}

func routeName(r *tsujiv1.Route) string { return r.GetNamespace() + "/" + r.GetName() }

func shownHost(r *tsujiv1.Route) string {
	if r.GetWildcard() {
		return "*." + parentDomain(r.GetHost())
	}
	return r.GetHost()
}

func parentDomain(host string) string {
	_, p, _ := strings.Cut(host, ".")
	return p
}

// rivals returns the Routes that have the host, and those of the wildcard above it: each the longest path first, and
// of the same path the exact one.
func rivals(q question, list []*tsujiv1.Resource) (exact, wildcard []*tsujiv1.Route) {
	for _, res := range list {
		switch r := res.GetRoute(); {
		case r == nil:
		case r.GetWildcard():
			if p := parentDomain(r.GetHost()); p != "" && p == parentDomain(q.host) {
				wildcard = append(wildcard, r)
			}
		case r.GetHost() == q.host:
			exact = append(exact, r)
		}
	}
	for _, routes := range [][]*tsujiv1.Route{exact, wildcard} {
		slices.SortStableFunc(routes, func(a, b *tsujiv1.Route) int {
			if n := len(pathOf(b)) - len(pathOf(a)); n != 0 || a.GetExact() == b.GetExact() {
				return n
			}
			if a.GetExact() {
				return -1
			}
			return 1
		})
	}
	return exact, wildcard
}

// refusedRival tells whether a refused Route asked for the host. Of a wildcard that was refused, the verdict
// tells no more than the host it was asked for by.
func refusedRival(q question, v *tsujiv1.RouteVerdict) bool {
	if v.GetAdmitted() {
		return false
	}
	p := parentDomain(q.host)
	return v.GetHost() == q.host || p != "" && parentDomain(v.GetHost()) == p &&
		(strings.Contains(v.GetMessage(), "wildcard") || strings.Contains(v.GetMessage(), "*."+p))
}

// pathOf returns a Route's path; all prefixes of slashes only are one.
func pathOf(r *tsujiv1.Route) string {
	if !r.GetExact() && strings.Trim(r.GetPath(), "/") == "" {
		return "/"
	}
	return r.GetPath()
}

// matches tells whether a request's path is below a Route's. OpenShift's router: a path matches itself and
// what follows it after a "/"; one that ends in "/" matches what begins with it.
func matches(r *tsujiv1.Route, path string) bool {
	rest, ok := strings.CutPrefix(path, pathOf(r))
	if r.GetExact() {
		return ok && rest == ""
	}
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(pathOf(r), "/"))
}

func terminated(r *tsujiv1.Route) bool {
	t := r.GetTermination()
	return t == tsujiv1.Termination_TERMINATION_EDGE || t == tsujiv1.Termination_TERMINATION_REENCRYPT
}

func passthrough(r *tsujiv1.Route) bool {
	return r.GetTermination() == tsujiv1.Termination_TERMINATION_PASSTHROUGH
}

// plain tells whether a Route is served over plain HTTP.
func plain(r *tsujiv1.Route) bool {
	return r.GetTermination() == tsujiv1.Termination_TERMINATION_INSECURE ||
		terminated(r) && r.GetInsecurePolicy() == tsujiv1.InsecurePolicy_INSECURE_POLICY_ALLOW
}

func redirects(r *tsujiv1.Route) bool {
	return r.GetTermination() != tsujiv1.Termination_TERMINATION_INSECURE &&
		r.GetInsecurePolicy() == tsujiv1.InsecurePolicy_INSECURE_POLICY_REDIRECT
}

// redirectCode is the code of a Route's redirect to HTTPS.
func redirectCode(r *tsujiv1.Route) uint32 {
	if c := r.GetRedirectCode(); c != 0 {
		return c
	}
	return 302
}

// first returns the first of the Routes that matches the path and is wanted.
func first(routes []*tsujiv1.Route, path string, wanted func(*tsujiv1.Route) bool) *tsujiv1.Route {
	for _, r := range routes {
		if matches(r, path) && (wanted == nil || wanted(r)) {
			return r
		}
	}
	return nil
}

// plainHTTP says what answers a plain request: as render's maps do.
//
// OpenShift's router: the most specific of the Routes decides whether to redirect; if it does not, the most
// specific of those that are served over plain HTTP answers. Exact hosts come before wildcards; behind an
// exact host that is there, though not over plain HTTP, no wildcard's redirect counts.
func plainHTTP(q question, exact, wildcard []*tsujiv1.Route) (*answer, *tsujiv1.Route) {
	top := first(exact, q.path, nil)
	if top == nil {
		top = first(wildcard, q.path, nil)
	}
	if top != nil && redirects(top) {
		code := int(redirectCode(top))
		return &answer{Text: fmt.Sprintf("%d: Route %s redirects to https://%s%s", code, routeName(top), q.host, q.path), Status: code, Route: routeName(top)}, top
	}
	r := first(exact, q.path, plain)
	if r == nil {
		r = first(wildcard, q.path, plain)
	}
	switch {
	case r != nil:
		return &answer{Text: "Route " + routeName(r), Route: routeName(r)}, r
	case top != nil:
		return &answer{Text: "503: no Route of this host and path is served over plain HTTP", Status: 503}, nil
	default:
		return &answer{Text: "503: no Route is admitted for this host and path", Status: 503}, nil
	}
}

// overTLS says what answers a request over TLS.
func overTLS(q question, exact, wildcard []*tsujiv1.Route) (*answer, *tsujiv1.Route) {
	through := func(routes []*tsujiv1.Route) *tsujiv1.Route {
		if i := slices.IndexFunc(routes, passthrough); i >= 0 {
			return routes[i]
		}
		return nil
	}
	r := through(exact)
	if r == nil && !slices.ContainsFunc(exact, terminated) {
		r = through(wildcard)
	}
	if r != nil {
		return &answer{Text: "Route " + routeName(r) + ": TLS ends at the endpoint, whatever the path", Route: routeName(r)}, r
	}
	if r = first(exact, q.path, terminated); r == nil {
		r = first(wildcard, q.path, terminated)
	}
	switch {
	case r != nil:
		return &answer{Text: "Route " + routeName(r), Route: routeName(r)}, r
	case first(exact, q.path, nil) != nil || first(wildcard, q.path, nil) != nil:
		return &answer{Text: "503: no Route of this host and path has TLS", Status: 503}, nil
	default:
		return &answer{Text: "503: no Route is admitted for this host and path", Status: 503}, nil
	}
}

// whyHTTP says what a Route does for a plain request, or why it does nothing.
func whyHTTP(q question, r, winner *tsujiv1.Route, exact []*tsujiv1.Route) string {
	switch {
	case r == winner && redirects(r) && first(exactOr(exact, r), q.path, nil) == r:
		return "redirects"
	case r == winner:
		return "answers"
	case !matches(r, q.path):
		return notBelow(r)
	case !plain(r) && !redirects(r):
		return "not over plain HTTP: its insecure policy is None"
	case winner == nil && r.GetWildcard():
		return "the host has a Route of its own: a wildcard's redirect does not count"
	case winner == nil:
		return "a redirect counts for the longest path only"
	default:
		return beaten(r, winner)
	}
}

// exactOr returns the Routes that r stands among: those of the exact host, or itself alone.
func exactOr(exact []*tsujiv1.Route, r *tsujiv1.Route) []*tsujiv1.Route {
	if r.GetWildcard() {
		return []*tsujiv1.Route{r}
	}
	return exact
}

// whyHTTPS says what a Route does for a request over TLS, or why it does nothing.
func whyHTTPS(q question, r, winner *tsujiv1.Route) string {
	switch {
	case r == winner:
		return "answers"
	case r.GetTermination() == tsujiv1.Termination_TERMINATION_INSECURE:
		return "it has no TLS"
	case !passthrough(r) && !matches(r, q.path):
		return notBelow(r)
	case winner == nil:
		return "the host has Routes of its own that end TLS at the router"
	default:
		return beaten(r, winner)
	}
}

func notBelow(r *tsujiv1.Route) string {
	if r.GetExact() {
		return "the path is not exactly " + r.GetPath()
	}
	return "the path is not below " + r.GetPath()
}

// shownPath tells people a path, and whether it is exact.
func shownPath(path string, exact bool) string {
	if exact {
		return path + " (exact)"
	}
	return path
}

// beaten says why another Route answers.
func beaten(r, winner *tsujiv1.Route) string {
	switch {
	case r.GetWildcard() && !winner.GetWildcard():
		return routeName(winner) + " has the host itself"
	case passthrough(winner):
		return routeName(winner) + " has all TLS of the host"
	case len(pathOf(winner)) > len(pathOf(r)):
		return routeName(winner) + " has a longer path"
	case winner.GetExact():
		return routeName(winner) + " has exactly this path"
	case redirects(r):
		return routeName(winner) + " answers: a redirect counts for the longest path only"
	default:
		return routeName(winner) + " answers"
	}
}
