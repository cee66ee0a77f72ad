package apply_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// lock has somebody list HAProxy's certificates who does not read the list, and returns what ends that.
func (w *world) lock(r *router) (unlock func()) {
	w.t.Helper()
	rt, err := r.process.Connect(w.t.Context())
	must(w.t, err)
	defer rt.Close()
	ops := make([]haproxy.Op, 1000) // more than goes into a buffer
	for i := range ops {
		ops[i] = haproxy.NewCertificate(fmt.Sprintf("by-hand-%s-%d", strings.Repeat("x", 100), i))
	}
	must(w.t, rt.Do(w.t.Context(), ops...))
	c, err := (&net.Dialer{}).DialContext(w.t.Context(), "unix", filepath.Join(w.dir, haproxy.AdminSocket))
	must(w.t, err)
	_, err = io.WriteString(c, "prompt\n"+strings.Repeat("show ssl cert\n", 10))
	must(w.t, err)
	eventually(w.t, "certificates are locked", func() bool {
		_, err := rt.Certificates(w.t.Context(), "certs/ns_route_a.pem")
		if err != nil && !errors.Is(err, haproxy.ErrLocked) {
			w.t.Fatalf("while certificates are locked: %v", err)
		}
		return err != nil
	})
	if _, err := rt.Info(w.t.Context()); err != nil {
		w.t.Errorf("the connection is of no use any more: %v", err)
	}
	return func() { c.Close() }
}

// Somebody whose command about certificates does not end locks them. That is known at once, and nothing is repaired or
// reloaded for it; changes that need none of them are made, and one that does is made by a reload.
func TestLockedCertificates(t *testing.T) { haproxytest.Each(t, lockedCertificatesStory) }

func lockedCertificatesStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{idle: true})
	r.ReloadCosts(1 << 40)
	cert, _ := certificate("a", false)
	one := []*tsujiv1.Resource{edge("a"), endpoints("a", serve(t, "one")), cert}
	r.put(one...)
	before := r.reloads()
	unlock := w.lock(r)
	defer unlock()
	r.BeginDrift()
	for ended := false; !ended; {
		var err error
		if ended, err = r.DriftTurn(t.Context()); err != nil && !errors.Is(err, haproxy.ErrLocked) {
			t.Fatal(err)
		}
	}
	for _, kind := range []string{"certificate", "ca", "line"} {
		n := testutil.ToFloat64(r.metrics.Repairs.WithLabelValues(kind)) +
			testutil.ToFloat64(r.metrics.Unrepaired.WithLabelValues(kind))
		if n != 0 {
			t.Errorf("%v repairs of kind %s", n, kind)
		}
	}
	if n := r.reloads() - before; n != 0 {
		t.Errorf("%v reloads by the check for drift", n)
	}
	cert, serial := certificate("a", false)
	r.put(append(one[:2], cert)...)
	if got := w.certificate("a.test"); got != serial {
		t.Errorf("served %s, want %s", got, serial)
	}
	r.driftRounds(1)
}
