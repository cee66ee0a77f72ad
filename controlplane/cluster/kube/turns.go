package kube

import (
	"context"
	"fmt"
	"sync"
)

// turns are what those who would each like one wait for. There may be thousands of waiters in one namespace, and none
// of another waits for more than one of them: namespaces take turns.
type turns struct {
	some chan struct{} // has an element when there may be a waiter

	mu      sync.Mutex // guards what follows
	waiting map[string][]*turn
	ring    []string // the namespaces in waiting, the next one first
}

// A turn is somebody's who waits for it.
type turn struct {
	come chan struct{} // closed when it has
	left bool          // nobody waits for it any more; guarded by turns.mu
}

func newTurns() *turns {
	return &turns{some: make(chan struct{}, 1), waiting: map[string][]*turn{}}
}

// wait returns nil when a turn has come. An error means that ctx ended before, and that none was taken.
func (q *turns) wait(ctx context.Context, namespace string) error {
	t := &turn{come: make(chan struct{})}
	q.mu.Lock()
	if len(q.waiting[namespace]) == 0 {
		q.ring = append(q.ring, namespace)
	}
	q.waiting[namespace] = append(q.waiting[namespace], t)
	q.mu.Unlock()
	select {
	case q.some <- struct{}{}:
	default:
	}
	select {
	case <-t.come:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-t.come: // both at once
		return nil
	default:
		t.left = true
		return fmt.Errorf("wait for a turn: %w", ctx.Err())
	}
}

// give gives one turn away, and tells whether there was somebody to take it.
func (q *turns) give() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.ring) > 0 {
		namespace := q.ring[0]
		q.ring = q.ring[1:]
		of := q.waiting[namespace]
		for len(of) > 0 && of[0].left {
			of = of[1:]
		}
		if len(of) == 0 {
			delete(q.waiting, namespace)
			continue
		}
		close(of[0].come)
		if of = of[1:]; len(of) == 0 {
			delete(q.waiting, namespace)
			return true
		}
		q.waiting[namespace] = of
		q.ring = append(q.ring, namespace)
		return true
	}
	return false
}

// run gives turns away, each when next returns, until ctx ends.
func (q *turns) run(ctx context.Context, next func(ctx context.Context) error) {
	for next(ctx) == nil {
		for !q.give() {
			select {
			case <-ctx.Done():
				return
			case <-q.some:
			}
		}
	}
}
