package explain

import (
	"fmt"
	"slices"
	"strings"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

// Answer is what a router answers to a request.
type Answer struct {
	Text   string `json:"text"`             // for people
	Status int    `json:"status,omitempty"` // of the router's own answer: a redirect, or 503; 0: the endpoint answers
	Route  string `json:"route,omitempty"`  // namespace/name; empty: none
}

// Candidate is a Route that asks for the host.
type Candidate struct {
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

	Object Object `json:"-"`
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

// refusedRival tells whether a refused Route asked for the host. Of a wildcard that was refused, the verdict
// tells no more than the host it was asked for by.
func refusedRival(q Request, v *tsujiv1.RouteVerdict) bool {
	if v.GetAdmitted() {
		return false
	}
	p := parentDomain(q.Host)
	return v.GetHost() == q.Host || p != "" && parentDomain(v.GetHost()) == p &&
		(strings.Contains(v.GetMessage(), "wildcard") || strings.Contains(v.GetMessage(), "*."+p))
}

// covered tells whether any Route has the path that was asked for.
func covered(l render.Lookup) bool {
	return slices.ContainsFunc(l.Claims, func(c *render.Claim) bool { return c.Covers })
}

const nobody = "503: no Route is admitted for this host and path"

// plainHTTP puts into words what answers a plain request.
func plainHTTP(q Request, l render.Lookup) *Answer {
	switch c := l.HTTP; {
	case c != nil && c.Redirect != 0:
		name := routeName(c.Route)
		text := fmt.Sprintf("%d: Route %s redirects to https://%s%s", c.Redirect, name, q.Host, q.Path)
		return &Answer{Text: text, Status: int(c.Redirect), Route: name}
	case c != nil:
		return &Answer{Text: "Route " + routeName(c.Route), Route: routeName(c.Route)}
	case covered(l):
		return &Answer{Text: "503: no Route of this host and path is served over plain HTTP", Status: 503}
	default:
		return &Answer{Text: nobody, Status: 503}
	}
}

// overTLS puts into words what answers a request over TLS.
func overTLS(l render.Lookup) *Answer {
	switch c := l.HTTPS; {
	case c != nil && c.Passthrough:
		text := "Route " + routeName(c.Route) + ": TLS ends at the endpoint, whatever the path"
		return &Answer{Text: text, Route: routeName(c.Route)}
	case c != nil:
		return &Answer{Text: "Route " + routeName(c.Route), Route: routeName(c.Route)}
	case covered(l):
		return &Answer{Text: "503: no Route of this host and path has TLS", Status: 503}
	default:
		return &Answer{Text: nobody, Status: 503}
	}
}

// whyHTTP says what a Route does for a plain request, or why it does nothing.
func whyHTTP(c, winner *render.Claim) string {
	switch {
	case c == winner && c.Redirect != 0:
		return "redirects"
	case c == winner:
		return "answers"
	case !c.Covers:
		return notBelow(c.Route)
	case !c.Plain && c.Redirect == 0:
		return "not over plain HTTP: its insecure policy is None"
	case winner == nil && c.Route.GetWildcard():
		return "the host has a Route of its own: a wildcard's redirect does not count"
	case winner == nil:
		return "a redirect counts for the longest path only"
	default:
		return beaten(c, winner)
	}
}

// whyHTTPS says what a Route does for a request over TLS, or why it does nothing.
func whyHTTPS(c, winner *render.Claim) string {
	switch {
	case c == winner:
		return "answers"
	case !c.Terminated && !c.Passthrough:
		return "it has no TLS"
	case !c.Passthrough && !c.Covers:
		return notBelow(c.Route)
	case winner == nil:
		return "the host has Routes of its own that end TLS at the router"
	default:
		return beaten(c, winner)
	}
}

func notBelow(r *tsujiv1.Route) string {
	if r.GetExact() {
		return "the path is not exactly " + r.GetPath()
	}
	return "the path is not below " + r.GetPath()
}

// beaten says why another Route answers.
func beaten(c, winner *render.Claim) string {
	name := routeName(winner.Route)
	switch {
	case c.Route.GetWildcard() && !winner.Route.GetWildcard():
		return name + " has the host itself"
	case winner.Passthrough:
		return name + " has all TLS of the host"
	case len(winner.Path) > len(c.Path):
		return name + " has a longer path"
	case winner.Route.GetExact():
		return name + " has exactly this path"
	case c.Redirect != 0:
		return name + " answers: a redirect counts for the longest path only"
	default:
		return name + " answers"
	}
}
