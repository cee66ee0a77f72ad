package xds

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
)

// run decides what is sent, and sends it, until ctx ends. It waits for whichever comes first: an answer
// (woken), another target (the board's channel), or a time (a refusal to be offered again, an ack overdue).
func (s *session) run(ctx context.Context) {
	hello := time.NewTimer(s.server.config.HelloTimeout)
	defer hello.Stop()
	select {
	case <-s.greeted:
	case <-hello.C:
		s.end(ending("silence", codes.DeadlineExceeded, "no request within %s", s.server.config.HelloTimeout))
		return
	case <-ctx.Done():
		return
	}
	s.catchUp(ctx)
	s.observed = nil
	told := false
	entered := false // it has waited for its turn to be sent a whole snapshot
	for ctx.Err() == nil {
		target, ok, changed := s.server.config.Board.Target(s.view)
		if err := s.refuseZone(s.view, s.name); err != nil {
			s.end(err)
			return
		}
		now := s.server.config.Now()
		if !ok && !told && s.server.config.Board.Serves() {
			s.server.log.Warn("", "a router waits: there is no IngressController of that name, or it was deleted",
				"ingress_controller", s.view.IngressController, "router", s.name, "zone", s.view.Zone, "address", s.address)
			told = true
		}
		s.mu.Lock()
		if s.state.series == nil {
			s.resume()
		}
		step := s.state.next(target, ok, now)
		base := s.state.base
		s.mu.Unlock()
		switch step.do {
		case begin:
			if !base.known && !entered {
				s.enter(ctx)
				entered = true
				continue // the target may be another by now
			}
			entered = false
			frame := s.server.frames.between(!base.known, base.snapshot, step.target.Snapshot)
			s.hold(frame)
			s.mu.Lock()
			s.state.start(step, frame.parts)
			s.mu.Unlock()
			fallthrough
		case send:
			s.depart(ctx)
			if err := s.deliver(); err != nil {
				s.end(ending("internal", codes.Internal, "%s", err))
				return
			}
		case wait:
		}
		if !s.pause(ctx, changed, step.until) {
			return
		}
	}
}

// pause waits until there may be something to do; false: the stream has ended.
func (s *session) pause(ctx context.Context, changed <-chan struct{}, until time.Time) bool {
	s.mu.Lock()
	flying := s.state.series != nil && s.state.series.flight != nil
	if flying {
		until = s.state.series.flight.since.Add(s.server.config.AckTimeout)
		changed = nil // whatever the target is by then
	}
	s.mu.Unlock()
	var at <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(until.Sub(s.server.config.Now()))
		defer timer.Stop()
		at = timer.C
	}
	select {
	case <-s.woken:
	case <-changed:
	case <-at:
		if flying && s.overdue() {
			s.end(ending("ack_timeout", codes.DeadlineExceeded, "no answer within %s", s.server.config.AckTimeout))
			return false
		}
	case <-ctx.Done():
		return false
	}
	return true
}

// overdue tells whether the answer to what is on its way should have come.
func (s *session) overdue() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	se := s.state.series
	return se != nil && se.flight != nil &&
		!s.server.config.Now().Before(se.flight.since.Add(s.server.config.AckTimeout))
}

// catchUp waits until this replica has seen what the router's version was made from, or for so long that
// something is better than nothing.
func (s *session) catchUp(ctx context.Context) {
	if s.observed == nil {
		return
	}
	timer := time.NewTimer(s.server.config.LagTimeout)
	defer timer.Stop()
	waited := false
	ended := func(outcome string) {
		if waited {
			s.server.metrics.lagging.Dec()
			s.server.metrics.lagWaits.WithLabelValues(outcome).Inc()
		}
	}
	for {
		target, ok, changed := s.server.config.Board.Target(s.view)
		if ok && !behind(target.Head(), s.observed) {
			ended("caught_up")
			return
		}
		if ok && !waited {
			waited = true
			s.server.metrics.lagging.Inc()
		}
		select {
		case <-changed:
		case <-timer.C:
			ended("gave_up")
			if waited {
				s.server.log.Warn(s.peer.Identity, "this replica is behind what a router has; it serves what it knows",
					"router", s.name, "zone", s.view.Zone, "waited", s.server.config.LagTimeout)
			}
			return
		case <-ctx.Done():
			ended("left")
			return
		}
	}
}
