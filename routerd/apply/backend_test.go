package apply_test

import (
	"bufio"
	"context"
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/proto"

	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// ask sends one command to HAProxy's worker, past routerd.
func (w *world) ask(command string) string {
	w.t.Helper()
	c, err := (&net.Dialer{}).DialContext(w.t.Context(), "unix", filepath.Join(w.dir, haproxy.AdminSocket))
	must(w.t, err)
	defer c.Close()
	_, err = io.WriteString(c, command+"\n")
	must(w.t, err)
	b, err := io.ReadAll(c)
	must(w.t, err)
	return strings.TrimSpace(string(b))
}

// backends are the routes' backends that HAProxy has.
func (w *world) backends() []string {
	w.t.Helper()
	var names []string
	for name := range strings.SplitSeq(w.ask("show backend"), "\n") {
		if strings.Count(name, ":") >= 2 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func balanced(r *tsujiv1.Resource, b tsujiv1.Balance) *tsujiv1.Resource {
	r.GetRoute().Balance = b
	return r
}

// Routes come, change in every way, go and come back, with certificates and CA certificates. HAProxy 3.4 needs no
// reload for any of it; before, only what takes away or is data comes without.
func TestRoutes(t *testing.T) { haproxytest.Each(t, routesStory) }

func routesStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	cert, serial := certificate("b", false)
	renewed, renewedSerial := certificate("b", false)
	ends := []*tsujiv1.Resource{endpoints("a", serve(t, "a")), endpoints("b", serve(t, "b"))}
	secure, ca, otherCA := reencrypted(t, "c")
	edgeB := func(change func(*tsujiv1.Route)) *tsujiv1.Resource {
		b := edge("b")
		change(b.GetRoute())
		return b
	}
	hsts := edgeB(func(r *tsujiv1.Route) { r.Hsts = "max-age=5" })
	least := edgeB(func(r *tsujiv1.Route) { r.Balance = tsujiv1.Balance_BALANCE_LEAST_CONNECTIONS })
	r.put(append(ends, route("a"))...)
	for _, s := range []struct {
		what string
		put  []*tsujiv1.Resource
		host string
		want string
		old  string // how HAProxy before 3.4 gets there
	}{
		{"a new route", []*tsujiv1.Resource{route("b")}, "b.test", "b", "reload"},
		{"its balance changes", []*tsujiv1.Resource{balanced(route("b"), tsujiv1.Balance_BALANCE_SOURCE)}, "b.test", "b", "reload"},
		{"and back", []*tsujiv1.Resource{route("b")}, "b.test", "b", "reload"},
		{"it goes", nil, "b.test", "503", "runtime"},
		{"it comes back", []*tsujiv1.Resource{route("b")}, "b.test", "b", ""},
		{"with a certificate", []*tsujiv1.Resource{edge("b"), cert}, "b.test", "b", "reload"},
		{"which is renewed", []*tsujiv1.Resource{edge("b"), renewed}, "b.test", "b", "runtime"},
		{"an option", []*tsujiv1.Resource{hsts, renewed}, "b.test", "b", ""},
		{"another profile", []*tsujiv1.Resource{least, renewed}, "b.test", "b", "reload"},
		{"without its certificate", []*tsujiv1.Resource{least}, "b.test", "b", "runtime"},
		{"gone", nil, "b.test", "503", "runtime"},
		{"re-encrypted", append(secure, ca), "c.test", "c", "reload"},
		{"with another CA", append(secure, otherCA), "c.test", "503", "reload"},
		{"and back", append(secure, ca), "c.test", "c", "reload"},
		{"gone", nil, "c.test", "503", "runtime"},
	} {
		how := s.old
		if r.can.DynamicBackends {
			how = "runtime"
		}
		before := testutil.ToFloat64(r.metrics.Applies.WithLabelValues(how, "ok"))
		r.put(slices.Concat(ends, []*tsujiv1.Resource{route("a")}, s.put)...)
		if how != "" && testutil.ToFloat64(r.metrics.Applies.WithLabelValues(how, "ok")) != before+1 {
			t.Errorf("%s: not by %s", s.what, how)
		}
		if got := w.get(s.host); got != s.want {
			t.Errorf("%s: %s", s.what, got)
		}
		if got := w.get("a.test"); got != "a" {
			t.Errorf("%s: the other route: %s", s.what, got)
		}
		switch s.what {
		case "with a certificate":
			if got := w.certificate("b.test"); got != serial {
				t.Errorf("%s: %s, want %s", s.what, got, serial)
			}
		case "which is renewed", "an option", "another profile":
			if got := w.certificate("b.test"); got != renewedSerial {
				t.Errorf("%s: %s, want %s", s.what, got, renewedSerial)
			}
		case "without its certificate":
			if got := w.certificate("b.test"); got == renewedSerial {
				t.Errorf("%s: it is still served", s.what)
			}
		}
	}
	if !r.can.DynamicBackends {
		return
	}
	if n := r.reloads(); n != 0 {
		t.Errorf("%v reloads", n)
	}
	eventually(t, "what has left is deleted", func() bool {
		return slices.Equal(w.backends(), []string{"be_http:ns:a"}) && r.leaving("backends")+r.leaving("servers")+r.leaving("certificates") == 0
	})
	for _, list := range []string{"show ssl cert", "show ssl ca-file"} {
		if got := w.ask(list); strings.Contains(got, "ns_") {
			t.Errorf("%s: %s", list, got)
		}
	}
}

// Of all pods a few have names that give the same id in HAProxy, which takes no id twice. One of them follows the other
// while that one is on its way out, and comes back.
func TestSameID(t *testing.T) {
	t.Parallel()
	w := newWorld(t, haproxytest.Binary(t))
	r := w.router(options{})
	if !r.can.DynamicServers {
		t.Skip("servers come by reloads")
	}
	e := serve(t, "a")
	pods := map[uint32]*tsujiv1.Endpoint{}
	for i := 0; ; i++ {
		pod := proto.CloneOf(e)
		pod.TargetName = fmt.Sprint("pod-", i)
		sum := md5.Sum(fmt.Appendf(nil, "pod:%s:a:http:%s:%d", pod.GetTargetName(), e.GetAddress(), e.GetPort()))
		id := binary.BigEndian.Uint32(sum[:]) % (1<<20 - 1)
		other := pods[id]
		pods[id] = pod
		if other == nil {
			continue
		}
		for _, one := range []*tsujiv1.Endpoint{other, pod, other} {
			r.put(route("a"), endpoints("a", one))
			if got := w.get("a.test"); got != "a" {
				t.Error(got)
			}
		}
		break
	}
	if n := r.reloads(); n != 0 {
		t.Errorf("%v reloads", n)
	}
}

// reencrypted makes a route to a server with TLS, and its CA's certificates; and those of another CA.
func reencrypted(t *testing.T, name string) (resources []*tsujiv1.Resource, ca, other *tsujiv1.Resource) {
	t.Helper()
	a, err := authority.NewAuthority("one")
	must(t, err)
	b, err := authority.NewAuthority("another")
	must(t, err)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }))
	startTLS(t, s, a, name)
	bundle := func(pem []byte) *tsujiv1.Resource {
		return &tsujiv1.Resource{Name: tsujiv1.CertificateName("ns", tsujiv1.FromRoute, name+"-ca"), Kind: &tsujiv1.Resource_Certificate{
			Certificate: &tsujiv1.Certificate{CaBundlePem: pem},
		}}
	}
	r := route(name)
	r.GetRoute().Termination = tsujiv1.Termination_TERMINATION_REENCRYPT
	r.GetRoute().InsecurePolicy = tsujiv1.InsecurePolicy_INSECURE_POLICY_ALLOW
	r.GetRoute().DestinationTls = &tsujiv1.DestinationTLS{Verify: true, Ca: bundle(nil).GetName(), VerifyServiceHost: true}
	return []*tsujiv1.Resource{r, endpoints(name, endpoint(t, s))}, bundle(a.CertPEM()), bundle(b.CertPEM())
}

// A websocket is held open while its route goes, comes back with another profile, and its server leaves. It is not cut,
// and nothing waits for it.
func TestWebsocket(t *testing.T) { haproxytest.Each(t, websocketStory) }

func websocketStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	ends := []*tsujiv1.Endpoint{serveEcho(t), serveEcho(t)}
	a := endpoints("a", serve(t, "a"))
	both, one := endpoints("ws", ends...), endpoints("ws", ends[1])
	r.put(route("a"), a, route("ws"), endpoints("ws", ends[0]))
	talk := w.websocket("ws.test")
	talk("hello")
	first := r.pids().Worker
	for _, s := range []struct {
		what string
		put  []*tsujiv1.Resource
	}{
		{"its route goes", nil},
		{"it comes back with another profile", []*tsujiv1.Resource{balanced(route("ws"), tsujiv1.Balance_BALANCE_SOURCE), both}},
		{"its server leaves", []*tsujiv1.Resource{balanced(route("ws"), tsujiv1.Balance_BALANCE_SOURCE), one}},
		{"the first profile", []*tsujiv1.Resource{route("ws"), one}},
		{"its server comes back", []*tsujiv1.Resource{route("ws"), both}},
		{"its route goes again", nil},
	} {
		r.put(append(s.put, route("a"), a)...) // is acked while the websocket lives
		talk(s.what)
		if s.put != nil {
			other := w.websocket("ws.test")
			other("a new one")
			other("")
		}
	}
	if !r.can.DynamicBackends {
		return
	}
	// HAProxy hears a little later than they say it that the others have ended.
	eventually(t, "its backend and a's are left", func() bool { r.TryDeletions(t.Context()); return len(w.backends()) == 2 })
	talk("still here")
	if now := r.pids().Worker; now != first {
		t.Errorf("worker %d, then %d", first, now)
	}
	talk("") // the end
	eventually(t, "its backend is deleted", func() bool { return slices.Equal(w.backends(), []string{"be_http:ns:a"}) })
}

// websocket opens one, and returns what sends a line and waits for its echo. An empty line ends it.
func (w *world) websocket(host string) (talk func(string)) {
	w.t.Helper()
	c, err := (&net.Dialer{}).DialContext(w.t.Context(), "tcp", w.http)
	must(w.t, err)
	w.t.Cleanup(func() { c.Close() })
	_, err = fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", host)
	must(w.t, err)
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	must(w.t, err)
	res.Body.Close()
	if res.StatusCode != http.StatusSwitchingProtocols {
		w.t.Fatalf("websocket: %s", res.Status)
	}
	return func(line string) {
		w.t.Helper()
		if line == "" {
			c.Close()
			return
		}
		_, err := io.WriteString(c, line+"\n")
		must(w.t, err)
		must(w.t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
		if got, err := r.ReadString('\n'); got != line+"\n" {
			w.t.Errorf("%s: the websocket was cut: %q, %v", line, got, err)
		}
	}
}

// serveEcho starts a server that answers an upgrade with an echo.
func serveEcho(t *testing.T) *tsujiv1.Endpoint {
	return serveHandler(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := w.(http.Hijacker).Hijack() //nolint:errcheck // it is one
		if err != nil {
			return
		}
		go func() { // the server does not wait for it
			defer c.Close()
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
			_, _ = io.Copy(c, rw)
		}()
	}))
}

// A routerd that takes over a HAProxy whose backends have other names than in the files knows them, and deletes what
// the one before had left to drain.
func TestAdoptNames(t *testing.T) {
	binary := haproxytest.Binary(t)
	t.Parallel()
	if !haproxytest.AtLeast(t, binary, 3, 4) {
		return // names are those of the files there
	}
	w := newWorld(t, binary)
	r := w.router(options{})
	a, b := endpoints("a", serve(t, "a")), endpoints("b", serve(t, "b"))
	cert, _ := certificate("b", false)
	source := func(name string) *tsujiv1.Resource { return balanced(route(name), tsujiv1.Balance_BALANCE_SOURCE) }
	r.put(route("a"), a, edge("b"), b, cert)
	r.put(source("a"), a, edge("b"), b, cert)
	current := r.put(source("a"), a)
	worker := r.pids().Worker
	r.die()

	next := w.router(options{})
	must(t, next.Start(t.Context(), current))
	if got := w.get("a.test"); got != "a" || next.reloads() != 0 {
		t.Errorf("taken over: %s, %v reloads", got, next.reloads())
	}
	eventually(t, "what was left is deleted", func() bool { return slices.Equal(w.backends(), []string{"be_http:ns:a:2"}) })
	eventually(t, "certificates too", func() bool { return !strings.Contains(w.ask("show ssl cert"), "ns_") })
	next.put(route("a"), a)
	next.put(route("a"), endpoints("a", serve(t, "moved")), route("b"), b)
	if got := w.get("a.test") + w.get("b.test"); got != "movedb" {
		t.Errorf("it goes on: %s", got)
	}
	eventually(t, "the second is deleted", func() bool { return slices.Equal(w.backends(), []string{"be_http:ns:a", "be_http:ns:b"}) })
	if p := next.pids(); p.Worker != worker {
		t.Errorf("worker %d, then %+v", worker, p)
	}
	if got := w.ask("show map maps/stamp.map"); strings.Contains(got, "be:") {
		t.Errorf("names: %s", got)
	}
}

// Of two routes of one host with a certificate each, it does not depend on which came first whose is served: a start
// from files serves the same.
func TestTwoCertificates(t *testing.T) { haproxytest.Each(t, twoCertificatesStory) }

func twoCertificatesStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{idle: true})
	one, oneSerial := certificate("a", false)
	two, twoSerial := certificate("b", false)
	b := edge("b")
	b.GetRoute().Host, b.GetRoute().Path = "a.test", "/b"
	both := []*tsujiv1.Resource{edge("a"), b, one, two, endpoints("a"), endpoints("b")}
	r.put(b, two, endpoints("a"), endpoints("b"))
	if got := w.certificate("a.test"); got != twoSerial {
		t.Errorf("one route: %s, want %s", got, twoSerial)
	}
	r.put(both...)
	if got := w.certificate("a.test"); got != oneSerial {
		t.Errorf("two routes: %s, want %s", got, oneSerial)
	}
	again := newWorld(t, binary)
	again.router(options{idle: true}).put(both...)
	if got := again.certificate("a.test"); got != oneSerial {
		t.Errorf("after a start: %s, want %s", got, oneSerial)
	}
	r.put(b, two, endpoints("a"), endpoints("b"))
	if got := w.certificate("a.test"); got != twoSerial {
		t.Errorf("one route again: %s, want %s", got, twoSerial)
	}
}

// A server that is suspended gets no requests, whatever else changes, until it is restored or leaves.
func TestSuspend(t *testing.T) { haproxytest.Each(t, suspendStory) }

func suspendStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	one, two := serve(t, "one"), serve(t, "two")
	name := fmt.Sprintf("pod:%s:a:http:%s:%d", one.GetTargetName(), one.GetAddress(), one.GetPort())
	a := balanced(route("a"), tsujiv1.Balance_BALANCE_ROUND_ROBIN)
	r.put(a, endpoints("a", one, two))
	ctx := t.Context()
	suspend := func(f func(context.Context, string, string) error) {
		t.Helper()
		must(t, f(ctx, "be_http:ns:a", name))
	}
	only := func(what string, want ...string) {
		t.Helper()
		got := w.count("a.test", 10)
		for _, k := range []string{"one", "two"} {
			if (got[k] > 0) != slices.Contains(want, k) {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
	}
	if err := r.Suspend(ctx, "be_http:ns:a", "nobody"); err == nil {
		t.Error("a server that is not there was suspended")
	}
	suspend(r.Suspend)
	only("suspended", "two")
	if got := r.Suspended(); len(got) != 1 || got[0].Name != name {
		t.Errorf("suspended: %v", got)
	}
	r.put(a, endpoints("a", one, two), route("b"))
	if r.can.DynamicBackends {
		only("another route", "two")
		r.put(balanced(route("a"), tsujiv1.Balance_BALANCE_LEAST_CONNECTIONS), endpoints("a", one, two), route("b"))
		only("another profile", "two")
		r.driftRounds(1)
		only("later", "two")
		suspend(r.Restore)
		only("restored", "one", "two")
		suspend(r.Suspend)
		r.put(a, endpoints("a", two), route("b"))
		r.put(a, endpoints("a", one, two), route("b"))
	}
	only("it left and came back, or there was a reload", "one", "two")
	if got := r.Suspended(); len(got) != 0 {
		t.Errorf("suspended: %v", got)
	}
	suspend(r.Restore)
}
