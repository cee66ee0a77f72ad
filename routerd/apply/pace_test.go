package apply

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A namespace has five reloads, and one more after two minutes, four, and so on up to an hour; when it asks for none for long
// enough it has five again.
func TestBudget(t *testing.T) {
	t.Parallel()
	var p pace
	begin := time.Unix(1e9, 0)
	now := begin
	var spent []string
	for now.Before(begin.Add(8 * time.Hour)) { // it asks whenever it may
		if wait := p.until("a", now); wait > 0 {
			now = now.Add(wait)
			continue
		}
		spent = append(spent, now.Sub(begin).String())
		p.spend("a", now)
	}
	const want = "0s 0s 0s 0s 0s 2m0s 6m0s 14m0s 30m0s 1h2m0s 2h2m0s 3h2m0s 4h2m0s 5h2m0s 6h2m0s 7h2m0s"
	if got := strings.Join(spent, " "); got != want {
		t.Errorf("spent at %s, want %s", got, want)
	}
	if wait := p.until("b", now); wait != 0 {
		t.Errorf("another namespace waits %s", wait)
	}
	if wait := p.until("a", now.Add(59*time.Minute)); wait != 0 {
		t.Errorf("after an hour it waits %s", wait)
	}
	now = now.Add(6 * time.Hour)
	for i := range 5 {
		if wait := p.until("a", now); wait != 0 {
			t.Errorf("after a long pause it waits %s for number %d", wait, i)
		}
		p.spend("a", now)
	}
	if wait := p.until("a", now); wait != 2*time.Minute {
		t.Errorf("after a long pause and five more it waits %s", wait)
	}
	p.spend("b", now.Add(24*time.Hour))
	if len(p.budgets) != 1 {
		t.Errorf("%d budgets are kept, want that of b", len(p.budgets))
	}
}

// Reloads follow each other freely a few times; under sustained load the pauses double, up to the most that whoever waits
// may be made to wait; and after a quiet time it begins anew.
func TestPace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		most time.Duration
		want string
	}{
		{mostPause, "0s 0s 0s 0s 1s 3s 7s 15s 31s 1m3s 2m7s 4m7s 6m7s 8m7s 10m7s 12m7s"},
		{mostWait, "0s 0s 0s 0s 1s 3s 7s 12s 17s 22s 27s 32s 37s 42s 47s 52s"},
	} {
		var p pace
		begin := time.Unix(1e9, 0)
		now := begin
		var at []string
		for len(at) < 16 {
			if wait := p.wait(now, c.most); wait > 0 {
				now = now.Add(wait)
				continue
			}
			at = append(at, now.Sub(begin).String())
			p.reloaded(now)
		}
		if got := fmt.Sprint(strings.Join(at, " ")); got != c.want {
			t.Errorf("at most %s: reloads at %s, want %s", c.most, got, c.want)
		}
		if now = now.Add(quiet + 1); p.wait(now, c.most) != 0 {
			t.Errorf("at most %s: it waits after a quiet time", c.most)
		}
		for range freely {
			p.reloaded(now)
		}
		if wait := p.wait(now, c.most); wait != pause {
			t.Errorf("at most %s: after a quiet time and %d more it waits %s", c.most, freely, wait)
		}
	}
}
