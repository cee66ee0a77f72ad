package compile

import (
	"fmt"
	"regexp"

	operatorv1 "github.com/openshift/api/operator/v1"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// clientTLS compiles spec.clientTLS. What cannot be read of it closes rather than opens. CA certificates that have
// vanished, or that cannot be read, or whose revocation lists cannot be, stay in use as they were; if there never
// were any, no certificate of a client is accepted. Where no pattern can be used nobody matches.
func (s *settings) clientTLS() {
	const field = "spec.clientTLS."
	kept := &s.c.kept.clientCA
	t := s.spec.ClientTLS
	switch t.ClientCertificatePolicy {
	case operatorv1.ClientCertificatePolicyRequired, operatorv1.ClientCertificatePolicyOptional:
	case "":
		*kept = keptCertificate{}
		return
	default:
		s.fault(unsupported(field+"clientCertificatePolicy", string(t.ClientCertificatePolicy), "Optional", "Required"))
	}
	c := &tsujiv1.ClientTLS{Required: t.ClientCertificatePolicy != operatorv1.ClientCertificatePolicyOptional}
	s.out.ClientTls = c
	if k := s.configMap(1, field+"clientCA.name", t.ClientCA.Name); k != (id{}) {
		if fault := kept.follow(k, s.c.clientCA); fault != "" {
			s.faultOf(invalid(field+"clientCA.name", k.Name, fault+"; "+kept.stays("ConfigMap", nobodyGetsIn(c))),
				"put the CA certificates into "+clientCAKey+" of ConfigMap "+k.String())
		} else {
			for _, f := range s.c.revocationFaults(k, len(kept.certificate.GetRevocationListsPem()) > 0) {
				s.fault(invalid(field+"clientCA.name", k.Name, f))
			}
		}
	}
	if kept.of != (id{}) {
		c.Ca = tsujiv1.CertificateName(kept.of.Namespace, tsujiv1.FromConfigMap, kept.of.Name)
		c.CheckRevocation = len(kept.certificate.GetRevocationListsPem()) > 0
	}
	for i, p := range t.AllowedSubjectPatterns {
		if f := patternFault(p); f != "" {
			s.fault(invalid(fmt.Sprintf("%sallowedSubjectPatterns[%d]", field, i), p, f))
			continue
		}
		c.AllowedSubjectPatterns = append(c.AllowedSubjectPatterns, p)
	}
	if len(t.AllowedSubjectPatterns) > 0 && len(c.AllowedSubjectPatterns) == 0 {
		c.AllowedSubjectPatterns = []string{matchesNothing}
	}
}

// nobodyGetsIn tells what becomes of clients while there are no CA certificates, and never were.
func nobodyGetsIn(c *tsujiv1.ClientTLS) string {
	if c.GetRequired() {
		return "until then every request whose TLS ends at a router is answered with 503"
	}
	return "until then no client is asked for a certificate, and nobody has one"
}

const (
	matchesNothing = "a^"
	maxPattern     = 1024 // bytes of one
)

// foreignSyntax is what Go and PCRE read differently, or only one of them reads; escapedSign is a sign that
// stands for itself.
var (
	foreignSyntax = regexp.MustCompile(`\\[A-CE-RT-VX-Zac-ce-rt-vx-z0-9]|\(\?(?:[^:]|$)|\[[:.=]|\(\*|\{,`)
	escapedSign   = regexp.MustCompile(`\\[^0-9A-Za-z]`)
)

// patternFault tells what is wrong with a regular expression, which must mean the same to PCRE and to Go.
func patternFault(p string) string {
	switch {
	case p == "":
		return "an empty pattern matches everybody"
	case len(p) > maxPattern:
		return fmt.Sprintf("must be no longer than %d bytes", maxPattern)
	case hasControl(p):
		return controlRemedy
	}
	if _, err := regexp.Compile(p); err != nil {
		return "must be a regular expression: " + err.Error()
	}
	if m := foreignSyntax.FindString(escapedSign.ReplaceAllString(p, "x")); m != "" {
		return quoted(m) + " is not supported in a pattern"
	}
	return ""
}
