package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ca is an authority as small as these tests need; package authority cannot be used from here, as it
// imports this one.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T) ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := ca{key: key, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	der, err := x509.CreateCertificate(rand.Reader, c.cert, c.cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c.cert, _ = x509.ParseCertificate(der)
	return c
}

// write writes a certificate for the URI name, its key, and the authority's certificate.
func (c ca) write(t *testing.T, dir, uri string) Files {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	return c.writeNamed(t, dir, []*url.URL{u}, nil)
}

// writeNamed does so for any names.
func (c ca) writeNamed(t *testing.T, dir string, uris []*url.URL, dns []string) Files {
	t.Helper()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), URIs: uris, DNSNames: dns,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, c.cert, key.Public(), c.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, _ := x509.MarshalPKCS8PrivateKey(key)
	f := Files{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")}
	put := func(path, kind string, der []byte) {
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(f.Cert, "CERTIFICATE", der)
	put(f.Key, "PRIVATE KEY", pkcs8)
	put(f.CA, "CERTIFICATE", c.cert.Raw)
	return f
}

// load loads the files into a keeper whose log is read by the returned function.
func load(t *testing.T, f Files) (*Keeper, func() string) {
	t.Helper()
	var out strings.Builder
	k, err := Load(f, slog.New(slog.NewTextHandler(&out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return k, out.String
}

// meet connects a client to a server and returns both ends' errors and what the server saw.
func meet(t *testing.T, server, client *tls.Config) (seen tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	s := tls.Server(a, server)
	go func() {
		err := s.Handshake()
		if err != nil {
			a.Close()
		}
		done <- err
	}()
	c := tls.Client(b, client)
	clientErr = c.Handshake()
	if clientErr != nil {
		b.Close()
	} else {
		// A server's refusal of the client's certificate comes after the client's handshake in TLS 1.3.
		go func() { _, _ = c.Read(make([]byte, 1)) }()
	}
	serverErr = <-done
	seen = s.ConnectionState()
	a.Close()
	b.Close()
	return seen, serverErr, clientErr
}

func acceptAll(ID) error { return nil }

// Both ends show their certificates, and each knows the other by its identity.
func TestBothEndsAreVerified(t *testing.T) {
	one := newCA(t)
	server, _ := load(t, one.write(t, t.TempDir(), "spiffe://td/controlplane/cp"))
	client, _ := load(t, one.write(t, t.TempDir(), "spiffe://td/ingress/default/zone/tok04"))

	var peer ID
	seen, serverErr, clientErr := meet(t, server.ServerTLS(nil), client.ClientTLS("td", func(id ID) error { peer = id; return nil }))
	if serverErr != nil || clientErr != nil {
		t.Fatalf("server: %v, client: %v", serverErr, clientErr)
	}
	if peer.String() != "spiffe://td/controlplane/cp" {
		t.Errorf("the client met %s", peer)
	}
	if id, err := FromCertificate(seen.PeerCertificates[0], "td"); err != nil || id.Zone != "tok04" {
		t.Errorf("the server met %v, %v", id, err)
	}
	if seen.Version != tls.VersionTLS13 || seen.NegotiatedProtocol != "h2" {
		t.Errorf("negotiated %x %q", seen.Version, seen.NegotiatedProtocol)
	}
}

// Strangers are turned away: another authority's, no certificate at all, an identity that is not accepted,
// another trust domain.
func TestStrangersAreTurnedAway(t *testing.T) {
	one, two := newCA(t), newCA(t)
	server, _ := load(t, one.write(t, t.TempDir(), "spiffe://td/controlplane/cp"))
	client, _ := load(t, one.write(t, t.TempDir(), "spiffe://td/operator/ada"))
	stranger, _ := load(t, two.write(t, t.TempDir(), "spiffe://td/operator/ada"))

	trusting := stranger.ClientTLS("td", acceptAll)
	trusting.VerifyConnection = nil // so that the server is the one who refuses
	if _, err, _ := meet(t, server.ServerTLS(nil), trusting); err == nil {
		t.Error("the server accepted a client of another authority")
	}
	trusting.GetClientCertificate = nil
	if _, err, _ := meet(t, server.ServerTLS(nil), trusting); err == nil {
		t.Error("the server accepted a client without a certificate")
	}
	if _, _, err := meet(t, server.ServerTLS(nil), stranger.ClientTLS("td", acceptAll)); err == nil {
		t.Error("the client accepted a server of another authority")
	}
	if _, _, err := meet(t, server.ServerTLS(nil), client.ClientTLS("elsewhere", acceptAll)); err == nil {
		t.Error("the client accepted a server of another trust domain")
	}
	no := errors.New("not you")
	if _, _, err := meet(t, server.ServerTLS(nil), client.ClientTLS("td", func(ID) error { return no })); !errors.Is(err, no) {
		t.Errorf("the client got %v", err)
	}
}

// New files are used from the next connection on; broken ones are reported once, and change nothing.
func TestFilesAreReadAgain(t *testing.T) {
	one := newCA(t)
	dir := t.TempDir()
	files := one.write(t, dir, "spiffe://td/operator/first")
	k, logged := load(t, files)
	clock := time.Now()
	k.now = func() time.Time { clock = clock.Add(2 * time.Second); return clock }

	name := func() string { id, _ := FromCertificate(k.Certificate(), "td"); return id.Name }
	if got := name(); got != "first" || logged() != "" {
		t.Fatalf("holds %q, log: %s", got, logged())
	}
	if err := os.WriteFile(files.Cert, []byte("half a certif"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := [2]string{name(), name()}; got != [2]string{"first", "first"} {
		t.Errorf("a broken file changed the identity to %q", got)
	}
	if n := strings.Count(logged(), "cannot be used"); n != 1 {
		t.Errorf("reported %d times:\n%s", n, logged())
	}
	one.write(t, dir, "spiffe://td/operator/second")
	if got := name(); got != "second" {
		t.Errorf("holds %q after the files were mended", got)
	}
	k.now = func() time.Time { return clock } // less than a second later nobody looks
	one.write(t, dir, "spiffe://td/operator/third")
	if got := name(); got != "second" {
		t.Errorf("the files were looked at again at once: %q", got)
	}
}

// A server whose authority gives no identities is known by its name, and by no other; where identities are asked for, it
// has none.
func TestAServerKnownByItsName(t *testing.T) {
	clients, servers := newCA(t), newCA(t)
	serving := servers.writeNamed(t, t.TempDir(), nil, []string{"controlplane.tsuji.svc"})
	own := clients.write(t, t.TempDir(), "spiffe://td/ingress/default/zone/tok04")
	server, _ := load(t, Files{Cert: serving.Cert, Key: serving.Key, CA: own.CA})
	client, _ := load(t, Files{Cert: own.Cert, Key: own.Key, CA: serving.CA})

	if seen, serverErr, clientErr := meet(t, server.ServerTLS(nil), client.ClientTLSNamed("controlplane.tsuji.svc")); serverErr != nil || clientErr != nil {
		t.Errorf("server: %v, client: %v", serverErr, clientErr)
	} else if id, err := FromCertificate(seen.PeerCertificates[0], "td"); err != nil || id.Zone != "tok04" {
		t.Errorf("the server met %v, %v", id, err)
	}
	_, _, err := meet(t, server.ServerTLS(nil), client.ClientTLSNamed("controlplane.other.svc"))
	if err == nil || !strings.Contains(err.Error(), "controlplane.other.svc") {
		t.Errorf("by another name: %v", err)
	}
	if _, _, err := meet(t, server.ServerTLS(nil), client.ClientTLS("td", acceptAll)); err == nil || !strings.Contains(err.Error(), "0 URI names") {
		t.Errorf("asked for an identity: %v", err)
	}
	stranger, _ := load(t, newCA(t).writeNamed(t, t.TempDir(), nil, []string{"controlplane.tsuji.svc"}))
	_, _, err = meet(t, stranger.ServerTLS(nil), client.ClientTLSNamed("controlplane.tsuji.svc"))
	if err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("of another authority: %v", err)
	}
}

// Files that cannot be right are refused at the start, each with its reason.
func TestWrongFilesAreRefused(t *testing.T) {
	one := newCA(t)
	for _, c := range []struct {
		want   string
		damage func(f *Files) error
	}{
		{"needs a file with a private key", func(f *Files) error { f.Key = ""; return nil }},
		{"certificate: stat ", func(f *Files) error { f.Cert += ".gone"; return nil }},
		{"private key: stat ", func(f *Files) error { f.Cert += ".gone"; f.Key += ".gone"; return nil }},
		{"CA certificates: stat ", func(f *Files) error { f.CA += ".gone"; return nil }},
		{"make it 0600", func(f *Files) error { return os.Chmod(f.Key, 0o660) }},
		{"make it 0600", func(f *Files) error { return os.Chmod(f.Key, 0o604) }},
		{"may write it", func(f *Files) error { return os.Chmod(f.CA, 0o664) }},
		{"may write it", func(f *Files) error { return os.Chmod(f.CA, 0o646) }},
		{"may write it", func(f *Files) error { return os.Chmod(f.Cert, 0o620) }},
		{"there is no certificate in it", func(f *Files) error { return os.WriteFile(f.CA, nil, 0o600) }},
		{"want CERTIFICATE", func(f *Files) error { f.CA = f.Key; return nil }},
		{"no PEM", func(f *Files) error {
			b, _ := os.ReadFile(f.CA)
			return os.WriteFile(f.CA, append(b, "rest"...), 0o600)
		}},
		{"more than", func(f *Files) error { return os.WriteFile(f.CA, make([]byte, maxFile+1), 0o600) }},
		{"with key", func(f *Files) error { f.Cert = f.CA; return nil }},
	} {
		f := one.write(t, t.TempDir(), "spiffe://td/operator/ada")
		if err := c.damage(&f); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(f, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// A key is for its owner, and for the group that a kubelet gave it to: so a Pod gets its keys, whoever it runs as.
func TestWhoMayReadAKey(t *testing.T) {
	const pod = 2000                                                       // the fsGroup
	plain, volume := folder{mode: 0o755}, folder{mode: 0o2755, group: pod} // where a key is
	for _, c := range []struct {
		mode        os.FileMode
		owner, user int
		in          folder
		ok          bool
	}{
		{0o600, 1000, 1000, plain, true},
		{0o400, 0, 0, plain, true},
		{0o440, 0, 65532, volume, true}, // a Secret's, with defaultMode 0400
		{0o640, 0, 65532, volume, true}, // with 0600
		{0o440, 0, 0, volume, true},     // in a Pod that runs as root
		{0o640, 0, 0, volume, true},
		{0o640, 0, 0, plain, true},                                     // a group that root chose, as Debian's ssl-cert
		{0o640, 65532, 65532, volume, true},                            // a pod certificate's
		{0o640, 0, 1000700000, volume, true},                           // on OpenShift
		{0o440, 65532, 65532, plain, false},                            // an owner needs no group
		{0o640, 65532, 65532, folder{mode: 0o2755, group: 100}, false}, // another one's
		{0o640, 65532, 65532, folder{mode: 0o755, group: pod}, false},
		{0o440, 1000, 65532, volume, false}, // some other user's
		{0o640, 1000, 0, volume, false},
		{0o444, 0, 65532, volume, false}, // a Secret's, with no defaultMode
		{0o644, 0, 0, volume, false},
		{0o404, 0, 65532, volume, false},
		{0o660, 0, 65532, volume, false},
		{0o660, 0, 0, volume, false},
		{0o420, 0, 0, volume, false},
		{0o642, 0, 0, volume, false},
		{0o450, 0, 65532, volume, false},
		{0o660, 65532, 65532, volume, false},
	} {
		err := private(file{mode: c.mode, owner: c.owner, group: pod}, c.in.info(), c.user)
		if (err == nil) != c.ok {
			t.Errorf("mode %04o, owner %d, in a folder of mode %04o and group %d, read by user %d: %v",
				c.mode, c.owner, c.in.mode, c.in.group, c.user, err)
		}
	}
}

// folder is what a key's folder says of itself; its mode is in the kernel's form.
type folder struct {
	mode  uint32
	group int
}

func (f folder) info() os.FileInfo {
	mode := os.ModeDir | os.FileMode(f.mode&0o777)
	if f.mode&0o2000 != 0 {
		mode |= os.ModeSetgid
	}
	return file{mode: mode, group: f.group}
}

// file is a file of which the mode, the owner and the group are known.
type file struct {
	os.FileInfo
	mode         os.FileMode
	owner, group int
}

func (f file) Mode() os.FileMode { return f.mode }
func (f file) Sys() any          { return &syscall.Stat_t{Uid: uint32(f.owner), Gid: uint32(f.group)} }

// A file that decides whom a process trusts is written by root, or by itself. What a kubelet mounts is not written by
// others: a Secret's with mode 0400 or 0644, to which it adds that a group may read, of root, behind a symbolic link.
func TestWhoMayWriteAFile(t *testing.T) {
	for _, c := range []struct {
		mode        os.FileMode
		owner, user int
		ok          bool
	}{
		{0o644, 0, 65532, true}, {0o440, 0, 65532, true}, {0o640, 0, 1000700000, true}, {0o444, 0, 0, true},
		{0o644, 65532, 65532, true}, {0o600, 1000, 1000, true},
		{0o664, 0, 65532, false}, {0o646, 0, 65532, false}, {0o666, 0, 0, false}, {0o420, 65532, 65532, false}, {0o402, 0, 0, false},
		{0o644, 1000, 65532, false}, {0o400, 1000, 65532, false}, {0o600, 1000, 0, false},
	} {
		if err := CheckWriters(file{mode: c.mode, owner: c.owner}, c.user); (err == nil) != c.ok {
			t.Errorf("mode %04o, owner %d, read by user %d: %v", c.mode, c.owner, c.user, err)
		}
	}
}

// Who may write the file of denied peers could let one in again: it is not read, and what was read before stays.
func TestWhoMayWriteDeniedPeers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "denied")
	if err := os.WriteFile(path, []byte("serial=2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := LoadDenied(path, "td", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, 0o622)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.look(); err == nil || !strings.Contains(err.Error(), "may write it") {
		t.Errorf("it was read: %v", err)
	}
	if d.Denies(&x509.Certificate{SerialNumber: big.NewInt(2)}) == nil {
		t.Error("nobody is denied any more")
	}
	if _, err := LoadDenied(path, "td", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("it was read at the start")
	}
}

// Files as a kubelet lays them out for a Pod with an fsGroup are read, and what is taken from them while they are in use
// is seen: permissions too.
func TestAMountedSecret(t *testing.T) {
	one := newCA(t)
	dir := t.TempDir()
	data := filepath.Join(dir, "..2026_01_01_00_00_00.1")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	one.write(t, data, "spiffe://td/controlplane/cp")
	if err := os.Symlink(filepath.Base(data), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	f := Files{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")}
	for _, path := range []string{f.Cert, f.Key, f.CA} {
		if err := os.Symlink(filepath.Join("..data", filepath.Base(path)), path); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(os.Chmod(data, 0o775|os.ModeSetgid), os.Chmod(f.Cert, 0o440), os.Chmod(f.Key, 0o440), os.Chmod(f.CA, 0o644))
	if err != nil {
		t.Fatal(err)
	}
	k, logged := load(t, f)
	clock := time.Now()
	k.now = func() time.Time { clock = clock.Add(2 * time.Second); return clock }
	if k.Certificate(); logged() != "" {
		t.Errorf("log: %s", logged())
	}
	if err := os.Chmod(f.CA, 0o666); err != nil {
		t.Fatal(err)
	}
	if k.Certificate(); !strings.Contains(logged(), "its mode is 0666") {
		t.Errorf("the CA may be written by anybody, log: %s", logged())
	}
}
