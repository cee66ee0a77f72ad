//go:build ignore

// Command generate makes the certificates beside it. What exists stays, and what is made is signed by CAs
// made anew, so all are deleted to get others:
//
//	rm *.crt *.key && GODEBUG=rsa1024min=0 go run generate.go && cd ../.. && go test . -update
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log"
	"math/big"
	"os"
	"slices"
	"time"
)

type issued struct {
	cert *x509.Certificate
	key  crypto.Signer
}

var (
	serial  int64
	forever = time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC)
)

func main() {
	ca := issue("test ca", ecKey(), nil, true, 0, forever)
	other := issue("another ca", ecKey(), nil, true, 0, forever)
	intermediate := issue("intermediate", ecKey(), &ca, true, 0, forever)
	leaf := issue("leaf", ecKey(), &ca, false, 0, forever)
	renewed := issue("renewed", ecKey(), &ca, false, 0, forever)
	deep := issue("deep", ecKey(), &intermediate, false, 0, forever)
	expired := issue("expired", ecKey(), &ca, false, 0, time.Date(2020, 2, 1, 0, 0, 0, 0, time.UTC))
	oldCA := issue("rsa ca", rsaKey(2048), nil, true, x509.SHA1WithRSA, forever)
	sha1 := issue("sha1", ecKey(), &oldCA, false, x509.SHA1WithRSA, forever)
	rsa2048 := issue("rsa", rsaKey(2048), &ca, false, 0, forever)
	short := issue("short", rsaKey(1024), &ca, false, 0, forever)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	check(err)
	edwards := issue("ed25519", ed, &ca, false, 0, forever)

	write("ca.crt", certificates(ca))
	write("other-ca.crt", certificates(other))
	write("leaf.crt", certificates(leaf))
	write("leaf.key", pkcs8(leaf))
	write("leaf-with-key.crt", certificates(leaf), pkcs8(leaf))
	sec1, err := x509.MarshalECPrivateKey(leaf.key.(*ecdsa.PrivateKey))
	check(err)
	write("leaf.sec1.key", block("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}), block("EC PRIVATE KEY", sec1))
	write("renewed.crt", certificates(renewed))
	write("renewed.key", pkcs8(renewed))
	write("deep.crt", certificates(deep, intermediate))
	write("deep.key", pkcs8(deep))
	write("expired.crt", certificates(expired))
	write("expired.key", pkcs8(expired))
	write("sha1.crt", certificates(sha1))
	write("sha1.key", pkcs8(sha1))
	write("rsa.crt", certificates(rsa2048))
	write("rsa.key", pkcs8(rsa2048))
	write("rsa.pkcs1.key", block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsa2048.key.(*rsa.PrivateKey))))
	write("short.crt", certificates(short))
	write("short.key", pkcs8(short))
	write("ed25519.crt", certificates(edwards))
	write("ed25519.key", pkcs8(edwards))
}

// issue makes a certificate signed by parent; nil: by itself.
func issue(name string, key crypto.Signer, parent *issued, ca bool, algorithm x509.SignatureAlgorithm, until time.Time) issued {
	serial++
	t := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, SignatureAlgorithm: algorithm,
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: until, IsCA: ca, BasicConstraintsValid: true,
	}
	if ca {
		t.KeyUsage = x509.KeyUsageCertSign
	} else {
		t.DNSNames, t.ExtKeyUsage = []string{"www.example.com"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	by := issued{t, key}
	if parent != nil {
		by = *parent
	}
	der, err := x509.CreateCertificate(rand.Reader, t, by.cert, key.Public(), by.key)
	check(err)
	cert, err := x509.ParseCertificate(der)
	check(err)
	return issued{cert, key}
}

func ecKey() crypto.Signer {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	return k
}

func rsaKey(bits int) crypto.Signer {
	k, err := rsa.GenerateKey(rand.Reader, bits)
	check(err)
	return k
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func certificates(chain ...issued) []byte {
	var b []byte
	for _, c := range chain {
		b = append(b, block("CERTIFICATE", c.cert.Raw)...)
	}
	return b
}

func pkcs8(i issued) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	check(err)
	return block("PRIVATE KEY", der)
}

func write(name string, parts ...[]byte) {
	if _, err := os.Stat(name); err == nil {
		return
	}
	check(os.WriteFile(name, slices.Concat(parts...), 0o644))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
