package fair

import (
	"context"
	"sync"
	"time"
)

// Turns are an amount of something that peers take parts of and give back. Who finds no room waits: first those whose
// identity holds least, then those whose host does, then who came first.
//
// An identity may hold as much as it leaves free, and a host of it as much as both leave: alone it holds half or a
// third of all, so that there is room for who comes next. It is safe for concurrent use.
type Turns struct {
	patience time.Duration // how long a turn may take while others wait; zero: as long as it likes

	mu      sync.Mutex
	all     int
	free    int          // guarded by mu
	held    map[Peer]int // guarded by mu; by peer, and with no host of all of an identity
	turns   []*Turn      // guarded by mu; those that hold something, the oldest first
	waiting []*waiter    // guarded by mu; the oldest first
}

// Turn is a part that a peer holds.
type Turn struct {
	of      *Turns
	peer    Peer
	amount  int
	since   time.Time
	giveWay func()
}

type waiter struct {
	turn  *Turn
	enter chan struct{} // closed when it has its turn
}

// NewTurns makes turns of an amount. If others wait for longer than patience, who holds most gives way.
func NewTurns(amount int, patience time.Duration) *Turns {
	return &Turns{all: amount, free: amount, patience: patience, held: map[Peer]int{}}
}

// TryTake takes an amount if there is room now, and nobody waits who comes before; if not it returns nil.
func (t *Turns) TryTake(peer Peer, amount int, giveWay func()) *Turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	turn := &Turn{of: t, peer: peer, amount: min(amount, t.all), giveWay: giveWay}
	if !t.fits(turn) {
		return nil
	}
	t.take(turn)
	return turn
}

// Take takes an amount, and waits until there is room. If the context ends before, it returns nil. The giveWay of a
// turn is called, once, when it has to end for others; what it held counts as given back then.
func (t *Turns) Take(ctx context.Context, peer Peer, amount int, giveWay func()) *Turn {
	t.mu.Lock()
	w := &waiter{turn: &Turn{of: t, peer: peer, amount: min(amount, t.all), giveWay: giveWay},
		enter: make(chan struct{})}
	t.waiting = append(t.waiting, w)
	t.admit()
	t.mu.Unlock()
	for {
		overdue, stop := t.overdue()
		select {
		case <-w.enter:
			stop()
			return w.turn
		case <-overdue:
			t.hurry()
		case <-ctx.Done():
			stop()
			t.leave(w)
			return nil
		}
	}
}

// overdue returns a channel that has a value when a turn has taken too long.
func (t *Turns) overdue() (at <-chan time.Time, stop func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.patience == 0 || len(t.turns) == 0 {
		return nil, func() {}
	}
	timer := time.NewTimer(max(time.Until(t.turns[0].since.Add(t.patience)), time.Millisecond))
	return timer.C, func() { timer.Stop() }
}

// hurry ends a turn that has taken too long, of who holds most, if anybody waits.
func (t *Turns) hurry() {
	t.mu.Lock()
	var victim *Turn
	for _, turn := range t.turns {
		switch {
		case time.Since(turn.since) < t.patience:
		case victim == nil, t.more(turn.peer, victim.peer):
			victim = turn
		}
	}
	if victim != nil && len(t.waiting) > 0 {
		t.end(victim)
	} else {
		victim = nil
	}
	t.mu.Unlock()
	if victim != nil {
		victim.giveWay()
	}
}

// more tells whether a's identity holds more than b's, or its host does if they are equal. The caller holds mu.
func (t *Turns) more(a, b Peer) bool {
	if x, y := t.held[Peer{Identity: a.Identity}], t.held[Peer{Identity: b.Identity}]; x != y {
		return x > y
	}
	return t.held[a] > t.held[b]
}

// leave takes a waiter out, which may have got its turn meanwhile.
func (t *Turns) leave(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, other := range t.waiting {
		if other == w {
			t.waiting = append(t.waiting[:i:i], t.waiting[i+1:]...)
			return
		}
	}
	t.end(w.turn)
}

// Done gives back what a turn holds. It may be called more than once, and on nil.
func (turn *Turn) Done() {
	if turn == nil {
		return
	}
	turn.of.mu.Lock()
	defer turn.of.mu.Unlock()
	turn.of.end(turn)
}

// end takes back what a turn holds, if it does. The caller holds mu.
func (t *Turns) end(turn *Turn) {
	for i, other := range t.turns {
		if other != turn {
			continue
		}
		t.turns = append(t.turns[:i:i], t.turns[i+1:]...)
		t.count(turn, -turn.amount)
		t.admit()
		return
	}
}

// admit lets those in for whom there is room. The caller holds mu.
func (t *Turns) admit() {
	for {
		next := -1
		for i, w := range t.waiting {
			if t.fits(w.turn) && (next < 0 || t.more(t.waiting[next].turn.peer, w.turn.peer)) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		w := t.waiting[next]
		t.waiting = append(t.waiting[:next:next], t.waiting[next+1:]...)
		t.take(w.turn)
		close(w.enter)
	}
}

// fits tells whether there is room for a turn. The caller holds mu.
func (t *Turns) fits(turn *Turn) bool {
	identity, host := t.held[Peer{Identity: turn.peer.Identity}], t.held[turn.peer]
	return turn.amount <= t.free && (identity == 0 || identity < t.free) && (host == 0 || host+identity < t.free)
}

// take gives a turn what it wants. The caller holds mu.
func (t *Turns) take(turn *Turn) {
	turn.since = time.Now()
	t.turns = append(t.turns, turn)
	t.count(turn, turn.amount)
}

func (t *Turns) count(turn *Turn, amount int) {
	t.free -= amount
	for _, of := range []Peer{turn.peer, {Identity: turn.peer.Identity}} {
		if t.held[of] += amount; t.held[of] == 0 {
			delete(t.held, of)
		}
		if turn.peer.Host == "" {
			return // the two are the same
		}
	}
}
