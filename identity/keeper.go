package identity

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// lookEvery is how long the files are taken to be unchanged after they were looked at.
const lookEvery = time.Second

// maxFile is the most that is read of a file, in bytes: more is no certificate.
const maxFile = 1 << 20

// Files are the files that an identity is read from. Whoever may write one of them decides who we are, or whom we
// trust: nobody but its owner may, who is root or we ourselves.
type Files struct {
	// Cert is the certificate and its intermediates, PEM.
	Cert string
	// Key is the private key, PEM. Nobody but its owner may have access to it; in a volume that a kubelet made, its
	// group may read it too.
	Key string
	// CA is the certificates of the authorities that peers are verified with, PEM.
	CA string
}

// Validate reports every file that is not named.
func (f Files) Validate() error {
	var errs []error
	for _, v := range []struct{ what, path string }{
		{"a certificate", f.Cert}, {"a private key", f.Key}, {"CA certificates", f.CA},
	} {
		if v.path == "" {
			errs = append(errs, fmt.Errorf("mutual TLS needs a file with %s", v.what))
		}
	}
	return errors.Join(errs...)
}

// Keeper holds a certificate, its key, and the authorities, and reads them again when their files
// changed. It looks at the files when a connection is made, at most once a second; while what is there
// cannot be used, what was read before stays. It is safe for concurrent use.
type Keeper struct {
	files Files
	log   *slog.Logger
	now   func() time.Time

	mu      sync.Mutex
	held    material  // guarded by mu
	looked  time.Time // guarded by mu; when the files were last looked at
	trouble string    // guarded by mu; what is wrong with the files now, as logged
}

// material is what was read, whole.
type material struct {
	cert  tls.Certificate
	roots *x509.CertPool
	infos [3]os.FileInfo // what the files were when they were read: certificate, key, authorities
}

// Load reads the files. It refuses a key that others have access to, and any file that others may write: see [Files].
func Load(f Files, log *slog.Logger) (*Keeper, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	k := &Keeper{files: f, log: log, now: time.Now}
	m, err := f.read()
	if err != nil {
		return nil, err
	}
	k.held, k.looked = m, k.now()
	return k, nil
}

// Certificate returns the certificate that is shown to peers now.
func (k *Keeper) Certificate() *x509.Certificate { return k.current().cert.Leaf }

// ServerTLS returns the configuration of a server: TLS 1.3, a client certificate required and verified
// against the authorities, HTTP/2. Connections are not resumed, so that each is verified against the
// authorities of its time. A client's certificate that is verified is put to accept, whose error ends the connection;
// nil: every one is accepted.
func (k *Keeper) ServerTLS(accept func(*x509.Certificate) error) *tls.Config {
	config := func() *tls.Config {
		m := k.current()
		return &tls.Config{
			MinVersion:             tls.VersionTLS13,
			Certificates:           []tls.Certificate{m.cert},
			ClientCAs:              m.roots,
			ClientAuth:             tls.RequireAndVerifyClientCert,
			NextProtos:             []string{"h2"},
			SessionTicketsDisabled: true,
			VerifyConnection: func(s tls.ConnectionState) error {
				if accept == nil {
					return nil
				}
				return accept(s.PeerCertificates[0])
			},
		}
	}
	c := config()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return config(), nil }
	return c
}

// ClientTLS returns the configuration of a client: TLS 1.3, the peer's chain verified against the
// authorities, and its identity, of the trust domain, put to accept, whose error ends the connection.
// The peer's DNS names do not matter: it is known by its identity, at whatever address.
func (k *Keeper) ClientTLS(trustDomain string, accept func(ID) error) *tls.Config {
	return k.client(func(s tls.ConnectionState) error {
		peer, err := k.verify(s, "")
		if err != nil {
			return err
		}
		id, err := FromCertificate(peer, trustDomain)
		if err != nil {
			return err
		}
		if err := accept(id); err != nil {
			return fmt.Errorf("peer %s: %w", id, err)
		}
		return nil
	})
}

// ClientTLSNamed returns the configuration of a client that knows its peer by a DNS name, at whatever address: for a
// server whose certificate is from an authority that gives no identities, as OpenShift's service CA is. The rest
// is as with ClientTLS. Do not use it with an authority of identities: it does not tell their roles apart.
func (k *Keeper) ClientTLSNamed(name string) *tls.Config {
	return k.client(func(s tls.ConnectionState) error {
		_, err := k.verify(s, name)
		return err
	})
}

// client returns the configuration of a client that verifies each connection so.
func (k *Keeper) client(verify func(tls.ConnectionState) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			m := k.current()
			return &m.cert, nil
		},
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection verifies the chain, and an identity or a fixed name instead of the address
		VerifyConnection:   verify,
	}
}

// verify checks a server's chain, and that its certificate is for a DNS name unless that is empty, and returns the
// certificate.
func (k *Keeper) verify(s tls.ConnectionState, name string) (*x509.Certificate, error) {
	if len(s.PeerCertificates) == 0 {
		return nil, errors.New("the peer shows no certificate")
	}
	peer := s.PeerCertificates[0]
	if err := leaf(peer); err != nil {
		return nil, err
	}
	between := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := peer.Verify(x509.VerifyOptions{
		DNSName:       name,
		Roots:         k.current().roots,
		Intermediates: between,
		CurrentTime:   k.now(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return nil, fmt.Errorf("verify the peer's certificate %q: %w", peer.Subject, err)
	}
	return peer, nil
}

// current returns what is held, read again if the files changed.
func (k *Keeper) current() material {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if since := now.Sub(k.looked); since >= 0 && since < lookEvery {
		return k.held
	}
	k.looked = now
	infos, err := k.files.stat()
	if err == nil && same(infos, k.held.infos) && k.trouble == "" {
		return k.held
	}
	m, err := k.files.read()
	switch {
	case err != nil && err.Error() != k.trouble:
		k.trouble = err.Error()
		k.log.Error("certificate files cannot be used; those read before stay in use", "err", err)
	case err != nil:
	default:
		k.held, k.trouble = m, ""
		k.log.Info("certificate files read again", "certificate", m.cert.Leaf.Subject.String(), "until", m.cert.Leaf.NotAfter)
	}
	return k.held
}

// read reads and checks the files. They are looked at before they are read: a change in between is seen
// as one the next time.
func (f Files) read() (material, error) {
	var m material
	var err error
	if m.infos, err = f.stat(); err != nil {
		return material{}, err
	}
	folder, err := folderOf(f.Key)
	if err != nil {
		return material{}, fmt.Errorf("private key %s: %w", f.Key, err)
	}
	if err := private(m.infos[1], folder, os.Geteuid()); err != nil {
		return material{}, fmt.Errorf("private key %s: %w", f.Key, err)
	}
	cert, err := readFile(f.Cert)
	if err != nil {
		return material{}, fmt.Errorf("read certificate: %w", err)
	}
	key, err := readFile(f.Key)
	if err != nil {
		return material{}, fmt.Errorf("read private key: %w", err)
	}
	ca, err := readFile(f.CA)
	if err != nil {
		return material{}, fmt.Errorf("read CA certificates: %w", err)
	}
	if m.cert, err = tls.X509KeyPair(cert, key); err != nil {
		return material{}, fmt.Errorf("certificate %s with key %s: %w", f.Cert, f.Key, err)
	}
	if m.roots, err = pool(ca); err != nil {
		return material{}, fmt.Errorf("CA certificates %s: %w", f.CA, err)
	}
	return m, nil
}

// private tells what is wrong with a private key's file, in that folder, for a process of that user. A kubelet lets the
// group of a Pod, its fsGroup, read what it mounts, whoever the processes run as: files of Secrets are root's and of
// mode 0440 or 0640, and those of pod certificates are the Pod's user's and of mode 0640. That is the one way of sharing
// that is no mistake. So the group may read what root wrote; and what we own, where the folder gives that group to all
// that is made in it, as those of such a volume do (kubelet: pkg/volume/volume_linux.go, projected/projected.go).
func private(i, folder os.FileInfo, user int) error {
	mode := i.Mode().Perm()
	if mode&0o077 == 0 {
		return nil
	}
	s, ok := i.Sys().(*syscall.Stat_t)
	f, ok2 := folder.Sys().(*syscall.Stat_t)
	if ok && ok2 && mode&0o077 == 0o040 {
		given := folder.Mode()&os.ModeSetgid != 0 && f.Gid == s.Gid
		if s.Uid == 0 || int(s.Uid) == user && given {
			return nil
		}
	}
	return fmt.Errorf("its mode is %04o, so that others than its owner have access;"+
		" make it 0600, or say defaultMode: 0400 where a volume of a Secret is mounted", mode)
}

// folderOf returns the folder that a file is in, behind all links.
func folderOf(path string) (os.FileInfo, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	return os.Stat(filepath.Dir(path))
}

// CheckWriters tells who else may write a file that decides whom a process of that user trusts. What a kubelet mounts
// of Secrets and ConfigMaps is root's, and its group, the Pod's, may read it at most.
func CheckWriters(i os.FileInfo, user int) error {
	if mode := i.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("its mode is %04o, so that others than its owner may write it; take that from them: chmod go-w", mode)
	}
	if s, ok := i.Sys().(*syscall.Stat_t); ok && s.Uid != 0 && int(s.Uid) != user {
		return fmt.Errorf("it belongs to user %d, who may write it; make it root's, or that of user %d, who reads it", s.Uid, user)
	}
	return nil
}

// pool reads CA certificates, every one of which must be good: one that is skipped shows only when a peer
// is turned away.
func pool(bundle []byte) (*x509.CertPool, error) {
	p, n := x509.NewCertPool(), 0
	for rest := bundle; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if n == 0 {
				return nil, errors.New("there is no certificate in it")
			}
			if len(bytes.TrimSpace(rest)) > 0 {
				return nil, fmt.Errorf("something follows certificate %d that is no PEM", n)
			}
			return p, nil
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("block %d is a %.40q: want CERTIFICATE", n+1, block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", n+1, err)
		}
		p.AddCert(c)
	}
}

func (f Files) stat() ([3]os.FileInfo, error) {
	var infos [3]os.FileInfo
	var errs []error
	for i, file := range []struct{ what, path string }{{"certificate", f.Cert}, {"private key", f.Key}, {"CA certificates", f.CA}} {
		var err error
		if infos[i], err = os.Stat(file.path); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file.what, err))
		}
	}
	return infos, errors.Join(errs...)
}

func same(a, b [3]os.FileInfo) bool {
	for i := range a {
		if a[i].Mode() != b[i].Mode() || a[i].Size() != b[i].Size() || !a[i].ModTime().Equal(b[i].ModTime()) || !os.SameFile(a[i], b[i]) {
			return false
		}
	}
	return true
}

// readFile reads a file that nobody else may write.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil {
		err = CheckWriters(info, os.Geteuid())
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("read %s: more than %d bytes are no certificates", path, maxFile)
	}
	return b, nil
}
