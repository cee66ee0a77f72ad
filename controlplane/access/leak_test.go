package access_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/tsuji-dev/tsuji/identity"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// contexts keeps the contexts of all calls that a server handles.
type contexts struct {
	stats.Handler
	mu  sync.Mutex
	all []context.Context // guarded by mu
}

func (c *contexts) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, ctx)
	return ctx
}

func (*contexts) HandleRPC(context.Context, stats.RPCStats)                         {}
func (*contexts) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*contexts) HandleConn(context.Context, stats.ConnStats)                       {}

// A call that is refused ends when it is over, however long its caller would have waited: gRPC does not end those that it
// never handles, and a peer could leave as many as it likes.
func TestRefusedCallsEnd(t *testing.T) {
	t.Parallel()
	calls := &contexts{}
	w := newWorld(t, false, grpc.StatsHandler(calls))
	tls := w.keeper(t, "spiffe://"+domain+"/ingress/default/zone/tok04").ClientTLS(domain, func(identity.ID) error { return nil })
	conn, err := grpc.NewClient(w.address, grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 1000*time.Hour)
	defer cancel()
	if _, err := tsujiv1.NewStatusServiceClient(conn).GetStatus(ctx, &tsujiv1.GetStatusRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a router's question for the status: %v", err)
	}
	calls.mu.Lock()
	defer calls.mu.Unlock()
	if len(calls.all) != 1 {
		t.Fatalf("%d calls were handled", len(calls.all))
	}
	select {
	case <-calls.all[0].Done():
	case <-time.After(time.Minute):
		t.Error("the call has not ended")
	}
}
