package subscribe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// The end of the process interrupts what is being applied, says nothing of it to the server, and leaves no
// goroutine behind.
func TestStopWhileApplying(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.applier.mu.Lock()
	w.applier.gate = make(chan struct{}) // never opened
	w.applier.mu.Unlock()
	p := within(w, "a stream", w.server.peers)
	within(w, "the first request", p.requests)
	r := parts(t, true, snapshot.Snapshot{}, snapshot.Snapshot{}.Apply(1, snapshot.Delta{Put: []snapshot.Item{resource(t, "settings", "s")}}), 1)[0]
	r.Nonce = "a"
	p.send <- r
	within(w, "Apply", w.applier.begun)
	w.stop()
	for r := range p.requests {
		t.Errorf("an answer after the end: %v", r)
	}
	if s := w.client.Status(); s.Connected || s.Refusal != nil || !s.Version.IsZero() {
		t.Errorf("status %+v", s)
	}
}

// An empty version is put into force too: nothing in force is something else.
func TestEmptyVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := within(w, "a stream", w.server.peers)
	within(w, "the first request", p.requests)
	r := parts(t, true, snapshot.Snapshot{}, snapshot.Snapshot{}, 1)[0]
	r.Nonce = "a"
	p.send <- r
	if got := within(w, "an answer", p.requests); got.GetResponseNonce() != "a" || got.GetErrorDetail() != nil {
		t.Errorf("answered %v", got)
	}
	if _, ok := w.applier.InForce(); !ok {
		t.Error("nothing is in force")
	}
}

// Servers are used in turn, each failure is waited for longer, and what goes wrong can be seen.
func TestServersInTurn(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var tried []string // of each attempt; gRPC may dial more than once for one
	w := newWorld(t, func(c *Config) {
		c.Servers = []string{"passthrough:///a", "passthrough:///b", "passthrough:///c"}
		c.Dial = []grpc.DialOption{
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody is there") }),
			grpc.WithChainStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, conn *grpc.ClientConn, method string, next grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
				mu.Lock()
				tried = append(tried, strings.TrimPrefix(conn.Target(), "passthrough:///"))
				mu.Unlock()
				return next(ctx, d, conn, method, o...)
			}),
		}
	})
	w.eventually("seven attempts", func() bool { return w.client.Status().Failures >= 7 })
	w.stop()
	mu.Lock()
	defer mu.Unlock()
	order := []string{"a", "b", "c"}
	at := slices.Index(order, tried[0])
	for i, got := range tried[:7] {
		if want := order[(at+i)%3]; got != want {
			t.Fatalf("tried %v", tried)
		}
	}
	if s := w.client.Status(); !strings.Contains(s.Error, "nobody is there") || s.Connected {
		t.Errorf("status %+v", s)
	}
}

// Waits are a random part of a time that doubles up to its bound, however often it fails.
func TestPause(t *testing.T) {
	t.Parallel()
	c := New(Config{})
	for share, want := range map[float64][]time.Duration{
		1:   {500 * time.Millisecond, time.Second, 2 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second},
		0.5: {250 * time.Millisecond, 500 * time.Millisecond, time.Second, 8 * time.Second, 15 * time.Second, 15 * time.Second},
		0:   {0, 0, 0, 0, 0, 0},
	} {
		c.random = func() float64 { return share }
		for i, failures := range []int{0, 1, 2, 5, 6, 1 << 40} {
			if got := c.pause(failures); got != want[i] {
				t.Errorf("after %d failures %v, want %v", failures, got, want[i])
			}
		}
	}
}

// Failures in a row are forgotten once a version was received.
func TestFailuresAreForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 3 {
		p := within(w, "a stream", w.server.peers)
		p.end <- status.Error(codes.Unavailable, "not now")
	}
	w.eventually("three failures", func() bool { return w.client.Status().Failures == 3 })
	p := within(w, "a stream", w.server.peers)
	within(w, "the first request", p.requests)
	r := parts(t, true, snapshot.Snapshot{}, snapshot.Snapshot{}, 1)[0]
	r.Nonce = "a"
	p.send <- r
	within(w, "an answer", p.requests)
	p.end <- status.Error(codes.Unavailable, "not now")
	within(w, "a stream", w.server.peers)
	if got := w.client.Status(); got.Failures != 1 || !strings.Contains(got.Error, "not now") {
		t.Errorf("status %+v", got)
	}
	if got := testutil.ToFloat64(w.client.metrics.Streams); got < 5 {
		t.Errorf("%v streams counted", got)
	}
}

// A resource larger than gRPC's default limit gets through.
func TestLargeResource(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := within(w, "a stream", w.server.peers)
	within(w, "the first request", p.requests)
	large := resource(t, "route/shop/web", strings.Repeat("x", 6<<20))
	r := parts(t, true, snapshot.Snapshot{}, snapshot.Snapshot{}.Apply(1, snapshot.Delta{Put: []snapshot.Item{large}}), 1)[0]
	r.Nonce = "a"
	p.send <- r
	if got := within(w, "an answer", p.requests); got.GetErrorDetail() != nil {
		t.Errorf("answered %v", got)
	}
}

// bare is a session without a stream: what it would send stays queued.
func bare(t testing.TB, limit int) (*session, *applier) {
	a := &applier{begun: make(chan struct{}, 1<<20)}
	c := New(Config{Applier: a, Log: quiet(), StagingLimit: limit, Features: []string{"known"}})
	return newSession(c, "test", false), a
}

// A version that outgrows the limit is not staged any further.
func TestStagingLimit(t *testing.T) {
	t.Parallel()
	s, _ := bare(t, 10_000)
	var err error
	for i := 0; err == nil && i < 1000; i++ {
		item := resource(t, fmt.Sprint("route/shop/r", i), "x")
		err = s.take(&discovery.DeltaDiscoveryResponse{
			TypeUrl: tsujiv1.TypeURL, Nonce: "n", Resources: []*discovery.Resource{wire(item.Name(), item.Digest().String(), item.Encoded())},
			RemovedResources: []string{fmt.Sprint("route/shop/old", i)},
		})
		if err == nil {
			<-s.requests
		}
	}
	if err == nil || !strings.Contains(err.Error(), "10000 bytes") || s.staged.bytes > 10_500 {
		t.Errorf("%v, with %d bytes staged", err, s.staged.bytes)
	}
}

// A server that sends and reads nothing loses its stream before answers pile up.
func TestServerThatReadsNothing(t *testing.T) {
	t.Parallel()
	s, _ := bare(t, 0)
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		err = s.take(&discovery.DeltaDiscoveryResponse{TypeUrl: tsujiv1.TypeURL, Nonce: "n"})
	}
	if !errors.Is(err, errDeaf) || n > unanswered+1 {
		t.Errorf("%v after %d", err, n)
	}
}

// A refusal can always be sent, however long and in whatever bytes HAProxy complained, and the applier's own is
// left as it was.
func TestRefusalIsBounded(t *testing.T) {
	t.Parallel()
	r := &tsujiv1.Refusal{Message: strings.Repeat("ü", 1999) + "\xff"}
	for i := range 1000 {
		r.Resources = append(r.Resources, &tsujiv1.RefusedResource{
			Resource: fmt.Sprint("route/", strings.Repeat("a", 340), "/", i), Message: "\xff\xfe" + strings.Repeat("x", 5000),
			Digest: make([]byte, 32), InForceDigest: make([]byte, 32),
		})
	}
	got := answer("n", bounded(r, snapshot.Version{Revision: 1}))
	b, err := proto.Marshal(got)
	// With what is in force it is below what a control plane takes, which is 384 KiB.
	if err != nil || len(b)+maxInForce > 300<<10 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	var sent tsujiv1.Refusal
	if err := got.GetErrorDetail().GetDetails()[0].UnmarshalTo(&sent); err != nil || len(sent.GetResources()) != maxRefused {
		t.Errorf("%d resources, %v", len(sent.GetResources()), err)
	}
	if len(r.GetResources()) != 1000 || r.GetVersion() != "" {
		t.Error("the applier's refusal was changed")
	}
}

// A configuration is checked whole, before anything is begun.
func TestValidate(t *testing.T) {
	t.Parallel()
	err := New(Config{BackoffMin: -1}).Run(context.Background())
	for _, want := range []string{"servers", "a name", "an ingress controller", "a zone", "an applier", "a logger", "negative"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if a, b := New(Config{}), New(Config{}); a.conf.Instance == b.conf.Instance || a.conf.Instance == "" {
		t.Error("two processes have one instance")
	}
}
