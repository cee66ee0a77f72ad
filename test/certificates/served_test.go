package certificates_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/certtest"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// What compile admits a router takes, some Routes at a time: it refuses nothing, tries nothing in vain, and clients get
// the certificates.
func TestWhatIsAdmittedIsServed(t *testing.T) { haproxytest.Each(t, servedStory) }

func servedStory(t *testing.T, binary string) {
	all := judged(t)
	compiler := compile.New(compile.Config{})
	first := compiler.Apply(nil)
	current := snapshot.New(1, first.Config, first.Facts)
	a, metrics, address := router(t, binary, current)
	portion := 40
	if !haproxytest.AtLeast(t, binary, 3, 4) {
		portion = (len(all) + 3) / 4 // each is a reload for its backends, and four follow each other without a pause
	}
	for some := range slices.Chunk(all, portion) {
		var changes []cluster.Change
		for _, b := range some {
			changes = append(changes, cluster.Change{Key: cluster.Key{Kind: cluster.Route, Namespace: "ns", Name: b.route.Name}, Object: b.route})
		}
		result := compiler.Apply(changes)
		next := snapshot.New(current.Version().Revision+1, result.Config, result.Facts)
		if refusal := a.Apply(t.Context(), next, snapshot.Diff(current, next)); refusal != nil {
			t.Fatalf("the router refuses what is admitted: %v", refusal)
		}
		current = next
		for _, why := range []string{"failure", "mend"} {
			if n := testutil.ToFloat64(metrics.Reloads.WithLabelValues(why)); n != 0 {
				t.Fatalf("%v reloads because of %s, from %s to %s", n, why, some[0].name, some[len(some)-1].name)
			}
		}
	}
	for _, b := range all {
		if b.made == nil || b.pair == "" || !offered(t, b.made.GetChainPem()) {
			continue
		}
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 20 * time.Second}, "tcp", address, &tls.Config{ServerName: b.route.Spec.Host, InsecureSkipVerify: true})
		if err != nil {
			t.Errorf("%s: %v", b.name, err)
			continue
		}
		if got := c.ConnectionState().PeerCertificates; !bytes.Equal(got[0].Raw, certtest.First(b.made.GetChainPem())) {
			t.Errorf("%s: clients get %s", b.name, got[0].Subject)
		}
		_ = c.Close()
	}
}

// offered tells whether Go's client takes a signature like that of the first certificate. HAProxy shows it to no client
// that does not.
func offered(t *testing.T, chain []byte) bool {
	t.Helper()
	c, err := x509.ParseCertificate(certtest.First(chain))
	if err != nil {
		t.Fatal(err)
	}
	return c.SignatureAlgorithm != x509.UnknownSignatureAlgorithm && c.SignatureAlgorithm != x509.DSAWithSHA256
}

// router is a router that serves a snapshot, and the address of its TLS.
func router(t *testing.T, binary string, s snapshot.Snapshot) (*apply.Applier, *apply.Metrics, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tj")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	process, err := haproxy.New(haproxy.Config{Binary: binary, Dir: filepath.Join(dir, "haproxy"), TieToParent: true})
	if err != nil {
		t.Fatal(err)
	}
	major, minor := haproxytest.Version(t, binary)
	version := render.Version{Major: major, Minor: minor}
	key := certtest.FixedKey()
	https := haproxytest.FreeAddress(t)
	renderer, err := render.New(render.Options{
		Version: version, OldTLS: !version.AtLeast(3, 0), HTTP: []string{haproxytest.FreeAddress(t)}, HTTPS: []string{https}, Stats: []string{haproxytest.FreeAddress(t)},
		DefaultCertificate: []byte(certtest.Chain(certtest.Certificate{}.Sign(key)) + certtest.PrivateKey(key)), FileDescriptors: 10_000,
	})
	if err != nil {
		t.Fatal(err)
	}
	metrics := apply.NewMetrics(nil)
	a := apply.New(apply.Config{Renderer: renderer, HAProxy: process, Metrics: metrics})
	if err := a.Start(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		_ = a.Run(ctx)
		close(done)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = a.Stop(context.Background())
	})
	return a, metrics, https
}
