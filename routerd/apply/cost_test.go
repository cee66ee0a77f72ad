package apply

import (
	"testing"
	"time"
)

// A reload is chosen for a large change where it is cheaper, and never for a small one, however slow the machine was.
func TestCosts(t *testing.T) {
	t.Parallel()
	quiet, busy := newCosts(), newCosts()
	for range 100 {
		quiet.learn(60, 2, 1200*time.Microsecond)
		quiet.learn(60, 0, time.Millisecond)
		busy.learn(60, 2, 3*time.Second)
		busy.learn(60, 0, time.Second)
	}
	for _, c := range []struct {
		what                 string
		operations, backends int
		quiet, busy          bool // a reload
	}{
		{"nothing", 0, 0, false, false},
		{"a route", 20, 1, false, false},
		{"some routes", 900, 60, false, false},
		{"many", 15_000, 1_000, false, true},
		{"nearly all", 150_000, 10_000, true, true},
	} {
		if q, b := quiet.tooMany(c.operations, c.backends), busy.tooMany(c.operations, c.backends); q != c.quiet || b != c.busy {
			t.Errorf("%s: a reload on a quiet machine %t, on a busy one %t", c.what, q, b)
		}
	}

	before := newCosts()
	once := before
	once.learn(60, 2, time.Hour)
	if once.backend > 2*before.backend {
		t.Errorf("one pause made a backend cost %s, and %s before", once.backend, before.backend)
	}
}
