package compile_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	operatorv1 "github.com/openshift/api/operator/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// ca is a certificate authority of clients, and its revocation list with that number.
type ca struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T, name string, points ...string) ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, CRLDistributionPoints: points,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return ca{t, cert, key}
}

func (c ca) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}))
}

func (c ca) list(number int64) string {
	c.t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	der, err := x509.CreateRevocationList(rand.Reader, l, c.cert, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

// An IngressController asks clients for certificates. What is beside their CA in crl.pem is who is revoked; where
// that cannot be read, and never was, nobody gets in.
func TestRevocationLists(t *testing.T) {
	t.Parallel()
	a, b := newCA(t, "a"), newCA(t, "b", "http://crl.example.com/b")
	const name = "cert/openshift-config/configmap:clients"
	for _, c := range []struct {
		what, bundle, lists string
		checked, served     bool
		faults              []string
	}{
		{"no lists, and none are spoken of", a.pem(), "", false, true, nil},
		{"no lists where a CA says that there are some", a.pem() + b.pem(), "", false, true, []string{`CA "CN=b" says that there are revocation lists`}},
		{"a list of each CA", a.pem() + b.pem(), a.list(1) + "in between\n" + b.list(1), true, true, nil},
		{"one of two has a list", a.pem() + b.pem(), a.list(1), true, true, []string{`no revocation list of CA "CN=b"`}},
		{"a list that another signed", a.pem(), newCA(t, "a").list(1), true, true, []string{`no revocation list of CA "CN=a"`}},
		{"lists that are none", a.pem(), "nothing", false, false, []string{"there is no revocation list in it; until then every request whose TLS ends at a router is answered with 503"}},
		{"a certificate for a list", a.pem(), a.pem(), false, false, []string{`unrecognized PEM block "CERTIFICATE"`}},
		{"a list that is cut", a.pem(), "-----BEGIN X509 CRL-----\nMIHFMGw=\n-----END X509 CRL-----\n", false, false, []string{"failed to parse revocation list"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			ic := &operatorv1.IngressController{ObjectMeta: metav1.ObjectMeta{Namespace: "openshift-ingress-operator", Name: "default"}}
			ic.Spec.ClientTLS.ClientCertificatePolicy = operatorv1.ClientCertificatePolicyRequired
			ic.Spec.ClientTLS.ClientCA.Name = "clients"
			clients := &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: "openshift-config", Name: "clients"},
				Data:       map[string]string{"ca-bundle.pem": c.bundle, "crl.pem": c.lists},
			}
			compiler := compile.New(compile.Config{})
			r := compiler.Apply(append(crowd(t, 3), put(ic), put(clients)))
			checkSafeResult(t, r)
			clientTLS := settingsOf(t, r).GetClientTls()
			if clientTLS.GetCheckRevocation() != c.checked || (clientTLS.GetCa() == name) != c.served || !clientTLS.GetRequired() {
				t.Errorf("%v", clientTLS)
			}
			item, served := r.Facts.Get(name)
			if served != c.served {
				t.Errorf("the CA is there: %t", served)
			}
			if served {
				res, err := tsujiv1.Decode(item)
				if err != nil {
					t.Fatal(err)
				}
				if (len(res.GetCertificate().GetRevocationListsPem()) > 0) != c.checked {
					t.Errorf("lists: %s", res.GetCertificate().GetRevocationListsPem())
				}
			}
			if len(r.Faults) != len(c.faults) {
				t.Fatalf("faults: %v", r.Faults)
			}
			for i, f := range c.faults {
				if !strings.Contains(r.Faults[i].Message, f) {
					t.Errorf("%s does not say %s", r.Faults[i].Message, f)
				}
			}
			if !c.checked {
				return
			}
			clients = clients.DeepCopy()
			clients.Data["crl.pem"] = c.lists + a.list(2)
			if d := difference(r, compiler.Apply([]cluster.Change{put(clients)})); len(d) != 1 || d[0] != name {
				t.Errorf("a newer list changes %v", d)
			}
		})
	}
}

// What is said in unsupportedConfigOverrides, with quotes as the operator wants it and without.
func TestOverrides(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		raw             string
		keep, continual bool
		fault           string
	}{
		{"", false, false, ""},
		{`{}`, false, false, ""},
		{`{"mutualTLSHeaderFilter": "false", "contStats": "true"}`, true, true, ""},
		{`{"mutualTLSHeaderFilter": false, "contStats": true}`, true, true, ""},
		{`{"mutualTLSHeaderFilter": "true", "contStats": "", "maxDynamicServers": "7"}`, false, false, ""},
		{`{"mutualTLSHeaderFilter": "no", "contStats": null}`, false, false, "spec.unsupportedConfigOverrides.mutualTLSHeaderFilter"},
		{`{"mutualTLSHeaderFilter": [1]}`, false, false, "must be true or false"},
		{`{"loadBalancingAlgorithm": 1, "contStats": true}`, false, false, "none of it is used"},
		{`[`, false, false, "none of it is used"},
	} {
		ic := &operatorv1.IngressController{ObjectMeta: metav1.ObjectMeta{Namespace: "openshift-ingress-operator", Name: "default"}}
		ic.Spec.UnsupportedConfigOverrides.Raw = []byte(c.raw)
		r := compile.New(compile.Config{}).Apply([]cluster.Change{put(ic)})
		s := settingsOf(t, r)
		if s.GetKeepClientTlsHeaders() != c.keep || s.GetContinuousStatistics() != c.continual {
			t.Errorf("%s: %v", c.raw, s)
		}
		if len(r.Faults) > 0 != (c.fault != "") || c.fault != "" && !strings.Contains(r.Faults[0].Message, c.fault) {
			t.Errorf("%s: %v", c.raw, r.Faults)
		}
	}
}

func settingsOf(t *testing.T, r compile.Result) *tsujiv1.Settings {
	t.Helper()
	item, _ := r.Config.Get(tsujiv1.SettingsName)
	res, err := tsujiv1.Decode(item)
	if err != nil {
		t.Fatal(err)
	}
	return res.GetSettings()
}
