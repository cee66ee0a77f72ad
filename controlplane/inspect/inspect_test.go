package inspect

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// epoch is when everything in these tests happens.
var epoch = time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)

// world is a server, what it looks at, and a client of it.
type world struct {
	t      *testing.T
	board  *release.Board
	fleet  *fleet.Fleet
	server *Server

	snapshots tsujiv1.SnapshotServiceClient
	routes    tsujiv1.RouteServiceClient
	routers   tsujiv1.FleetServiceClient
	status    tsujiv1.StatusServiceClient
}

func start(t *testing.T, history int) *world {
	t.Helper()
	w := &world{t: t, board: release.NewBoard(history), fleet: fleet.New(fleet.Config{Keep: time.Hour})}
	w.server = New(Config{
		Board: w.board, Fleet: w.fleet, Source: "dir:test", Version: "v1", Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return epoch },
	})
	s := grpc.NewServer()
	w.server.Register(s)
	l := bufconn.Listen(1 << 20)
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(l) })
	conn, err := grpc.NewClient("passthrough:///test", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); s.Stop(); served.Wait() })
	w.snapshots, w.routes = tsujiv1.NewSnapshotServiceClient(conn), tsujiv1.NewRouteServiceClient(conn)
	w.routers, w.status = tsujiv1.NewFleetServiceClient(conn), tsujiv1.NewStatusServiceClient(conn)
	return w
}

// publish makes a version of the resources and returns it.
func (w *world) publish(controller string, revision uint64, resources ...*tsujiv1.Resource) snapshot.Version {
	w.t.Helper()
	var config, facts snapshot.Set
	for _, r := range resources {
		i, err := tsujiv1.Encode(r)
		if err != nil {
			w.t.Fatal(err)
		}
		if snapshot.PartOf(i.Name()) == snapshot.Config {
			config = config.With(i)
		} else {
			facts = facts.With(i)
		}
	}
	s := snapshot.New(revision, config, facts)
	w.board.Publish(controller, release.Target{Snapshot: s}, epoch.Add(time.Duration(revision)*time.Second))
	return s.Version()
}

func route(name, host string) *tsujiv1.Resource {
	return &tsujiv1.Resource{Name: tsujiv1.RouteName("ns", name), Kind: &tsujiv1.Resource_Route{Route: &tsujiv1.Route{Namespace: "ns", Name: name, Host: host}}}
}

func endpoints(service string) *tsujiv1.Resource {
	return &tsujiv1.Resource{Name: tsujiv1.EndpointsName("ns", service, "*"), Kind: &tsujiv1.Resource_Endpoints{Endpoints: &tsujiv1.Endpoints{Namespace: "ns", Service: service, Port: "*"}}}
}

// keyPEM stands for a private key; nothing of it may appear anywhere.
const keyPEM = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0IHNlY3JldCBzZWNyZXQ=\n-----END PRIVATE KEY-----\n"

func certificate(name string) *tsujiv1.Resource {
	return &tsujiv1.Resource{Name: tsujiv1.CertificateName("ns", tsujiv1.FromSecret, name), Kind: &tsujiv1.Resource_Certificate{Certificate: &tsujiv1.Certificate{
		ChainPem: []byte("chain of " + name), PrivateKey: &tsujiv1.PrivateKey{Pem: []byte(keyPEM)},
	}}}
}

func settings() *tsujiv1.Resource {
	return &tsujiv1.Resource{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{}}}
}

func names(resources []*tsujiv1.Resource) string {
	var all []string
	for _, r := range resources {
		all = append(all, r.GetName())
	}
	return strings.Join(all, " ")
}

// wantError fails unless the error has the code, and a message that holds the words.
func wantError(t *testing.T, err error, code codes.Code, words ...string) {
	t.Helper()
	s := status.Convert(err)
	if s.Code() != code {
		t.Fatalf("got %v, want %v", err, code)
	}
	for _, word := range words {
		if !strings.Contains(s.Message(), word) {
			t.Errorf("%q does not say %q", s.Message(), word)
		}
	}
}

// A snapshot is found by nothing, by its version, by a beginning of it; an ambiguous one is told, an unknown
// one is not found; and its summary counts what is in it.
func TestSnapshotsAreFound(t *testing.T) {
	w := start(t, 10)
	old := w.publish("default", 17, settings(), route("a", "a.example"))
	now := w.publish("default", 18, settings(), route("a", "a.example"), route("b", "b.example"), endpoints("s"), certificate("c"))
	get := func(version string) (*tsujiv1.GetSnapshotResponse, error) {
		return w.snapshots.GetSnapshot(t.Context(), &tsujiv1.GetSnapshotRequest{Version: version})
	}
	for asked, want := range map[string]snapshot.Version{
		"": now, now.String(): now, old.Short(): old, "17": old,
		"99" + strings.TrimPrefix(old.String(), "17"): old, // as another replica prints it
	} {
		got, err := get(asked)
		if err != nil || got.GetSnapshot().GetVersion() != want.String() {
			t.Errorf("version %q is %v %v, want %v", asked, got.GetSnapshot(), err, want)
		}
	}
	_, err := get("1")
	wantError(t, err, codes.InvalidArgument, `version "1"`, "2 versions", old.Short(), now.Short())
	_, err = get("99-")
	wantError(t, err, codes.NotFound, `version "99-"`, "ListSnapshots")
	_, err = w.snapshots.GetSnapshot(t.Context(), &tsujiv1.GetSnapshotRequest{IngressController: "other"})
	wantError(t, err, codes.NotFound, `ingress_controller "other"`, "those served are default")
	_, err = w.snapshots.GetSnapshot(t.Context(), &tsujiv1.GetSnapshotRequest{IngressController: "no name"})
	wantError(t, err, codes.InvalidArgument, "ingress_controller")

	list, err := w.snapshots.ListSnapshots(t.Context(), &tsujiv1.ListSnapshotsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := []*tsujiv1.SnapshotSummary{
		{IngressController: "default", Version: now.String(), Built: timestamp(epoch.Add(18 * time.Second)), Current: true, Routes: 2, Endpoints: 1, Certificates: 1},
		{IngressController: "default", Version: old.String(), Built: timestamp(epoch.Add(17 * time.Second)), Routes: 1},
	}
	if d := cmp.Diff(want, list.GetSnapshots(), protocmp.Transform()); d != "" {
		t.Errorf("snapshots (-want +got):\n%s", d)
	}
}

// No answer has a byte of a private key in it, however it is encoded; the chain is there.
func TestPrivateKeysStay(t *testing.T) {
	w := start(t, 10)
	w.publish("default", 1, settings(), certificate("c"), route("a", "a.example"))
	got, err := w.snapshots.GetSnapshot(t.Context(), &tsujiv1.GetSnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"PRIVATE", "c2VjcmV0"} {
		if bytes.Contains(b, []byte(secret)) {
			t.Errorf("the answer holds %q", secret)
		}
	}
	if !bytes.Contains(b, []byte("chain of c")) {
		t.Error("the answer does not hold the chain")
	}
}

// Pages are all of the version that the first was of, whatever is published in between, and together are the
// whole of it; once that version is forgotten, the next page says so.
func TestSnapshotPages(t *testing.T) {
	w := start(t, 2)
	var resources []*tsujiv1.Resource
	for i := range 25 {
		resources = append(resources, route(fmt.Sprintf("r%02d", i), "a.example"), endpoints(fmt.Sprintf("s%02d", i)))
	}
	first := w.publish("default", 1, resources...)
	q := &tsujiv1.GetSnapshotRequest{NamePrefix: "route/", PageSize: 10}
	var got []*tsujiv1.Resource
	var lost *tsujiv1.GetSnapshotRequest
	for page := range 3 {
		a, err := w.snapshots.GetSnapshot(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if a.GetSnapshot().GetVersion() != first.String() {
			t.Fatalf("page %d is of %s, want %s", page, a.GetSnapshot().GetVersion(), first)
		}
		got = append(got, a.GetResources()...)
		if (a.GetNextPageToken() == "") != (page == 2) {
			t.Fatalf("page %d of 3 has the next token %q", page, a.GetNextPageToken())
		}
		if page == 0 {
			w.publish("default", 2, route("r0", "b.example"))
		}
		q.PageToken = a.GetNextPageToken()
		if page == 1 {
			lost = proto.CloneOf(q)
		}
	}
	var want []string
	for i := range 25 {
		want = append(want, fmt.Sprintf("route/ns/r%02d", i))
	}
	if names(got) != strings.Join(want, " ") {
		t.Errorf("got  %s\nwant %s", names(got), strings.Join(want, " "))
	}
	w.publish("default", 3, route("r1", "b.example"))
	_, err := w.snapshots.GetSnapshot(t.Context(), lost)
	wantError(t, err, codes.FailedPrecondition, first.Short(), "page_token empty")
}

// A page is cut at a size that stock clients accept; one resource that is larger still has a page of its own.
func TestLargePages(t *testing.T) {
	w := start(t, 2)
	var resources []*tsujiv1.Resource
	for i := range 5 {
		c := certificate(fmt.Sprintf("c%d", i))
		c.GetCertificate().ChainPem = bytes.Repeat([]byte("x"), 700<<10)
		resources = append(resources, c)
	}
	resources[2].GetCertificate().ChainPem = bytes.Repeat([]byte("x"), 3<<20)
	w.publish("default", 1, resources...)
	q := &tsujiv1.GetSnapshotRequest{}
	var all []string
	for {
		a, err := w.snapshots.GetSnapshot(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, names(a.GetResources()))
		if q.PageToken = a.GetNextPageToken(); q.PageToken == "" {
			break
		}
	}
	if len(all) != 5 {
		t.Errorf("got pages %q, want one for each", all)
	}
}

// A token that was made up, or is of another question, is refused with a remedy.
func TestPageTokens(t *testing.T) {
	w := start(t, 2)
	w.publish("default", 1, route("a", "a"), route("b", "b"))
	a, err := w.snapshots.GetSnapshot(t.Context(), &tsujiv1.GetSnapshotRequest{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"x", "!!", "e30", strings.Repeat("e", 5000), a.GetNextPageToken() + "e30"} {
		_, err := w.snapshots.GetSnapshot(t.Context(), &tsujiv1.GetSnapshotRequest{PageSize: 1, PageToken: bad})
		wantError(t, err, codes.InvalidArgument, "page_token", "first page")
		_, err = w.routes.ListRoutes(t.Context(), &tsujiv1.ListRoutesRequest{PageToken: bad})
		wantError(t, err, codes.InvalidArgument, "page_token", "first page")
	}
	_, err = w.snapshots.GetSnapshot(t.Context(), &tsujiv1.GetSnapshotRequest{NamePrefix: "route/", PageToken: a.GetNextPageToken()})
	wantError(t, err, codes.InvalidArgument, "page_token", "other fields")
	forged := token{Question: question("GetSnapshot", "default", "", ""), Version: "1-x", After: []string{""}}.String()
	_, err = w.snapshots.GetSnapshot(t.Context(), &tsujiv1.GetSnapshotRequest{PageToken: forged})
	wantError(t, err, codes.InvalidArgument, "page_token")
}

func verdict(controller, namespace, name string, admitted bool) *tsujiv1.RouteVerdict {
	v := &tsujiv1.RouteVerdict{IngressController: controller, Namespace: namespace, Name: name, Admitted: admitted}
	if !admitted {
		v.Reason = "HostAlreadyClaimed"
	}
	return v
}

func (w *world) observe(controller string, removed []string, verdicts ...*tsujiv1.RouteVerdict) {
	r := compile.Result{Verdicts: verdicts}
	for _, name := range removed {
		r.Removed = append(r.Removed, cluster.Key{Kind: cluster.Route, Namespace: "ns", Name: name})
	}
	w.server.Observe(controller, r)
}

func routeNames(list []*tsujiv1.RouteVerdict) string {
	var all []string
	for _, v := range list {
		all = append(all, v.GetIngressController()+":"+v.GetNamespace()+"/"+v.GetName())
	}
	return strings.Join(all, " ")
}

// Verdicts are listed in order, filtered, and counted; a new verdict replaces the old, a removed Route is gone.
func TestRoutes(t *testing.T) {
	w := start(t, 2)
	w.observe("default", nil, verdict("default", "ns", "b", true), verdict("default", "ns", "a", false), verdict("default", "other", "a", true))
	w.observe("sharded", nil, verdict("sharded", "ns", "a", true))
	w.observe("default", []string{"b", "never-was"}, verdict("default", "ns", "c", false))
	w.observe("default", nil, verdict("default", "ns", "c", true))
	for _, c := range []struct {
		q    *tsujiv1.ListRoutesRequest
		want string
	}{
		{&tsujiv1.ListRoutesRequest{}, "default:ns/a default:ns/c default:other/a sharded:ns/a"},
		{&tsujiv1.ListRoutesRequest{IngressController: "sharded"}, "sharded:ns/a"},
		{&tsujiv1.ListRoutesRequest{Namespace: "ns"}, "default:ns/a default:ns/c sharded:ns/a"},
		{&tsujiv1.ListRoutesRequest{RefusedOnly: true}, "default:ns/a"},
		{&tsujiv1.ListRoutesRequest{Namespace: "none"}, ""},
	} {
		got, err := w.routes.ListRoutes(t.Context(), c.q)
		if err != nil || routeNames(got.GetRoutes()) != c.want {
			t.Errorf("%v: got %q %v, want %q", c.q, routeNames(got.GetRoutes()), err, c.want)
		}
	}
	_, err := w.routes.ListRoutes(t.Context(), &tsujiv1.ListRoutesRequest{Namespace: "a/b"})
	wantError(t, err, codes.InvalidArgument, "namespace", "a/b", "leave it empty")

	s, err := w.status.GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
	if err != nil || s.GetRoutesAdmitted() != 3 || s.GetRoutesRefused() != 1 {
		t.Errorf("status is %v %v, want 3 admitted, 1 refused", s, err)
	}
}

// Whoever walks through pages of Routes sees those once that were there all the time, though others come and go.
func TestRoutePagesUnderChanges(t *testing.T) {
	w := start(t, 2)
	for i := range 30 {
		w.observe("default", nil, verdict("default", "ns", fmt.Sprintf("r%02d", i), true))
	}
	q := &tsujiv1.ListRoutesRequest{PageSize: 7}
	var got []string
	for page := 0; ; page++ {
		a, err := w.routes.ListRoutes(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, routeNames(a.GetRoutes()))
		if q.PageToken = a.GetNextPageToken(); q.PageToken == "" {
			break
		}
		if page == 0 { // r06 was the last of the page: gone; before and after it, others come
			w.observe("default", []string{"r06", "r08"}, verdict("default", "ns", "r05x", true), verdict("default", "ns", "r09x", true))
		}
	}
	var want []string
	for i := range 30 {
		if i != 8 {
			want = append(want, fmt.Sprintf("default:ns/r%02d", i))
		}
		if i == 9 {
			want = append(want, "default:ns/r09x")
		}
	}
	if d := cmp.Diff(strings.Join(want, " "), strings.Join(got, " ")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A router is listed with what it should have; it is current when it acked the same content, whoever numbered it.
func TestRouters(t *testing.T) {
	w := start(t, 2)
	old := w.publish("default", 1, route("a", "a"))
	now := w.publish("default", 2, route("a", "b"))
	elsewhere := now
	elsewhere.Revision = 77
	for _, r := range []struct {
		zone  string
		acked snapshot.Version
	}{{"tok05", old}, {"tok04", elsewhere}} {
		m := w.fleet.Connect(fleet.Router{IngressController: "default", Zone: r.zone, Name: r.zone + "-1", Instance: "i"}, epoch)
		m.Sent(r.acked, 1, 100, true, epoch)
		m.Acked(r.acked, epoch)
	}
	w.fleet.Connect(fleet.Router{IngressController: "unknown", Zone: "tok04", Name: "lost", Instance: "i"}, epoch).Disconnected(epoch)

	list, err := w.routers.ListRouters(t.Context(), &tsujiv1.ListRoutersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range list.GetRouters() {
		got = append(got, fmt.Sprintf("%s acked %q target %q", r.GetName(), r.GetAckedVersion(), r.GetTargetVersion()))
	}
	want := []string{
		fmt.Sprintf("tok04-1 acked %q target %q", elsewhere, now),
		fmt.Sprintf("tok05-1 acked %q target %q", old, now),
		`lost acked "" target ""`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	list, err = w.routers.ListRouters(t.Context(), &tsujiv1.ListRoutersRequest{Zone: "tok05", IngressController: "default"})
	if err != nil || len(list.GetRouters()) != 1 {
		t.Errorf("zone tok05 has %v %v, want one router", list.GetRouters(), err)
	}
	_, err = w.routers.ListRouters(t.Context(), &tsujiv1.ListRoutersRequest{Zone: "tok 05"})
	wantError(t, err, codes.InvalidArgument, "zone")

	s, err := w.status.GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
	if err != nil || s.GetRoutersConnected() != 2 || s.GetRoutersCurrent() != 1 {
		t.Errorf("status is %v %v, want 2 connected, 1 current", s, err)
	}
}

// Status tells the source, its faults, and what is current of what is held.
func TestStatus(t *testing.T) {
	w := start(t, 5)
	before, err := w.status.GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
	if err != nil || before.GetSynced() {
		t.Errorf("before anything was read, status is %v %v, want not synced", before, err)
	}
	w.publish("default", 1, route("a", "a"))
	w.publish("default", 2, route("a", "b"))
	w.server.SetSynced()
	w.server.SetFaults([]cluster.Fault{{Place: "a.yaml", Line: 3, Message: "bad", Remedy: "mend it"}, {Place: "b.yaml"}})
	w.server.SetFaults([]cluster.Fault{{Place: "a.yaml", Line: 3, Message: "bad", Remedy: "mend it"}})
	got, err := w.status.GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.GetSnapshots()); n != 1 || !got.GetSnapshots()[0].GetCurrent() {
		t.Errorf("served are %v, want the current one", got.GetSnapshots())
	}
	got.Snapshots = nil
	want := &tsujiv1.GetStatusResponse{
		ControlplaneVersion: "v1", Source: "dir:test", Synced: true,
		Faults: []*tsujiv1.SourceFault{{Place: "a.yaml", Line: 3, Message: "bad", Remedy: "mend it"}},
	}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// What an operator is called for is in the metrics: faults, refused Routes, and routers that do not have what they should.
func TestMetrics(t *testing.T) {
	w := start(t, 5)
	expect := func(what, want string) {
		t.Helper()
		if err := testutil.CollectAndCompare(w.server, strings.NewReader(want)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	help := func(name, text string) string { return "# HELP " + name + " " + text + "\n# TYPE " + name + " gauge\n" }
	const routersHelp = "Routers that follow this replica, or did lately, by state: current, behind, refused (it refused a version, and has acked none since) or gone."
	const routesHelp = "Routes by verdict, those made of Ingresses included: admitted or refused."
	synced := help("tsuji_source_synced", "Whether the source was read whole; nothing is served before.")
	faults := help("tsuji_source_faults", "What is wrong in the source now, held drops of Routes included: tsuji status tells what to do.")
	const lastGoodHelp = "Admitted Routes that use a certificate or CA as it was last good: it has vanished, or is none."
	lastGood := help("tsuji_routes_last_good", lastGoodHelp)
	expect("at first", help("tsuji_routes", routesHelp)+"tsuji_routes{verdict=\"admitted\"} 0\ntsuji_routes{verdict=\"refused\"} 0\n"+
		lastGood+"tsuji_routes_last_good 0\n"+
		faults+"tsuji_source_faults 0\n"+synced+"tsuji_source_synced 0\n")

	old := w.publish("default", 1, route("a", "a"))
	now := w.publish("default", 2, route("a", "b"))
	for zone, acked := range map[string]snapshot.Version{"tok04": now, "tok05": old, "tok06": old} {
		m := w.fleet.Connect(fleet.Router{IngressController: "default", Zone: zone, Name: zone + "-1", Instance: "i"}, epoch)
		m.Acked(acked, epoch)
		if zone == "tok06" {
			m.Refused(&tsujiv1.Refusal{Version: now.String()}, epoch)
		}
	}
	w.fleet.Connect(fleet.Router{IngressController: "default", Zone: "tok04", Name: "tok04-2", Instance: "i"}, epoch).Disconnected(epoch)
	stale := verdict("default", "ns", "a", true)
	stale.LastGood = []*tsujiv1.LastGood{{Resource: "cert/ns/secret:t", Message: "there is no such Secret"}}
	w.observe("default", nil, stale, verdict("default", "ns", "b", false))
	w.server.SetFaults([]cluster.Fault{{Place: "a.yaml"}})
	w.server.SetSynced()
	routers := help("tsuji_routers", routersHelp)
	for _, zone := range []string{"tok04", "tok05", "tok06"} {
		for _, state := range []string{"behind", "current", "gone", "refused"} {
			n := 0
			switch zone + " " + state {
			case "tok04 current", "tok04 gone", "tok05 behind", "tok06 refused":
				n = 1
			}
			routers += fmt.Sprintf("tsuji_routers{ingress_controller=\"default\",state=%q,zone=%q} %d\n", state, zone, n)
		}
	}
	target, _, _ := w.board.Target(release.View{IngressController: "default"})
	target.Waiting = 7
	w.board.Publish("default", target, epoch)
	waits := help("tsuji_waiting_resources", "Resources that are not sent yet as they should be: a large change is under way in pieces.") +
		"tsuji_waiting_resources{ingress_controller=\"default\"} 7\n"
	expect("later", routers+help("tsuji_routes", routesHelp)+"tsuji_routes{verdict=\"admitted\"} 1\ntsuji_routes{verdict=\"refused\"} 1\n"+
		lastGood+"tsuji_routes_last_good 1\n"+faults+"tsuji_source_faults 1\n"+synced+"tsuji_source_synced 1\n"+waits)
}

// Questions and changes may come at once.
func TestConcurrency(t *testing.T) {
	w := start(t, 3)
	w.publish("default", 0, settings())
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range 50 {
				w.publish("default", uint64(i), settings(), route(fmt.Sprint(g), fmt.Sprint(i)), endpoints(fmt.Sprint(i)))
				w.observe("default", []string{fmt.Sprint(i)}, verdict("default", "ns", fmt.Sprint(i+1), i%2 == 0))
				w.server.SetFaults([]cluster.Fault{{Place: fmt.Sprint(i)}})
			}
		})
		all.Go(func() {
			for range 50 {
				_, err1 := w.routes.ListRoutes(t.Context(), &tsujiv1.ListRoutesRequest{})
				_, err2 := w.snapshots.GetSnapshot(t.Context(), &tsujiv1.GetSnapshotRequest{})
				_, err3 := w.status.GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
				if err1 != nil || err2 != nil || err3 != nil {
					t.Error(err1, err2, err3)
				}
			}
		})
	}
	all.Wait()
}

// A version that is a piece of a large change says how many resources are still to be sent, as long as it is the current
// one.
func TestPiecesAreTold(t *testing.T) {
	t.Parallel()
	w := start(t, 4)
	piece := w.publish("default", 1, settings(), route("a", "a.example.com"))
	target, _, _ := w.board.Target(release.View{IngressController: "default"})
	target.Waiting = 7
	w.board.Publish("default", target, epoch)
	waiting := func() (all []uint32) {
		t.Helper()
		list, err := w.snapshots.ListSnapshots(t.Context(), &tsujiv1.ListSnapshotsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range list.GetSnapshots() {
			all = append(all, v.GetWaiting())
		}
		return all
	}
	if got := waiting(); fmt.Sprint(got) != "[7]" {
		t.Errorf("of %s %v wait", piece.Short(), got)
	}
	w.publish("default", 2, settings(), route("a", "a.example.com"), route("b", "b.example.com"))
	if got := waiting(); fmt.Sprint(got) != "[0 0]" {
		t.Errorf("of two versions %v wait", got)
	}
}
