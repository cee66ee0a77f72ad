package apply_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/proto"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// track is a router with so many routes, two endpoints each, for benchmarks.
type track struct {
	*router
	b       *testing.B
	current snapshot.Snapshot
	ends    []*tsujiv1.Endpoint // which answer with their names and the path that they were asked for
}

func newTrack(b *testing.B, n int, o options) *track {
	w := newWorld(b, haproxytest.Binary(b))
	t := &track{router: w.router(o), b: b}
	for _, name := range []string{"one", "two"} {
		t.ends = append(t.ends, serveHandler(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name, r.URL.Path) })))
	}
	var resources []*tsujiv1.Resource
	for i := range n {
		name := fmt.Sprint("r", i)
		resources = append(resources, route(name), endpoints(name, t.ends...))
	}
	cert, _ := certificate("a", false)
	t.current = t.put(append(resources, edge("a"), endpoints("a", t.ends...), cert)...)
	return t
}

// times are those of one change, from the snapshot on.
type times struct {
	answer time.Duration // until a client got the first correct answer; 0: nobody asked
	ack    time.Duration // until it was read back
}

// change applies a difference. A client asks all the time until seen is true; nil: there is none.
func (t *track) change(seen func() (bool, error), put []*tsujiv1.Resource, removed ...string) (took times) {
	t.b.Helper()
	d := snapshot.Delta{Removed: removed}
	for _, r := range put {
		item, err := tsujiv1.Encode(r)
		must(t.b, err)
		d.Put = append(d.Put, item)
	}
	next := t.current.Apply(t.current.Version().Revision+1, d)
	answered := make(chan error, 1)
	begun := time.Now()
	go func() {
		for seen != nil {
			ok, err := seen()
			took.answer = time.Since(begun)
			if err == nil && !ok && took.answer > time.Minute {
				err = errors.New("never the right answer")
			}
			if ok || err != nil {
				answered <- err
				return
			}
		}
		answered <- nil
	}()
	refusal := t.Apply(t.b.Context(), next, d)
	took.ack = time.Since(begun)
	must(t.b, <-answered)
	if refusal != nil {
		t.b.Fatal(refusal)
	}
	t.current = next
	return took
}

// add adds routes that begin with a name, each with its two endpoints; drop takes them away.
func (t *track) add(seen func() (bool, error), names ...string) times {
	var put []*tsujiv1.Resource
	for _, name := range names {
		put = append(put, route(name), endpoints(name, t.ends...))
	}
	return t.change(seen, put)
}

func (t *track) drop(seen func() (bool, error), names ...string) times {
	var removed []string
	for _, name := range names {
		removed = append(removed, tsujiv1.RouteName("ns", name), tsujiv1.EndpointsName("ns", name, "http"))
	}
	return t.change(seen, nil, removed...)
}

// run measures a change at least so many times: the median and the slowest of a hundred, until the first correct answer and
// until the ack.
func (t *track) run(name string, least int, f func(i int) times) {
	t.b.Run(name, func(b *testing.B) {
		outer := t.b
		t.b = b
		defer func() { t.b = outer }()
		var answers, acks []time.Duration
		reloads := t.reloads()
		once := func() {
			took := f(len(acks))
			answers, acks = append(answers, took.answer), append(acks, took.ack)
		}
		for b.Loop() {
			once()
		}
		for len(acks) < least {
			once()
		}
		report := func(all []time.Duration, what string) {
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, what+"-p50-ms")
			b.ReportMetric(float64(all[min(len(all)*99/100, len(all)-1)].Microseconds())/1000, what+"-p99-ms")
		}
		report(answers, "answer")
		report(acks, "ack")
		b.ReportMetric(t.reloads()-reloads, "reloads")
		b.ReportMetric(0, "ns/op") // what is not measured is in it
	})
}

// BenchmarkApply is one change, from the moment when the Applier is given the snapshot, with so many routes: a route that
// is new, without and with a certificate of its own; an endpoint that moves; an option that changes; a certificate that is
// renewed; a route that goes. What is answered is asked for all the time, by one client on a connection that is kept, and
// for a certificate by TLS handshakes, a millisecond apart: it shares the machine with HAProxy.
func BenchmarkApply(b *testing.B) {
	const least = 300
	for _, n := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint("routes=", n), func(b *testing.B) {
			t := newTrack(b, n, options{})
			c := &client{b: b, w: t.w}
			defer c.close()
			count := 0
			fresh := func() string {
				count++
				return fmt.Sprint("new", count)
			}
			t.run("new", least, func(int) times {
				name := fresh()
				took := t.add(c.body(name, "one/", "two/"), name)
				t.drop(nil, name)
				return took
			})
			t.run("new-with-certificate", least, func(int) times {
				name := fresh()
				cert, serial := certificate(name, false)
				took := t.change(c.handshake(name, serial), []*tsujiv1.Resource{edge(name), cert, endpoints(name, t.ends...)})
				t.change(nil, nil, tsujiv1.RouteName("ns", name), tsujiv1.EndpointsName("ns", name, "http"), cert.GetName())
				return took
			})
			t.run("endpoint-moved", least, func(i int) times {
				e := proto.CloneOf(t.ends[i%2])
				e.TargetName = fmt.Sprint("pod-", i) // another pod each time
				return t.change(c.body("r0", []string{"one/", "two/"}[i%2]), []*tsujiv1.Resource{endpoints("r0", e)})
			})
			optional := func(i int) []*tsujiv1.Resource {
				r := route("r1")
				r.GetRoute().Rewrite = &tsujiv1.PathRewrite{Target: fmt.Sprint("/", i)}
				return []*tsujiv1.Resource{r, endpoints("r1", t.ends[0])}
			}
			t.change(nil, optional(-1))
			t.run("option-changed", least, func(i int) times {
				return t.change(c.body("r1", fmt.Sprint("one/", i, "/")), optional(i))
			})
			t.run("certificate-renewed", least, func(int) times {
				cert, serial := certificate("a", false)
				return t.change(c.handshake("a", serial), []*tsujiv1.Resource{cert})
			})
			t.run("gone", least, func(int) times {
				name := fresh()
				t.add(c.body(name, "one/", "two/"), name)
				return t.drop(c.status(name, http.StatusServiceUnavailable), name)
			})
		})
	}
}

// BenchmarkReload is a new route where backends come by reloads.
func BenchmarkReload(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint("routes=", n), func(b *testing.B) {
			t := newTrack(b, n, options{noBackends: true})
			c := &client{b: b, w: t.w}
			defer c.close()
			t.run("new", 5, func(i int) times {
				name := fmt.Sprint("new", i)
				t.HoldReloads(0)
				return t.add(c.body(name, "one/", "two/"), name)
			})
		})
	}
}

// BenchmarkMany is so many new routes in one difference, until the ack: as the router chooses, by commands, and by a reload.
// They are taken away by a reload each time.
func BenchmarkMany(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint("routes=", n), func(b *testing.B) {
			t := newTrack(b, n, options{})
			round := 0
			for _, way := range []struct {
				name   string
				reload time.Duration // what one is said to cost; negative: as measured
			}{{"chosen", -1}, {"commands", time.Hour}, {"reload", 0}} {
				for _, m := range []int{100, 500, 1_000, 3_000} {
					b.Run(fmt.Sprintf("new=%d/%s", m, way.name), func(b *testing.B) {
						var all []time.Duration
						var reloads, operations, seconds float64
						for b.Loop() {
							round++
							var names []string
							for i := range m {
								names = append(names, fmt.Sprintf("new%d-%d", round, i))
							}
							if way.reload >= 0 {
								t.ReloadCosts(way.reload)
							}
							before := [...]float64{t.reloads(), testutil.ToFloat64(t.metrics.Operations), testutil.ToFloat64(t.metrics.Seconds)}
							all = append(all, t.add(nil, names...).ack)
							reloads += t.reloads() - before[0]
							operations += testutil.ToFloat64(t.metrics.Operations) - before[1]
							seconds += testutil.ToFloat64(t.metrics.Seconds) - before[2]
							t.ReloadCosts(0)
							t.drop(nil, names...)
						}
						slices.Sort(all)
						b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
						b.ReportMetric(reloads/float64(len(all)), "reloads")
						if seconds > 0 {
							b.ReportMetric(operations/seconds, "commands/s")
						}
						b.ReportMetric(0, "ns/op") // what is not measured is in it
					})
				}
			}
		})
	}
}

// client asks a router on one connection, which it keeps as long as it may.
type client struct {
	b    *testing.B
	w    *world
	conn net.Conn
	in   *bufio.Reader
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// ask returns status and body of one answer.
func (c *client) ask(host string) (status int, body string, err error) {
	if c.conn == nil {
		if c.conn, err = (&net.Dialer{}).DialContext(c.b.Context(), "tcp", c.w.http); err != nil {
			return 0, "", fmt.Errorf("connect: %w", err)
		}
		c.in = bufio.NewReader(c.conn)
	}
	if _, err := fmt.Fprintf(c.conn, "GET / HTTP/1.1\r\nHost: %s.test\r\n\r\n", host); err != nil {
		return 0, "", fmt.Errorf("ask: %w", err)
	}
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, "", fmt.Errorf("an answer: %w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if res.Close {
		c.close()
	}
	return res.StatusCode, string(text), err
}

// body tells whether the host answers with one of these bodies.
func (c *client) body(host string, want ...string) func() (bool, error) {
	return func() (bool, error) {
		status, body, err := c.ask(host)
		return status == http.StatusOK && slices.Contains(want, body), c.lost(err)
	}
}

// status tells whether the host answers with this status.
func (c *client) status(host string, want int) func() (bool, error) {
	return func() (bool, error) {
		status, _, err := c.ask(host)
		return status == want, c.lost(err)
	}
}

// lost lets the client connect again where it lost its connection between two requests: a worker that is reloaded ends
// those that are idle.
func (c *client) lost(err error) error {
	if err == nil {
		return nil
	}
	c.close()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, new(*net.OpError)) {
		return nil
	}
	return err
}

// handshake tells whether a new connection is shown a certificate, and its host answers. Handshakes without a pause would
// take the core that HAProxy needs for the change.
func (c *client) handshake(host, serial string) func() (bool, error) {
	d := &tls.Dialer{Config: &tls.Config{ServerName: host + ".test", InsecureSkipVerify: true}}
	return func() (bool, error) {
		time.Sleep(time.Millisecond)
		conn, err := d.DialContext(context.WithoutCancel(c.b.Context()), "tcp", c.w.https)
		if err != nil {
			return false, fmt.Errorf("handshake: %w", err)
		}
		defer conn.Close()
		if conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String() != serial { //nolint:errcheck // it is one
			return false, nil
		}
		if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s.test\r\nConnection: close\r\n\r\n", host); err != nil {
			return false, fmt.Errorf("ask: %w", err)
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return false, fmt.Errorf("an answer: %w", err)
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK, nil
	}
}
