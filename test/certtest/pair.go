package certtest

import (
	"crypto/rand"
	"fmt"
	"math/big"
)

// Pair says what is odd about a certificate that comes with its key. The zero Pair is an ordinary one without names.
type Pair struct {
	Common string   // name of subject and issuer; empty: "test"
	Names  []string // DNS names
	X25519 bool     // the key in the certificate is one that cannot sign, and not the one that comes with it
}

// Make makes the certificate and the key, as PEM. Each has a serial number of its own.
func (p Pair) Make() (chain, key []byte) {
	private := NewKey()
	c := Certificate{Serial: must(rand.Int(rand.Reader, big.NewInt(1<<62)))}
	if p.Common != "" {
		c.Subject = Name(UTF8, p.Common)
	}
	for _, n := range p.Names {
		c.Names = append(c.Names, DNS(n))
	}
	if p.X25519 {
		c.Key = Key(make([]byte, 32), OID(1, 3, 101, 110))
	}
	return []byte(Chain(c.Sign(private))), []byte(PrivateKey(private))
}

// UnknownKey returns a certificate, as PEM, whose key's algorithm nobody knows: OpenSSL does not load it.
func UnknownKey() []byte {
	return []byte(Chain(Certificate{Subject: Name(UTF8, "unknown"),
		Key: Key([]byte{1, 2, 3, 4}, OID(1, 2, 3, 4), Null())}.Sign(nil)))
}

// Many returns so many DNS names of a length.
func Many(n, length int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%0*d.test", length-len(".test"), i)
	}
	return list
}
