package apply_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// clientCA issues certificates of clients, and revokes them.
type clientCA struct {
	t       testing.TB
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	number  int64
	revoked []x509.RevocationListEntry
}

func newClientCA(t testing.TB) *clientCA {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "clients"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &clientCA{t: t, cert: cert, key: key, number: 1}
}

// client returns one with a certificate of its own, which keeps connections and TLS sessions.
func (ca *clientCA) client() (*http.Client, *big.Int) {
	ca.number++
	serial := big.NewInt(ca.number)
	c := &x509.Certificate{SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, ca.cert, ca.key.Public(), ca.key)
	must(ca.t, err)
	tr := &http.Transport{TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, ServerName: "a.test", ClientSessionCache: tls.NewLRUClientSessionCache(0),
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: ca.key}},
	}}
	ca.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}, serial
}

// resource returns the CA with its newest list, which is valid for so long from now on.
func (ca *clientCA) resource(valid time.Duration) *tsujiv1.Resource {
	ca.number++
	l := &x509.RevocationList{
		Number: big.NewInt(ca.number), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(valid), RevokedCertificateEntries: ca.revoked,
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, ca.cert, ca.key)
	must(ca.t, err)
	return &tsujiv1.Resource{Name: tsujiv1.CertificateName("ns", tsujiv1.FromConfigMap, "clients"), Kind: &tsujiv1.Resource_Certificate{Certificate: &tsujiv1.Certificate{
		CaBundlePem:        pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}),
		RevocationListsPem: pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}),
	}}}
}

func (ca *clientCA) revoke(serial *big.Int) {
	ca.revoked = append(ca.revoked, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: time.Now().Add(-time.Minute)})
}

// A client whose certificate is revoked does not get in, and others do. When the list is renewed, whom it names is out:
// neither the connection that it has nor its TLS session helps. A list whose time is over lets nobody in.
func TestRevokedClients(t *testing.T) { haproxytest.Each(t, revokedClientsStory) }

func revokedClientsStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	ca := newClientCA(t)
	ann, _ := ca.client()
	bob, bobs := ca.client()
	eve, eves := ca.client()
	ca.revoke(eves)
	settings := &tsujiv1.Resource{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{
		ClientTls: &tsujiv1.ClientTLS{Ca: ca.resource(time.Hour).GetName(), CheckRevocation: true},
	}}}
	pair, _ := certificate("a", false)
	others := []*tsujiv1.Resource{settings, edge("a"), pair, endpoints("a", serve(t, "a"))}
	// ask returns whether a client got in, and whether with a TLS session that it had.
	ask := func(c *http.Client) (in, resumed bool) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+w.https+"/", http.NoBody)
		must(t, err)
		req.Host = "a.test"
		res, err := c.Do(req)
		if err != nil {
			return false, false
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return err == nil && res.StatusCode == http.StatusOK, res.TLS.DidResume
	}
	expect := func(name string, c *http.Client, want bool) {
		t.Helper()
		if in, _ := ask(c); in != want {
			t.Errorf("%s got in: %t", name, in)
		}
	}

	r.put(append(others, ca.resource(time.Hour))...)
	expect("ann", ann, true)
	expect("eve", eve, false)
	expect("bob", bob, true)
	bob.CloseIdleConnections()
	if in, resumed := ask(bob); !in || !resumed {
		t.Errorf("bob got in again: %t, with his session: %t", in, resumed)
	}
	before := testutil.ToFloat64(r.metrics.Reloads.WithLabelValues("program"))
	ca.revoke(bobs)
	r.put(append(others, ca.resource(time.Hour))...)
	if n := testutil.ToFloat64(r.metrics.Reloads.WithLabelValues("program")) - before; n != 1 {
		t.Errorf("a renewed list: %v reloads", n)
	}
	eventually(t, "bob is out, whatever connection and session he has", func() bool { in, _ := ask(bob); return !in })
	expect("bob", bob, false)
	expect("ann", ann, true)
	expect("eve", eve, false)

	r.put(append(others, ca.resource(-time.Minute))...)
	eventually(t, "a list whose time is over lets nobody in", func() bool { in, _ := ask(ann); return !in })
}
