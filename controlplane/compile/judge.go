package compile

import (
	"fmt"
	"slices"

	routev1 "github.com/openshift/api/route/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// The reasons of OpenShift's router.
const (
	reasonNoHost          = "NoHostValue"
	reasonInvalidHost     = "InvalidHost"
	reasonNotAdmitted     = "RouteNotAdmitted"
	reasonClaimed         = "HostAlreadyClaimed"
	reasonInvalid         = "ExtendedValidationFailed"
	reasonExternalInvalid = "ExternalCertificateValidationFailed"
	reasonExternalUnread  = "ExternalCertificateGetFailed"
)

// refusal is why a route is not served.
type refusal struct {
	reason, message string
}

// judgement is what a route compiles to. The zero judgement is that of a route that is gone or is not
// this IngressController's.
type judgement struct {
	verdict   *tsujiv1.RouteVerdict
	route     *snapshot.Item // nil: it is refused
	endpoints []endpointsRef
	secret    id              // the Secret whose Certificate it shares; zero: none
	serviceCA id              // the ConfigMap of the cluster's own CA, if it is verified with it; else zero
	owned     []snapshot.Item // Certificates that are its own
	kept      keptRoute
}

// stand finds where a route stands before its content is looked at: whether it is this
// IngressController's, which host it asks for, and whether it may claim it.
func (c *Compiler) stand(r *route) {
	r.selected = r.object != nil && c.policy.selects(r, c.objects.namespaces[r.id.Namespace])
	r.host, r.hostBy, r.refusal, r.held = "", "", nil, nil
	delete(c.heldRoutes, r.id)
	if !r.selected {
		c.claims.put(r, nil)
		return
	}
	if r.rule != nil && r.rule.incomplete != "" {
		reason := reasonIncomplete
		if r.rule.noClass {
			reason = ReasonNoIngressClass
		}
		r.host, r.refusal = r.object.Spec.Host, &refusal{reason, r.rule.incomplete}
		c.claims.put(r, nil)
		return
	}
	if r.host, r.hostBy = c.policy.naming.hostOf(r.object); r.rule != nil {
		r.hostBy = r.rule.hostBy(r.hostBy)
	}
	if r.refusal = c.policy.refuses(r); r.refusal != nil {
		c.claims.put(r, nil)
		return
	}
	if r.held = c.holdRoute(r); r.held != nil && r.held.route != nil {
		c.heldRoutes[r.id] = r
		c.claims.put(r, r.held.claimOf(r))
		return
	}
	spec := &r.object.Spec
	c.claims.put(r, &claim{
		host:        r.host,
		path:        r.path(),
		exact:       r.rule != nil && r.rule.exact,
		wildcard:    spec.WildcardPolicy == routev1.WildcardPolicySubdomain,
		tls:         spec.TLS != nil,
		passthrough: spec.TLS != nil && spec.TLS.Termination == routev1.TLSTerminationPassthrough,
		created:     r.object.CreationTimestamp.UTC(),
		uid:         string(r.object.UID),
	})
}

// judge compiles a route, and moves everything from what was made of it before to what is now.
func (c *Compiler) judge(r *route, d *dirty, out *output) {
	var next judgement
	c.release(r)
	if r.selected {
		next = c.compileRoute(r)
	}
	if next.route != nil {
		out.config.put = append(out.config.put, *next.route)
	} else {
		out.config.remove = append(out.config.remove, tsujiv1.RouteName(r.id.Namespace, r.id.Name))
	}
	c.moveEndpoints(r.endpoints, next.endpoints, d)
	c.moveSecret(r.secret, next.secret, d)
	c.moveConfigMap(r.serviceCA, next.serviceCA, d)
	c.moveKept(r, next.kept, d)
	var owned []string
	for _, own := range next.owned {
		owned = append(owned, own.Name())
		out.facts.put = append(out.facts.put, own)
	}
	for _, old := range r.owned {
		if !slices.Contains(owned, old) {
			out.facts.remove = append(out.facts.remove, old)
		}
	}
	r.endpoints, r.secret, r.serviceCA, r.owned = next.endpoints, next.secret, next.serviceCA, owned

	switch {
	case next.verdict != nil && !proto.Equal(r.verdict, next.verdict):
		out.verdicts = append(out.verdicts, next.verdict)
	case next.verdict == nil && r.verdict != nil:
		out.removed = append(out.removed, cluster.Key{Kind: cluster.Route, Namespace: r.id.Namespace, Name: r.id.Name})
	default:
		next.verdict = r.verdict
	}
	r.verdict = next.verdict
	if r.object == nil {
		c.objects.forget(r)
	}
}

// compileRoute judges a route that is this IngressController's.
func (c *Compiler) compileRoute(r *route) judgement {
	v := &tsujiv1.RouteVerdict{
		IngressController: c.ingressController,
		Namespace:         printable(r.id.Namespace),
		Name:              printable(r.id.Name),
		Host:              printable(r.host),
		Path:              printable(r.object.Spec.Path),
		Termination:       terminationOf(r.object.Spec.TLS),
		Source:            r.rule.source(),
		Exact:             r.rule != nil && r.rule.exact,
	}
	var kept keptRoute
	refuse := func(reason, message string) judgement {
		v.Reason, v.Message = reason, printable(message)
		return judgement{verdict: v, kept: kept}
	}
	switch {
	case r.refusal != nil:
		return refuse(r.refusal.reason, r.refusal.message)
	case r.lost != "":
		return refuse(reasonClaimed, r.lost)
	case r.rule != nil && len(r.rule.faults) > 0:
		faults := slices.Clone(r.rule.faults)
		if r.rule.destinationFault != "" {
			faults = append(faults, r.rule.destinationFault)
		}
		return refuse(reasonIncomplete, joined(faults))
	}
	b := newBuilder(c, r)
	b.build()
	kept = b.kept
	if len(b.external)+len(b.faults) == 1 {
		v.MissingSecret = printable(b.missing)
	}
	switch {
	case b.incomplete != "":
		v.MissingSecret = printable(r.rule.missing)
		return refuse(reasonIncomplete, b.incomplete)
	case len(b.external) > 0:
		return refuse(reasonExternalInvalid, joined(b.external))
	case b.unread != "":
		return refuse(reasonExternalUnread, b.unread)
	case len(b.faults) > 0:
		return refuse(reasonInvalid, joined(b.faults))
	}
	item, err := b.encode()
	if err != nil {
		return refuse(reasonInvalid, err.Error())
	}
	j := judgement{
		verdict: v, route: &item, kept: kept,
		endpoints: b.endpoints, secret: b.secret, serviceCA: b.serviceCA, owned: b.ownedItems(),
	}
	if r.held != nil {
		if j = c.compileHeld(r, b, v, refuse); j.route == nil {
			return j
		}
	}
	if fault := c.holdFacts(&j); fault != "" {
		return refuse(reasonQuarantined, fault)
	}
	v.Admitted = true
	slices.Sort(b.setBy)
	v.SetBy = slices.Compact(b.setBy)
	v.CertificateNotAfter, v.LastGood = b.notAfter, b.told
	for _, w := range b.warnings {
		v.Warnings = append(v.Warnings, printable(w))
	}
	if b.untold > 0 {
		v.Warnings = append(v.Warnings, fmt.Sprintf("and %d more warnings", b.untold))
	}
	return j
}

// features are what a router must have to serve a Route as it is meant, sorted.
func features(r *tsujiv1.Route) (required []string) {
	if r.GetExact() {
		required = append(required, tsujiv1.FeatureExactPath)
	}
	if escaped(r.GetRequestHeaders(), r.GetResponseHeaders()) {
		required = append(required, tsujiv1.FeatureHeaderEscape)
	}
	return required
}
