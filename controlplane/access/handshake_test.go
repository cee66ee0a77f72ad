package access_test

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/access"
	"github.com/tsuji-dev/tsuji/identity"
	"github.com/tsuji-dev/tsuji/identity/authority"
)

// Who is turned away in the TLS handshake is in the log, with the reason; who only looks whether the port is open is
// not; and whoever knocks all the time does not fill it.
func TestHandshakesThatFailAreLogged(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	server := keeperOf(t, ours, "spiffe://"+domain+"/controlplane/cp")
	var log strings.Builder
	now := time.Unix(1000, 0)
	guard := access.New(access.Config{TrustDomain: domain, Log: slog.New(slog.NewTextHandler(&log, nil)), Now: func() time.Time { return now }})
	creds := guard.Credentials(server.ServerTLS).Clone()

	// knock has a client connect, and returns what was logged of it.
	knock := func(client func(net.Conn)) string {
		t.Helper()
		log.Reset()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			client(c)
			c.Close()
		}()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn, _, err := creds.ServerHandshake(c)
		if err == nil {
			conn.Close()
		}
		c.Close()
		<-done
		return log.String()
	}
	with := func(config *tls.Config) func(net.Conn) {
		config.NextProtos = []string{"h2"}
		config.InsecureSkipVerify = true
		config.VerifyConnection = nil
		return func(c net.Conn) { _, _ = tls.Client(c, config).Read(make([]byte, 1)) } // until the server has said what it thinks
	}
	accept := func(identity.ID) error { return nil }
	stranger := keeperOf(t, theirs, "spiffe://"+domain+"/operator/eve").ClientTLS(domain, accept)

	for want, client := range map[string]func(net.Conn){
		"unknown authority":                   with(stranger),
		"client didn't provide a certificate": with(&tls.Config{MinVersion: tls.VersionTLS13}),
		"does not look like a TLS handshake":  func(c net.Conn) { _, _ = io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") },
	} {
		now = now.Add(time.Second)
		if got := knock(client); !strings.Contains(got, want) || !strings.Contains(got, "level=WARN") || !strings.Contains(got, "address=127.0.0.1:") {
			t.Errorf("want %q, logged %q", want, got)
		}
	}
	for what, client := range map[string]func(net.Conn){
		"a look at the port": func(net.Conn) {},
		"one of ours":        with(keeperOf(t, ours, "spiffe://"+domain+"/operator/ada").ClientTLS(domain, accept)),
	} {
		now = now.Add(time.Second)
		if got := knock(client); got != "" {
			t.Errorf("%s: logged %q", what, got)
		}
	}
	lines := 0
	for range 60 {
		if knock(with(stranger)) != "" {
			lines++
		}
	}
	now = now.Add(time.Minute)
	if got := knock(with(stranger)); lines > 30 || !strings.Contains(got, "left_out=") {
		t.Errorf("%d of 60 knocks are in the log; a minute later %q", lines, got)
	}
}

func newAuthority(t *testing.T) *authority.Authority {
	t.Helper()
	a, err := authority.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func keeperOf(t *testing.T, a *authority.Authority, uri string) *identity.Keeper {
	t.Helper()
	files, err := a.WriteFiles(t.TempDir(), "peer", authority.Options{URI: uri})
	if err != nil {
		t.Fatal(err)
	}
	k, err := identity.Load(files, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return k
}
