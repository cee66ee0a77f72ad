package health

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func pod(i int, weight int) render.Server {
	return render.Server{Name: fmt.Sprintf("pod:p%d:s:http:10.0.0.%d:80", i, i), Address: fmt.Sprintf("10.0.0.%d", i), Port: 80, Weight: weight}
}

// For any order of suspicions, probes' ends, deaths, recoveries and changes of endpoints: a server is suspended only if
// another that takes traffic is not; no more probes are under way than allowed; and once all answer, all are in service.
func TestJudge(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 4).Draw(t, "most")
		j, now := newJudge(most), begin
		names := []string{"be_http:ns:a", "be_http:ns:b"}
		servers := map[string][]render.Server{}
		for _, n := range names {
			for i := range rapid.IntRange(1, 4).Draw(t, "servers") {
				servers[n] = append(servers[n], pod(i, 256))
			}
		}
		down := map[apply.Server]bool{}
		var flying []probe
		law := func() {
			if len(flying) > most {
				t.Fatalf("%d probes at once, want at most %d", len(flying), most)
			}
			out := map[apply.Server]bool{}
			for _, s := range j.wanted() {
				out[s] = true
			}
			for _, n := range names {
				left, suspended := 0, 0
				for _, s := range servers[n] {
					switch {
					case out[apply.Server{Backend: n, Name: s.Name}]:
						suspended++
						if s.Checked() {
							t.Fatalf("%s has a check of its own", s.Name)
						}
					case s.Weight > 0:
						left++
					}
				}
				if suspended > 0 && left == 0 {
					t.Fatalf("%s: %d suspended, none left", n, suspended)
				}
			}
		}
		start := func() { flying = append(flying, j.probes(now)...) }
		end := func(i int) {
			p := flying[i]
			flying = append(flying[:i], flying[i+1:]...)
			j.result(now, p, !down[p.Server])
		}
		one := func() (string, int) {
			n := rapid.SampledFrom(names).Draw(t, "backend")
			return n, rapid.IntRange(0, len(servers[n])-1).Draw(t, "server")
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { law() },
			"suspect": func(*rapid.T) {
				n, i := one()
				j.suspect(now, n, servers[n], []string{servers[n][i].Name})
			},
			"down": func(*rapid.T) { n, i := one(); down[apply.Server{Backend: n, Name: servers[n][i].Name}] = true },
			"up":   func(*rapid.T) { n, i := one(); delete(down, apply.Server{Backend: n, Name: servers[n][i].Name}) },
			"change": func(*rapid.T) {
				n := rapid.SampledFrom(names).Draw(t, "backend")
				servers[n] = nil
				for i := range rapid.IntRange(1, 4).Draw(t, "servers") {
					s := pod(i, rapid.SampledFrom([]int{0, 256}).Draw(t, "weight"))
					s.Port += uint32(rapid.IntRange(0, 1).Draw(t, "moved"))
					if rapid.IntRange(0, 9).Draw(t, "checked") == 0 {
						s.Params = []string{"check"}
					}
					servers[n] = append(servers[n], s)
				}
				j.update(now, n, servers[n])
			},
			"probe": func(*rapid.T) { start() },
			"wait":  func(*rapid.T) { now = now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond) },
			"end": func(*rapid.T) {
				if len(flying) > 0 {
					end(rapid.IntRange(0, len(flying)-1).Draw(t, "probe"))
				}
			},
		})
		clear(down) // and all is well in the end
		for range 2000 {
			start()
			for len(flying) > 0 {
				end(0)
			}
			law()
			at, ok := j.next()
			if !ok {
				break
			}
			if at.After(now) {
				now = at
			}
		}
		if w := j.wanted(); len(w) > 0 || j.dead() > 0 || j.inFlight != 0 {
			t.Fatalf("all answer, but %v are suspended, %d dead, %d probed", w, j.dead(), j.inFlight)
		}
		now = now.Add(memory)
		for _, n := range names {
			j.update(now, n, servers[n])
		}
		if n := j.watching(); len(n) > 0 {
			t.Fatalf("all is quiet, but %v are watched", n)
		}
	})
}

// run probes what is due until nothing is due before the end; a probe takes no time.
func run(j *judge, now, end time.Time, answers func(probe, time.Time) bool) time.Time {
	for {
		for _, p := range j.probes(now) {
			j.result(now, p, answers(p, now))
		}
		at, ok := j.next()
		if !ok || at.After(end) {
			return end
		}
		now = at
	}
}

// A server that dies is suspended after a probe of two attempts, and restored by the first that succeeds; if it died again
// within a minute, by three. Dead, it is probed every second at first, later every four, by one attempt.
func TestLifeOfAServer(t *testing.T) {
	t.Parallel()
	j := newJudge(10)
	servers := []render.Server{pod(1, 256), pod(2, 256)}
	const name = "be_http:ns:a"
	var probes []time.Duration
	up := func(from time.Duration) func(probe, time.Time) bool {
		return func(p probe, now time.Time) bool {
			if want := min(triesToDie, max(1, triesToDie-len(probes))); p.tries != want {
				t.Errorf("probe %d has %d attempts, want %d", len(probes), p.tries, want)
			}
			probes = append(probes, now.Sub(begin))
			return now.Sub(begin) >= from
		}
	}
	j.suspect(begin, name, servers, []string{servers[0].Name})
	run(j, begin, begin.Add(time.Second-1), up(30*time.Second))
	if w := j.wanted(); len(w) != 1 || w[0].Name != servers[0].Name || fmt.Sprint(probes) != "[0s]" {
		t.Fatalf("after %v: %v", probes, w)
	}
	run(j, begin.Add(time.Second), begin.Add(time.Minute), up(30*time.Second))
	if w := j.wanted(); len(w) != 0 {
		t.Fatalf("it answers, but %v", w)
	}
	for i, p := range probes[1:] {
		if d := p - probes[i]; d < firstWait || d > longestWait {
			t.Errorf("probes at %v", probes)
		}
	}
	again := begin.Add(40 * time.Second)
	j.suspect(again, name, servers, []string{servers[0].Name})
	run(j, again, again.Add(2*time.Second), func(probe, time.Time) bool { return false })
	n := 0
	run(j, again.Add(2*time.Second), again.Add(30*time.Second), func(probe, time.Time) bool { n++; return true })
	if w := j.wanted(); len(w) != 0 || n != triesToLive {
		t.Errorf("restored by %d probes: %v", n, w)
	}
}
