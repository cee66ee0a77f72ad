package xds

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tsuji-dev/tsuji/controlplane/fair"
	"github.com/tsuji-dev/tsuji/identity"
)

// holds is what a session holds of what all share. Guarded by the session's mu.
type holds struct {
	places []*fair.Place
	sync   loan       // the turn to be sent a whole series
	pinned *pin       // the frame that is being sent
	flight *fair.Turn // for the part that is on its way
}

// loan is a turn that ends by itself when it was lent for long enough.
type loan struct {
	turn *fair.Turn
	over *time.Timer
}

// release gives the turn back, if there is one.
func (l *loan) release() {
	if l.turn != nil {
		l.over.Stop()
		l.turn.Done()
		*l = loan{}
	}
}

// arrive takes the stream's place on its connection. It is the session's first call.
func (s *session) arrive() *ended {
	return s.enterPlace("connection "+s.address, s.server.config.ConnectionStreams,
		"this connection has %d discovery streams: end them, a router needs one", s.server.config.ConnectionStreams)
}

// enterAs takes the place of a stream of this router. The caller holds mu.
func (s *session) enterAs(router identity.ID) *ended {
	return s.enterPlace("router "+router.String(), s.server.config.NameStreams,
		"router %s has %d streams: give each router a name of its own (routerd --name), or wait until old streams have ended",
		router.Name, s.server.config.NameStreams)
}

func (s *session) enterPlace(key string, most int, format string, args ...any) *ended {
	if !s.verified {
		return nil
	}
	place, ok := s.server.places.Enter(key, s.peer.Host, most, func() {
		s.end(ending("overtaken", codes.ResourceExhausted,
			"another stream of this router's name, from another host, needs the place"))
	})
	if !ok {
		s.server.log.Warn(s.peer.Identity, "stream refused: there are too many", "of", key, "peer", s.peer.Identity,
			"address", s.address)
		return ending("crowd", codes.ResourceExhausted, format, args...)
	}
	s.places = append(s.places, place)
	return nil
}

// landed gives back what the part that was answered held. The caller holds mu.
func (s *session) landed() {
	s.flight.Done()
	s.flight = nil
	if s.state.series == nil {
		s.arrived()
	}
}

// arrived gives back what the series held. The caller holds mu.
func (s *session) arrived() {
	s.sync.release()
	s.server.frames.release(s.pinned)
	s.pinned = nil
}

// letGo gives back everything. The caller holds mu.
func (s *session) letGo() {
	for _, p := range s.places {
		p.Leave()
	}
	s.flight.Done()
	s.arrived()
}

// depart waits until the next part may go out, which is at once if it is light.
func (s *session) depart(ctx context.Context) {
	s.mu.Lock()
	se := s.state.series
	waits := se != nil && se.flight == nil && s.flight == nil && len(se.parts[se.next].encoded) > light
	amount := 0
	if waits {
		amount = len(se.parts[se.next].encoded)
	}
	s.mu.Unlock()
	if !waits {
		return
	}
	turn := s.server.flights.Take(ctx, s.peer, amount, func() {
		s.end(ending("slow", codes.ResourceExhausted,
			"what was sent was not read within %s, and others wait: connect again",
			s.server.config.FlightTimeout))
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		turn.Done()
		return
	}
	s.flight = turn
}

// hold pins the frame of the series that begins. The caller does not hold mu.
func (s *session) hold(fr *frame) {
	p := s.server.frames.pin(fr, s.peer, func() {
		s.end(ending("slow", codes.ResourceExhausted,
			"too many versions are on their way, and this one takes longest: connect again"))
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		s.server.frames.release(p)
		return
	}
	s.pinned = p
}

// enter waits for a turn to be sent a whole series. Nobody waits for those who are slow: after a time it
// goes on without one, and a turn is lent for a time only.
func (s *session) enter(ctx context.Context) {
	m := s.server.metrics
	m.fullSyncs.Inc()
	turn := s.server.syncs.TryTake(s.peer, 1, func() {})
	if turn == nil {
		m.syncing.Inc()
		defer m.syncing.Dec()
		waiting, cancel := context.WithTimeout(ctx, s.server.config.SyncTimeout)
		turn = s.server.syncs.Take(waiting, s.peer, 1, func() {})
		cancel()
		switch {
		case turn != nil:
			m.syncWaits.WithLabelValues("entered").Inc()
		case ctx.Err() == nil:
			m.syncWaits.WithLabelValues("gave_up").Inc()
			return
		default:
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		turn.Done()
		return
	}
	s.sync = loan{turn: turn, over: time.AfterFunc(s.server.config.SyncTimeout, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sync.release()
	})}
}
