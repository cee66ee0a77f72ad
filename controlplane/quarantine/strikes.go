package quarantine

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tsuji-dev/tsuji/snapshot"
)

// Bounds of what refusals may cost.
const (
	// MostRefusals is how many resources of a namespace may be refused within an hour before all its changes are held.
	MostRefusals = 32

	memory       = time.Hour       // how long a refusal counts
	firstWait    = time.Second     // before a resource that was refused twice may change again
	mostWait     = 5 * time.Minute // the wait doubles up to this
	firstFreeze  = time.Minute     // of a namespace
	mostFreeze   = time.Hour       // the freeze doubles up to this
	mostPause    = 8 * time.Second // of a namespace that is in refusals again and again, from firstWait on
	freeRefusals = 2               // refusals that a namespace may be in within an hour without such a pause
	mostStrikes  = 8192            // resources and namespaces whose refusals are counted
	mostAgreed   = 64              // routers that may refuse the same late
	mostDissent  = 1024            // resources of which it is remembered that a router alone refused them
)

// strikes count refusals: of a resource by its name, of a namespace's resources by its name with a slash behind, and
// those that a namespace is in, however many resources they name, with two.
type strikes map[string]*strike

type strike struct {
	count int
	last  time.Time

	// Of a resource: the content that was refused last, and the routers, by name, that did.
	digest snapshot.Digest
	by     map[string]struct{}
}

// refused counts the refusal of a resource by a router. It is none if this router refuses late what another refused
// already: again is false. It returns how many there were within an hour of each other.
func (s strikes) refused(item snapshot.Item, router string, now time.Time) (times int, again bool) {
	if k := s[item.Name()]; k != nil && k.digest == item.Digest() && now.Sub(k.last) <= memory &&
		len(k.by) < mostAgreed {
		if _, ok := k.by[router]; !ok {
			k.by[router] = struct{}{}
			return k.count, false
		}
	}
	k := s.add(item.Name(), now)
	k.digest, k.by = item.Digest(), map[string]struct{}{router: {}}
	return k.count, true
}

// waitAfter tells how long a resource that was refused as many times has to wait before other content of it is let
// through: not at all after the first.
func waitAfter(times int) time.Duration {
	if times < 2 {
		return 0
	}
	return doubled(firstWait, mostWait, times-2)
}

// add counts a refusal; those count together that were within an hour of each other.
func (s strikes) add(key string, now time.Time) *strike {
	k := s[key]
	if k == nil {
		s.sweep(now)
		k = &strike{}
		s[key] = k
	}
	if now.Sub(k.last) > memory {
		k.count = 0
	}
	k.count, k.last = k.count+1, now
	return k
}

// sweep makes room: what is over goes first, then anything.
func (s strikes) sweep(now time.Time) {
	if len(s) < mostStrikes {
		return
	}
	for key, k := range s {
		if now.Sub(k.last) > memory {
			delete(s, key)
		}
	}
	for key := range s {
		if len(s) < mostStrikes {
			return
		}
		delete(s, key)
	}
}

// doubled returns first, doubled n times, and at most limit.
func doubled(first, limit time.Duration, n int) time.Duration {
	for range min(n, 32) {
		if first *= 2; first >= limit {
			return limit
		}
	}
	return first
}

func timestamp(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }
