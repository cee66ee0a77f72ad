package routerd

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// defaultCertificateLife is as long as that of openshift-router's own.
const defaultCertificateLife = 10 * 365 * 24 * time.Hour

// defaultCertificate returns the certificate and key for hosts that have none of their own, while the Settings name
// none: self-signed, made once and kept in the state directory, so that it stays the same over restarts.
func defaultCertificate(stateDir string, now time.Time) ([]byte, error) {
	path := filepath.Join(stateDir, "default.pem")
	kept, err := os.ReadFile(path)
	switch {
	case err == nil && usable(kept, now):
		return kept, nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("read the default certificate: %w", err)
	}
	made, err := selfSigned(now)
	if err != nil {
		return nil, fmt.Errorf("make the default certificate: %w", err)
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, made, 0o600); err != nil {
		return nil, fmt.Errorf("write the default certificate: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return nil, fmt.Errorf("write the default certificate: %w", err)
	}
	return made, nil
}

// usable tells whether this is a certificate with its key that has a day left.
func usable(pair []byte, now time.Time) bool {
	c, err := tls.X509KeyPair(pair, pair)
	return err == nil && c.Leaf.NotAfter.After(now.Add(24*time.Hour))
}

func selfSigned(now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Tsuji default certificate"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(defaultCertificateLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, b := range []*pem.Block{{Type: "CERTIFICATE", Bytes: der}, {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := pem.Encode(&out, b); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}
