package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/identity"
)

// An identity has one spelling: what String writes is what Parse reads.
func TestIdentitiesReadBack(t *testing.T) {
	for _, uri := range []string{
		"spiffe://tsuji.local/ingress/default/zone/tok04",
		"spiffe://tsuji.local/ingress/default/zone/tok04/router/r-1.example",
		"spiffe://tsuji.local/ingress/ingress/zone/router/router/zone",
		"spiffe://tsuji.local/operator/ada",
		"spiffe://tsuji.local/controlplane/cp-0",
		"spiffe://tsuji.local/operator/" + strings.Repeat("x", 253),
	} {
		id, err := identity.Parse(uri, "tsuji.local")
		if err != nil {
			t.Errorf("%s: %v", uri, err)
		} else if id.String() != uri {
			t.Errorf("%s reads back as %s", uri, id)
		}
	}
}

// Nothing else is an identity, however like one it looks.
func TestOtherNamesAreRefused(t *testing.T) {
	for _, uri := range []string{
		"",
		"spiffe://",
		"spiffe://tsuji.local",
		"spiffe://tsuji.local/",
		"https://tsuji.local/operator/ada",
		"SPIFFE://tsuji.local/operator/ada",
		"spiffe://TSUJI.local/operator/ada",
		"spiffe://other/operator/ada",
		"spiffe://tsuji.local:443/operator/ada",
		"spiffe://user@tsuji.local/operator/ada",
		"spiffe://tsuji.local/operator",
		"spiffe://tsuji.local/operator/",
		"spiffe://tsuji.local/operator/ada/",
		"spiffe://tsuji.local/operator/ada?x",
		"spiffe://tsuji.local/operator/ada#x",
		"spiffe://tsuji.local/operator/a%64a",
		"spiffe://tsuji.local/operator/..",
		"spiffe://tsuji.local//operator/ada",
		"spiffe://tsuji.local/admin/ada",
		"spiffe://tsuji.local/router/ada",
		"spiffe://tsuji.local/ingress/default",
		"spiffe://tsuji.local/ingress/default/zone",
		"spiffe://tsuji.local/ingress/default/zone/",
		"spiffe://tsuji.local/ingress//zone/tok04",
		"spiffe://tsuji.local/ingress/default/area/tok04",
		"spiffe://tsuji.local/ingress/default/zone/tok04/router",
		"spiffe://tsuji.local/ingress/default/zone/tok04/router/",
		"spiffe://tsuji.local/ingress/default/zone/tok04/operator/ada",
		"spiffe://tsuji.local/ingress/default/zone/tok04/router/a/b",
		"spiffe://tsuji.local/ingress/default/zone/tok 04",
		"spiffe://tsuji.local/ingress/default/zone/tök04",
		"spiffe://tsuji.local/operator/" + strings.Repeat("x", 254),
	} {
		if id, err := identity.Parse(uri, "tsuji.local"); err == nil {
			t.Errorf("%q was read as %+v", uri, id)
		}
	}
	if _, err := identity.Parse("spiffe:///operator/ada", ""); err == nil {
		t.Error("an empty trust domain was accepted")
	}
}

// certificate returns a certificate with these URI names, spelled as they are.
func certificate(t *testing.T, ca bool, names ...string) *x509.Certificate {
	t.Helper()
	sequence := asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true}
	for _, name := range names {
		b, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(name)})
		if err != nil {
			t.Fatal(err)
		}
		sequence.Bytes = append(sequence.Bytes, b...)
	}
	san, err := asn1.Marshal(sequence)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), BasicConstraintsValid: true, IsCA: ca}
	if len(names) > 0 {
		template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: san}}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A certificate with no URI name, with several, or with one that is no identity as it is spelled, belongs to nobody; nor
// does a CA's.
func TestCertificateNeedsAnIdentity(t *testing.T) {
	const ada = "spiffe://tsuji.local/operator/ada"
	for _, c := range []struct {
		cert *x509.Certificate
		want string
	}{
		{certificate(t, false, ada), ""},
		{certificate(t, false), "has 0 URI names"},
		{certificate(t, false, ada, ada), "has 2 URI names"},
		{certificate(t, true, ada), "is a CA's"},
		{certificate(t, false, "spiffe://tsuji.local/nobody"), "want spiffe://"},
		{certificate(t, false, "SPIFFE://tsuji.local/operator/ada"), "want spiffe://"},
		{certificate(t, false, ada+"#"), "want spiffe://"},
		{certificate(t, false, ada+"?"), "want spiffe://"},
		{certificate(t, false, "spiffe://tsuji.local/operator/%61da"), "want spiffe://"},
	} {
		id, err := identity.FromCertificate(c.cert, "tsuji.local")
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, %v, want %q", c.cert.URIs, id, err, c.want)
		}
	}
}

// A file of denied peers that has one mistake is refused whole, with the line; and the one before stays.
func TestMistakesInAFileOfDeniedPeers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "denied")
	for text, want := range map[string]string{
		"": "", "\n# x\n serial=00aB\n": "", "serial=12:34": "",
		"spiffe://td/operator/ada\nspiffe://other/operator/ada": "line 2: ",
		"serial=xyz": "line 1: ", "serial=": "line 1: ", "serial=-1": "line 1: ", "serial=+1": "line 1: ",
		"ada": "line 1: ", "spiffe://td/operator/ada # left": "line 1: ",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := identity.LoadDenied(file, "td", slog.New(slog.DiscardHandler))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	if err := os.Chmod(file, 0o622); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.LoadDenied(file, "td", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("a file that others may write: got %v", err)
	}
	if _, err := identity.LoadDenied(file+"x", "td", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a file that is not there was accepted")
	}
}

// FuzzParse: what is accepted is written back as it was.
func FuzzParse(f *testing.F) {
	f.Add("spiffe://tsuji.local/ingress/default/zone/tok04/router/r1")
	f.Add("spiffe://tsuji.local/operator/ada")
	f.Fuzz(func(t *testing.T, uri string) {
		if id, err := identity.Parse(uri, "tsuji.local"); err == nil && id.String() != uri {
			t.Errorf("%q was read as %q", uri, id)
		}
	})
}
