package compile

import (
	"fmt"
	"maps"

	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

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
		b.fault(invalid(field, string(p), "invalid value for InsecureEdgeTerminationPolicy option, acceptable values are None, Redirect, or empty"))
	case p == routev1.InsecureEdgeTerminationPolicyAllow:
		b.route.InsecurePolicy = tsujiv1.InsecurePolicy_INSECURE_POLICY_ALLOW
	default:
		b.fault(invalid(field, string(p), "invalid value for InsecureEdgeTerminationPolicy option, acceptable values are None, Allow, Redirect, or empty"))
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
	if tls.DestinationCACertificate == "" {
		b.serviceCertificates()
		return
	}
	bundle := b.c.crypto.bundle(tls.DestinationCACertificate)
	if bundle.fault != "" {
		b.fault(redacted("destinationCACertificate", bundle.fault))
		return
	}
	for _, n := range bundle.notes {
		b.warn("spec.tls.destinationCACertificate: %s", n)
	}
	if b.rule == nil {
		b.inForce("spec.tls.destinationCACertificate")
	}
	name := tsujiv1.CertificateName(b.id.Namespace, tsujiv1.FromDestinationCA, b.id.Name)
	b.route.DestinationTls = &tsujiv1.DestinationTLS{Verify: true, Ca: name}
	b.owned = append(b.owned, bundleResource(name, bundle.pem))
}

// serviceCA is the ConfigMap that OpenShift's operator mounts in routers: the CA that signs the
// certificates of Services.
var serviceCA = id{Namespace: ingressNamespace, Name: "service-ca-bundle"}

// The keys of the ConfigMaps that hold CA certificates.
const (
	serviceCAKey = "service-ca.crt"
	clientCAKey  = "ca-bundle.pem"
)

// caBundle returns the CA certificates in a ConfigMap; nil, and why, if there are none.
func (c *Compiler) caBundle(k id) (bundle []byte, fault string) {
	key := clientCAKey
	if k == serviceCA {
		key = serviceCAKey
	}
	m := c.objects.configMaps[k]
	switch unread := c.objects.unreadConfigMaps[k]; {
	case m == nil && unread != "":
		return nil, fmt.Sprintf("ConfigMap %s cannot be read: %s", k, unread)
	case m == nil:
		return nil, fmt.Sprintf("configmaps %q not found in namespace %s", k.Name, k.Namespace)
	case m.Data[key] == "":
		return nil, fmt.Sprintf("there is no %s in ConfigMap %s/%s", key, k.Namespace, k.Name)
	}
	b := c.crypto.bundle(m.Data[key])
	if b.fault != "" {
		return nil, fmt.Sprintf("%s in ConfigMap %s/%s: %s", key, k.Namespace, k.Name, b.fault)
	}
	return b.pem, ""
}

// changeServiceCA marks the Routes that are verified with the cluster's own CA if they begin or cease to
// be. That its content changes is no matter of theirs, unless routers refuse some of it.
func (c *Compiler) changeServiceCA(d *dirty) {
	bundle, _ := c.caBundle(serviceCA)
	held := c.holds.may(tsujiv1.CertificateName(serviceCA.Namespace, tsujiv1.FromConfigMap, serviceCA.Name))
	if now := bundle != nil; now != c.hasServiceCA || !now || held {
		c.hasServiceCA = now
		maps.Copy(d.content, c.objects.routesByServiceCA)
	}
}

// serviceCertificates has endpoints verified as what the cluster itself signs: each for the name of its
// Service. A CA that cannot be read refuses the Route: what was verified must not cease to be.
func (b *builder) serviceCertificates() {
	m, unread := b.c.objects.configMaps[serviceCA], b.c.objects.unreadConfigMaps[serviceCA]
	if unread == "" && (m == nil || m.Data[serviceCAKey] == "") {
		b.warn("spec.tls.destinationCACertificate is empty, and there is no ConfigMap %s: the certificates of the endpoints are not verified", serviceCA)
		return
	}
	if _, fault := b.c.caBundle(serviceCA); fault != "" {
		b.fault(required("spec.tls.destinationCACertificate", fault))
		return
	}
	b.serviceCA = serviceCA
	b.route.DestinationTls = &tsujiv1.DestinationTLS{
		Verify: true, VerifyServiceHost: true, Ca: tsujiv1.CertificateName(serviceCA.Namespace, tsujiv1.FromConfigMap, serviceCA.Name),
	}
}

// certificate compiles the certificate for the host: the Route's own, that of a Secret, or the default.
func (b *builder) certificate(tls *routev1.TLSConfig) {
	own := tsujiv1.CertificateName(b.id.Namespace, tsujiv1.FromRoute, b.id.Name)
	switch external := externalCertificateOf(b.object); {
	case external != "" && tls.Certificate != "":
		b.fault(invalid("spec.tls.externalCertificate", external, "cannot specify both tls.certificate and tls.externalCertificate"))
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
			b.external = append(b.external, fmt.Sprintf("%s: Forbidden: router serviceaccount does not have permission to %s this secret", field, verb))
		}
	}
	secret, unread := b.c.objects.secrets[k], b.c.objects.unread[k]
	switch {
	case secret == nil && unread != "":
		b.unread = fmt.Sprintf("%s: secrets %q cannot be read: %s", field, name, unread)
	case secret == nil:
		b.missing = name
		b.external = append(b.external, fmt.Sprintf("%s: Not found: %s", field, quoted(fmt.Sprintf("secrets %q not found", name))))
	case secret.Type != corev1.SecretTypeTLS:
		b.external = append(b.external, invalid(field, name, fmt.Sprintf("secret of type %q required", corev1.SecretTypeTLS)))
	}
	if len(b.external) > 0 || b.unread != "" {
		return
	}
	b.inForce(field)
	p := b.c.secretPair(secret, ca)
	within := map[string]string{"certificate": "the Secret's tls.crt: ", "key": "the Secret's tls.key: "}
	for _, f := range p.faults {
		if of, ok := within[f.field]; ok {
			b.fault(invalid(field, name, of+f.detail))
		} else {
			b.fault(redacted(f.field, f.detail))
		}
	}
	for _, n := range p.notes {
		if of, ok := within[n.field]; ok {
			b.warn("%s: %s%s", field, of, n.detail)
		} else {
			b.warn("spec.tls.%s: %s", n.field, n.detail)
		}
	}
	b.warnOfCertificate(field, p)
	if ca != "" {
		b.route.Certificate = own
		b.owned = append(b.owned, p.resource(own))
		return
	}
	b.route.Certificate = tsujiv1.CertificateName(k.Namespace, tsujiv1.FromSecret, k.Name)
	b.secret = k
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
	return &tsujiv1.Resource{Name: name, Kind: &tsujiv1.Resource_Certificate{Certificate: &tsujiv1.Certificate{CaBundlePem: bundle}}}
}
