package render

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// route is one Route resource, rendered. It is immutable.
type route struct {
	resource string
	spec     *tsujiv1.Route
	host     hostKey
	path     string // of a prefix, with all paths of slashes only as "/"
	backend  string
	interval time.Duration // of health checks, as is asked for; zero: there are none; depends on spec alone
	limits   []string      // what every server says of connections; depends on spec alone
	entries  []Entry       // in the maps of options, by file and key; depends on spec alone
	wanted   profile       // as far as spec alone decides
	cookie   string        // as Backend has it; depends on spec alone
	claim    *claim        // depends on spec alone

	// What follows depends on facts as well: Settings, endpoints and CA certificates.

	profile   profile
	caFile    string   // that servers are verified with; empty: none is known, or needed
	checkable int      // servers that would be checked
	unchecked bool     // they are not, because too many would be
	slowed    int      // how often the interval of their checks is doubled, because there would be too many in a second
	check     []string // what every server says of health checks; empty: there are none
	rendered  *Backend
}

// title names the route for people.
func (r *route) title() string { return "route " + r.spec.GetNamespace() + "/" + r.spec.GetName() }

// terminated tells whether TLS ends at the router.
func (r *route) terminated() bool {
	t := r.spec.GetTermination()
	return t == tsujiv1.Termination_TERMINATION_EDGE || t == tsujiv1.Termination_TERMINATION_REENCRYPT
}

func (r *route) passthrough() bool {
	return r.spec.GetTermination() == tsujiv1.Termination_TERMINATION_PASSTHROUGH
}

// redirect returns the code of the redirect that answers plain HTTP, 0 if none does.
func (r *route) redirect() uint32 {
	if r.spec.GetTermination() == tsujiv1.Termination_TERMINATION_INSECURE ||
		r.spec.GetInsecurePolicy() != tsujiv1.InsecurePolicy_INSECURE_POLICY_REDIRECT {
		return 0
	}
	if c := r.spec.GetRedirectCode(); c != 0 {
		return c
	}
	return redirectCodes[0]
}

// plain tells whether the route is served over plain HTTP.
func (r *route) plain() bool {
	return r.spec.GetTermination() == tsujiv1.Termination_TERMINATION_INSECURE ||
		r.terminated() && r.spec.GetInsecurePolicy() == tsujiv1.InsecurePolicy_INSECURE_POLICY_ALLOW
}

// redirectCodes are the codes that a redirect may have; the first is the default.
var redirectCodes = []uint32{302, 301, 307, 308}

// newRoute validates a Route and renders everything of it that depends on nothing else.
func newRoute(resource string, spec *tsujiv1.Route, v Version) (*route, error) {
	if err := errors.Join(
		checkObjectName("namespace", spec.GetNamespace()),
		checkObjectName("name", spec.GetName()),
		checkDNSName("host", spec.GetHost()),
		checkPath("path", spec.GetPath()),
	); err != nil {
		return nil, err
	}
	if want := tsujiv1.RouteName(spec.GetNamespace(), spec.GetName()); resource != want {
		return nil, fmt.Errorf("holds %s", want)
	}
	r := &route{resource: resource, spec: spec, host: hostKey{name: spec.GetHost()}, path: spec.GetPath()}
	if spec.GetWildcard() {
		_, parent, _ := strings.Cut(spec.GetHost(), ".")
		if parent == "" {
			return nil, refuse("wildcard host", spec.GetHost(), "a host with a parent domain")
		}
		r.host = hostKey{name: parent, wildcard: true}
	}
	if !spec.GetExact() && strings.Trim(r.path, "/") == "" {
		r.path = "/"
	}
	if c := spec.GetRedirectCode(); c != 0 && !slices.Contains(redirectCodes, c) {
		return nil, fmt.Errorf("redirect code %d: want one of %v", c, redirectCodes)
	}
	prefix := map[tsujiv1.Termination]string{
		tsujiv1.Termination_TERMINATION_INSECURE:    "be_http:",
		tsujiv1.Termination_TERMINATION_EDGE:        "be_edge_http:",
		tsujiv1.Termination_TERMINATION_REENCRYPT:   "be_secure:",
		tsujiv1.Termination_TERMINATION_PASSTHROUGH: "be_tcp:",
	}[spec.GetTermination()]
	if prefix == "" {
		return nil, fmt.Errorf("termination %d is not known", spec.GetTermination())
	}
	r.backend = prefix + spec.GetNamespace() + ":" + spec.GetName()
	r.claim = newClaim(r)
	for _, ref := range spec.GetBackends() {
		if err := checkObjectName("service", ref.GetService()); err != nil {
			return nil, err
		}
		if ref.GetWeight() > 256 {
			return nil, fmt.Errorf("weight %d: want 0 to 256", ref.GetWeight())
		}
	}
	var err error
	if r.interval, err = checkInterval(spec); err != nil {
		return nil, err
	}
	r.check = r.checkParams()
	if n := spec.GetMaxConnectionsPerEndpoint(); n > 0 {
		r.limits = []string{"maxconn", fmt.Sprint(min(n, maxServerConnections))}
	}
	if err := r.readOptions(v); err != nil {
		return nil, err
	}
	return r, nil
}
