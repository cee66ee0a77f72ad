package apply_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// A master whose socket was removed, and the whole run directory with it, is found by the next routerd all the same: another one
// takes its place, and it ends. Never do two serve on.
func TestSocketsRemoved(t *testing.T) { haproxytest.Each(t, socketsRemovedStory) }

func socketsRemovedStory(t *testing.T, binary string) {
	t.Parallel()
	for _, what := range []string{haproxy.MasterSocket, haproxy.RunDir} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t, binary)
			r := w.router(options{})
			slow, begun, finish := serveSlowly(t)
			slowly := endpoints("slow", slow)
			r.put(route("a"), route("slow"), endpoints("a", serve(t, "one")), slowly)
			before := r.pids()
			answer := make(chan string, 1)
			go func() {
				s, err := w.tryGet("slow.test")
				answer <- fmt.Sprint(s, err)
			}()
			<-begun
			r.die()
			must(t, os.RemoveAll(filepath.Join(w.dir, what)))

			next := w.router(options{})
			must(t, next.Start(t.Context(), w.snapshot(route("a"), route("slow"), endpoints("a", serve(t, "two")), slowly)))
			if now := next.pids(); now.Master == before.Master {
				t.Fatalf("%+v, and before %+v", now, before)
			}
			// As long as both listen the kernel gives connections to either.
			eventually(t, "the first listens no more", func() bool {
				for range 50 {
					if s, err := w.tryGet("a.test"); err != nil || s != "two" {
						return false
					}
				}
				return true
			})
			finish()
			if got := <-answer; got != "begun<nil>" {
				t.Errorf("an answer of the first was cut: %s", got)
			}
			eventually(t, "the first ends", func() bool { return unix.Kill(before.Master, 0) != nil })
			next.put(route("a"), endpoints("a", serve(t, "three")))
			if got := w.get("a.test"); got != "three" {
				t.Errorf("it goes on: %s", got)
			}
		})
	}
}

// A worker that has lost its master and hangs, so that it did not notice, keeps no port.
func TestOrphan(t *testing.T) { haproxytest.Each(t, orphanStory) }

func orphanStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	r.put(route("a"), endpoints("a", serve(t, "one")))
	p := r.pids()
	must(t, unix.Kill(p.Worker, unix.SIGSTOP))
	t.Cleanup(func() { _ = unix.Kill(p.Worker, unix.SIGKILL) })
	must(t, unix.Kill(p.Master, unix.SIGKILL))
	eventually(t, "another serves alone", func() bool {
		for range 20 {
			if s, err := w.tryGet("a.test"); err != nil || s != "one" {
				return false
			}
		}
		return true
	})
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.Worker)); err == nil && len(b) > 0 {
		t.Errorf("the worker without a master is still there: %q", b)
	}
}

// Directories of HAProxy's files that somebody removed are written again, and what needs a reload, or a start, goes on.
func TestFilesRemoved(t *testing.T) { haproxytest.Each(t, filesRemovedStory) }

func filesRemovedStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	cert, serial := certificate("a", false)
	resources := []*tsujiv1.Resource{edge("a"), cert, endpoints("a", serve(t, "one"))}
	r.put(resources...)
	for _, dir := range []string{"maps", "certs", "errors", "crt-list.txt"} {
		must(t, os.RemoveAll(filepath.Join(w.dir, dir)))
		settings := &tsujiv1.Settings{Tuning: &tsujiv1.Tuning{MaxConnections: uint32(500 + len(dir))}} // another program
		r.put(append(resources, &tsujiv1.Resource{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: settings}})...)
		if got := w.get("a.test"); got != "one" || w.certificate("a.test") != serial {
			t.Errorf("after %s was removed, and a reload: %s", dir, got)
		}
	}
	must(t, os.RemoveAll(filepath.Join(w.dir, "maps")))
	eventually(t, "with no change, too", func() bool {
		_, err := os.Stat(filepath.Join(w.dir, "maps", "stamp.map"))
		return err == nil
	})
	must(t, os.RemoveAll(filepath.Join(w.dir, "certs")))
	p := r.pids()
	must(t, unix.Kill(p.Master, unix.SIGKILL))
	eventually(t, "HAProxy is back", func() bool { s, err := w.tryGet("a.test"); return err == nil && s == "one" })
}

// A HAProxy that is killed again and again served in between, and is back soon each time. One that cannot start is tried
// at intervals that grow.
func TestKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, haproxytest.Binary(t))
	link := filepath.Join(w.dir, "haproxy")
	must(t, os.Symlink(w.binary, link))
	binary := w.binary
	w.binary = link
	r := w.router(options{})
	r.put(route("a"), endpoints("a", serve(t, "one")))
	kill := func() (back func() bool) {
		p := r.pids()
		must(t, unix.Kill(p.Master, unix.SIGKILL))
		return func() bool {
			s, err := w.tryGet("a.test")
			now, perr := r.process.Processes(t.Context())
			return err == nil && s == "one" && perr == nil && now.Master != p.Master
		}
	}
	for i := range 8 {
		back := kill()
		begun := time.Now()
		eventually(t, "it is back", back)
		t.Logf("kill %d: back after %s", i+1, time.Since(begun))
		if d := r.NextTry(); d > apply.ServedMost {
			t.Errorf("after %d kills it is left alone for %s", i+1, d)
		}
	}
	if n := testutil.ToFloat64(r.metrics.Restarts); n != 8 {
		t.Errorf("%v attempts for 8 kills", n)
	}
	must(t, os.Remove(link))
	back := kill()
	eventually(t, "it is left alone for longer", func() bool { return r.NextTry() > apply.ServedMost })
	if n := testutil.ToFloat64(r.metrics.Restarts) - 8; n < 2 || n > 8 {
		t.Errorf("%v attempts until then", n)
	}
	must(t, os.Symlink(binary, link))
	eventually(t, "it is back", back)
}
