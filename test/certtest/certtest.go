// Package certtest makes certificates that no library would: ASN.1 put together by hand, with keys, names and
// signatures that are odd, wrong or too large.
//
// It guarantees that they are the same on every run, apart from keys and signatures, and that a Certificate that says
// nothing is an ordinary one.
//
// Do not assume that what it makes is signed by who it says that it is: only what an Issuer made is. Do not import it
// outside of tests.
package certtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
)

// Certificate says what one certificate is made of.
type Certificate struct {
	// Subject and Issuer are names (see Name); nil: the common name "test", and the Issuer's own, or the subject.
	Subject, Issuer []byte
	// Serial is the serial number; nil: 1.
	Serial *big.Int
	// Key is a SubjectPublicKeyInfo; nil: that of the key that Sign got, or a new one on P-256.
	Key []byte
	// Signature is the AlgorithmIdentifier of the signature; nil: ECDSA with SHA-256.
	Signature []byte
	// Signed are the bytes of the signature; nil: those of the key that Sign got.
	Signed []byte
	// Extensions are further ones, after the alternative names.
	Extensions [][]byte
	// Names are alternative names (see DNS, URI, Email); none: no such extension.
	Names [][]byte
}

// TLV is an element of DER with a tag of one byte.
func TLV(tag byte, parts ...[]byte) []byte {
	var content []byte
	for _, p := range parts {
		content = append(content, p...)
	}
	n := len(content)
	head := []byte{tag}
	switch {
	case n < 0x80:
		head = append(head, byte(n))
	case n < 1<<8:
		head = append(head, 0x81, byte(n))
	case n < 1<<16:
		head = append(head, 0x82, byte(n>>8), byte(n))
	default:
		head = append(head, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	return append(head, content...)
}

// Sequence is a SEQUENCE of elements.
func Sequence(parts ...[]byte) []byte { return TLV(0x30, parts...) }

// OID is an OBJECT IDENTIFIER.
func OID(numbers ...int) []byte { return must(asn1.Marshal(asn1.ObjectIdentifier(numbers))) }

// Integer is an INTEGER.
func Integer(n *big.Int) []byte { return must(asn1.Marshal(n)) }

// Null is a NULL.
func Null() []byte { return []byte{5, 0} }

// Bits is a BIT STRING of whole bytes.
func Bits(content []byte) []byte { return TLV(3, []byte{0}, content) }

// The string types of ASN.1.
const (
	UTF8      byte = 12
	Printable byte = 19
	T61       byte = 20
	IA5       byte = 22
	Universal byte = 28
	BMP       byte = 30
)

// Name is a name of one attribute, by default a common name.
func Name(tag byte, text string, attribute ...int) []byte {
	if len(attribute) == 0 {
		attribute = []int{2, 5, 4, 3}
	}
	return Sequence(TLV(0x31, Sequence(OID(attribute...), TLV(tag, []byte(text)))))
}

// DNS is an alternative name.
func DNS(name string) []byte { return TLV(0x82, []byte(name)) }

// URI is an alternative name.
func URI(name string) []byte { return TLV(0x86, []byte(name)) }

// Email is an alternative name.
func Email(name string) []byte { return TLV(0x81, []byte(name)) }

// Extension is an extension that is not critical.
func Extension(content []byte, id ...int) []byte { return Sequence(OID(id...), TLV(4, content)) }

// NewKey makes a key on P-256.
func NewKey() *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

// Sign returns the DER of a certificate, signed with a key; nil: with a new one, which is then also its own.
func (c Certificate) Sign(key *ecdsa.PrivateKey) []byte {
	if key == nil {
		key = NewKey()
	}
	if c.Subject == nil {
		c.Subject = Name(UTF8, "test")
	}
	if c.Issuer == nil {
		c.Issuer = c.Subject
	}
	if c.Serial == nil {
		c.Serial = big.NewInt(1)
	}
	if c.Key == nil {
		c.Key = PublicKey(key.Public())
	}
	if c.Signature == nil {
		c.Signature = Sequence(OID(1, 2, 840, 10045, 4, 3, 2))
	}
	var extensions [][]byte
	if len(c.Names) > 0 {
		extensions = append(extensions, Extension(Sequence(c.Names...), 2, 5, 29, 17))
	}
	extensions = append(extensions, c.Extensions...)
	var last []byte
	if len(extensions) > 0 {
		last = TLV(0xa3, Sequence(extensions...))
	}
	tbs := Sequence(
		TLV(0xa0, Integer(big.NewInt(2))), Integer(c.Serial), c.Signature, c.Issuer,
		Sequence(TLV(23, []byte("200101000000Z")), TLV(24, []byte("21200101000000Z"))),
		c.Subject, c.Key, last,
	)
	if c.Signed == nil {
		digest := sha256.Sum256(tbs)
		c.Signed = must(ecdsa.SignASN1(rand.Reader, key, digest[:]))
	}
	return Sequence(tbs, c.Signature, Bits(c.Signed))
}

// FixedKey is always the same key on P-256, for what is kept from one run to another.
func FixedKey() *ecdsa.PrivateKey {
	scalar := sha256.Sum256([]byte("certtest"))
	return must(ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar[:]))
}

// PrivateKey is a key as PEM.
func PrivateKey(key *ecdsa.PrivateKey) string {
	return PEM("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(key)))
}

// PublicKey is the SubjectPublicKeyInfo of a key that crypto/x509 knows.
func PublicKey(key crypto.PublicKey) []byte { return must(x509.MarshalPKIXPublicKey(key)) }

// Key is a SubjectPublicKeyInfo: an AlgorithmIdentifier's parts, and the key.
func Key(key []byte, algorithm ...[]byte) []byte { return Sequence(Sequence(algorithm...), Bits(key)) }

// PEM is one block.
func PEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// Chain is PEM of certificates.
func Chain(ders ...[]byte) string {
	var b strings.Builder
	for _, d := range ders {
		b.WriteString(PEM("CERTIFICATE", d))
	}
	return b.String()
}

// First returns the DER of the first certificate in PEM; nil: there is none.
func First(text []byte) []byte {
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil || b.Type == "CERTIFICATE" {
			if b == nil {
				return nil
			}
			return b.Bytes
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // a test gave what cannot be
	}
	return v
}
