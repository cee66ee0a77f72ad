package fleet_test

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// source is a world as a source of objects. Its revision is the number of changes made, and one.
type source struct {
	mu       sync.Mutex
	world    *world                         // guarded by mu
	pending  map[cluster.Key]cluster.Change // guarded by mu; not taken yet
	revision uint64                         // guarded by mu
	changed  chan struct{}                  // guarded by mu; closed when something is pending
}

var _ cluster.Source = (*source)(nil)

// newSource begins after so many changes.
func newSource(w *world, replay int) *source {
	s := &source{world: w, pending: map[cluster.Key]cluster.Change{}, revision: 1, changed: make(chan struct{})}
	for range replay {
		w.change()
		s.revision++
	}
	for _, c := range w.all() {
		s.pending[c.Key] = c
	}
	close(s.changed)
	return s
}

// change makes changes, and returns the revision that they lead to, and when that was.
func (s *source) change(n int) (revision uint64, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) == 0 {
		defer close(s.changed)
	}
	at = time.Now()
	for range n {
		c := s.world.change()
		s.pending[c.Key] = c
		s.revision++
	}
	return s.revision, at
}

func (*source) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (s *source) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *source) Take() (cluster.Batch, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := cluster.Batch{Revision: s.revision, Observed: observed(s.revision)}
	if len(s.pending) == 0 {
		return b, true
	}
	b.Changes = slices.SortedFunc(maps.Values(s.pending), func(x, y cluster.Change) int { return x.Key.Compare(y.Key) })
	s.pending, s.changed = map[cluster.Key]cluster.Change{}, make(chan struct{})
	return b, true
}

// observedKind is the kind whose revision tells routers which changes they have.
const observedKind = string(cluster.Route)

func observed(revision uint64) *tsujiv1.Observed {
	return &tsujiv1.Observed{
		Epoch: "synthetic", Kinds: []*tsujiv1.ObservedKind{{Kind: observedKind, Revision: revision}},
	}
}

func (*source) String() string { return "synthetic" }
