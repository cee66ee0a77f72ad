// Package xds is the delta discovery server: one session per stream, on go-control-plane's delta server.
//
// It guarantees that a router sees only the view of its certificate; that what it is sent leads from what it
// acked, or from nothing, to one whole version; that content which it refused is not sent again before a time that
// doubles; and that a router costs the others nothing, whatever it sends and however slowly it reads.
//
// Do not assume that a router is sent every version: one that is slow skips those in between.
package xds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	discoverygrpc "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tsuji-dev/tsuji/controlplane/fair"
	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/quarantine"
	"github.com/tsuji-dev/tsuji/controlplane/ratelog"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	"github.com/tsuji-dev/tsuji/identity"
)

// Config says what a server serves. What is not said to be needed may be zero.
type Config struct {
	// Board has the targets. Needed.
	Board *release.Board
	// Fleet is told what becomes of each router. Needed.
	Fleet *fleet.Fleet
	// Quarantine is told what routers refuse and serve. Needed.
	Quarantine *quarantine.Registry
	// Log is written to. Needed.
	Log *slog.Logger
	// Authenticate tells who opened a stream, from its context. If verified is false there is no certificate
	// (--insecure), and the node of the first request is believed. Needed.
	Authenticate func(context.Context) (id identity.ID, verified bool, err error)
	// Metrics count what the server does. Nil: they are counted for nobody.
	Metrics *Metrics
	// Now is the clock. Nil: time.Now.
	Now func() time.Time

	// PartBytes is the most bytes of resources and names in one response. Zero: 1 MiB.
	PartBytes int
	// CacheBytes is the most bytes of encoded differences that are kept for the next who needs them. Zero: 64 MiB.
	CacheBytes int
	// PinnedBytes is the most bytes of encoded differences that are held only because streams are being sent them, and
	// have not answered; beyond, streams of whoever holds most are ended. Zero: 256 MiB.
	PinnedBytes int
	// FlightBytes is the most bytes of parts that are on their way to routers, each its own copy; streams wait for
	// their turn. Zero: 128 MiB.
	FlightBytes int
	// FlightTimeout is how long a router may take to read a part while others wait for their turn. Zero: 10 s.
	FlightTimeout time.Duration
	// NameStreams is how many streams one router may have, by its name, and ConnectionStreams how many one connection.
	// Zero: 4 and 2. With no certificates there is no bound.
	NameStreams, ConnectionStreams int
	// FirstSyncs is how many streams are sent a whole snapshot at a time. Zero: 64.
	FirstSyncs int
	// SyncTimeout is how long a stream waits for its turn at that before it goes on all the same. Zero: 10 s.
	SyncTimeout time.Duration
	// HelloTimeout is how long a stream may take over its first request. Zero: 30 s.
	HelloTimeout time.Duration
	// AckTimeout is how long a router may take to answer a response before its stream is ended. Zero: 5 minutes.
	AckTimeout time.Duration
	// LagTimeout is how long a stream waits for this replica to catch up with what the router has. Zero: 10 s.
	LagTimeout time.Duration
	// RetryFirst is when a version that a router could not put into force for a reason of its own, or that has
	// content which this router alone refuses, is offered again; the time doubles up to RetryMost. Zero: 5 s, 5
	// minutes.
	RetryFirst, RetryMost time.Duration
}

// Validate reports everything that is needed and missing, or makes no sense.
func (c Config) Validate() error {
	var errs []error
	if c.Board == nil || c.Fleet == nil || c.Quarantine == nil || c.Log == nil || c.Authenticate == nil {
		errs = append(errs, errors.New("discovery needs a Board, a Fleet, a Quarantine, a Log and Authenticate"))
	}
	for name, negative := range map[string]bool{
		"PartBytes": c.PartBytes < 0, "CacheBytes": c.CacheBytes < 0, "FirstSyncs": c.FirstSyncs < 0,
		"PinnedBytes": c.PinnedBytes < 0, "FlightBytes": c.FlightBytes < 0, "FlightTimeout": c.FlightTimeout < 0,
		"NameStreams": c.NameStreams < 0, "ConnectionStreams": c.ConnectionStreams < 0,
		"SyncTimeout": c.SyncTimeout < 0, "HelloTimeout": c.HelloTimeout < 0, "AckTimeout": c.AckTimeout < 0,
		"LagTimeout": c.LagTimeout < 0, "RetryFirst": c.RetryFirst < 0, "RetryMost": c.RetryMost < 0,
	} {
		if negative {
			errs = append(errs, fmt.Errorf("discovery: %s is negative", name))
		}
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	if c.Metrics == nil {
		c.Metrics = NewMetrics()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.PartBytes = cmp.Or(c.PartBytes, 1<<20)
	c.CacheBytes = cmp.Or(c.CacheBytes, 64<<20)
	c.PinnedBytes = cmp.Or(c.PinnedBytes, 256<<20)
	c.FlightBytes = cmp.Or(c.FlightBytes, 128<<20)
	c.FlightTimeout = cmp.Or(c.FlightTimeout, 10*time.Second)
	c.NameStreams = cmp.Or(c.NameStreams, 4)
	c.ConnectionStreams = cmp.Or(c.ConnectionStreams, 2)
	c.FirstSyncs = cmp.Or(c.FirstSyncs, 64)
	c.SyncTimeout = cmp.Or(c.SyncTimeout, 10*time.Second)
	c.HelloTimeout = cmp.Or(c.HelloTimeout, 30*time.Second)
	c.AckTimeout = cmp.Or(c.AckTimeout, 5*time.Minute)
	c.LagTimeout = cmp.Or(c.LagTimeout, 10*time.Second)
	c.RetryFirst = cmp.Or(c.RetryFirst, 5*time.Second)
	c.RetryMost = cmp.Or(c.RetryMost, 5*time.Minute)
	return c
}

// Server serves aggregated discovery.
type Server struct {
	discoverygrpc.UnimplementedAggregatedDiscoveryServiceServer

	config  Config
	metrics *Metrics
	frames  *frames
	log     *ratelog.Log // what a peer can cause
	syncs   *fair.Turns  // of streams that are being sent a whole snapshot
	flights *fair.Turns  // of parts on their way, by bytes
	places  *fair.Places // of streams, by the name of their router and by connection

	mu       sync.Mutex
	sessions map[*session]struct{} // guarded by mu
	draining bool                  // guarded by mu; no stream begins any more
	running  sync.WaitGroup        // goroutines of streams; added to under mu while not draining
}

// New makes a server. The configuration must be valid.
func New(c Config) *Server {
	c = c.withDefaults()
	return &Server{
		config:   c,
		metrics:  c.Metrics,
		frames:   newFrames(c.PartBytes, c.CacheBytes, c.PinnedBytes),
		log:      ratelog.New(c.Log, c.Now),
		syncs:    fair.NewTurns(c.FirstSyncs, 0),
		flights:  fair.NewTurns(c.FlightBytes, c.FlightTimeout),
		places:   fair.NewPlaces(),
		sessions: map[*session]struct{}{},
	}
}

// errDraining is what streams end with when the replica stops: their routers go to another.
func errDraining() *ended {
	return ending("draining", codes.Unavailable, "draining: this replica is stopping, connect to another")
}

// StreamAggregatedResources refuses the state-of-the-world form of discovery.
func (s *Server) StreamAggregatedResources(discoverygrpc.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return status.Error(codes.Unimplemented,
		"only the delta form of discovery is served: call DeltaAggregatedResources")
}

// DeltaAggregatedResources serves one router until the stream ends.
func (s *Server) DeltaAggregatedResources(stream discoverygrpc.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	err := s.serve(stream)
	var e *ended
	if errors.As(err, &e) {
		s.metrics.ended.WithLabelValues(e.reason).Inc()
		s.config.Log.Debug("stream ended", "reason", e.reason, "message", e.status.Message())
		return e.status.Err()
	}
	return err
}

func (s *Server) serve(stream discoverygrpc.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	id, verified, err := s.config.Authenticate(stream.Context())
	if err != nil {
		s.log.Warn("", "stream refused: the peer is not known", "err", err)
		return ending("identity", codes.Unauthenticated, "%s", err)
	}
	if verified && id.Role != identity.RoleRouter {
		s.log.Warn(id.String(), "stream refused: discovery is for routers", "peer", id.String())
		return ending("identity", codes.PermissionDenied, "discovery is for routers: the certificate is for %s", id)
	}
	ctx, end := context.WithCancelCause(stream.Context())
	defer end(nil)
	session := newSession(stream.Context(), s, id, verified, end)
	if err := session.arrive(); err != nil {
		return err
	}
	if !s.enroll(session) {
		session.close()
		return errDraining()
	}
	defer s.leave(session)

	ran := make(chan struct{})
	go func() {
		defer close(ran)
		session.run(ctx)
	}()
	// The delta server has a goroutine of its own because it cannot be ended while it waits in Send for a
	// router that does not read. It ends soon after this function has returned, as the stream's context
	// does; Drain waits for it.
	served := make(chan error, 1)
	go func() {
		defer s.running.Done()
		served <- delta.NewServer(ctx, session, session).DeltaStreamHandler(requests{stream, end}, resource.AnyType)
	}()
	select {
	case err = <-served:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	end(err)
	<-ran
	if cause := new(ended); errors.As(context.Cause(ctx), &cause) {
		return cause
	}
	if err != nil && stream.Context().Err() != nil {
		return status.FromContextError(stream.Context().Err()).Err()
	}
	return err
}

// enroll lets a session begin, unless the server is draining, with its goroutine counted.
func (s *Server) enroll(session *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.sessions[session] = struct{}{}
	s.running.Add(1)
	s.metrics.streams.Inc()
	return true
}

func (s *Server) leave(session *session) {
	session.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, session)
	s.metrics.streams.Dec()
}

// Drain ends every stream with Unavailable, and refuses new ones, so that routers go to another replica. It
// returns when the streams' goroutines have ended. The gRPC server must still be running; stop it afterwards.
func (s *Server) Drain() {
	s.mu.Lock()
	s.draining = true
	for session := range s.sessions {
		session.end(errDraining())
	}
	s.mu.Unlock()
	s.running.Wait()
}
