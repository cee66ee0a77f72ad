package compile

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	cachedCertificates = 16384     // parsed and verified, by digest of what they were made from
	maxPEM             = 512 << 10 // bytes in one field
	maxKey             = 16 << 10  // bytes of a private key

	// OpenSSL's default security level refuses shorter RSA keys, and its RSA does not take longer ones.
	minRSABits, maxRSABits = 2048, 16384
)

// crypto parses and verifies certificates, each once: what it returns is a function of its input, and is
// shared, so never modified.
type crypto struct {
	pairs   *lru.Cache[[sha256.Size]byte, *pair]
	bundles *lru.Cache[[sha256.Size]byte, bundle]
}

// pair is a certificate chain and its key, sanitised.
type pair struct {
	chain, key []byte
	faults     []certFault // when there are some, the rest is empty
}

// certFault is what is wrong with one of the three fields that a pair is made of: "certificate", "key",
// "caCertificate".
type certFault struct{ field, detail string }

type bundle struct {
	pem   []byte
	fault string
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
	c.pairs.Add(k, p)
	return p
}

// bundle parses CA certificates to verify others with.
func (c *crypto) bundle(text string) ([]byte, string) {
	k := digestOf(text)
	if b, ok := c.bundles.Get(k); ok {
		return b.pem, b.fault
	}
	b := makeBundle(text)
	c.bundles.Add(k, b)
	return b.pem, b.fault
}

func makeBundle(text string) bundle {
	p, err := parsePEM(text)
	if err == nil && len(p.certificates) == 0 {
		err = errNoCertificate
	}
	if err != nil {
		return bundle{fault: fmt.Sprintf("failed to parse CA certificate: %v", err)}
	}
	if f := signatureFault(p.certificates); f != "" {
		return bundle{fault: f}
	}
	return bundle{pem: encodeCertificates(p.certificates)}
}

// makePair does what OpenShift's extended validation does: the certificate parses, its chain verifies
// against the CA certificates if there are some (validity in time is for clients to judge), and the key,
// which may be in either field, is the first certificate's.
func makePair(cert, key, ca string) *pair {
	var faults []certFault
	fault := func(field, format string, args ...any) {
		faults = append(faults, certFault{field, fmt.Sprintf(format, args...)})
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
	if len(faults) > 0 {
		return &pair{faults: faults}
	}

	if ca != "" {
		if err := verify(certs.certificates, cas.certificates); err != nil {
			fault("certificate", "error verifying certificate: %v", err)
		}
	}
	found := append(certs.keys, keys.keys...) //nolint:gocritic // both are this function's
	chain := certs.certificates
	for _, c := range cas.certificates {
		if !slices.ContainsFunc(chain, c.Equal) {
			chain = append(chain, c)
		}
	}
	p := &pair{chain: encodeCertificates(chain)}
	if len(found) == 0 {
		fault("key", "no key specified")
	} else {
		p.key = pem.EncodeToMemory(found[0])
		if _, err := tls.X509KeyPair(p.chain, p.key); err != nil {
			fault("key", "%v", err)
		}
	}
	if len(faults) > 0 {
		return &pair{faults: faults}
	}
	return p
}

type parsed struct {
	certificates []*x509.Certificate
	keys         []*pem.Block // re-encoded: PKCS #1 or SEC 1
}

type certError string

func (e certError) Error() string { return string(e) }

const errNoCertificate = certError("there is no certificate in it")

// parsePEM takes the certificates and keys out of PEM text: what it returns is made anew of what was
// understood, and nothing else of the text gets further. Text around the blocks is left out, public keys
// and EC parameters too; any other block is an error.
func parsePEM(text string) (parsed, error) {
	var p parsed
	if len(text) > maxPEM {
		return p, fmt.Errorf("longer than %d bytes", maxPEM)
	}
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return p, nil
		}
		switch block.Type {
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return p, fmt.Errorf("parse certificate: %w", err)
			}
			p.certificates = append(p.certificates, c)
		case "RSA PRIVATE KEY", "EC PRIVATE KEY", "ECDSA PRIVATE KEY", "PRIVATE KEY":
			k, err := privateKey(block)
			if err != nil {
				return p, err
			}
			p.keys = append(p.keys, k)
		case "PUBLIC KEY", "RSA PUBLIC KEY", "DSA PUBLIC KEY", "ECDSA PUBLIC KEY", "EC PARAMETERS":
		default:
			return p, fmt.Errorf("unrecognized PEM block %s", quoted(block.Type))
		}
	}
}

// privateKey encodes an RSA or EC key anew. OpenShift's router takes no others.
func privateKey(block *pem.Block) (*pem.Block, error) {
	if len(block.Headers) > 0 {
		return nil, fmt.Errorf("block %s is not valid: store the key unencrypted", block.Type)
	}
	if len(block.Bytes) > maxKey {
		return nil, fmt.Errorf("block %s is longer than %d bytes", block.Type, maxKey)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		if key, err = x509.ParsePKCS1PrivateKey(block.Bytes); err != nil {
			if key, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
				return nil, fmt.Errorf("block %s is not valid", block.Type)
			}
		}
	}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}, nil
	case *ecdsa.PrivateKey:
		der, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			return nil, fmt.Errorf("encode private key: %w", err)
		}
		return &pem.Block{Type: "EC PRIVATE KEY", Bytes: der}, nil
	default:
		return nil, fmt.Errorf("block private key %T is not valid: use an RSA or EC key", key)
	}
}

// chainFault tells why a router could not load these certificates; empty: it could.
func chainFault(certs []*x509.Certificate) string {
	for _, c := range certs {
		k, ok := c.PublicKey.(*rsa.PublicKey)
		switch {
		case ok && k.N.BitLen() < minRSABits:
			return fmt.Sprintf("an RSA key of %d bits is too short: use %d or more", k.N.BitLen(), minRSABits)
		case ok && k.N.BitLen() > maxRSABits:
			return fmt.Sprintf("an RSA key of %d bits is too long: use %d or less", k.N.BitLen(), maxRSABits)
		}
	}
	return signatureFault(certs)
}

// signatureFault tells of a signature that OpenSSL takes no more. It does not look at those of
// self-signed certificates, and neither does this.
func signatureFault(certs []*x509.Certificate) string {
	for _, c := range certs {
		if bytes.Equal(c.RawIssuer, c.RawSubject) && (c.AuthorityKeyId == nil || bytes.Equal(c.AuthorityKeyId, c.SubjectKeyId)) {
			continue
		}
		switch c.SignatureAlgorithm {
		case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1:
			return "router does not support CA-signed certs using SHA1"
		case x509.MD2WithRSA:
			return "router does not support CA-signed certs using MD2"
		case x509.MD5WithRSA:
			return "router does not support CA-signed certs using MD5"
		default:
		}
	}
	return ""
}

// verify verifies the chain of the first certificate against the CA certificates. Validity in time does
// not count: it is checked on copies that are valid for ever, so that no clock is read.
func verify(chain, cas []*x509.Certificate) error {
	at := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	timeless := func(c *x509.Certificate) *x509.Certificate {
		cp := *c
		cp.NotBefore, cp.NotAfter = at.Add(-time.Hour), at.Add(time.Hour)
		return &cp
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range cas {
		roots.AddCert(timeless(c))
	}
	for _, c := range chain[1:] {
		intermediates.AddCert(timeless(c))
	}
	_, err := timeless(chain[0]).Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: at})
	return err //nolint:wrapcheck // the caller says what was tried
}

func encodeCertificates(certs []*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.Bytes()
}
