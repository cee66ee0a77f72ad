package compile_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/identity/authority"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// From manifests to requests: what an IngressController says shows on each request, an idled Service is asked
// by its own address, the service CA is held against endpoints, and our own annotations answer.
func TestRequests(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, requestsStory)
}

func requestsStory(t *testing.T, binary string) {
	t.Parallel()
	ca, err := authority.NewAuthority("service CA")
	if err != nil {
		t.Fatal(err)
	}
	plain, wake := portOf(t, echo(t, nil)), portOf(t, echo(t, nil))
	named, misnamed := portOf(t, echo(t, pairFor(t, ca, "named.ns1.svc"))), portOf(t, echo(t, pairFor(t, ca, "other.ns1.svc")))
	syslog, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer syslog.Close()

	const manifests = `
kind: IngressController
metadata: {namespace: openshift-ingress-operator, name: default}
spec:
  clientTLS: {clientCertificatePolicy: "", clientCA: {name: ""}}
  unsupportedConfigOverrides: null
  tuningOptions: {threadCount: 1, maxConnections: 2000, reloadInterval: 0s}
  httpErrorCodePages: {name: pages}
  httpCompression: {mimeTypes: [application/json]}
  httpHeaders:
    uniqueId: {name: X-Id, format: 'id-%{+X}o\ %cp-%[req.hdr(host)]'}
    actions:
      request: [{name: X-Zone, action: {type: Set, set: {value: "tok04 %[req.hdr(host)]"}}}, {name: X-Debug, action: {type: Delete}}]
      response: [{name: X-Frame-Options, action: {type: Set, set: {value: DENY}}}]
  logging:
    access:
      destination: {type: Syslog, syslog: {address: 127.0.0.1, port: SYSLOG}}
      httpLogFormat: '%HM %ST %b <%[capture.req.hdr(0)]> <%CC>'
      httpCaptureHeaders: {request: [{name: User-Agent, maxLength: 5}], response: null}
      httpCaptureCookies: [{matchType: Prefix, name: "", namePrefix: sess, maxLength: 64}]
      logEmptyRequests: Ignore
---
kind: ConfigMap
metadata: {namespace: openshift-config, name: pages}
data:
  error-page-503.http: "HTTP/1.0 503 Service Unavailable\nContent-Length: 1\nX-Page: ours\n\nback soon"
  error-page-404.http: "HTTP/1.0 404 Not Found\n\nno such host"
---
kind: ConfigMap
metadata: {namespace: openshift-ingress, name: service-ca-bundle}
data: {service-ca.crt: CA}
---
kind: Route
metadata: {namespace: ns1, name: plain}
spec: {host: plain.example.com, to: {name: plain}}
---
kind: Route
metadata: {namespace: ns1, name: empty}
spec: {host: empty.example.com, to: {name: empty}}
---
kind: Route
metadata: {namespace: ns1, name: asleep}
spec: {host: asleep.example.com, to: {name: asleep}, port: {targetPort: http}}
---
kind: Route
metadata: {namespace: ns1, name: moved, annotations: {tsuji.dev/redirect-code: "308"}}
spec: {host: moved.example.com, to: {name: plain}, tls: {termination: edge, insecureEdgeTerminationPolicy: Redirect}}
---
kind: Route
metadata:
  namespace: ns1
  name: limited
  annotations:
    tsuji.dev/rate-limit-status: "429"
    haproxy.router.openshift.io/rate-limit-connections: "true"
    haproxy.router.openshift.io/rate-limit-connections.rate-http: "2"
spec: {host: limited.example.com, to: {name: plain}}
---
kind: Route
metadata: {namespace: ns1, name: named}
spec: {host: named.example.com, to: {name: named}, tls: {termination: reencrypt, insecureEdgeTerminationPolicy: Allow}}
---
kind: Route
metadata: {namespace: ns1, name: misnamed}
spec: {host: misnamed.example.com, to: {name: misnamed}, tls: {termination: reencrypt, insecureEdgeTerminationPolicy: Allow}}
---
kind: Service
metadata: {namespace: ns1, name: asleep, annotations: {idling.alpha.openshift.io/idled-at: "2024-05-01T10:00:00Z"}}
spec: {clusterIP: 127.0.0.1, ports: [{name: http, port: WAKE}]}
`
	text := strings.NewReplacer("SYSLOG", portOf(t, syslog.LocalAddr()), "CA}", jsonText(t, string(ca.CertPEM()))+"}", "WAKE", wake).Replace(manifests)
	for name, port := range map[string]string{"plain": plain, "named": named, "misnamed": misnamed} {
		text += fmt.Sprintf("---\nkind: EndpointSlice\nmetadata: {namespace: ns1, name: %s, labels: {kubernetes.io/service-name: %s}}\n"+
			"addressType: IPv4\nports: [{name: http, port: %s}]\nendpoints: [{addresses: [127.0.0.1]}]\n", name, name, port)
	}
	r := compile.New(compile.Config{AllowLoopbackEndpoints: true}).Apply(changesOf(t, text))
	if len(r.Faults) > 0 {
		t.Fatal(r.Faults)
	}
	get := serveResult(t, binary, r)

	res, seen := get("plain.example.com", http.Header{"X-Debug": {"1"}, "User-Agent": {"curl/8"}, "Cookie": {"a=b; session=1"}, "Accept-Encoding": {"gzip"}})
	if seen.Get("X-Zone") != "tok04 plain.example.com" || seen.Get("X-Debug") != "" || !strings.HasPrefix(seen.Get("X-Id"), "id- ") ||
		!strings.HasSuffix(seen.Get("X-Id"), "-plain.example.com") || res.Header.Get("X-Frame-Options") != "DENY" || res.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("endpoint saw %v, client %v", seen, res.Header)
	}
	line := make([]byte, 2048)
	_ = syslog.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, _, err := syslog.ReadFrom(line)
	if want := "GET 200 be_http:ns1:plain <curl/> <session=1>"; err != nil || !strings.Contains(string(line[:n]), want) {
		t.Errorf("logged %q, %v; want %q", line[:n], err, want)
	}

	for _, c := range []struct{ host, want string }{
		{"asleep.example.com", "200 "},
		{"empty.example.com", "503 ours back soon"},
		{"nobody.example.com", "404 no such host"},
		{"moved.example.com", "308 https://moved.example.com/"},
		{"named.example.com", "200 "},
		{"misnamed.example.com", "503 ours back soon"},
	} {
		res, seen := get(c.host, nil)
		got := strings.Join(strings.Fields(fmt.Sprint(res.StatusCode, " ", res.Header.Get("X-Page"), res.Header.Get("Location"), " ", seen.Get("body"))), " ")
		if res.StatusCode == http.StatusOK {
			got = "200 "
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.host, got, c.want)
		}
	}
	for _, want := range []int{http.StatusOK, http.StatusOK, http.StatusTooManyRequests} {
		if res, _ := get("limited.example.com", nil); res.StatusCode != want {
			t.Errorf("limited: %d, want %d", res.StatusCode, want)
		}
	}
}

// echo is an endpoint that answers with the headers it saw, as JSON.
func echo(t *testing.T, pair *tls.Certificate) net.Addr {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(r.Header)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes fail where they must
	if pair != nil {
		s.TLS = &tls.Config{Certificates: []tls.Certificate{*pair}, MinVersion: tls.VersionTLS12}
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s.Listener.Addr()
}

func pairFor(t *testing.T, ca *authority.Authority, name string) *tls.Certificate {
	t.Helper()
	cert, key, err := ca.Issue(authority.Options{DNSNames: []string{name}})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

func portOf(t *testing.T, a net.Addr) string {
	t.Helper()
	_, port, err := net.SplitHostPort(a.String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func jsonText(t *testing.T, s string) string {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// serveResult starts a HAProxy with what was compiled, and returns how to ask it over plain HTTP. What is no
// endpoint's answer is under "body" of what was seen.
func serveResult(t *testing.T, binary string, result compile.Result) func(host string, h http.Header) (*http.Response, http.Header) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tj")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var v render.Version
	v.Major, v.Minor = haproxytest.Version(t, binary)
	address := haproxytest.FreeAddress(t)
	r, err := rendered(render.Options{
		Version: v, OldTLS: !v.AtLeast(3, 0), DefaultCertificate: ownPair(t),
		HTTP: []string{address}, HTTPS: []string{"unix:" + filepath.Join(dir, "https.sock")}, Stats: []string{"unix:" + filepath.Join(dir, "stats.sock")},
	}, result)
	if err != nil {
		t.Fatal(err)
	}
	putFiles(t, dir, r)
	if err := os.MkdirAll(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	var output bytes.Buffer
	cmd := exec.Command(binary, "-db", "-f", "haproxy.cfg")
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, []string{}, &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp4", address)
	}
	for { // until it listens, or is gone
		c, err := dial(t.Context(), "", "")
		if err == nil {
			_ = c.Close()
			break
		}
		select {
		case <-ended:
			t.Fatalf("HAProxy ended: %s", &output)
		case <-t.Context().Done():
			t.Fatalf("HAProxy does not listen: %s", &output)
		case <-time.After(10 * time.Millisecond):
		}
	}
	client := &http.Client{
		Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       30 * time.Second,
	}
	return func(host string, h http.Header) (*http.Response, http.Header) {
		t.Helper()
		if h == nil {
			h = http.Header{}
		}
		req := &http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "http", Host: host, Path: "/"}, Header: h}
		res, err := client.Do(req.WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		seen, err := answerOf(res)
		if err != nil {
			t.Fatal(err)
		}
		return res, seen
	}
}

// answerOf reads what an endpoint saw.
func answerOf(res *http.Response) (http.Header, error) {
	defer res.Body.Close()
	body := io.Reader(res.Body)
	if res.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(res.Body)
		if err != nil {
			return nil, fmt.Errorf("read a compressed answer: %w", err)
		}
		body = z
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("read an answer: %w", err)
	}
	seen := http.Header{}
	if json.Unmarshal(text, &seen) != nil {
		seen = http.Header{"Body": {string(text)}}
	}
	return seen, nil
}
