package compile

import (
	"bytes"
	gocrypto "crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
)

// parsed is what was understood of PEM text.
type parsed struct {
	certificates []*x509.Certificate
	keys         []privateKey
	damaged      int // blocks that begin and cannot be read
}

// privateKey is a key of RSA or EC, with a block that is encoded anew: PKCS #1 or SEC 1.
type privateKey struct {
	public interface {
		Equal(x gocrypto.PublicKey) bool
	}
	block *pem.Block
}

type certError string

func (e certError) Error() string { return string(e) }

const errNoCertificate = certError("there is no certificate in it")

// notes tells what of the text is not used.
func (p parsed) notes() []string {
	if p.damaged == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d PEM blocks in it cannot be read and are not used", p.damaged)}
}

// parsePEM takes the certificates and keys out of PEM text: what it returns is made anew of what was
// understood, and nothing else of the text gets further. Text around the blocks is left out, public keys
// and EC parameters too; any other block is an error.
func parsePEM(text string) (parsed, error) {
	var p parsed
	if len(text) > maxPEM {
		return p, fmt.Errorf("longer than %d bytes", maxPEM)
	}
	begun := strings.Count(text, "-----BEGIN ")
	if begun > maxBlocks {
		return p, fmt.Errorf("more than %d PEM blocks", maxBlocks)
	}
	blocks := 0
	for rest := []byte(text); ; blocks++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			p.damaged = begun - blocks
			return p, nil
		}
		switch block.Type {
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return p, fmt.Errorf("parse certificate: %w", err)
			}
			p.certificates = append(p.certificates, c)
		case "RSA PRIVATE KEY", "EC PRIVATE KEY", "ECDSA PRIVATE KEY", "PRIVATE KEY":
			if len(p.keys) == maxKeys {
				return p, fmt.Errorf("more than %d private keys", maxKeys)
			}
			k, err := parseKey(block)
			if err != nil {
				return p, err
			}
			p.keys = append(p.keys, k)
		case "PUBLIC KEY", "RSA PUBLIC KEY", "DSA PUBLIC KEY", "ECDSA PUBLIC KEY", "EC PARAMETERS":
		default:
			return p, fmt.Errorf("unrecognized PEM block %s", quoted(block.Type))
		}
	}
}

// parseKey encodes an RSA or EC key anew. OpenShift's router takes no others.
func parseKey(block *pem.Block) (privateKey, error) {
	if len(block.Headers) > 0 {
		return privateKey{}, fmt.Errorf("block %s is not valid: store the key unencrypted", block.Type)
	}
	if len(block.Bytes) > maxKey {
		return privateKey{}, fmt.Errorf("block %s is longer than %d bytes", block.Type, maxKey)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		if key, err = x509.ParsePKCS1PrivateKey(block.Bytes); err != nil {
			if key, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
				return privateKey{}, fmt.Errorf("block %s is not valid", block.Type)
			}
		}
	}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return privateKey{&k.PublicKey, &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}}, nil
	case *ecdsa.PrivateKey:
		der, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			return privateKey{}, fmt.Errorf("encode private key: %w", err)
		}
		return privateKey{&k.PublicKey, &pem.Block{Type: "EC PRIVATE KEY", Bytes: der}}, nil
	default:
		return privateKey{}, fmt.Errorf("block private key %T is not valid: use an RSA or EC key", key)
	}
}

// fault tells that the key is not a certificate's, in the words of crypto/tls; empty: it is.
func (k privateKey) fault(c *x509.Certificate) string {
	_, isRSA := k.public.(*rsa.PublicKey)
	switch c.PublicKey.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey:
	default:
		return "tls: private key type does not match public key type"
	}
	switch _, wantRSA := c.PublicKey.(*rsa.PublicKey); {
	case isRSA != wantRSA:
		return "tls: private key type does not match public key type"
	case !k.public.Equal(c.PublicKey):
		return "tls: private key does not match public key"
	}
	return ""
}

func encodeCertificates(certs []*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.Bytes()
}
