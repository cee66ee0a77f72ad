package explain

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

// optionList collects options, each with the one thing that it is by: of the Route, which the verdict tells; of
// the IngressController; or nothing, by default.
type optionList struct {
	origins
	claim   *render.Claim         // the Route
	verdict *tsujiv1.RouteVerdict // nil: none is known
	list    []Option
}

func (p *optionList) add(name, value, from string) {
	p.list = append(p.list, Option{name, value, from})
}

// by says which of the annotations and fields an option is by, or else otherwise. One that ends in "*" stands for
// all that begin so.
func (p *optionList) by(otherwise string, names ...string) string {
	for _, n := range names {
		for _, s := range p.verdict.GetSetBy() {
			if prefix, many := strings.CutSuffix(n, "*"); s != n && (!many || !strings.HasPrefix(s, prefix)) {
				continue
			}
			if strings.Contains(s, "/") {
				return "annotation " + s
			}
			return p.field(s)
		}
	}
	for _, n := range names {
		about := func(warning string) bool { return strings.HasPrefix(warning, "annotation "+n+":") }
		if slices.ContainsFunc(p.verdict.GetWarnings(), about) {
			return otherwise + "; " + n + " was not understood"
		}
	}
	return otherwise
}

// field names a field of the Route, or of what the Route was made of.
func (p *optionList) field(path string) string {
	if s := p.verdict.GetSource(); s != nil {
		return s.GetKind() + " " + s.GetName() + ", " + path
	}
	return path
}

const byDefault = "default"

// controller names a field of the IngressController.
func (p *optionList) controller(field string) string {
	return "IngressController " + p.ingressController + ", " + field
}

// setting says whether a setting is the IngressController's or the default.
func (p *optionList) setting(field string, same bool) string {
	if same {
		return byDefault
	}
	return p.controller(field)
}

// The annotations' prefixes.
const (
	haproxyAnnotation = "haproxy.router.openshift.io/"
	routerAnnotation  = "router.openshift.io/"
	tsujiAnnotation   = "tsuji.dev/"
)

// route lists the options of a Route.
func (p *optionList) route(r *tsujiv1.Route) {
	p.host(r)
	p.services(r)
	if r.GetTermination() != tsujiv1.Termination_TERMINATION_INSECURE {
		p.tls(r)
	}
	p.timeout("timeout server", r.GetTimeouts().GetServer(), p.claim.Passthrough,
		"serverTimeout", (*tsujiv1.Timeouts).GetServer, haproxyAnnotation+"timeout")
	p.timeout("timeout tunnel", r.GetTimeouts().GetTunnel(), false,
		"tunnelTimeout", (*tsujiv1.Timeouts).GetTunnel, p.tunnelAnnotations()...)
	if !p.claim.Passthrough {
		p.http(r)
	}
	if r.GetRestrictSources() {
		value := strings.Join(r.GetAllowedSources(), " ")
		if value == "" {
			value = "nobody"
		}
		p.add("allowed addresses", value, p.by(byDefault, haproxyAnnotation+"ip_allowlist", haproxyAnnotation+"ip_whitelist"))
	}
	p.limits(r.GetRateLimit())
	if d := r.GetHealthCheckInterval(); d != nil {
		p.add("health check interval", d.AsDuration().String(),
			p.by(byDefault, routerAnnotation+"haproxy.health.check.interval"))
	}
	if n := r.GetMaxConnectionsPerEndpoint(); n > 0 {
		p.add("connections per endpoint", fmt.Sprint(n), p.by(byDefault, haproxyAnnotation+"pod-concurrent-connections"))
	}
}

// host tells the Route's host, which need not be the one that was asked for.
func (p *optionList) host(r *tsujiv1.Route) {
	from := p.by(byDefault, "spec.host", "spec.subdomain", "spec.rules*")
	if template := tsujiAnnotation + "hostname-template"; slices.Contains(p.verdict.GetSetBy(), template) {
		from = p.controller("annotation " + template)
	}
	p.add("host", shownHost(r), from)
}

// services lists the Services, and how requests are spread over their endpoints.
func (p *optionList) services(r *tsujiv1.Route) {
	var to []string
	active := 0
	for _, b := range r.GetBackends() {
		to = append(to, fmt.Sprintf("%s %d", b.GetService(), b.GetWeight()))
		if b.GetWeight() > 0 {
			active++
		}
	}
	from := "spec.to"
	if len(to) > 1 {
		from = "spec.to, spec.alternateBackends"
	}
	if s := p.verdict.GetSource(); s != nil {
		from = p.field(s.GetField() + ".backend.service")
	}
	p.add("services", strings.Join(to, ", "), from)
	from = byDefault
	switch {
	case active > 1:
		from = "default for several Services"
	case p.claim.Passthrough:
		from = "default for passthrough"
	case r.GetBalance() == tsujiv1.Balance_BALANCE_LEAST_CONNECTIONS:
		from = p.controller("spec.unsupportedConfigOverrides.loadBalancingAlgorithm")
	}
	p.add("balance", word(r.GetBalance().String(), "BALANCE_"), p.by(from, haproxyAnnotation+"balance"))
}

// tls tells where TLS ends, and with which certificates.
func (p *optionList) tls(r *tsujiv1.Route) {
	from := p.field("spec.tls")
	if p.verdict.GetSource() == nil {
		from = "spec.tls.termination"
	}
	p.add("TLS", Termination(r.GetTermination()), p.by(from, terminationAnnotation))
	policy := byDefault
	if p.verdict.GetSource() != nil && r.GetInsecurePolicy() == tsujiv1.InsecurePolicy_INSECURE_POLICY_REDIRECT {
		policy = "default for an Ingress"
	}
	p.add("plain HTTP", word(r.GetInsecurePolicy().String(), "INSECURE_POLICY_"),
		p.by(policy, "spec.tls.insecureEdgeTerminationPolicy", tsujiAnnotation+"insecure-edge-termination-policy"))
	if code := p.claim.Redirect; code != 0 {
		p.add("redirect code", fmt.Sprint(code), p.by(byDefault, tsujiAnnotation+"redirect-code"))
	}
	if r.GetTermination() != tsujiv1.Termination_TERMINATION_REENCRYPT {
		return
	}
	d := r.GetDestinationTls()
	switch from := p.by("", "spec.tls.destinationCACertificate", destinationCAAnnotation); {
	case !d.GetVerify():
		p.add("endpoint's certificate", "not verified", "default: there is no service CA")
	case from != "":
		p.add("endpoint's certificate", "verified with "+d.GetCa(), from)
	default:
		p.add("endpoint's certificate", "verified with "+d.GetCa(), "default: the service CA")
	}
}

// Annotations of Ingresses that decide about TLS.
const (
	terminationAnnotation   = cluster.TerminationAnnotation
	destinationCAAnnotation = cluster.DestinationCAAnnotation
)

// tunnelAnnotations are those that set the tunnel timeout: with passthrough all time is tunnel time.
func (p *optionList) tunnelAnnotations() []string {
	names := []string{haproxyAnnotation + "timeout-tunnel"}
	if p.claim.Passthrough {
		names = append(names, haproxyAnnotation+"timeout")
	}
	return names
}

// http lists the options of a Route whose requests the router reads.
func (p *optionList) http(r *tsujiv1.Route) {
	if c := r.GetCookie(); c.GetName() != "" {
		p.add("cookie", c.GetName(), p.by(byDefault, routerAnnotation+"cookie_name"))
		if c.GetSameSite() != "" {
			p.add("cookie SameSite", c.GetSameSite(), p.by(byDefault, routerAnnotation+"cookie-same-site"))
		}
	} else {
		p.add("cookie", "none", p.by(byDefault, haproxyAnnotation+"disable_cookies"))
	}
	standard := p.settings.GetHeaders().GetForwarded()
	from := p.setting("spec.httpHeaders.forwardedHeaderPolicy", standard == p.defaults.GetHeaders().GetForwarded())
	if f := r.GetForwarded(); f != tsujiv1.ForwardedPolicy_FORWARDED_POLICY_UNSPECIFIED {
		standard = f
	}
	p.add("forwarded headers", word(standard.String(), "FORWARDED_POLICY_"),
		p.by(from, haproxyAnnotation+"set-forwarded-headers"))
	if h := r.GetHsts(); h != "" {
		p.add("HSTS", h, p.by(byDefault, haproxyAnnotation+"hsts_header"))
	}
	if t := r.GetRewrite(); t != nil {
		p.add("path is replaced by", t.GetTarget(), p.by(byDefault, haproxyAnnotation+"rewrite-target"))
	}
	if r.GetAdjustHeaderCase() {
		p.add("header case", "adjusted", p.by(byDefault, haproxyAnnotation+"h1-adjust-case"))
	}
	all := p.settings.GetHeaders()
	for _, h := range []struct {
		name, field     string
		route, settings []*tsujiv1.HeaderAction
	}{
		{"request headers", "spec.httpHeaders.actions.request", r.GetRequestHeaders(), all.GetRequest()},
		{"response headers", "spec.httpHeaders.actions.response", r.GetResponseHeaders(), all.GetResponse()},
	} {
		if len(h.route) > 0 {
			p.add(h.name, headers(h.route), h.field)
		}
		if len(h.settings) > 0 {
			p.add(h.name, headers(h.settings), p.controller(h.field))
		}
	}
}

// timeout tells the Route's own, or else the IngressController's, unless it is without.
func (p *optionList) timeout(
	name string, own *durationpb.Duration, without bool,
	field string, of func(*tsujiv1.Timeouts) *durationpb.Duration, annotations ...string,
) {
	setting := of(p.settings.GetTimeouts())
	from := p.setting("spec.tuningOptions."+field, setting.AsDuration() == of(p.defaults.GetTimeouts()).AsDuration())
	switch {
	case own != nil:
		p.add(name, own.AsDuration().String(), p.by(from, annotations...))
	case setting != nil && !without:
		p.add(name, setting.AsDuration().String(), p.by(from, annotations...))
	}
}

// limits lists the parts of a rate limit that are set.
func (p *optionList) limits(l *tsujiv1.RateLimit) {
	const annotation = haproxyAnnotation + "rate-limit-connections."
	for _, x := range []struct {
		n          uint32
		what, name string
	}{
		{l.GetConcurrentConnections(), "connections at once", annotation + "concurrent-tcp"},
		{l.GetConnectionsPer_3S(), "connections in 3s", annotation + "rate-tcp"},
		{l.GetRequestsPer_10S(), "requests in 10s", annotation + "rate-http"},
	} {
		if x.n > 0 {
			p.add("rate limit", fmt.Sprint(x.n)+" "+x.what, p.by(byDefault, x.name))
		}
	}
	if l.GetRequestsPer_10S() == 0 {
		return
	}
	over := "the connection is closed"
	if l.GetDenyStatus() != 0 {
		over = fmt.Sprint(l.GetDenyStatus())
	}
	p.add("over the limit of requests", over, p.by(byDefault, tsujiAnnotation+"rate-limit-status"))
}

// certificate tells of the one that answers for the host; found is the one that the Route names, nil if it is not
// there.
func (p *optionList) certificate(r *tsujiv1.Route, found *tsujiv1.Resource) {
	switch {
	case r.GetCertificate() == "" && p.settings.GetDefaultCertificate() != "":
		p.add("certificate", "that for hosts without one", p.controller("spec.defaultCertificate"))
	case r.GetCertificate() == "":
		p.add("certificate", "one that the router makes for itself", byDefault)
	case found == nil:
		p.add("certificate", "not there: that for hosts without one is used", p.by(byDefault, certificateFields()...))
	default:
		p.add("certificate", Certificate(found.GetCertificate()), p.by(byDefault, certificateFields()...))
	}
}

// certificateFields are those that a Route or an Ingress has its certificate by.
func certificateFields() []string {
	return []string{"spec.tls.certificate", "spec.tls.externalCertificate", "spec.tls[*"}
}

// word turns an enum's name into words.
func word(name, prefix string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, prefix), "_", "-"))
}

// headers lists the headers that are set or deleted.
func headers(actions []*tsujiv1.HeaderAction) string {
	var parts []string
	for _, a := range actions {
		what := "set "
		if len(a.GetValue()) == 0 {
			what = "delete "
		}
		parts = append(parts, what+a.GetName())
	}
	return strings.Join(parts, ", ")
}
