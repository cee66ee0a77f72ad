package deploy

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tsuji-dev/tsuji/identity"
	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// controlPlane is a control plane that runs, and a connection to it as an operator.
type controlPlane struct {
	conn *grpc.ClientConn
}

// slots bounds how many run at the same time.
var slots = make(chan struct{}, 3)

// startControlPlane starts one that follows the API server with that kubeconfig.
func startControlPlane(t *testing.T, kubeconfig string) *controlPlane {
	t.Helper()
	slots <- struct{}{}
	t.Cleanup(func() { <-slots })
	dir, err := os.MkdirTemp("", "tj") // short: there is a unix socket in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	files := certificates(t, dir)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	own := files["spiffe://tsuji.local/controlplane/controlplane"]
	cmd := exec.Command(bin+"/controlplane", "--source=kube", "--kubeconfig="+kubeconfig, "--listen=unix:"+dir+"/grpc", "--admin=127.0.0.1:0",
		"--tls-cert="+own.Cert, "--tls-key="+own.Key, "--client-ca="+own.CA)
	// Lists as they are from API servers that do not stream them yet: else nobody would miss the right to list.
	cmd.Env = append(os.Environ(), "KUBE_FEATURE_WatchListClient=false")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("the control plane's log:\n%s", text)
		}
	})
	return &controlPlane{conn: dial(t, "unix:"+dir+"/grpc", files["spiffe://tsuji.local/operator/admin"])}
}

// certificates writes those of a control plane and an operator, by their identities.
func certificates(t *testing.T, dir string) map[string]identity.Files {
	t.Helper()
	ca, err := authority.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]identity.Files{}
	for name, uri := range map[string]string{
		"controlplane": "spiffe://tsuji.local/controlplane/controlplane", "operator": "spiffe://tsuji.local/operator/admin",
	} {
		if out[uri], err = ca.WriteFiles(dir, name, authority.Options{URI: uri}); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// dial connects to a control plane.
func dial(t *testing.T, address string, files identity.Files) *grpc.ClientConn {
	t.Helper()
	k, err := identity.Load(files, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(k.ClientTLS("tsuji.local", func(identity.ID) error { return nil }))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (c *controlPlane) status(t *testing.T) *tsujiv1.GetStatusResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := tsujiv1.NewStatusServiceClient(c.conn).GetStatus(ctx, &tsujiv1.GetStatusRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// compiled returns what came of the cluster's objects, as text.
func (c *controlPlane) compiled(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := tsujiv1.NewSnapshotServiceClient(c.conn).GetSnapshot(ctx, &tsujiv1.GetSnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := tsujiv1.NewRouteServiceClient(c.conn).ListRoutes(ctx, &tsujiv1.ListRoutesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(s.GetSnapshot().GetVersion(), s.GetResources(), r.GetRoutes())
}
