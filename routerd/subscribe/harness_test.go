package subscribe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/anypb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

// secret is in every certificate of these tests, and may be in no log line.
const secret = "MIIEsecretKEYmaterial"

// peer is the server's side of one stream, as a test sees it.
type peer struct {
	requests chan *discovery.DeltaDiscoveryRequest // closed when the router has ended the stream
	send     chan *discovery.DeltaDiscoveryResponse
	end      chan error
	over     chan struct{} // closed when the stream has ended
}

// server is a control plane that does what a test says.
type server struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	peers chan *peer
}

func (s *server) DeltaAggregatedResources(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	p := &peer{
		requests: make(chan *discovery.DeltaDiscoveryRequest, 100), send: make(chan *discovery.DeltaDiscoveryResponse),
		end: make(chan error), over: make(chan struct{}),
	}
	defer close(p.over)
	go func() {
		defer close(p.requests)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			p.requests <- r
		}
	}()
	select {
	case s.peers <- p:
	case <-stream.Context().Done():
		return nil
	}
	for {
		select {
		case r := <-p.send:
			if err := stream.Send(r); err != nil {
				return err
			}
		case err := <-p.end:
			return err
		case <-stream.Context().Done():
			return nil
		}
	}
}

// applier puts everything into force at once, unless a test says otherwise.
type applier struct {
	mu      sync.Mutex
	held    snapshot.Snapshot
	ok      bool
	refusal *tsujiv1.Refusal
	calls   []string
	gate    chan struct{} // not nil: Apply waits until it is closed
	begun   chan struct{} // of each Apply
}

func (a *applier) InForce() (snapshot.Snapshot, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.held, a.ok
}

func (a *applier) Apply(ctx context.Context, next snapshot.Snapshot, d snapshot.Delta) *tsujiv1.Refusal {
	a.mu.Lock()
	gate := a.gate
	a.mu.Unlock()
	a.begun <- struct{}{}
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return &tsujiv1.Refusal{Message: "interrupted"}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var changes []string
	for _, i := range d.Put {
		changes = append(changes, "+"+i.Name())
	}
	for _, n := range d.Removed {
		changes = append(changes, "-"+n)
	}
	a.calls = append(a.calls, fmt.Sprintf("apply %d: %s", next.Version().Revision, strings.Join(changes, " ")))
	if got := a.held.Apply(next.Version().Revision, d); got.Version() != next.Version() {
		a.calls = append(a.calls, "the difference does not lead there")
	}
	if a.refusal != nil {
		return a.refusal
	}
	a.held, a.ok = next, true
	return nil
}

// world is a client, its applier, and the server it follows.
type world struct {
	t       testing.TB
	applier *applier
	client  *Client
	server  *server
	log     *logbook
	stop    func()
}

type logbook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve starts a server and returns how it is dialled.
func serve(t testing.TB, s *server) grpc.DialOption {
	l := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(g, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(l)
	}()
	t.Cleanup(func() {
		g.Stop()
		<-done
	})
	return grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) })
}

func newWorld(t testing.TB, change ...func(*Config)) *world {
	w := &world{t: t, applier: &applier{begun: make(chan struct{}, 100)}, server: &server{peers: make(chan *peer)}, log: &logbook{}}
	c := Config{
		Servers: []string{"passthrough:///a"},
		Dial:    []grpc.DialOption{serve(t, w.server), grpc.WithTransportCredentials(insecure.NewCredentials())},
		Name:    "r1", Instance: "i1", IngressController: "default", Zone: "tok04", RouterdVersion: "v1", HAProxyVersion: "3.4.7",
		Applier: w.applier, Features: []string{"known"},
		Log:        slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		BackoffMin: time.Millisecond, BackoffMax: 2 * time.Millisecond,
	}
	for _, f := range change {
		f(&c)
	}
	w.client = New(c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.client.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
		if strings.Contains(w.log.String(), secret) {
			t.Errorf("the log shows a key:\n%s", w.log)
		}
	})
	t.Cleanup(w.stop)
	return w
}

func within[T any](w *world, what string, c <-chan T) T {
	w.t.Helper()
	select {
	case v, ok := <-c:
		if !ok {
			w.t.Fatalf("%s: the stream has ended\n%s", what, w.log)
		}
		return v
	case <-time.After(patience):
		w.t.Fatalf("never: %s\n%s", what, w.log)
		panic("not reached")
	}
}

func (w *world) eventually(what string, cond func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("never: %s\n%s", what, w.log)
		}
	}
}

// resource makes an item of a name and a word: a host for a route, an address for endpoints. A word that ends
// in !FEATURE requires the feature.
func resource(t testing.TB, name, word string) snapshot.Item {
	r := &tsujiv1.Resource{Name: name}
	if w, feature, ok := strings.Cut(word, "!"); ok {
		word, r.RequiredFeatures = w, []string{feature}
	}
	switch {
	case name == tsujiv1.SettingsName:
		r.Kind = &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{IngressController: word}}
	case strings.HasPrefix(name, "route/"):
		r.Kind = &tsujiv1.Resource_Route{Route: &tsujiv1.Route{Host: word}}
	case strings.HasPrefix(name, "endpoints/"):
		r.Kind = &tsujiv1.Resource_Endpoints{Endpoints: &tsujiv1.Endpoints{Endpoints: []*tsujiv1.Endpoint{{Address: word}}}}
	case strings.HasPrefix(name, "cert/"):
		r.Kind = &tsujiv1.Resource_Certificate{Certificate: &tsujiv1.Certificate{PrivateKey: &tsujiv1.PrivateKey{Pem: []byte(secret + word)}}}
	}
	item, err := tsujiv1.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	if word == "garbage" {
		item = snapshot.NewItem(name, []byte(secret))
	}
	return item
}

func wire(name, version string, encoded []byte) *discovery.Resource {
	return &discovery.Resource{Name: name, Version: version, Resource: &anypb.Any{TypeUrl: tsujiv1.TypeURL, Value: encoded}}
}

// parts returns the responses that lead from one version to another, as a control plane would cut them into n.
// With whole set, they do so from nothing.
func parts(t testing.TB, whole bool, from, to snapshot.Snapshot, n int) []*discovery.DeltaDiscoveryResponse {
	base := from.Version().String()
	if whole {
		from, base = snapshot.Snapshot{}, ""
	}
	d := snapshot.Diff(from, to)
	rs := make([]*discovery.DeltaDiscoveryResponse, n)
	for i := range rs {
		rs[i] = &discovery.DeltaDiscoveryResponse{TypeUrl: tsujiv1.TypeURL, SystemVersionInfo: to.Version().String()}
	}
	for i, item := range d.Put {
		r := rs[i*n/len(d.Put)]
		r.Resources = append(r.Resources, wire(item.Name(), item.Digest().String(), item.Encoded()))
	}
	rs[0].RemovedResources = d.Removed
	v := to.Version()
	setCommit(t, rs[n-1], &tsujiv1.Commit{
		Version: v.String(), Base: base, Resources: uint32(to.Len()), ConfigDigest: v.Config[:], FactsDigest: v.Facts[:],
		Observed: &tsujiv1.Observed{Epoch: "e", Kinds: []*tsujiv1.ObservedKind{{Kind: "Route", Revision: 1<<63 + v.Revision}}},
	})
	return rs
}

func setCommit(t testing.TB, r *discovery.DeltaDiscoveryResponse, c *tsujiv1.Commit) {
	item, err := tsujiv1.Encode(&tsujiv1.Resource{Name: tsujiv1.CommitName, Kind: &tsujiv1.Resource_Commit{Commit: c}})
	if err != nil {
		t.Fatal(err)
	}
	r.Resources = slices.DeleteFunc(r.Resources, func(r *discovery.Resource) bool { return r.GetName() == tsujiv1.CommitName })
	r.Resources = append(r.Resources, wire(tsujiv1.CommitName, c.GetVersion(), item.Encoded()))
}

func commitOf(t testing.TB, r *discovery.DeltaDiscoveryResponse) *tsujiv1.Commit {
	for _, res := range r.GetResources() {
		if res.GetName() == tsujiv1.CommitName {
			got, err := tsujiv1.Decode(snapshot.NewItem(res.GetName(), res.GetResource().GetValue()))
			if err != nil {
				t.Fatal(err)
			}
			return got.GetCommit()
		}
	}
	t.Fatal(errors.New("no commit"))
	return nil
}
