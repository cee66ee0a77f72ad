package compile

import (
	"maps"

	operatorv1 "github.com/openshift/api/operator/v1"
	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
)

// policy is what an IngressController says of which Routes it admits, and of what they have in common.
type policy struct {
	routes, namespaces labels.Selector // nil: all
	strict             bool            // a host belongs to the namespace of its oldest Route
	wildcards          bool            // whether wildcard Routes are admitted
	naming             naming          // which hosts Routes have
	leastConnections   bool            // how Routes with one Service are balanced; else at random
}

// policyOf reads an IngressController; nil: the defaults.
func policyOf(ic *operatorv1.IngressController) policy {
	p := policy{strict: true}
	if ic == nil {
		return p
	}
	p.routes, p.namespaces = selector(ic.Spec.RouteSelector), selector(ic.Spec.NamespaceSelector)
	if a := ic.Spec.RouteAdmission; a != nil {
		p.strict = a.NamespaceOwnership != operatorv1.InterNamespaceAllowedOwnershipCheck
		p.wildcards = a.WildcardPolicy == operatorv1.WildcardPolicyAllowed
	}
	p.naming, _ = namingOf(ic) // what is wrong with it is told with the settings
	p.leastConnections = overridesOf(ic).LoadBalancingAlgorithm == algorithmLeastConn
	return p
}

// selector reads a label selector; nil selects all. One that cannot be read selects nothing: what was
// meant to be kept out must not get in.
func selector(s *metav1.LabelSelector) labels.Selector {
	if s == nil || len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0 {
		return nil
	}
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return sel
}

func (p policy) equal(o policy) bool {
	same := func(a, b labels.Selector) bool {
		return (a == nil) == (b == nil) && (a == nil || a.String() == b.String())
	}
	return same(p.routes, o.routes) && same(p.namespaces, o.namespaces) &&
		p.strict == o.strict && p.wildcards == o.wildcards && p.naming.equal(o.naming) &&
		p.leastConnections == o.leastConnections
}

// selects tells whether a Route is the IngressController's.
func (p policy) selects(r *route, ns *corev1.Namespace) bool {
	if p.routes != nil && !p.routes.Matches(labels.Set(r.object.Labels)) {
		return false
	}
	if p.namespaces == nil {
		return true
	}
	return p.namespaces.Matches(namespaceLabels(r.id.Namespace, ns))
}

// namespaceLabels returns the labels of a Namespace; of one that is not there, that which every Namespace has.
func namespaceLabels(name string, ns *corev1.Namespace) labels.Set {
	of := labels.Set{corev1.LabelMetadataName: name}
	if ns != nil {
		maps.Copy(of, ns.Labels)
	}
	return of
}

// refuses tells why a Route may not even claim its host.
func (p policy) refuses(r *route) *refusal {
	if f := validation.IsDNS1123Label(r.id.Namespace); len(f) > 0 {
		return &refusal{reasonInvalid, invalid("metadata.namespace", r.id.Namespace, f[0])}
	}
	if f := validation.IsDNS1123Subdomain(r.id.Name); len(f) > 0 {
		return &refusal{reasonInvalid, invalid("metadata.name", r.id.Name, f[0])}
	}
	wildcard := r.object.Spec.WildcardPolicy == routev1.WildcardPolicySubdomain
	if why := p.naming.refuses(r.host, wildcard); why != "" {
		return &refusal{reasonNotAdmitted, why}
	}
	switch w := r.object.Spec.WildcardPolicy; {
	case w == "" || w == routev1.WildcardPolicyNone:
	case !wildcard:
		return &refusal{reasonNotAdmitted, "unknown wildcard policy " + quoted(string(w))}
	case !p.wildcards:
		return &refusal{reasonNotAdmitted, "wildcard routes are not allowed"}
	}
	if r.host == "" {
		return &refusal{reasonNoHost, "no host value was defined for the route"}
	}
	if f := hostFaults(r.host); len(f) > 0 {
		return &refusal{reasonInvalidHost, "host name validation errors: " + invalid("spec.host", r.host, f[0])}
	}
	if wildcard && r.object.Spec.Host == "" {
		return &refusal{reasonInvalid, invalid("spec.wildcardPolicy", string(routev1.WildcardPolicySubdomain), "host name not specified for wildcard policy")}
	}
	if wildcard && parent(r.host) == "" {
		return &refusal{reasonInvalidHost, "host name validation errors: " +
			invalid("spec.host", r.host, "a wildcard needs a host with a parent domain")}
	}
	return nil
}
