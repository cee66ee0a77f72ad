package explain

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// Remarks are what the owner of a Route should know although it is served: what of it routers refuse, and what is
// served instead, and then the warnings.
func Remarks(v *tsujiv1.RouteVerdict) []string {
	var list []string
	for _, q := range v.GetQuarantines() {
		served := "nothing is served in its place"
		if q.GetLastGood() {
			served = "it is served as it was last good"
		}
		by := "routers refuse"
		if q.GetRouter() != "" {
			by = "router " + q.GetRouter() + " refuses"
		}
		list = append(list, fmt.Sprintf("%s %s since %s: %s; %s", by, q.GetResource(),
			q.GetSince().AsTime().Format(time.RFC3339), q.GetMessage(), served))
	}
	return append(list, v.GetWarnings()...)
}

// MadeOf tells which part of which object a Route was made of: "Ingress shop, spec.rules[0]"; empty: it is an
// object of its own.
func MadeOf(v *tsujiv1.RouteVerdict) string {
	if s := v.GetSource(); s != nil {
		return s.GetKind() + " " + s.GetName() + ", " + s.GetField()
	}
	return ""
}

// Termination is where TLS ends, in a word; empty: that is not said.
func Termination(t tsujiv1.Termination) string {
	if t == tsujiv1.Termination_TERMINATION_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(t.String(), "TERMINATION_"))
}

// Certificate tells whom a certificate is for, or the first of CA certificates, and until when; empty: there is none.
func Certificate(c *tsujiv1.Certificate) string {
	text, what := c.GetChainPem(), "certificate for "
	if len(text) == 0 {
		text, what = c.GetCaBundlePem(), "CA certificates, the first of "
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return ""
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return ""
	}
	name := leaf.Subject.CommonName
	if len(leaf.DNSNames) > 0 {
		name = strings.Join(leaf.DNSNames, ", ")
	}
	return what + name + ", until " + leaf.NotAfter.UTC().Format("2006-01-02")
}
