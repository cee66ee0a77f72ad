package controlplane

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/identity"
	"github.com/tsuji-dev/tsuji/identity/authority"
)

// What is wrong with an address is told by the name of its flag, with the remedy.
func TestAddresses(t *testing.T) {
	t.Parallel()
	c := Config{Listen: "127.0.0.1:9400", Admin: "127.0.0.1:9401", TrustDomain: "td", TLS: identity.Files{Cert: "c", Key: "k", CA: "a"}}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"9400":      "--listen=9400: want HOST:PORT, as in --listen=:9400",
		"localhost": "--listen=localhost: want HOST:PORT, as in --listen=127.0.0.1:9400",
		"unix:":     "--listen=unix:: want unix:PATH",
	} {
		c := c
		c.Listen = address
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	c.Admin = "9401"
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "--admin=9401: want HOST:PORT, as in --admin=:9401") {
		t.Errorf("got %v", err)
	}
}

// An address that another process has is told by the name of its flag.
func TestAddressTaken(t *testing.T) {
	t.Parallel()
	other, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	address := other.Addr().String()
	want := "--admin=" + address + ": another process listens there: end it, or give --admin another address"
	if _, err := listen(t.Context(), "--admin", address); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

// A certificate with which everybody would turn the control plane away is known from the start.
func TestCertificate(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]string{
		"spiffe://td/controlplane/a":                      "",
		"spiffe://td/ingress/default/zone/tok04/router/b": "give --tls-cert one for spiffe://td/controlplane/NAME",
		"spiffe://other/controlplane/a":                   "(--trust-domain=td): correct --trust-domain",
	} {
		logged(t, issued(t, uri), want)
	}
	logged(t, &x509.Certificate{}, "has 0 URI names")
	logged(t, &x509.Certificate{DNSNames: []string{"controlplane.tsuji.svc"}}, "")
}

// issued returns a certificate with a URI name.
func issued(t *testing.T, uri string) *x509.Certificate {
	t.Helper()
	ca, err := authority.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	text, _, err := ca.Issue(authority.Options{URI: uri})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func logged(t *testing.T, cert *x509.Certificate, want string) {
	t.Helper()
	var log bytes.Buffer
	Config{TrustDomain: "td", Log: slog.New(slog.NewTextHandler(&log, nil))}.checkCertificate(cert)
	if got := log.String(); !strings.Contains(got, want) || (want == "") != (got == "") {
		t.Errorf("%v: got %q, want %q", cert.URIs, got, want)
	}
}
