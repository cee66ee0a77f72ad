package routerd

import (
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tsuji-dev/tsuji/identity"
	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// good is a configuration with nothing wrong in it.
func good() Config {
	return Config{
		Zone: "tok04", Name: "a", IngressController: "default", ControlPlane: []string{"controlplane.tsuji.svc:9400", "[::1]:9400", "unix:/run/cp.sock"},
		TLS: identity.Files{Cert: "c", Key: "k", CA: "a"}, TrustDomain: "td", HTTP: []string{":80"}, HTTPS: []string{":443"}, Stats: []string{":1936"},
		Admin: "127.0.0.1:9402", StateDir: "s", HAProxy: "haproxy",
	}
}

// What is wrong with the flags is told before anything is begun, by the names of the flags.
func TestValidate(t *testing.T) {
	t.Parallel()
	c := good()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, damage := range map[string]func(*Config){
		"--zone: want the zone": func(c *Config) { c.Zone = "" },
		`letters, digits, dots, dashes and underscores in each, have "tok 04"`: func(c *Config) { c.Zone = "tok 04" },
		`--control-plane "cp": want HOST:PORT`:                                 func(c *Config) { c.ControlPlane[1] = "cp" },
		`--control-plane "cp:": want HOST:PORT`:                                func(c *Config) { c.ControlPlane[1] = "cp:" },
		`--control-plane "cp:grpc": want HOST:PORT`:                            func(c *Config) { c.ControlPlane[1] = "cp:grpc" },
		`--control-plane "cp:0": want HOST:PORT`:                               func(c *Config) { c.ControlPlane[1] = "cp:0" },
		`--control-plane ":9400": want HOST:PORT`:                              func(c *Config) { c.ControlPlane[1] = ":9400" },
		`--control-plane "unix:": want unix:PATH`:                              func(c *Config) { c.ControlPlane[1] = "unix:" },
		"--http=80: want [ADDRESS]:PORT, as in --http=:80":                     func(c *Config) { c.HTTP = []string{"80"} },
		"--stats=localhost:1936: want [ADDRESS]:PORT or unix:PATH":             func(c *Config) { c.Stats = []string{"localhost:1936"} },
		"--admin=9402: want HOST:PORT, as in --admin=127.0.0.1:9402":           func(c *Config) { c.Admin = "9402" },
		"--http, --https: want at least one address":                           func(c *Config) { c.HTTP, c.HTTPS = nil, nil },
		"--stats: want at least one address":                                   func(c *Config) { c.Stats = nil },
		"--https: :80 is given for --http already":                             func(c *Config) { c.HTTPS = []string{":443", ":80"} },
		"--stats: :1936 is given for --stats already":                          func(c *Config) { c.Stats = []string{":1936", ":1936"} },
		"--insecure is for loopback addresses only, not [::2]:9400":            func(c *Config) { c.Insecure, c.ControlPlane[1] = true, "[::2]:9400" },
		"--tls-cert, --tls-key, --ca (or --insecure): mutual TLS":              func(c *Config) { c.TLS = identity.Files{} },
		"--control-plane: want the address of at least one":                    func(c *Config) { c.ControlPlane = nil },
		"--shutdown-delay, --drain-timeout: must not be negative":              func(c *Config) { c.DrainTimeout = -1 },
	} {
		c := good()
		damage(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// So is what is wrong with a HAProxy that somebody else runs, and with who it is.
func TestValidateHAProxy(t *testing.T) {
	t.Parallel()
	elsewhere := func(c *Config) {
		c.HAProxy, c.StateDir, c.HAProxyMaster, c.HAProxyDir = "", "/state", "unix:/run/tsuji/master.sock", "/files/haproxy"
	}
	c := good()
	elsewhere(&c)
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, damage := range map[string]func(*Config){
		"--haproxy-master=/run/master.sock: want unix:/PATH/TO/master.sock": func(c *Config) { c.HAProxyMaster = "/run/master.sock" },
		"--haproxy-master=unix:master.sock: want unix:/PATH":                func(c *Config) { c.HAProxyMaster = "unix:master.sock" },
		"--haproxy-master=unix:/run/m.sock: want unix:/PATH":                func(c *Config) { c.HAProxyMaster = "unix:/run/m.sock" },
		"--haproxy-dir=: with --haproxy-master, want the path":              func(c *Config) { c.HAProxyDir = "" },
		"--haproxy-dir=/state/haproxy: is in --state-dir=/state":            func(c *Config) { c.HAProxyDir = "/state/haproxy" },
		"--haproxy-tied: who runs HAProxy":                                  func(c *Config) { c.HAProxyTied = true },
		"--haproxy-user=nobody: want UID:GID":                               func(c *Config) { c.HAProxyUser = "nobody" },
		"--haproxy-user=99: want UID:GID":                                   func(c *Config) { c.HAProxyUser = "99" },
		"--haproxy-user=0:99: want UID:GID":                                 func(c *Config) { c.HAProxyUser = "0:99" },
	} {
		c := good()
		elsewhere(&c)
		damage(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := Prepare(good()); err == nil || !strings.Contains(err.Error(), "--haproxy-master: want the socket") {
		t.Errorf("prepare without a master: %v", err)
	}
}

// A certificate with which control planes will turn the router away is known from the start.
func TestCheckCertificate(t *testing.T) {
	t.Parallel()
	ca, err := authority.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	for uri, want := range map[string]string{
		"spiffe://td/ingress/default/zone/tok04/router/a": "",
		"spiffe://td/ingress/default/zone/tok04":          "",
		"spiffe://td/ingress/default/zone/tok04/router/b": "say spiffe://td/ingress/default/zone/tok04/router/a: correct these",
		"spiffe://td/ingress/default/zone/tok05":          "the certificate is for spiffe://td/ingress/default/zone/tok05, and",
		"spiffe://td/ingress/other/zone/tok04":            "--ingress-controller=default",
		"spiffe://td/operator/ada":                        "the certificate is for spiffe://td/operator/ada",
		"spiffe://other/ingress/default/zone/tok04":       "(--trust-domain=td)",
		"": "0 URI names",
	} {
		text, _, err := ca.Issue(authority.Options{URI: uri})
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		c := good()
		switch err := c.checkCertificate(cert); {
		case want == "" && err != nil:
			t.Errorf("%s: %v", uri, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want %q", uri, err, want)
		}
	}
}

// What another IngressController's router left in a state directory is known by its Settings.
func TestIngressControllerOf(t *testing.T) {
	t.Parallel()
	item, err := tsujiv1.Encode(&tsujiv1.Resource{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{IngressController: "internal"}}})
	if err != nil {
		t.Fatal(err)
	}
	for want, put := range map[string][]snapshot.Item{
		"internal": {item, snapshot.NewItem("route/a/b", []byte("x"))},
		"":         {snapshot.NewItem(tsujiv1.SettingsName, []byte("\xff"))},
	} {
		if got := ingressControllerOf(snapshot.Snapshot{}.Apply(1, snapshot.Delta{Put: put})); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// A HAProxy that is not there, or too old, is told by the name of the flag.
func TestBadHAProxy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := filepath.Join(dir, "old")
	if err := os.WriteFile(old, []byte("#!/bin/sh\necho 'HAProxy version 2.4.1 2021/06/17'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for program, want := range map[string]string{
		"no-such-haproxy": "--haproxy=no-such-haproxy: want the path of HAProxy's program",
		old:               "--haproxy=" + old + ": HAProxy 2.4: want 2.6 or later",
	} {
		c := good()
		c.HAProxy, c.StateDir, c.Log = program, dir, slog.New(slog.DiscardHandler)
		if _, _, _, err := newApplier(t.Context(), c, prometheus.NewRegistry(), nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
