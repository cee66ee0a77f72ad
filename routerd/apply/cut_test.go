package apply_test

import (
	"bufio"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// Wherever in the middle of a change the connection breaks, or HAProxy itself: the change comes into force, with one
// reload or start at the most.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	binary := haproxytest.Binary(t)
	if !haproxytest.AtLeast(t, binary, 3, 4) {
		return // this change is a reload there; TestBrokenSocket has others
	}
	for _, how := range []string{"the connection", "HAProxy"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, binary)
			r := w.router(options{idle: true})
			cert, serial := certificate("b", false)
			one, two := endpoints("a", serve(t, "one")), endpoints("a", serve(t, "two"))
			base := []*tsujiv1.Resource{route("a"), one, route("c")}
			changed := []*tsujiv1.Resource{balanced(route("a"), tsujiv1.Balance_BALANCE_SOURCE), two, edge("b"), cert, endpoints("b", serve(t, "b"))}
			step, at := 1, 0
			if how == "HAProxy" {
				step = 5
			}
			var k *knife
			for {
				r.put(base...)
				if k == nil || how == "HAProxy" {
					k = w.knife()
					r.forget(t)
				}
				worker, reloads := r.pids().Worker, r.reloads()
				k.arm(at, func() {
					if how == "HAProxy" {
						_ = unix.Kill(worker, unix.SIGKILL)
					}
				})
				r.put(changed...)
				was := k.disarm()
				if got := w.get("a.test") + w.get("b.test") + w.get("c.test"); got != "twob503" || w.certificate("b.test") != serial {
					t.Errorf("cut at command %d: %s", at, got)
				}
				if n := r.reloads() - reloads; n > 1 || !was && n != 0 {
					t.Errorf("cut at command %d: %v reloads", at, n)
				}
				if !was {
					break
				}
				at += step
			}
			if at < 20 {
				t.Errorf("there were only %d commands", at)
			}
			t.Logf("%d commands", at)
		})
	}
}

// An operation that HAProxy refuses ends in a reload, and in what was wanted.
func TestRefusedOperation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, haproxytest.Binary(t))
	r := w.router(options{idle: true})
	a, b := endpoints("a", serve(t, "a")), endpoints("b", serve(t, "b"))
	r.put(route("a"), a)
	config, err := os.ReadFile(filepath.Join(w.dir, "haproxy.cfg"))
	must(t, err)
	profile := regexp.MustCompile(`(?m)^backend be_http:ns:a from (\S+)`).FindSubmatch(config)[1]
	w.ask("add backend be_http:ns:b from " + string(profile)) // somebody was first
	r.put(route("a"), a, route("b"), b)
	if got := w.get("a.test") + w.get("b.test"); got != "ab" || r.reloads() != 1 {
		t.Errorf("%s, %v reloads", got, r.reloads())
	}
	r.put(route("a"), a)
	r.put(route("a"), a, route("b"), b)
	if got := w.get("a.test") + w.get("b.test"); got != "ab" || r.reloads() != 1 {
		t.Errorf("after that: %s, %v reloads", got, r.reloads())
	}
}

// knife stands in for the admin socket. Armed, it breaks a connection once: before that command of a change, counted
// from the one that announces it. A reload hands the real socket on, so that it stays in its place; a start does not.
type knife struct {
	mu     sync.Mutex
	armed  bool   // guarded by mu
	at     int    // guarded by mu
	count  int    // guarded by mu; -1: no change has been announced
	before func() // guarded by mu

	commands []string // guarded by mu; all that went by
}

// saw counts the commands that went by and hold a text.
func (k *knife) saw(text string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for _, c := range k.commands {
		if strings.Contains(c, text) {
			n++
		}
	}
	return n
}

func (k *knife) arm(at int, before func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.armed, k.at, k.count, k.before = true, at, -1, before
}

// disarm tells whether the connection was broken.
func (k *knife) disarm() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	cut := !k.armed
	k.armed = false
	return cut
}

// sees looks at a command that goes by, and tells whether to break the connection before it.
func (k *knife) sees(command string) bool {
	before := k.now(command)
	if before != nil {
		before()
	}
	return before != nil
}

// now returns what to do before the connection is broken, if this is the command to break it before.
func (k *knife) now(command string) func() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.commands = append(k.commands, strings.ReplaceAll(command, "\\", ""))
	if !k.armed || k.count < 0 && !strings.Contains(command, "applying") {
		return nil
	}
	if k.count++; k.count != k.at {
		return nil
	}
	k.armed = false
	return k.before
}

func (w *world) knife() *knife {
	w.t.Helper()
	k := &knife{}
	path, moved := filepath.Join(w.dir, haproxy.AdminSocket), filepath.Join(w.dir, "run/real.sock")
	must(w.t, os.Rename(path, moved))
	l, err := net.Listen("unix", path)
	must(w.t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false) //nolint:errcheck // it is one
	w.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("unix", moved)
			if err != nil {
				c.Close()
				continue
			}
			go func() { _, _ = io.Copy(c, to); c.Close() }()
			go k.pass(c, to)
		}
	}()
	return k
}

// pass passes lines on. Those of a payload are no commands.
func (k *knife) pass(c, to net.Conn) {
	defer c.Close()
	defer to.Close()
	payload := false
	for lines := bufio.NewReader(c); ; {
		line, err := lines.ReadString('\n')
		if err != nil || !payload && k.sees(line) {
			return
		}
		switch {
		case strings.HasSuffix(line, "<<\n"):
			payload = true
		case line == "\n":
			payload = false
		}
		if _, err := io.WriteString(to, line); err != nil {
			return
		}
	}
}

// What still has a connection is not told to be deleted: HAProxy is asked whether it could be, and says no. Deletions
// that were sent along would be tried after that all the same, and might succeed unnoticed.
func TestNoDeletionBeforeItsTime(t *testing.T) {
	t.Parallel()
	binary := haproxytest.Binary(t)
	if !haproxytest.AtLeast(t, binary, 3, 4) {
		return // nothing is waited for there
	}
	w := newWorld(t, binary)
	r := w.router(options{})
	stays := serveEcho(t)
	a := []*tsujiv1.Resource{route("a"), endpoints("a", serve(t, "a"))}
	r.put(append(a, route("ws"), endpoints("ws", serveEcho(t)), route("gone"), endpoints("gone", stays))...)
	one, two := w.websocket("ws.test"), w.websocket("gone.test")
	one("hello")
	two("hello")
	k := w.knife()
	r.forget(t)
	r.put(append(a, route("ws"), endpoints("ws", serve(t, "b")))...)
	eventually(t, "the janitor asks again and again", func() bool {
		return k.saw("srv-removable be_http:ns:ws/") > 1 && k.saw("srv-removable be_http:ns:gone/") > 1
	})
	for _, command := range []string{"del server be_http:ns:ws/", "del server be_http:ns:gone/", "removable be_http:ns:gone\n", "del backend"} {
		if n := k.saw(command); n != 0 {
			t.Errorf("%d times %q", n, command)
		}
	}
	one("still here")
	two("still here")
	one("")
	two("")
	eventually(t, "all is deleted", func() bool { return r.leaving("servers")+r.leaving("backends") == 0 })
	for _, command := range []string{"del server be_http:ns:ws/", "del server be_http:ns:gone/", "del backend be_http:ns:gone\n"} {
		if n := k.saw(command); n != 1 {
			t.Errorf("%d times %q", n, command)
		}
	}
}

// Wherever in the middle of a change a routerd ends, the next one finds that out, and serves what the store has.
func TestTakenOverInTheMiddle(t *testing.T) {
	t.Parallel()
	binary := haproxytest.Binary(t)
	if !haproxytest.AtLeast(t, binary, 3, 4) {
		return // this change is a reload there
	}
	one, two := endpoints("a", serve(t, "one")), endpoints("a", serve(t, "two"))
	cert, serial := certificate("b", false)
	for at, over := 1, false; !over; at += 6 { // before the first command nothing has begun
		w := newWorld(t, binary)
		r := w.router(options{idle: true})
		r.put(route("a"), one, route("c"))
		r.put(route("a"), two, route("c")) // something leaves
		base := r.put(route("a"), one, route("c"))
		k := w.knife()
		r.forget(t)
		cut, end := make(chan struct{}), make(chan struct{})
		k.arm(at, func() { close(cut); <-end }) // it says nothing more until the end
		changed := w.snapshot(balanced(route("a"), tsujiv1.Balance_BALANCE_SOURCE), two, edge("b"), cert, endpoints("b", serve(t, "b")))
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.try(changed)
		}()
		select {
		case <-cut:
		case <-done:
			over = true
		}
		if !over {
			next := w.router(options{idle: true})
			must(t, next.Start(t.Context(), base))
			if got := w.get("a.test") + w.get("b.test") + w.get("c.test"); got != "one503503" || next.reloads() != 1 {
				t.Errorf("ended at command %d: %s, %v reloads", at, got, next.reloads())
			}
			if refusal := next.try(changed); refusal != nil {
				t.Fatal(refusal)
			}
			if got := w.get("a.test") + w.get("b.test") + w.get("c.test"); got != "twob503" || w.certificate("b.test") != serial {
				t.Errorf("ended at command %d, and then: %s", at, got)
			}
			if n := next.reloads(); n != 1 {
				t.Errorf("ended at command %d, and then: %v reloads", at, n)
			}
			next.process.Kill()
		}
		close(end)
		<-done
		r.process.Kill()
	}
}
