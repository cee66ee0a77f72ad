package fleet_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tsuji-dev/tsuji/identity"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// manner is how a router behaves.
type manner int

const (
	ordinary  manner = iota
	slow             // takes slowness for each response
	nacking          // refuses each third version, for a reason of its own
	flapping         // connects anew after each fifth version
	manners          // how many there are
	slowness  = 200 * time.Millisecond
	mannerOf  = 25 // one router of so many has another manner than ordinary
	verifying = 50 // one router of so many verifies digests
)

// router is a light one. Its one goroutine owns all that has no other owner; gRPC has a few more for its connection.
type router struct {
	fleet  *fleet
	id     identity.ID
	host   string // where it connects from: an address of its own, as it is a host of its own
	tls    *tls.Config
	manner manner
	verify bool

	version  string            // in force; empty: nothing
	observed uint64            // what that has seen
	held     snapshot.Snapshot // what it has, if it verifies
	staged   snapshot.Delta    // of a version that is not whole, if it verifies
	versions map[string]string // of each resource, if it verifies what LinearCache sends
	commits  int

	// Guarded by the fleet's mu.
	revision uint64 // what is in force has seen
	gotten   []got
}

// got is a version that a router got.
type got struct {
	revision        uint64
	received, acked time.Time
}

// fleet is all routers.
type fleet struct {
	kind    string
	routers []*router

	began   context.Context //nolint:containedctx // ends with the connections of all; owner: who starts and stops the fleet
	end     context.CancelFunc
	running sync.WaitGroup

	mu        sync.Mutex
	address   string         // guarded by mu; of the server
	settling  bool           // guarded by mu; nobody misbehaves any more
	everyone  bool           // guarded by mu; those who misbehave are waited for too
	goal      uint64         // guarded by mu; the revision that is waited for
	left      int            // guarded by mu; how many have not reached it
	reached   chan struct{}  // guarded by mu; closed when none is left
	resources int            // guarded by mu; received, commits not counted
	bytes     int            // guarded by mu; received
	responses int            // guarded by mu; received
	faults    []error        // guarded by mu; what may not be
	known     []byte         // guarded by mu; what one who connects again has, encoded, for LinearCache; nil: nothing
	ended     map[string]int // guarded by mu; streams, by why
}

// launch starts routers that have nothing, and connect to an address.
func (w *plant) launch(kind, address string) *fleet {
	f := &fleet{kind: kind, address: address, ended: map[string]int{}}
	for i, config := range w.clients {
		r := &router{fleet: f, id: routerID(i), host: fmt.Sprintf("127.%d.%d.%d", 1+i>>16, i>>8&255, i&255), tls: config,
			verify: i%verifying == 0}
		if r.host == "127.1.0.0" { // no host's address
			r.host = "127.0.0.2"
		}
		if i%mannerOf == mannerOf/2 {
			r.manner = manner(1 + i/mannerOf%int(manners-1))
		}
		f.routers = append(f.routers, r)
	}
	f.start()
	w.t.Cleanup(f.stop)
	return f
}

// start has all routers connect, with what they have.
func (f *fleet) start() {
	f.began, f.end = context.WithCancel(context.Background())
	for _, r := range f.routers {
		f.running.Go(r.run)
	}
}

// stop ends all connections, and waits for that.
func (f *fleet) stop() {
	f.end()
	f.running.Wait()
}

func routerID(i int) identity.ID {
	return identity.ID{
		TrustDomain: trustDomain, Role: identity.RoleRouter, IngressController: "default", Zone: fmt.Sprintf("zone-%d", i%4),
		Name: fmt.Sprintf("router-%d", i),
	}
}

// run connects again and again.
func (r *router) run() {
	for wait := 20 * time.Millisecond; r.fleet.began.Err() == nil; wait = min(2*wait, time.Second) {
		before := r.commits
		err := r.connect()
		if err == nil || r.commits > before {
			wait = 20 * time.Millisecond
		}
		r.fleet.mu.Lock()
		r.fleet.ended[grpcText(err)]++
		r.fleet.mu.Unlock()
		if err == nil {
			continue // of its own will
		}
		select {
		case <-r.fleet.began.Done():
		case <-time.After(rand.N(wait)):
		}
	}
}

func grpcText(err error) string {
	if err == nil {
		return "its own will"
	}
	return err.Error()
}

var errFlapping = errors.New("flapping")

// connect follows one stream, of a connection of its own, until it ends.
func (r *router) connect() error {
	r.fleet.mu.Lock()
	address := r.fleet.address
	r.fleet.mu.Unlock()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(r.host)}}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(r.tls)),
		grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", to) }),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(1<<10),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(256<<20)))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(r.fleet.began)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		discovery.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName)
	if err != nil {
		return err
	}
	hello, err := r.hello()
	if err != nil {
		return err
	}
	if err := stream.SendMsg(hello); err != nil {
		return err
	}
	r.staged = snapshot.Delta{}
	in := response{whole: r.verify}
	for {
		if err := stream.RecvMsg(&in); err != nil {
			return err
		}
		if err := r.take(ctx, stream, &in); errors.Is(err, errFlapping) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// hello is a stream's first request, as routerd's, or as LinearCache wants it.
func (r *router) hello() ([]byte, error) {
	metadata := map[string]any{"instance": r.id.Name, "routerd_version": "fleet", "haproxy_version": "3.4.7"}
	q := &discovery.DeltaDiscoveryRequest{
		Node:    &corev3.Node{Id: r.id.Name, Cluster: r.id.IngressController, Locality: &corev3.Locality{Zone: r.id.Zone}},
		TypeUrl: tsujiv1.TypeURL, ResourceNamesSubscribe: []string{"*"},
	}
	if r.version != "" && r.fleet.kind == kindTsuji {
		q.InitialResourceVersions = map[string]string{tsujiv1.CommitName: r.version}
		metadata["observed"] = map[string]any{"epoch": "synthetic", "kinds": map[string]any{observedKind: fmt.Sprint(r.observed)}}
	}
	var err error
	if q.Node.Metadata, err = structpb.NewStruct(metadata); err != nil {
		return nil, err
	}
	b, err := proto.Marshal(q)
	r.fleet.mu.Lock()
	defer r.fleet.mu.Unlock()
	return append(b, r.fleet.known...), err
}

// take takes a response: notes it, and answers it.
func (r *router) take(ctx context.Context, stream grpc.ClientStream, in *response) error {
	received := time.Now()
	r.fleet.mu.Lock()
	settling := r.fleet.settling
	r.fleet.resources += in.resources
	r.fleet.bytes += in.bytes
	r.fleet.responses++
	r.fleet.mu.Unlock()
	answer := &discovery.DeltaDiscoveryRequest{TypeUrl: tsujiv1.TypeURL, ResponseNonce: in.nonce}
	if r.manner == slow && !settling {
		select {
		case <-time.After(slowness):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if in.commit != nil {
		r.commits++
	}
	refuses := in.commit != nil && r.manner == nacking && !settling && r.commits%3 == 0
	if refuses {
		detail, err := anypb.New(&tsujiv1.Refusal{Class: tsujiv1.RefusalClass_REFUSAL_CLASS_LOCAL, Message: "no memory"})
		if err != nil {
			return err
		}
		answer.ErrorDetail = &rpcstatus.Status{Code: int32(codes.Unavailable), Message: "no memory", Details: []*anypb.Any{detail}}
	}
	if r.verify {
		if err := r.stage(in, refuses); err != nil {
			r.fleet.fault(fmt.Errorf("%s: %w", r.id.Name, err))
		}
	}
	b, err := proto.Marshal(answer)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(b); err != nil {
		return err
	}
	if in.commit == nil || refuses {
		return nil
	}
	r.version, r.observed = in.commit.GetVersion(), revisionOf(in.commit)
	r.note(got{r.observed, received, time.Now()})
	if r.manner == flapping && !settling && r.commits%5 == 0 {
		return errFlapping
	}
	return nil
}

func revisionOf(c *tsujiv1.Commit) uint64 {
	for _, k := range c.GetObserved().GetKinds() {
		if k.GetKind() == observedKind {
			return k.GetRevision()
		}
	}
	return 0
}

// stage takes over what a response has, and at a commit compares what is there then with what the commit says.
func (r *router) stage(in *response, refuses bool) error {
	if r.fleet.kind == kindLinear {
		if r.versions == nil {
			r.versions = map[string]string{}
		}
		for _, x := range in.decoded.GetResources() {
			r.versions[x.GetName()] = x.GetVersion()
		}
		for _, name := range in.decoded.GetRemovedResources() {
			delete(r.versions, name)
		}
		return nil
	}
	for _, x := range in.decoded.GetResources() {
		if x.GetName() != tsujiv1.CommitName {
			r.staged.Put = append(r.staged.Put, snapshot.NewItem(x.GetName(), x.GetResource().GetValue()))
		}
	}
	r.staged.Removed = append(r.staged.Removed, in.decoded.GetRemovedResources()...)
	if in.commit == nil {
		return nil
	}
	base, staged := r.held, r.staged
	r.staged = snapshot.Delta{}
	if in.commit.GetBase() == "" {
		base = snapshot.Snapshot{}
	} else if in.commit.GetBase() != r.version {
		return fmt.Errorf("a difference to %s, not to what is in force, %s", in.commit.GetBase(), r.version)
	}
	next := base.Apply(0, staged)
	v := next.Version()
	if string(v.Config[:]) != string(in.commit.GetConfigDigest()) || string(v.Facts[:]) != string(in.commit.GetFactsDigest()) {
		return fmt.Errorf("what was sent does not make %s", in.commit.GetVersion())
	}
	if !refuses {
		r.held = next
	}
	return nil
}

// note notes a version that is in force.
func (r *router) note(g got) {
	f := r.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	r.gotten = append(r.gotten, g)
	if f.waitedFor(r) && r.revision < f.goal && g.revision >= f.goal {
		if f.left--; f.left == 0 {
			close(f.reached)
		}
	}
	r.revision = max(r.revision, g.revision)
}

// waitedFor tells whether a router counts. The caller holds mu.
func (f *fleet) waitedFor(r *router) bool { return f.everyone || r.manner == ordinary }

// reach returns a channel that is closed when all have a revision.
func (f *fleet) reach(revision uint64) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.goal, f.left, f.reached = revision, 0, make(chan struct{})
	for _, r := range f.routers {
		if f.waitedFor(r) && r.revision < revision {
			f.left++
		}
	}
	if f.left == 0 {
		close(f.reached)
	}
	return f.reached
}

func (f *fleet) fault(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, err)
}
