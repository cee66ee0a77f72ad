package apply_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
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
	time.Sleep(1500 * time.Millisecond) // the janitor has tried by then, in vain
	if n := servers(); n != 2 || testutil.ToFloat64(r.metrics.Leaving) != 1 {
		t.Errorf("%d servers while one drains", n)
	}
	finish()
	if got := <-answer; got != "begun<nil>" {
		t.Errorf("the answer was cut: %s", got)
	}
	if !r.can.DynamicServers {
		time.Sleep(500 * time.Millisecond)
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
	eventually(t, "nothing is leaving", func() bool { return testutil.ToFloat64(r.metrics.Leaving) == 0 })
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

// A new route costs one reload, and nobody notices: neither connections that live nor new ones.
func TestReloadUnderLoad(t *testing.T) { haproxytest.Each(t, reloadUnderLoadStory) }

func reloadUnderLoadStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
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
		worker, reloads := r.pids().Worker, testutil.ToFloat64(r.metrics.Reloads)
		resources := []*tsujiv1.Resource{route("a"), ep}
		for j := range i + 1 {
			resources = append(resources, route(fmt.Sprint("new", j), service("a", 1)))
		}
		r.put(resources...)
		if got := w.get(fmt.Sprintf("new%d.test", i)); got != "a" {
			t.Errorf("the new route: %s", got)
		}
		if p := r.pids(); p.Worker == worker || p.Master != master || testutil.ToFloat64(r.metrics.Reloads) != reloads+1 {
			t.Errorf("%d became %+v", worker, p)
		}
		before := done.Load()
		eventually(t, "load after the reload", func() bool { return done.Load() > before+100 })
	}
	// And endpoints move at run time meanwhile.
	ends := []*tsujiv1.Endpoint{serve(t, "x"), serve(t, "y"), serve(t, "z")}
	worker := r.pids().Worker
	current, _ := r.InForce()
	for i := range 60 {
		item, err := tsujiv1.Encode(endpoints("a", ends[i%3], ends[i/3%3]))
		must(t, err)
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

// A configuration that HAProxy refuses is refused with the resource at fault, and what served still serves.
func TestRefused(t *testing.T) { haproxytest.Each(t, refusedStory) }

func refusedStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	ep := endpoints("a", serve(t, "a"))
	good := r.put(route("a"), ep)
	worker := r.pids().Worker

	resources := []*tsujiv1.Resource{route("a"), ep}
	for i := range 9 {
		name := fmt.Sprint("new", i)
		cert, _ := certificate(name, i == 4)
		resources = append(resources, edge(name), cert, endpoints(name, serve(t, name)))
	}
	next := w.snapshot(resources...)
	culprit := tsujiv1.CertificateName("ns", tsujiv1.FromRoute, "new4")
	item, _ := next.Get(culprit)
	for range 2 {
		refusal := r.try(next)
		if refusal.GetClass() != tsujiv1.RefusalClass_REFUSAL_CLASS_CONTENT || len(refusal.GetResources()) != 1 ||
			refusal.GetResources()[0].GetResource() != culprit || snapshot.Digest(refusal.GetResources()[0].GetDigest()) != item.Digest() ||
			refusal.GetVersion() != next.Version().String() {
			t.Fatalf("refusal: %v", refusal)
		}
		if got := w.get("a.test"); got != "a" {
			t.Errorf("what served: %s", got)
		}
		if s, _ := r.InForce(); !s.Version().Equal(good.Version()) || r.pids().Worker != worker {
			t.Errorf("in force: %v", s.Version())
		}
	}
	must(t, r.process.Check(t.Context()))

	// A certificate is refused at run time in the same way.
	cert, serial := certificate("a", false)
	r.put(edge("a"), ep, cert)
	weak, _ := certificate("a", true)
	if refusal := r.try(w.snapshot(edge("a"), endpoints("a"), weak)); len(refusal.GetResources()) != 1 || refusal.GetResources()[0].GetResource() != weak.GetName() {
		t.Errorf("renewed: %v", refusal)
	}
	if got := w.certificate("a.test"); got != serial || w.get("a.test") != "a" {
		t.Errorf("after a renewal that is refused: served %s, want %s", got, serial)
	}
	r.put(route("a"), ep)

	// What the renderer refuses is named too.
	bad := route("bad")
	bad.GetRoute().Host = "a b\n"
	refusal := r.try(w.snapshot(route("a"), ep, bad))
	if refusal.GetClass() != tsujiv1.RefusalClass_REFUSAL_CLASS_CONTENT || len(refusal.GetResources()) != 1 || refusal.GetResources()[0].GetResource() != "route/ns/bad" {
		t.Errorf("refusal: %v", refusal)
	}

	// Without the culprit the rest is taken.
	r.put(append(resources[:2:2], resources[2:5]...)...)
	if got := w.get("new0.test"); got != "new0" {
		t.Errorf("after that: %s", got)
	}
}

// A first snapshot that HAProxy cannot serve here is a local matter; it is taken when it can.
func TestPortTaken(t *testing.T) { haproxytest.Each(t, portTakenStory) }

func portTakenStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	l, err := net.Listen("tcp", w.http)
	must(t, err)
	first := w.snapshot(route("a"), endpoints("a", serve(t, "a")))
	refusal := r.try(first)
	if refusal.GetClass() != tsujiv1.RefusalClass_REFUSAL_CLASS_LOCAL || len(refusal.GetResources()) > 0 {
		t.Errorf("refusal: %v", refusal)
	}
	if _, ok := r.InForce(); ok {
		t.Error("it is in force")
	}
	if err := r.Start(t.Context(), first); err == nil {
		t.Error("started on a port that is taken")
	}
	l.Close()
	eventually(t, "Run has tried again", func() bool { _, ok := r.InForce(); return ok })
	if got := w.get("a.test"); got != "a" {
		t.Errorf("then: %s", got)
	}
}

// A HAProxy that accepts a configuration and yet does not start with it, here for want of file descriptors, is a
// local matter: no resource is blamed, whatever the snapshot brings; and what serves goes on.
func TestTooFewDescriptors(t *testing.T) { haproxytest.Each(t, tooFewDescriptorsStory) }

func tooFewDescriptorsStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	// A limit that HAProxy cannot raise, as if the machine had it.
	script := filepath.Join(w.dir, "limited")
	must(t, os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\nulimit -n 2000\nexec %s \"$@\"\n", binary), 0o700))
	w.binary = script
	unknown := func(o *render.Options) { o.FileDescriptors = 0 }
	r := w.router(options{render: unknown})
	settings := func(connections uint32) *tsujiv1.Resource {
		return &tsujiv1.Resource{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{
			Tuning: &tsujiv1.Tuning{MaxConnections: connections},
		}}}
	}
	ep := endpoints("a", serve(t, "a"))
	local := func(what string, refusal *tsujiv1.Refusal) {
		t.Helper()
		if refusal.GetClass() != tsujiv1.RefusalClass_REFUSAL_CLASS_LOCAL || len(refusal.GetResources()) > 0 {
			t.Errorf("%s: %v", what, refusal)
		}
	}
	local("at first", r.try(w.snapshot(settings(100_000), route("a"), ep)))
	if _, ok := r.InForce(); ok {
		t.Error("it is in force")
	}
	r.put(settings(500), route("a"), ep)
	local("more connections", r.try(w.snapshot(settings(100_000), route("a"), ep)))
	if got := w.get("a.test"); got != "a" {
		t.Errorf("what served: %s", got)
	}
	r.put(settings(600), route("a"), ep)
}

// A worker or master that is killed comes back with what was in force, run-time changes included.
func TestKilled(t *testing.T) { haproxytest.Each(t, killedStory) }

func killedStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	r.put(route("a"), endpoints("a", serve(t, "one")))
	r.put(route("a"), endpoints("a", serve(t, "two"))) // not in the files yet
	for _, who := range []string{"worker", "master"} {
		p := r.pids()
		victim := p.Worker
		if who == "master" {
			victim = p.Master
		}
		begun := time.Now()
		must(t, unix.Kill(victim, unix.SIGKILL))
		eventually(t, who+" is back", func() bool {
			s, err := w.tryGet("a.test")
			now, perr := r.process.Processes(t.Context())
			return err == nil && s == "two" && perr == nil && now.Master != p.Master
		})
		if d := time.Since(begun); d > 3*time.Second {
			t.Errorf("%s: back after %s", who, d)
		} else {
			t.Logf("%s: back after %s", who, d)
		}
		r.put(route("a"), endpoints("a", serve(t, "two"), serve(t, "three")))
		r.put(route("a"), endpoints("a", serve(t, "two")))
	}
	eventually(t, "both restarts are counted", func() bool { return testutil.ToFloat64(r.metrics.Restarts) >= 2 })
}

// A router that died finds HAProxy as it left it, and takes it over: as it is if that serves what the
// store says, with a reload if not.
func TestAdopt(t *testing.T) { haproxytest.Each(t, adoptStory) }

func adoptStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	one, two := serve(t, "one"), serve(t, "two")
	r.put(route("a"), endpoints("a", one))
	current := r.put(route("a"), endpoints("a", two))
	before := r.pids()
	r.die()

	next := w.router(options{})
	must(t, next.Start(t.Context(), current))
	if p := next.pids(); p.Worker != before.Worker || testutil.ToFloat64(next.metrics.Reloads) != 0 || testutil.ToFloat64(next.metrics.Adoptions) != 1 {
		t.Errorf("taken over: %+v became %+v", before, p)
	}
	eventually(t, "what the first had left to delete is deleted", func() bool {
		rt, err := next.process.Connect(t.Context())
		must(t, err)
		defer rt.Close()
		states, err := rt.BackendsState(t.Context(), "be_http:ns:a")
		must(t, err)
		return len(states[0]) == 1
	})
	next.put(route("a"), endpoints("a", one))
	if got := w.get("a.test"); got != "one" || r.can.DynamicServers && next.pids().Worker != before.Worker {
		t.Errorf("it goes on: %s, %+v", got, next.pids())
	}
	next.die()

	// The store is behind what runs: the last record did not reach the disk.
	third := w.router(options{})
	must(t, third.Start(t.Context(), current))
	p := third.pids()
	if got := w.get("a.test"); got != "two" || p.Worker == before.Worker || p.Master != before.Master || testutil.ToFloat64(third.metrics.Reloads) != 1 {
		t.Errorf("another version: %s, %+v", got, p)
	}
	third.die()

	// Other flags: the same version is not the same program.
	fourth := w.router(options{render: func(o *render.Options) { o.HTTP = append(o.HTTP, freePort(t)) }})
	must(t, fourth.Start(t.Context(), current))
	if q := fourth.pids(); q.Worker == p.Worker || q.Master != before.Master {
		t.Errorf("other flags: %+v, %+v", p, q)
	}
	fourth.die()

	// No store, but a control plane: what runs serves until there is something else.
	fifth := w.router(options{})
	fifth.put(route("a"), endpoints("a", one))
	if got := w.get("a.test"); got != "one" || fifth.pids().Master != before.Master {
		t.Errorf("without a store: %s, %+v", got, fifth.pids())
	}
}

// HAProxy is upgraded where it is, and its router is started again: the next release takes over from the running
// one by a reload, and no request fails.
func TestUpgrade(t *testing.T) {
	binaries := haproxytest.Binaries(t)
	for i := range binaries[1:] {
		older, newer := binaries[i+1], binaries[i]
		t.Run(filepath.Base(older), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, older)
			link := filepath.Join(w.dir, "haproxy")
			must(t, os.Symlink(older, link))
			w.binary = link
			r := w.router(options{})
			one := serve(t, "one")
			current := r.put(route("a"), endpoints("a", one))
			before := r.pids()
			r.die()

			must(t, os.Remove(link))
			must(t, os.Symlink(newer, link))
			next := w.router(options{})
			stop, loaded := make(chan struct{}), make(chan error, 1)
			go func() {
				for {
					if _, err := w.tryGet("a.test"); err != nil {
						loaded <- err
						return
					}
					select {
					case <-stop:
						loaded <- nil
						return
					default:
					}
				}
			}()
			must(t, next.Start(t.Context(), current))
			if n := testutil.ToFloat64(next.metrics.Reloads); n != 1 {
				t.Errorf("%v reloads", n)
			}
			next.put(route("a"), route("b", service("a", 1)), endpoints("a", one, serve(t, "two")))
			close(stop)
			must(t, <-loaded)
			rt, err := next.process.Connect(t.Context())
			must(t, err)
			defer rt.Close()
			if major, minor := haproxytest.Version(t, newer); !rt.Version().AtLeast(major, minor) || next.pids().Master != before.Master {
				t.Errorf("HAProxy %v, %+v and before %+v", rt.Version(), next.pids(), before)
			}
			if got := w.get("b.test"); got != "one" && got != "two" {
				t.Errorf("after the upgrade: %s", got)
			}
		})
	}
}

// A HAProxy that stops, or cannot be reached any more, is taken back or replaced, and what is open there
// may finish.
func TestStopping(t *testing.T) { haproxytest.Each(t, stoppingStory) }

func stoppingStory(t *testing.T, binary string) {
	t.Parallel()
	for _, how := range []string{"its router was killed while it drained", "its socket was removed"} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t, binary)
			r := w.router(options{})
			slow, begun, finish := serveSlowly(t)
			ep, slowly := endpoints("a", serve(t, "a")), endpoints("slow", slow)
			current := r.put(route("a"), route("slow"), ep, slowly)
			answer := make(chan string, 1)
			go func() {
				s, err := w.tryGet("slow.test")
				answer <- fmt.Sprint(s, err)
			}()
			<-begun
			if strings.Contains(how, "drained") {
				r.die()
				must(t, r.process.SoftStop())
				eventually(t, "it stops listening", w.deaf)
				must(t, w.router(options{}).Start(t.Context(), current))
			} else {
				must(t, os.Remove(filepath.Join(w.dir, haproxy.MasterSocket)))
				r.put(route("a"), route("slow"), route("b"), ep, slowly)
			}
			eventually(t, "it serves", func() bool { s, err := w.tryGet("a.test"); return err == nil && s == "a" })
			finish()
			if got := <-answer; got != "begun<nil>" {
				t.Errorf("the answer was cut: %s", got)
			}
			for range 20 {
				if got := w.get("a.test"); got != "a" {
					t.Fatalf("at last: %s", got)
				}
			}
		})
	}
}

// Files that cannot be written are a local matter, and only a reload needs them.
func TestDiskFull(t *testing.T) { haproxytest.Each(t, diskFullStory) }

func diskFullStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	one, two := serve(t, "one"), serve(t, "two")
	r.put(route("a"), endpoints("a", one, two))
	obstacle := filepath.Join(w.dir, "haproxy.cfg.tmp")
	must(t, os.MkdirAll(filepath.Join(obstacle, "x"), 0o700))
	refusal := r.try(w.snapshot(route("a"), route("b"), endpoints("a", one)))
	if refusal.GetClass() != tsujiv1.RefusalClass_REFUSAL_CLASS_LOCAL {
		t.Errorf("refusal: %v", refusal)
	}
	r.put(route("a"), endpoints("a", two))
	if got := w.get("a.test"); got != "two" {
		t.Errorf("at run time: %s", got)
	}
	must(t, os.RemoveAll(obstacle))
	r.put(route("a"), route("b", service("a", 1)), endpoints("a", two))
	if got := w.get("b.test"); got != "two" {
		t.Errorf("after that: %s", got)
	}
}

// A connection that dies in the middle of a change costs a reload, and nothing else.
func TestBrokenSocket(t *testing.T) { haproxytest.Each(t, brokenSocketStory) }

func brokenSocketStory(t *testing.T, binary string) {
	t.Parallel()
	for _, cut := range []string{"applying", "add server", "state maint", "show servers state"} {
		t.Run(cut, func(t *testing.T) {
			w := newWorld(t, binary)
			r := w.router(options{idle: true})
			one, two := serve(t, "one"), serve(t, "two")
			switch {
			case r.can.DynamicServers:
				r.put(route("a"), endpoints("a", one))
			case cut == "add server":
				return
			default:
				r.put(route("a"), endpoints("a", one, two))
			}
			must(t, os.Rename(filepath.Join(w.dir, haproxy.AdminSocket), filepath.Join(w.dir, "run/real.sock")))
			cutter(t, w.dir, cut)
			worker := r.pids().Worker
			// The connection that is there leads to the worker; behind the cutter the next one will.
			r.forget(t)
			r.put(route("a"), endpoints("a", two))
			if got := w.get("a.test"); got != "two" || r.pids().Worker == worker {
				t.Errorf("%s, %+v", got, r.pids())
			}
			if n := testutil.ToFloat64(r.metrics.Fallbacks); n != 1 {
				t.Errorf("%v fallbacks", n)
			}
			r.put(route("a"), endpoints("a", one))
			if got := w.get("a.test"); got != "one" || testutil.ToFloat64(r.metrics.Fallbacks) != 1 {
				t.Errorf("after that: %s", got)
			}
		})
	}
}

// forget makes the Applier connect again, as after its routerd was restarted.
func (r *router) forget(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, r.Run(ctx))
}

// cutter stands in for the admin socket, and breaks a connection, once, at the command that holds the text.
func cutter(t *testing.T, dir, text string) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, haproxy.AdminSocket))
	must(t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false) //nolint:errcheck // it is one
	t.Cleanup(func() { l.Close() })
	var done atomic.Bool
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("unix", filepath.Join(dir, "run/real.sock"))
			if err != nil {
				c.Close()
				return
			}
			go func() { _, _ = io.Copy(c, to); c.Close() }()
			go func() {
				defer to.Close()
				defer c.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := c.Read(buf)
					if i := strings.Index(string(buf[:n]), text); i >= 0 && done.CompareAndSwap(false, true) {
						_, _ = to.Write(buf[:i])
						return
					}
					if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
						return
					}
				}
			}()
		}
	}()
}

// A reload that somebody else made is noticed, and undone if it lost something.
func TestReloadedBehindOurBack(t *testing.T) { haproxytest.Each(t, reloadedBehindOurBackStory) }

func reloadedBehindOurBackStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	r.put(route("a"), endpoints("a", serve(t, "one")))
	two := endpoints("a", serve(t, "two"))
	r.put(route("a"), two)
	rt, err := r.process.Reload(t.Context())
	must(t, err)
	rt.Close()
	// The next change finds out, whatever it is.
	r.put(route("a"), two, endpoints("b", serve(t, "b")))
	if got := w.get("a.test"); got != "two" {
		t.Errorf("after the next change: %s", got)
	}
}

// Readiness fails first, while everything is served and changes are made; then what is open may finish.
func TestStop(t *testing.T) { haproxytest.Each(t, stopStory) }

func stopStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{delay: time.Minute, drain: time.Minute})
	slow, begun, finish := serveSlowly(t)
	ep := endpoints("a", serve(t, "a"))
	r.put(route("a"), route("slow"), ep, endpoints("slow", slow))
	ready := func() int {
		res, err := w.client.Get("http://" + w.stats + "/healthz/ready")
		if err != nil {
			return 0
		}
		res.Body.Close()
		return res.StatusCode
	}
	if got := ready(); got != http.StatusOK {
		t.Errorf("ready: %d", got)
	}
	must(t, r.Ready(t.Context(), false))
	if got := ready(); got == http.StatusOK {
		t.Errorf("not ready: %d", got)
	}
	must(t, r.Ready(t.Context(), true))
	answer := make(chan string, 1)
	go func() {
		s, err := w.tryGet("slow.test")
		answer <- fmt.Sprint(s, err)
	}()
	<-begun

	first := make(chan error, 1)
	go func() { first <- r.Stop(t.Context()) }()
	eventually(t, "readiness fails", func() bool { return ready() != http.StatusOK })
	if got := w.get("a.test"); got != "a" {
		t.Errorf("during the delay: %s", got)
	}
	r.put(route("a"), route("slow"), endpoints("a", serve(t, "b")), endpoints("slow", slow))
	if got := w.get("a.test"); got != "b" {
		t.Errorf("changed during the delay: %s", got)
	}
	second := make(chan error, 1)
	p := r.process
	go func() { second <- r.Stop(t.Context()) }()
	select {
	case err := <-first:
		must(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("the second call did not hasten")
	}
	must(t, <-second)
	<-p.Exited()
	finish()
	<-answer // hastened: it may have been cut
	if refusal := r.try(w.snapshot(route("a"))); refusal.GetClass() != tsujiv1.RefusalClass_REFUSAL_CLASS_LOCAL {
		t.Errorf("after the end: %v", refusal)
	}
}

// Connections have time to finish when HAProxy stops listening.
func TestStopDrains(t *testing.T) { haproxytest.Each(t, stopDrainsStory) }

func stopDrainsStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{drain: time.Minute})
	slow, begun, finish := serveSlowly(t)
	r.put(route("a"), endpoints("a", slow))
	answer := make(chan string, 1)
	go func() {
		s, err := w.tryGet("a.test")
		answer <- fmt.Sprint(s, err)
	}()
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- r.Stop(t.Context()) }()
	eventually(t, "it stops listening", w.deaf)
	finish()
	if got := <-answer; got != "begun<nil>" {
		t.Errorf("the answer was cut: %s", got)
	}
	must(t, <-stopped)
	if n := testutil.ToFloat64(r.metrics.Restarts); n != 0 {
		t.Errorf("it was started again %v times", n)
	}
}
