package test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// traffic is a steady load on a router by clients of many kinds, each of which asks one route at a pace of its own and
// judges every answer. Unlike load, whose clients are net/http's, it sees what net/http mends in silence: a kept
// connection that HAProxy closed.
type traffic struct {
	t           testing.TB
	http, https string         // the router's addresses
	roots       *x509.CertPool // that certificates are verified against
	cancel      context.CancelFunc
	ctx         context.Context //nolint:containedctx // ends the clients, which live as long as this
	clients     sync.WaitGroup

	mu     sync.Mutex
	sent   map[string]int // requests by kind of client
	to     map[string]int // the same by host
	failed []failure
	asked  int // times that HAProxy asked to close a connection
}

// failure is a request that failed, or a connection that should not have been closed.
type failure struct {
	at           time.Time
	client, host string
	err          error
}

// weight tells the graver of two failures.
func (f failure) weight() int {
	if errors.Is(f.err, errStale) {
		return 0
	}
	return 1
}

// target is what a client asks, and what it wants to be told. The answer's body names the Pod, the host and the path.
type target struct {
	host, path string
	judge      func(answer) error // nil: a 200 that names the host is right
}

// answer is what a request got.
type answer struct {
	code   int
	header http.Header
	pod    string
	path   string // as the Pod saw it
	leaf   *x509.Certificate
}

var (
	errStale = errors.New("the kept connection was closed")
	errCut   = errors.New("the websocket was cut")
)

// leavingHeader is given by a Pod that is about to end.
const leavingHeader = "X-Leaving"

func newTraffic(t testing.TB, r *router, roots *x509.CertPool) *traffic {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &traffic{t: t, http: r.http, https: r.https, roots: roots, ctx: ctx, cancel: cancel, sent: map[string]int{}, to: map[string]int{}}
	t.Cleanup(l.stop)
	return l
}

// Read takes what was buffered first.
func (c *conn) Read(b []byte) (int, error) { return c.in.Read(b) }

func (l *traffic) stop() {
	l.cancel()
	l.clients.Wait()
}

// every runs a client's step again and again.
func (l *traffic) every(period time.Duration, client, host string, step func(ctx context.Context) error) {
	l.clients.Go(func() {
		tick := time.NewTicker(period)
		defer tick.Stop()
		for {
			err := step(l.ctx)
			l.mu.Lock()
			l.sent[client]++
			l.to[host]++
			if err != nil && l.ctx.Err() == nil {
				l.failed = append(l.failed, failure{time.Now(), client, host, err})
			}
			l.mu.Unlock()
			select {
			case <-l.ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
}

// asks is how often a host was asked.
func (l *traffic) asks(host string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to[host]
}

// conn is a client's connection, with what was read from it.
type conn struct {
	net.Conn
	in *bufio.Reader
}

// dial connects to the scheme's port; over TLS the certificate has to be the host's, unless anyone's will do.
func (l *traffic) dial(ctx context.Context, scheme, host string, anyone bool) (*conn, error) {
	address := l.http
	if scheme == "https" {
		address = l.https
	}
	c, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if scheme == "https" {
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		secure := tls.Client(c, &tls.Config{
			ServerName: host, RootCAs: l.roots, InsecureSkipVerify: anyone, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12,
		})
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
		c = secure
	}
	return &conn{c, bufio.NewReader(c)}, nil
}

// ask sends one request and reads its answer.
func (c *conn) ask(host, path, cookie string) (*http.Response, []byte, error) {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	req, err := http.NewRequest(http.MethodGet, "http://"+host+path, nil)
	if err != nil {
		return nil, nil, err
	}
	if cookie != "" {
		req.Header.Set("Cookie", cookie)
	}
	if err := req.Write(c); err != nil {
		return nil, nil, err
	}
	resp, err := http.ReadResponse(c.in, req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("the answer's body: %w", err)
	}
	return resp, body, nil
}

// fetch asks once on a connection of its own.
func (l *traffic) fetch(ctx context.Context, scheme, host, path string, anyone bool) (answer, error) {
	c, err := l.dial(ctx, scheme, host, anyone)
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	resp, body, err := c.ask(host, path, "")
	if err != nil {
		return answer{}, err
	}
	a := read(resp, body)
	if secure, ok := c.Conn.(*tls.Conn); ok {
		a.leaf = secure.ConnectionState().PeerCertificates[0]
	}
	return a, nil
}

func read(resp *http.Response, body []byte) answer {
	a := answer{code: resp.StatusCode, header: resp.Header}
	if words := strings.Fields(string(body)); resp.StatusCode == http.StatusOK && len(words) == 3 {
		a.pod, a.path = words[0]+" "+words[1], words[2]
	}
	return a
}

// check judges an answer: that it comes from a Pod of the route's, and what the target wants of it.
func (w target) check(a answer) error {
	if _, host, _ := strings.Cut(a.pod, " "); a.code != http.StatusOK || host != w.host {
		return fmt.Errorf("answered %d by Pod %q", a.code, a.pod)
	}
	if w.judge == nil {
		return nil
	}
	return w.judge(a)
}

// fresh is a client that connects anew for each request.
func (l *traffic) fresh(period time.Duration, scheme string, w target) {
	l.every(period, "new "+scheme, w.host, func(ctx context.Context) error {
		a, err := l.fetch(ctx, scheme, w.host, w.path, false)
		if err != nil {
			return err
		}
		return w.check(a)
	})
}

// keepAlive is a client that keeps its connection for ever, and its cookie: while it is given no other one, the same Pod
// has to answer.
func (l *traffic) keepAlive(period time.Duration, scheme string, w target) {
	var c *conn
	var cookie, pod string
	l.clients.Go(func() {
		<-l.ctx.Done() // ends a request on its way, too
		l.mu.Lock()
		defer l.mu.Unlock()
		if c != nil {
			_ = c.Close()
		}
	})
	set := func(to *conn) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if c != nil {
			_ = c.Close()
		}
		c = to
	}
	l.every(period, "kept "+scheme, w.host, func(ctx context.Context) error {
		reused := c != nil
		if !reused {
			made, err := l.dial(ctx, scheme, w.host, false)
			if err != nil {
				return err
			}
			set(made)
		}
		resp, body, err := c.ask(w.host, w.path, cookie)
		if err != nil {
			set(nil)
			if reused && !errors.Is(err, os.ErrDeadlineExceeded) {
				err = fmt.Errorf("%w: %w", errStale, err)
			}
			return err
		}
		if resp.Close {
			set(nil)
			if resp.Header.Get(leavingHeader) == "" { // a Pod of a passthrough route may ask so
				l.mu.Lock()
				l.asked++
				l.mu.Unlock()
			}
		}
		a := read(resp, body)
		if err := w.check(a); err != nil {
			return err
		}
		given := resp.Cookies()
		if len(given) > 0 {
			cookie = given[0].Name + "=" + given[0].Value
		} else if cookie != "" && pod != "" && a.pod != pod {
			return fmt.Errorf("the cookie %s led to %s, and then to %s", cookie, pod, a.pod)
		}
		pod = a.pod
		return nil
	})
}

// multiplexed is an HTTP/2 client: its one connection is never to be closed.
func (l *traffic) multiplexed(period time.Duration, w target) {
	var dials atomic.Int32
	protocols := &http.Protocols{}
	protocols.SetHTTP2(true)
	transport := &http.Transport{
		Protocols:       protocols,
		TLSClientConfig: &tls.Config{RootCAs: l.roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			dials.Add(1)
			return (&net.Dialer{}).DialContext(ctx, network, l.https)
		},
	}
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	l.clients.Go(func() {
		<-l.ctx.Done()
		transport.CloseIdleConnections()
	})
	known := int32(1)
	l.every(period, "HTTP/2", w.host, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+w.host+w.path, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if resp.ProtoMajor != 2 {
			return fmt.Errorf("answered by %s", resp.Proto)
		}
		if err := w.check(read(resp, body)); err != nil {
			return err
		}
		if n := dials.Load(); n > known {
			known = n
			return errStale
		}
		return nil
	})
}

// websocket holds one upgraded connection, on which it is echoed; it is never to be cut.
func (l *traffic) websocket(period time.Duration, scheme string, w target) {
	c, err := l.dial(l.ctx, scheme, w.host, false)
	if err == nil {
		_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", w.path, w.host, base64.StdEncoding.EncodeToString([]byte("a key of 16 byte")))
	}
	var resp *http.Response
	if err == nil {
		resp, err = http.ReadResponse(c.in, nil)
	}
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		err = fmt.Errorf("answered %d", resp.StatusCode)
	}
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.failed = append(l.failed, failure{time.Now(), "websocket " + scheme, w.host, err})
		return
	}
	l.clients.Go(func() {
		<-l.ctx.Done()
		_ = c.Close()
	})
	n, cut := 0, false
	l.every(period, "websocket "+scheme, w.host, func(context.Context) error {
		if cut {
			return nil // told already
		}
		n++
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		said := fmt.Sprintf("message %d\n", n)
		_, err := c.Write([]byte(said))
		var heard string
		if err == nil {
			heard, err = c.in.ReadString('\n')
		}
		if err != nil || heard != said {
			cut = true
			if err == nil {
				err = errors.New("not what was said")
			}
			return fmt.Errorf("%w after %d messages: said %q, heard %q: %w", errCut, n-1, said, heard, err)
		}
		return nil
	})
}

// summary tells how many requests there were, and how many failed, by kind.
func (l *traffic) summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	failed, stale := map[string]int{}, map[string]int{}
	for _, f := range l.failed {
		if f.weight() == 0 {
			stale[f.client]++
		} else {
			failed[f.client]++
		}
	}
	var lines []string
	for kind, n := range l.sent {
		lines = append(lines, fmt.Sprintf("%s: %d, failed %d, found closed %d", kind, n, failed[kind], stale[kind]))
	}
	sort.Strings(lines)
	return fmt.Sprintf("%s; asked to close %d", strings.Join(lines, "; "), l.asked)
}
