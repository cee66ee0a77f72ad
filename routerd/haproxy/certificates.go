package haproxy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1" //nolint:gosec // how HAProxy identifies certificates; nothing rests on its strength
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// CertificateInfo identifies a certificate as HAProxy tells of it: by what comes before any text of the certificate's
// own, and by its fingerprint. A name in a certificate may hold line breaks, and so anything that HAProxy says.
type CertificateInfo struct {
	Serial              string // hexadecimal, upper case
	NotBefore, NotAfter string

	// SHA1 is of the DER, hexadecimal, upper case. It is empty where HAProxy does not say it, or where what looks like
	// it may be a name of the certificate's. HAProxy ends its answer where its buffer is full (tune.bufsize), as with
	// some thousand names, and before an algorithm that it does not know: X25519, for one.
	SHA1 string
}

// Is tells whether two infos are of one certificate, as far as is known of both.
func (i CertificateInfo) Is(other CertificateInfo) bool {
	if i.SHA1 == "" || other.SHA1 == "" {
		i.SHA1, other.SHA1 = "", ""
	}
	return i == other
}

// String tells as much as is needed to tell certificates apart.
func (i CertificateInfo) String() string {
	return fmt.Sprintf("%.40s from %s (%s)", i.Serial, i.NotBefore, cmp.Or(i.SHA1, "no fingerprint"))
}

// CertificateAnswer is what HAProxy says of a certificate that was asked for.
type CertificateAnswer struct {
	CertificateInfo
	Err error // a *RefusedError: it has none of this name; an *AnswerError: what it has is not known
}

// Certificates returns what HAProxy holds in memory under the names of certificates' files, in their order: of each
// the leaf. An error says that nothing is known of any.
func (r *Runtime) Certificates(ctx context.Context, files ...string) ([]CertificateAnswer, error) {
	commands := make([]Command, len(files))
	for i, f := range files {
		commands[i] = Cmd("show", "ssl", "cert", f).asking()
	}
	answers, err := r.Exec(ctx, commands...)
	if err != nil {
		return nil, err
	}
	list := make([]CertificateAnswer, len(files))
	for i, a := range answers {
		list[i].CertificateInfo, list[i].Err = readCertificate(commands[i], a, files[i])
		if errors.Is(list[i].Err, ErrLocked) {
			return nil, ErrLocked
		}
	}
	return list, nil
}

// readCertificate reads an answer about one certificate.
func readCertificate(c Command, a Answer, file string) (CertificateInfo, error) {
	if a.severity >= 0 {
		if strings.Contains(a.text, lockedAnswer) {
			return CertificateInfo{}, ErrLocked
		}
		if strings.Contains(a.text, "ot found") { // "Not found or the certificate is a bundle!", "Not found!"
			return CertificateInfo{}, &RefusedError{Command: c.String(), Answer: a.text}
		}
		return CertificateInfo{}, &AnswerError{c.String(), "tells nothing", a.text}
	}
	info, why := parseCertificate(a.text, file)
	if why != "" {
		return CertificateInfo{}, &AnswerError{c.String(), why, a.text}
	}
	return info, nil
}

// caMost is how many certificates of one file of CA certificates are looked at.
const caMost = 256

// CA compares a file of CA certificates in HAProxy's memory with those that it should have, as Identify returns them.
// It returns what differs, for people; empty: nothing. Of more than caMost it compares so many, and their number.
//
// A *RefusedError says that HAProxy has no such file, an *AnswerError that it is not known what is in it.
func (r *Runtime) CA(ctx context.Context, file string, want []CertificateInfo) (string, error) {
	want = slices.SortedFunc(slices.Values(want), compareInfo)
	want = slices.Compact(want) // HAProxy has each once, in an order of its own
	var commands []Command
	ask := func(index int) {
		commands = append(commands, Cmd("show", "ssl", "ca-file", file+":"+strconv.Itoa(index)).asking())
	}
	for i := range min(len(want), caMost) {
		ask(i + 1)
	}
	if len(want) > caMost {
		ask(len(want))
	}
	ask(len(want) + 1)
	answers, err := r.Exec(ctx, commands...)
	if err != nil {
		return "", err
	}
	have := make([]CertificateInfo, 0, len(answers))
	for i, a := range answers {
		switch info, err := readCertificate(commands[i], a, file); {
		case a.text == "" && i == len(answers)-1: // there is no further one
		case a.text == "":
			return fmt.Sprintf("fewer than %d certificates", len(want)), nil
		case err != nil:
			return "", err
		case i == len(answers)-1:
			return fmt.Sprintf("more than %d certificates", len(want)), nil
		default:
			have = append(have, info)
		}
	}
	return differ(want, have), nil
}

// differ tells what of have is not in want. Both have as many, or want has more.
func differ(want, have []CertificateInfo) string {
	bare := slices.ContainsFunc(slices.Concat(want, have), func(i CertificateInfo) bool { return i.SHA1 == "" })
	left := make(map[CertificateInfo]int, len(want))
	for _, w := range want {
		if bare {
			w.SHA1 = ""
		}
		left[w]++
	}
	for _, h := range have {
		if bare {
			h.SHA1 = ""
		}
		if left[h]--; left[h] < 0 {
			return "certificate " + h.String()
		}
	}
	return ""
}

func compareInfo(a, b CertificateInfo) int {
	return cmp.Or(cmp.Compare(a.Serial, b.Serial), cmp.Compare(a.NotBefore, b.NotBefore),
		cmp.Compare(a.NotAfter, b.NotAfter), cmp.Compare(a.SHA1, b.SHA1))
}

// printLabel is what HAProxy writes before a fingerprint, at the beginning of a line.
const printLabel = "SHA1 FingerPrint: "

// parseCertificate reads what HAProxy says of a certificate of a file, or says what is wrong with it. All lines up to
// the dates are HAProxy's own: those of files of CA certificates, and of releases that tell of options, have some more.
func parseCertificate(text, file string) (info CertificateInfo, why string) {
	rest, ok := strings.CutPrefix(text, "Filename: "+file+"\n")
	if !ok {
		return info, "is about another file"
	}
	for ok = false; !ok; {
		var line string
		if line, rest, ok = strings.Cut(rest, "\n"); !ok {
			return info, "has no serial number"
		}
		info.Serial, ok = strings.CutPrefix(line, "Serial: ")
	}
	if _, err := hex.DecodeString(info.Serial); err != nil || info.Serial == "" {
		return info, "has no serial number"
	}
	lines := strings.SplitN(rest+"\n\n", "\n", 3)
	var from, to bool
	info.NotBefore, from = strings.CutPrefix(lines[0], "notBefore: ")
	info.NotAfter, to = strings.CutPrefix(lines[1], "notAfter: ")
	if !from || !to {
		return info, "has no dates"
	}
	prints := 0
	for line := range strings.Lines(lines[2]) {
		if value, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), printLabel); ok {
			info.SHA1 = value
			prints++
		}
	}
	if der, err := hex.DecodeString(info.SHA1); prints != 1 || err != nil || len(der) != sha1.Size {
		info.SHA1 = "" // none, or a name that looks like one
	}
	return info, ""
}

// Identify returns what HAProxy says of each certificate of a PEM file when it has that.
func Identify(content []byte) ([]CertificateInfo, error) {
	var list []CertificateInfo
	text := false
	for rest := content; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificate: %w", err)
		}
		sum := sha1.Sum(b.Bytes)
		text = text || bytes.Contains(b.Bytes, []byte(printLabel))
		list = append(list, CertificateInfo{
			Serial: serial(c), NotBefore: date(c.NotBefore), NotAfter: date(c.NotAfter), SHA1: strings.ToUpper(hex.EncodeToString(sum[:])),
		})
	}
	if len(list) == 0 {
		return nil, errors.New("no certificate in it")
	}
	for i := range list {
		if text { // names of one may come with another
			list[i].SHA1 = ""
		}
	}
	return list, nil
}

// serial writes a serial number as HAProxy does.
func serial(c *x509.Certificate) string {
	if c.SerialNumber.Sign() == 0 {
		return "00"
	}
	return strings.ToUpper(hex.EncodeToString(c.SerialNumber.Bytes()))
}

// date writes a date as OpenSSL does.
func date(t time.Time) string {
	t = t.UTC()
	return fmt.Sprintf("%s %d GMT", t.Format("Jan _2 15:04:05"), t.Year())
}
