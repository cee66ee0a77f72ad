package render

import (
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// minRSABits is the shortest RSA key that OpenSSL serves at its usual security level.
const minRSABits = 2048

// canonicalPair returns chain and key as one PEM file, written anew from what was parsed: the leaf, its
// intermediates, and the leaf's key. It checks that the key is the leaf's.
func canonicalPair(chain, key []byte) ([]byte, error) {
	var out bytes.Buffer
	var keyBlock *pem.Block
	var leaf *x509.Certificate
	rest := append(append(bytes.Clone(chain), '\n'), key...)
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		switch b.Type {
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(b.Bytes)
			if err != nil {
				return nil, fmt.Errorf("parse certificate: %w", err)
			}
			if leaf == nil {
				leaf = c
			}
			if err := pem.Encode(&out, &pem.Block{Type: b.Type, Bytes: b.Bytes}); err != nil {
				return nil, fmt.Errorf("write certificate: %w", err)
			}
		case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
			if keyBlock != nil {
				return nil, errors.New("more than one private key")
			}
			keyBlock = &pem.Block{Type: b.Type, Bytes: b.Bytes}
		case "EC PARAMETERS":
		default:
			return nil, fmt.Errorf("a PEM block of type %.40q", b.Type)
		}
	}
	if leaf == nil {
		return nil, errors.New("no certificate")
	}
	if keyBlock == nil {
		return nil, errors.New("no private key")
	}
	if k, ok := leaf.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() < minRSABits {
		return nil, fmt.Errorf("an RSA key of %d bits: want %d", k.N.BitLen(), minRSABits)
	}
	if err := pem.Encode(&out, keyBlock); err != nil {
		return nil, errors.New("write private key")
	}
	if _, err := tls.X509KeyPair(out.Bytes(), out.Bytes()); err != nil {
		return nil, fmt.Errorf("certificate and key: %w", err)
	}
	return out.Bytes(), nil
}

// canonicalBundle returns CA certificates, at least one, written anew from what was parsed.
func canonicalBundle(bundle []byte) ([]byte, error) {
	var out bytes.Buffer
	for rest := bundle; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block of type %.40q among CA certificates", b.Type)
		}
		if _, err := x509.ParseCertificate(b.Bytes); err != nil {
			return nil, fmt.Errorf("parse CA certificate: %w", err)
		}
		if err := pem.Encode(&out, &pem.Block{Type: b.Type, Bytes: b.Bytes}); err != nil {
			return nil, fmt.Errorf("write CA certificate: %w", err)
		}
	}
	if out.Len() == 0 {
		return nil, errors.New("no CA certificate")
	}
	return out.Bytes(), nil
}
