package release_test

import (
	"fmt"
	"testing"

	"github.com/tsuji-dev/tsuji/controlplane/release"
)

// Whatever others change with each piece, nobody waits for ever: neither for many that change less, nor for what leaves
// no room for a large unit, nor for large units of others.
func TestNobodyWaitsForEver(t *testing.T) {
	t.Parallel()
	busy := func(namespaces, services, endpoints, routes int) func(n int) []crowded {
		return func(n int) (all []crowded) {
			for i := range namespaces {
				all = append(all, crowded{
					namespace: fmt.Sprintf("busy%02d", i),
					services:  services, endpoints: endpoints, routes: routes, from: endpoints * (n % 2),
				})
			}
			return all
		}
	}
	for _, c := range []struct {
		what   string
		others func(n int) []crowded
		victim func(n int) crowded // before the first piece, and from there on
	}{
		{"many that change less", busy(60, 1, 20, 1), func(n int) crowded {
			return crowded{namespace: "victim", services: 1, endpoints: 2, routes: 10 * min(n, 1)}
		}},
		{"many that change less, and it changes itself", busy(60, 1, 20, 1), func(n int) crowded {
			return crowded{namespace: "victim", services: 1, endpoints: 2, routes: 10 * min(n, 1), from: n}
		}},
		{"a large unit beside others", busy(3, 1, 250, 1), func(n int) crowded {
			return crowded{namespace: "victim", services: 1, endpoints: 900, routes: 1 + min(n, 1)}
		}},
		{"a large unit beside large ones", func(n int) (all []crowded) {
			for i := range 3 {
				all = append(all, crowded{
					namespace: fmt.Sprintf("busy%02d", i), services: 1, endpoints: 1100, routes: 1, path: fmt.Sprint("/", n),
				})
			}
			return all
		}, func(n int) crowded {
			return crowded{namespace: "victim", services: 1, endpoints: 1200, routes: 1 + min(n, 1)}
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			p := published(worldOf(t, append(c.others(0), c.victim(0))...))
			name := fmt.Sprintf("route/victim/r0-%d", c.victim(1).routes-1)
			for n := 1; ; n++ {
				p.Want(worldOf(t, append(c.others(n), c.victim(n))...))
				piece, _ := p.Next(release.Routes)
				if _, ok := piece.Get(name); ok {
					return
				}
				if n == 10 {
					t.Fatalf("%s is not in %d pieces", name, n)
				}
			}
		})
	}
}
