// Package release decides which version each zone may see.
//
// It guarantees that everybody who asks for a view gets the same target until another is published, that
// whoever waits for a change learns of it without being registered anywhere, and that a version published
// before is found again by its digests while the history holds it; that most Routes do not go together unless it is
// allowed; and that a large change of one namespace does not hold up another's.
//
// Do not assume that a publication is a new version: content that was published before keeps the revision
// it was first known by, and only what was observed may have moved on.
package release

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// View is what a router sees: its IngressController, in its zone. All zones of an IngressController have the same
// target.
type View struct{ IngressController, Zone string }

// Target is what a view's routers should have in force.
type Target struct {
	Snapshot snapshot.Snapshot
	// Observed is how far the source had been followed. Never changed once published.
	Observed *tsujiv1.Observed
	// Reached is the same, where more is known: nothing happened to a kind up to there. What a replica is
	// judged by when a router has seen more. Nil: Observed.
	Reached *tsujiv1.Observed
	// Waiting is how many resources the snapshot still lacks, or has too many or as they were, of what is wanted: it is
	// a piece on the way there. Zero: it is what is wanted.
	Waiting int
}

// Head tells how far the replica has followed its source.
func (t Target) Head() *tsujiv1.Observed {
	if t.Reached != nil {
		return t.Reached
	}
	return t.Observed
}

// Entry is a version that is held.
type Entry struct {
	IngressController string
	Snapshot          snapshot.Snapshot
	Built             time.Time // when it was first published
	Current           bool      // whether it is what routers are being sent
	Waiting           int       // of the current one: see [Target]
}

// Board holds the current target of each view, and earlier versions. It is safe for concurrent use.
type Board struct {
	history int // versions held for each IngressController

	mu      sync.Mutex
	series  map[string]*series // guarded by mu; by IngressController
	another chan struct{}      // guarded by mu; closed when an IngressController is published for the first time
	zones   map[string]string  // guarded by mu; the IngressController of each zone, by name; never changed in place
}

// series is the versions of one IngressController.
type series struct {
	target  Target
	changed chan struct{} // closed when target is replaced
	held    *snapshot.History
	built   map[content]time.Time // of those held
}

// content is a version without its revision.
type content struct{ config, facts snapshot.Digest }

func contentOf(s snapshot.Snapshot) content {
	v := s.Version()
	return content{v.Config, v.Facts}
}

// NewBoard makes an empty board that holds as many versions of each IngressController as history says, at
// least one.
func NewBoard(history int) *Board {
	return &Board{history: history, series: map[string]*series{}, another: make(chan struct{})}
}

// Publish makes t the target of every zone of an IngressController, as of now.
func (b *Board) Publish(ingressController string, t Target, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.series[ingressController]
	if s == nil {
		s = &series{changed: make(chan struct{}), held: snapshot.NewHistory(b.history), built: map[content]time.Time{}}
		b.series[ingressController] = s
		close(b.another)
		b.another = make(chan struct{})
	} else if contentOf(s.target.Snapshot) == contentOf(t.Snapshot) && proto.Equal(s.target.Observed, t.Observed) &&
		proto.Equal(s.target.Reached, t.Reached) && s.target.Waiting == t.Waiting {
		return
	}
	t.Snapshot = s.held.Add(t.Snapshot)
	s.target = t
	if _, ok := s.built[contentOf(t.Snapshot)]; !ok {
		s.built[contentOf(t.Snapshot)] = now
		s.forget()
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// Drop ends an IngressController: it has no target and no versions any more, and those who wait for it learn of that.
func (b *Board) Drop(ingressController string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.series[ingressController]; s != nil {
		delete(b.series, ingressController)
		close(s.changed)
	}
}

// forget drops the times of what the history holds no more.
func (s *series) forget() {
	held := s.held.All()
	if len(held) == len(s.built) {
		return
	}
	built := make(map[content]time.Time, len(held))
	for _, h := range held {
		built[contentOf(h)] = s.built[contentOf(h)]
	}
	s.built = built
}

// Target returns the target of a view, and a channel that is closed when there is another. If ok is false
// nothing was published for the IngressController yet; the channel is then closed when that may have
// changed.
func (b *Board) Target(v View) (t Target, ok bool, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.series[v.IngressController]
	if s == nil {
		return Target{}, false, b.another
	}
	return s.target, true, s.changed
}

// Serves tells whether there is a target of any IngressController.
func (b *Board) Serves() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.series) > 0
}

// Lookup returns the snapshot of an equal version, if it is held.
func (b *Board) Lookup(ingressController string, v snapshot.Version) (snapshot.Snapshot, bool) {
	s := b.of(ingressController)
	if s == nil {
		return snapshot.Snapshot{}, false
	}
	return s.held.Get(v)
}

// Find returns the snapshots whose printed version begins with prefix, the newest first.
func (b *Board) Find(ingressController, prefix string) []snapshot.Snapshot {
	s := b.of(ingressController)
	if s == nil {
		return nil
	}
	return s.held.Find(prefix)
}

// List returns all that is held, by IngressController, the newest first.
func (b *Board) List() []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []Entry
	for name, s := range b.series {
		current := contentOf(s.target.Snapshot)
		for _, h := range s.held.All() {
			e := Entry{IngressController: name, Snapshot: h, Built: s.built[contentOf(h)],
				Current: contentOf(h) == current}
			if e.Current {
				e.Waiting = s.target.Waiting
			}
			all = append(all, e)
		}
	}
	slices.SortStableFunc(all, func(x, y Entry) int { return cmp.Compare(x.IngressController, y.IngressController) })
	return all
}

// of returns the series of an IngressController, of which only held may be used: it has a mutex of its own.
func (b *Board) of(ingressController string) *series {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.series[ingressController]
}
