package stats

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// BenchmarkScrape reads 10,000 backends of two servers each, and asks HAProxy's own exporter for the same; beside it runs
// a client, one request at a time. Of its requests it is told for how long HAProxy, which has one thread, was busy while
// each waited: with its own answer (see idle) and with whatever came first. A busy machine does not change that much.
func BenchmarkScrape(b *testing.B) {
	var config strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&config, "backend be_http:project-%d:route-%d from d\n", i/20, i)
		for s, pod := range []string{"abcde", "fghij"} {
			address := fmt.Sprintf("10.%d.%d.%d:8080", s, i/250, i%250)
			fmt.Fprintf(&config, "  server pod:app-%d-7d9f8b6c5-%s:svc-%d:http:%s %s weight 1\n", i, pod, i, address, address)
		}
	}
	w := start(b, haproxytest.Binary(b), Config{Interval: time.Nanosecond}, config.String())
	pid := w.pidOf()
	out := &counting{}
	serve := func(gzip bool) func() {
		return func() {
			r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
			if gzip {
				r.Header.Set("Accept-Encoding", "gzip")
			}
			w.ServeHTTP(out, r)
		}
	}
	fetch := func(path string) func() {
		return func() {
			a, err := http.Get(fmt.Sprintf("http://%s%s", w.stats, path))
			if err != nil {
				b.Fatal(err)
			}
			defer a.Body.Close()
			n, err := io.Copy(io.Discard, a.Body)
			if err != nil {
				b.Fatal(err)
			}
			out.n += int(n)
		}
	}
	for _, c := range []struct {
		name string
		f    func()
		long bool // between two readings
	}{
		{"idle", func() { time.Sleep(200 * time.Millisecond) }, false},
		{"read+gzip", serve(true), false},
		{"read+text", serve(false), false},
		{"between/gzip", serve(true), true},
		{"between/text", serve(false), true},
		{"prometheus-exporter", fetch("/prometheus"), false},
		{"prometheus-exporter/no-servers", fetch("/prometheus?scope=global&scope=frontend&scope=backend"), false},
	} {
		b.Run(c.name, func(b *testing.B) {
			w.cfg.Interval = time.Nanosecond
			if c.long {
				w.cfg.Interval = time.Hour
			}
			w.Record(b.Context())
			out.n = 0
			stop := w.client(b, pid)
			b.ReportAllocs()
			cpu := busy(b, pid)
			for b.Loop() {
				c.f()
			}
			cpu = busy(b, pid) - cpu
			waits, own := stop()
			n := float64(b.N)
			b.ReportMetric(float64(out.n)/n/1e6, "MB")
			b.ReportMetric(max(0, ms(cpu-own))/n, "HAProxy-ms")
			b.ReportMetric(ms(waits[len(waits)/2]), "p50-ms")
			b.ReportMetric(ms(waits[len(waits)*99/100]), "p99-ms")
			b.ReportMetric(ms(waits[len(waits)*999/1000]), "p99.9-ms")
			b.ReportMetric(ms(waits[len(waits)-1]), "max-ms")
		})
	}
	http.DefaultClient.CloseIdleConnections()
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// counting is who asks, and counts bytes.
type counting struct{ n int }

func (c *counting) Header() http.Header         { return http.Header{} }
func (c *counting) WriteHeader(int)             {}
func (c *counting) Write(b []byte) (int, error) { c.n += len(b); return len(b), nil }

// client asks HAProxy for something, over and over, until stopped. It tells for how long HAProxy was busy while each waited, in
// order, and in all with these requests alone.
func (w *world) client(b *testing.B, pid int) (stop func() (waits []time.Duration, own time.Duration)) {
	conn, err := net.Dial("tcp", w.http)
	if err != nil {
		b.Fatal(err)
	}
	var list []time.Duration
	var wg sync.WaitGroup
	quit := make(chan struct{})
	wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			select {
			case <-quit:
				return
			case <-time.After(time.Millisecond):
			}
			before := busy(b, pid)
			if _, err := io.WriteString(conn, "GET /own HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
				b.Error(err)
				return
			}
			if _, err := conn.Read(buf); err != nil {
				b.Error(err)
				return
			}
			list = append(list, busy(b, pid)-before)
		}
	})
	return func() ([]time.Duration, time.Duration) {
		close(quit)
		wg.Wait()
		conn.Close()
		slices.Sort(list)
		return list, time.Duration(len(list)) * list[0] // the shortest waited for nothing else
	}
}

// busy returns the time for which a process has used a processor, as of now.
func busy(b *testing.B, pid int) time.Duration {
	b.Helper()
	const scheduled = 2 // CPUCLOCK_SCHED: to the nanosecond, and not to the tick as /proc has it
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|scheduled, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// pidOf returns the worker's process.
func (w *world) pidOf() int {
	w.t.Helper()
	p, err := w.process.Processes(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return p.Worker
}
