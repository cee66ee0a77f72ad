package authority_test

import (
	"log/slog"
	"os"
	"testing"

	"github.com/tsuji-dev/tsuji/identity"
	"github.com/tsuji-dev/tsuji/identity/authority"
)

// What is issued can be loaded, says who it is for, and its key is nobody else's to read.
func TestFilesCanBeLoaded(t *testing.T) {
	ca, err := authority.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	want := identity.ID{TrustDomain: "td", Role: identity.RoleRouter, IngressController: "default", Zone: "tok04", Name: "r1"}
	dir := t.TempDir()
	for range 2 { // the second time in the place of the first
		f, err := ca.WriteFiles(dir, "r1", authority.Options{URI: want.String(), DNSNames: []string{"localhost"}})
		if err != nil {
			t.Fatal(err)
		}
		k, err := identity.Load(f, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := identity.FromCertificate(k.Certificate(), "td"); err != nil || got != want {
			t.Errorf("got %v, %v", got, err)
		}
		info, err := os.Stat(f.Key)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("key: %v, %v", info.Mode(), err)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 3 {
		t.Errorf("left behind: %v", entries)
	}
}
