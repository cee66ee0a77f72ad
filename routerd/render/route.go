package render

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// Profiles are the named defaults sections that backends are made from: what cannot be said by a rule or
// a variable, and the rules that many routes share. They are always there, used or not.
const (
	profileHTTP         = "http" // forwarding headers as the Settings say
	profileHTTPAppend   = "http-append"
	profileHTTPReplace  = "http-replace"
	profileHTTPIfNone   = "http-if-none"
	profileHTTPNever    = "http-never"
	profilePassthrough  = "tcp"
	profileNoForwarding = "plain"      // of the backends that are the program's own
	profileClient       = "client"     // of the frontends for clients
	profileStats        = "monitoring" // of the frontend for probes and metrics
)

// route is one Route resource, rendered. It is immutable.
type route struct {
	resource string
	spec     *tsujiv1.Route
	host     hostKey
	path     string // with all paths of slashes only as "/"
	backend  string
	text     string   // the backend's section without its servers; depends on spec alone
	limits   []string // what every server says of health checks and connections; depends on spec alone

	// What follows depends on facts as well: endpoints and CA certificates.

	caFile  string // that servers are verified with; empty: none is known, or needed
	servers []Server
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
func newRoute(resource string, spec *tsujiv1.Route) (*route, error) {
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
	if strings.Trim(r.path, "/") == "" {
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
	for _, ref := range spec.GetBackends() {
		if err := checkObjectName("service", ref.GetService()); err != nil {
			return nil, err
		}
		if ref.GetWeight() > 256 {
			return nil, fmt.Errorf("weight %d: want 0 to 256", ref.GetWeight())
		}
	}
	var err error
	if r.limits, err = r.serverLimits(); err != nil {
		return nil, err
	}
	if r.text, err = r.section(); err != nil {
		return nil, err
	}
	return r, nil
}

// section writes the backend without its servers. The order is that of OpenShift's router where the order
// of rules shows: limits, forwarding headers (in the profile), rewrite, HSTS, header actions.
func (r *route) section() (string, error) {
	spec, b := r.spec, &strings.Builder{}
	profile, err := r.profile()
	if err != nil {
		return "", err
	}
	fmt.Fprintf(b, "backend %s from %s\n", r.backend, profile)
	if spec.GetAdjustHeaderCase() && !r.passthrough() {
		b.WriteString("  option h1-case-adjust-bogus-server\n")
	}
	if err := r.writeBalance(b); err != nil {
		return "", err
	}
	if spec.GetRestrictSources() {
		if err := writeAllowList(b, spec.GetAllowedSources()); err != nil {
			return "", err
		}
	}
	if err := r.writeTimeouts(b); err != nil {
		return "", err
	}
	if err := r.writeRateLimit(b); err != nil {
		return "", err
	}
	if r.passthrough() {
		return b.String(), nil
	}
	for _, write := range []func(*strings.Builder) error{r.writeRewrite, r.writeCookie, r.writeHSTS} {
		if err := write(b); err != nil {
			return "", err
		}
	}
	if err := headerActions(b, "http-request", "req.hdr", spec.GetRequestHeaders()); err != nil {
		return "", fmt.Errorf("request: %w", err)
	}
	if err := headerActions(b, "http-response", "res.hdr", spec.GetResponseHeaders()); err != nil {
		return "", fmt.Errorf("response: %w", err)
	}
	return b.String(), nil
}

func (r *route) profile() (string, error) {
	if r.passthrough() {
		return profilePassthrough, nil
	}
	return forwardedProfile(r.spec.GetForwarded())
}

func forwardedProfile(p tsujiv1.ForwardedPolicy) (string, error) {
	switch p {
	case tsujiv1.ForwardedPolicy_FORWARDED_POLICY_UNSPECIFIED:
		return profileHTTP, nil
	case tsujiv1.ForwardedPolicy_FORWARDED_POLICY_APPEND:
		return profileHTTPAppend, nil
	case tsujiv1.ForwardedPolicy_FORWARDED_POLICY_REPLACE:
		return profileHTTPReplace, nil
	case tsujiv1.ForwardedPolicy_FORWARDED_POLICY_IF_NONE:
		return profileHTTPIfNone, nil
	case tsujiv1.ForwardedPolicy_FORWARDED_POLICY_NEVER:
		return profileHTTPNever, nil
	default:
		return "", fmt.Errorf("forwarded policy %d is not known", p)
	}
}

// writeBalance writes the algorithm. OpenShift's router, where the route does not say: roundrobin for
// several Services, else random, and source for passthrough. A hash is consistent, so that endpoints may
// come and go.
func (r *route) writeBalance(b *strings.Builder) error {
	services := 0
	for _, ref := range r.spec.GetBackends() {
		if ref.GetWeight() > 0 {
			services++
		}
	}
	var algorithm string
	switch r.spec.GetBalance() {
	case tsujiv1.Balance_BALANCE_UNSPECIFIED:
		switch {
		case services > 1:
			algorithm = "roundrobin"
		case r.passthrough():
			algorithm = "source"
		default:
			algorithm = "random"
		}
	case tsujiv1.Balance_BALANCE_ROUND_ROBIN:
		algorithm = "roundrobin"
	case tsujiv1.Balance_BALANCE_LEAST_CONNECTIONS:
		algorithm = "leastconn"
	case tsujiv1.Balance_BALANCE_SOURCE:
		algorithm = "source"
	case tsujiv1.Balance_BALANCE_RANDOM:
		algorithm = "random"
	default:
		return fmt.Errorf("balance %d is not known", r.spec.GetBalance())
	}
	fmt.Fprintf(b, "  balance %s\n", algorithm)
	if algorithm == "source" {
		b.WriteString("  hash-type consistent\n")
	}
	return nil
}

// allowListWords is how many addresses go on one line: HAProxy takes 64 words.
const allowListWords = 50

// writeAllowList lets only the sources in; an empty list lets nobody in.
func writeAllowList(b *strings.Builder, list []string) error {
	list, err := sources(list)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		b.WriteString("  tcp-request content reject\n")
		return nil
	}
	for words := range slices.Chunk(list, allowListWords) {
		fmt.Fprintf(b, "  acl allowlist src %s\n", strings.Join(words, " "))
	}
	b.WriteString("  tcp-request content reject if !allowlist\n")
	return nil
}

func (r *route) writeTimeouts(b *strings.Builder) error {
	t := r.spec.GetTimeouts()
	tunnel := t.GetTunnel()
	if r.passthrough() && tunnel == nil {
		tunnel = t.GetServer() // OpenShift's router: there is only one timeout
	}
	if t.GetServer() != nil && !r.passthrough() {
		v, err := millis("server timeout", t.GetServer(), 0)
		if err != nil {
			return err
		}
		fmt.Fprintf(b, "  timeout server %s\n", v)
	}
	if tunnel != nil {
		v, err := millis("tunnel timeout", tunnel, 0)
		if err != nil {
			return err
		}
		fmt.Fprintf(b, "  timeout tunnel %s\n", v)
	}
	return nil
}

// denyCodes are the answers to requests over the limit.
var denyCodes = []uint32{403, 429, 503}

// writeRateLimit counts by source address. The table is for IPv6, which holds IPv4 as well: OpenShift's
// is for IPv4 and counts no others.
func (r *route) writeRateLimit(b *strings.Builder) error {
	l := r.spec.GetRateLimit()
	requests := l.GetRequestsPer_10S()
	if r.passthrough() {
		requests = 0
	}
	if l.GetConcurrentConnections() == 0 && l.GetConnectionsPer_3S() == 0 && requests == 0 {
		return nil
	}
	b.WriteString("  stick-table type ipv6 size 100k expire 30s store conn_cur,conn_rate(3s),http_req_rate(10s)\n" +
		"  tcp-request content track-sc2 src\n")
	if n := l.GetConcurrentConnections(); n > 0 {
		fmt.Fprintf(b, "  tcp-request content reject if { src_conn_cur ge %d }\n", n)
	}
	if n := l.GetConnectionsPer_3S(); n > 0 {
		fmt.Fprintf(b, "  tcp-request content reject if { src_conn_rate ge %d }\n", n)
	}
	switch code := l.GetDenyStatus(); {
	case requests == 0:
	case code == 0:
		fmt.Fprintf(b, "  tcp-request content reject if { src_http_req_rate ge %d }\n", requests)
	case slices.Contains(denyCodes, code):
		fmt.Fprintf(b, "  http-request deny deny_status %d if { src_http_req_rate ge %d }\n", code, requests)
	default:
		return fmt.Errorf("rate limit: status %d: want one of %v", code, denyCodes)
	}
	return nil
}

// writeRewrite replaces the route's path by the target. As in OpenShift's router the target "/" also takes
// the slash that follows the path, so that /foo/bar under /foo becomes /bar; any other target is put
// before what follows the path. The path itself is only counted, never written: it cannot be a pattern.
func (r *route) writeRewrite(b *strings.Builder) error {
	if r.spec.GetRewrite() == nil {
		return nil
	}
	target := r.spec.GetRewrite().GetTarget()
	if err := checkPath("rewrite target", target); err != nil {
		return err
	}
	n := len(r.path)
	switch {
	case r.path == "/" && target == "/":
		return nil
	case r.path == "/":
		n = 0
	case target == "/" && !strings.HasSuffix(r.path, "/"):
		n++ // the slash after the path, if the path goes on
	}
	fmt.Fprintf(b, "  http-request set-path %s\n", quoted(fmt.Sprintf("%s%%[path,bytes(%d)]", literal(target), n)))
	return nil
}

func (r *route) writeCookie(b *strings.Builder) error {
	c := r.spec.GetCookie()
	if c.GetName() == "" {
		return nil
	}
	if err := checkCookieName("cookie", c.GetName()); err != nil {
		return err
	}
	fmt.Fprintf(b, "  cookie %s insert indirect nocache httponly", c.GetName())
	if c.GetSecure() {
		b.WriteString(" secure")
	}
	switch s := c.GetSameSite(); s {
	case "":
	case "Lax", "Strict", "None":
		b.WriteString(" attr SameSite=" + s)
	default:
		return refuse("cookie: SameSite", s, "Lax, Strict or None")
	}
	b.WriteString("\n")
	return nil
}

func (r *route) writeHSTS(b *strings.Builder) error {
	v := r.spec.GetHsts()
	if v == "" || !r.terminated() {
		return nil
	}
	if err := checkHSTS(v); err != nil {
		return err
	}
	fmt.Fprintf(b, "  http-response set-header Strict-Transport-Security %s\n", quoted(v))
	return nil
}
