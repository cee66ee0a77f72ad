package compile

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"slices"

	lru "github.com/hashicorp/golang-lru/v2"
)

const cachedCertificates = 16384 // parsed and verified, by digest of what they were made from

// crypto parses and verifies certificates, each once: what it returns is a function of its input, and is
// shared, so never modified.
type crypto struct {
	pairs   *lru.Cache[[sha256.Size]byte, *pair]
	bundles *lru.Cache[[sha256.Size]byte, bundle]
}

// pair is a certificate chain and its key, sanitised.
type pair struct {
	chain, key []byte
	notes      []certFault // what is not used, or could not be read, of fields that do
	leaf       leaf
	faults     []certFault // when there are some, the rest is empty
}

// certFault is what is to be told of one of the three fields that a pair is made of: "certificate", "key",
// "caCertificate".
type certFault struct{ field, detail string }

type bundle struct {
	pem   []byte
	notes []string // what could not be read
	fault string   // when there is one, the rest is empty
}

func newCrypto() *crypto {
	pairs, err := lru.New[[sha256.Size]byte, *pair](cachedCertificates)
	if err != nil {
		panic(err) // the size is above zero
	}
	bundles, err := lru.New[[sha256.Size]byte, bundle](cachedCertificates)
	if err != nil {
		panic(err)
	}
	return &crypto{pairs: pairs, bundles: bundles}
}

func digestOf(texts ...string) [sha256.Size]byte {
	h := sha256.New()
	for _, t := range texts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(t)))
		h.Write(n[:])
		h.Write([]byte(t))
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// pair parses and verifies a certificate with its key, and appends the CA certificates to its chain.
func (c *crypto) pair(cert, key, ca string) *pair {
	k := digestOf(cert, key, ca)
	if p, ok := c.pairs.Get(k); ok {
		return p
	}
	p := makePair(cert, key, ca)
	p.leaf = leafOf(p.chain)
	c.pairs.Add(k, p)
	return p
}

// bundle parses CA certificates to verify others with.
func (c *crypto) bundle(text string) bundle {
	k := digestOf(text)
	if b, ok := c.bundles.Get(k); ok {
		return b
	}
	b := makeBundle(text)
	c.bundles.Add(k, b)
	return b
}

func makeBundle(text string) bundle {
	p, err := parsePEM(text)
	if err == nil && len(p.certificates) == 0 {
		err = errNoCertificate
	}
	if err != nil {
		return bundle{fault: fmt.Sprintf("failed to parse CA certificate: %v", err)}
	}
	if n := len(p.certificates); n > maxBundleCertificates {
		return bundle{fault: fmt.Sprintf("%d certificates are too many: use %d or less", n, maxBundleCertificates)}
	}
	for _, c := range p.certificates {
		if f := caFault(c); f != "" {
			return bundle{fault: f}
		}
	}
	out := encodeCertificates(p.certificates)
	if len(out) > maxBundle {
		return bundle{fault: fmt.Sprintf("%d bytes of certificates are too many: use %d or less", len(out), maxBundle)}
	}
	return bundle{pem: out, notes: p.notes()}
}

// caFault tells why nothing could be verified with a certificate, or why HAProxy could not tell that it has it;
// empty: all is well.
func caFault(c *x509.Certificate) string {
	if f := weakFault(c); f != "" && !selfSigned(c) {
		return f
	}
	switch keyKind(c) {
	case rsaKind, dsaKind, ecKind, ed25519Kind:
		// However short: OpenSSL loads it among others, and verifies nothing with it.
	default:
		if f := keyFault(c); f != "" {
			return f
		}
	}
	var p printed
	p.names(c)
	return cmp.Or(serialFault(c), p.fault, p.tooMany())
}

// chainFault tells why a router could not serve these certificates; empty: it could.
func chainFault(certs []*x509.Certificate) string {
	for _, c := range certs {
		if f := cmp.Or(keyFault(c), signatureFault(c), serialFault(c)); f != "" {
			return f
		}
		var p printed
		if p.names(c); p.fault != "" {
			return p.fault
		}
	}
	return ""
}

func serialFault(c *x509.Certificate) string {
	if n := (c.SerialNumber.BitLen() + 7) / 8; n > maxSerial {
		return fmt.Sprintf("a serial number of %d bytes is too long: %d are allowed", n, maxSerial)
	}
	return ""
}

// makePair does what OpenShift's extended validation does: the certificate parses, its chain verifies
// against the CA certificates if there are some (validity in time is for clients to judge), and the key,
// which may be in either field, is the first certificate's.
func makePair(cert, key, ca string) *pair {
	p := &pair{}
	fault := func(field, format string, args ...any) {
		p.faults = append(p.faults, certFault{field, fmt.Sprintf(format, args...)})
	}
	note := func(field string, notes ...string) {
		for _, n := range notes {
			p.notes = append(p.notes, certFault{field, n})
		}
	}
	certs, err := parsePEM(cert)
	switch {
	case err != nil:
		fault("certificate", "%v", err)
	case len(certs.certificates) == 0:
		fault("certificate", "%v", errNoCertificate)
	default:
		if f := chainFault(certs.certificates); f != "" {
			fault("certificate", "%s", f)
		}
	}
	cas, err := parsePEM(ca)
	switch {
	case err != nil:
		fault("caCertificate", "failed to parse CA certificate: %v", err)
	case ca != "" && len(cas.certificates) == 0:
		fault("caCertificate", "failed to parse CA certificate: %v", errNoCertificate)
	default:
		if f := chainFault(cas.certificates); f != "" {
			fault("caCertificate", "%s", f)
		}
	}
	keys, err := parsePEM(key)
	if err != nil {
		fault("key", "%v", err)
	}
	if len(p.faults) > 0 {
		return &pair{faults: p.faults}
	}
	note("certificate", certs.notes()...)
	note("caCertificate", cas.notes()...)
	note("key", keys.notes()...)
	if len(cas.keys) > 0 {
		note("caCertificate", "the private key in it is not used: take it out")
	}
	if len(keys.certificates) > 0 {
		note("key", "the certificates in it are not used: clients get those of the certificate alone")
	}

	p.join(certs, cas, append(slices.Clone(certs.keys), keys.keys...), fault, note)
	if len(p.faults) > 0 {
		return &pair{faults: p.faults}
	}
	return p
}

// join makes chain and key of what was parsed.
func (p *pair) join(certs, cas parsed, found []privateKey, fault func(string, string, ...any), note func(string, ...string)) {
	chain := certs.certificates
	have := make(map[string]bool, len(chain))
	for _, c := range chain {
		have[string(c.Raw)] = true
	}
	for _, c := range cas.certificates {
		if !have[string(c.Raw)] {
			have[string(c.Raw)] = true
			chain = append(chain, c)
		}
	}
	p.chain = encodeCertificates(chain)
	if f := chainBounds(chain, len(p.chain)); f != "" { // before anything is verified, which costs most
		fault("certificate", "%s", f)
		return
	}
	switch {
	case len(cas.certificates) == 0:
	case verifying(certs.certificates, cas.certificates) > maxVerifying:
		note("caCertificate", "it is not checked whether the certificate is signed by it, which would take too long: "+
			"use fewer certificates, or keys of RSA or P-256")
	default:
		if err := verify(certs.certificates, cas.certificates); err != nil {
			fault("certificate", "error verifying certificate: %v", err)
		}
	}
	if len(found) == 0 {
		fault("key", "no key specified")
		return
	}
	if len(found) > 1 {
		note("key", fmt.Sprintf("there are %d private keys; the first is used", len(found)))
	}
	if f := found[0].fault(chain[0]); f != "" {
		fault("key", "%s", f)
	}
	p.key = pem.EncodeToMemory(found[0].block)
}

// chainBounds tells that a chain of so many bytes is too large as a whole; empty: it is not.
func chainBounds(chain []*x509.Certificate, size int) string {
	switch n := len(chain); {
	case n > maxChain:
		return fmt.Sprintf("%d certificates, with those of caCertificate, are too many: use %d or less", n, maxChain)
	case size > maxChainBytes:
		return fmt.Sprintf("%d bytes of certificates, with those of caCertificate, are too many: use %d or less", size, maxChainBytes)
	}
	var p printed
	for _, c := range chain {
		p.names(c)
	}
	return p.tooMany()
}
