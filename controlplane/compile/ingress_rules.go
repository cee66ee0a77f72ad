package compile

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"maps"
	"slices"
	"strings"

	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

// annInsecurePolicy on an Ingress says what happens to plain HTTP where there is TLS. OpenShift has people
// edit the Routes that it makes; here there is none to edit.
const annInsecurePolicy = tsujiPrefix + "insecure-edge-termination-policy"

// Annotations of Ingresses that do not go into Routes: they are about the translation.
var translationAnnotations = []string{
	cluster.IngressClassAnnotation, cluster.TerminationAnnotation, cluster.DestinationCAAnnotation,
	annInsecurePolicy, "route.openshift.io/reconcile-labels",
}

// A translation makes Routes of one Ingress.
//
// OpenShift's route controller: a Route for each path of a rule with a host and a Service, with the Ingress's
// annotations and labels; where TLS ends by annotation, or at the edge if spec.tls has a Secret for the host;
// plain HTTP is redirected where there is TLS. What differs is in docs/ingress.md.
type translation struct {
	c           *Compiler
	obj         *networkingv1.Ingress
	annotations map[string]string // of the Routes
	termination routev1.TLSTerminationType
	insecure    routev1.InsecureEdgeTerminationPolicyType
	setBy       []string // annotations that termination and insecure are by
	warnings    []string // about the Ingress as a whole
	seen        map[string]int
	out         translated
}

func newTranslation(c *Compiler, obj *networkingv1.Ingress) *translation {
	t := &translation{c: c, obj: obj, annotations: maps.Clone(obj.Annotations),
		insecure: routev1.InsecureEdgeTerminationPolicyRedirect, seen: map[string]int{}}
	for _, a := range translationAnnotations {
		delete(t.annotations, a)
	}
	if v, ok := obj.Annotations[cluster.TerminationAnnotation]; ok {
		switch s := routev1.TLSTerminationType(v); s {
		case routev1.TLSTerminationEdge, routev1.TLSTerminationReencrypt, routev1.TLSTerminationPassthrough:
			t.termination = s
			t.setBy = append(t.setBy, cluster.TerminationAnnotation)
		default:
			t.warnings = append(t.warnings,
				fmt.Sprintf("annotation %s: %s is not one of edge, passthrough, reencrypt; it is ignored", cluster.TerminationAnnotation, quoted(v)))
		}
	}
	if v, ok := obj.Annotations[annInsecurePolicy]; ok {
		switch p := routev1.InsecureEdgeTerminationPolicyType(v); p {
		case routev1.InsecureEdgeTerminationPolicyNone, routev1.InsecureEdgeTerminationPolicyAllow, routev1.InsecureEdgeTerminationPolicyRedirect:
			t.insecure = p
			t.setBy = append(t.setBy, annInsecurePolicy)
		default:
			t.warnings = append(t.warnings,
				fmt.Sprintf("annotation %s: %s is not one of Allow, None, Redirect; Redirect is used", annInsecurePolicy, quoted(v)))
		}
	}
	return t
}

// rules makes what the rules ask for.
func (t *translation) rules() {
	spec := &t.obj.Spec
	for i := range spec.Rules {
		r := &spec.Rules[i]
		field := fmt.Sprintf("spec.rules[%d]", i)
		switch {
		case r.Host == "":
			t.incomplete(i, 0, field, r.Host, "", required(field+".host", "a rule without a host is not served"))
		case r.HTTP == nil || len(r.HTTP.Paths) == 0:
			t.incomplete(i, 0, field, r.Host, "", required(field+".http.paths", "a rule without a path is not served"))
		default:
			for j := range r.HTTP.Paths {
				t.path(i, j, r.Host, &r.HTTP.Paths[j])
			}
		}
	}
	const noDefault = "a backend without a host is not served"
	switch {
	case spec.DefaultBackend != nil && len(spec.Rules) > 0:
		t.warnings = append(t.warnings, "spec.defaultBackend: "+noDefault)
	case spec.DefaultBackend != nil:
		t.incomplete(0, 0, "spec.defaultBackend", "", "", required("spec.rules", noDefault))
	case len(spec.Rules) == 0:
		t.incomplete(0, 0, "spec.rules", "", "", required("spec.rules", "there is nothing to serve"))
	}
}

// path makes a Route of one path.
func (t *translation) path(i, j int, host string, p *networkingv1.HTTPIngressPath) {
	field := fmt.Sprintf("spec.rules[%d].http.paths[%d]", i, j)
	kind := networkingv1.PathTypeImplementationSpecific
	if p.PathType != nil {
		kind = *p.PathType
	}
	switch {
	case p.Backend.Service == nil:
		t.incomplete(i, j, field, host, p.Path, required(field+".backend.service", "only Services are served"))
		return
	case p.Backend.Service.Name == "":
		t.incomplete(i, j, field, host, p.Path, required(field+".backend.service.name", "a Service must be named"))
		return
	case kind != networkingv1.PathTypeExact && kind != networkingv1.PathTypePrefix && kind != networkingv1.PathTypeImplementationSpecific:
		t.incomplete(i, j, field, host, p.Path,
			unsupported(field+".pathType", string(kind), "Exact", "Prefix", "ImplementationSpecific"))
		return
	case kind == networkingv1.PathTypeExact && p.Path == "":
		t.incomplete(i, j, field, host, p.Path, required(field+".path", "an exact path must be given"))
		return
	}
	m := t.route(i, j, field, host, p.Path, kind == networkingv1.PathTypeExact)
	spec := &m.object.Spec
	if kind == networkingv1.PathTypePrefix { // "/a/" means "/a" and what is below it
		if spec.Path = strings.TrimRight(p.Path, "/"); spec.Path == "" {
			spec.Path = "/"
		}
	}
	spec.To.Name = p.Backend.Service.Name
	t.port(m, p.Backend.Service)
	t.tls(m, host)
	t.out.routes = append(t.out.routes, m)
}

// incomplete tells of a part of which no Route can be made.
func (t *translation) incomplete(i, j int, field, host, path, why string) {
	m := t.route(i, j, field, host, path, false)
	m.rule.incomplete = why
	t.out.routes = append(t.out.routes, m)
}

// route makes a Route for a host and path, without what it does there. It is as old as the Ingress, and of
// those that are made of one the first is the oldest.
func (t *translation) route(i, j int, field, host, path string, exact bool) made {
	weight := int32(100)
	m := made{
		id:   id{Namespace: t.obj.Namespace, Name: t.name(host, path, exact)},
		rule: &rule{ingress: t.obj.Name, uid: t.obj.UID, field: field, exact: exact},
	}
	m.object = &routev1.Route{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: m.id.Namespace, Name: m.id.Name, Labels: t.obj.Labels, Annotations: t.annotations, CreationTimestamp: t.obj.CreationTimestamp,
			UID: types.UID(fmt.Sprintf("%s/%s/%05d/%05d", t.obj.UID, t.obj.Name, i, j)),
		},
		Spec: routev1.RouteSpec{
			Host: host, Path: path, WildcardPolicy: routev1.WildcardPolicyNone,
			To: routev1.RouteTargetReference{Kind: "Service", Weight: &weight},
		},
	}
	if domain, ok := strings.CutPrefix(host, "*."); ok {
		m.object.Spec.Host, m.object.Spec.WildcardPolicy = "wildcard."+domain, routev1.WildcardPolicySubdomain
	}
	return m
}

// The name of a Route that is made: no longer than OpenShift's, of the Ingress's name and a hash.
const (
	maxMadeName = 63
	madeHash    = 10
)

var hashText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// name names a Route by the Ingress, host and path; what asks for the same again has another name.
func (t *translation) name(host, path string, exact bool) string {
	what := host + "\x00" + path
	if exact {
		what += "\x00exactly"
	}
	n := t.seen[what]
	t.seen[what]++
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d", t.obj.Name, what, n))
	base := t.obj.Name
	if most := maxMadeName - 1 - madeHash; len(base) > most {
		base = strings.TrimRight(base[:most], "-.")
	}
	return base + "-" + hashText.EncodeToString(sum[:])[:madeHash]
}

// port finds what the Service's port is called in EndpointSlices: a port of the only one that has no name is
// any. A Service that does not exist is no fault: its port is what it is asked for by.
func (t *translation) port(m made, b *networkingv1.IngressServiceBackend) {
	field := m.rule.field + ".backend.service"
	k := id{Namespace: m.id.Namespace, Name: b.Name}
	t.out.services = append(t.out.services, k)
	ports, exists := t.c.ingresses.ports[k]
	asked := intstr.FromInt32(b.Port.Number)
	if b.Port.Name != "" {
		asked = intstr.FromString(b.Port.Name)
	}
	if !exists {
		m.object.Spec.Port = &routev1.RoutePort{TargetPort: asked}
		return
	}
	i := slices.IndexFunc(ports, func(p corev1.ServicePort) bool {
		return b.Port.Name != "" && p.Name == b.Port.Name || b.Port.Name == "" && p.Port == b.Port.Number
	})
	switch {
	case i < 0:
		m.rule.faults = append(m.rule.faults,
			invalid(field+".port", asked.String(), fmt.Sprintf("Service %s has no such port", quoted(b.Name))))
	case ports[i].Name != "":
		m.object.Spec.Port = &routev1.RoutePort{TargetPort: intstr.FromString(ports[i].Name)}
	}
}

// tls says where TLS ends, and by which certificates.
func (t *translation) tls(m made, host string) {
	secret, field, listed := t.secretOf(host)
	if t.termination == "" && !listed && !slices.ContainsFunc(t.obj.Spec.TLS, isEmptyTLS) {
		return
	}
	tls := &routev1.TLSConfig{Termination: t.termination, InsecureEdgeTerminationPolicy: t.insecure}
	if tls.Termination == "" {
		tls.Termination = routev1.TLSTerminationEdge
	}
	m.object.Spec.TLS = tls
	m.rule.setBy = append(m.rule.setBy, t.setBy...)
	if tls.Termination == routev1.TLSTerminationPassthrough {
		if m.object.Spec.Path == "/" && !m.rule.exact { // a Prefix must have a path
			m.object.Spec.Path = ""
		}
		return
	}
	if secret != "" {
		m.rule.secretField = field
		tls.ExternalCertificate = &routev1.LocalObjectReference{Name: secret}
	}
	if ca, ok := t.obj.Annotations[cluster.DestinationCAAnnotation]; ok &&
		tls.Termination == routev1.TLSTerminationReencrypt {
		t.destinationCA(m, ca)
	}
}

// secretOf returns the Secret that spec.tls has for a host, and where it is named.
func (t *translation) secretOf(host string) (secret, field string, listed bool) {
	for i := range t.obj.Spec.TLS {
		if e := &t.obj.Spec.TLS[i]; slices.Contains(e.Hosts, host) {
			return e.SecretName, fmt.Sprintf("spec.tls[%d].secretName", i), true
		}
	}
	return "", "", false
}

// isEmptyTLS tells of an entry that asks for TLS everywhere, with the default certificate.
func isEmptyTLS(t networkingv1.IngressTLS) bool { return len(t.Hosts) == 0 && t.SecretName == "" }

// destinationField is where an Ingress names the Secret for that.
const destinationField = "metadata.annotations[" + cluster.DestinationCAAnnotation + "]"

// destinationCA has endpoints verified with the certificate in a Secret.
//
// OpenShift's route controller goes on without it if it is not to be had; then the cluster's own CA counts,
// or nothing is verified. Here the Route is not served, or goes on with what was last good.
func (t *translation) destinationCA(m made, name string) {
	k := id{Namespace: m.id.Namespace, Name: name}
	t.out.secrets = append(t.out.secrets, k)
	m.rule.destination = name
	fault := func(why string) {
		m.rule.destinationFault = invalid(destinationField, name, why)
	}
	switch s := t.c.objects.secrets[k]; {
	case s == nil && t.c.objects.unread[k] != "":
		fault("the Secret cannot be read: " + t.c.objects.unread[k])
	case s == nil:
		m.rule.missing = name
		fault("there is no such Secret in the namespace")
	case s.Type != corev1.SecretTypeTLS && s.Type != corev1.SecretTypeOpaque:
		fault("the Secret is neither of type kubernetes.io/tls nor Opaque")
	case len(s.Data[corev1.TLSCertKey]) == 0:
		fault("there is no tls.crt in the Secret")
	default:
		m.object.Spec.TLS.DestinationCACertificate = string(s.Data[corev1.TLSCertKey])
	}
}

// belowWildcard tells, of a wildcard that no rule has, that it does not cover the hosts of rules below it, as in
// OpenShift; empty: there is no such host.
func (t *translation) belowWildcard(wildcard string) string {
	domain, ok := strings.CutPrefix(wildcard, "*.")
	if !ok {
		return ""
	}
	for i := range t.obj.Spec.Rules {
		if h := t.obj.Spec.Rules[i].Host; parent(h) == domain {
			return fmt.Sprintf(": it does not cover %s, name that", quoted(h))
		}
	}
	return ""
}

// warn tells with the first rule what is to be told of the whole.
func (t *translation) warn() {
	hosts := map[string]bool{}
	for i := range t.obj.Spec.Rules {
		hosts[t.obj.Spec.Rules[i].Host] = true
	}
	for i, e := range t.obj.Spec.TLS {
		if len(e.Hosts) == 0 && e.SecretName != "" {
			t.warnings = append(t.warnings,
				fmt.Sprintf("spec.tls[%d].hosts: it is empty, so the Secret is used for no host", i))
		}
		for j, h := range e.Hosts {
			if !hosts[h] {
				t.warnings = append(t.warnings,
					fmt.Sprintf("spec.tls[%d].hosts[%d]: no rule has the host %s%s", i, j, quoted(h), t.belowWildcard(h)))
			}
		}
	}
	if first := t.out.routes[0].rule; len(t.warnings) > 0 {
		first.warnings = append(first.warnings, t.warnings...)
	}
}
