package admin

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// large is more than the buffers of a connection hold.
var large = bytes.Repeat([]byte("a metric 1\n"), 1<<20)

// slow is one whose metrics are large, or stop in the middle. Each request for metrics is told of when its answer has
// begun; one at "?part" waits with the rest of it.
func slow(t *testing.T) (l net.Listener, begun chan struct{}, rest chan struct{}) {
	t.Helper()
	l, begun, rest = tcp(t), make(chan struct{}, 8*maxConnections), make(chan struct{})
	ready := func() error { return nil }
	serving(t, l, Config{Ready: ready, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(large[:11])
		_ = http.NewResponseController(w).Flush()
		switch r.URL.RawQuery {
		case "large":
			begun <- struct{}{}
			_, _ = w.Write(large)
		case "part":
			begun <- struct{}{}
			<-rest
			_, _ = w.Write(large)
		}
	})})
	return l, begun, rest
}

// send says something on a new connection from a host, and leaves it open.
func send(t *testing.T, l net.Listener, host, text string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(host)}}
	c, err := dialer.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return c
}

// await waits until an answer has begun.
func await(t *testing.T, begun <-chan struct{}) {
	t.Helper()
	select {
	case <-begun:
	case <-time.After(patience):
		t.Fatal("no answer has begun")
	}
}

// However somebody is slow, on as many connections as there may be and then on one more beside each probe, all probes
// are answered, from the same host too.
func TestSlowClientsShutOutNoProbe(t *testing.T) {
	const get = "GET /healthz HTTP/1.1\r\nHost: x\r\n"
	for kind, text := range map[string]string{
		"says nothing":                 "",
		"half a header":                get + "X: ",
		"no body":                      get + "Content-Length: 9\r\n\r\n",
		"half a body":                  get + "Content-Length: 9\r\n\r\n1234",
		"no chunk":                     get + "Transfer-Encoding: chunked\r\n\r\n",
		"half a chunk":                 "POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
		"waits to be told to send":     get + "Content-Length: 9\r\nExpect: 100-continue\r\n\r\n",
		"no body of what is not there": "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
		"no body of no path":           "OPTIONS * HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
		"half of the next header":      get + "\r\nGET",
		"does not read":                "GET /metrics?large HTTP/1.1\r\nHost: x\r\n\r\n",
		"does not read many":           get + "\r\n" + "GET /metrics?large HTTP/1.1\r\nHost: x\r\n\r\n",
		"is not answered yet":          "GET /metrics?part HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(kind, func(t *testing.T) {
			l, begun, rest := slow(t)
			defer close(rest)
			one := func() {
				c := send(t, l, "127.0.0.1", text)
				switch {
				case bytes.Contains([]byte(text), []byte("/metrics")):
					await(t, begun) // it is under way
				case bytes.HasSuffix([]byte(text), []byte("\r\n\r\n")) && !bytes.Contains([]byte(text), []byte("POST")):
					_, _ = c.Read(make([]byte, 1)) // it was answered
				}
			}
			for range maxConnections {
				one()
			}
			for i := range 16 {
				for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
					if got, err := ask(connect(t, l), path, "Host: x\r\nConnection: close\r\n"); got != 200 || err != nil {
						t.Fatalf("probe %d of %s: %d, %v", i, path, got, err)
					}
				}
				one()
			}
		})
	}
}

// Who announces a body is answered, and the connection ends: nobody waits for the body.
func TestBodiesAreNotWaitedFor(t *testing.T) {
	l := tcp(t)
	srv := server(handler(Config{Listener: l, Metrics: prometheus.NewRegistry()}), slog.New(slog.DiscardHandler))
	srv.ReadTimeout = 0 // which would end the wait
	running(t, func(ctx context.Context) error { return serve(ctx, srv, l) })
	for _, more := range []string{"Content-Length: 9\r\n", "Content-Length: 900000\r\n", "Transfer-Encoding: chunked\r\n"} {
		c := send(t, l, "127.0.0.1", "GET /healthz HTTP/1.1\r\nHost: x\r\n"+more+"\r\n")
		r := bufio.NewReader(c)
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != http.StatusOK || !res.Close {
			t.Fatalf("%s: %v, %v", more, res, err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%s: read %d, %v", more, n, err)
		}
	}
}

// What is long under way, as large metrics are, is not ended by who opens connections: not by a flood of another
// host, of whatever kind, and not by connections of its own host on which nothing is said.
func TestLongAnswersGoOn(t *testing.T) {
	l, begun, rest := slow(t)
	const ask = "GET /metrics?part HTTP/1.1\r\nHost: x\r\n\r\n"
	c := send(t, l, "127.0.0.2", ask)
	await(t, begun)
	for i := range 3 * maxConnections {
		send(t, l, "127.0.0.2", "")
		if i < maxConnections {
			send(t, l, "127.0.0.1", ask)
			await(t, begun)
		}
	}
	close(rest)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, res.Body); err != nil || n != int64(len(large)+11) {
		t.Errorf("%d bytes of %d, %v", n, len(large)+11, err)
	}
}

// Requests whose connections have ended go on until they notice, and are bounded: beyond that metrics are refused,
// and probes are not.
func TestMetricsUnderWayAreBounded(t *testing.T) {
	l, begun, rest := slow(t)
	defer close(rest)
	for range maxMetrics {
		send(t, l, "127.0.0.1", "GET /metrics?part HTTP/1.1\r\nHost: x\r\n\r\n")
		await(t, begun)
	}
	for path, want := range map[string]int{"/metrics": 503, "/healthz": 200, "/readyz": 200} {
		if got, err := ask(connect(t, l), path, "Host: x\r\nConnection: close\r\n"); got != want {
			t.Errorf("%s: %d, %v, want %d", path, got, err, want)
		}
	}
}
