package identity

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
)

// tagURI is the tag of a uniformResourceIdentifier in a GeneralName (RFC 5280, 4.2.1.6).
const tagURI = 6

// uris returns the URI names of a certificate as they stand in it. What the standard library makes of them is a parsed
// URL, in which several spellings are one.
func uris(c *x509.Certificate) ([]string, error) {
	var found []string
	for _, e := range c.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var names asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &names); err != nil || len(rest) > 0 || names.Tag != asn1.TagSequence {
			return nil, errors.New("its subjectAltName is no sequence")
		}
		for rest := names.Bytes; len(rest) > 0; {
			var name asn1.RawValue
			var err error
			if rest, err = asn1.Unmarshal(rest, &name); err != nil {
				return nil, fmt.Errorf("its subjectAltName: %w", err)
			}
			if name.Class == asn1.ClassContextSpecific && name.Tag == tagURI {
				found = append(found, string(name.Bytes))
			}
		}
	}
	return found, nil
}
