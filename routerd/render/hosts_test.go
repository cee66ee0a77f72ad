package render_test

import (
	"bufio"
	"bytes"
	"crypto/sha1" // #nosec G505 -- RFC 6455
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"pgregory.net/rapid"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// head is the head of a request as an endpoint was sent it, and whose endpoint that is. No library has looked at it:
// Go's own server refuses what some endpoints would not.
type head struct {
	Endpoint, Method, Target string
	Hosts, Upgrades          []string
}

// listen starts an endpoint that answers with the head that it was sent.
func listen(t *testing.T, name string) *tsujiv1.Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				answerHead(c, name)
			}
		}
	}()
	a := netip.MustParseAddrPort(l.Addr().String())
	return endpoint(a.Addr().String(), uint32(a.Port()))
}

func answerHead(c net.Conn, name string) {
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(c)
	first, _ := r.ReadString('\n')
	h := head{Endpoint: name, Target: first}
	key := "" // of a websocket
	if parts := strings.Split(strings.TrimSuffix(first, "\r\n"), " "); len(parts) == 3 {
		h.Method, h.Target = parts[0], parts[1]
	}
	for {
		line, err := r.ReadString('\n')
		if line = strings.TrimSuffix(line, "\r\n"); err != nil || line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); strings.ToLower(name) {
		case "host":
			h.Hosts = append(h.Hosts, value)
		case "upgrade":
			h.Upgrades = append(h.Upgrades, value)
		case "sec-websocket-key":
			key = value
		}
	}
	body, _ := json.Marshal(h)
	if key != "" {
		accept := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // #nosec G401 -- RFC 6455
		_, _ = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Accept: %s\r\n\r\n%s", base64.StdEncoding.EncodeToString(accept[:]), body)
		return
	}
	_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
}

// ask sends a request of HTTP/1 as it is written. Status 0: there was no answer.
func (rt *router) ask(request string) (status int, got head) {
	c := rt.dial()
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, request)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, head{}
	}
	body, _ := io.ReadAll(res.Body)
	_ = json.Unmarshal(body, &got)
	return res.StatusCode, got
}

// askUpgrade asks for another protocol, in which the endpoint says what it was sent.
func (rt *router) askUpgrade(request string) (status int, got head) {
	c := rt.dial()
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, request)
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return 0, head{}
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		_ = json.NewDecoder(r).Decode(&got)
	}
	return res.StatusCode, got
}

func (rt *router) dial() net.Conn {
	rt.t.Helper()
	c, err := net.Dial("tcp", rt.http)
	if err != nil {
		rt.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// ask2 sends a request of HTTP/2 with these fields, whatever they are.
func (rt *router) ask2(fields ...string) (status int, got head) {
	c := rt.dial()
	defer func() { _ = c.Close() }()
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_, _ = io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = f.WriteSettings()
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
	var body []byte
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return 0, head{}
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			_, _ = fmt.Sscan(frame.PseudoValue("status"), &status)
		case *http2.DataFrame:
			body = append(body, frame.Data()...)
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return 0, head{}
		}
		if s, ok := frame.(interface{ StreamEnded() bool }); ok && s.StreamEnded() {
			_ = json.Unmarshal(body, &got)
			return status, got
		}
	}
}

// askedIn are the ways in which a client can name a host, or two of them.
var askedIn = map[string]func(rt *router, host, path string) (int, head){
	"HTTP/1.1": func(rt *router, host, path string) (int, head) {
		return rt.ask("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
	},
	"HTTP/1.0": func(rt *router, host, path string) (int, head) {
		return rt.ask("GET " + path + " HTTP/1.0\r\nHost:" + host + "\r\n\r\n")
	},
	"an absolute target": func(rt *router, host, path string) (int, head) {
		return rt.ask("GET http://" + host + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
	},
	"an absolute target alone": func(rt *router, host, path string) (int, head) {
		return rt.ask("GET http://" + host + path + " HTTP/1.1\r\nConnection: close\r\n\r\n")
	},
	"an absolute target beside another Host": func(rt *router, host, path string) (int, head) {
		return rt.ask("GET http://" + host + path + " HTTP/1.1\r\nHost: one.example.com\r\nConnection: close\r\n\r\n")
	},
	"Host beside another absolute target": func(rt *router, host, path string) (int, head) {
		return rt.ask("GET http://one.example.com" + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
	},
	"the first of two Hosts": func(rt *router, host, path string) (int, head) {
		return rt.ask("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nHost: one.example.com\r\nConnection: close\r\n\r\n")
	},
	"the second of two Hosts": func(rt *router, host, path string) (int, head) {
		return rt.ask("GET " + path + " HTTP/1.1\r\nHost: one.example.com\r\nX: y\r\nhost: " + host + "\r\nConnection: close\r\n\r\n")
	},
	"the same Host twice": func(rt *router, host, path string) (int, head) {
		return rt.ask("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
	},
	"CONNECT": func(rt *router, host, path string) (int, head) {
		return rt.ask("CONNECT " + host + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
	},
	"an upgrade to HTTP/2": func(rt *router, host, path string) (int, head) {
		return rt.ask("GET " + path + " HTTP/1.1\r\nHost: " + host +
			"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
	},
	"an upgrade to HTTP/2 beside others": func(rt *router, host, path string) (int, head) {
		return rt.ask("GET " + path + " HTTP/1.1\r\nHost: " + host +
			"\r\nConnection: Upgrade\r\nUpgrade: x\r\nUpgrade: y, H2C/1\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
	},
	"a websocket": func(rt *router, host, path string) (int, head) {
		return rt.askUpgrade("GET " + path + " HTTP/1.1\r\nHost: " + host +
			"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	},
	"OPTIONS of nothing": func(rt *router, host, _ string) (int, head) {
		return rt.ask("OPTIONS * HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
	},
	":authority": func(rt *router, host, path string) (int, head) {
		return rt.ask2(":method", "GET", ":scheme", "http", ":authority", host, ":path", path)
	},
	"host, and no :authority": func(rt *router, host, path string) (int, head) {
		return rt.ask2(":method", "GET", ":scheme", "http", ":path", path, "host", host)
	},
	":authority beside another host": func(rt *router, host, path string) (int, head) {
		return rt.ask2(":method", "GET", ":scheme", "http", ":authority", host, ":path", path, "host", "one.example.com")
	},
	"host beside another :authority": func(rt *router, host, path string) (int, head) {
		return rt.ask2(":method", "GET", ":scheme", "http", ":authority", "one.example.com", ":path", path, "host", host)
	},
	"CONNECT of HTTP/2": func(rt *router, host, path string) (int, head) {
		return rt.ask2(":method", "CONNECT", ":authority", host+path)
	},
	"CONNECT of HTTP/2 with a path": func(rt *router, host, path string) (int, head) {
		return rt.ask2(":method", "CONNECT", ":scheme", "http", ":authority", host, ":path", path)
	},
	"a websocket of HTTP/2": func(rt *router, host, path string) (int, head) {
		return rt.ask2(":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", host, ":path", path)
	},
	"a websocket of HTTP/2 beside another host": func(rt *router, host, path string) (int, head) {
		return rt.ask2(":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", host, ":path", path,
			"host", "one.example.com")
	},
	"HTTP/2 by CONNECT": func(rt *router, host, path string) (int, head) {
		return rt.ask2(":method", "CONNECT", ":protocol", "h2c", ":scheme", "http", ":authority", host, ":path", path)
	},
	"two fields host": func(rt *router, host, path string) (int, head) {
		return rt.ask2(":method", "GET", ":scheme", "http", ":path", path, "host", "one.example.com", "host", host)
	},
}

// path returns the path that an endpoint may read in what it was sent; none where the target is for the whole server.
func (h head) path() string {
	before := regexp.MustCompile(`^(?:[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)?`)
	if h.Method == http.MethodConnect {
		before = regexp.MustCompile(`^(?:[A-Za-z][A-Za-z0-9+.-]*://)?[^/?#]*`)
	}
	path, _, _ := strings.Cut(h.Target[len(before.FindString(h.Target)):], "?")
	switch {
	case h.Target == "*":
		return ""
	case path == "" && h.Method != http.MethodConnect:
		return "/"
	}
	return path
}

// wellFormed matches the hosts that a Route can have, and what may follow them.
var wellFormed = regexp.MustCompile(`^([a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?)\.*(?::[^/?#@]*)?$`)

// TestHostileHosts: whatever a client calls a host, and wherever it says so, the Route that answers is the one that the
// spec's function says for the host and the path that its endpoint is sent. So a client cannot have one Route's options,
// allow lists and limits among them, and another one's content. What has no such Route gets no endpoint.
func TestHostileHosts(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, hostileHostsStory)
}

func hostileHostsStory(t *testing.T, binary string) {
	t.Parallel()
	var all oracle
	var resources []*tsujiv1.Resource
	add := func(name, host, path string) *tsujiv1.Route {
		r := simple(name, host, path, insecure, unset)
		all = append(all, r)
		resources = append(resources, routeOf(r), endpointsOf("ns", name, listen(t, name)))
		return r
	}
	add("public", "two.example.com", "/public")
	add("admin", "two.example.com", "/admin")
	add("one", "one.example.com", "/")
	add("exactly", "one.example.com", "/admin").Exact = true
	add("wild-public", "any.w.example.com", "/public").Wildcard = true
	add("wild-admin", "any.w.example.com", "/admin").Wildcard = true
	add("wild", "any.example.com", "/").Wildcard = true
	rt := start(t, binary, jailed(options()), resources...)

	law := func(t rapid.TB, way, host, path string) {
		status, got := askedIn[way](rt, host, path)
		if got.Endpoint == "" {
			if status == 200 || status > 503 {
				t.Errorf("%s %q, path %q: %d", way, host, path, status)
			}
			return
		}
		if strings.Contains(strings.ToLower(strings.Join(got.Upgrades, ",")), "h2") {
			t.Errorf("%s %q, path %q: %s was sent the upgrades %q: what it would be asked then, nobody looks at",
				way, host, path, got.Endpoint, got.Upgrades)
		}
		if len(got.Hosts) != 1 {
			t.Errorf("%s %q, path %q: %s was sent the hosts %q", way, host, path, got.Endpoint, got.Hosts)
			return
		}
		want := nobody
		if m := wellFormed.FindStringSubmatch(labelled(got.Hosts[0])); m != nil {
			want = all.http(m[1] + got.path())
		}
		if "be_http:ns:"+got.Endpoint != want {
			t.Errorf("%s %q, path %q: %s answers, which was sent host %q and target %q, where %s should",
				way, host, path, got.Endpoint, got.Hosts, got.Target, want)
		}
	}
	for way := range askedIn {
		t.Run(way, func(t *testing.T) {
			for _, host := range hostileHosts {
				for _, path := range []string{"/admin/x", "/public/../admin", "/"} {
					law(t, way, host, path)
				}
			}
			for _, path := range hostilePaths {
				law(t, way, "two.example.com", path)
				law(t, way, "one.example.com", path)
			}
		})
	}
	t.Run("good ones", func(t *testing.T) { goodHosts(t, rt) })
	t.Run("any", func(t *testing.T) { anyHosts(t, law) })
}

// anyHosts draws hosts from what matters in one, and single bytes.
func anyHosts(t *testing.T, law func(t rapid.TB, way, host, path string)) {
	part := rapid.OneOf(
		rapid.SampledFrom([]string{
			"two", "w", "x", ".", "example.com", ".example.com", "/", "/public", "/admin", ":", ":80", "#", "/#", "?", "@", "%2f", "[", "]", ",", " ",
			"\\", "*", "//",
		}),
		rapid.Map(rapid.Byte(), func(b byte) string { return string([]byte{b}) }),
	)
	ways := slices.Sorted(maps.Keys(askedIn))
	rapid.Check(t, func(rt *rapid.T) {
		host := strings.Join(rapid.SliceOfN(part, 0, 7).Draw(rt, "host"), "")
		if strings.ContainsAny(host, "\r\n") { // another request
			return
		}
		for _, way := range ways {
			law(rt, way, host, rapid.SampledFrom([]string{"/admin/x", "/public/", "/"}).Draw(rt, "path"))
		}
	})
}

const nobody = "503"

// labelled writes a host's first label as one that a Route can have, if nothing is in it that ends a host: a wildcard
// answers for any.
func labelled(host string) string {
	label, rest, ok := strings.Cut(host, ".")
	if !ok || strings.ContainsAny(label, "/?#@:, \x00") {
		return host
	}
	if strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") == "" && label != "" {
		return host
	}
	return "any-label." + rest
}

// goodHosts sees that what clients may call a host still gets them there.
func goodHosts(t *testing.T, rt *router) {
	for _, c := range []struct{ host, path, want string }{
		{"two.example.com", "/admin/x", "admin"}, {"TWO.Example.com", "/admin/x", "admin"}, {"two.example.com.", "/public", "public"},
		{"two.example.com:80", "/admin", "admin"}, {"two.example.com.:8080", "/admin", "admin"}, {"two.example.com:", "/admin", "admin"},
		{"x.w.example.com", "/admin/x", "wild-admin"}, {"x_y.w.example.com", "/admin/x", "wild-admin"}, {"xn--abc.w.example.com", "/public", "wild-public"},
		{"one.example.com", "/admin", "exactly"}, {"one.example.com", "/admin/", "one"}, {"three.example.com", "/", "wild"},
	} {
		for _, way := range []string{
			"HTTP/1.1", "HTTP/1.0", "an absolute target", ":authority", "host, and no :authority",
			"an upgrade to HTTP/2", "a websocket", "a websocket of HTTP/2",
		} {
			if status, got := askedIn[way](rt, c.host, c.path); got.Endpoint != c.want {
				t.Errorf("%s %q, path %s: %d %s, want %s", way, c.host, c.path, status, got.Endpoint, c.want)
			}
		}
	}
}

var hostileHosts = []string{
	"two.example.com", "TWO.example.com", "two.example.com.", "two.example.com..", "two.example.com:80", "two.example.com.:80",
	"two.example.com:", "two.example.com:x", "two.example.com:80:90", "two.example.com:-1", "two.example.com:99999999999999999999",
	"two.example.com:80/public", "two.example.com:/public", "two.example.com/public", "two.example.com/public:80", "two.example.com/",
	"two.example.com//", "two.example.com?", "two.example.com#", "two.example.com/public/#", "two.example.com/public?", "two.example.com/public#",
	"user@two.example.com", "two.example.com@x.w.example.com", "user:x@two.example.com", "two.example.com%2fpublic", "two.example.com%00",
	"two.example.com two.example.com", "two .example.com", " two.example.com", "two.example.com\t", "\ttwo.example.com", "two.example.com\v",
	"[::1]", "[::1]:80", "[two.example.com]", "[two.example.com/public]", "two.example.com:[80]", "[", "]", "[]", "[::ffff:1.2.3.4]/public",
	"", ":80", ".", "..", "/", "/public", "//", "*", "#", "?", "@",
	"w.example.com", ".w.example.com", "x.w.example.com", "x/y.w.example.com", "x.w.example.com/public", "/.w.example.com", "x.w.example.com/public.",
	"w.example.com/public.", "y.w.example.com/public/x.w.example.com", "x.y.w.example.com", "x.w.example.com/public/..",
	"two.example.com,two.example.com", "two.example.com, one.example.com", "one.example.com,two.example.com/public",
	"http://two.example.com", "http://two.example.com/public", "//two.example.com/public", "two.example.com\\public", "two.example.com;/public",
	"two.example.com\x00", "two.example.com\x00/public", "\x00two.example.com", "two.example.com\x7f", "two.example.com\xff", "two.example.com\u3002",
	"one.example.com//#", "one.example.com/admin/#", "one.example.com/admin", "one.example.com/#", "example.com", "com", "be_http:ns:admin",
	strings.Repeat("a", 8000) + ".w.example.com", strings.Repeat("x.", 4000) + "w.example.com", "two.example.com" + strings.Repeat(".", 4000),
}

var hostilePaths = []string{
	"/admin/x", "/admin", "//admin", "/admin//", "/./admin", "/public/../admin", "/%61dmin", "/admin%2fx", "/admin?x", "/admin?/public", "/?/admin",
	"/admin#x", "/admin/#", "/admin;x", "/admin\\x", "/ADMIN", "/public/x", "*", "admin", "", "?x", "?/admin", "#", "/admin x", "*admin", "/admin\x00",
	"http:/admin", "http:///admin/x", "//one.example.com/admin", "x://two.example.com/admin", "http://@two.example.com/admin",
	"http://one.example.com@two.example.com/admin", "http://two.example.com:80/admin", "http://two.example.com?/admin", "http://two.example.com#/admin",
	"http://two.example.com", "http://one.example.com/admin", "two.example.com:80", "/admin/" + strings.Repeat("x/", 4000),
}
