package render

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// minRSABits is the shortest RSA key of which OpenSSL counts the strength that its usual security level asks for.
const minRSABits = 2047

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

// canonicalBlocks returns PEM blocks of one type, at least one, written anew from what parse accepts. what names them.
func canonicalBlocks(text []byte, what, kind string, parse func(der []byte) error) ([]byte, error) {
	var out bytes.Buffer
	for rest := text; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != kind {
			return nil, fmt.Errorf("a PEM block of type %.40q among %ss", b.Type, what)
		}
		if err := parse(b.Bytes); err != nil {
			return nil, fmt.Errorf("parse %s: %w", what, err)
		}
		if err := pem.Encode(&out, &pem.Block{Type: b.Type, Bytes: b.Bytes}); err != nil {
			return nil, fmt.Errorf("write %s: %w", what, err)
		}
	}
	if out.Len() == 0 {
		return nil, errors.New("no " + what)
	}
	return out.Bytes(), nil
}

func canonicalBundle(bundle []byte) ([]byte, error) {
	return canonicalBlocks(bundle, "CA certificate", "CERTIFICATE", func(der []byte) error {
		_, err := x509.ParseCertificate(der)
		return err //nolint:wrapcheck // canonicalBlocks says what was tried
	})
}

func canonicalLists(lists []byte) ([]byte, error) {
	return canonicalBlocks(lists, "revocation list", "X509 CRL", func(der []byte) error {
		_, err := x509.ParseRevocationList(der)
		return err //nolint:wrapcheck // canonicalBlocks says what was tried
	})
}

// certificate is a Certificate resource, validated: a pair or a bundle of CA certificates.
type certificate struct {
	resource string
	path     string // of its file
	pair     []byte // PEM of chain and key; nil for a bundle
	ca       []byte // PEM of CA certificates; nil for a pair

	lists     []byte // PEM of those CAs' revocation lists; nil: there are none
	listsPath string // of their file; empty: there is none
}

// isPair tells whether there is a certificate with its key. c may be nil.
func (c *certificate) isPair() bool { return c != nil && c.pair != nil }

// paths returns the paths of its files. c may be nil.
func (c *certificate) paths() []string {
	switch {
	case c == nil:
		return nil
	case c.listsPath != "":
		return []string{c.path, c.listsPath}
	default:
		return []string{c.path}
	}
}

// content returns the content of one of its files.
func (c *certificate) content(path string) []byte {
	switch {
	case path == c.listsPath:
		return c.lists
	case c.pair != nil:
		return c.pair
	default:
		return c.ca
	}
}

func newCertificate(resource string, spec *tsujiv1.Certificate) (*certificate, error) {
	c := &certificate{resource: resource}
	file, err := certificateFile(resource)
	if err != nil {
		return nil, err
	}
	switch isPair := len(spec.GetChainPem()) > 0 || spec.GetPrivateKey() != nil; {
	case isPair && len(spec.GetCaBundlePem())+len(spec.GetRevocationListsPem()) > 0:
		return nil, errors.New("both a certificate with a key and what belongs to CA certificates")
	case isPair:
		c.path = "certs/" + file
		if c.pair, err = canonicalPair(spec.GetChainPem(), spec.GetPrivateKey().GetPem()); err != nil {
			return nil, err
		}
	default:
		if c.ca, err = canonicalBundle(spec.GetCaBundlePem()); err != nil {
			return nil, err
		}
		// HAProxy's servers keep the bundle that they were made with: another one has another name.
		c.path = "ca/" + withDigest(file, c.ca)
		if len(spec.GetRevocationListsPem()) == 0 {
			break
		}
		if c.lists, err = canonicalLists(spec.GetRevocationListsPem()); err != nil {
			return nil, err
		}
		// Another list is another program, and so a reload. At run time it would concern new handshakes only: a client
		// that was let in before would keep its connection, and before HAProxy 3.4 come back with its TLS session.
		c.listsPath = "crls/" + withDigest(file, c.lists)
	}
	return c, nil
}

// withDigest puts into a file's name what its content is.
func withDigest(file string, content []byte) string {
	sum := sha256.Sum256(content)
	return strings.TrimSuffix(file, ".pem") + "." + hex.EncodeToString(sum[:6]) + ".pem"
}

// maxFileName is the longest name of a certificate's file that is written out.
const maxFileName = 160

// certificateFile names a certificate's file: "<namespace>_<source>_<name>.pem". None of the three has a
// "_", so that no two have one name; a long one is cut and told apart by its digest. No namespace is empty,
// so that none begins with a "_".
func certificateFile(resource string) (string, error) {
	namespace, rest, _ := strings.Cut(strings.TrimPrefix(resource, "cert/"), "/")
	source, name, _ := strings.Cut(rest, ":")
	if err := errors.Join(
		checkObjectName("namespace", namespace),
		checkObjectName("source", source),
		checkObjectName("name", name),
	); err != nil {
		return "", err
	}
	file := namespace + "_" + source + "_" + name
	if len(file) > maxFileName {
		sum := sha256.Sum256([]byte(file))
		file = file[:maxFileName-40] + "__" + hex.EncodeToString(sum[:16])
	}
	return file + ".pem", nil
}
