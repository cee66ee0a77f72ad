package test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"strings"
	"testing"
	"time"
)

// pair is a certificate with its key, both PEM.
type pair struct{ cert, key []byte }

// mint makes certificates of every kind: those that a CA would issue, and those that none would.
type mint struct {
	t      testing.TB
	ca     *x509.Certificate
	signer *ecdsa.PrivateKey
	serial int64
}

func newMint(t testing.TB) *mint {
	t.Helper()
	m := &mint{t: t, signer: newKey(t)}
	der, err := x509.CreateCertificate(rand.Reader, m.template(func(c *x509.Certificate) {
		c.Subject.CommonName, c.IsCA, c.KeyUsage = "mint", true, x509.KeyUsageCertSign
	}), m.template(nil), m.signer.Public(), m.signer)
	if err != nil {
		t.Fatal(err)
	}
	if m.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return m
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (m *mint) template(change func(c *x509.Certificate)) *x509.Certificate {
	m.serial++
	c := &x509.Certificate{
		SerialNumber: big.NewInt(m.serial), Subject: pkix.Name{CommonName: "odd"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour),
		BasicConstraintsValid: true,
	}
	if change != nil {
		change(c)
	}
	return c
}

// issue makes a certificate with a key.
func (m *mint) issue(change func(c *x509.Certificate)) pair {
	m.t.Helper()
	key := newKey(m.t)
	der, err := x509.CreateCertificate(rand.Reader, m.template(change), m.ca, key.Public(), m.signer)
	if err != nil {
		m.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		m.t.Fatal(err)
	}
	return pair{pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", pkcs8)}
}

// named makes one with names.
func (m *mint) named(names ...string) pair {
	return m.issue(func(c *x509.Certificate) { c.DNSNames = names })
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func derOf(t testing.TB, p []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(p)
	if block == nil {
		t.Fatal("no PEM")
	}
	return block.Bytes
}

// What a certificate is made of, with its parts open to be exchanged.
type openCertificate struct {
	TBS       openTBS
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
}

type openTBS struct {
	Version    int `asn1:"optional,explicit,default:0,tag:0"`
	Serial     *big.Int
	Algorithm  pkix.AlgorithmIdentifier
	Issuer     asn1.RawValue
	Validity   asn1.RawValue
	Subject    asn1.RawValue
	Key        asn1.RawValue
	Extensions []pkix.Extension `asn1:"optional,explicit,omitempty,tag:3"`
}

// altered returns a certificate with parts exchanged; nobody signs it again.
func (m *mint) altered(cert []byte, change func(c *openCertificate)) []byte {
	m.t.Helper()
	var c openCertificate
	if _, err := asn1.Unmarshal(derOf(m.t, cert), &c); err != nil {
		m.t.Fatal(err)
	}
	change(&c)
	der, err := asn1.Marshal(c)
	if err != nil {
		m.t.Fatal(err)
	}
	return pemOf("CERTIFICATE", der)
}

// publicKey is one of an algorithm, as it stands in a certificate. parameters may be nil.
func publicKey(t testing.TB, oid string, parameters any, bits []byte) asn1.RawValue {
	t.Helper()
	var id asn1.ObjectIdentifier
	for part := range strings.SplitSeq(oid, ".") {
		var n int
		_, _ = fmt.Sscan(part, &n)
		id = append(id, n)
	}
	algorithm := struct {
		ID         asn1.ObjectIdentifier
		Parameters asn1.RawValue `asn1:"optional"`
	}{ID: id}
	if parameters != nil {
		der, err := asn1.Marshal(parameters)
		if err != nil {
			t.Fatal(err)
		}
		algorithm.Parameters.FullBytes = der
	}
	der, err := asn1.Marshal(struct {
		Algorithm any
		Key       asn1.BitString
	}{algorithm, asn1.BitString{Bytes: bits, BitLength: 8 * len(bits)}})
	if err != nil {
		t.Fatal(err)
	}
	return asn1.RawValue{FullBytes: der}
}

// oddKeys are public keys that no CA would certify, by name.
func oddKeys(t testing.TB) map[string]asn1.RawValue {
	t.Helper()
	number := func(bits int) *big.Int {
		n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits-1)))
		if err != nil {
			t.Fatal(err)
		}
		return n.SetBit(n.SetBit(n, bits-1, 1), 0, 1)
	}
	der := func(v any) []byte {
		b, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	rsa := func(bits, e int) []byte {
		return der(struct {
			N *big.Int
			E int
		}{number(bits), e})
	}
	dsa := func(l, n int) asn1.RawValue {
		return publicKey(t, "1.2.840.10040.4.1", struct{ P, Q, G *big.Int }{number(l), number(n), number(l - 1)}, der(number(l-2)))
	}
	curve := func(oid string, size int) asn1.RawValue {
		var id asn1.ObjectIdentifier
		for part := range strings.SplitSeq(oid, ".") {
			var n int
			_, _ = fmt.Sscan(part, &n)
			id = append(id, n)
		}
		return publicKey(t, "1.2.840.10045.2.1", id, append([]byte{4}, bytes.Repeat([]byte{7}, 2*size)...))
	}
	null := asn1.NullRawValue
	return map[string]asn1.RawValue{
		"DSA-1024":                  dsa(1024, 160),
		"DSA-2048":                  dsa(2048, 256),
		"an unknown algorithm":      publicKey(t, "1.2.3.4", nil, []byte("a key of sorts")),
		"X25519":                    publicKey(t, "1.3.101.110", nil, bytes.Repeat([]byte{9}, 32)),
		"X448":                      publicKey(t, "1.3.101.111", nil, bytes.Repeat([]byte{9}, 56)),
		"Ed25519 of a wrong length": publicKey(t, "1.3.101.112", nil, bytes.Repeat([]byte{9}, 31)),
		"Ed448":                     publicKey(t, "1.3.101.113", nil, bytes.Repeat([]byte{9}, 57)),
		"RSA-512":                   publicKey(t, "1.2.840.113549.1.1.1", null, rsa(512, 65537)),
		"RSA-1024":                  publicKey(t, "1.2.840.113549.1.1.1", null, rsa(1024, 65537)),
		"RSA-16384":                 publicKey(t, "1.2.840.113549.1.1.1", null, rsa(16384, 65537)),
		"RSA with exponent 3":       publicKey(t, "1.2.840.113549.1.1.1", null, rsa(2048, 3)),
		"RSA-PSS":                   publicKey(t, "1.2.840.113549.1.1.10", nil, rsa(2048, 65537)),
		"secp112r1":                 curve("1.3.132.0.6", 14),
		"brainpoolP256r1":           curve("1.3.36.3.3.2.8.1.1.7", 32),
		"P-256, not on the curve":   curve("1.2.840.10045.3.1.7", 32),
		"SM2":                       curve("1.2.156.10197.1.301", 32),
		"an unknown curve":          curve("1.2.3.4", 32),
		"Diffie-Hellman":            publicKey(t, "1.2.840.113549.1.3.1", struct{ P, G *big.Int }{number(1024), big.NewInt(2)}, der(number(1000))),
	}
}

// withKey returns a certificate with a public key that is none of its own.
func (m *mint) withKey(key asn1.RawValue) []byte {
	return m.altered(m.issue(func(c *x509.Certificate) { c.IsCA, c.DNSNames = true, []string{"odd.example.com"} }).cert, func(c *openCertificate) { c.TBS.Key = key })
}

// signedBy returns a certificate that says it is signed by an algorithm.
func (m *mint) signedBy(id ...int) []byte {
	return m.altered(m.issue(nil).cert, func(c *openCertificate) {
		c.Algorithm = pkix.AlgorithmIdentifier{Algorithm: id}
		c.TBS.Algorithm = c.Algorithm
	})
}

// names are n names of some length, below a domain.
func names(n, length int, below string) []string {
	out := make([]string, n)
	for i := range out {
		label := fmt.Sprintf("n%d", i)
		var b strings.Builder
		b.WriteString(label)
		for b.Len() < length-len(below)-1 {
			if b.Len()%50 == 49 {
				b.WriteByte('.')
			}
			b.WriteByte('x')
		}
		out[i] = b.String() + "." + below
	}
	return out
}

// bulk returns a certificate of at least so many bytes of PEM, in an extension that nobody knows.
func (m *mint) bulk(bytesOfPEM int) []byte {
	return m.issue(func(c *x509.Certificate) {
		filling := make([]byte, bytesOfPEM*3/4)
		_, _ = rand.Read(filling)
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4, 5}, Value: filling}}
	}).cert
}

// mutated returns a certificate some bytes of which are others.
func mutated(t testing.TB, r *mathrand.Rand, cert []byte) []byte {
	t.Helper()
	der := bytes.Clone(derOf(t, cert))
	for range 1 + r.IntN(4) {
		switch at := r.IntN(len(der)); r.IntN(3) {
		case 0:
			der[at] ^= 1 << r.IntN(8)
		case 1:
			der[at] = byte(r.IntN(256))
		default:
			end := min(len(der), at+r.IntN(8))
			der = append(der[:at:at], der[end:]...)
			if len(der) == 0 {
				return cert
			}
		}
	}
	return pemOf("CERTIFICATE", der)
}
