package render_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// authority is a CA that issues the certificates of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

var theAuthority = sync.OnceValue(newAuthority)

func newAuthority() *authority {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	cert, _ := x509.ParseCertificate(der)
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue returns a certificate for the names, and its key.
func (a *authority) issue(names ...string) (chain, key []byte) {
	k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, &k.PublicKey, a.key)
	if err != nil {
		panic(err)
	}
	kd, _ := x509.MarshalPKCS8PrivateKey(k)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd})
}

// list returns a revocation list that revokes nobody; two of them differ by their number.
func (a *authority) list(number int64) []byte {
	l := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour)}
	der, err := x509.CreateRevocationList(rand.Reader, l, a.cert, a.key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// pair returns a certificate and its key in one.
func (a *authority) pair(names ...string) []byte {
	c, k := a.issue(names...)
	return append(c, k...)
}

// options are those of a test that starts no HAProxy.
func options() render.Options {
	return render.Options{
		HTTP: []string{":14080"}, HTTPS: []string{":14443"}, Stats: []string{"127.0.0.1:14936"},
		DefaultCertificate: ownPair(),
	}
}

var ownPair = sync.OnceValue(func() []byte { return theAuthority().pair("router.invalid") })

func renderer(t testing.TB, o render.Options) *render.Renderer {
	t.Helper()
	r, err := render.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// delta makes a difference of resources to put.
func delta(t rapid.TB, rs ...*tsujiv1.Resource) snapshot.Delta {
	t.Helper()
	var d snapshot.Delta
	for _, r := range rs {
		i, err := tsujiv1.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		d.Put = append(d.Put, i)
	}
	return d
}

func apply(t testing.TB, r *render.Renderer, rs ...*tsujiv1.Resource) render.Change {
	t.Helper()
	c, err := r.Apply(delta(t, rs...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func routeOf(spec *tsujiv1.Route) *tsujiv1.Resource {
	return &tsujiv1.Resource{
		Name: tsujiv1.RouteName(spec.GetNamespace(), spec.GetName()), Kind: &tsujiv1.Resource_Route{Route: spec},
	}
}

func settingsOf(spec *tsujiv1.Settings) *tsujiv1.Resource {
	return &tsujiv1.Resource{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: spec}}
}

func endpointsOf(namespace, service string, list ...*tsujiv1.Endpoint) *tsujiv1.Resource {
	return &tsujiv1.Resource{
		Name: tsujiv1.EndpointsName(namespace, service, "http"),
		Kind: &tsujiv1.Resource_Endpoints{Endpoints: &tsujiv1.Endpoints{
			Namespace: namespace, Service: service, Port: "http", Endpoints: list,
		}},
	}
}

func endpoint(address string, port uint32) *tsujiv1.Endpoint {
	return &tsujiv1.Endpoint{
		Address: address, Port: port, PortName: "http", TargetKind: "Pod", TargetName: fmt.Sprintf("pod-%x", port), Ready: true, Serving: true,
	}
}

func backend(namespace, service string, weight uint32) *tsujiv1.BackendRef {
	return &tsujiv1.BackendRef{Endpoints: tsujiv1.EndpointsName(namespace, service, "http"), Service: service, Weight: weight}
}

func certificateOf(namespace, name string, chain, key []byte) *tsujiv1.Resource {
	return &tsujiv1.Resource{
		Name: tsujiv1.CertificateName(namespace, tsujiv1.FromRoute, name),
		Kind: &tsujiv1.Resource_Certificate{Certificate: &tsujiv1.Certificate{
			ChainPem: chain, PrivateKey: &tsujiv1.PrivateKey{Pem: key},
		}},
	}
}

func bundleOf(namespace, name string, bundle []byte) *tsujiv1.Resource {
	return &tsujiv1.Resource{
		Name: tsujiv1.CertificateName(namespace, tsujiv1.FromDestinationCA, name),
		Kind: &tsujiv1.Resource_Certificate{Certificate: &tsujiv1.Certificate{CaBundlePem: bundle}},
	}
}

// filesOf returns every file as if nothing had been written yet.
func filesOf(r *render.Renderer) map[string]string {
	m := map[string]string{}
	for _, f := range r.Dirty() {
		m[f.Path] = string(f.Content)
	}
	return m
}

// write puts the files into HAProxy's directory.
func write(t testing.TB, dir string, r *render.Renderer) {
	t.Helper()
	for _, d := range []string{"maps", "certs", "ca", "crls", "errors", "run", "run/jail"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := r.Dirty()
	for _, f := range files {
		path := filepath.Join(dir, f.Path)
		if f.Remove {
			_ = os.Remove(path)
		} else if err := os.WriteFile(path, f.Content, f.Mode); err != nil {
			t.Fatal(err)
		}
	}
	r.Written(files)
}

// shortDir makes a directory with a short path, for sockets.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tj")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // the jailed HAProxy must enter it
		t.Fatal(err)
	}
	return dir
}

// check asks a HAProxy what it thinks of the files in the directory.
func check(t testing.TB, binary, dir string) (output string, ok bool) {
	t.Helper()
	cmd := exec.Command(binary, "-c", "-f", "haproxy.cfg")
	cmd.Dir = dir
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	return string(bytes.TrimSpace(out)), err == nil
}

// optionsFor are those of a test that starts a HAProxy. Debian's 2.6 has OpenSSL 3.0.
func optionsFor(v render.Version) render.Options {
	o := options()
	o.Version, o.OldTLS = v, v != render.Version{} && !v.AtLeast(3, 0)
	return o
}

// release returns the version of a HAProxy.
func release(t testing.TB, binary string) render.Version {
	t.Helper()
	major, minor := haproxytest.Version(t, binary)
	return render.Version{Major: major, Minor: minor}
}

// fixedPair returns one certificate and its key, always the same in one run.
var fixedPair = sync.OnceValues(func() ([]byte, []byte) { return theAuthority().issue("edge.example") })
