package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/tsuji-dev/tsuji/cmd/tsuji/internal/demo"
	"github.com/tsuji-dev/tsuji/identity"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// watch asks the demo's control plane how far things are.
type watch struct {
	conn *grpc.ClientConn
}

func watchControlPlane(server string, operator identity.Files) (demo.ControlPlane, error) {
	c := connection{server: server, tls: operator, trustDomain: demo.TrustDomain}
	conn, err := c.dial(grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 500 * time.Millisecond},
		MinConnectTimeout: time.Second,
	}))
	if err != nil {
		return nil, err
	}
	return &watch{conn: conn}, nil
}

// Close implements demo.ControlPlane.
func (w *watch) Close() { w.conn.Close() }

// Synced implements demo.ControlPlane.
func (w *watch) Synced(ctx context.Context) (missing string, err error) {
	s, err := tsujiv1.NewStatusServiceClient(w.conn).GetStatus(ctx, &tsujiv1.GetStatusRequest{})
	if err != nil {
		return "", fmt.Errorf("the control plane to answer: %w", err)
	}
	if !s.GetSynced() {
		return "the control plane to read " + s.GetSource(), nil
	}
	return "", nil
}

// Serving implements demo.ControlPlane.
func (w *watch) Serving(ctx context.Context, routers int) (version, missing string, err error) {
	l, err := tsujiv1.NewFleetServiceClient(w.conn).ListRouters(ctx, &tsujiv1.ListRoutersRequest{})
	if err != nil {
		return "", "", fmt.Errorf("the control plane to list routers: %w", err)
	}
	current := 0
	for _, r := range l.GetRouters() {
		switch routerState(r) {
		case "current":
			current++
			version = short(r.GetAckedVersion())
		case "refused":
			missing = fmt.Sprintf(" (%s refused: %s)", r.GetName(), r.GetRefusal().GetMessage())
		}
	}
	if current >= routers {
		return version, "", nil
	}
	return "", fmt.Sprintf("routers to serve the first version: %d of %d do%s", current, routers, missing), nil
}
