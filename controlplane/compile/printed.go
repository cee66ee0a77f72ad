package compile

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
)

// printed is what HAProxy prints of certificates' names into an answer of its runtime socket, from where they are read.
// It prints the bytes as they stand there: a line break begins another line of the answer.
type printed struct {
	bytes int
	fault string // the first
}

// names adds subject, issuer and alternative names of a certificate.
func (p *printed) names(c *x509.Certificate) {
	p.name("the subject", c.RawSubject)
	p.name("the issuer", c.RawIssuer)
	for _, e := range c.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			p.alternatives(e.Value)
		}
	}
}

// longestAttribute is the longest name that OpenSSL has for an attribute of a distinguished name, with "/" and "=".
const longestAttribute = 32

// name adds a distinguished name, printed like "/C=JP/CN=a". That of an attribute that OpenSSL does not know is its
// number, at most four characters for each byte.
func (p *printed) name(what string, der []byte) {
	p.walk(what, der, func(v asn1.RawValue) {
		if v.Tag == asn1.TagOID && v.Class == asn1.ClassUniversal {
			p.bytes += max(longestAttribute, 4*len(v.Bytes))
			return
		}
		p.bytes += len(v.Bytes)
		p.text(what, v)
	})
}

// alternatives adds alternative names, printed like "DNS:a.example.com, IP Address:192.0.2.1".
func (p *printed) alternatives(der []byte) {
	const what = "an alternative name"
	p.walk(what, der, func(v asn1.RawValue) {
		switch {
		case v.Class == asn1.ClassContextSpecific && (v.Tag == 1 || v.Tag == 2 || v.Tag == 6): // email, DNS, URI
			p.bytes += len(v.Bytes) + len("email:, ")
			p.text(what, asn1.RawValue{Tag: asn1.TagIA5String, Bytes: v.Bytes})
		case v.Class == asn1.ClassUniversal && v.Tag != asn1.TagOID:
			p.bytes += len(v.Bytes) + len("DirName:, ")
			p.text(what, v)
		default:
			p.bytes += 4*len(v.Bytes) + len("othername:<unsupported>, ")
		}
	})
}

// walk visits all that is not made of other elements.
func (p *printed) walk(what string, der []byte, visit func(asn1.RawValue)) {
	const deepest = 8 // a directory name among alternative names is six levels deep
	var within func(der []byte, depth int)
	within = func(der []byte, depth int) {
		for len(der) > 0 {
			var v asn1.RawValue
			rest, err := asn1.Unmarshal(der, &v)
			switch {
			case err != nil || depth > deepest:
				p.refuse(what + " cannot be read")
				return
			case v.IsCompound:
				within(v.Bytes, depth+1)
			default:
				visit(v)
			}
			der = rest
		}
	}
	within(der, 0)
}

// text looks at the bytes of one string. Those of two and four bytes for a character are printed as they are, too: a
// byte of such a character may be a line break to who reads the answer.
func (p *printed) text(what string, v asn1.RawValue) {
	const universalString = 28
	wide := v.Tag == asn1.TagBMPString || v.Tag == universalString
	for i, b := range v.Bytes {
		switch {
		case b == '\n' || b == '\r',
			isControl(rune(b)) && !wide,
			wide && v.Tag == asn1.TagBMPString && i%2 == 1 && isControl(rune(b)) && v.Bytes[i-1] == 0:
			p.refuse(fmt.Sprintf("%s has the control character %#02x in it", what, b))
			return
		}
	}
}

func (p *printed) refuse(fault string) {
	if p.fault == "" {
		p.fault = fault
	}
}

// tooMany tells that it does not fit into an answer; empty: it does.
func (p *printed) tooMany() string {
	if p.bytes <= maxNames {
		return ""
	}
	return fmt.Sprintf("its names are too many or too long: %d bytes, where %d are allowed: use several certificates, or wildcards", p.bytes, maxNames)
}
