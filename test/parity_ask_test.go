package test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// question is a request, as it is written.
type question struct {
	url  string           // what follows the host goes into the request line as it is
	host string           // of the Host header; empty: the URL's
	head []string         // further lines
	from string           // the client's address; empty: 127.0.0.1
	sni  string           // the server name that TLS asks for; empty: the URL's host; "-": none
	with *tls.Certificate // the client's
	tls  uint16           // the only version; 0: any
}

// reply is what came back.
type reply struct {
	status int
	proto  string
	head   http.Header
	body   string
	raw    string   // head and body as they were, and all before them on the connection
	seen   observed // by the endpoint, if one answered
	tls    *tls.ConnectionState
}

// connection is one to the router, for requests one after the other.
type connection struct {
	net.Conn
	q    question
	path string
	r    *bufio.Reader
	raw  bytes.Buffer // what was read
}

// connect connects for a question.
func (w *parityWorld) connect(q question) (*connection, error) {
	scheme, rest, _ := strings.Cut(q.url, "://")
	host, path, _ := strings.Cut(rest, "/")
	if q.host == "" {
		q.host = host
	}
	from := net.ParseIP(q.from)
	address := w.r.http
	switch {
	case scheme == "https":
		address = w.r.https
	case from != nil && from.To4() == nil:
		address = w.http6
	}
	d := net.Dialer{Timeout: patience}
	if from != nil {
		d.LocalAddr = &net.TCPAddr{IP: from}
	}
	raw, err := d.DialContext(w.t.Context(), "tcp", address)
	if err != nil {
		return nil, err
	}
	_ = raw.SetDeadline(time.Now().Add(patience))
	if w.proxied != "" {
		if _, err := io.WriteString(raw, w.proxied); err != nil {
			return nil, err
		}
	}
	c := &connection{Conn: raw, q: q, path: "/" + path}
	if scheme == "https" {
		name, _, _ := strings.Cut(host, ":")
		config := &tls.Config{ServerName: name, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
		switch q.sni {
		case "":
		case "-":
			config.ServerName = ""
		default:
			config.ServerName = q.sni
		}
		if q.tls != 0 {
			config.MinVersion, config.MaxVersion = q.tls, q.tls
		}
		if q.with != nil {
			config.Certificates = []tls.Certificate{*q.with}
		}
		secure := tls.Client(raw, config)
		if err := secure.HandshakeContext(w.t.Context()); err != nil {
			_ = raw.Close()
			return nil, err
		}
		c.Conn = secure
	}
	c.r = bufio.NewReader(io.TeeReader(c.Conn, &c.raw))
	return c, nil
}

// send writes a request.
func (c *connection) send(head ...string) error {
	lines := append([]string{"GET " + c.path + " HTTP/1.1", "Host: " + c.q.host}, append(c.q.head, head...)...)
	_, err := io.WriteString(c, strings.Join(lines, "\r\n")+"\r\n\r\n")
	return err
}

// read reads a response.
func (c *connection) read() (reply, error) {
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return reply{}, err
	}
	a := reply{status: resp.StatusCode, proto: resp.Proto, head: resp.Header}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return reply{}, err
		}
		a.body, a.raw = string(b), c.raw.String()
		_ = json.Unmarshal(b, &a.seen) // another body leaves it empty
	}
	if s, ok := c.Conn.(*tls.Conn); ok {
		state := s.ConnectionState()
		a.tls = &state
	}
	return a, nil
}

// ask sends one request on a connection of its own.
func (w *parityWorld) ask(q question) (reply, error) {
	c, err := w.connect(q)
	if err != nil {
		return reply{}, err
	}
	defer c.Close()
	if err := c.send(); err != nil {
		return reply{}, err
	}
	return c.read()
}

// get asks, with further lines of the head.
func (w *parityWorld) get(t *testing.T, url string, head ...string) reply {
	t.Helper()
	a, err := w.ask(question{url: url, head: head})
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return a
}

// wants asks, and wants a status; 0: the connection closed without an answer.
func (w *parityWorld) wants(t *testing.T, url string, status int, head ...string) reply {
	t.Helper()
	return w.wantsOf(t, question{url: url, head: head}, status)
}

func (w *parityWorld) wantsOf(t *testing.T, q question, status int) reply {
	t.Helper()
	a, err := w.ask(q)
	switch {
	case a.status != status:
		t.Errorf("%+v: %d %q, %v; want %d", q, a.status, a.body, err, status)
	case status == 0 && err == nil, status != 0 && err != nil:
		t.Errorf("%+v: %v, want status %d", q, err, status)
	}
	return a
}

// wantsEndpoint asks, and wants one of the row's Pods to answer, with the path that it saw.
func (w *parityWorld) wantsPath(t *testing.T, url, path string) {
	t.Helper()
	if a := w.wants(t, url, http.StatusOK); a.seen.Path != path {
		t.Errorf("%s: the endpoint saw %q, want %q", url, a.seen.Path, path)
	}
}

// spread asks so many times, each on a connection of its own, and returns the addresses of who answered, in their order.
func (w *parityWorld) spread(t *testing.T, url string, times int, head ...string) []string {
	t.Helper()
	var all []string
	for range times {
		all = append(all, w.wants(t, url, http.StatusOK, head...).seen.Address)
	}
	return all
}

// series is the same on one connection: a request is only read when what the one before it took is given back.
func (w *parityWorld) series(t *testing.T, url string, times int) []string {
	t.Helper()
	c, err := w.connect(question{url: url})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var all []string
	for range times {
		if err := c.send(); err != nil {
			t.Fatal(err)
		}
		a, err := c.read()
		if err != nil || a.status != http.StatusOK {
			t.Fatalf("%s: %v %v", url, a, err)
		}
		all = append(all, a.seen.Address)
	}
	return all
}

// http2 returns a client that speaks HTTP/2 if the router does.
func (w *parityWorld) http2(t *testing.T) *http.Client {
	tr := &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{RootCAs: w.roots(), MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, w.r.https)
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// reused asks for a host on a connection of HTTP/2 that was made for another, and returns the status.
func (w *parityWorld) reused(t *testing.T, of, host string) int {
	t.Helper()
	c := w.http2(t)
	tr, _ := c.Transport.(*http.Transport)
	tr.TLSClientConfig = &tls.Config{ServerName: of, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
	a := w.get2(t, c, "https://"+host+"/")
	if a.proto != "HTTP/2.0" {
		t.Errorf("%s: %s", host, a.proto)
	}
	return a.status
}

// get2 asks with a client, which may speak HTTP/2.
func (w *parityWorld) get2(t *testing.T, c *http.Client, url string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := reply{status: resp.StatusCode, head: resp.Header, body: string(b), tls: resp.TLS, proto: resp.Proto}
	_ = json.Unmarshal(b, &a.seen) // another body leaves it empty
	return a
}

// offered returns the protocol that the router chooses of HTTP/2 and HTTP/1.1.
func offered(t *testing.T, w *parityWorld, host string) string {
	t.Helper()
	d := &tls.Dialer{Config: &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}}
	c, err := d.DialContext(t.Context(), "tcp", w.r.https)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	secure, _ := c.(*tls.Conn)
	return secure.ConnectionState().NegotiatedProtocol
}

// counts returns how often each is there.
func counts(all []string) map[string]int {
	n := map[string]int{}
	for _, s := range all {
		n[s]++
	}
	return n
}

// inTurn tells whether no two that follow each other are the same.
func inTurn(all []string) bool {
	for i := 1; i < len(all); i++ {
		if all[i] == all[i-1] {
			return false
		}
	}
	return true
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func (a reply) String() string {
	return fmt.Sprintf("%d %v %q, seen %+v", a.status, a.head, a.body, a.seen)
}
