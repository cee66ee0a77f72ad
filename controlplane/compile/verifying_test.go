package compile_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	routev1 "github.com/openshift/api/route/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/test/certtest"
)

// line is a leaf, further certificates each of which signed the one before, and the last of them, a CA. Their subjects
// are what subject returns for their numbers.
func line(t *testing.T, n int, key crypto.Signer, subject func(i int) string) (chain [][]byte, ca []byte) {
	t.Helper()
	template := func(i int) *x509.Certificate {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: subject(i)},
			NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(4e9, 0), BasicConstraintsValid: true, IsCA: i > 0,
		}
		if i == 0 {
			c.Subject.CommonName, c.DNSNames = "leaf", []string{"a.example.com"}
		}
		return c
	}
	for i := range n {
		by := template(min(i+1, n-1))
		by.SerialNumber = nil
		public := key.Public()
		if i == 0 {
			public = certtest.FixedKey().Public()
		}
		der, err := x509.CreateCertificate(rand.Reader, template(i), by, public, key)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, der)
	}
	return chain[:n-1], chain[n-1]
}

// unsigned are certificates of one name with keys of a kind that Go does not know, and signatures of nobody's.
func unsigned(t *testing.T, n int) [][]byte {
	t.Helper()
	name, err := asn1.Marshal(pkix.Name{CommonName: "same"}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	list := make([][]byte, n)
	for i := range list {
		list[i] = certtest.Certificate{
			Subject: name, Issuer: name, Serial: big.NewInt(int64(i)),
			Key: certtest.Key(bytes.Repeat([]byte{9}, 57), certtest.OID(1, 3, 101, 113)),
		}.Sign(certtest.FixedKey())
	}
	return list
}

// A certificate is verified against its caCertificate where that takes a few milliseconds at most, whatever the keys
// are and however many ways there are. Else it is admitted as it is, and its owner told.
func TestVerifyingIsBounded(t *testing.T) {
	t.Parallel()
	another := func(i int) string { return fmt.Sprint("ca ", i) }
	same := func(int) string { return "same" }
	const verified, refused = "", "error verifying certificate"
	const warned = "it is not checked whether the certificate is signed by it"
	for _, c := range []struct {
		what    string
		n       int
		key     func() (crypto.Signer, error)
		subject func(i int) string
		good    string // what is said
		bad     string // the same if the last one was signed by another CA of that name
	}{
		{"two of RSA", 2, ofRSA, another, verified, refused},
		{"ten of RSA", 10, ofRSA, another, verified, refused},
		{"three of P-256", 3, of(elliptic.P256()), another, verified, refused},
		{"three of P-384", 3, of(elliptic.P384()), another, verified, refused},
		{"32 of P-384", 32, of(elliptic.P384()), another, warned, warned},
		{"two of P-521", 2, of(elliptic.P521()), another, warned, warned},
		{"32 of one name", 32, ofRSA, same, warned, warned},
	} {
		key, err := c.key()
		other, err2 := c.key()
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		chain, ca := line(t, c.n, key, c.subject)
		_, otherCA := line(t, c.n, other, c.subject)
		judged(t, c.what, chain, ca, c.good)
		judged(t, c.what+", and another CA", chain, otherCA, c.bad)
		if c.what == "32 of one name" {
			judged(t, "31 of a kind that Go does not know", slices.Concat(chain[:1], unsigned(t, 30)), ca, warned)
		}
	}
}

func of(c elliptic.Curve) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return ecdsa.GenerateKey(c, rand.Reader) }
}

func ofRSA() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) }

// judged looks at what is said of a Route with a chain: a refusal or a warning; empty: neither.
func judged(t *testing.T, what string, chain [][]byte, ca []byte, want string) {
	t.Helper()
	r := &routev1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "r"}}
	r.Spec.Host, r.Spec.To.Name, r.Spec.TLS = "a.example.com", "web", &routev1.TLSConfig{
		Termination: routev1.TLSTerminationEdge, Certificate: certtest.Chain(chain...),
		Key: certtest.PrivateKey(certtest.FixedKey()), CACertificate: certtest.Chain(ca),
	}
	w := newWorld()
	w.apply(put(r))
	v := w.last.Verdicts[0]
	said := v.GetMessage()
	for _, warning := range v.GetWarnings() {
		if strings.HasPrefix(warning, "spec.tls.") {
			said += warning
		}
	}
	if !strings.Contains(said, want) || (said == "") != (want == "") {
		t.Errorf("%s: %q, want %q", what, said, want)
	}
}
