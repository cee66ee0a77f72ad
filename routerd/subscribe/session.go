package subscribe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// stream is the client's side of DeltaAggregatedResources.
type stream interface {
	Send(*discovery.DeltaDiscoveryRequest) error
	Recv() (*discovery.DeltaDiscoveryResponse, error)
}

// session is one stream, with a goroutine for each of receiving, applying and sending. Nonces are of no use
// beyond it.
type session struct {
	c      *Client
	server string
	log    *slog.Logger
	resync bool // do not say what is in force

	requests chan *discovery.DeltaDiscoveryRequest // to be sent
	versions chan version                          // to be applied; of capacity 1, and empty unless applying

	// applying is set by the receiver before it passes a version on, and reset by the applier before it
	// answers: whatever arrives in between was sent without waiting for the answer.
	applying atomic.Bool
	// settled tells whether a whole version was received that fitted.
	settled atomic.Bool

	staged series // for the receiver only
}

// version is what a series of responses led to.
type version struct {
	nonce    string // of the response with the commit
	next     snapshot.Snapshot
	delta    snapshot.Delta
	observed *tsujiv1.Observed
}

// unanswered is how many requests may wait to be sent. Well-behaved servers await each.
const unanswered = 16

var (
	errUnasked = errors.New("the server sent a response before the version in front of it was answered")
	errDeaf    = errors.New("the server sends responses and reads no answers")
)

func newSession(c *Client, server string, resync bool) *session {
	return &session{
		c: c, server: server, resync: resync, log: c.log.With("server", server),
		requests: make(chan *discovery.DeltaDiscoveryRequest, unanswered),
		versions: make(chan version, 1),
	}
}

// run has the stream until it ends, and returns why it did. Whatever was being applied then has come to its
// end too, so that what is in force is certain when the next stream begins.
func (s *session) run(ctx context.Context, conn grpc.ClientConnInterface) error {
	streamCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, streamCtx := errgroup.WithContext(streamCtx) // the first error ends the stream
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(streamCtx)
	if err != nil {
		return fmt.Errorf("open a stream to %s: %w", s.server, err)
	}
	hello := s.hello()
	if err := s.send(hello); err != nil {
		return err
	}
	s.c.connected(s.server)
	s.log.Info("following the control plane", "in_force", hello.GetInitialResourceVersions()[tsujiv1.CommitName], "anew", s.resync)
	g.Go(func() error {
		err := s.receive(stream)
		s.c.lost(err) // at once, however long what is being applied takes
		return err
	})
	g.Go(func() error { return s.apply(ctx, streamCtx) })
	g.Go(func() error { return s.transmit(streamCtx, stream) })
	return g.Wait()
}

// receive stages what arrives, until the stream ends or the server breaks the rules.
func (s *session) receive(stream stream) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("control plane %s ended the stream", s.server)
		}
		if err != nil {
			return fmt.Errorf("stream from %s: %w", s.server, err)
		}
		if err := s.take(r); err != nil {
			return fmt.Errorf("stream from %s: %w", s.server, err)
		}
	}
}

// take handles one response: a part is acked at once; with the last part, the version is passed on to be
// applied, or refused, or acked because it is in force already.
func (s *session) take(r *discovery.DeltaDiscoveryResponse) error {
	s.c.metrics.Responses.Inc()
	if s.applying.Load() {
		return errUnasked
	}
	commit, err := s.staged.add(r, s.c.conf.StagingLimit)
	if err != nil {
		return err
	}
	s.c.metrics.Resources.Add(float64(len(r.GetResources())))
	s.c.metrics.Staged.Set(float64(s.staged.bytes))
	if commit == nil {
		return s.send(answer(r.GetNonce(), nil))
	}
	staged := s.staged
	s.staged = series{}
	s.c.metrics.Staged.Set(0)
	inForce, ok := s.c.conf.Applier.InForce()
	next, delta, err := staged.settle(commit, inForce, ok)
	if err != nil {
		return err
	}
	s.settled.Store(true)
	v := version{nonce: r.GetNonce(), next: next, delta: delta, observed: commit.GetObserved()}
	if ok && delta.Empty() {
		return s.finish(v, nil)
	}
	if refusal := judge(delta.Put, s.c.conf.Features); refusal != nil {
		return s.finish(v, refusal)
	}
	s.applying.Store(true)
	s.versions <- v
	return nil
}

// apply puts versions into force until the stream ends. One that is under way then goes on: only the end of
// the process, ctx, interrupts it.
func (s *session) apply(ctx, stream context.Context) error {
	for {
		select {
		case <-stream.Done():
			return nil
		case v := <-s.versions:
			if ended(stream) {
				return nil
			}
			began := time.Now()
			refusal := s.c.conf.Applier.Apply(ctx, v.next, v.delta)
			s.c.metrics.Applying.Observe(time.Since(began).Seconds())
			if refusal != nil && ended(ctx) {
				return nil // it was interrupted: that says nothing of the version
			}
			s.applying.Store(false)
			if err := s.finish(v, refusal); err != nil {
				return err
			}
		}
	}
}

// finish notes what became of a version, and answers the response that ended it.
func (s *session) finish(v version, refusal *tsujiv1.Refusal) error {
	if refusal == nil {
		s.c.acked(v.next.Version(), v.observed)
		s.log.Debug("version is in force", "version", v.next.Version().Short(), "changed", len(v.delta.Put), "removed", len(v.delta.Removed))
		return s.send(answer(v.nonce, nil))
	}
	refusal = bounded(refusal, v.next.Version())
	if inForce, ok := s.c.conf.Applier.InForce(); ok {
		tellInForce(refusal, inForce)
	}
	s.c.refused(refusal)
	var first string
	if len(refusal.GetResources()) > 0 {
		first = refusal.GetResources()[0].GetResource() + ": " + refusal.GetResources()[0].GetMessage()
	}
	s.log.Error("version refused; what is in force stays", "version", v.next.Version().Short(), "class", refusal.GetClass(),
		"message", refusal.GetMessage(), "resources", len(refusal.GetResources()), "first", first)
	return s.send(answer(v.nonce, refusal))
}

// send queues a request.
func (s *session) send(r *discovery.DeltaDiscoveryRequest) error {
	select {
	case s.requests <- r:
		return nil
	default:
		return fmt.Errorf("stream from %s: %w", s.server, errDeaf)
	}
}

// transmit sends what is queued, until the stream ends.
func (s *session) transmit(ctx context.Context, stream stream) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-s.requests:
			err := stream.Send(r)
			if errors.Is(err, io.EOF) { // Recv will say why
				return nil
			}
			if err != nil {
				return fmt.Errorf("send to %s: %w", s.server, err)
			}
		}
	}
}
