package render_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// seen is what an endpoint says of a request.
type seen struct {
	Endpoint string
	Path     string
	Header   http.Header
	Host     string
	Proto    string
}

// serve starts an endpoint that answers with what it saw.
func serve(t *testing.T, name string, pair []byte) *tsujiv1.Endpoint {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-From-Endpoint", name)
		switch r.Header.Get("X-Ask") {
		case "slow":
			select {
			case <-r.Context().Done():
			case <-time.After(5 * time.Second):
			}
		case "tunnel":
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "test")
			w.WriteHeader(http.StatusSwitchingProtocols)
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}
			return
		case "cookies":
			w.Header()["Set-Cookie"] = []string{"app=1; Path=/x", "d81c=2; HttpOnly"}
		}
		_ = json.NewEncoder(w).Encode(seen{Endpoint: name, Path: r.RequestURI, Header: r.Header, Host: r.Host, Proto: r.Proto})
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are meant to fail
	if pair == nil {
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetHTTP1(true)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
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

// router is a HAProxy that serves what a renderer made.
type router struct {
	t                  *testing.T
	dir                string
	http, https, stats string
	client             []tls.Certificate // that it shows
}

// start writes the files and starts a HAProxy on them, in a jail if the test may.
func start(t *testing.T, binary string, o render.Options, resources ...*tsujiv1.Resource) *router {
	t.Helper()
	return startEdited(t, binary, o, nil, resources...)
}

// startEdited does so after a change of haproxy.cfg.
func startEdited(t *testing.T, binary string, o render.Options, edit func(config string) string, resources ...*tsujiv1.Resource) *router {
	t.Helper()
	rt := &router{t: t, http: haproxytest.FreeAddress(t), https: haproxytest.FreeAddress(t), stats: haproxytest.FreeAddress(t)}
	o.HTTP, o.HTTPS, o.Stats = []string{rt.http}, []string{rt.https}, []string{rt.stats}
	o.FileDescriptors = 4096
	v := release(t, binary)
	o.Version, o.OldTLS = v, optionsFor(v).OldTLS
	r := renderer(t, o)
	apply(t, r, resources...)
	dir := shortDir(t)
	rt.dir = dir
	write(t, dir, r)
	if edit != nil {
		path := filepath.Join(dir, "haproxy.cfg")
		config, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(edit(string(config))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, ok := check(t, binary, dir); !ok || strings.Contains(out, "WARNING") && o.Jail {
		t.Fatalf("HAProxy does not like the files:\n%s", out)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, binary, "-db", "-f", "haproxy.cfg")
	cmd.Dir = dir
	cmd.Env = []string{}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("HAProxy said:\n%s", out.String())
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		res, err := http.Get("http://" + rt.stats + "/healthz")
		if err == nil {
			_ = res.Body.Close()
			return rt
		}
		if time.Now().After(deadline) {
			t.Fatalf("HAProxy does not answer: %v", err)
		}
	}
}

// answer is what a client got.
type answer struct {
	status int
	header http.Header
	seen   seen
	cert   *x509.Certificate
	proto  string
}

// short says who answered, or what: "api /x", "302 https://…", "503".
func (a answer) short() string {
	switch {
	case a.seen.Endpoint != "":
		return a.seen.Endpoint + " " + a.seen.Path
	case a.header.Get("Location") != "":
		return fmt.Sprintf("%d %s", a.status, a.header.Get("Location"))
	default:
		return fmt.Sprint(a.status)
	}
}

func (rt *router) do(url, host string, header http.Header, alpn ...string) answer {
	rt.t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		to := rt.http
		if strings.HasPrefix(url, "https:") {
			to = rt.https
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", to)
	}
	tr := &http.Transport{
		DialContext: dial, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, NextProtos: alpn, Certificates: rt.client}, // the test looks at the certificate itself
	}
	if len(alpn) > 0 && alpn[0] == "h2" {
		tr.ForceAttemptHTTP2 = true
	}
	c := &http.Client{Transport: tr, Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		rt.t.Errorf("GET %s: %v", url, err)
		return answer{}
	}
	if host != "" {
		req.Host = host
	}
	for k, v := range header {
		req.Header[k] = v
	}
	res, err := c.Do(req)
	if err != nil {
		rt.t.Errorf("GET %s: %v", url, err)
		return answer{}
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		rt.t.Errorf("GET %s: %v", url, err)
		return answer{}
	}
	a := answer{status: res.StatusCode, header: res.Header, proto: res.Proto}
	_ = json.Unmarshal(body, &a.seen)
	if res.TLS != nil {
		a.cert = res.TLS.PeerCertificates[0]
	}
	return a
}

// raw sends a request as written, and returns the status line.
func (rt *router) raw(request string) string {
	rt.t.Helper()
	c, err := net.Dial("tcp", rt.http)
	if err != nil {
		rt.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		rt.t.Fatal(err)
	}
	line, _ := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line)
}

// command gives HAProxy a command, and returns what it says.
func (rt *router) command(line string) string {
	rt.t.Helper()
	c, err := net.Dial("unix", rt.dir+"/run/admin.sock")
	if err != nil {
		rt.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		rt.t.Fatal(err)
	}
	said, _ := io.ReadAll(c)
	return strings.TrimSpace(string(said))
}

// jailed are the options of a router that starts as root, and of one that does not.
func jailed(o render.Options) render.Options {
	if os.Geteuid() == 0 {
		o.Jail, o.User, o.Group = true, 65534, 65534
	}
	return o
}

// A route on a service of its own, named like the route.
func simple(name, host, path string, termination tsujiv1.Termination, policy tsujiv1.InsecurePolicy) *tsujiv1.Route {
	return &tsujiv1.Route{
		Namespace: "ns", Name: name, Host: host, Path: path, Termination: termination, InsecurePolicy: policy,
		Backends: []*tsujiv1.BackendRef{backend("ns", name, 100)},
	}
}

const (
	insecure    = tsujiv1.Termination_TERMINATION_INSECURE
	edge        = tsujiv1.Termination_TERMINATION_EDGE
	reencrypt   = tsujiv1.Termination_TERMINATION_REENCRYPT
	passthrough = tsujiv1.Termination_TERMINATION_PASSTHROUGH

	unset    = tsujiv1.InsecurePolicy_INSECURE_POLICY_UNSPECIFIED
	none     = tsujiv1.InsecurePolicy_INSECURE_POLICY_NONE
	allow    = tsujiv1.InsecurePolicy_INSECURE_POLICY_ALLOW
	redirect = tsujiv1.InsecurePolicy_INSECURE_POLICY_REDIRECT
)
