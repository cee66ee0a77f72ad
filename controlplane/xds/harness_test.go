package xds_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/quarantine"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	"github.com/tsuji-dev/tsuji/controlplane/xds"
	"github.com/tsuji-dev/tsuji/identity"
	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

const domain = "test.local"

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// replica is a control plane as far as discovery goes, on a loopback port, with mutual TLS.
type replica struct {
	t       testing.TB
	board   *release.Board
	fleet   *fleet.Fleet
	server  *xds.Server
	grpc    *grpc.Server
	metrics *prometheus.Registry
	address string
	ca      *authority.Authority
	log     *syncBuilder

	published uint64 // the last revision
}

func newReplica(t testing.TB, change ...func(*xds.Config)) *replica {
	t.Helper()
	ca, err := authority.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{t: t, board: release.NewBoard(16), fleet: fleet.New(fleet.Config{}), ca: ca,
		log: &syncBuilder{}, metrics: prometheus.NewRegistry()}
	config := xds.Config{
		Board: r.board, Fleet: r.fleet, Quarantine: quarantine.New(), Log: slog.New(slog.NewTextHandler(r.log, nil)), Metrics: xds.NewMetrics(),
		Authenticate: fromCertificate,
	}
	for _, c := range change {
		c(&config)
	}
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	r.metrics.MustRegister(config.Metrics)
	r.server = xds.New(config)
	keeper := r.keeper(identity.ID{TrustDomain: domain, Role: identity.RoleControlPlane, Name: "cp"})
	r.grpc = grpc.NewServer(append(xds.ServerOptions(), grpc.Creds(credentials.NewTLS(keeper.ServerTLS(nil))))...)
	discovery.RegisterAggregatedDiscoveryServiceServer(r.grpc, r.server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- r.grpc.Serve(l) }()
	t.Cleanup(func() {
		r.server.Drain()
		r.grpc.GracefulStop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return r
}

// fromCertificate is what controlplane/access does.
func fromCertificate(ctx context.Context) (identity.ID, bool, error) {
	p, _ := peer.FromContext(ctx)
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return identity.ID{}, false, errors.New("no certificate")
	}
	id, err := identity.FromCertificate(info.State.PeerCertificates[0], domain)
	return id, true, err
}

func (r *replica) keeper(id identity.ID) *identity.Keeper {
	r.t.Helper()
	dir, err := os.MkdirTemp("", "tj")
	if err != nil {
		r.t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	files, err := r.ca.WriteFiles(dir, "peer", authority.Options{URI: id.String()})
	if err != nil {
		r.t.Fatal(err)
	}
	k, err := identity.Load(files, slog.New(slog.DiscardHandler))
	if err != nil {
		r.t.Fatal(err)
	}
	return k
}

// publish makes the next version, of resources given as "name=content", the target. Its revision counts
// from 1, and is what the stories call it by: v1.
func (r *replica) publish(resources ...string) snapshot.Snapshot {
	r.published++
	s := snapshotOf(r.published, resources...)
	r.board.Publish("default", release.Target{Snapshot: s, Observed: observed(r.published)}, time.Now())
	return s
}

func observed(revision uint64) *tsujiv1.Observed {
	return &tsujiv1.Observed{Epoch: "e", Kinds: []*tsujiv1.ObservedKind{{Kind: "Route", Revision: revision}}}
}

func snapshotOf(revision uint64, resources ...string) snapshot.Snapshot {
	var d snapshot.Delta
	for _, r := range resources {
		name, content, _ := strings.Cut(r, "=")
		d.Put = append(d.Put, snapshot.NewItem(name, []byte(content)))
	}
	return snapshot.Snapshot{}.Apply(revision, d)
}

// count returns the value of a counter, its labels as "label=value".
func (r *replica) count(name string, labels ...string) float64 {
	r.t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != "tsuji_xds_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			has := map[string]bool{}
			for _, l := range m.GetLabel() {
				has[l.GetName()+"="+l.GetValue()] = true
			}
			all := true
			for _, l := range labels {
				all = all && has[l]
			}
			if all {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came true that %s", what)
		}
	}
}

// router is a hand-driven router that writes down what it is sent.
type router struct {
	t      testing.TB
	client discovery.AggregatedDiscoveryServiceClient
	node   *corev3.Node
	stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	last   *discovery.DeltaDiscoveryResponse
	story  strings.Builder
}

func routerID(zone, name string) identity.ID {
	return identity.ID{TrustDomain: domain, Role: identity.RoleRouter, IngressController: "default", Zone: zone, Name: name}
}

// router returns a router with a certificate of its own, whose node agrees with it.
func (r *replica) router(zone, name string) *router {
	r.t.Helper()
	return r.peer(routerID(zone, name))
}

// peer returns whoever the identity says, with a node that agrees.
func (r *replica) peer(id identity.ID) *router { return r.peerAt(id, "127.0.0.1") }

// peerAt is peer for one that connects from another address of this machine.
func (r *replica) peerAt(id identity.ID, host string) *router {
	r.t.Helper()
	tls := r.keeper(id).ClientTLS(domain, func(identity.ID) error { return nil })
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(host)}}
	conn, err := grpc.NewClient(r.address, grpc.WithTransportCredentials(credentials.NewTLS(tls)),
		grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", to) }))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return &router{t: r.t, client: discovery.NewAggregatedDiscoveryServiceClient(conn), node: nodeOf(id)}
}

func nodeOf(id identity.ID) *corev3.Node {
	metadata, err := structpb.NewStruct(map[string]any{"instance": "i1", "routerd_version": "1.0", "haproxy_version": "3.4.7"})
	if err != nil {
		panic(err)
	}
	return &corev3.Node{
		Id: id.Name, Cluster: id.IngressController, Locality: &corev3.Locality{Zone: id.Zone}, Metadata: metadata,
	}
}

// open opens a stream.
func (c *router) open() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	c.t.Cleanup(cancel)
	var err error
	if c.stream, err = c.client.DeltaAggregatedResources(ctx); err != nil {
		c.t.Fatal(err)
	}
	c.last = nil
}

func (c *router) first() *discovery.DeltaDiscoveryRequest {
	return &discovery.DeltaDiscoveryRequest{Node: c.node, TypeUrl: tsujiv1.TypeURL, ResourceNamesSubscribe: []string{"*"}}
}

// connect opens a stream and says what is in force: "" for nothing.
func (c *router) connect(version string) {
	c.t.Helper()
	c.open()
	r := c.first()
	if version != "" {
		r.InitialResourceVersions = map[string]string{"commit": version}
	}
	c.send(r)
}

func (c *router) send(r *discovery.DeltaDiscoveryRequest) {
	c.t.Helper()
	if err := c.stream.Send(r); err != nil && !errors.Is(err, io.EOF) { // EOF: Recv tells why
		c.t.Fatal(err)
	}
}

// receive waits for a response and writes it down.
func (c *router) receive() *discovery.DeltaDiscoveryResponse {
	c.t.Helper()
	r, err := c.stream.Recv()
	if err != nil {
		c.t.Fatalf("%v\nso far:\n%s", err, c.story.String())
	}
	c.last = r
	fmt.Fprintf(&c.story, "< %s\n", describe(r))
	return r
}

func (c *router) ack() {
	c.t.Helper()
	c.story.WriteString("> ack\n")
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: tsujiv1.TypeURL, ResponseNonce: c.last.GetNonce()})
}

func (c *router) nack(class tsujiv1.RefusalClass, message string, resources ...string) {
	c.t.Helper()
	fmt.Fprintf(&c.story, "> nack %s\n", message)
	refusal := &tsujiv1.Refusal{Class: class, Message: message}
	for _, name := range resources {
		refusal.Resources = append(refusal.Resources, &tsujiv1.RefusedResource{Resource: name})
	}
	detail, err := anypb.New(refusal)
	if err != nil {
		c.t.Fatal(err)
	}
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: tsujiv1.TypeURL, ResponseNonce: c.last.GetNonce(),
		ErrorDetail: &status.Status{Code: int32(codes.InvalidArgument), Message: message, Details: []*anypb.Any{detail}}})
}

// end closes the stream as a router does that goes.
func (c *router) end() {
	c.t.Helper()
	c.story.WriteString("> end\n")
	if err := c.stream.CloseSend(); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.stream.Recv(); !errors.Is(err, io.EOF) {
		c.t.Fatalf("the stream ended with %v", err)
	}
}

// refused waits until the server has ended the stream, and returns why.
func (c *router) refused() *grpcstatus.Status {
	c.t.Helper()
	for {
		if _, err := c.stream.Recv(); err != nil {
			return grpcstatus.Convert(err)
		}
	}
}

func (c *router) told(want string) {
	c.t.Helper()
	if got := c.story.String(); strings.TrimSpace(got) != strings.TrimSpace(dedent(want)) {
		c.t.Errorf("got\n%s\nwant\n%s", got, dedent(want))
	}
}

func dedent(s string) string {
	return strings.ReplaceAll(strings.TrimSpace(s), "\n\t\t", "\n")
}

// describe writes a response as "+name -name commit v2 base v1".
func describe(r *discovery.DeltaDiscoveryResponse) string {
	var words []string
	commit := ""
	for _, res := range r.GetResources() {
		if res.GetName() != tsujiv1.CommitName {
			words = append(words, "+"+res.GetName())
			continue
		}
		c, err := decodeCommit(res)
		if err != nil {
			return err.Error()
		}
		commit = fmt.Sprintf("commit %s of %d base %s", short(c.GetVersion()), c.GetResources(), short(c.GetBase()))
		if res.GetVersion() != c.GetVersion() || r.GetSystemVersionInfo() != c.GetVersion() {
			return "the response names different versions"
		}
	}
	for _, name := range r.GetRemovedResources() {
		words = append(words, "-"+name)
	}
	if commit == "" {
		commit = "more"
	}
	return strings.Join(append(words, commit), " ")
}

func decodeCommit(res *discovery.Resource) (*tsujiv1.Commit, error) {
	m := &tsujiv1.Resource{}
	if err := res.GetResource().UnmarshalTo(m); err != nil {
		return nil, err
	}
	return m.GetCommit(), nil
}

func short(version string) string {
	revision, _, _ := strings.Cut(version, "-")
	if revision == "" {
		return "nothing"
	}
	return "v" + revision
}

// state writes what the fleet knows of the routers.
func (r *replica) state() string {
	var b strings.Builder
	for _, m := range r.fleet.List(time.Now()) {
		fmt.Fprintf(&b, "%s/%s connected=%t sent=%s acked=%s resources=%d", m.GetZone(), m.GetName(), m.GetConnected(),
			short(m.GetSentVersion()), short(m.GetAckedVersion()), m.GetResourcesSent())
		if m.GetRefusal() != nil {
			fmt.Fprintf(&b, " refused=%s (%s)", short(m.GetRefusal().GetVersion()), m.GetRefusal().GetMessage())
		}
		b.WriteString("\n")
	}
	return b.String()
}

func (r *replica) becomes(want string) {
	r.t.Helper()
	end := time.Now().Add(patience)
	for r.state() != want {
		if time.Now().After(end) {
			r.t.Fatalf("the fleet is\n%swant\n%s", r.state(), want)
		}
		time.Sleep(time.Millisecond)
	}
}

// syncBuilder is a strings.Builder for a log that is written from several goroutines.
type syncBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuilder) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
