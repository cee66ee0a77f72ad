package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/tsuji-dev/tsuji/identity"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// watch asks the demo's control plane how far things are.
type watch struct {
	conn    *grpc.ClientConn
	version string // that all routers had when current last found nothing missing
}

func watchControlPlane(server string, operator identity.Files) (*watch, error) {
	c := connection{server: server, tls: operator, trustDomain: demoTrustDomain}
	conn, err := c.dial(grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 500 * time.Millisecond},
		MinConnectTimeout: time.Second,
	}))
	if err != nil {
		return nil, err
	}
	return &watch{conn: conn}, nil
}

func (w *watch) close() { w.conn.Close() }

// synced tells whether the control plane has read its source.
func (w *watch) synced(ctx context.Context) (missing string, err error) {
	s, err := tsujiv1.NewStatusServiceClient(w.conn).GetStatus(ctx, &tsujiv1.GetStatusRequest{})
	if err != nil {
		return "", fmt.Errorf("the control plane to answer: %w", err)
	}
	if !s.GetSynced() {
		return "the control plane to read " + s.GetSource(), nil
	}
	return "", nil
}

// current tells whether as many routers as wanted serve what they should.
func (w *watch) current(ctx context.Context, want int) (missing string, err error) {
	l, err := tsujiv1.NewFleetServiceClient(w.conn).ListRouters(ctx, &tsujiv1.ListRoutersRequest{})
	if err != nil {
		return "", fmt.Errorf("the control plane to list routers: %w", err)
	}
	current := 0
	for _, r := range l.GetRouters() {
		switch routerState(r) {
		case "current":
			current++
			w.version = r.GetAckedVersion()
		case "refused":
			missing = fmt.Sprintf(" (%s refused: %s)", r.GetName(), r.GetRefusal().GetMessage())
		}
	}
	if current >= want {
		return "", nil
	}
	return fmt.Sprintf("routers to serve the first version: %d of %d do%s", current, want, missing), nil
}
