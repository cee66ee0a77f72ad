package compile

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"math/bits"
	"time"
)

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

// verifying returns how long verify takes at most, in microseconds, as far as it is worth knowing: more than
// maxVerifying is as good as any. It is estimated from the keys, so that it is the same everywhere.
//
// crypto/x509 follows every way from a certificate to those whose subject is its issuer, through each certificate at
// most once, and checks a signature at each step.
func verifying(chain, cas []*x509.Certificate) (microseconds int) {
	if len(chain) == 0 {
		return 0
	}
	way := []*x509.Certificate{chain[0]}
	onWay := func(c *x509.Certificate) bool {
		for _, w := range way {
			if w.Equal(c) {
				return true
			}
		}
		return false
	}
	var follow func()
	follow = func() {
		child := way[len(way)-1]
		for i, parents := range [][]*x509.Certificate{cas, chain[1:]} {
			for _, parent := range parents {
				if microseconds > maxVerifying || !bytes.Equal(parent.RawSubject, child.RawIssuer) || onWay(parent) {
					continue
				}
				if microseconds += checking(parent); i == 0 {
					continue // with one of the CA certificates the way ends
				}
				way = append(way, parent)
				follow()
				way = way[:len(way)-1]
			}
		}
	}
	follow()
	return microseconds
}

// checking returns how long it takes to check a signature of a certificate's key, in microseconds: what Go took on a
// core of a server of 2024, or somewhat more.
func checking(c *x509.Certificate) int {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		const usual = 17 + 2 // steps of the exponent 65537
		steps := bits.Len(uint(k.E)) + bits.OnesCount(uint(k.E))
		kilobits := (k.N.BitLen() + 1023) / 1024
		return 20 * kilobits * kilobits * steps / usual
	case *ecdsa.PublicKey:
		switch size := k.Curve.Params().BitSize; {
		case size > 384:
			return 4000
		case size > 256:
			return 800
		case size == 256:
			return 100
		default:
			return 300
		}
	case ed25519.PublicKey:
		return 80
	default:
		return 30 // it is refused without looking at the signature
	}
}
