// Package authority is a certificate authority in memory, for the demo and for tests.
//
// It guarantees that what it issues is accepted by identity.Load and by TLS on both sides, and that private
// keys are written 0600.
//
// Do not assume that it is fit for anything that lasts: its own key is never written, there is no
// revocation, and whoever can call it can be anyone.
package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/tsuji-dev/tsuji/identity"
)

// life is how long certificates are valid when nothing else is asked for.
const life = 30 * 24 * time.Hour

// skew is how far the clocks of those who verify may be behind.
const skew = 5 * time.Minute

// Authority issues certificates. It is safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// Options say what a certificate is for.
type Options struct {
	// URI is the one URI name: an identity's, as identity.ID.String writes it. Empty: none.
	URI string
	// DNSNames and IPs are further names.
	DNSNames []string
	IPs      []net.IP
	// NotAfter is when it ends; zero: in 30 days.
	NotAfter time.Time
}

// NewAuthority makes an authority with a new key.
func NewAuthority(commonName string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the authority's key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(10 * life),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the authority's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the authority's certificate: %w", err)
	}
	return &Authority{cert: cert, key: key, pem: encode("CERTIFICATE", der)}, nil
}

// CertPEM returns the authority's certificate.
func (a *Authority) CertPEM() []byte { return a.pem }

// Issue makes a key and a certificate for it, good for both ends of a connection.
func (a *Authority) Issue(o Options) (certPEM, keyPEM []byte, err error) {
	var uris []*url.URL
	name := "tsuji"
	if o.URI != "" {
		u, err := url.Parse(o.URI)
		if err != nil {
			return nil, nil, fmt.Errorf("issue a certificate: %w", err)
		}
		uris, name = []*url.URL{u}, filepath.Base(u.Path)
	}
	if len(o.DNSNames) > 0 {
		name = o.DNSNames[0]
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("issue a certificate: make its key: %w", err)
	}
	now := time.Now()
	end := o.NotAfter
	if end.IsZero() {
		end = now.Add(life)
	}
	begin := now.Add(-skew)
	if end.Before(now) { // an expired one was asked for
		begin = end.Add(-time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             begin,
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  uris,
		DNSNames:              o.DNSNames,
		IPAddresses:           o.IPs,
	}, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("issue a certificate for %q: %w", name, err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("issue a certificate for %q: encode its key: %w", name, err)
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", pkcs8), nil
}

// WriteFiles issues a certificate and writes it to name.crt and name.key in the directory, and the
// authority's to ca.crt. The directory must exist. Each file appears whole, also in the place of one that
// is there already.
func (a *Authority) WriteFiles(dir, name string, o Options) (identity.Files, error) {
	cert, key, err := a.Issue(o)
	if err != nil {
		return identity.Files{}, err
	}
	f := identity.Files{
		Cert: filepath.Join(dir, name+".crt"),
		Key:  filepath.Join(dir, name+".key"),
		CA:   filepath.Join(dir, "ca.crt"),
	}
	for _, w := range []struct {
		path    string
		content []byte
	}{{f.Key, key}, {f.Cert, cert}, {f.CA, a.pem}} {
		if err := replace(w.path, w.content); err != nil {
			return identity.Files{}, err
		}
	}
	return f, nil
}

// replace puts a file, 0600, in its place at once.
func replace(path string, content []byte) error {
	t, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(t.Name())
	_, err = t.Write(content)
	if cerr := t.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(t.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// serial returns a random serial number of 128 bits.
func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // which never fails: it would end the program
	return new(big.Int).SetBytes(b[:])
}
