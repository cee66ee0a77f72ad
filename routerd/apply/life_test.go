package apply_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

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
		t.Logf("%s: back after %s", who, time.Since(begun))
		r.put(route("a"), endpoints("a", serve(t, "two"), serve(t, "three")))
		r.put(route("a"), endpoints("a", serve(t, "two")))
	}
	eventually(t, "both restarts are counted", func() bool { return testutil.ToFloat64(r.metrics.Restarts) >= 2 })
}

// The same content under another revision changes nothing, and a HAProxy that ends after that comes back at once, as does
// one that is taken over.
func TestSameContentAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, haproxytest.Binary(t))
	r := w.router(options{})
	resources := []*tsujiv1.Resource{route("a"), endpoints("a", serve(t, "one"))}
	r.put(resources...)
	r.put(resources...)
	must(t, unix.Kill(r.pids().Worker, unix.SIGKILL))
	eventually(t, "HAProxy is back", func() bool { return testutil.ToFloat64(r.metrics.Applies.WithLabelValues("start", "ok")) == 2 })
	if n := testutil.ToFloat64(r.metrics.Restarts); n != 1 {
		t.Errorf("%v attempts to mend it", n)
	}
	again := w.snapshot(resources...)
	if refusal := r.try(again); refusal != nil {
		t.Fatal(refusal)
	}
	r.die()
	next := w.router(options{})
	must(t, next.Start(t.Context(), again))
	if n := testutil.ToFloat64(next.metrics.Adoptions); n != 1 || next.reloads() != 0 {
		t.Errorf("%v taken over, %v reloads", n, next.reloads())
	}
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
	if p := next.pids(); p.Worker != before.Worker || next.reloads() != 0 || testutil.ToFloat64(next.metrics.Adoptions) != 1 {
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
	if got := w.get("a.test"); got != "two" || p.Worker == before.Worker || p.Master != before.Master || third.reloads() != 1 {
		t.Errorf("another version: %s, %+v", got, p)
	}
	third.die()

	// Other flags: the same version is not the same program.
	fourth := w.router(options{render: func(o *render.Options) { o.HTTP = append(o.HTTP, haproxytest.FreeAddress(t)) }})
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
	for i := range len(binaries) * len(binaries) { // the newest comes first
		older, newer := binaries[i/len(binaries)], binaries[i%len(binaries)]
		if i/len(binaries) <= i%len(binaries) {
			continue
		}
		t.Run(filepath.Base(older)+" to "+filepath.Base(newer), func(t *testing.T) {
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
			if n := next.reloads(); n != 1 {
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
	case <-time.After(time.Minute):
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

// A router that never served anything says that there is nothing to drain, and ends at once.
func TestStopOfNothing(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer // only Stop writes to it
	r := newWorld(t, haproxytest.Binary(t)).router(options{idle: true, delay: time.Hour, drain: time.Hour, apply: func(c *apply.Config) {
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
	}})
	must(t, r.Stop(t.Context()))
	if got := log.String(); !strings.Contains(got, "no HAProxy runs") || strings.Contains(got, "draining") {
		t.Errorf("it says: %s", got)
	}
}
