package xds

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// MaxRequest is how many bytes a message may have. A router's largest names 100 resources that it refuses, with what is
// wrong with each (a kilobyte, and two of earlier routers), and brings up to 128 KiB of what is in force in their place. What routers
// began to send and do not finish is held: so much for each stream of each connection.
const MaxRequest = 384 << 10

// ServerOptions returns the limits of a gRPC server that serves discovery: requests are small and few, a
// peer that is gone is noticed within a minute, and no connection outlives half an hour by much, so that
// load spreads and identities are checked again.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxRequest),
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
