package apply_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// The first snapshot starts HAProxy; after that endpoints come, go, return and change weight in the same
// worker. Before 3.0 only those that the worker knows do: one that is new to it costs a reload.
func TestEndpoints(t *testing.T) { haproxytest.Each(t, endpointsStory) }

func endpointsStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	if _, ok := r.InForce(); ok {
		t.Error("something is in force before the first snapshot")
	}
	if !w.deaf() {
		t.Error("the port is bound before the first snapshot")
	}
	one, two, three := serve(t, "one"), serve(t, "two"), serve(t, "three")
	a := route("a", service("a", 3), service("b", 1))
	first := r.put(a, endpoints("a", one))
	worker := r.pids().Worker
	if got := w.get("a.test"); got != "one" {
		t.Errorf("at first: %s", got)
	}
	if s, ok := r.InForce(); !ok || !s.Version().Equal(first.Version()) {
		t.Errorf("in force: %v", s.Version())
	}
	steps := []struct {
		what string
		put  []*tsujiv1.Resource
		want map[string]int // of 20
		old  string         // how HAProxy before 3.0 gets there
	}{
		{"moved", []*tsujiv1.Resource{a, endpoints("a", two)}, map[string]int{"two": 20}, "reload"},
		{"back", []*tsujiv1.Resource{a, endpoints("a", one)}, map[string]int{"one": 20}, "reload"},
		{"a second service", []*tsujiv1.Resource{a, endpoints("a", one), endpoints("b", three)}, map[string]int{"one": 15, "three": 5}, "reload"},
		{"two and one", []*tsujiv1.Resource{a, endpoints("a", one, two), endpoints("b", three)}, nil, "reload"},
		{"one of the two left", []*tsujiv1.Resource{a, endpoints("a", one), endpoints("b", three)}, map[string]int{"one": 15, "three": 5}, "runtime"},
		{"none", []*tsujiv1.Resource{a}, map[string]int{"503": 20}, "runtime"},
		{"all again", []*tsujiv1.Resource{a, endpoints("a", one), endpoints("b", three)}, map[string]int{"one": 15, "three": 5}, "runtime"},
	}
	for _, s := range steps {
		how := s.old
		if r.can.DynamicServers {
			how = "runtime"
		}
		applied := r.metrics.Applies.WithLabelValues(how, "ok")
		before := testutil.ToFloat64(applied)
		r.put(s.put...)
		if testutil.ToFloat64(applied) != before+1 {
			t.Errorf("%s: not by %s", s.what, how)
		}
		got := w.count("a.test", 20)
		for _, k := range []string{"one", "two", "three", "503"} {
			if d := got[k] - s.want[k]; s.want != nil && (d < -2 || d > 2) {
				t.Errorf("%s: %v, want %v", s.what, got, s.want)
				break
			}
		}
	}
	if p := r.pids(); r.can.DynamicServers && (p.Worker != worker || len(p.Old) > 0) {
		t.Errorf("there was a reload: %d became %+v", worker, p)
	}
}

// A server that leaves while it answers finishes its answer, and is deleted after that; before 3.0 it stays in
// maintenance until the next reload.
func TestDrain(t *testing.T) { haproxytest.Each(t, drainStory) }

func drainStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	slow, begun, finish := serveSlowly(t)
	next := serve(t, "next")
	r.put(route("a", service("a", 100), service("b", 1)), endpoints("a", slow), endpoints("b", next))
	worker := r.pids().Worker
	answer := make(chan string, 1)
	go func() {
		s, err := w.tryGet("a.test")
		answer <- fmt.Sprint(s, err)
	}()
	<-begun
	r.put(route("a", service("a", 100), service("b", 1)), endpoints("b", next))
	if got := w.get("a.test"); got != "next" {
		t.Errorf("new traffic: %s", got)
	}
	rt, err := r.process.Connect(t.Context())
	must(t, err)
	defer rt.Close()
	servers := func() int {
		states, err := rt.BackendsState(t.Context(), "be_http:ns:a")
		must(t, err)
		return len(states[0])
	}
	r.TryDeletions(t.Context())
	if n := servers(); n != 2 || r.leaving("servers") != 1 {
		t.Errorf("%d servers while one drains", n)
	}
	finish()
	if got := <-answer; got != "begun<nil>" {
		t.Errorf("the answer was cut: %s", got)
	}
	if !r.can.DynamicServers {
		r.TryDeletions(t.Context())
		if n := servers(); n != 2 || r.pids().Worker != worker {
			t.Errorf("%d servers, %+v: want 2 in process %d", n, r.pids(), worker)
		}
		r.put(route("a", service("a", 100), service("b", 1)), endpoints("b", next), route("b"))
		rt.Close()
		rt, err = r.process.Connect(t.Context())
		must(t, err)
		defer rt.Close()
	}
	eventually(t, "the drained server is deleted", func() bool { return servers() == 1 })
	eventually(t, "nothing is leaving", func() bool { return r.leaving("servers") == 0 })
}

// A renewed certificate is served without a reload, and the files follow when there is time.
func TestCertificate(t *testing.T) { haproxytest.Each(t, certificateStory) }

func certificateStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	cert, serial := certificate("a", false)
	other, otherSerial := certificate("b", false)
	ep := endpoints("a", serve(t, "a"))
	r.put(edge("a"), edge("b"), ep, cert, other)
	worker := r.pids().Worker
	if got := w.certificate("a.test"); got != serial {
		t.Errorf("served %s, want %s", got, serial)
	}
	cert, serial = certificate("a", false)
	last := r.put(edge("a"), edge("b"), ep, cert, other)
	if got := w.certificate("a.test"); got != serial {
		t.Errorf("renewed: served %s, want %s", got, serial)
	}
	if got := w.certificate("b.test"); got != otherSerial {
		t.Errorf("the other: served %s, want %s", got, otherSerial)
	}
	if p := r.pids(); p.Worker != worker {
		t.Errorf("there was a reload: %d became %+v", worker, p)
	}
	eventually(t, "the files are up to date", func() bool {
		b, err := os.ReadFile(filepath.Join(w.dir, "maps/stamp.map"))
		return err == nil && strings.Contains(string(b), last.Version().String())
	})
}

// Where backends may not come at run time a new route costs one reload, and nobody notices: neither connections that
// live nor new ones.
func TestReloadUnderLoad(t *testing.T) { haproxytest.Each(t, reloadUnderLoadStory) }

func reloadUnderLoadStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{noBackends: true})
	ep := endpoints("a", serve(t, "a"))
	r.put(route("a"), ep)
	master := r.pids().Master

	var failed, done atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	for i := range 4 {
		load.Add(1)
		go func() {
			defer load.Done()
			transport := &http.Transport{DisableKeepAlives: i%2 == 0}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
			for {
				select {
				case <-stop:
					return
				default:
				}
				req, _ := http.NewRequest(http.MethodGet, "http://"+w.http+"/", nil)
				req.Host = "a.test"
				res, err := client.Do(req)
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				if err != nil || res.StatusCode != http.StatusOK {
					failed.Add(1)
					t.Errorf("request failed: %v", err)
				}
				done.Add(1)
			}
		}()
	}
	eventually(t, "there is load", func() bool { return done.Load() > 100 })
	for i := range 3 {
		worker, reloads := r.pids().Worker, r.reloads()
		resources := []*tsujiv1.Resource{route("a"), ep}
		for j := range i + 1 {
			resources = append(resources, route(fmt.Sprint("new", j), service("a", 1)))
		}
		r.put(resources...)
		if got := w.get(fmt.Sprintf("new%d.test", i)); got != "a" {
			t.Errorf("the new route: %s", got)
		}
		if p := r.pids(); p.Worker == worker || p.Master != master || r.reloads() != reloads+1 {
			t.Errorf("%d became %+v", worker, p)
		}
		before := done.Load()
		eventually(t, "load after the reload", func() bool { return done.Load() > before+100 })
	}
	// And endpoints move meanwhile: at run time, or by a reload each, of which one for each two endpoints will do.
	moves := 60
	if !r.can.DynamicServers {
		moves = 9
	}
	ends := []*tsujiv1.Endpoint{serve(t, "x"), serve(t, "y"), serve(t, "z")}
	worker := r.pids().Worker
	current, _ := r.InForce()
	for i := range moves {
		item, err := tsujiv1.Encode(endpoints("a", ends[i%3], ends[i/3%3]))
		must(t, err)
		r.HoldReloads(0)
		d := snapshot.Delta{Put: []snapshot.Item{item}}
		current = current.Apply(current.Version().Revision+1, d)
		if refusal := r.Apply(t.Context(), current, d); refusal != nil {
			t.Fatal(refusal)
		}
		before := done.Load()
		eventually(t, "load after a move", func() bool { return done.Load() > before+10 })
	}
	if p := r.pids(); r.can.DynamicServers != (p.Worker == worker) {
		t.Errorf("moves: worker %d, then %+v", worker, p)
	}
	close(stop)
	load.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d requests failed", failed.Load(), done.Load())
	}
	eventually(t, "old workers leave", func() bool { return len(r.pids().Old) == 0 })
}
