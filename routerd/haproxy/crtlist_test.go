package haproxy

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tsuji-dev/tsuji/identity/authority"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// issue returns certificates, chain and key, for the names given.
func issue(t testing.TB, names ...string) (ca *authority.Authority, pems []string) {
	t.Helper()
	ca, err := authority.NewAuthority("test")
	must(t, err)
	for _, name := range names {
		chain, key, err := ca.Issue(authority.Options{DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)})
		must(t, err)
		pems = append(pems, string(chain)+string(key))
	}
	return ca, pems
}

// handshake returns the first name in the certificate that a client gets who asks for a name, and the protocol
// agreed on.
func handshake(ctx context.Context, dir, sni string) (name, protocol string, err error) {
	d := tls.Dialer{
		NetDialer: &net.Dialer{Timeout: 5 * time.Second},
		Config:    &tls.Config{ServerName: sni, InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}, // #nosec G402 -- it looks at whatever comes
	}
	conn, err := d.DialContext(ctx, "unix", filepath.Join(dir, "run/tls.sock"))
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	state := conn.(*tls.Conn).ConnectionState() //nolint:errcheck // a Dialer of tls makes nothing else
	return state.PeerCertificates[0].DNSNames[0], state.NegotiatedProtocol, nil
}

// rsaPair returns a certificate with an RSA key.
func rsaPair(t *testing.T, name string) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

// Certificates come at run time, and lines of a crt-list: more than one for a certificate or a name. What a line gives
// is what the next handshake gets, and its number is known before.
func TestCrtList(t *testing.T) { haproxytest.Each(t, crtListStory) }

func crtListStory(t *testing.T, binary string) {
	p, dir := setup(t, binary, nil)
	const list, a, b, c = "certs/list.txt", "certs/a.pem", "certs/b.pem", "certs/c.pem"
	_, pems := issue(t, "default.test", "a.test", "b.test")
	write(t, dir, "certs/default.pem", pems[0])
	write(t, dir, a, pems[1])
	write(t, dir, list, "# a comment\n\n"+a+" [alpn h2] a.test\n\n# the end\n\n")
	change(t, dir, "  default_backend b\n", "  bind unix@run/tls.sock ssl crt certs/default.pem crt-list "+list+" alpn http/1.1\n  default_backend b\n")
	start(t, p)
	r, ctx := connect(t, p), t.Context()

	gets := func(sni, want string) { // certificate, protocol
		t.Helper()
		name, protocol, err := handshake(ctx, dir, sni)
		if got := strings.TrimSpace(name + " " + protocol); got != want || err != nil {
			t.Errorf("%s gets %s, %v; want %s", sni, got, err, want)
		}
	}
	lines := func(want ...string) { // number, certificate, ALPN or -, filter
		t.Helper()
		entries, err := r.CrtList(ctx, list)
		var got []string
		for _, e := range entries {
			got = append(got, strings.TrimSpace(fmt.Sprintln(e.Line, e.Certificate, e.ALPN, e.Filter)))
		}
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Error(err, d)
		}
	}
	gets("a.test", "a.test h2")
	gets("b.test", "default.test http/1.1")
	lines("3 certs/a.pem h2 a.test")

	must(t, r.Do(ctx, NewCertificate(b), SetCertificate(b, pems[2]), CommitCertificate(b),
		AddCrtList(list, CrtListLine{Certificate: b, Filter: "b.test"})))
	gets("b.test", "b.test http/1.1")
	lines("3 certs/a.pem h2 a.test", "7 certs/b.pem  b.test")

	// The oldest of several lines for a name is the one that counts, so a change is made by adding before deleting.
	must(t, r.Do(ctx, AddCrtList(list, CrtListLine{b, "h2", "b.test"}), AddCrtList(list, CrtListLine{a, "h2,http/1.1", "b.test"})))
	gets("b.test", "b.test http/1.1")
	refuse(t, r, DelCrtList(list, b, 0), DelCrtList(list, b, 6), DelCrtList(list, a, 8), DelCrtList(list, "certs/nope.pem", 0), DelCertificate(b))
	must(t, r.Do(ctx, DelCrtList(list, b, 7)))
	gets("b.test", "b.test h2")
	lines("3 certs/a.pem h2 a.test", "8 certs/b.pem h2 b.test", "9 certs/a.pem h2,http/1.1 b.test")
	must(t, r.Do(ctx, DelCrtList(list, b, 0)))
	gets("b.test", "a.test h2")

	// What is refused takes no number, and no number is used again.
	refuse(t, r, AddCrtList(list, CrtListLine{"certs/nope.pem", "h2", "b.test"}), AddCrtList("nope.txt", CrtListLine{Certificate: b}),
		DelCrtList("nope.txt", b, 0), NewCertificate(b), DelCertificate("certs/nope.pem"))
	for _, line := range []CrtListLine{
		{}, {Filter: "b.test"}, {Certificate: "a b"}, {b, "h2] x [", ""}, {b, "", "x\ny"}, {b, "", "x\ty"}, {b, "", `"x`}, {b, "", "#x"},
	} {
		if r.Do(ctx, AddCrtList(list, line)) == nil {
			t.Errorf("%+v was sent", line)
		}
	}
	must(t, r.Do(ctx, DelCrtList(list, a, 9), AddCrtList(list, CrtListLine{Certificate: b})))
	gets("b.test", "b.test http/1.1")
	gets("a.test", "a.test h2")
	lines("3 certs/a.pem h2 a.test", "10 certs/b.pem")

	// ECDSA goes before RSA, whichever is older.
	must(t, r.Do(ctx, NewCertificate(c), SetCertificate(c, rsaPair(t, "rsa.test")), CommitCertificate(c), DelCrtList(list, b, 0),
		AddCrtList(list, CrtListLine{c, "", "b.test"})))
	gets("b.test", "rsa.test http/1.1")
	must(t, r.Do(ctx, AddCrtList(list, CrtListLine{b, "h2", "b.test"})))
	gets("b.test", "b.test h2")
	must(t, r.Do(ctx, DelCrtList(list, c, 0), DelCertificate(c)))

	// A name goes before a wildcard.
	must(t, r.Do(ctx, AddCrtList(list, CrtListLine{a, "", "*.w.test"}), AddCrtList(list, CrtListLine{b, "", "x.w.test"})))
	gets("x.w.test", "b.test http/1.1")
	gets("y.w.test", "a.test http/1.1")
	must(t, r.Do(ctx, DelCrtList(list, a, 13), DelCrtList(list, b, 14)))

	// One certificate may have a name for each of its lines; then no number is ever needed.
	must(t, r.Do(ctx, NewCertificate(c), SetCertificate(c, pems[2]), CommitCertificate(c), AddCrtList(list, CrtListLine{c, "h2", "b.test"}),
		DelCrtList(list, b, 0), DelCertificate(b)))
	gets("b.test", "b.test h2")
	must(t, r.Do(ctx, DelCrtList(list, c, 0), DelCertificate(c)))
	gets("b.test", "default.test http/1.1")
	if got, err := r.Certificates(ctx, b); err != nil || got[0].Err == nil {
		t.Error("the certificate is still there")
	}
	must(t, r.Do(ctx, NewCertificate(b)))
	refuse(t, r, AddCrtList(list, CrtListLine{Certificate: b})) // it is empty
	must(t, r.Do(ctx, DelCertificate(b)))
	lines("3 certs/a.pem h2 a.test")
	if _, err := r.CrtList(ctx, "nope.txt"); err == nil {
		t.Error("a list that is not there was read")
	}
}
