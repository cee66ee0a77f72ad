// Package certificates_test asks compile and HAProxy of what odd certificates they think the same.
package certificates_test

import (
	"context"
	"crypto/sha1" // how HAProxy identifies certificates
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	routev1 "github.com/openshift/api/route/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/test/certtest"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// brought is one certificate in one place.
type brought struct {
	name, fault, though string
	pair, bundle        string // what HAProxy would get: one of them
	silent              bool

	route   *routev1.Route
	verdict *tsujiv1.RouteVerdict
	made    *tsujiv1.Certificate // nil: refused
}

// judged brings all oddities to the compiler, in every place.
func judged(t *testing.T) []*brought {
	t.Helper()
	key := certtest.NewKey()
	leaf := certtest.Certificate{Issuer: certtest.Name(certtest.UTF8, "ca"), Names: [][]byte{certtest.DNS("a.example.com")}}.Sign(key)
	var all []*brought
	pair := func(name string, o oddity, ders ...[]byte) {
		chain, private := certtest.Chain(ders...), certtest.PrivateKey(key)
		b := &brought{name: o.name + ", " + name, fault: o.chain, though: o.though, pair: chain + private}
		b.route = route(len(all), &routev1.TLSConfig{Termination: routev1.TLSTerminationEdge, Certificate: chain, Key: private})
		all = append(all, b)
	}
	for _, o := range oddities() {
		pair("further", o, leaf, o.Sign(nil))
		if o.Key == nil {
			pair("first", o, o.Sign(key))
		}
		b := &brought{name: o.name + ", for endpoints", fault: o.bundle, bundle: certtest.Chain(o.Sign(nil)), silent: o.silent}
		b.route = route(len(all), &routev1.TLSConfig{Termination: routev1.TLSTerminationReencrypt, DestinationCACertificate: b.bundle})
		all = append(all, b)
	}

	var changes []cluster.Change
	for _, b := range all {
		changes = append(changes, cluster.Change{Key: cluster.Key{Kind: cluster.Route, Namespace: "ns", Name: b.route.Name}, Object: b.route})
	}
	result := compile.New(compile.Config{}).Apply(changes)
	verdicts := map[string]*tsujiv1.RouteVerdict{}
	for _, v := range result.Verdicts {
		verdicts[v.GetName()] = v
	}
	for _, b := range all {
		b.verdict = verdicts[b.route.Name]
		source := tsujiv1.FromRoute
		if b.bundle != "" {
			source = tsujiv1.FromDestinationCA
		}
		if item, ok := result.Facts.Get(tsujiv1.CertificateName("ns", source, b.route.Name)); ok {
			r, err := tsujiv1.Decode(item)
			if err != nil {
				t.Fatal(err)
			}
			b.made = r.GetCertificate()
		}
	}
	return all
}

func route(n int, tls *routev1.TLSConfig) *routev1.Route {
	r := &routev1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprintf("r%d", n)}}
	r.Spec.Host, r.Spec.To.Name, r.Spec.TLS = fmt.Sprintf("r%d.example.com", n), "web", tls
	return r
}

// Each odd certificate is admitted or refused as it stands in the table, and a refusal says why.
func TestVerdicts(t *testing.T) {
	for _, b := range judged(t) {
		switch v := b.verdict; {
		case b.fault == "" && (!v.GetAdmitted() || b.made == nil):
			t.Errorf("%s: refused: %s", b.name, v.GetMessage())
		case b.fault != "" && (v.GetAdmitted() || b.made != nil):
			t.Errorf("%s: admitted", b.name)
		case b.fault != "" && (!strings.Contains(v.GetMessage(), b.fault) || !strings.Contains(v.GetMessage(), "spec.tls.")):
			t.Errorf("%s: refused with other words than %q: %s", b.name, b.fault, v.GetMessage())
		}
	}
}

// What compile admits, HAProxy loads and tells its fingerprint, even with the smallest buffer that it may have.
func TestWhatIsAdmittedIsLoaded(t *testing.T) { haproxytest.Each(t, loadedStory) }

func loadedStory(t *testing.T, binary string) {
	all := judged(t)
	files := map[string]string{}
	var list, servers strings.Builder
	for i, b := range all {
		switch name := fmt.Sprintf("%d.pem", i); {
		case b.made == nil:
		case b.pair != "":
			files["certs/"+name] = string(b.made.GetChainPem()) + string(b.made.GetPrivateKey().GetPem())
			fmt.Fprintf(&list, "certs/%s %s\n", name, b.route.Spec.Host)
		default:
			files["ca/"+name] = string(b.made.GetCaBundlePem())
			fmt.Fprintf(&servers, "  server s%d 127.0.0.1:9 ssl verify required ca-file ca/%s\n", i, name)
		}
	}
	files["crt.list"], files[haproxy.ConfigFile] = list.String(), configuration("ssl crt-list crt.list", servers.String())
	p := process(t, binary, files)
	if r, err := p.Start(t.Context()); err != nil {
		t.Fatalf("HAProxy does not take what is admitted: %v", err)
	} else {
		r.Close()
	}
	for i, b := range all {
		if b.made != nil && !b.silent {
			b.readBack(t, p, i)
		}
	}
}

// readBack looks at what HAProxy tells of a certificate, on a connection of its own.
func (b *brought) readBack(t *testing.T, p *haproxy.Process, n int) {
	t.Helper()
	r, err := p.Connect(t.Context())
	if err != nil {
		t.Fatalf("before %s: %v", b.name, err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	made := b.made.GetCaBundlePem()
	if b.pair != "" {
		made = b.made.GetChainPem()
	}
	want, err := haproxy.Identify(made)
	if err != nil {
		t.Errorf("%s: %v", b.name, err)
		return
	}
	if b.pair == "" {
		if what, err := r.CA(ctx, fmt.Sprintf("ca/%d.pem", n), want); err != nil || what != "" {
			t.Errorf("%s: %s, %v", b.name, what, err)
		}
		return
	}
	got, err := r.Certificates(ctx, fmt.Sprintf("certs/%d.pem", n))
	if err != nil || got[0].Err != nil || !got[0].Is(want[0]) || got[0].SHA1 != fingerprint(t, made) {
		t.Errorf("%s: HAProxy has %+v, %v, not %v", b.name, got, err, want[0])
	}
}

// fingerprint is that of the first certificate.
func fingerprint(t *testing.T, text []byte) string {
	t.Helper()
	der := certtest.First(text)
	if der == nil {
		t.Fatal("no certificate")
	}
	sum := sha1.Sum(der)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// What compile refuses in a chain one of the HAProxys does not load, or the table says why it is refused nevertheless.
// Among the CA certificates for endpoints HAProxy loads nearly everything, and verifies nothing with what it does not
// understand.
func TestWhatIsRefusedIsNotLoaded(t *testing.T) {
	binaries := haproxytest.Binaries(t)
	for _, b := range judged(t) {
		if b.made != nil || b.pair == "" {
			continue
		}
		refusals := 0
		for _, binary := range binaries {
			files := map[string]string{
				"one.pem": b.pair, "crt.list": "one.pem a.example.com\n", haproxy.ConfigFile: configuration("ssl crt-list crt.list", ""),
			}
			var refused *haproxy.CheckError
			if err := process(t, binary, files).Check(t.Context()); errors.As(err, &refused) {
				refusals++
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if loaded := refusals == 0; loaded != (b.though != "") && len(binaries) > 1 {
			t.Errorf("%s: refused (%s); HAProxy refuses it %d times of %d, and the table says %q", b.name, b.verdict.GetMessage(), refusals, len(binaries), b.though)
		}
	}
}

// configuration is one frontend and one backend, with the smallest buffer.
func configuration(bind, servers string) string {
	return `global
  stats socket unix@run/admin.sock mode 600 level admin expose-fd listeners
  hard-stop-after 5s
  uid 0
  chroot /
  tune.bufsize 16384
defaults
  mode http
  timeout client 10s
  timeout server 10s
  timeout connect 2s
frontend f
  bind unix@run/web.sock ` + bind + `
  default_backend b
backend b
` + servers
}

func process(t testing.TB, binary string, files map[string]string) *haproxy.Process {
	t.Helper()
	dir, err := os.MkdirTemp("", "tj")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	write(t, dir, files)
	p, err := haproxy.New(haproxy.Config{Binary: binary, Dir: dir, TieToParent: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		p.Close()
	})
	return p
}

func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}
