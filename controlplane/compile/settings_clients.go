package compile

import (
	"fmt"
	"regexp"

	operatorv1 "github.com/openshift/api/operator/v1"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// clientTLS compiles spec.clientTLS. What cannot be read of it closes rather than opens: without its CA
// certificates, or with revocation lists that cannot be read, the Settings refer to some that are not there, which routers refuse, so that they keep what
// they had; and where no pattern can be used nobody matches.
func (s *settings) clientTLS() {
	const field = "spec.clientTLS."
	t := s.spec.ClientTLS
	switch t.ClientCertificatePolicy {
	case operatorv1.ClientCertificatePolicyRequired, operatorv1.ClientCertificatePolicyOptional:
	case "":
		return
	default:
		s.fault(unsupported(field+"clientCertificatePolicy", string(t.ClientCertificatePolicy), "Optional", "Required"))
	}
	c := &tsujiv1.ClientTLS{Required: t.ClientCertificatePolicy != operatorv1.ClientCertificatePolicyOptional}
	s.out.ClientTls = c
	k, _ := s.configMap(1, field+"clientCA.name", t.ClientCA.Name)
	if k == (id{}) {
		k = id{Namespace: configNamespace, Name: "none"}
	} else if ca, fault := s.c.caCertificate(k); ca == nil {
		s.fault(invalid(field+"clientCA.name", k.Name, fault+"; routers take nothing new until it is there"))
	} else {
		s.ca = k
		c.CheckRevocation = len(ca.GetRevocationListsPem()) > 0
		for _, f := range s.c.revocationFaults(k, c.CheckRevocation) {
			s.fault(invalid(field+"clientCA.name", k.Name, f))
		}
	}
	c.Ca = tsujiv1.CertificateName(k.Namespace, tsujiv1.FromConfigMap, k.Name)
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
