package xds

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// ServerOptions returns the limits of a gRPC server that serves discovery: requests are small and few, a
// peer that is gone is noticed within a minute, and no connection outlives half an hour by much, so that
// load spreads and identities are checked again.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(512 << 10),   // a request names one version; a refusal names up to 100 resources, and what is wrong
		grpc.MaxConcurrentStreams(8),     // of one connection: a router needs one, a tool a few
		grpc.MaxHeaderListSize(16 << 10), // of a request
		// Without these gRPC would let a peer send up to 16 MiB before anybody reads it.
		grpc.StaticStreamWindowSize(64 << 10),
		grpc.StaticConnWindowSize(64 << 10),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             10 * time.Second,
			PermitWithoutStream: true,
		}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time:                  30 * time.Second,
			Timeout:               20 * time.Second,
			MaxConnectionAge:      30 * time.Minute, // gRPC adds or takes a tenth at random
			MaxConnectionAgeGrace: 30 * time.Second,
		}),
	}
}
