package identity_test

import (
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/identity"
	"github.com/tsuji-dev/tsuji/identity/authority"
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

// A certificate with no URI name, or with one that is no identity, belongs to nobody.
func TestCertificateNeedsAnIdentity(t *testing.T) {
	ca, err := authority.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	for uri, want := range map[string]string{
		"":                                  "has 0 URI names",
		"spiffe://tsuji.local/operator/ada": "",
		"spiffe://tsuji.local/nobody":       "want spiffe://",
	} {
		cert, _, err := ca.Issue(authority.Options{URI: uri, DNSNames: []string{"localhost"}})
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(cert)
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		_, err = identity.FromCertificate(c, "tsuji.local")
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("URI %q: got %v, want %q", uri, err, want)
		}
		c.URIs = append(c.URIs, c.URIs...)
		if _, err = identity.FromCertificate(c, "tsuji.local"); err == nil {
			t.Errorf("URI %q twice was accepted", uri)
		}
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
