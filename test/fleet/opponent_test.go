package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/xds"
	"github.com/tsuji-dev/tsuji/identity"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// batching is the least time between two updates of the cache: what the control plane has between two compilations.
const batching = 25 * time.Millisecond

// runLinear serves what the control plane's compiler makes by go-control-plane's own LinearCache and server.
//
// Of its caches this is the one for such work: a set of resources of any type for all, with one update for a change.
// SnapshotCache has a fixed list of Envoy's types, and a snapshot for each node, whose resources it all goes through for
// each change.
func (c serverConfig) runLinear(ctx context.Context, s *source, log *slog.Logger) error {
	lc := cache.NewLinearCache(tsujiv1.TypeURL)
	g, ctx := errgroup.WithContext(ctx)
	f := feed{source: s, cache: lc, compiler: compile.New(compile.Config{})}
	if err := f.take(); err != nil { // before anybody can connect
		return err
	}
	g.Go(func() error { return f.run(ctx) })
	g.Go(func() error { return c.runGRPC(ctx, linear{server: delta.NewServer(ctx, lc, deaf{})}, log) })
	return g.Wait()
}

// linear serves a LinearCache, by the delta server that the control plane has its own streams on.
type linear struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	server delta.Server
}

func (l linear) DeltaAggregatedResources(s discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return l.server.DeltaStreamHandler(s, resource.AnyType)
}

// deaf does nothing with what the delta server tells.
type deaf struct{}

func (deaf) OnDeltaStreamOpen(context.Context, int64, string) error { return nil }

func (deaf) OnDeltaStreamClosed(int64, *corev3.Node) {}

func (deaf) OnStreamDeltaRequest(int64, *discovery.DeltaDiscoveryRequest) error { return nil }

func (deaf) OnStreamDeltaResponse(int64, *discovery.DeltaDiscoveryRequest, *discovery.DeltaDiscoveryResponse) {
}

// feed takes changes from the source to a LinearCache, with a commit beside them, as a version of the control plane has.
type feed struct {
	source   *source
	cache    *cache.LinearCache
	compiler *compile.Compiler
	served   snapshot.Snapshot
}

func (f *feed) run(ctx context.Context) error {
	for {
		changed, paused := f.source.Changed(), time.NewTimer(batching)
		select {
		case <-ctx.Done():
			return nil
		case <-paused.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		if err := f.take(); err != nil {
			return err
		}
	}
}

func (f *feed) take() error {
	batch, _ := f.source.Take()
	if len(batch.Changes) == 0 {
		return nil
	}
	result := f.compiler.Apply(batch.Changes)
	next := snapshot.New(batch.Revision, result.Config, result.Facts)
	d := snapshot.Diff(f.served, next)
	f.served = next
	put := map[string]types.Resource{tsujiv1.CommitName: &tsujiv1.Resource{
		Name: tsujiv1.CommitName,
		Kind: &tsujiv1.Resource_Commit{Commit: &tsujiv1.Commit{Version: next.Version().String(), Observed: batch.Observed}},
	}}
	for _, i := range d.Put {
		r, err := tsujiv1.Decode(i)
		if err != nil {
			return err
		}
		put[i.Name()] = r
	}
	return f.cache.UpdateResources(put, d.Removed)
}

// runGRPC serves discovery with the limits of the control plane's server, but for the size of requests: who connects
// again names each resource that it has.
func (c serverConfig) runGRPC(ctx context.Context, d discovery.AggregatedDiscoveryServiceServer, log *slog.Logger) error {
	keeper, err := identity.Load(c.TLS, log)
	if err != nil {
		return err
	}
	options := append(xds.ServerOptions(), grpc.MaxRecvMsgSize(64<<20), grpc.Creds(credentials.NewTLS(keeper.ServerTLS(nil))))
	server := grpc.NewServer(options...)
	discovery.RegisterAggregatedDiscoveryServiceServer(server, d)
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, server.Stop)()
	if err := server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve on %s: %w", c.Listen, err)
	}
	return nil
}

// silent accepts streams, says once that nothing is what a router should have, and no more.
type silent struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
}

func (silent) DeltaAggregatedResources(s discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	item, err := tsujiv1.Encode(&tsujiv1.Resource{
		Name: tsujiv1.CommitName,
		Kind: &tsujiv1.Resource_Commit{Commit: &tsujiv1.Commit{Version: "none", Observed: observed(1)}},
	})
	if err != nil {
		return err
	}
	commit := &discovery.Resource{Name: item.Name(), Resource: &anypb.Any{TypeUrl: tsujiv1.TypeURL, Value: item.Encoded()}}
	for told := false; ; told = true {
		if _, err := s.Recv(); err != nil {
			return err
		}
		if told {
			continue
		}
		if err := s.Send(&discovery.DeltaDiscoveryResponse{Nonce: "1", Resources: []*discovery.Resource{commit}}); err != nil {
			return err
		}
	}
}
