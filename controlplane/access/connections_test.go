package access_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/access"
	"github.com/tsuji-dev/tsuji/identity"
	"github.com/tsuji-dev/tsuji/identity/authority"
)

// door is a listener with a guard's credentials, which keeps whoever it lets in.
type door struct {
	t       *testing.T
	ca      *authority.Authority
	guard   *access.Guard
	address string
	let     chan error // what came of each handshake
	refused chan error // takes those that failed, unless it is nil
}

func newDoor(t *testing.T, denied *identity.Denied, refused chan error) *door {
	t.Helper()
	d := &door{t: t, ca: newAuthority(t), let: make(chan error), refused: refused}
	d.guard = access.New(access.Config{TrustDomain: domain, Denied: denied, Log: slog.New(slog.DiscardHandler)})
	creds := d.guard.Credentials(keeperOf(t, d.ca, "spiffe://"+domain+"/controlplane/cp").ServerTLS)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.address = l.Addr().String()
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				conn, _, err := creds.ServerHandshake(raw)
				if err != nil {
					raw.Close()
				} else {
					go func() { _, _ = io.Copy(io.Discard, conn); conn.Close() }() // as gRPC does
				}
				if err != nil && d.refused != nil {
					d.refused <- err
				} else {
					d.let <- err
				}
			}()
		}
	}()
	return d
}

// config returns how a peer connects.
func (d *door) config(uri string) *tls.Config {
	c := keeperOf(d.t, d.ca, uri).ClientTLS(domain, func(identity.ID) error { return nil })
	return c
}

// knock connects from a host, and tells whether it was let in. The connection stays.
func (d *door) knock(c *tls.Config, host string) (*tls.Conn, error) {
	return d.knockFor(c, host, d.let)
}

// knockFor is knock where what came of it is told elsewhere.
func (d *door) knockFor(c *tls.Config, host string, let <-chan error) (*tls.Conn, error) {
	d.t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(host)}}
	raw, err := dialer.DialContext(d.t.Context(), "tcp", d.address)
	if err != nil {
		d.t.Fatal(err)
	}
	conn := tls.Client(raw, c)
	d.t.Cleanup(func() { raw.Close() })
	if err := conn.HandshakeContext(d.t.Context()); err != nil {
		if d.refused == nil {
			err = errors.Join(err, <-d.let)
		}
		return nil, err
	}
	return conn, <-d.let
}

// ended waits until the other side has ended a connection.
func ended(t *testing.T, conn *tls.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the connection was not ended: %v", err)
	}
}

// An identity has a bounded number of connections; one that a zone shares has more. A host that has most of them keeps
// no other out, and nobody else's identity has less for it.
func TestConnectionsOfAnIdentity(t *testing.T) {
	t.Parallel()
	d := newDoor(t, nil, nil)
	const zone = "spiffe://" + domain + "/ingress/default/zone/tok04"
	for uri, most := range map[string]int{zone: access.MostShared, zone + "/router/r1": access.MostOwn} {
		c := d.config(uri)
		var all []*tls.Conn
		for range most {
			conn, err := d.knock(c, "127.0.0.1")
			if err != nil {
				t.Fatalf("%s: after %d: %v", uri, len(all), err)
			}
			all = append(all, conn)
		}
		if _, err := d.knock(c, "127.0.0.1"); err == nil || !strings.Contains(err.Error(), "a certificate of its own") {
			t.Errorf("%s: one more: %v", uri, err)
		}
		if _, err := d.knock(c, "127.0.0.2"); err != nil {
			t.Errorf("%s: another host: %v", uri, err)
		}
		ended(t, all[0])
		all[1].Close()
	}
	if _, err := d.knock(d.config("spiffe://"+domain+"/ingress/default/zone/tok05"), "127.0.0.1"); err != nil {
		t.Errorf("another identity: %v", err)
	}
}

// Who connects and shows no certificate holds a bounded number of connections, and keeps nobody out who has one: not even
// from the same host. The oldest gives way.
func TestHandshakesOfAHost(t *testing.T) {
	t.Parallel()
	d := newDoor(t, nil, make(chan error, 4*access.MostUnproven))
	silent := func() net.Conn {
		raw, err := net.Dial("tcp", d.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { raw.Close() })
		return raw
	}
	var all []net.Conn
	for range access.MostUnproven {
		all = append(all, silent())
	}
	ada := d.config("spiffe://" + domain + "/operator/ada")
	for i, host := range []string{"127.0.0.1", "127.0.0.1", "127.0.0.2"} {
		if _, err := d.knock(ada, host); err != nil {
			t.Errorf("beside %d silent connections, %d from %s: %v", len(all), i, host, err)
		}
	}
	// Who goes on connecting only ends connections of his own.
	for range access.MostUnproven {
		all = append(all, silent())
	}
	if _, err := d.knock(ada, "127.0.0.1"); err != nil {
		t.Errorf("beside those that come on: %v", err)
	}
	for _, raw := range all[:access.MostUnproven] {
		if err := raw.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := raw.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Fatalf("one of the oldest was not ended: %v", err)
		}
	}
}

// A peer that is denied by then loses its connection and gets no other; nobody else notices. It is let in again when the
// file has it no more. A file that cannot be read changes nothing.
func TestDeniedPeers(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "denied")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# nobody yet\n\n")
	denied, err := identity.LoadDenied(file, domain, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	d := newDoor(t, denied, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- denied.Run(ctx, d.guard.EndDenied) }()
	defer func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	}()
	const zone = "spiffe://" + domain + "/ingress/default/zone/tok04"
	stolen, good := d.config(zone+"/router/r1"), d.config(zone+"/router/r2")
	first, err := d.knock(stolen, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	kept, err := d.knock(good, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	write("serial=12:ab\n  " + zone + "/router/r1 \n")
	ended(t, first)
	if _, err := d.knock(stolen, "127.0.0.1"); err == nil || !strings.Contains(err.Error(), "r1 is denied") {
		t.Errorf("the peer that is denied: %v", err)
	}
	if _, err := d.knock(good, "127.0.0.1"); err != nil {
		t.Errorf("another peer: %v", err)
	}
	if _, err := kept.Write([]byte("x")); err != nil {
		t.Errorf("the other's connection: %v", err)
	}
	cert, err := stolen.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	write("")
	var again *tls.Conn
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if again, err = d.knock(stolen, "127.0.0.1"); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("a peer that is denied no more: %v", err)
		}
	}
	write("serial=" + strings.ToUpper(cert.Leaf.SerialNumber.Text(16)) + "\n")
	ended(t, again)
}
