package routerd

import (
	"bytes"
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The default certificate is made once, for its owner only, is the same after a restart, and is made anew when it is
// broken or about to end.
func TestDefaultCertificate(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	made := func(now time.Time) []byte {
		t.Helper()
		c, err := defaultCertificate(dir, now)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tls.X509KeyPair(c, c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := made(now)
	path := filepath.Join(dir, "default.pem")
	if i, err := os.Stat(path); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("%v, mode %v, want 0600", err, i.Mode())
	}
	if !bytes.Equal(made(now.Add(time.Hour)), first) {
		t.Error("a restart made another certificate")
	}
	if bytes.Equal(made(now.Add(defaultCertificateLife)), first) {
		t.Error("a certificate at its end was kept")
	}
	if err := os.WriteFile(path, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(made(now), []byte("broken")) {
		t.Error("a broken certificate was kept")
	}
}
