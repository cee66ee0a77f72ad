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
// is answered; what was refused is not in the way of anything of other content. While the target is refused its facts
// go to the router all the same, with the config that it has.
type state struct {
	retryFirst, retryMost time.Duration

	base    held
	series  *series // nil: nothing is being sent
	refused *refused
	facts   *refused // what was refused of facts alone
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
	alone  bool // the facts of a target, with the config of the base
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
	config    bool                       // it brought another config, which is what counts as refused if it named nothing
	since     time.Time                  // when it was refused
	wait      time.Duration              // before it is offered again; zero: not before it differs
	again     time.Time                  // when it is offered again
}

// factsPause is how long a target is refused before its facts alone are sent: as a rule the next one, without what was
// refused, comes sooner.
const factsPause = time.Second

// blocks tells whether a target is, or has, what was refused.
func (r *refused) blocks(target snapshot.Snapshot) bool {
	switch content := contentOf(target.Version()); {
	case len(r.resources) > 0:
	case r.config:
		return r.content[0] == content[0]
	default:
		return r.content == content
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
	do     action
	target release.Target // of the series to begin
	alone  bool           // it has the facts of what the router should have alone
	until  time.Time      // when to ask again; zero: only when something happened
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
	blocked, until := s.refused.waits(target.Snapshot, now)
	if !blocked {
		return step{do: begin, target: target}
	}
	if alone := s.refused.since.Add(factsPause); s.base.known && now.Before(alone) {
		until = earlier(until, alone)
	} else if s.base.known {
		target.Snapshot = s.withFacts(target.Snapshot)
		if waits, again := s.facts.waits(target.Snapshot, now); waits {
			until = earlier(until, again)
		} else if !s.base.snapshot.Version().Equal(target.Snapshot.Version()) {
			return step{do: begin, target: target, alone: true}
		}
	}
	return step{do: wait, until: until}
}

// waits tells whether a target waits because of what was refused, and until when; a zero time: until it differs.
func (r *refused) waits(target snapshot.Snapshot, now time.Time) (bool, time.Time) {
	switch {
	case r == nil || !r.blocks(target):
		return false, time.Time{}
	case r.wait == 0:
		return true, time.Time{}
	default:
		return now.Before(r.again), r.again
	}
}

// withFacts returns what a router has with the facts that it should have, but for those that it refused by name. Facts
// that are no more stay: its config may refer to them.
func (s *state) withFacts(target snapshot.Snapshot) snapshot.Snapshot {
	base := s.base.snapshot
	facts := base.Facts().Edit()
	for _, i := range snapshot.DiffSets(base.Facts(), target.Facts()).Put {
		if digest, ok := s.refused.resources[i.Name()]; !ok || digest != i.Digest() {
			facts.Put(i)
		}
	}
	return snapshot.New(target.Version().Revision, base.Config(), facts.Set())
}

// earlier returns the earlier of two times, where a zero one is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// start begins a series, encoded as parts.
func (s *state) start(next step, parts []part) {
	s.series = &series{base: s.base, target: next.target, alone: next.alone, parts: parts}
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
	stale      answer = iota // it answers nothing that is on its way
	partOK                   // a part was staged
	acked                    // the version is in force
	ackedFacts               // the facts of a version that is refused are in force
	nacked                   // the version is refused
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
	s.series, s.facts = nil, nil
	if r := s.refused; r != nil && !se.alone && (len(r.resources) == 0 || r.blocks(se.target.Snapshot)) {
		s.refused = nil // and else it is remembered: the next version may have it again
	}
	if se.alone {
		return ackedFacts, se.target.Snapshot
	}
	return acked, se.target.Snapshot
}

// refuse takes the nack of a nonce. The version is refused, whichever part of it was. Where the router names resources
// they are what is refused, and the next version without that content is sent at once. Where it names none it is the
// config, if that is another: endpoints that move do not offer it again. The same is offered again after a time,
// because others may serve it, or something else was wrong.
func (s *state) refuse(nonce string, refusal *tsujiv1.Refusal, now time.Time) (answer, snapshot.Snapshot) {
	if !s.flying(nonce) {
		return stale, snapshot.Snapshot{}
	}
	target := s.series.target.Snapshot
	r := &refused{content: contentOf(target.Version()), since: now, resources: map[string]snapshot.Digest{}}
	r.config = s.base.known && s.base.snapshot.Version().Config != target.Version().Config
	local := refusal.GetClass() == tsujiv1.RefusalClass_REFUSAL_CLASS_LOCAL
	if !local {
		for _, f := range refusal.GetResources() {
			if i, ok := target.Get(f.GetResource()); ok {
				r.resources[i.Name()] = i.Digest()
			}
		}
	}
	before := &s.refused
	if s.series.alone {
		before = &s.facts
	}
	old := *before
	if old != nil && len(r.resources) > 0 {
		for name, digest := range old.resources { // of those that were not in this one nothing new is known
			if i, ok := target.Get(name); (!ok || i.Digest() != digest) && len(r.resources) < mostRefused {
				r.resources[name] = digest
			}
		}
	}
	if local || r.config || len(r.resources) > 0 {
		r.wait = s.retryFirst
		if old != nil && old.wait > 0 && old.blocks(target) {
			r.wait = min(2*old.wait, s.retryMost)
		}
		r.again = now.Add(r.wait)
	}
	s.series, *before = nil, r
	return nacked, target
}

func (s *state) flying(nonce string) bool {
	return nonce != "" && s.series != nil && s.series.flight != nil && s.series.flight.nonce == nonce
}
