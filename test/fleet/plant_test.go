package fleet_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tsuji-dev/tsuji/identity"
	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

const trustDomain = "fleet.local"

// plant is what the servers and routers of a run share: certificates, and the world's size and seed.
type plant struct {
	t      testing.TB
	dir    string
	routes int
	seed   uint64

	clients     []*tls.Config // one for each router
	serverFiles identity.Files
	pairs       string // file of the world's certificates, JSON
	operator    *identity.Keeper
}

func newPlant(t testing.TB, routers, routes int, seed uint64) *plant {
	t.Helper()
	w := &plant{t: t, dir: t.TempDir(), routes: routes, seed: seed}
	ca, err := authority.NewAuthority("fleet")
	if err != nil {
		t.Fatal(err)
	}
	files := func(role identity.Role) identity.Files {
		id := identity.ID{TrustDomain: trustDomain, Role: role, Name: "one"}
		f, err := ca.WriteFiles(w.dir, string(role), authority.Options{URI: id.String(), DNSNames: []string{"controlplane"}})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	w.serverFiles = files(identity.RoleControlPlane)
	if w.operator, err = identity.Load(files(identity.RoleOperator), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.CertPEM())
	for i := range routers {
		c, key, err := ca.Issue(authority.Options{URI: routerID(i).String()})
		if err != nil {
			t.Fatal(err)
		}
		own, err := tls.X509KeyPair(c, key)
		if err != nil {
			t.Fatal(err)
		}
		w.clients = append(w.clients, &tls.Config{
			MinVersion: tls.VersionTLS13, ServerName: "controlplane", RootCAs: roots, Certificates: []tls.Certificate{own},
		})
	}
	pairs := make([]pair, pairsFor(routes))
	for i := range pairs {
		c, key, err := ca.Issue(authority.Options{DNSNames: []string{hostOf(i / generations * certificateEach)}})
		if err != nil {
			t.Fatal(err)
		}
		pairs[i] = pair{string(c), string(key)}
	}
	content, err := json.Marshal(pairs)
	if err != nil {
		t.Fatal(err)
	}
	w.pairs = filepath.Join(w.dir, "pairs.json")
	if err := os.WriteFile(w.pairs, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// eventually waits until a condition holds, and returns how long that took.
func eventually(t testing.TB, what string, condition func() error) time.Duration {
	t.Helper()
	begin := time.Now()
	for {
		err := condition()
		took := time.Since(begin)
		if err == nil {
			return took
		}
		if took > patience {
			t.Fatalf("it never came true that %s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// listening waits until a server listens.
func (w *plant) listening(s *server) {
	w.t.Helper()
	var dialer net.Dialer
	eventually(w.t, s.config.Kind+" listens", func() error {
		conn, err := dialer.DialContext(w.t.Context(), "tcp", s.config.Listen)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// status returns how a control plane is asked for its status, once it serves all Routes.
func (w *plant) status(s *server) func() (*tsujiv1.GetStatusResponse, error) {
	w.t.Helper()
	config := w.operator.ClientTLS(trustDomain, func(identity.ID) error { return nil })
	conn, err := grpc.NewClient("passthrough:///"+s.config.Listen, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	client := tsujiv1.NewStatusServiceClient(conn)
	ask := func() (*tsujiv1.GetStatusResponse, error) {
		ctx, cancel := context.WithTimeout(w.t.Context(), patience)
		defer cancel()
		return client.GetStatus(ctx, &tsujiv1.GetStatusRequest{}, grpc.WaitForReady(true))
	}
	eventually(w.t, "the control plane serves all Routes", func() error {
		a, err := ask()
		switch {
		case err != nil:
			return err
		case !a.GetSynced() || len(a.GetSnapshots()) != 1 || a.GetSnapshots()[0].GetWaiting() > 0 || int(a.GetRoutesAdmitted()) != w.routes:
			return fmt.Errorf("it has admitted %d Routes, refused %d", a.GetRoutesAdmitted(), a.GetRoutesRefused())
		}
		return nil
	})
	return ask
}
