package apply_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// BenchmarkDrift is whole rounds of the check for drift with so many routes, each of them with two endpoints and a
// certificate of its own: how many turns a round takes, of which there is one each second; what a turn takes, the slowest
// too; and what HAProxy spends on it.
func BenchmarkDrift(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprint("routes=", n), func(b *testing.B) {
			w := newWorld(b, haproxytest.Binary(b))
			r := w.router(options{idle: true})
			answer := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
			one, two := serveHandler(b, answer), serveHandler(b, answer)
			chain, key, _ := issue("any.test")
			var resources []*tsujiv1.Resource
			for i := range n {
				name := fmt.Sprint("r", i)
				e := edge(name)
				e.GetRoute().Hsts = "max-age=5"
				resources = append(resources, e, endpoints(name, one, two), &tsujiv1.Resource{
					Name: e.GetRoute().GetCertificate(), Kind: &tsujiv1.Resource_Certificate{
						Certificate: &tsujiv1.Certificate{ChainPem: chain, PrivateKey: &tsujiv1.PrivateKey{Pem: key}},
					},
				})
			}
			r.put(resources...)
			worker := r.pids().Worker
			round := func() (turns []time.Duration, cpu []time.Duration) {
				for {
					before, begun := cpuTime(b, worker), time.Now()
					ended, err := r.DriftTurn(b.Context())
					must(b, err)
					turns, cpu = append(turns, time.Since(begun)), append(cpu, cpuTime(b, worker)-before)
					if ended {
						return turns, cpu
					}
				}
			}
			round()
			var turns, cpu []time.Duration
			rounds := 0
			for b.Loop() {
				t, c := round()
				list := c[len(c)-1]
				b.ReportMetric(float64(list.Microseconds())/1000, "HAProxy-list-ms") // a buffer at a time, and without the turn
				turns, cpu = append(turns, t[:len(t)-1]...), append(cpu, c[:len(c)-1]...)
				rounds++
			}
			b.ReportMetric(float64(len(turns)+rounds)/float64(rounds), "turns/round")
			for what, all := range map[string][]time.Duration{"turn": turns, "HAProxy": cpu} {
				slices.Sort(all)
				b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, what+"-p50-ms")
				b.ReportMetric(float64(all[len(all)-1].Microseconds())/1000, what+"-max-ms")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// cpuTime is the time that a process has been running on a processor.
func cpuTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	must(t, err)
	var sum int64
	for _, f := range files {
		text, err := os.ReadFile(f)
		must(t, err)
		first, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		must(t, err)
		sum += ns
	}
	return time.Duration(sum)
}
