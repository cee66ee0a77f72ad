package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tsuji-dev/tsuji/cmd/tsuji/internal/demo"
	"github.com/tsuji-dev/tsuji/identity"
	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

var update = flag.Bool("update", false, "write the transcripts in testdata anew")

func TestMain(m *testing.M) {
	if code, ok := standIn(filepath.Base(os.Args[0]), os.Args[1:]); ok {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

// epoch is when everything in these tests happens.
var epoch = time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)

func ago(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(epoch.Add(-d)) }

// tsuji runs a command line as a shell would split it, "< FILE" at its end included, and returns what it
// printed, errors too, and its exit code.
func tsuji(t *testing.T, env map[string]string, args ...string) (output string, code int) {
	t.Helper()
	in := ""
	if n := len(args); n > 2 && args[n-2] == "<" {
		content, err := os.ReadFile(args[n-1])
		if err != nil {
			t.Fatal(err)
		}
		in, args = string(content), args[:n-2]
	}
	var b bytes.Buffer
	p := newProgram(world{
		in: strings.NewReader(in), out: &b, err: &b,
		env: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		now: func() time.Time { return epoch },
	})
	code = p.run(t.Context(), args)
	return b.String(), code
}

// serve runs a gRPC server, and returns its address.
func serve(t *testing.T, s *grpc.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); served.Wait() })
	return l.Addr().String()
}

// controlPlane answers with what it holds, two things to a page. One that holds nothing answers with an error.
type controlPlane struct {
	tsujiv1.UnimplementedSnapshotServiceServer
	tsujiv1.UnimplementedRouteServiceServer
	tsujiv1.UnimplementedFleetServiceServer
	tsujiv1.UnimplementedStatusServiceServer

	status    *tsujiv1.GetStatusResponse
	routes    []*tsujiv1.RouteVerdict
	routers   []*tsujiv1.Router
	resources []*tsujiv1.Resource
}

func (c *controlPlane) server(options ...grpc.ServerOption) *grpc.Server {
	s := grpc.NewServer(options...)
	tsujiv1.RegisterSnapshotServiceServer(s, c)
	tsujiv1.RegisterRouteServiceServer(s, c)
	tsujiv1.RegisterFleetServiceServer(s, c)
	tsujiv1.RegisterStatusServiceServer(s, c)
	return s
}

func (c *controlPlane) GetStatus(context.Context, *tsujiv1.GetStatusRequest) (*tsujiv1.GetStatusResponse, error) {
	if c.status == nil {
		return nil, status.Error(codes.PermissionDenied, "a router may not")
	}
	return c.status, nil
}

func (c *controlPlane) ListRouters(context.Context, *tsujiv1.ListRoutersRequest) (*tsujiv1.ListRoutersResponse, error) {
	return &tsujiv1.ListRoutersResponse{Routers: c.routers}, nil
}

func (c *controlPlane) ListSnapshots(context.Context, *tsujiv1.ListSnapshotsRequest) (*tsujiv1.ListSnapshotsResponse, error) {
	return &tsujiv1.ListSnapshotsResponse{Snapshots: c.status.GetSnapshots()}, nil
}

func (c *controlPlane) ListRoutes(_ context.Context, q *tsujiv1.ListRoutesRequest) (*tsujiv1.ListRoutesResponse, error) {
	var wanted []*tsujiv1.RouteVerdict
	for _, r := range c.routes {
		if !q.GetRefusedOnly() || !r.GetAdmitted() {
			wanted = append(wanted, r)
		}
	}
	a := &tsujiv1.ListRoutesResponse{}
	a.Routes, a.NextPageToken = page(wanted, q.GetPageToken())
	return a, nil
}

func (c *controlPlane) GetSnapshot(_ context.Context, q *tsujiv1.GetSnapshotRequest) (*tsujiv1.GetSnapshotResponse, error) {
	if q.GetVersion() == "nope" {
		return nil, status.Error(codes.NotFound, `version "nope" is not held`)
	}
	var wanted []*tsujiv1.Resource
	for _, r := range c.resources {
		if strings.HasPrefix(r.GetName(), q.GetNamePrefix()) {
			wanted = append(wanted, r)
		}
	}
	a := &tsujiv1.GetSnapshotResponse{Snapshot: c.status.GetSnapshots()[0]}
	a.Resources, a.NextPageToken = page(wanted, q.GetPageToken())
	return a, nil
}

func page[T any](all []T, token string) (list []T, next string) {
	from, _ := strconv.Atoi(token)
	to := min(from+2, len(all))
	if to < len(all) {
		next = strconv.Itoa(to)
	}
	return all[from:to], next
}

func version1(config, facts string) string {
	return "1767600000000-" + strings.Repeat(config, 32) + "+" + strings.Repeat(facts, 32)
}

// busy is a control plane with something of everything, hostile texts included.
func busy() *controlPlane {
	now, old := version1("ab", "cd"), version1("ab", "01")
	return &controlPlane{
		status: &tsujiv1.GetStatusResponse{
			ControlplaneVersion: "v0.1.0", Source: "dir:examples/demo", Synced: true,
			RoutesAdmitted: 2, RoutesRefused: 1, RoutersConnected: 2, RoutersCurrent: 1,
			Snapshots: []*tsujiv1.SnapshotSummary{{IngressController: "default", Version: now, Built: ago(75 * time.Second), Current: true, Routes: 2, Endpoints: 1, Certificates: 1}},
			Faults: []*tsujiv1.SourceFault{
				{Place: "hello.yaml", Line: 12, Message: "unknown field \"spec.hosts\"", Remedy: "write spec.host"},
				{Place: "x\x1b[2J.yaml", Message: "not YAML"},
			},
		},
		routes: []*tsujiv1.RouteVerdict{
			{IngressController: "default", Namespace: "demo", Name: "edge", Host: "edge.demo.example",
				Termination: tsujiv1.Termination_TERMINATION_EDGE, Admitted: true, Warnings: []string{"Service none does not exist"},
				LastGood: []*tsujiv1.LastGood{{
					Resource: "cert/demo/secret:edge-tls", Since: ago(time.Hour),
					Message: "secrets \"edge-tls\" not found; the last good one stays in use\nkind: Evil",
				}}},
			{IngressController: "default", Namespace: "demo", Name: "hello", Host: "hello.demo.example", Path: "/b", Termination: tsujiv1.Termination_TERMINATION_INSECURE, Admitted: true, SetBy: []string{"haproxy.router.openshift.io/disable_cookies", "spec.host"}},
			{IngressController: "default", Namespace: "evil", Name: "hello", Host: "hello.demo.example", Termination: tsujiv1.Termination_TERMINATION_INSECURE, Reason: "HostAlreadyClaimed", Message: "route hello already exposes\nhello.demo.example \x1b]0;owned\a"},
		},
		routers: []*tsujiv1.Router{
			{IngressController: "default", Zone: "tok04", Name: "tok04-1", Connected: true, Since: ago(3 * time.Hour),
				AckedVersion: now, TargetVersion: now, ResponsesSent: 2, ResourcesSent: 9, HaproxyVersion: "3.4.7",
				ConnectionsAllowed: 8302, ConnectionsWanted: 50000},
			{
				IngressController: "default", Zone: "tok05", Name: "tok05-1", Connected: true, Since: ago(5 * time.Second), AckedVersion: old, TargetVersion: now, ResponsesSent: 3, ResourcesSent: 9, HaproxyVersion: "3.4.7", Duplicate: true,
				Refusal: &tsujiv1.Refusal{Class: tsujiv1.RefusalClass_REFUSAL_CLASS_LOCAL, Version: now, Message: "disk full", Resources: []*tsujiv1.RefusedResource{{Resource: "cert/demo/secret:edge-tls", Message: "not written"}}},
			},
			{IngressController: "default", Zone: "tok06", Name: "tok06-1", Since: ago(72 * time.Hour), TargetVersion: now},
		},
		resources: []*tsujiv1.Resource{
			{Name: "endpoints/demo/hello-a/http", Kind: &tsujiv1.Resource_Endpoints{Endpoints: &tsujiv1.Endpoints{Namespace: "demo", Service: "hello-a", Port: "http", Endpoints: []*tsujiv1.Endpoint{{Address: "127.0.0.1", Port: 14801, Ready: true}, {Address: "127.0.0.1", Port: 14802}}}}},
			{Name: "cert/demo/secret:edge-tls", Kind: &tsujiv1.Resource_Certificate{Certificate: &tsujiv1.Certificate{ChainPem: []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")}}},
			{Name: "route/demo/hello", RequiredFeatures: []string{"wildcard"}, Kind: &tsujiv1.Resource_Route{Route: &tsujiv1.Route{Namespace: "demo", Name: "hello", Host: "hello.demo.example", Path: "/", Termination: tsujiv1.Termination_TERMINATION_INSECURE, Backends: []*tsujiv1.BackendRef{{Endpoints: "endpoints/demo/hello-a/http", Weight: 75, Service: "hello-a"}, {Endpoints: "endpoints/demo/hello-b/http", Weight: 25, Service: "hello-b"}}}}},
			{Name: "settings", Kind: &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{}}},
		},
	}
}

// enterManifests changes to a directory with what is in testdata/manifests, and as demo what is in examples/demo, complete
// with what a demo writes. No demo runs there.
func enterManifests(t *testing.T) {
	t.Helper()
	ca, err := authority.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "manifests")
	if err := errors.Join(
		os.CopyFS(dir, os.DirFS(filepath.Join(testdata, "manifests"))),
		demo.Manifests(filepath.Join(testdata, "../../..", "examples/demo"), filepath.Join(dir, "demo"), ca),
	); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
}

// untilDate matches when a certificate ends, which is another day each day.
var untilDate = regexp.MustCompile(`until [0-9]{4}-[0-9]{2}-[0-9]{2}`)

// Transcripts: each file in testdata is command lines, and what they print on a busy control plane. They run
// where enterManifests puts its files.
func TestTranscripts(t *testing.T) {
	enterManifests(t)
	address := serve(t, busy().server())
	files, err := filepath.Glob(filepath.Join(testdata, "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatal("there are no transcripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for line := range strings.Lines(string(want)) {
				args, ok := strings.CutPrefix(line, "$ tsuji ")
				if !ok {
					if strings.HasPrefix(line, "#") && got.Len() == 0 {
						got.WriteString(line)
					}
					continue
				}
				env := map[string]string{"TSUJI_SERVER": address, "TSUJI_INSECURE": "true"}
				output, code := tsuji(t, env, strings.Fields(args)...)
				fmt.Fprintf(&got, "$ tsuji %s%s", args, untilDate.ReplaceAllString(strings.ReplaceAll(output, address, "SERVER"), "until DATE"))
				if code != 0 {
					fmt.Fprintf(&got, "(exit code %d)\n", code)
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(got.String()), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(want), got.String()); d != "" {
				t.Errorf("(-want +got; -update writes it anew):\n%s", d)
			}
		})
	}
}

var testdata = func() string {
	wd, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	return filepath.Join(wd, "testdata")
}()

// How to connect comes from flags, from the environment, or from a demo in the current directory, in this order;
// whatever is wrong with it is said together with what to do.
func TestConnection(t *testing.T) {
	t.Chdir(t.TempDir())
	ca, err := authority.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	files := func(ca *authority.Authority, dir string, id identity.ID) identity.Files {
		t.Helper()
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		id.TrustDomain = demo.TrustDomain
		f, err := ca.WriteFiles(dir, "x", authority.Options{URI: id.String()})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	listen := func(id identity.ID, c *controlPlane) string {
		t.Helper()
		keeper, err := identity.Load(files(ca, "server-"+string(id.Role), id), nil)
		if err != nil {
			t.Fatal(err)
		}
		return serve(t, c.server(grpc.Creds(credentials.NewTLS(keeper.ServerTLS(nil)))))
	}
	controlplane := identity.ID{Role: identity.RoleControlPlane, Name: "a"}
	good := listen(controlplane, busy())
	denies := listen(controlplane, &controlPlane{})
	impostor := listen(identity.ID{Role: identity.RoleOperator, Name: "a"}, busy())
	operator := files(ca, "operator", identity.ID{Role: identity.RoleOperator, Name: "me"})
	otherCA, err := authority.NewAuthority("other")
	if err != nil {
		t.Fatal(err)
	}
	stranger := files(otherCA, "stranger", identity.ID{Role: identity.RoleOperator, Name: "me"})

	flags := func(server string, f identity.Files) []string {
		return []string{"status", "--server=" + server, "--tls-cert=" + f.Cert, "--tls-key=" + f.Key, "--ca=" + f.CA}
	}
	env := func(server string, f identity.Files) map[string]string {
		return map[string]string{"TSUJI_SERVER": server, "TSUJI_TLS_CERT": f.Cert, "TSUJI_TLS_KEY": f.Key, "TSUJI_CA": f.CA}
	}
	withOut := func(args []string, flag string) []string {
		var kept []string
		for _, a := range args {
			if !strings.HasPrefix(a, flag) {
				kept = append(kept, a)
			}
		}
		return kept
	}
	for _, c := range []struct {
		story string
		env   map[string]string
		args  []string
		demo  bool // whether one runs in this directory, with the good server
		code  int
		want  string // a regular expression
	}{
		{"by flags", nil, flags(good, operator), false, 0, "Routers +2 connected"},
		{"by environment", env(good, operator), []string{"status"}, false, 0, "Routers +2 connected"},
		{"flags win over the environment", env(denies, stranger), flags(good, operator), false, 0, "Routers +2 connected"},
		{"by the demo", nil, []string{"status"}, true, 0, "Routers +2 connected"},
		{"with the demo's certificate, another server", nil, []string{"status", "--server=" + denies}, true, 1, "a router may not"},
		{"flags win over the demo", nil, flags(denies, operator), true, 1, "a router may not"},
		{"nothing is said", nil, []string{"status"}, false, 2, "no demo runs.*--tls-cert.*--insecure.*make demo"},
		{"half is said", nil, withOut(flags(good, operator), "--tls-key"), false, 2, "--tls-key"},
		{"a contradiction", nil, append(flags(good, operator), "--insecure"), false, 2, "leave out --insecure"},
		{"a file that is not there", nil, flags(good, identity.Files{Cert: "no", Key: "no", CA: "no"}), false, 1, "no such file"},
		{"a bad variable", map[string]string{"TSUJI_TIMEOUT": "soon"}, flags(good, operator), false, 2, "TSUJI_TIMEOUT"},
		{"the server is no control plane", nil, flags(impostor, operator), false, 1, "is not a control plane(.|\n)*--trust-domain"},
		{"the server is of another authority", nil, flags(good, stranger), false, 1, "cannot connect(.|\n)*--ca"},
		{"another trust domain", nil, append(flags(good, operator), "--trust-domain=other.local"), false, 1, "other.local"},
		{"no rights", nil, flags(denies, operator), false, 1, "a router may not(.|\n)*spiffe://tsuji.local/operator/NAME"},
		{"nobody there", nil, flags("127.0.0.1:1", operator), false, 1, "make demo.*--server"},
		{"nobody there, in the clear", nil, []string{"routers", "--insecure", "--server=127.0.0.1:1"}, false, 1, "make demo.*--server"},
		{"an unknown format", nil, append(flags(good, operator), "-o", "xml"), false, 2, "table, json or yaml"},
		{"too much", nil, append(flags(good, operator), "more"), false, 2, "more"},
	} {
		t.Run(c.story, func(t *testing.T) {
			if c.demo {
				if err := os.Mkdir(demo.StateDir, 0o700); err != nil {
					t.Fatal(err)
				}
				defer os.RemoveAll(demo.StateDir)
				env := fmt.Sprintf("export TSUJI_SERVER=%s\nexport TSUJI_TLS_CERT=%s\nexport TSUJI_TLS_KEY=%s\nexport TSUJI_CA=%s\n",
					good, operator.Cert, operator.Key, operator.CA)
				if err := os.WriteFile(filepath.Join(demo.StateDir, "env"), []byte(env), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, code := tsuji(t, c.env, c.args...)
			if code != c.code || !regexp.MustCompile(c.want).MatchString(got) {
				t.Errorf("exit code %d, want %d; it should say %q:\n%s", code, c.code, c.want, got)
			}
		})
	}
}

// A server that does not answer is given up after --timeout.
func TestTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got, code := tsuji(t, nil, "status", "--insecure", "--timeout=50ms", "--server="+l.Addr().String())
	if code != exitError || !strings.Contains(got, "--timeout") {
		t.Errorf("exit code %d: %s", code, got)
	}
}
