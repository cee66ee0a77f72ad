package apply_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// runElsewhere runs HAProxy as a container would, and returns what kills all of it at once.
func (w *world) runElsewhere() (kill func()) {
	w.t.Helper()
	cmd := exec.CommandContext(context.Background(), w.binary, "-W", "-S", "unix@"+haproxy.MasterSocket+",mode,660", "-f", haproxy.ConfigFile)
	cmd.Dir = w.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	must(w.t, cmd.Start())
	ended := false
	kill = func() {
		if !ended {
			ended = true
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			_ = cmd.Wait()
		}
	}
	w.t.Cleanup(kill)
	return kill
}

// beginsWithNothing tells whether a HAProxy that is started now would serve nothing.
func (w *world) beginsWithNothing() bool {
	w.t.Helper()
	config, err := os.ReadFile(filepath.Join(w.dir, haproxy.ConfigFile))
	must(w.t, err)
	return bytes.Equal(config, render.First())
}

// A HAProxy that somebody else starts again begins with what is in force or with nothing: never with a Route that was
// withdrawn, whoever is there to tell it.
func TestElsewhereBeginsWithWhatIsInForce(t *testing.T) {
	haproxytest.Each(t, beginsStory)
}

func beginsStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{elsewhere: true, idle: true})
	must(t, apply.Prepare(w.dir, false))
	kill := w.runElsewhere()
	a, b := endpoints("a", serve(t, "a")), endpoints("b", serve(t, "b"))
	r.put(route("a"), a, route("b"), b)
	if w.beginsWithNothing() || w.get("b.test") != "b" {
		t.Error("what was loaded is not in force, or not what HAProxy begins with")
	}
	// An endpoint moves, by commands on every release; what HAProxy begins with is not that any more.
	moved, before := endpoints("b"), r.reloads()
	last := r.put(route("a"), a, route("b"), moved)
	reloaded := r.reloads() > before
	if !reloaded && !w.beginsWithNothing() {
		t.Error("an endpoint that was withdrawn comes again with HAProxy")
	}
	if reloaded && w.beginsWithNothing() {
		t.Error("after a reload HAProxy would begin with nothing")
	}
	nothing := w.beginsWithNothing()
	r.die()
	kill()
	kill = w.runElsewhere()
	if _, err := r.process.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := w.tryGet("b.test"); got == "b" || nothing && err == nil {
		t.Errorf("HAProxy alone answers %q, %v", got, err)
	}

	// The next routerd brings it up to date, and leaves files that are so.
	next := w.router(options{elsewhere: true})
	must(t, next.Start(t.Context(), last))
	if got := w.get("a.test"); got != "a" {
		t.Errorf("the Route that stayed: %s", got)
	}
	next.put(route("a"), a)
	must(t, next.Stop(t.Context()))
	next.die()
	if w.beginsWithNothing() {
		t.Error("a routerd that ends in order leaves nothing to begin with")
	}
	if got := w.get("a.test"); got != "a" {
		t.Errorf("HAProxy ends with its routerd: %s", got)
	}
	kill()
	w.runElsewhere()
	eventually(t, "HAProxy alone serves what was last in force", func() bool {
		got, err := w.tryGet("a.test")
		return err == nil && got == "a"
	})
	if got := w.get("b.test"); got == "b" {
		t.Error("a Route that was withdrawn is back")
	}
}

// A HAProxy elsewhere is not asked to check: what it refuses when it loads it is refused by name where it says whose it
// is, what served goes on, and what there is to begin with is that.
func TestElsewhereRefuses(t *testing.T) {
	haproxytest.Each(t, elsewhereRefusesStory)
}

func elsewhereRefusesStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{elsewhere: true, idle: true})
	must(t, apply.Prepare(w.dir, false))
	w.runElsewhere()
	a := endpoints("a", serve(t, "a"))
	weak, _ := certificate("weak", true)
	bad := []*tsujiv1.Resource{route("a"), a, edge("weak"), endpoints("weak", serve(t, "weak")), weak}
	named := haproxytest.AtLeast(t, binary, 2, 7)
	check := func(when string) {
		t.Helper()
		refusal := r.try(w.snapshot(bad...))
		switch {
		case refusal == nil:
			t.Fatalf("%s: a certificate that HAProxy cannot use is in force", when)
		case named && (len(refusal.GetResources()) != 1 || refusal.GetResources()[0].GetResource() != weak.GetName()):
			t.Errorf("%s: refusal %v", when, refusal)
		}
	}
	check("at first")
	if !w.beginsWithNothing() {
		t.Error("HAProxy would begin with what it refuses")
	}
	r.put(route("a"), a)
	check("while another serves")
	if got := w.get("a.test"); got != "a" {
		t.Errorf("what served: %s", got)
	}
	before := r.reloads()
	r.put(route("a"), endpoints("a"))
	if n := r.reloads() - before; n != 0 {
		t.Errorf("a refusal costs %v reloads of what comes after it", n)
	}
	r.die()
}

// A HAProxy elsewhere that is not there when a change comes is waited for. It begins with nothing and not with that
// change, with which it might not start; so it is when it dies with a change half made.
func TestElsewhereIsWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, haproxytest.Binary(t))
	r := w.router(options{elsewhere: true, idle: true})
	must(t, apply.Prepare(w.dir, false))
	weak, _ := certificate("weak", true)
	a := endpoints("a", serve(t, "a"))
	refused := make(chan *tsujiv1.Refusal, 1)
	next := w.snapshot(route("a"), a, edge("weak"), endpoints("weak", serve(t, "weak")), weak)
	go func() { refused <- r.try(next) }()
	w.runElsewhere()
	if refusal := <-refused; len(refusal.GetResources()) != 1 || refusal.GetResources()[0].GetResource() != weak.GetName() {
		t.Errorf("refusal: %v", refusal)
	}
	r.put(route("a"), a)
	if got := w.get("a.test"); got != "a" {
		t.Errorf("what is served: %s", got)
	}
}

// A HAProxy elsewhere that begins while files are written may read some from before and some from after that, the stamp
// among these. It is not believed.
func TestElsewhereBeginsMeanwhile(t *testing.T) { haproxytest.Each(t, tornStory) }

func tornStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	config := filepath.Join(w.dir, haproxy.ConfigFile)
	var kill func()
	var before []byte // haproxy.cfg, while the next writing is one that HAProxy begins in
	var r *router
	r = w.router(options{elsewhere: true, idle: true, apply: func(c *apply.Config) {
		c.OnWrite = func(time.Duration) {
			if before == nil {
				return
			}
			after, err := os.ReadFile(config)
			must(t, err)
			kill()
			<-r.process.Exited()
			must(t, os.WriteFile(config, before, 0o640))
			before = nil
			w.runElsewhere()
			if _, err := r.process.Await(t.Context()); err != nil {
				t.Error(err)
			}
			must(t, os.WriteFile(config, after, 0o640))
		}
	}})
	must(t, apply.Prepare(w.dir, false))
	kill = w.runElsewhere()
	settings := func(on bool) *tsujiv1.Resource {
		return &tsujiv1.Resource{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{AbortOnClose: on}}}
	}
	old, moved := endpoints("a", serve(t, "old")), endpoints("a", serve(t, "moved"))
	r.put(settings(false), route("a"), old)
	before, _ = os.ReadFile(config)
	r.put(settings(true), route("a"), moved)
	if before != nil {
		t.Fatal("nothing was written")
	}
	if got := w.get("a.test"); got != "moved" {
		t.Errorf("what is in force is answered by %q", got)
	}
}
