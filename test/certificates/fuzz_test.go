package certificates_test

import (
	"context"
	"testing"
	"time"

	routev1 "github.com/openshift/api/route/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/test/certtest"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// The places of a certificate in a Route.
const (
	first = iota
	further
	forEndpoints
	places
)

// Whatever bytes stand where a certificate should: they are refused with a verdict, or every HAProxy takes them by
// command, and tells what it has. `go test -run '^$' -fuzz FuzzCertificates -parallel 1 ./test/certificates`
func FuzzCertificates(f *testing.F) {
	key := certtest.FixedKey()
	for _, o := range oddities() {
		for place := range places {
			if o.Key == nil || place != first {
				f.Add(o.Sign(key), uint8(place))
			}
		}
	}
	var routers []*fuzzed
	for _, binary := range haproxytest.Binaries(f) {
		routers = append(routers, newFuzzed(f, binary))
	}
	leaf := certtest.Certificate{Issuer: certtest.Name(certtest.UTF8, "ca")}.Sign(key)
	private := certtest.PrivateKey(key)
	f.Fuzz(func(t *testing.T, der []byte, place uint8) {
		tls := &routev1.TLSConfig{Termination: routev1.TLSTerminationEdge, Key: private}
		switch place % places {
		case first:
			tls.Certificate = certtest.Chain(der)
		case further:
			tls.Certificate = certtest.Chain(leaf, der)
		default:
			tls = &routev1.TLSConfig{Termination: routev1.TLSTerminationReencrypt, DestinationCACertificate: certtest.Chain(der)}
		}
		r := route(0, tls)
		result := compile.New(compile.Config{}).Apply([]cluster.Change{{Key: cluster.Key{Kind: cluster.Route, Namespace: "ns", Name: r.Name}, Object: r}})
		if v := result.Verdicts[0]; !v.GetAdmitted() {
			if v.GetMessage() == "" || result.Facts.Len() != 0 {
				t.Errorf("refused without a word, or in part: %v", v)
			}
			return
		}
		for item := range result.Facts.All() {
			made, err := tsujiv1.Decode(item)
			if err != nil {
				t.Fatal(err)
			}
			if c := made.GetCertificate(); c != nil {
				for _, r := range routers {
					r.take(t, c)
				}
			}
		}
	})
}

// fuzzed is an HAProxy with one certificate and one CA, which are replaced.
type fuzzed struct {
	process *haproxy.Process
}

func newFuzzed(f *testing.F, binary string) *fuzzed {
	f.Helper()
	key := certtest.FixedKey()
	whole := certtest.Chain(certtest.Certificate{}.Sign(key))
	p := process(f, binary, map[string]string{
		"certs/a.pem": whole + certtest.PrivateKey(key), "ca/a.pem": whole, "crt.list": "certs/a.pem a.example.com\n",
		haproxy.ConfigFile: configuration("ssl crt-list crt.list", "  server s 127.0.0.1:9 ssl verify required ca-file ca/a.pem\n"),
	})
	r, err := p.Start(context.Background())
	if err != nil {
		f.Fatal(err)
	}
	r.Close()
	return &fuzzed{p}
}

// small is how many bytes each release surely takes by a command with the buffers of configuration.
const small = 15 << 10

// take gives HAProxy what was admitted, and reads it back.
func (z *fuzzed) take(t *testing.T, c *tsujiv1.Certificate) {
	t.Helper()
	pair, bundle := string(c.GetChainPem())+string(c.GetPrivateKey().GetPem()), string(c.GetCaBundlePem())
	if len(pair)+len(bundle) > small {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := z.process.Connect(ctx)
	if err != nil {
		t.Fatalf("HAProxy is gone: %v", err)
	}
	defer r.Close()
	if bundle == "" {
		if err := r.Do(ctx, haproxy.SetCertificate("certs/a.pem", pair), haproxy.CommitCertificate("certs/a.pem")); err != nil {
			t.Fatalf("HAProxy %s does not take what is admitted: %v", r.Version(), err)
		}
		got, err := r.Certificates(ctx, "certs/a.pem")
		if want := fingerprint(t, c.GetChainPem()); err != nil || got[0].Err != nil || got[0].SHA1 != want {
			t.Errorf("HAProxy %s has %v (%v), not %s", r.Version(), got, err, want)
		}
		return
	}
	want, err := haproxy.Identify(c.GetCaBundlePem())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Do(ctx, append(haproxy.SetCA("ca/a.pem", bundle, r.Version(), 16<<10), haproxy.CommitCA("ca/a.pem"))...); err != nil {
		t.Fatalf("HAProxy %s does not take what is admitted: %v", r.Version(), err)
	}
	if what, err := r.CA(ctx, "ca/a.pem", want); err != nil || what != "" {
		t.Errorf("HAProxy %s has %s (%v), not %v", r.Version(), what, err, want)
	}
}
