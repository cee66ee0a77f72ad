package haproxy

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// NewCertificate makes an empty certificate; its content comes by SetCertificate and CommitCertificate.
func NewCertificate(file string) Op {
	return Op{Cmd("new", "ssl", "cert", file), saying("New empty certificate store")}
}

// DelCertificate forgets a certificate, which nothing may use. Its file is left as it is.
func DelCertificate(file string) Op {
	return Op{Cmd("del", "ssl", "cert", file), saying("deleted!")}
}

// NewCA makes an empty file of CA certificates; its content comes by SetCA and CommitCA.
func NewCA(file string) Op {
	return Op{Cmd("new", "ssl", "ca-file", file), saying("New CA file created")}
}

// DelCA forgets a file of CA certificates, which nothing in the configuration may use. Servers that were added with it
// do not count, and go on with what they have. The file itself is left as it is.
func DelCA(file string) Op {
	return Op{Cmd("del", "ssl", "ca-file", file), saying("deleted!")}
}

// SetCertificate begins to replace a certificate that HAProxy has: PEM, chain and key.
func SetCertificate(file, pem string) Op {
	return Op{Cmd("set", "ssl", "cert", file).With(compact(pem)), saying("Transaction created for", "Transaction updated for")}
}

// CommitCertificate puts what SetCertificate brought into use.
func CommitCertificate(file string) Op {
	return Op{Cmd("commit", "ssl", "cert", file), saying("Success!")}
}

// SetCA begins to replace a file of CA certificates that HAProxy has.
func SetCA(file, pem string) Op {
	return Op{Cmd("set", "ssl", "ca-file", file).With(compact(pem)), saying("ransaction created for", "ransaction updated for")}
}

// CommitCA puts what SetCA brought into use, for servers that are added from then on. Those that are there
// go on with what they have (seen with 3.4.7): give other certificates another path, and other servers.
func CommitCA(file string) Op {
	return Op{Cmd("commit", "ssl", "ca-file", file), saying("Success!")}
}

// compact takes empty lines out of PEM, because one would end the payload.
func compact(pem string) string {
	var b strings.Builder
	for line := range strings.Lines(pem) {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString(line)
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// Certificate returns what HAProxy holds in memory under the name of a certificate's file.
func (r *Runtime) Certificate(ctx context.Context, file string) (CertificateInfo, error) {
	text, err := r.ask(ctx, Cmd("show", "ssl", "cert", file))
	if err != nil {
		return CertificateInfo{}, err
	}
	certs, err := parseCertificates(text)
	if err != nil {
		return CertificateInfo{}, err
	}
	if len(certs) != 1 {
		return CertificateInfo{}, fmt.Errorf("show ssl cert %s: %d certificates", file, len(certs))
	}
	return certs[0], nil
}

// Certificates is Certificate for several names, in their order; nil for one that HAProxy does not have.
func (r *Runtime) Certificates(ctx context.Context, files ...string) ([]*CertificateInfo, error) {
	commands := make([]Command, len(files))
	for i, f := range files {
		commands[i] = Cmd("show", "ssl", "cert", f)
	}
	answers, err := r.Exec(ctx, commands...)
	if err != nil {
		return nil, err
	}
	list := make([]*CertificateInfo, len(files))
	for i, a := range answers {
		if a.severity >= 0 {
			continue
		}
		certs, err := parseCertificates(a.text)
		if err != nil {
			return nil, err
		}
		if len(certs) != 1 {
			return nil, fmt.Errorf("show ssl cert %s: %d certificates", files[i], len(certs))
		}
		list[i] = &certs[0]
	}
	return list, nil
}

// CA returns what HAProxy holds in memory under the name of a file of CA certificates.
func (r *Runtime) CA(ctx context.Context, file string) ([]CertificateInfo, error) {
	text, err := r.ask(ctx, Cmd("show", "ssl", "ca-file", file))
	if err != nil {
		return nil, err
	}
	return parseCertificates(text)
}

// CertificateInfo identifies a certificate as HAProxy has it in memory.
type CertificateInfo struct {
	Serial string // hexadecimal, upper case
	SHA1   string // of the leaf's DER, hexadecimal, upper case
	Used   bool
}

// parseCertificates reads the answer of "show ssl cert X" or "show ssl ca-file X".
func parseCertificates(text string) ([]CertificateInfo, error) {
	var certs []CertificateInfo
	used := false
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Status":
			used = value == "Used"
		case "Serial":
			certs = append(certs, CertificateInfo{Serial: value})
		case "SHA1 FingerPrint":
			if len(certs) == 0 {
				return nil, errors.New("show ssl: a fingerprint without a serial number")
			}
			if _, err := hex.DecodeString(value); err != nil {
				return nil, fmt.Errorf("show ssl: fingerprint %.100q: %w", value, err)
			}
			certs[len(certs)-1].SHA1 = value
		}
	}
	for i := range certs {
		certs[i].Used = used
	}
	return certs, nil
}
