package compile

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// claimant is a Route with a claim below x.test, made so many seconds after the first.
func claimant(namespace, name, host string, wildcard bool, path string, second int) *route {
	return &route{id: id{Namespace: namespace, Name: name}, claim: &claim{
		host: host, path: path, wildcard: wildcard, created: time.Unix(int64(second), 0), uid: name,
	}}
}

// A wildcard loses to the first by name of the hosts below it that an older Route of another namespace holds, as who goes
// through all of them finds it.
func TestWildcardsBelowHosts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var rs []*route
		for n := range rapid.IntRange(1, 12).Draw(t, "routes") {
			rs = append(rs, claimant(
				rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "namespace"), fmt.Sprint("r", n),
				rapid.SampledFrom([]string{"a.x.test", "b.x.test", "c.x.test", "d.x.test"}).Draw(t, "host"),
				rapid.Bool().Draw(t, "wildcard"), rapid.SampledFrom([]string{"/", "/p"}).Draw(t, "path"), n,
			))
		}
		lost := decide(rs, true)
		for i, r := range rs {
			if !r.claim.wildcard {
				continue
			}
			first, beside := "", false // the first host that blocks it; whether another wildcard is in its way
			for j, o := range rs[:i] {
				switch {
				case lost[j] != "":
				case o.claim.wildcard:
					beside = beside || o.id.Namespace != r.id.Namespace || o.claim.path == r.claim.path
				case o.id.Namespace != r.id.Namespace && (first == "" || o.claim.host < first):
					first = o.claim.host
				}
			}
			want := ""
			if first != "" {
				want = fmt.Sprintf("a route in another namespace has host %s, blocking *.x.test, and ", first)
			}
			if !beside && (want == "") != (lost[i] == "") || !beside && len(lost[i]) >= len(want) && lost[i][:len(want)] != want {
				t.Fatalf("%s loses for %q, want %q", r.id.Name, lost[i], want)
			}
		}
	})
}

// To decide a domain with as many wildcards as hosts takes as long as there are of them, and not as there are pairs.
func TestWildcardsAreLinear(t *testing.T) {
	t.Parallel()
	took := func(n int) time.Duration {
		var rs []*route
		for i := range n {
			rs = append(rs, claimant("victim", fmt.Sprint("h", i), fmt.Sprintf("h%d.x.test", i), false, "/", i))
		}
		for i := range n {
			rs = append(rs, claimant("tenant", fmt.Sprint("w", i), "w.x.test", true, fmt.Sprint("/", i), n+i))
		}
		var all []time.Duration
		for range 5 {
			begun := time.Now()
			if lost := decide(rs, true); lost[0] != "" || lost[2*n-1] == "" {
				t.Fatalf("%q, %q", lost[0], lost[2*n-1])
			}
			all = append(all, time.Since(begun))
		}
		return slices.Min(all)
	}
	const times = 16
	if small, large := took(500), took(500*times); large > 5*times*small {
		t.Errorf("%d times as many wildcards and hosts took %v in place of %v", times, large, small)
	}
}
