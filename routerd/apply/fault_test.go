package apply_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// A renewed certificate that is larger than what HAProxy surely takes at run time, a buffer, comes into force by a reload.
// That is known before anything is sent: nobody waits for an answer that does not come.
func TestLargeCertificate(t *testing.T) { haproxytest.Each(t, largeCertificateStory) }

func largeCertificateStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	cert, _ := certificate("a", false)
	ep := endpoints("a", serve(t, "a"))
	r.put(edge("a"), ep, cert)
	cert, serial := certificate("a", false)
	for c := cert.GetCertificate(); len(c.GetChainPem()) < 250_000; {
		chain, _, _ := issue("intermediate")
		c.ChainPem = append(c.GetChainPem(), chain...)
	}
	r.put(edge("a"), ep, cert)
	if n := testutil.ToFloat64(r.metrics.Reloads.WithLabelValues("release")); n != 1 || r.reloads() != 1 || testutil.ToFloat64(r.metrics.Fallbacks) != 0 {
		t.Errorf("%v of %v reloads because of the release, %v fallbacks", n, r.reloads(), testutil.ToFloat64(r.metrics.Fallbacks))
	}
	if got := w.certificate("a.test"); got != serial {
		t.Errorf("served %s, want %s", got, serial)
	}
	if got := w.get("a.test"); got != "a" {
		t.Errorf("the route: %s", got)
	}
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

// Files that cannot be written are a local matter, and only a reload needs them.
func TestDiskFull(t *testing.T) { haproxytest.Each(t, diskFullStory) }

func diskFullStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{noBackends: true})
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
