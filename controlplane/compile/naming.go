package compile

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	operatorv1 "github.com/openshift/api/operator/v1"
	routev1 "github.com/openshift/api/route/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Annotations of an IngressController for what OpenShift's router is told by flags of its own
// (--hostname-template, --override-hostname, --override-domains, --allowed-domains, --denied-domains), so
// that who has which host stays a function of the objects.
const (
	annHostnameTemplate = tsujiPrefix + "hostname-template"
	annOverrideHostname = tsujiPrefix + "override-hostname"
	annOverrideDomains  = tsujiPrefix + "override-domains"
	annAllowedDomains   = tsujiPrefix + "allowed-domains"
	annDeniedDomains    = tsujiPrefix + "denied-domains"
)

// naming is how Routes get their hosts, and which they may have.
type naming struct {
	domain   string   // for Routes with a subdomain and no host; empty: none
	template template // for Routes without a host, and for those whose host does not count
	override bool     // no Route's own host counts
	// Domains, each with everything below it: in which no Route's own host counts; to which hosts are
	// confined, if limited; in which there are none.
	overridden, allowed, denied []string
	limited                     bool
}

// namingOf reads an IngressController, and tells what is wrong with it. What cannot be read closes: a
// template that cannot be used leaves the Routes that it would name without a host.
func namingOf(ic *operatorv1.IngressController) (n naming, faults []string) {
	fault := func(name, detail string) {
		faults = append(faults, invalid("metadata.annotations["+name+"]", ic.Annotations[name], detail))
	}
	if n.domain = ic.Status.Domain; n.domain == "" {
		n.domain = ic.Spec.Domain
	}
	var detail string
	if n.template, detail = parseTemplate(ic.Annotations[annHostnameTemplate]); detail != "" {
		fault(annHostnameTemplate, detail+"; Routes that it would name have no host")
	}
	if v := ic.Annotations[annOverrideHostname]; v != "" {
		on, err := strconv.ParseBool(v)
		if err != nil {
			fault(annOverrideHostname, "must be true or false; it counts as true")
		}
		n.override = on || err != nil
	}
	for _, l := range []struct {
		name   string
		to     *[]string
		closes bool // more domains in it let in less
	}{{annOverrideDomains, &n.overridden, true}, {annAllowedDomains, &n.allowed, false}, {annDeniedDomains, &n.denied, true}} {
		entries := strings.FieldsFunc(ic.Annotations[l.name], func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
		for _, e := range entries {
			domain := strings.ToLower(e)
			bare := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(domain, "*"), "."), ".")
			switch isBare := bare == domain; {
			case len(validation.IsDNS1123Subdomain(bare)) > 0:
				fault(l.name, quoted(e)+" is not a domain; it is passed over")
				continue
			case !isBare && !l.closes:
				fault(l.name, fmt.Sprintf("%s is passed over: write %s, which also means everything below it", quoted(e), bare))
				continue
			case !isBare:
				fault(l.name, fmt.Sprintf("%s counts as %s: write that, which also means everything below it", quoted(e), bare))
			}
			*l.to = append(*l.to, bare)
		}
		slices.Sort(*l.to)
		*l.to = slices.Compact(*l.to)
		if l.to == &n.allowed && len(entries) > 0 {
			if n.limited = true; len(n.allowed) == 0 {
				fault(l.name, "there is no domain in it; no Route is admitted")
			}
		}
	}
	if (n.override || len(n.overridden) > 0) && !n.template.given {
		for _, name := range []string{annOverrideHostname, annOverrideDomains} {
			if ic.Annotations[name] != "" {
				fault(name, "has no effect without the annotation "+annHostnameTemplate)
			}
		}
	}
	return n, faults
}

func (n naming) equal(o naming) bool {
	return n.domain == o.domain && n.template.given == o.template.given && slices.Equal(n.template.parts, o.template.parts) &&
		n.override == o.override && n.limited == o.limited &&
		slices.Equal(n.overridden, o.overridden) && slices.Equal(n.allowed, o.allowed) && slices.Equal(n.denied, o.denied)
}

// hostOf returns the host that a Route asks for, or is given, and by which field or annotation; empty: none.
//
// OpenShift's router: a host of its own, else one of its subdomain; over both goes the template if it is to.
func (n naming) hostOf(r *routev1.Route) (host, by string) {
	if host, by = r.Spec.Host, "spec.host"; host == "" {
		by = ""
	}
	if host == "" && r.Spec.Subdomain != "" && n.domain != "" {
		host, by = r.Spec.Subdomain+"."+n.domain, "spec.subdomain"
	}
	if !n.template.given || host != "" && !n.override && !within(host, n.overridden) {
		return host, by
	}
	return n.template.expand(r.Namespace, r.Name), annHostnameTemplate
}

// refuses tells why no Route may have a host; empty: one may. A wildcard has every host beside its own, and
// may have none of those that another may not.
//
// OpenShift's router: what is denied is so even if it is allowed. It does not look at what else a wildcard has.
func (n naming) refuses(host string, wildcard bool) string {
	if host == "" {
		return ""
	}
	beside := func(d string) bool { return wildcard && parent(d) == parent(host) }
	switch {
	case within(host, n.denied) || slices.ContainsFunc(n.denied, beside):
		return "host in list of denied domains"
	case n.limited && (!within(host, n.allowed) || wildcard && !within(parent(host), n.allowed)):
		return "host not in the allowed list of domains"
	}
	return ""
}

// within tells whether a host is one of the domains or below one. They are sorted.
func within(host string, domains []string) bool {
	for rest := host; len(domains) > 0 && rest != ""; rest = parent(rest) {
		if _, found := slices.BinarySearch(domains, rest); found {
			return true
		}
	}
	return false
}

// template is a host with variables.
type template struct {
	given bool
	parts []templatePart // empty: it cannot be used
}

// templatePart is a text, or the variable that stands there.
type templatePart struct{ text, variable string }

var variable = regexp.MustCompile(`\$(?:\{([^{}]*)\}|([A-Za-z_][A-Za-z0-9_]*))`)

// parseTemplate reads a template, and tells what is wrong with it.
//
// OpenShift's router: ${name} and $name are the Route's name, ${namespace} and $namespace its namespace, there
// are no other variables, and quotes around all of it are none of it.
func parseTemplate(text string) (template, string) {
	if text == "" {
		return template{}, ""
	}
	const variables = "${name} and ${namespace}"
	var parts []templatePart
	rest := strings.Trim(text, `"'`)
	for {
		at := variable.FindStringSubmatchIndex(rest)
		if at == nil {
			break
		}
		m := variable.FindStringSubmatch(rest)
		v := m[1] + m[2] // one of them is empty
		if v != "name" && v != "namespace" {
			return template{given: true}, quoted(v) + " is not a variable: there are " + variables
		}
		parts = append(parts, templatePart{text: rest[:at[0]]}, templatePart{variable: v})
		rest = rest[at[1]:]
	}
	t := template{given: true, parts: append(parts, templatePart{text: rest})}
	if f := hostFaults(t.expand("namespace", "name")); len(f) > 0 {
		return template{given: true}, "must be a host with the variables " + variables + " in it: " + f[0]
	}
	return t, ""
}

func (t template) expand(namespace, name string) string {
	var b strings.Builder
	for _, p := range t.parts {
		switch p.variable {
		case "name":
			b.WriteString(name)
		case "namespace":
			b.WriteString(namespace)
		default:
			b.WriteString(p.text)
		}
	}
	return b.String()
}
