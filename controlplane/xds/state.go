package xds

import (
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/release"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// state is what a session knows of its router: what is in force there, what is on its way, and what was
// refused. It is pure: time is passed in, nothing is sent from here.
//
// Invariants: at most one response is on its way; a series keeps its base and target until its last part
// is answered; what was refused is not in the way of anything of other content.
type state struct {
	retryFirst, retryMost time.Duration

	base    held
	series  *series // nil: nothing is being sent
	refused *refused
}

// held is what is in force in a router.
type held struct {
	known    bool // false: nothing, or a version that is not known here
	snapshot snapshot.Snapshot
	version  string // as the router spells it
}

// series is a difference on its way, in parts.
type series struct {
	base   held
	target release.Target
	parts  []part
	next   int // the part that is sent next
	flight *flight
}

// flight is a response on its way: the part before next.
type flight struct {
	nonce string // empty until it was handed to the stream
	since time.Time
}

// refused is what a router refused last.
type refused struct {
	content   [2]snapshot.Digest         // of the version
	resources map[string]snapshot.Digest // those that it named; a version with other content for all of them is another matter
	wait      time.Duration              // before it is offered again; zero: not before it differs
	again     time.Time                  // when it is offered again
}

// blocks tells whether a target is, or has, what was refused.
func (r *refused) blocks(target snapshot.Snapshot) bool {
	if len(r.resources) == 0 {
		return r.content == contentOf(target.Version())
	}
	for name, digest := range r.resources {
		if i, ok := target.Get(name); ok && i.Digest() == digest {
			return true
		}
	}
	return false
}

// mostRefused is how many resources are remembered that a router refused.
const mostRefused = 256

// step is what there is to do.
type step struct {
	do    action
	until time.Time // when to ask again; zero: only when something happened
}

type action int

const (
	wait  action = iota // nothing
	begin               // start a series to the target
	send                // send the series' next part
)

// next tells what there is to do, given what the router should have.
func (s *state) next(target release.Target, ok bool, now time.Time) step {
	switch {
	case s.series != nil && s.series.flight != nil:
		return step{do: wait}
	case s.series != nil:
		return step{do: send}
	case !ok, s.base.known && s.base.snapshot.Version().Equal(target.Snapshot.Version()):
		return step{do: wait}
	}
	if r := s.refused; r != nil && r.blocks(target.Snapshot) {
		if r.wait == 0 {
			return step{do: wait}
		}
		if now.Before(r.again) {
			return step{do: wait, until: r.again}
		}
	}
	return step{do: begin}
}

// start begins a series, encoded as parts.
func (s *state) start(target release.Target, parts []part) {
	s.series = &series{base: s.base, target: target, parts: parts}
}

// take returns the series with the number of its next part, which is on its way from now on.
func (s *state) take(now time.Time) (*series, int) {
	n := s.series.next
	s.series.next++
	s.series.flight = &flight{since: now}
	return s.series, n
}

// last tells whether the part on its way is the last of the series.
func (s *series) last() bool { return s.next == len(s.parts) }

// answer is what a request turned out to be.
type answer int

const (
	stale  answer = iota // it answers nothing that is on its way
	partOK               // a part was staged
	acked                // the version is in force
	nacked               // the version is refused
)

// acknowledge takes the ack of a nonce. An acked version is the base of what follows.
func (s *state) acknowledge(nonce string) (answer, snapshot.Snapshot) {
	if !s.flying(nonce) {
		return stale, snapshot.Snapshot{}
	}
	se := s.series
	if !se.last() {
		se.flight = nil
		return partOK, snapshot.Snapshot{}
	}
	s.base = held{known: true, snapshot: se.target.Snapshot, version: se.target.Snapshot.Version().String()}
	s.series = nil
	if r := s.refused; r != nil && (len(r.resources) == 0 || r.blocks(se.target.Snapshot)) {
		s.refused = nil // and else it is remembered: the next version may have it again
	}
	return acked, se.target.Snapshot
}

// refuse takes the nack of a nonce. The version is refused, whichever part of it was. Where the router names resources
// they are what is refused, and the next version without that content is sent at once; the same is offered again after a
// time, because others may serve it.
func (s *state) refuse(nonce string, refusal *tsujiv1.Refusal, now time.Time) (answer, snapshot.Snapshot) {
	if !s.flying(nonce) {
		return stale, snapshot.Snapshot{}
	}
	target := s.series.target.Snapshot
	r := &refused{content: contentOf(target.Version()), resources: map[string]snapshot.Digest{}}
	local := refusal.GetClass() == tsujiv1.RefusalClass_REFUSAL_CLASS_LOCAL
	if !local {
		for _, f := range refusal.GetResources() {
			if i, ok := target.Get(f.GetResource()); ok {
				r.resources[i.Name()] = i.Digest()
			}
		}
	}
	if old := s.refused; old != nil && len(r.resources) > 0 {
		for name, digest := range old.resources { // of those that were not in this one nothing new is known
			if i, ok := target.Get(name); (!ok || i.Digest() != digest) && len(r.resources) < mostRefused {
				r.resources[name] = digest
			}
		}
	}
	if local || len(r.resources) > 0 {
		r.wait = s.retryFirst
		if s.refused != nil && s.refused.wait > 0 && s.refused.blocks(target) {
			r.wait = min(2*s.refused.wait, s.retryMost)
		}
		r.again = now.Add(r.wait)
	}
	s.series, s.refused = nil, r
	return nacked, target
}

func (s *state) flying(nonce string) bool {
	return nonce != "" && s.series != nil && s.series.flight != nil && s.series.flight.nonce == nonce
}
