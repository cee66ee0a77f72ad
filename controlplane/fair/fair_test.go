package fair_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/fair"
)

// Peers are told apart by their address, and by the network in IPv6, where a machine has all of it.
func TestHosts(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7:1234":                "192.0.2.7",
		"[::ffff:192.0.2.7]:1":          "192.0.2.7",
		"[2001:db8:1:2:3:4:5:6]:1":      "2001:db8:1:2::/64",
		"[2001:db8:1:2:ffff::1%eth0]:1": "2001:db8:1:2::/64",
		"@":                             "",
		"":                              "",
	} {
		if got := fair.HostOf(address); got != want {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
}

// When all places are taken, the oldest of whoever has most gives way to who has fewer, and nobody else to anybody.
func TestPlaces(t *testing.T) {
	p := fair.NewPlaces()
	var gone []string
	enter := func(host string, n int) bool {
		_, ok := p.Enter("key", host, 10, func() { gone = append(gone, fmt.Sprint(host, n)) })
		return ok
	}
	for i := range 20 {
		if got := enter("mallory", i); got != (i < 10) {
			t.Errorf("mallory's %d: %t", i, got)
		}
	}
	for i := range 8 {
		if got, want := enter("alice", i), i < 5; got != want { // with five each, none has more
			t.Errorf("alice's %d: %t", i, got)
		}
	}
	if fmt.Sprint(gone) != "[mallory0 mallory1 mallory2 mallory3 mallory4]" {
		t.Errorf("these gave way: %v", gone)
	}
	if place, ok := p.Enter("another", "mallory", 1, nil); !ok {
		t.Error("a key's places count against another's")
	} else {
		place.Leave()
		place.Leave()
	}
	if _, ok := p.Enter("another", "alice", 1, nil); !ok {
		t.Error("a place that was left is not free")
	}
}

// Who pushes in takes the place of the oldest of its own host, or of the host with more.
func TestPush(t *testing.T) {
	t.Parallel()
	p := fair.NewPlaces()
	var left []string
	push := func(host, name string) *fair.Place { return p.Push("k", host, 3, func() { left = append(left, name) }) }
	push("a", "a1")
	a2 := push("a", "a2")
	push("b", "b1")
	push("b", "b2") // a has more
	push("a", "a3") // b has more now
	push("c", "c1") // a has more again
	a2.Leave()      // it has a place no more
	push("d", "d1") // a, b and c have one each, and d has none
	if got := fmt.Sprint(left); got != "[a1 b1 a2 a3]" {
		t.Errorf("these gave way: %s", got)
	}
}

// However many turns an identity and its host ask for, others find some; who waits is let in by who holds least.
func TestTurns(t *testing.T) {
	turns := fair.NewTurns(64, 0)
	taken := func(identity, host string) (all []*fair.Turn) {
		for {
			turn := turns.TryTake(fair.Peer{Identity: identity, Host: host}, 1, nil)
			if turn == nil {
				return all
			}
			all = append(all, turn)
		}
	}
	first := taken("a", "1")
	for _, c := range []struct {
		identity, host string
		least          int
	}{{"a", "2", 4}, {"b", "1", 8}, {"c", "1", 4}, {"d", "1", 2}} {
		if n := len(taken(c.identity, c.host)); n < c.least {
			t.Errorf("%s at %s has %d after others", c.identity, c.host, n)
		}
	}
	if n := len(first); n < 16 || n > 32 {
		t.Errorf("who comes first has %d", n)
	}
	turns = fair.NewTurns(1, 0)
	only := turns.TryTake(fair.Peer{Identity: "a"}, 1, nil)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan *fair.Turn)
	go func() { left <- turns.Take(ctx, fair.Peer{Identity: "b"}, 1, nil) }()
	cancel()
	if turn := <-left; turn != nil {
		t.Error("who left has a turn")
	}
	got := make(chan *fair.Turn)
	go func() { got <- turns.Take(t.Context(), fair.Peer{Identity: "c"}, 5, nil) }()
	only.Done()
	only.Done()
	(<-got).Done()
	if turns.TryTake(fair.Peer{Identity: "a"}, 1, nil) == nil {
		t.Error("what was given back is not free")
	}
}

// Who takes too long while others wait gives way, and of those who holds most; while nobody waits nobody does.
func TestTurnsThatTakeTooLong(t *testing.T) {
	turns := fair.NewTurns(20, time.Millisecond)
	gone := make(chan string, 10)
	take := func(identity string, amount int) *fair.Turn {
		return turns.Take(t.Context(), fair.Peer{Identity: identity, Host: "h"}, amount, func() { gone <- identity })
	}
	take("modest", 1)
	take("many", 3)
	take("many", 3)
	if len(gone) > 0 {
		t.Errorf("%s gave way to nobody", <-gone)
	}
	if take("large", 15) == nil {
		t.Error("it has no turn")
	}
	if len(gone) != 1 || <-gone != "many" {
		t.Error("it was not who holds most that gave way")
	}
}
