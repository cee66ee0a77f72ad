package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/explain"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// Whatever Routes share a host, what explain tells of a request is what HAProxy answers with what render gives it.
func TestExplainAgreesWithHAProxy(t *testing.T) {
	binary := haproxytest.Binary(t)
	dir, err := os.MkdirTemp("", "tj")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)

	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("X-Route")) })
	plainBackend := httptest.NewServer(handler)
	defer plainBackend.Close()
	tlsBackend := httptest.NewTLSServer(handler)
	defer tlsBackend.Close()

	var m strings.Builder
	m.WriteString(`apiVersion: operator.openshift.io/v1
kind: IngressController
metadata: {name: default, namespace: openshift-ingress-operator}
spec: {routeAdmission: {wildcardPolicy: WildcardsAllowed}, tuningOptions: {maxConnections: 2000, threadCount: 1}}
`)
	for name, s := range map[string]*httptest.Server{"plain": plainBackend, "tls": tlsBackend} {
		_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
		fmt.Fprintf(&m, `---
{apiVersion: v1, kind: Service, metadata: {name: %[1]s, namespace: ns}, spec: {ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{port: %[2]s, name: ""}], endpoints: [{addresses: [127.0.0.1]}],
 metadata: {name: %[1]s, namespace: ns, labels: {kubernetes.io/service-name: %[1]s}}}
`, name, port)
	}
	const domains = 60
	rnd := rand.New(rand.NewPCG(5, 7))
	for i := range domains {
		for j := range 1 + rnd.IntN(5) {
			name, domain := fmt.Sprintf("r%d-%d", i, j), fmt.Sprintf("d%d.example", i)
			if j > 0 && rnd.IntN(3) == 0 {
				exactRule(&m, rnd, "exact-"+name, domain)
				continue
			}
			randomRoute(&m, rnd, name, domain)
		}
	}
	manifest := filepath.Join(dir, "m.yaml")
	if err := os.WriteFile(manifest, []byte(m.String()), 0o600); err != nil {
		t.Fatal(err)
	}

	rendered := filepath.Join(dir, "r")
	http80, https443, stats := filepath.Join(dir, "http"), filepath.Join(dir, "https"), filepath.Join(dir, "stats")
	out, code := tsuji(t, nil, "render", manifest, "-o", rendered, "--with-keys", "--http=unix:"+http80, "--https=unix:"+https443, "--stats=unix:"+stats)
	if code != exitOK {
		t.Fatalf("exit code %d: %s", code, out)
	}
	get := runHAProxy(t, binary, rendered, http80, https443)

	c, err := compileFiles(t.Context(), world{now: time.Now}, []string{manifest}, "default")
	if err != nil || len(c.Faults) > 0 {
		t.Fatal(err, c.Faults)
	}
	answers, alone := map[string]int{}, 0
	for i := range domains {
		for _, host := range []string{"a", "b", "c"} {
			for _, path := range []string{"/", "/a", "/a/", "/ab", "/a/b", "/a/b/c"} {
				q := explain.Request{Host: fmt.Sprintf("%s.d%d.example", host, i), Path: path}
				x, err := explainFrom(t.Context(), q, "default", c)
				if err != nil {
					t.Fatal(err)
				}
				byHTTP, byTLS := x.HTTP, x.HTTPS
				want := expected(byTLS)
				if strings.Contains(byTLS.Text, "TLS ends at the endpoint") {
					want = "200 " // which Route, the router cannot tell the endpoint
				}
				if strings.Contains(byHTTP.Route, "/exact-") || strings.Contains(byTLS.Route, "/exact-") {
					alone++
				}
				for scheme, want := range map[string]string{"http": expected(byHTTP), "https": want} {
					if got := get(t, scheme, q); got != want {
						t.Errorf("%s://%s%s: HAProxy answers %q, explain tells %q", scheme, q.Host, q.Path, got, want)
					}
					answers[want[:3]]++
				}
			}
		}
	}
	if alone < 10 {
		t.Errorf("only %d answers of exact paths were compared", alone)
	}
	for _, status := range []string{"200", "302", "503"} {
		if answers[status] < 100 {
			t.Errorf("only %d answers of %s were compared", answers[status], status)
		}
	}
}

func expected(a *explain.Answer) string {
	if a.Status != 0 {
		return fmt.Sprint(a.Status)
	}
	_, name, _ := strings.Cut(a.Route, "/")
	if strings.HasPrefix(name, "exact-") {
		return "200 " // an Ingress cannot set the header that the endpoint answers with
	}
	return "200 " + name
}

// exactRule writes an Ingress with an exact path.
func exactRule(w io.Writer, rnd *rand.Rand, name, domain string) {
	pick := func(of ...string) string { return of[rnd.IntN(len(of))] }
	fmt.Fprintf(w, `---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: %s, namespace: ns, annotations: {%s}},
 spec: {rules: [{host: %q, http: {paths: [{path: %q, pathType: Exact, backend: {service: {name: plain, port: {number: 80}}}}]}}]}}
`, name, pick("", "route.openshift.io/termination: edge, tsuji.dev/insecure-edge-termination-policy: "+pick("None", "Allow", "Redirect")),
		pick("a", "b", "*")+"."+domain, pick("/", "/a", "/a/", "/a/b"))
}

// randomRoute writes a Route, which may be refused for what others have.
func randomRoute(w io.Writer, rnd *rand.Rand, name, domain string) {
	pick := func(of ...string) string { return of[rnd.IntN(len(of))] }
	host, wildcard, service := pick("a", "b"), "None", "plain"
	if rnd.IntN(3) == 0 {
		host, wildcard = "any", "Subdomain"
	}
	path, tlsText := pick("", "/", "/a", "/a/", "/a/b"), ""
	switch termination := pick("", "edge", "edge", "passthrough"); termination {
	case "edge":
		tlsText = "tls: {termination: edge, insecureEdgeTerminationPolicy: " + pick("None", "Allow", "Redirect") + "}, "
	case "passthrough":
		path, service = "", "tls"
		tlsText = "tls: {termination: passthrough, insecureEdgeTerminationPolicy: " + pick("None", "Redirect") + "}, "
	}
	if service == "plain" {
		tlsText += "httpHeaders: {actions: {request: [{name: X-Route, action: {type: Set, set: {value: " + name + "}}}]}}, "
	}
	fmt.Fprintf(w, `---
{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: %s, namespace: ns},
 spec: {host: %s.%s, path: %q, wildcardPolicy: %s, %sto: {kind: Service, name: %s}}}
`, name, host, domain, path, wildcard, tlsText, service)
}

// runHAProxy runs HAProxy with what was rendered, and returns what asks it: for the status and, with 200, the body.
func runHAProxy(t *testing.T, binary, dir, http80, https443 string) func(t *testing.T, scheme string, q explain.Request) string {
	t.Helper()
	var log strings.Builder
	cmd := exec.CommandContext(t.Context(), binary, "-f", "haproxy.cfg", "-db")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var ended error // once exited is closed
	exited := make(chan struct{})
	go func() { ended = cmd.Wait(); close(exited) }()
	client := &http.Client{
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				path := http80
				if strings.HasSuffix(address, ":443") {
					path = https443
				}
				return (&net.Dialer{}).DialContext(ctx, "unix", path)
			},
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		},
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
	})
	ask := func(scheme string, q explain.Request) (string, error) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, scheme+"://"+q.Host+q.Path, http.NoBody)
		if err != nil {
			return "", err
		}
		a, err := client.Do(r)
		if err != nil {
			return "", err
		}
		defer a.Body.Close()
		body, err := io.ReadAll(a.Body)
		if a.StatusCode == http.StatusOK {
			return "200 " + string(body), err
		}
		return fmt.Sprint(a.StatusCode), err
	}
	for { // until it listens
		select {
		case <-exited:
			t.Fatalf("HAProxy ended: %v\n%s", ended, log.String())
		case <-time.After(10 * time.Millisecond):
		}
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", https443)
		if err == nil {
			conn.Close()
			break
		}
		if errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	return func(t *testing.T, scheme string, q explain.Request) string {
		t.Helper()
		got, err := ask(scheme, q)
		if err != nil {
			return err.Error()
		}
		return got
	}
}
