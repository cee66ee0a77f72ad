package compile

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// revocationKey is where the lists of the clients' CAs are, beside their certificates. OpenShift's router
// downloads them from where the certificates say they are; the compiler downloads nothing.
const revocationKey = "crl.pem"

// caCertificate returns the CA certificates in a ConfigMap with their revocation lists; nil, and why, if
// there are none, or the lists cannot be read.
func (c *Compiler) caCertificate(k id) (*tsujiv1.Certificate, string) {
	bundle, fault := c.caBundle(k)
	if bundle == nil {
		return nil, fault
	}
	out := &tsujiv1.Certificate{CaBundlePem: bundle}
	if k == serviceCA {
		return out, ""
	}
	lists, fault := parseRevocationLists(c.objects.configMaps[k].Data[revocationKey])
	if fault != "" {
		return nil, fmt.Sprintf("%s in ConfigMap %s/%s: %s", revocationKey, k.Namespace, k.Name, fault)
	}
	for _, l := range lists {
		out.RevocationListsPem = append(out.RevocationListsPem,
			pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: l.Raw})...)
	}
	if n := len(out.RevocationListsPem); n > maxLists {
		return nil, fmt.Sprintf("%s in ConfigMap %s/%s: %d bytes of revocation lists are too many: %d are allowed",
			revocationKey, k.Namespace, k.Name, n, maxLists)
	}
	return out, ""
}

// revocationFaults tells of the CAs in a ConfigMap whose clients nobody gets in, since there is no list of
// theirs, and where there are no lists at all, of those that say that there are some elsewhere.
func (c *Compiler) revocationFaults(k id, checked bool) []string {
	data := c.objects.configMaps[k].Data
	cas, err := parsePEM(data[clientCAKey])
	if err != nil {
		return nil // told by caCertificate
	}
	lists, _ := parseRevocationLists(data[revocationKey])
	var faults []string
	for _, ca := range cas.certificates {
		listed := slices.ContainsFunc(lists, func(l *x509.RevocationList) bool {
			return bytes.Equal(l.RawIssuer, ca.RawSubject) && l.CheckSignatureFrom(ca) == nil
		})
		switch name := quoted(ca.Subject.String()); {
		case listed:
		case checked:
			faults = append(faults,
				fmt.Sprintf("%s has no revocation list of CA %s: certificates that it issued are refused", revocationKey, name))
		case len(ca.CRLDistributionPoints) > 0:
			faults = append(faults, fmt.Sprintf("CA %s says that there are revocation lists, which are not downloaded: put them into %s of the ConfigMap; until then nothing counts as revoked",
				name, revocationKey))
		}
	}
	return faults
}

// parseRevocationLists takes the lists out of PEM text; what is no block is left out, any other block is a fault.
func parseRevocationLists(text string) (lists []*x509.RevocationList, fault string) {
	if len(text) > maxPEM {
		return nil, fmt.Sprintf("longer than %d bytes", maxPEM)
	}
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if len(lists) == maxBlocks {
			return nil, fmt.Sprintf("more than %d revocation lists", maxBlocks)
		}
		if block.Type != "X509 CRL" {
			return nil, fmt.Sprintf("unrecognized PEM block %s", quoted(block.Type))
		}
		l, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Sprintf("failed to parse revocation list: %v", err)
		}
		var p printed
		if p.name("the issuer", l.RawIssuer); p.fault != "" {
			return nil, "in a revocation list, " + p.fault
		}
		lists = append(lists, l)
	}
	if text != "" && len(lists) == 0 {
		return nil, "there is no revocation list in it"
	}
	return lists, ""
}
