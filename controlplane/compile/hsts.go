package compile

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	configv1 "github.com/openshift/api/config/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

// ingressConfig is the cluster's one object of its kind.
var ingressConfig = id{Name: "cluster"}

// hstsPolicy says what the HSTS header of some Routes must say.
//
// OpenShift's API server holds these policies when a Route is made, and when its annotation changes: what was there
// before a policy stays. Here they are held as long as they are there, like every rule of that API.
type hstsPolicy struct {
	required   configv1.RequiredHSTSPolicy
	namespaces labels.Selector // nil: all
}

// hstsPoliciesOf reads the cluster's policies, and tells what is wrong with them. A selector that cannot be read
// selects all: a policy must not cease to hold by a mistake.
func hstsPoliciesOf(config *configv1.Ingress) (policies []hstsPolicy, faults []string) {
	if config == nil {
		return nil, nil
	}
	for i, r := range config.Spec.RequiredHSTSPolicies {
		field := fmt.Sprintf("spec.requiredHSTSPolicies[%d]", i)
		p := hstsPolicy{required: r}
		if r.NamespaceSelector != nil {
			var err error
			if p.namespaces, err = metav1.LabelSelectorAsSelector(r.NamespaceSelector); err != nil {
				p.namespaces = nil
				faults = append(faults, fmt.Sprintf("%s.namespaceSelector: %v; the policy is for all namespaces", field, err))
			}
		}
		for j, pattern := range r.DomainPatterns {
			if _, err := path.Match(pattern, ""); err != nil {
				faults = append(faults, invalid(fmt.Sprintf("%s.domainPatterns[%d]", field, j), pattern, "is not a pattern; it matches nothing"))
			}
		}
		policies = append(policies, p)
	}
	return policies, faults
}

// changeIngressConfig takes the cluster's configuration of ingress; nil: there is none.
func (c *Compiler) changeIngressConfig(obj *configv1.Ingress, d *dirty) {
	c.hsts, c.hstsFaults = hstsPoliciesOf(obj)
	maps.Copy(d.content, c.objects.routes)
	d.settings = true // which tells the faults
}

// ingressConfigFaults are the faults of the cluster's configuration of ingress.
func (c *Compiler) ingressConfigFaults() []cluster.Fault {
	var faults []cluster.Fault
	for _, f := range c.hstsFaults {
		faults = append(faults, cluster.Fault{
			Place: cluster.Key{Kind: cluster.IngressConfig, Name: ingressConfig.Name}.String(), Message: printable(f), Remedy: "mend what it says there",
		})
	}
	return faults
}

// selectsByNamespace tells whether one of the policies is for some namespaces only.
func selectsByNamespace(policies []hstsPolicy) bool {
	return slices.ContainsFunc(policies, func(p hstsPolicy) bool { return p.namespaces != nil })
}

// isFor tells whether a policy is for the Routes of a host and namespace.
func (p hstsPolicy) isFor(host string, namespace labels.Labels) bool {
	if p.namespaces != nil && !p.namespaces.Matches(namespace) {
		return false
	}
	return slices.ContainsFunc(p.required.DomainPatterns, func(pattern string) bool {
		matched, err := path.Match(pattern, host)
		return err == nil && matched
	})
}

// requiredHSTS holds the first policy that is for the Route. With passthrough the router sends no header.
func (b *builder) requiredHSTS() {
	if b.passthrough() || len(b.c.hsts) == 0 {
		return
	}
	namespace := namespaceLabels(b.id.Namespace, b.c.objects.namespaces[b.id.Namespace])
	i := slices.IndexFunc(b.c.hsts, func(p hstsPolicy) bool { return p.isFor(b.route.GetHost(), namespace) })
	if i < 0 {
		return
	}
	header, _ := b.annotation(annHSTS)
	if f := b.c.hsts[i].fault(header); f != "" {
		b.fault(fmt.Sprintf("metadata.annotations[%s]: Forbidden: %s", annHSTS, f))
	}
}

var maxAge = regexp.MustCompile(`(?i)max-age *= *"?([0-9]+)`)

// fault tells what a header lacks, in the words of OpenShift's API server; empty: nothing.
func (p hstsPolicy) fault(header string) string {
	header = strings.Trim(header, " ")
	m := maxAge.FindStringSubmatch(header)
	if m == nil || !hstsValue.MatchString(header) {
		return "HSTS max-age must be set correctly in HSTS annotation"
	}
	age, err := strconv.ParseInt(m[1], 10, 64)
	if most := p.required.MaxAge.LargestMaxAge; most != nil && (err != nil || age > int64(*most)) {
		return fmt.Sprintf("HSTS max-age is greater than maximum age %ds", *most)
	}
	if least := p.required.MaxAge.SmallestMaxAge; least != nil && err == nil && age < int64(*least) {
		return fmt.Sprintf("HSTS max-age is less than minimum age %ds", *least)
	}
	lower := strings.ToLower(header)
	for _, d := range []struct {
		name          string
		must, mustNot bool
	}{
		{"preload", p.required.PreloadPolicy == configv1.RequirePreloadPolicy, p.required.PreloadPolicy == configv1.RequireNoPreloadPolicy},
		{"includeSubDomains", p.required.IncludeSubDomainsPolicy == configv1.RequireIncludeSubDomains, p.required.IncludeSubDomainsPolicy == configv1.RequireNoIncludeSubDomains},
	} {
		switch has := strings.Contains(lower, strings.ToLower(d.name)); {
		case d.must && !has:
			return "HSTS " + d.name + " must be specified"
		case d.mustNot && has:
			return "HSTS " + d.name + " must not be specified"
		}
	}
	return ""
}
