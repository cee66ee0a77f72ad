package access_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/tsuji-dev/tsuji/controlplane/access"
	"github.com/tsuji-dev/tsuji/identity"
	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

const domain = "test.local"

// discoverer notes whom the guard let through to discovery.
type discoverer struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	guard *access.Guard
	seen  chan string
}

func (d *discoverer) DeltaAggregatedResources(s discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	id, verified, err := d.guard.Authenticate(s.Context())
	d.seen <- fmt.Sprintf("%s %t %v", id, verified, err)
	return nil
}

// world is a server with every service that a control plane registers.
type world struct {
	server  *grpc.Server
	health  *health.Server
	address string
	ca      *authority.Authority
	dir     string
	seen    chan string
	log     *strings.Builder
}

func newWorld(t *testing.T, without bool, more ...grpc.ServerOption) *world {
	t.Helper()
	ca, err := authority.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{health: health.NewServer(), ca: ca, dir: t.TempDir(), seen: make(chan string, 8), log: &strings.Builder{}}
	guard := access.New(access.Config{TrustDomain: domain, Insecure: without, Log: slog.New(slog.NewTextHandler(w.log, nil))})
	options := append(guard.ServerOptions(), more...)
	if !without {
		options = append(options, grpc.Creds(credentials.NewTLS(w.keeper(t, "spiffe://"+domain+"/controlplane/cp").ServerTLS(nil))))
	}
	w.server = grpc.NewServer(options...)
	discovery.RegisterAggregatedDiscoveryServiceServer(w.server, &discoverer{guard: guard, seen: w.seen})
	tsujiv1.RegisterSnapshotServiceServer(w.server, tsujiv1.UnimplementedSnapshotServiceServer{})
	tsujiv1.RegisterRouteServiceServer(w.server, tsujiv1.UnimplementedRouteServiceServer{})
	tsujiv1.RegisterFleetServiceServer(w.server, tsujiv1.UnimplementedFleetServiceServer{})
	tsujiv1.RegisterStatusServiceServer(w.server, tsujiv1.UnimplementedStatusServiceServer{})
	healthv1.RegisterHealthServer(w.server, w.health)
	reflection.Register(w.server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = l.Addr().String()
	done := make(chan struct{})
	go func() { defer close(done); _ = w.server.Serve(l) }()
	t.Cleanup(func() { w.server.Stop(); <-done })
	return w
}

func (w *world) keeper(t *testing.T, uri string) *identity.Keeper {
	t.Helper()
	files, err := w.ca.WriteFiles(w.dir, strings.ReplaceAll(filepath.Base(uri), "/", "-"), authority.Options{URI: uri})
	if err != nil {
		t.Fatal(err)
	}
	k, err := identity.Load(files, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// methods lists every method of the server: "/service/method".
func (w *world) methods() []string {
	var all []string
	for service, info := range w.server.GetServiceInfo() {
		for _, m := range info.Methods {
			all = append(all, "/"+service+"/"+m.Name)
		}
	}
	slices.Sort(all)
	return all
}

// try calls a method and tells whether the guard let it through.
func try(t *testing.T, conn *grpc.ClientConn, method string) bool {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err == nil {
		if err = s.SendMsg(&tsujiv1.GetStatusRequest{}); err == nil || err.Error() == "EOF" {
			_ = s.CloseSend()
			err = s.RecvMsg(&tsujiv1.GetStatusResponse{})
		}
	}
	code := status.Code(err)
	if code == codes.Unavailable {
		t.Fatalf("%s: %v", method, err)
	}
	return code != codes.PermissionDenied && code != codes.Unauthenticated
}

// Each role may call what the design says, of all that is registered, and nothing else.
func TestTheTable(t *testing.T) {
	w := newWorld(t, false)
	got := map[string][]string{}
	for name, uri := range map[string]string{
		"router":       "spiffe://" + domain + "/ingress/default/zone/tok04/router/r1",
		"operator":     "spiffe://" + domain + "/operator/ada",
		"controlplane": "spiffe://" + domain + "/controlplane/cp-1",
	} {
		tls := w.keeper(t, uri).ClientTLS(domain, func(identity.ID) error { return nil })
		conn, err := grpc.NewClient(w.address, grpc.WithTransportCredentials(credentials.NewTLS(tls)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		for _, m := range w.methods() {
			if try(t, conn, m) {
				got[m] = append(got[m], name)
			}
		}
	}
	var b strings.Builder
	for _, m := range w.methods() {
		slices.Sort(got[m])
		fmt.Fprintf(&b, "%s: %s\n", m, strings.Join(got[m], " "))
		if len(got[m]) == 0 {
			t.Errorf("%s is for nobody: it needs a row in the table", m)
		}
	}
	want, err := os.ReadFile("testdata/rights.txt")
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	for _, prefix := range access.Prefixes() {
		if !slices.ContainsFunc(w.methods(), func(m string) bool { return strings.HasPrefix(m, prefix) }) {
			t.Errorf("the row of %s is for nothing that is served", prefix)
		}
	}
	if seen := <-w.seen; seen != "spiffe://"+domain+"/ingress/default/zone/tok04/router/r1 true <nil>" {
		t.Errorf("discovery was opened by %s", seen)
	}
	if len(w.seen) != 0 {
		t.Errorf("and by %s", <-w.seen)
	}
	line := "method=/tsuji.v1.SnapshotService/GetSnapshot peer=spiffe://" + domain + "/ingress/default/zone/tok04/router/r1"
	if w.server.Stop(); !strings.Contains(w.log.String(), line) {
		t.Errorf("the log has no %s:\n%s", line, w.log)
	}
}

// A certificate that the authority signed for something else is nobody's.
func TestACertificateWithoutAnIdentity(t *testing.T) {
	w := newWorld(t, false)
	tls := w.keeper(t, "spiffe://elsewhere/operator/ada").ClientTLS(domain, func(identity.ID) error { return nil })
	conn, err := grpc.NewClient(w.address, grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, m := range w.methods() {
		if try(t, conn, m) {
			t.Errorf("%s was allowed", m)
		}
	}
}

// An identity has a bounded number of calls under way. The oldest ends for the next, and nobody else's does.
func TestCallsOfAnIdentity(t *testing.T) {
	w := newWorld(t, false)
	watch := func(name string) (next func() error) {
		t.Helper()
		tls := w.keeper(t, "spiffe://"+domain+"/operator/"+name).ClientTLS(domain, func(identity.ID) error { return nil })
		conn, err := grpc.NewClient(w.address, grpc.WithTransportCredentials(credentials.NewTLS(tls)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		t.Cleanup(cancel)
		s, err := healthv1.NewHealthClient(conn).Watch(ctx, &healthv1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		next = func() error { _, err := s.Recv(); return err }
		if err := next(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return next
	}
	bob, ada := watch("bob"), watch("ada")
	for range access.MostCalls {
		watch("ada")
	}
	if err := ada(); status.Code(err) != codes.Canceled {
		t.Errorf("ada's first of too many calls: %v", err)
	}
	w.health.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	if err := bob(); err != nil {
		t.Errorf("bob's only call: %v", err)
	}
}

// Without certificates everything is allowed, and nobody is taken for anybody.
func TestInsecure(t *testing.T) {
	w := newWorld(t, true)
	conn, err := grpc.NewClient(w.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, m := range w.methods() {
		if !try(t, conn, m) {
			t.Errorf("%s was refused", m)
		}
	}
	if seen := <-w.seen; !strings.HasSuffix(seen, "false <nil>") {
		t.Errorf("discovery was opened by %s", seen)
	}
}
