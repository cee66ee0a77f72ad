package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// details are a Route's that answers.
type details struct {
	Route    string   `json:"route"`
	Source   string   `json:"source,omitempty"`
	Place    string   `json:"place,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	Options  []option `json:"options"`
	Servers  []server `json:"servers"`

	shown string // place and age, for people
}

// option is one in force, and where it came from.
type option struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	From  string `json:"from"`
}

// server is an endpoint as HAProxy has it.
type server struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Weight  int    `json:"weight"` // 0: no new traffic
}

// takesTraffic tells whether there is an endpoint for a new client.
func (d *details) takesTraffic() bool {
	return slices.ContainsFunc(d.Servers, func(s server) bool { return s.Weight > 0 })
}

func (d *details) table(g *grid) {
	g.text("\nRoute %s%s%s", d.Route, ofSource(d.Source), d.shown)
	for _, w := range d.Warnings {
		g.text("  warning: %s", w)
	}
	g.row("  OPTION", "VALUE", "FROM")
	for _, o := range d.Options {
		g.row("  "+o.Name, o.Value, o.From)
	}
	g.text("")
	if len(d.Servers) == 0 {
		g.text("  no endpoints")
		return
	}
	g.row("  ENDPOINT", "ADDRESS", "WEIGHT")
	for _, s := range d.Servers {
		g.row("  "+s.Name, s.Address, fmt.Sprint(s.Weight))
	}
}

// origins tells options, and where each came from.
type origins struct {
	ingressController  string
	settings, defaults *tsujiv1.Settings // what is in force, and what would be if the IngressController said nothing
}

// details finds out about one Route.
func (o origins) details(ctx context.Context, e evidence, r *tsujiv1.Route, verdicts []*tsujiv1.RouteVerdict) (*details, error) {
	of, known := e.object(r.GetNamespace(), r.GetName())
	d := &details{Route: routeName(r), Place: of.place, shown: of.shown(), Servers: []server{}}
	for _, v := range verdicts {
		if v.GetNamespace() == r.GetNamespace() && v.GetName() == r.GetName() {
			d.Warnings, d.Source = v.GetWarnings(), madeOf(v)
		}
	}
	p := &optionList{origins: o, annotations: of.annotations, known: known, warnings: d.Warnings}
	p.route(r)
	if name := r.GetCertificate(); name != "" {
		found, err := named(ctx, e, name)
		if err != nil {
			return nil, err
		}
		p.certificate(r, found)
	}
	d.Options = p.list
	var err error
	d.Servers, err = servers(ctx, e, r)
	return d, err
}

// named returns the resource of that name; nil: there is none.
func named(ctx context.Context, e evidence, name string) (*tsujiv1.Resource, error) {
	list, err := e.resources(ctx, name)
	if err != nil {
		return nil, err
	}
	for _, r := range list { // names that only begin so are found, too
		if r.GetName() == name {
			return r, nil
		}
	}
	return nil, nil //nolint:nilnil // a resource may be absent
}

// servers returns what the endpoints of a Route are in HAProxy: render tells, given the Route first and then
// its endpoints, which servers its backend gets.
func servers(ctx context.Context, e evidence, r *tsujiv1.Route) ([]server, error) {
	before := []*tsujiv1.Resource{{Name: tsujiv1.RouteName(r.GetNamespace(), r.GetName()), Kind: &tsujiv1.Resource_Route{Route: r}}}
	names := []string{r.GetDestinationTls().GetCa()}
	for _, b := range r.GetBackends() {
		names = append(names, b.GetEndpoints())
	}
	after := slices.Clone(before)
	for i, name := range names {
		if name == "" {
			continue
		}
		found, err := named(ctx, e, name)
		if err != nil {
			return nil, err
		}
		if found == nil {
			continue
		}
		if i == 0 {
			before = append(before, found)
		}
		after = append(after, found)
	}
	from, err := one(before)
	if err != nil {
		return nil, err
	}
	to, err := one(after)
	if err != nil {
		return nil, err
	}
	h, err := render.New(render.Options{HTTP: []string{":80"}, Stats: []string{":1936"}})
	if err != nil {
		return nil, err
	}
	if _, err := h.Apply(snapshot.Diff(snapshot.Snapshot{}, from)); err != nil {
		return nil, err
	}
	change, err := h.Apply(snapshot.Diff(from, to))
	if err != nil {
		return nil, err
	}
	list := []server{}
	for _, b := range change.Backends {
		if b.New == nil {
			continue
		}
		for _, s := range b.New.Servers {
			list = append(list, server{Name: s.Name, Address: s.HostPort(), Weight: s.Weight})
		}
	}
	return list, nil
}

// optionList collects options.
type optionList struct {
	origins
	annotations map[string]string
	known       bool // the annotations are
	warnings    []string
	list        []option
}

func (p *optionList) add(name, value, from string) {
	p.list = append(p.list, option{name, value, from})
}

// annotation says which of the annotations an option came from. certain: there is no such option without.
func (p *optionList) annotation(certain bool, names ...string) string {
	for _, n := range names {
		if _, ok := p.annotations[n]; ok {
			if slices.ContainsFunc(p.warnings, func(w string) bool { return !certain && strings.HasPrefix(w, "annotation "+n+":") }) {
				return "default; " + n + " was not understood"
			}
			return "annotation " + n
		}
	}
	switch text := "annotation " + strings.Join(names, " or "); {
	case certain:
		return text
	case p.known:
		return "default"
	default:
		return "default, or " + text
	}
}

// setting says whether a setting is the IngressController's or the default.
func (p *optionList) setting(same bool) string {
	if same {
		return "default"
	}
	return "IngressController " + p.ingressController
}

// The annotations' prefixes.
const (
	haproxyAnnotation = "haproxy.router.openshift.io/"
	routerAnnotation  = "router.openshift.io/"
)

// route lists the options of a Route.
func (p *optionList) route(r *tsujiv1.Route) {
	var to []string
	for _, b := range r.GetBackends() {
		to = append(to, fmt.Sprintf("%s %d", b.GetService(), b.GetWeight()))
	}
	p.add("services", strings.Join(to, ", "), "spec.to, spec.alternateBackends")
	p.add("balance", word(r.GetBalance().String(), "BALANCE_"), p.annotation(false, haproxyAnnotation+"balance"))
	p.timeout("timeout server", r.GetTimeouts().GetServer(), p.settings.GetTimeouts().GetServer(), p.defaults.GetTimeouts().GetServer(),
		passthrough(r), haproxyAnnotation+"timeout")
	p.timeout("timeout tunnel", r.GetTimeouts().GetTunnel(), p.settings.GetTimeouts().GetTunnel(), p.defaults.GetTimeouts().GetTunnel(),
		false, tunnelAnnotations(r)...)
	if !passthrough(r) {
		p.http(r)
	}
	if r.GetRestrictSources() {
		value := strings.Join(r.GetAllowedSources(), " ")
		if value == "" {
			value = "nobody"
		}
		p.add("allowed addresses", value, p.annotation(true, haproxyAnnotation+"ip_allowlist", haproxyAnnotation+"ip_whitelist"))
	}
	if l := r.GetRateLimit(); l != nil {
		p.add("rate limit", limits(l), p.annotation(true, haproxyAnnotation+"rate-limit-connections"))
	}
	if d := r.GetHealthCheckInterval(); d != nil {
		p.add("health check interval", d.AsDuration().String(), p.annotation(true, routerAnnotation+"haproxy.health.check.interval"))
	}
	if n := r.GetMaxConnectionsPerEndpoint(); n > 0 {
		p.add("connections per endpoint", number(n), p.annotation(true, haproxyAnnotation+"pod-concurrent-connections"))
	}
	if r.GetTermination() == tsujiv1.Termination_TERMINATION_REENCRYPT {
		value := "not verified"
		if r.GetDestinationTls().GetVerify() {
			value = "verified with " + r.GetDestinationTls().GetCa()
		}
		p.add("endpoint's certificate", value, "spec.tls")
	}
	if terminated(r) && r.GetCertificate() == "" {
		p.add("certificate", "that for hosts without one", "IngressController "+p.ingressController+", or the router's own")
	}
}

// tunnelAnnotations are those that set the tunnel timeout: with passthrough all time is tunnel time.
func tunnelAnnotations(r *tsujiv1.Route) []string {
	names := []string{haproxyAnnotation + "timeout-tunnel"}
	if passthrough(r) {
		names = append(names, haproxyAnnotation+"timeout")
	}
	return names
}

// http lists the options of a Route whose requests the router reads.
func (p *optionList) http(r *tsujiv1.Route) {
	if c := r.GetCookie(); c.GetName() != "" {
		p.add("cookie", c.GetName(), p.annotation(false, routerAnnotation+"cookie_name"))
	} else {
		p.add("cookie", "none", p.annotation(true, haproxyAnnotation+"disable_cookies"))
	}
	if f := r.GetForwarded(); f != tsujiv1.ForwardedPolicy_FORWARDED_POLICY_UNSPECIFIED {
		p.add("forwarded headers", word(f.String(), "FORWARDED_POLICY_"), p.annotation(true, haproxyAnnotation+"set-forwarded-headers"))
	} else {
		f := p.settings.GetHeaders().GetForwarded()
		p.add("forwarded headers", word(f.String(), "FORWARDED_POLICY_"), p.setting(f == p.defaults.GetHeaders().GetForwarded()))
	}
	if h := r.GetHsts(); h != "" {
		p.add("HSTS", h, p.annotation(true, haproxyAnnotation+"hsts_header"))
	}
	if t := r.GetRewrite(); t != nil {
		p.add("path is replaced by", t.GetTarget(), p.annotation(true, haproxyAnnotation+"rewrite-target"))
	}
	if r.GetAdjustHeaderCase() {
		p.add("header case", "adjusted", p.annotation(true, haproxyAnnotation+"h1-adjust-case"))
	}
	for _, h := range []struct {
		name            string
		route, settings []*tsujiv1.HeaderAction
	}{
		{"request headers", r.GetRequestHeaders(), p.settings.GetHeaders().GetRequest()},
		{"response headers", r.GetResponseHeaders(), p.settings.GetHeaders().GetResponse()},
	} {
		if len(h.route) > 0 {
			p.add(h.name, headers(h.route), "spec.httpHeaders")
		}
		if len(h.settings) > 0 {
			p.add(h.name, headers(h.settings), "IngressController "+p.ingressController)
		}
	}
}

func (p *optionList) timeout(name string, own, setting, standard *durationpb.Duration, without bool, annotations ...string) {
	switch {
	case own != nil:
		p.add(name, own.AsDuration().String(), p.annotation(true, annotations...))
	case setting != nil && !without:
		p.add(name, setting.AsDuration().String(), p.setting(setting.AsDuration() == standard.AsDuration()))
	}
}

// certificate tells of the one that a Route names.
func (p *optionList) certificate(r *tsujiv1.Route, found *tsujiv1.Resource) {
	value := "not there: that for hosts without one is used"
	if found != nil {
		value = certificateSummary(found.GetCertificate())
	}
	from := "spec.tls.certificate"
	if strings.Contains(r.GetCertificate(), "/"+string(tsujiv1.FromSecret)+":") {
		from = "spec.tls.externalCertificate"
	}
	p.add("certificate", value, from)
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

// limits tells of a rate limit's parts that are set.
func limits(l *tsujiv1.RateLimit) string {
	var parts []string
	for _, x := range []struct {
		n    uint32
		what string
	}{
		{l.GetConcurrentConnections(), "connections at once"},
		{l.GetConnectionsPer_3S(), "connections in 3s"},
		{l.GetRequestsPer_10S(), "requests in 10s"},
	} {
		if x.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", x.n, x.what))
		}
	}
	return strings.Join(parts, ", ")
}
