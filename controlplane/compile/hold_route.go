package compile

import (
	"slices"
	"strings"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// heldRoute is a Route whose own content routers refuse.
type heldRoute struct {
	*standIn
	route *tsujiv1.Route // the good content; nil: there is none that may be served
}

// holdRoute finds out whether a Route's own content is refused, before its claim is decided: if it is, the claim is
// that of its good content. Without good content it claims what it asks for, which is kept and not served, so that no
// rival inherits it.
func (c *Compiler) holdRoute(r *route) *heldRoute {
	if !c.holds.may(tsujiv1.RouteName(r.id.Namespace, r.id.Name)) {
		return nil
	}
	b := newBuilder(c, r)
	b.build()
	if b.refused() {
		return nil // its own verdict says why
	}
	item, err := b.encode()
	if err != nil {
		return nil
	}
	s := c.held(item)
	if s == nil {
		return nil
	}
	h := &heldRoute{standIn: s}
	if s.good {
		h.route = c.goodRoute(r, s.item)
	}
	if h.route == nil {
		s.good, s.told.LastGood = false, false
	}
	return h
}

// goodRoute reads content that was good once; nil: it may not be served now, because of where it leads or of what has
// been admitted since. It may come from a router, which must not gain by it.
func (c *Compiler) goodRoute(r *route, item snapshot.Item) *tsujiv1.Route {
	res, err := tsujiv1.Decode(item)
	if err != nil || res.GetRoute() == nil {
		return nil
	}
	g := res.GetRoute()
	if g.GetNamespace() != r.id.Namespace || g.GetName() != r.id.Name || len(hostFaults(g.GetHost())) > 0 {
		return nil
	}
	if c.policy.naming.refuses(g.GetHost(), g.GetWildcard()) != "" || g.GetWildcard() && !c.policy.wildcards {
		return nil
	}
	for _, b := range g.GetBackends() {
		if _, ok := endpointsOf(b.GetEndpoints()); !ok || tsujiv1.NamespaceOf(b.GetEndpoints()) != r.id.Namespace {
			return nil
		}
	}
	for _, name := range []string{g.GetCertificate(), g.GetDestinationTls().GetCa()} {
		source, of := certificateOf(name)
		shared := source == tsujiv1.FromConfigMap && of == serviceCA
		if name != "" && of.Namespace != r.id.Namespace && !shared {
			return nil
		}
	}
	return g
}

// claimOf is what a Route's good content claims, as old as the Route is.
func (h *heldRoute) claimOf(r *route) *claim {
	t := h.route.GetTermination()
	return &claim{
		host: h.route.GetHost(), path: h.route.GetPath(), exact: h.route.GetExact(), wildcard: h.route.GetWildcard(),
		tls:         t != tsujiv1.Termination_TERMINATION_INSECURE,
		passthrough: t == tsujiv1.Termination_TERMINATION_PASSTHROUGH,
		created:     r.object.CreationTimestamp.UTC(), uid: string(r.object.UID),
	}
}

// compileHeld compiles a Route to its good content. b has its own content, and v its verdict so far.
func (c *Compiler) compileHeld(r *route, b *builder, v *tsujiv1.RouteVerdict,
	refuse func(reason, message string) judgement) judgement {
	v.Quarantines = append(v.Quarantines, r.held.told)
	if r.held.route == nil {
		return refuse(reasonQuarantined, r.held.message())
	}
	j := judgement{verdict: v, route: &r.held.item, kept: b.kept}
	for _, backend := range r.held.route.GetBackends() {
		ref, _ := endpointsOf(backend.GetEndpoints()) // goodRoute has looked at it
		j.endpoints = append(j.endpoints, ref)
	}
	for _, name := range []string{r.held.route.GetCertificate(), r.held.route.GetDestinationTls().GetCa()} {
		switch source, of := certificateOf(name); {
		case name == "":
		case source == tsujiv1.FromSecret && r.mayRead(c, of) && (c.isPair(of) || b.kept.usage(r.id).secret == of):
			j.secret = of
		case source == tsujiv1.FromConfigMap && c.hasCA(of):
			j.serviceCA = of
		case source == tsujiv1.FromRoute, source == tsujiv1.FromDestinationCA:
			own, ok := r.held.hold.Good.Get(name)
			if !ok {
				own, ok = b.ownedItem(name)
			}
			if !ok {
				return refuse(reasonQuarantined, r.held.message())
			}
			j.owned = append(j.owned, own)
		default:
			return refuse(reasonQuarantined, r.held.message())
		}
	}
	return j
}

// mayRead tells whether a Route may have its certificate from a Secret: see externalCertificate.
func (r *route) mayRead(c *Compiler, secret id) bool {
	return r.rule != nil || len(c.access.missing(secret)) == 0
}

// isPair tells whether a Secret has a certificate that can be used.
func (c *Compiler) isPair(k id) bool { return len(c.secretPair(c.objects.secrets[k], "").faults) == 0 }

func (c *Compiler) hasCA(k id) bool {
	return c.sharedBundle(k) != nil
}

// holdFacts replaces those of a Route's facts that routers refuse: its own by what was good, with those that are shared
// compileSharedFacts does. It returns why the Route is left out: a certificate of it was never good.
func (c *Compiler) holdFacts(j *judgement) (fault string) {
	if c.holds.empty() {
		return ""
	}
	look := func(i snapshot.Item, s *standIn) *standIn {
		if s != nil {
			j.verdict.Quarantines = append(j.verdict.Quarantines, s.told)
			if !s.good && !strings.HasPrefix(i.Name(), "endpoints/") && fault == "" {
				fault = s.message()
			}
		}
		return s
	}
	for n, own := range j.owned {
		if s := look(own, c.held(own)); s != nil && s.good {
			j.owned[n] = s.item
		}
	}
	if j.secret != (id{}) {
		if i, ok := j.secretItem(c); ok {
			look(i, c.standIn(i))
		}
	}
	if j.serviceCA != (id{}) {
		if i, ok := c.caItem(j.serviceCA); ok {
			look(i, c.standIn(i))
		}
	}
	for _, ref := range j.endpoints {
		if c.holds.may(ref.name()) {
			if i, err := tsujiv1.Encode(c.endpointsOf(ref).resource); err == nil {
				look(i, c.standIn(i))
			}
		}
	}
	return fault
}

// endpointsOf reads the name of an Endpoints resource.
func endpointsOf(name string) (endpointsRef, bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 4 || parts[0] != "endpoints" || slices.Contains(parts, "") {
		return endpointsRef{}, false
	}
	return endpointsRef{service: id{Namespace: parts[1], Name: parts[2]}, port: parts[3]}, true
}

// certificateOf reads the name of a Certificate.
func certificateOf(name string) (tsujiv1.CertificateSource, id) {
	rest, ok := strings.CutPrefix(name, "cert/")
	if !ok {
		return "", id{}
	}
	namespace, rest, _ := strings.Cut(rest, "/")
	source, of, _ := strings.Cut(rest, ":")
	return tsujiv1.CertificateSource(source), id{Namespace: namespace, Name: of}
}
