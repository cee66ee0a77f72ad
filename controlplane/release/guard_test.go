package release_test

import (
	"fmt"
	"testing"

	"github.com/tsuji-dev/tsuji/controlplane/release"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// of makes a snapshot of some routes, each with endpoints that say what generation they are of.
func of(routes int, generation string) snapshot.Snapshot {
	config := snapshot.Set{}.With(snapshot.NewItem("settings", nil))
	facts := snapshot.Set{}
	for i := range routes {
		config = config.With(snapshot.NewItem(fmt.Sprintf("route/ns/r%d", i), nil))
		facts = facts.With(snapshot.NewItem(fmt.Sprintf("endpoints/ns/s%d/*", i), []byte(generation)))
	}
	return snapshot.New(1, config, facts)
}

// Dropping more than half of the routes, and more than 20, is held; all else is let through.
func TestGuardHoldsMassDrops(t *testing.T) {
	for _, c := range []struct {
		before, after int
		held          bool
	}{
		{0, 100, false}, {100, 100, false}, {100, 50, false}, {100, 49, true}, {100, 0, true},
		{20, 0, false}, {21, 0, true}, {30, 14, false}, {30, 9, true}, {0, 0, false},
	} {
		next, held := release.Guard(of(c.before, "a"), of(c.after, "b"), "")
		if (held != nil) != c.held {
			t.Errorf("from %d to %d routes: held %v, want %v", c.before, c.after, held, c.held)
			continue
		}
		want := c.after
		if c.held {
			want = c.before
			if held.Before != c.before || held.After != c.after {
				t.Errorf("from %d to %d routes: %+v", c.before, c.after, held)
			}
		}
		if got := next.Config().Len() - 1; got != want {
			t.Errorf("from %d to %d routes: %d are served, want %d", c.before, c.after, got, want)
		}
	}
}

// While a drop is held facts flow: what is left follows, and what only the held routes use is kept.
func TestGuardLetsFactsFlow(t *testing.T) {
	next, held := release.Guard(of(50, "old"), of(5, "new"), "")
	if held == nil {
		t.Fatal("not held")
	}
	for i := range 50 {
		want := "old"
		if i < 5 {
			want = "new"
		}
		if e, ok := next.Get(fmt.Sprintf("endpoints/ns/s%d/*", i)); !ok || string(e.Encoded()) != want {
			t.Errorf("endpoints of service %d: %q %v, want %q", i, e.Encoded(), ok, want)
		}
	}
}

// Only the permission for just this config lets it through.
func TestGuardIsAllowedByDigest(t *testing.T) {
	current, next := of(50, "a"), of(5, "a")
	_, held := release.Guard(current, next, "something else")
	if held == nil {
		t.Fatal("any permission will do")
	}
	if got, again := release.Guard(current, next, held.Allow()); again != nil || !got.Version().Equal(next.Version()) {
		t.Errorf("allowed, but %v is held and %v served", again, got.Version().Short())
	}
	if _, other := release.Guard(current, of(6, "a"), held.Allow()); other == nil {
		t.Error("the permission for one config lets another through")
	}
}
