package compile_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// Whatever the stories are about: routers render what is compiled, and HAProxy accepts it.
func TestRoutersTakeTheStories(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, takeStories)
}

func takeStories(t *testing.T, binary string) {
	t.Parallel()
	files, err := filepath.Glob("testdata/stories/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			in, _, _ := strings.Cut(string(text), "== verdicts\n")
			_, manifests, _ := strings.Cut(in, "---\n")
			if fault := take(t, binary, compile.New(compile.Config{}).Apply(changesOf(t, manifests))); fault != "" {
				t.Error(fault)
			}
		})
	}
}

// Every log-format, pattern and page that compiles is one that routers and HAProxy take.
func TestRoutersTakeWhatIsLogged(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, takeLogged)
}

func takeLogged(t *testing.T, binary string) {
	t.Parallel()
	for _, c := range []struct{ format, id, pattern string }{
		{"%o %T %Tl %Ts %t %ms %tr %trg %trl %Ta %Tc %Td %Th %Ti %Tq %TR %Tr %Tt %Tu %Tw %B %CC %CS %H %HM %HP %HPO %HQ %HU %HV %ID %ST %U", "%ci%%", "^a$"},
		{"%ac %b %bc %bi %bp %bq %ci %cp %f %fc %fi %fp %ft %lc %hr %hrl %hs %hsl %pid %r %rc %rt %s %sc %si %sp %sq %sslc %sslv %ts %tsc", "%{-Q,+X}o%rt", `a{2,3}[]a]|\.`},
		{"%[capture.req.hdr(0)] %[capture.res.hdr(99),lower] %[capture.req.method] %[capture.req.uri] %[capture.req.ver] %[capture.res.ver]", "%[req.hdr(Host),lower]-%[req.fhdr(x)]-%[req.cook(a_b)]", `(?:a|b)\d\w\s\b\D\W\S`},
		{"%[ssl_fc] %[ssl_fc_cipher] %[ssl_fc_protocol] %[ssl_fc_alpn] %[ssl_fc_sni] %[ssl_c_verify] %[ssl_c_s_dn] %[ssl_c_s_dn(cn)] %[ssl_c_i_dn(O),upper]", "%[path] %[pathq] %[query] %[url] %[base,base64] %[req.ver]", `\/\-\$\^\\x`},
		{"%[ssl_c_serial,hex] %[ssl_c_sha1,hex] %[src] %[src_port] %[dst] %[dst_port] %[method] %[uuid] %[hostname] %[status] %[unique-id]", "%[src] %[src_port] %[dst] %[dst_port] %[method] %[uuid] %[hostname] %[date] %[rand]", "[^a-z]+"},
		{"%[fc_http_major] %[fc_rtt] %[fe_name] %[fe_id] %[fe_conn] %[be_name] %[be_id] %[date] %[rand] it's $HOME \"x\" \\n #", "%[ssl_fc] %[ssl_fc_cipher] %[fc_http_major] %[fe_name] %[capture.req.hdr(0)] it's $HOME", "it's \"$HOME\" #"},
	} {
		manifest := strings.NewReplacer("FORMAT", quote(c.format), "ID", quote(c.id), "PATTERN", quote(c.pattern)).Replace(`
kind: IngressController
metadata: {namespace: openshift-ingress-operator, name: default}
spec:
  clientTLS: {clientCertificatePolicy: Optional, clientCA: {name: clients}, allowedSubjectPatterns: [PATTERN]}
  unsupportedConfigOverrides: null
  httpHeaders: {uniqueId: {name: X-A, format: ID}, actions: {request: null, response: null}}
  logging: {access: {destination: {type: Container}, httpLogFormat: FORMAT}}
---
kind: ConfigMap
metadata: {namespace: openshift-config, name: clients}
data: {ca-bundle.pem: "@ca.crt"}
`)
		r := compile.New(compile.Config{}).Apply(changesOf(t, manifest))
		if len(r.Faults) > 0 {
			t.Errorf("%v", r.Faults)
		}
		if fault := take(t, binary, r); fault != "" {
			t.Errorf("%s", fault)
		}
	}
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// take renders a result and asks HAProxy what it thinks of it; empty: it is content.
func take(t *testing.T, binary string, result compile.Result) string {
	t.Helper()
	var v render.Version
	v.Major, v.Minor = haproxytest.Version(t, binary)
	r, err := rendered(render.Options{Version: v, OldTLS: !v.AtLeast(3, 0), DefaultCertificate: ownPair(t)}, result)
	if err != nil {
		return err.Error()
	}
	dir, err := os.MkdirTemp("", "tj")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	putFiles(t, dir, r)
	cmd := exec.Command(binary, "-c", "-f", "haproxy.cfg")
	cmd.Dir, cmd.Env = dir, []string{}
	if out, err := cmd.CombinedOutput(); err != nil {
		return string(out)
	}
	return ""
}

// putFiles writes HAProxy's files.
func putFiles(t *testing.T, dir string, r *render.Renderer) {
	t.Helper()
	for _, f := range r.Dirty() {
		path := filepath.Join(dir, f.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Content, f.Mode); err != nil {
			t.Fatal(err)
		}
	}
}

// rendered renders a result, on addresses that no HAProxy listens on unless others are given.
func rendered(o render.Options, result compile.Result) (*render.Renderer, error) {
	if len(o.HTTP) == 0 {
		o.HTTP, o.HTTPS, o.Stats = []string{"127.0.0.1:80"}, []string{"127.0.0.1:443"}, []string{"127.0.0.1:1936"}
	}
	r, err := render.New(o)
	if err == nil {
		_, err = r.Apply(snapshot.Diff(snapshot.Snapshot{}, snapshot.New(0, result.Config, result.Facts)))
	}
	return r, err
}

// ownPair is a router's own certificate.
func ownPair(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"router.invalid"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k})...)
}
