package test

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// podPort is where every Pod of this story listens, each at an address of its own.
const podPort = 8080

// pods makes Pods that speak HTTP and TLS on one port, as their first byte is.
type pods struct {
	t      testing.TB
	config *tls.Config
	made   int
	ending sync.WaitGroup

	mu     sync.Mutex
	failed []error
}

// pod is one of them. It answers with its name, the host and the path; a websocket is echoed.
type pod struct {
	name, address string
	requests      atomic.Int64
	leaving       atomic.Bool
	server        *http.Server
}

func newPods(t testing.TB, certPEM, keyPEM []byte) *pods {
	t.Helper()
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return &pods{t: t, config: &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}}
}

func (p *pods) start(name string) *pod {
	p.t.Helper()
	p.made++
	it := &pod{name: fmt.Sprintf("%s-%d", name, p.made), address: fmt.Sprintf("10.100.%d.%d", p.made/250, 1+p.made%250)}
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", it.address, podPort))
	if err != nil {
		p.t.Fatal(err)
	}
	it.server = &http.Server{ReadHeaderTimeout: patience, ConnContext: withConn, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		it.requests.Add(1)
		if r.Header.Get("Upgrade") == "websocket" {
			echo(w, r)
			return
		}
		if c, ok := r.Context().Value(connKey{}).(*eitherConn); ok && c.secure {
			w.Header().Set("X-Over-TLS", "yes")
		}
		if it.leaving.Load() {
			w.Header().Set("Connection", "close")
			w.Header().Set(leavingHeader, "yes")
		}
		_, _ = fmt.Fprintf(w, "%s %s %s\n", it.name, r.Host, r.URL.Path)
	})}
	go func() { _ = it.server.Serve(&either{l, p.config}) }()
	p.t.Cleanup(func() { _ = it.server.Close() })
	return it
}

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// echo says back what it hears, until the other side ends.
func echo(w http.ResponseWriter, r *http.Request) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	// As RFC 6455 has it; HAProxy checks it.
	accept := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, _ = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(accept[:]))
	_, _ = io.Copy(c, rw)
}

// leave ends a Pod as a graceful one ends: it answers who still asks and asks them to close, and when its host was asked a
// hundred times without it, it closes the connections that it keeps, and listens no more; websockets go on. It is a
// failure when it is asked for long after its endpoint went.
func (p *pods) leave(it *pod, asked func() int) {
	it.leaving.Store(true)
	p.ending.Go(func() {
		deadline := time.Now().Add(patience)
		for before, since := int64(-1), 0; before != it.requests.Load() || asked() < since+100; {
			if time.Now().After(deadline) {
				p.mu.Lock()
				p.failed = append(p.failed, fmt.Errorf("%s gets requests %v after its endpoint is gone", it.name, patience))
				p.mu.Unlock()
				return
			}
			if now := it.requests.Load(); now != before {
				before, since = now, asked()
			}
			time.Sleep(20 * time.Millisecond) // between two looks
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := it.server.Shutdown(ctx); err != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.failed = append(p.failed, fmt.Errorf("%s does not end: %w", it.name, err))
		}
	})
}

// left waits until all Pods that leave have ended, and returns what went wrong.
func (p *pods) left() error {
	p.ending.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.failed...)
}

// either is a listener whose connections are TLS if they begin so.
type either struct {
	net.Listener
	config *tls.Config
}

func (l *either) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &eitherConn{Conn: c, config: l.config}, nil
}

type eitherConn struct {
	net.Conn
	config *tls.Config
	once   sync.Once
	inner  io.ReadWriter
	secure bool
}

// begin looks at the first byte, which is 22 in TLS.
func (c *eitherConn) begin() {
	c.once.Do(func() {
		in := &conn{c.Conn, bufio.NewReader(c.Conn)}
		c.inner = in
		if first, err := in.in.Peek(1); err == nil && first[0] == 22 {
			c.inner, c.secure = tls.Server(in, c.config), true
		}
	})
}

func (c *eitherConn) Read(b []byte) (int, error)  { c.begin(); return c.inner.Read(b) }
func (c *eitherConn) Write(b []byte) (int, error) { c.begin(); return c.inner.Write(b) }
