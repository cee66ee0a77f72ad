package checkrate_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/checkrate"
)

// asker is what a Route asks for.
type asker struct {
	servers  int
	interval time.Duration
}

func (a asker) class() int { return checkrate.Class(a.servers, a.interval) }

// inForce returns the intervals that Routes have.
func inForce(all map[string]asker) map[string]time.Duration {
	var counts checkrate.Counts
	for _, a := range all {
		counts.Add(a.class(), 1)
	}
	share := counts.Share(func(class int) (names []string) {
		for name, a := range all {
			if a.class() == class {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	})
	intervals := map[string]time.Duration{}
	for name, a := range all {
		intervals[name] = a.interval << share.Doublings(name, a.class(), a.interval)
	}
	return intervals
}

// Whatever Routes ask for, all together have no more than the bound, one has no more than its own, nobody who asks for
// little is slowed for those who ask for more; and what one of them asks for makes a difference to a few others at most.
func TestOneRouteMattersToFew(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2)) // the same on every run
	draw := func() asker {
		return asker{1 + r.IntN([]int{1, 3, 40, 5000}[r.IntN(4)]), time.Duration(1+r.IntN(20)) * time.Second}
	}
	crowded := 0
	for _, routes := range []int{1, 2, 5, 12, 30, 100} {
		all := map[string]asker{}
		name := func() string { return fmt.Sprint("r", r.IntN(2*routes)) }
		for range routes {
			all[name()] = draw()
		}
		before := inForce(all)
		for step := range 300 {
			changed := name()
			if r.IntN(3) == 0 {
				delete(all, changed)
			} else {
				all[changed] = draw()
			}
			now := inForce(all)
			few, sum := 0, 0.0
			for name, d := range now {
				if old, ok := before[name]; ok && old != d && name != changed {
					few++
				}
				rate := float64(all[name].servers) / d.Seconds()
				if sum += rate; rate > checkrate.MostOfOne {
					t.Errorf("step %d of %d routes: %s has %g checks a second", step, routes, name, rate)
				}
				if d > all[name].interval {
					crowded++
				}
				for other, o := range now {
					slower := d > all[name].interval && float64(all[other].servers)/o.Seconds() > 4*rate
					if slower && o > all[other].interval {
						t.Errorf("step %d of %d routes: %s has much less than %s", step, routes, name, other)
					}
				}
			}
			if few > 4 || sum > checkrate.Most {
				t.Fatalf("step %d of %d routes: %d others changed; %g checks a second", step, routes, few, sum)
			}
			before = now
		}
	}
	if crowded == 0 {
		t.Error("there was room for all")
	}
}
