package render_test

import (
	"bufio"
	"bytes"
	"crypto/sha1" // #nosec G505 -- RFC 6455
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// A websocket within HTTP/2 (RFC 8441) gets to the Route of its host and path, by that Route's rules, and carries what
// both ends say; also where the router would speak HTTP/2 with the endpoint, which may know websockets in HTTP/1 only.
func TestWebsocketsOfHTTP2(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, websocketsOfHTTP2Story)
}

func websocketsOfHTTP2Story(t *testing.T, binary string) {
	t.Parallel()
	closed := simple("closed", "edge.example", "/closed", edge, none)
	closed.RestrictSources, closed.AllowedSources = true, []string{"192.0.2.0/24"}
	resources := []*tsujiv1.Resource{
		settingsOf(&tsujiv1.Settings{Http2: true}),
		routeOf(simple("edge", "edge.example", "/", edge, none)), endpointsOf("ns", "edge", echo(t, nil)),
		routeOf(closed), endpointsOf("ns", "closed", echo(t, nil)),
		routeOf(simple("secure", "secure.example", "/", reencrypt, none)),
		endpointsOf("ns", "secure", echo(t, theAuthority().pair("any.name"))),
	}
	rt := start(t, binary, jailed(options()), resources...)
	for _, c := range []struct{ name, host, path, want string }{
		{"edge.example", "edge.example", "/", "200 edge.example/"},
		{"edge.example", "edge.example", "/open", "200 edge.example/open"},
		{"secure.example", "secure.example", "/", "200 secure.example/"},
		{"edge.example", "edge.example", "/closed", "none"},
		{"edge.example", "edge.example", "/closed/x", "none"},
		{"edge.example", "secure.example", "/", "421"},          // on a connection that is another host's
		{"edge.example", "edge.example/closed", "/", "refused"}, // by status or reset, as the release does
	} {
		got := rt.websocket2(c.name, c.host, c.path)
		if got != c.want && (c.want != "refused" || strings.HasPrefix(got, "200")) {
			t.Errorf("%s%s on a connection to %s: %s, want %s", c.host, c.path, c.name, got, c.want)
		}
	}
}

// echo starts an endpoint for websockets. It says host and path that it was asked for, and then what it hears.
func echo(t *testing.T, pair []byte) *tsujiv1.Endpoint {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("Sec-Websocket-Key")
		if r.Header.Get("Upgrade") != "websocket" || key == "" {
			w.WriteHeader(http.StatusUpgradeRequired)
			return
		}
		accept := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // #nosec G401 -- RFC 6455
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Sec-Websocket-Accept", base64.StdEncoding.EncodeToString(accept[:]))
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = fmt.Fprintf(c, "%s%s\n", r.Host, r.URL.Path)
		_, _ = io.Copy(c, rw)
	}))
	if pair == nil {
		s.Start()
	} else {
		c, err := tls.X509KeyPair(pair, pair)
		if err != nil {
			t.Fatal(err)
		}
		s.TLS = &tls.Config{Certificates: []tls.Certificate{c}, MinVersion: tls.VersionTLS12}
		s.EnableHTTP2 = true
		s.StartTLS()
	}
	t.Cleanup(s.Close)
	a := netip.MustParseAddrPort(s.Listener.Addr().String())
	return endpoint(a.Addr().String(), uint32(a.Port()))
}

// websocket2 opens a websocket on an HTTP/2 connection that is made for name. It returns the status, and what the
// endpoint says once it has repeated a word; "none" where there was no answer.
func (rt *router) websocket2(name, host, path string) string {
	rt.t.Helper()
	config := &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{"h2"}} // #nosec G402
	c, err := tls.Dial("tcp", rt.https, config)
	if err != nil {
		rt.t.Errorf("%s: %v", name, err)
		return ""
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, {":authority", host}, {":path", path},
		{"sec-websocket-version", "13"},
	} {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	_, _ = io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = f.WriteSettings()
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	status, heard := "none", ""
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return status
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if status = frame.PseudoValue("status"); status != "200" {
				return status
			}
			_ = f.WriteData(1, false, []byte("word\n"))
		case *http2.DataFrame:
			heard += string(frame.Data())
			r := bufio.NewReader(bytes.NewBufferString(heard))
			said, _ := r.ReadString('\n')
			if word, _ := r.ReadString('\n'); word == "word\n" {
				return status + " " + said[:len(said)-1]
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return status
		}
	}
}
