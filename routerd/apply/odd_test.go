package apply_test

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/test/certtest"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// short are so many names that HAProxy says more of a certificate than its buffer holds, and yet takes it.
func short() []string {
	names := make([]string, 5000)
	for i := range names {
		names[i] = fmt.Sprintf("%c%c", 'a'+i%26, 'a'+i/26%26)
	}
	return names
}

// Certificates with text that looks like HAProxy's, or of which HAProxy cannot say all, come, are renewed and go as others
// do: nothing is reloaded for them, nothing about them looks like drift, and what is really wrong with others is mended.
func TestOddCertificates(t *testing.T) { haproxytest.Each(t, oddCertificatesStory) }

func oddCertificatesStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{idle: true})
	r.ReloadCosts(time.Hour)
	odd := []certtest.Pair{
		{Names: []string{"x\nSerial: 1"}}, {Names: []string{"a\n> b"}}, {Names: []string{"a\n\n> \nb"}}, {Common: "\n> "},
		{Common: "x\nSHA1 FingerPrint: 0123456789012345678901234567890123456789"}, {Names: short()},
	}
	resources := func() (list []*tsujiv1.Resource) {
		for i, o := range odd {
			name := fmt.Sprint("odd", i)
			e := edge(name)
			chain, key := o.Make()
			list = append(list, e, &tsujiv1.Resource{Name: e.GetRoute().GetCertificate(), Kind: &tsujiv1.Resource_Certificate{
				Certificate: &tsujiv1.Certificate{ChainPem: chain, PrivateKey: &tsujiv1.PrivateKey{Pem: key}},
			}})
		}
		return list
	}
	cert, serial := certificate("plain", false)
	plain := []*tsujiv1.Resource{edge("plain"), endpoints("plain", serve(t, "plain")), cert}
	verified := route("verified")
	verified.GetRoute().Termination = tsujiv1.Termination_TERMINATION_REENCRYPT
	bundle := func(o certtest.Pair) *tsujiv1.Resource {
		chain, _ := o.Make()
		more, _ := certtest.Pair{Common: "more"}.Make()
		return &tsujiv1.Resource{Name: tsujiv1.CertificateName("ns", tsujiv1.FromRoute, "ca"), Kind: &tsujiv1.Resource_Certificate{
			Certificate: &tsujiv1.Certificate{CaBundlePem: append(chain, more...)},
		}}
	}
	verified.GetRoute().DestinationTls = &tsujiv1.DestinationTLS{Verify: true, Ca: bundle(certtest.Pair{}).GetName()}
	ends := endpoints("verified", serve(t, "verified"))
	first := slices.Concat(plain, []*tsujiv1.Resource{verified, bundle(certtest.Pair{}), ends})
	r.put(append(resources(), first...)...)
	reloads := r.reloads()
	for range 2 { // renewed
		r.put(append(resources(), first...)...)
	}
	if n := r.reloads() - reloads; n != 0 {
		t.Errorf("renewed: %v reloads", n)
	}
	for _, ca := range []certtest.Pair{{X25519: true}, {Names: certtest.Many(1000, 20)}, {Common: "a\n> b"}, {Common: "a\n\n> \nb"}} {
		r.put(slices.Concat(resources(), plain, []*tsujiv1.Resource{verified, bundle(ca), ends})...)
	}
	if n := r.reloads() - reloads; n != 0 && r.can.DynamicBackends {
		t.Errorf("other CA certificates: %v reloads", n)
	}
	reloads = r.reloads()
	r.driftRounds(2)
	for _, kind := range []string{"certificate", "ca", "line", "backend", "server"} {
		if n := testutil.ToFloat64(r.metrics.Repairs.WithLabelValues(kind)) + testutil.ToFloat64(r.metrics.Unrepaired.WithLabelValues(kind)); n != 0 {
			t.Errorf("%v repairs of kind %s", n, kind)
		}
	}
	other, otherKey, _ := issue("plain.test")
	for range 2 {
		w.ask("set ssl cert certs/ns_route_plain.pem <<\n" + string(other) + strings.TrimSpace(string(otherKey)) + "\n")
		w.ask("commit ssl cert certs/ns_route_plain.pem")
		r.driftRounds(1)
		if got := w.certificate("plain.test"); got != serial {
			t.Errorf("served %s, want %s", got, serial)
		}
	}
	if n := testutil.ToFloat64(r.metrics.Repairs.WithLabelValues("certificate")); n != 2 || r.reloads() != reloads {
		t.Errorf("%v certificates repaired, want 2, and %v reloads", n, r.reloads()-reloads)
	}
	r.put(first...)
}

// A repair that changes nothing is not made again and again: HAProxy is reloaded once for it, then it is told, and everything
// else goes on being checked and repaired. When there is nothing wrong any more it is forgotten.
func TestMendThatChangesNothing(t *testing.T) { haproxytest.Each(t, mendThatChangesNothingStory) }

func mendThatChangesNothingStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	var r *router
	var lying atomic.Bool
	lie := func() {}
	told := &counter{text: "which a repair did not change"}
	r = w.router(options{apply: func(c *apply.Config) {
		c.OnReload = func(time.Duration, error) { lie() }
		c.Log = slog.New(slog.NewTextHandler(told, nil))
	}})
	cert, _ := certificate("a", false)
	infos, err := haproxy.Identify(cert.GetCertificate().GetChainPem())
	must(t, err)
	r.put(edge("a"), cert, route("b"), endpoints("b", serve(t, "b")))
	lie = func() { liar(t, w.dir, infos[0].SHA1, strings.Repeat("0", 40), &lying) }
	lying.Store(true)
	lie()
	hurry := func() { r.forget(t); r.HurryDrift() }
	unrepaired := func() float64 { return testutil.ToFloat64(r.metrics.Unrepaired.WithLabelValues("certificate")) }
	eventually(t, "that it is not repaired is told", func() bool { hurry(); return unrepaired() == 1 })
	if n := testutil.ToFloat64(r.metrics.Reloads.WithLabelValues("mend")); n != 1 || r.reloads() != 1 {
		t.Errorf("%v reloads, %v of them to mend", r.reloads(), n)
	}
	if n := told.count.Load(); n != 1 {
		t.Errorf("told %d times", n)
	}
	for i := range 6 {
		was := testutil.ToFloat64(r.metrics.Repairs.WithLabelValues("entry"))
		w.ask("del map maps/http.map b.test/")
		eventually(t, "something else is repaired", func() bool {
			hurry()
			return testutil.ToFloat64(r.metrics.Repairs.WithLabelValues("entry")) > was
		})
		if n, most := told.count.Load(), int64(1+i/3); n > most {
			t.Errorf("told %d times, and so tried, in round %d", n, i)
		}
		if i == 2 {
			r.HurryMends(true) // it is tried again, once
		}
	}
	if got := w.get("b.test"); got != "b" {
		t.Errorf("%s", got)
	}
	if n := r.reloads(); n != 1 || unrepaired() != 1 {
		t.Errorf("then: %v reloads, %v not repaired", n, unrepaired())
	}
	lying.Store(false)
	eventually(t, "it is forgotten", func() bool { hurry(); return unrepaired() == 0 })
	if n := r.reloads(); n != 1 {
		t.Errorf("in the end: %v reloads", n)
	}
}

// counter counts lines of a log that hold a text.
type counter struct {
	text  string
	count atomic.Int64
}

func (c *counter) Write(line []byte) (int, error) {
	if strings.Contains(string(line), c.text) {
		c.count.Add(1)
	}
	return len(line), nil
}

// liar stands in for the admin socket, and says one thing in place of another of the same length.
func liar(t *testing.T, dir, truth, lie string, lying *atomic.Bool) {
	t.Helper()
	socket, behind := filepath.Join(dir, haproxy.AdminSocket), filepath.Join(dir, "run", fmt.Sprint("real", time.Now().UnixNano()))
	must(t, os.Rename(socket, behind))
	l, err := net.Listen("unix", socket)
	must(t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false) //nolint:errcheck // it is one
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("unix", behind)
			if err != nil {
				c.Close()
				continue
			}
			go func() { _, _ = io.Copy(to, c); to.Close(); c.Close() }()
			go func() {
				defer c.Close()
				defer to.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := to.Read(buf)
					said := string(buf[:n])
					if lying.Load() {
						said = strings.ReplaceAll(said, truth, lie)
					}
					if _, werr := io.WriteString(c, said); err != nil || werr != nil {
						return
					}
				}
			}()
		}
	}()
}
