package compile

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"
)

// What HAProxy's OpenSSL takes as a certificate, of what crypto/x509 could read. It is of the releases that are
// supported, OpenSSL 3.0 to 3.6 at security level 2; test/certificates asks the real ones.

// The algorithms of keys that crypto/x509 does not tell apart from unknown ones, and OpenSSL takes.
var (
	oidRSAPSS = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
	oidEd448  = asn1.ObjectIdentifier{1, 3, 101, 113}
)

const ed448Bytes = 57

// keyFault tells why a certificate's key would not do for one in a chain; empty: it does.
func keyFault(c *x509.Certificate) string {
	algorithm, key := keyOf(c)
	switch keyKind(c) {
	case rsaKind:
		if k, ok := c.PublicKey.(*rsa.PublicKey); ok {
			return rsaFault(k.N)
		}
		return "its RSA key cannot be read"
	case ecKind, ed25519Kind: // of the curves that crypto/x509 knows, all of which OpenSSL does
		return ""
	case dsaKind:
		var p struct{ P, Q, G *big.Int }
		if _, err := asn1.Unmarshal(algorithm.Parameters.FullBytes, &p); err != nil || p.P.BitLen() < minDSABits ||
			p.Q.BitLen() < minDSASubgroupBits {
			return fmt.Sprintf("a DSA key is too short: use RSA or EC, or DSA with a prime of %d bits and a subgroup of %d or more", minDSABits, minDSASubgroupBits)
		}
		return ""
	case ed448Kind:
		if len(algorithm.Parameters.FullBytes) == 0 && len(key) == ed448Bytes {
			return ""
		}
		return "its Ed448 key cannot be read"
	case pssKind:
		var k struct{ N, E *big.Int }
		if _, err := asn1.Unmarshal(key, &k); err != nil || len(algorithm.Parameters.FullBytes) > 0 &&
			pssHash(algorithm.Parameters.FullBytes) == 0 {
			return "its RSA-PSS key cannot be read"
		}
		return rsaFault(k.N)
	default:
		return fmt.Sprintf("a key of algorithm %s cannot be used to sign: use RSA or EC", algorithm.Algorithm)
	}
}

// keyOf returns what stands in a certificate for its key.
func keyOf(c *x509.Certificate) (pkix.AlgorithmIdentifier, []byte) {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	_, _ = asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &info) // it was parsed before; if this fails the algorithm is none
	return info.Algorithm, info.Key.RightAlign()
}

func rsaFault(modulus *big.Int) string {
	switch bits := modulus.BitLen(); {
	case bits < minRSABits:
		return fmt.Sprintf("an RSA key of %d bits is too short: use 2048 or more", bits)
	case bits > maxRSABits:
		return fmt.Sprintf("an RSA key of %d bits is too long: use %d or less", bits, maxRSABits)
	}
	return ""
}

// signatureOf returns the algorithm that a certificate was signed with.
func signatureOf(c *x509.Certificate) pkix.AlgorithmIdentifier {
	var outer struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	_, _ = asn1.Unmarshal(c.Raw, &outer) // it was parsed before; if this fails the algorithm is none
	return outer.Algorithm
}

// weakFault tells of a signature that OpenShift's router refuses; empty: of none.
func weakFault(c *x509.Certificate) string {
	switch c.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1:
		return "router does not support CA-signed certs using SHA1"
	case x509.MD5WithRSA:
		return "router does not support CA-signed certs using MD5"
	default:
		return ""
	}
}

// strongSignatures are the algorithms of 112 bits of strength and more that crypto/x509 does not know, or not in every
// form, and OpenSSL does.
var strongSignatures = []asn1.ObjectIdentifier{
	{1, 2, 840, 113549, 1, 1, 14},                                      // RSA with SHA-224
	{1, 2, 840, 10045, 4, 3, 1},                                        // ECDSA with SHA-224
	{2, 16, 840, 1, 101, 3, 4, 3, 1}, {2, 16, 840, 1, 101, 3, 4, 3, 2}, // DSA with SHA-224 and SHA-256
	{2, 16, 840, 1, 101, 3, 4, 3, 13}, {2, 16, 840, 1, 101, 3, 4, 3, 14}, // RSA with SHA3-224 to
	{2, 16, 840, 1, 101, 3, 4, 3, 15}, {2, 16, 840, 1, 101, 3, 4, 3, 16}, // SHA3-512
	oidEd448,
}

// signatureFault tells why OpenSSL would not take a certificate's signature in a chain; empty: it would. It does not
// look at those of self-signed certificates.
func signatureFault(c *x509.Certificate) string {
	if selfSigned(c) {
		return ""
	}
	if f := weakFault(c); f != "" {
		return f
	}
	if c.SignatureAlgorithm != x509.UnknownSignatureAlgorithm {
		return ""
	}
	a := signatureOf(c)
	if slices.ContainsFunc(strongSignatures, a.Algorithm.Equal) || a.Algorithm.Equal(oidRSAPSS) && pssHash(a.Parameters.FullBytes) >= minHashBits {
		return ""
	}
	return fmt.Sprintf("a signature of algorithm %s is not supported: use RSA or ECDSA with SHA-256", a.Algorithm)
}

// minHashBits is how long a digest is that counts as 112 bits of strength.
const minHashBits = 224

// pssHash returns how many bits the digest of parameters of RSA-PSS has; zero: they cannot be read, or OpenSSL takes
// them not.
func pssHash(der []byte) int {
	var p struct {
		Hash    pkix.AlgorithmIdentifier `asn1:"explicit,optional,tag:0"`
		MGF     pkix.AlgorithmIdentifier `asn1:"explicit,optional,tag:1"`
		Salt    int                      `asn1:"explicit,optional,tag:2,default:20"`
		Trailer int                      `asn1:"explicit,optional,tag:3,default:1"`
	}
	if rest, err := asn1.Unmarshal(der, &p); err != nil || len(rest) > 0 || p.Salt < 0 || p.Trailer != 1 {
		return 0
	}
	var masked pkix.AlgorithmIdentifier
	if len(p.MGF.Algorithm) > 0 {
		mgf1 := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}
		if rest, err := asn1.Unmarshal(p.MGF.Parameters.FullBytes, &masked); err != nil || len(rest) > 0 ||
			!p.MGF.Algorithm.Equal(mgf1) {
			return 0
		}
	}
	if digestBits(masked.Algorithm) == 0 {
		return 0
	}
	return digestBits(p.Hash.Algorithm)
}

// digestBits returns the length of a digest, SHA-1 if none is said; zero: it is not known.
func digestBits(algorithm asn1.ObjectIdentifier) int {
	for _, d := range []struct {
		oid  asn1.ObjectIdentifier
		bits int
	}{
		{nil, 160},
		{asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}, 160},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 4}, 224},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, 256},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, 384},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}, 512},
	} {
		if d.oid.Equal(algorithm) {
			return d.bits
		}
	}
	return 0
}

// selfSigned tells what OpenSSL takes for self-signed, which is no check of the signature: issuer and subject are one,
// the authority's key is its own, and the signature is of the key's kind.
func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) && ownAuthority(c) && keyKind(c) != unknownKind && signsLike(signatureOf(c).Algorithm) == keyKind(c)
}

// ownAuthority tells whether what a certificate says of its authority's key is true of itself.
func ownAuthority(c *x509.Certificate) bool {
	for _, e := range c.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 35}) {
			continue
		}
		var a struct {
			KeyID  []byte        `asn1:"optional,tag:0"`
			Issuer asn1.RawValue `asn1:"optional,tag:1"`
			Serial *big.Int      `asn1:"optional,tag:2"`
		}
		if _, err := asn1.Unmarshal(e.Value, &a); err != nil {
			return false
		}
		switch {
		case a.KeyID != nil && c.SubjectKeyId != nil && !bytes.Equal(a.KeyID, c.SubjectKeyId):
			return false
		case a.Serial != nil && a.Serial.Cmp(c.SerialNumber) != 0:
			return false
		case len(a.Issuer.Bytes) > 0 && !bytes.Contains(a.Issuer.Bytes, c.RawIssuer):
			return false
		}
	}
	return true
}

type kind int

const (
	unknownKind kind = iota // or of keys that sign nothing
	rsaKind
	pssKind // RSA that signs by RSA-PSS alone
	dsaKind
	ecKind
	ed25519Kind
	ed448Kind
)

// signsLike returns the kind of keys that sign with an algorithm.
func signsLike(a asn1.ObjectIdentifier) kind {
	below := func(last int, numbers ...int) bool { // the algorithm's last number, if it is below these
		return len(a) == len(numbers)+1 && slices.Equal(a[:len(numbers)], numbers) && a[len(numbers)] <= last
	}
	nist := func() kind { // NIST's list has all of them in a row
		switch n := a[len(a)-1]; {
		case n <= 8:
			return dsaKind
		case n <= 12:
			return ecKind
		default:
			return rsaKind
		}
	}
	switch {
	case below(16, 1, 2, 840, 113549, 1, 1):
		return rsaKind
	case below(4, 1, 2, 840, 10045, 4), below(4, 1, 2, 840, 10045, 4, 3):
		return ecKind
	case below(3, 1, 2, 840, 10040, 4):
		return dsaKind
	case below(16, 2, 16, 840, 1, 101, 3, 4, 3):
		return nist()
	case below(112, 1, 3, 101):
		return ed25519Kind
	case below(113, 1, 3, 101):
		return ed448Kind
	default:
		return unknownKind
	}
}

func keyKind(c *x509.Certificate) kind {
	switch c.PublicKeyAlgorithm {
	case x509.RSA:
		return rsaKind
	case x509.DSA:
		return dsaKind
	case x509.ECDSA:
		return ecKind
	case x509.Ed25519:
		return ed25519Kind
	default:
	}
	switch algorithm, _ := keyOf(c); {
	case algorithm.Algorithm.Equal(oidEd448):
		return ed448Kind
	case algorithm.Algorithm.Equal(oidRSAPSS):
		return pssKind
	default:
		return unknownKind
	}
}
