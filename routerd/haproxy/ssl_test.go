package haproxy

import (
	"crypto/sha1" // how HAProxy identifies certificates
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/identity/authority"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// Certificates and CA certificates are replaced in memory, given up, and read back.
func TestCertificates(t *testing.T) { haproxytest.Each(t, certificatesStory) }

func certificatesStory(t *testing.T, binary string) {
	p, dir := setup(t, binary, nil)
	ca, err := authority.NewAuthority("test")
	must(t, err)
	other, err := authority.NewAuthority("other")
	must(t, err)
	pair := func() (whole, sha string) {
		chain, key, err := ca.Issue(authority.Options{DNSNames: []string{"a.test"}, NotAfter: time.Now().Add(time.Hour)})
		must(t, err)
		return string(chain) + "\n" + string(key), fingerprint(chain)
	}
	whole, first := pair()
	write(t, dir, "certs/a.pem", whole)
	write(t, dir, "ca/a.pem", string(ca.CertPEM()))
	config, err := os.ReadFile(filepath.Join(dir, ConfigFile))
	must(t, err)
	write(t, dir, ConfigFile, strings.Replace(string(config), "  default_backend b\n",
		"  bind unix@run/tls.sock ssl crt certs/a.pem\n  default_backend b\n", 1)+"  server tls 127.0.0.1:9 ssl verify required ca-file ca/a.pem\n")
	start(t, p)
	r, ctx := connect(t, p), t.Context()

	have := func(want string) {
		t.Helper()
		if got, err := r.Certificates(ctx, "certs/a.pem"); err != nil || got[0].Err != nil || got[0].SHA1 != want || got[0].Serial == "" {
			t.Errorf("certificate %+v, %v; want %s", got, err, want)
		}
	}
	have(first)
	whole, second := pair()
	must(t, r.Do(ctx, SetCertificate("certs/a.pem", whole)))
	have(first)
	_, err = r.Exec(ctx, Cmd("abort", "ssl", "cert", "certs/a.pem"))
	must(t, err)
	if r.Do(ctx, CommitCertificate("certs/a.pem")) == nil {
		t.Error("what was given up is committed")
	}
	must(t, r.Do(ctx, SetCertificate("certs/a.pem", whole), CommitCertificate("certs/a.pem")))
	have(second)
	err = r.Do(ctx, SetCertificate("certs/a.pem", strings.ReplaceAll(whole, "A", "B")))
	if err == nil || strings.Contains(err.Error(), "-----BEGIN") {
		t.Errorf("a broken certificate: %v", err)
	}
	have(second)

	haveCA := func(want *authority.Authority) {
		t.Helper()
		list, err := Identify(want.CertPEM())
		must(t, err)
		if what, err := r.CA(ctx, "ca/a.pem", list); err != nil || what != "" {
			t.Errorf("CA: %s, %v", what, err)
		}
	}
	haveCA(ca)
	must(t, r.Do(ctx, SetCA("ca/a.pem", string(other.CertPEM()), r.Version(), 16384)...))
	_, err = r.Exec(ctx, Cmd("abort", "ssl", "ca-file", "ca/a.pem"))
	must(t, err)
	haveCA(ca)
	must(t, r.Do(ctx, append(SetCA("ca/a.pem", string(other.CertPEM()), r.Version(), 16384), CommitCA("ca/a.pem"))...))
	haveCA(other)
	var refused *RefusedError
	if got, err := r.Certificates(ctx, "certs/b.pem", "certs/a.pem"); err != nil || !errors.As(got[0].Err, &refused) || got[1].Err != nil {
		t.Errorf("a certificate that nobody has: %+v, %v", got, err)
	}
	if _, err := r.CA(ctx, "ca/b.pem", []CertificateInfo{{}}); !errors.As(err, &refused) {
		t.Errorf("CA certificates that nobody has: %v", err)
	}
}

func fingerprint(chain []byte) string {
	b, _ := pem.Decode(chain)
	sum := sha1.Sum(b.Bytes)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}
