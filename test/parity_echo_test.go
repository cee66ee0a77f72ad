package test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// observed is what an endpoint tells of a request.
type observed struct {
	Address string // its own
	Port    string
	Path    string // with the query
	Proto   string
	Host    string
	Header  http.Header
	TLS     bool
	SNI     string
	Most    int // requests of this Host at once, so far
}

// echoes answer with what it saw. A request may ask for more:
//
//	Echo-Set: NAME: VALUE   a header of the response
//	Echo-Delay: DURATION    time before it
//	Echo-Hold: NAME         no response before release(NAME)
//	Upgrade: echo           101, and every byte back
type echoes struct {
	mu    sync.Mutex
	held  map[string]chan struct{}
	holds map[string]int // how many wait
	now   map[string]int // requests at once, by Host
	most  map[string]int
}

func newEcho() *echoes {
	return &echoes{held: map[string]chan struct{}{}, holds: map[string]int{}, now: map[string]int{}, most: map[string]int{}}
}

// serve answers on a port of every address: HTTP/1.1 and HTTP/2, over TLS if there is a configuration for it.
func (e *echoes) serve(t testing.TB, config *tls.Config) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	a, _ := l.Addr().(*net.TCPAddr)
	srv := &http.Server{Handler: e, ReadHeaderTimeout: patience, TLSConfig: config, ErrorLog: log.New(io.Discard, "", 0), Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(config == nil || len(config.NextProtos) == 0)
	srv.Protocols.SetUnencryptedHTTP2(true)
	go func() {
		if config != nil {
			_ = srv.ServeTLS(l, "", "")
			return
		}
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() { _ = srv.Close() })
	return a.Port
}

func (e *echoes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := observed{Path: r.RequestURI, Proto: r.Proto, Host: r.Host, Header: r.Header}
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		s.Address, s.Port, _ = net.SplitHostPort(a.String())
	}
	if r.TLS != nil {
		s.TLS, s.SNI = true, r.TLS.ServerName
	}
	s.Most = e.enter(r.Host)
	defer e.leave(r.Host)
	if r.Header.Get("Upgrade") == "echo" {
		tunnel(w)
		return
	}
	for _, h := range r.Header.Values("Echo-Set") {
		name, value, _ := strings.Cut(h, ": ")
		w.Header().Add(name, value)
	}
	if d, err := time.ParseDuration(r.Header.Get("Echo-Delay")); err == nil {
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
	}
	if name := r.Header.Get("Echo-Hold"); name != "" {
		select {
		case <-e.hold(name):
		case <-r.Context().Done():
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s)
}

func (e *echoes) enter(host string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now[host]++
	e.most[host] = max(e.most[host], e.now[host])
	return e.most[host]
}

func (e *echoes) leave(host string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now[host]--
}

func (e *echoes) hold(name string) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.holds[name]++
	return e.channel(name)
}

// channel returns what is closed by release. The caller holds mu.
func (e *echoes) channel(name string) chan struct{} {
	if e.held[name] == nil {
		e.held[name] = make(chan struct{})
	}
	return e.held[name]
}

// holding waits until so many requests are held.
func (e *echoes) holding(t *testing.T, name string, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d requests are held", n), func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.holds[name] < n {
			return fmt.Errorf("%d", e.holds[name])
		}
		return nil
	})
}

func (e *echoes) release(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.channel(name))
}

// tunnel gives every byte back until the other side ends.
func tunnel(w http.ResponseWriter) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	_, _ = io.Copy(c, rw)
}

// serveRaw answers on a port of every address with the head of the request as its bytes were, and with headers in lower case.
func serveRaw(t testing.TB) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	a, _ := l.Addr().(*net.TCPAddr)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(func() { cancel(); _ = l.Close() })
	go func() {
		for ctx.Err() == nil {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var head strings.Builder
				for r := bufio.NewReader(c); ; {
					line, err := r.ReadString('\n')
					if err != nil || line == "\r\n" {
						break
					}
					head.WriteString(line)
				}
				_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nx-bogus-case: 1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s", head.Len(), head.String())
			}()
		}
	}()
	return a.Port
}

// syslog is what a router logs.
type syslog struct {
	net.PacketConn
	mu    sync.Mutex
	lines strings.Builder
}

func newSyslog(t testing.TB) *syslog {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	s := &syslog{PacketConn: c}
	go func() {
		for line := make([]byte, 4096); ; {
			n, _, err := c.ReadFrom(line)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.lines.WriteString(string(line[:n]) + "\n")
			s.mu.Unlock()
		}
	}()
	return s
}

// has is nil when a text was logged.
func (s *syslog) has(text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !strings.Contains(s.lines.String(), text) {
		return fmt.Errorf("logged:\n%s", tail([]byte(s.lines.String()), 2000))
	}
	return nil
}
