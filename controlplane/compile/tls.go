package compile

import (
	"cmp"
	"fmt"

	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// tls compiles spec.tls. What is refused here is what OpenShift's API and extended validation refuse.
func (b *builder) tls() {
	tls := b.object.Spec.TLS
	if tls == nil {
		return
	}
	b.insecurePolicy(tls)
	switch b.route.GetTermination() {
	case tsujiv1.Termination_TERMINATION_PASSTHROUGH:
		b.noCertificates(tls)
	case tsujiv1.Termination_TERMINATION_EDGE:
		if tls.DestinationCACertificate != "" {
			b.fault(redacted("destinationCACertificate", "edge termination does not support destination certificates"))
		}
		b.certificate(tls)
	case tsujiv1.Termination_TERMINATION_REENCRYPT:
		b.destination(tls)
		b.certificate(tls)
	default:
		b.fault(unsupported("spec.tls.termination", string(tls.Termination), "edge", "passthrough", "reencrypt"))
	}
}

func (b *builder) insecurePolicy(tls *routev1.TLSConfig) {
	const field = "spec.tls.insecureEdgeTerminationPolicy"
	if b.rule == nil && tls.InsecureEdgeTerminationPolicy != "" {
		b.inForce(field)
	}
	switch p := tls.InsecureEdgeTerminationPolicy; {
	case p == "" || p == routev1.InsecureEdgeTerminationPolicyNone:
		b.route.InsecurePolicy = tsujiv1.InsecurePolicy_INSECURE_POLICY_NONE
	case p == routev1.InsecureEdgeTerminationPolicyRedirect:
		b.route.InsecurePolicy = tsujiv1.InsecurePolicy_INSECURE_POLICY_REDIRECT
	case b.passthrough():
		b.fault(invalid(field, string(p),
			"invalid value for InsecureEdgeTerminationPolicy option, acceptable values are None, Redirect, or empty"))
	case p == routev1.InsecureEdgeTerminationPolicyAllow:
		b.route.InsecurePolicy = tsujiv1.InsecurePolicy_INSECURE_POLICY_ALLOW
	default:
		b.fault(invalid(field, string(p),
			"invalid value for InsecureEdgeTerminationPolicy option, acceptable values are None, Allow, Redirect, or empty"))
	}
}

// redacted is a fault in a field whose value must not be shown.
func redacted(field, detail string) string {
	what := map[string]string{
		"certificate":              "redacted certificate data",
		"key":                      "redacted key data",
		"caCertificate":            "redacted ca certificate data",
		"destinationCACertificate": "redacted destination ca certificate data",
	}[field]
	return invalid("spec.tls."+field, what, detail)
}

func (b *builder) noCertificates(tls *routev1.TLSConfig) {
	const detail = "passthrough termination does not support certificates"
	for _, f := range []struct{ field, value string }{
		{"certificate", tls.Certificate},
		{"key", tls.Key},
		{"caCertificate", tls.CACertificate},
		{"destinationCACertificate", tls.DestinationCACertificate},
	} {
		if f.value != "" {
			b.fault(redacted(f.field, detail))
		}
	}
	if name := externalCertificateOf(b.object); name != "" {
		b.fault(invalid("spec.tls.externalCertificate", name, detail))
	}
}

// destination compiles how the endpoint's certificate is verified.
func (b *builder) destination(tls *routev1.TLSConfig) {
	b.route.DestinationTls = &tsujiv1.DestinationTLS{}
	switch {
	case b.rule != nil && b.rule.destination != "":
		b.destinationSecret(tls)
		return
	case tls.DestinationCACertificate == "":
		b.serviceCertificates()
		return
	}
	bundle := b.c.crypto.bundle(tls.DestinationCACertificate)
	if bundle.fault != "" {
		b.fault(redacted("destinationCACertificate", bundle.fault))
		return
	}
	const field = "spec.tls.destinationCACertificate"
	b.verifiedWith(bundle, field, field)
}

// verifiedWith has endpoints verified with CA certificates that are the Route's own, which field has; by is what tells
// so.
func (b *builder) verifiedWith(ca bundle, field, by string) (resource string) {
	for _, n := range ca.notes {
		b.warn("%s: %s", field, n)
	}
	b.inForce(by)
	name := tsujiv1.CertificateName(b.id.Namespace, tsujiv1.FromDestinationCA, b.id.Name)
	b.route.DestinationTls = &tsujiv1.DestinationTLS{Verify: true, Ca: name}
	b.owned = append(b.owned, bundleResource(name, ca.pem))
	return name
}

// destinationSecret has endpoints verified with the certificate in the Secret that an Ingress names for that, or with
// what was last good of it.
func (b *builder) destinationSecret(tls *routev1.TLSConfig) {
	secret, why := b.rule.destination, b.rule.destinationFault
	var ca bundle
	if why == "" {
		if ca = b.c.crypto.bundle(tls.DestinationCACertificate); ca.fault == "" {
			b.kept.destination = keptDestinationRef{secret: secret, pem: ca.pem}
			b.verifiedWith(ca, destinationField, cluster.DestinationCAAnnotation)
			return
		}
		why = invalid(destinationField, secret, ca.fault)
	}
	if pem := b.destinationStays(secret); pem != nil {
		name := b.verifiedWith(bundle{pem: pem}, destinationField, cluster.DestinationCAAnnotation)
		b.lastGood(name, why, "the last good CA stays in use for this Route: put a good Secret back, or name another")
		return
	}
	if b.incomplete = b.rule.destinationFault; b.incomplete == "" {
		b.fault(redacted("destinationCACertificate", ca.fault))
	}
}

// certificate compiles the certificate for the host: the Route's own, that of a Secret, or the default.
func (b *builder) certificate(tls *routev1.TLSConfig) {
	own := tsujiv1.CertificateName(b.id.Namespace, tsujiv1.FromRoute, b.id.Name)
	switch external := externalCertificateOf(b.object); {
	case external != "" && tls.Certificate != "":
		b.fault(invalid("spec.tls.externalCertificate", external,
			"cannot specify both tls.certificate and tls.externalCertificate"))
	case external != "":
		if tls.Key != "" {
			b.warn("spec.tls.key is not used: the key is that of spec.tls.externalCertificate")
		}
		b.externalCertificate(external, tls.CACertificate, own)
	case tls.Certificate != "":
		b.inForce("spec.tls.certificate")
		p := b.c.crypto.pair(tls.Certificate, tls.Key, tls.CACertificate)
		for _, f := range p.faults {
			b.fault(redacted(f.field, f.detail))
		}
		for _, n := range p.notes {
			b.warn("spec.tls.%s: %s", n.field, n.detail)
		}
		b.warnOfCertificate("spec.tls.certificate", p)
		b.route.Certificate = own
		b.owned = append(b.owned, p.resource(own))
	default:
		if tls.Key != "" {
			if _, err := parsePEM(tls.Key); err != nil {
				b.fault(redacted("key", err.Error()))
			}
			b.warn("spec.tls.key is not used: spec.tls.certificate is empty, and the default certificate is served")
		}
		if tls.CACertificate != "" {
			if f := b.c.crypto.bundle(tls.CACertificate).fault; f != "" {
				b.fault(redacted("caCertificate", f))
			}
		}
	}
}

// externalCertificate uses the certificate of a Secret. Its resource is shared by all Routes that use it,
// unless one adds CA certificates to the chain.
func (b *builder) externalCertificate(name, ca, own string) {
	field := "spec.tls.externalCertificate"
	if b.rule != nil {
		field = b.rule.secretField
	}
	if f := validation.IsDNS1123Subdomain(name); len(f) > 0 {
		b.external = append(b.external, invalid(field, name, f[0]))
		return
	}
	k := id{Namespace: b.id.Namespace, Name: name}
	if b.rule == nil { // OpenShift copies what an Ingress names into the Route: no right of the router's is needed
		for _, verb := range b.c.access.missing(k) {
			b.external = append(b.external,
				fmt.Sprintf("%s: Forbidden: router serviceaccount does not have permission to %s this secret", field, verb))
		}
	}
	ref := keptCertificateRef{secret: name}
	if ca != "" {
		ref.ca = digestOf(ca)
	}
	p, why := b.usable(field, k, ca)
	switch {
	case len(b.external) > 0: // the right was withdrawn, and with it what is kept
		why.refuse(b)
		return
	case p != nil:
		ref.pair = p
		b.kept.certificate = ref
	default:
		if p = b.stays(ref); p == nil {
			why.refuse(b)
			return
		}
	}
	b.inForce(field)
	b.notesOf(field, p)
	b.warnOfCertificate(field, p)
	b.route.Certificate = own
	if ca == "" {
		b.route.Certificate = tsujiv1.CertificateName(k.Namespace, tsujiv1.FromSecret, k.Name)
		b.secret = k
	} else {
		b.owned = append(b.owned, p.resource(own))
	}
	if b.kept.certificate.stale {
		b.lastGood(b.route.GetCertificate(), why.text(),
			"the last good certificate stays in use for this Route and its host: put a good Secret back, or name another")
	}
}

// unusable is why a Secret cannot be used for a Route.
type unusable struct {
	unread   string   // it cannot be read
	external string   // it is not there, or of another type
	missing  string   // its name, if it is not there
	faults   []string // of its content
}

func (u unusable) text() string {
	return cmp.Or(u.unread, u.external, joined(u.faults))
}

// refuse refuses the Route for it.
func (u unusable) refuse(b *builder) {
	b.unread, b.missing = u.unread, u.missing
	if u.external != "" {
		b.external = append(b.external, u.external)
	}
	b.faults = append(b.faults, u.faults...)
}

// usable returns the certificate of a Secret with the CA certificates that the Route adds to it; nil, and why, if it
// cannot be used.
func (b *builder) usable(field string, k id, ca string) (*pair, unusable) {
	secret, unread := b.c.objects.secrets[k], b.c.objects.unread[k]
	switch {
	case secret == nil && unread != "":
		return nil, unusable{unread: fmt.Sprintf("%s: secrets %q cannot be read: %s", field, k.Name, unread)}
	case secret == nil:
		text := quoted(fmt.Sprintf("secrets %q not found", k.Name))
		return nil, unusable{missing: k.Name, external: fmt.Sprintf("%s: Not found: %s", field, text)}
	case secret.Type != corev1.SecretTypeTLS:
		text := fmt.Sprintf("secret of type %q required", corev1.SecretTypeTLS)
		return nil, unusable{external: invalid(field, k.Name, text)}
	}
	p := b.c.secretPair(secret, ca)
	if len(p.faults) == 0 {
		return p, unusable{}
	}
	var why unusable
	for _, f := range p.faults {
		if of, ok := withinSecret[f.field]; ok {
			why.faults = append(why.faults, invalid(field, k.Name, of+f.detail))
		} else {
			why.faults = append(why.faults, redacted(f.field, f.detail))
		}
	}
	return nil, why
}

// withinSecret is where the fields of a certificate are in a Secret.
var withinSecret = map[string]string{"certificate": "the Secret's tls.crt: ", "key": "the Secret's tls.key: "}

// notesOf tells what is not used of a certificate in a Secret.
func (b *builder) notesOf(field string, p *pair) {
	for _, n := range p.notes {
		if of, ok := withinSecret[n.field]; ok {
			b.warn("%s: %s%s", field, of, n.detail)
		} else {
			b.warn("spec.tls.%s: %s", n.field, n.detail)
		}
	}
}

// secretPair returns the certificate and key of a Secret of type kubernetes.io/tls.
func (c *Compiler) secretPair(s *corev1.Secret, ca string) *pair {
	if s == nil || s.Type != corev1.SecretTypeTLS {
		return &pair{faults: []certFault{{"certificate", "there is no such Secret"}}}
	}
	return c.crypto.pair(string(s.Data[corev1.TLSCertKey]), string(s.Data[corev1.TLSPrivateKeyKey]), ca)
}

// resource makes the Certificate of a pair.
func (p *pair) resource(name string) *tsujiv1.Resource {
	return &tsujiv1.Resource{Name: name, Kind: &tsujiv1.Resource_Certificate{Certificate: &tsujiv1.Certificate{
		ChainPem:   p.chain,
		PrivateKey: &tsujiv1.PrivateKey{Pem: p.key},
	}}}
}

// bundleResource makes the Certificate of CA certificates.
func bundleResource(name string, bundle []byte) *tsujiv1.Resource {
	return &tsujiv1.Resource{Name: name,
		Kind: &tsujiv1.Resource_Certificate{Certificate: &tsujiv1.Certificate{CaBundlePem: bundle}}}
}
