// Package fuzzroutes_test gives whatever may stand in a Route to the compiler, and what comes of it to HAProxy. It is a package
// of its own because the workers of a fuzz test cannot change the network namespace, as the stories of package test do.
package fuzzroutes_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	routev1 "github.com/openshift/api/route/v1"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// fuzzed is what somebody who may write Routes in his namespace writes.
type fuzzed struct {
	host, path, termination, policy, wildcard, port string
	annotation1, value1, annotation2, value2        string
	request, requestValue, response, responseValue  string // header actions; no value: the header is deleted
	certificate                                     string // "pair": one that is whole; else what stands there
	weight                                          int32
}

// route is the Route, in the namespace of the stranger.
func (f fuzzed) route(pair [2]string) *routev1.Route {
	r := &routev1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: "stranger", Name: "fuzzed", Annotations: map[string]string{}}}
	for name, value := range map[string]string{f.annotation1: f.value1, f.annotation2: f.value2} {
		if name != "" {
			r.Annotations[name] = value
		}
	}
	r.Spec.Host, r.Spec.Path, r.Spec.WildcardPolicy = f.host, f.path, routev1.WildcardPolicyType(f.wildcard)
	r.Spec.To = routev1.RouteTargetReference{Kind: "Service", Name: "web", Weight: &f.weight}
	if f.port != "" {
		r.Spec.Port = &routev1.RoutePort{TargetPort: intstr.Parse(f.port)}
	}
	if f.termination != "" {
		r.Spec.TLS = &routev1.TLSConfig{
			Termination: routev1.TLSTerminationType(f.termination), InsecureEdgeTerminationPolicy: routev1.InsecureEdgeTerminationPolicyType(f.policy),
			Certificate: f.certificate,
		}
		if f.certificate == "pair" {
			r.Spec.TLS.Certificate, r.Spec.TLS.Key = pair[0], pair[1]
		}
	}
	action := func(name, value string) []routev1.RouteHTTPHeader {
		h := routev1.RouteHTTPHeader{Name: name, Action: routev1.RouteHTTPHeaderActionUnion{Type: routev1.Delete}}
		switch {
		case name == "":
			return nil
		case value != "":
			h.Action = routev1.RouteHTTPHeaderActionUnion{Type: routev1.Set, Set: &routev1.RouteSetHTTPHeader{Value: value}}
		}
		return []routev1.RouteHTTPHeader{h}
	}
	if f.request+f.response != "" {
		r.Spec.HTTPHeaders = &routev1.RouteHTTPHeaders{Actions: routev1.RouteHTTPHeaderActions{
			Request: action(f.request, f.requestValue), Response: action(f.response, f.responseValue),
		}}
	}
	return r
}

// killers have taken other routers down, or might.
var killers = map[string]fuzzed{
	"path that is no expression, rewritten":   {path: "/foo(", annotation1: "haproxy.router.openshift.io/rewrite-target", value1: "/"},
	"path with a bracket, rewritten":          {path: "/a[b", annotation1: "haproxy.router.openshift.io/rewrite-target", value1: "/x"},
	"path with two stars, rewritten":          {path: "/a**", annotation1: "haproxy.router.openshift.io/rewrite-target", value1: "/"},
	"line feed in HSTS":                       {termination: "edge", annotation1: "haproxy.router.openshift.io/hsts_header", value1: "max-age=1;\nincludeSubDomains"},
	"carriage return in HSTS":                 {termination: "edge", annotation1: "haproxy.router.openshift.io/hsts_header", value1: "max-age=1;\rincludeSubDomains"},
	"carriage return in a rewrite":            {path: "/a", annotation1: "haproxy.router.openshift.io/rewrite-target", value1: "/b\r\n  http-request deny"},
	"path longer than a line of HAProxy's":    {path: "/" + strings.Repeat("p", 40_000)},
	"header longer than HAProxy's buffer":     {request: "X-Long", requestValue: strings.Repeat("v", 16_000), response: "X-Long", responseValue: strings.Repeat("v", 16_000)},
	"rewrite with all that has a meaning":     {path: "/a", annotation1: "haproxy.router.openshift.io/rewrite-target", value1: `/%[env(HOME)]"'\1#;$HOME%%`},
	"header with all that has a meaning":      {request: "X-A", requestValue: `'"\ #; $HOME %% <<`, response: "X-B", responseValue: "%%[env(HOME)]"},
	"header from another, twice":              {request: "X-A", requestValue: "%[req.hdr(host),lower]", response: "X-B", responseValue: "%[res.hdr(server),base64]"},
	"allow list that lets everybody in":       {annotation1: "haproxy.router.openshift.io/ip_allowlist", value1: "0.0.0.0/0 ::/0", annotation2: "haproxy.router.openshift.io/ip_whitelist", value2: "x"},
	"allow list of odd lengths":               {annotation1: "haproxy.router.openshift.io/ip_allowlist", value1: "127.0.0.1/7 10.0.0.0/31 2001:db8::/33 ::ffff:1.2.3.4"},
	"limits":                                  {annotation1: "haproxy.router.openshift.io/rate-limit-connections", value1: "true", annotation2: "haproxy.router.openshift.io/rate-limit-connections.rate-http", value2: "9"},
	"cookie":                                  {annotation1: "router.openshift.io/cookie_name", value1: "a_b-C", annotation2: "router.openshift.io/cookie-same-site", value2: "Lax"},
	"cookie that is an attribute":             {annotation1: "router.openshift.io/cookie_name", value1: "a; Path=/"},
	"timeouts":                                {annotation1: "haproxy.router.openshift.io/timeout", value1: "99999d", annotation2: "haproxy.router.openshift.io/timeout-tunnel", value2: "1us"},
	"timeouts of a connection passed through": {termination: "passthrough", annotation1: "haproxy.router.openshift.io/timeout-tunnel", value1: "2h"},
	"wildcard":                       {host: "a.wild.example.com", wildcard: "Subdomain", termination: "edge", policy: "Redirect", certificate: "pair"},
	"certificate with more than PEM": {termination: "edge", certificate: "-----BEGIN CERTIFICATE-----\n\n\nset ssl cert\n"},
	"balance, checks, connections":   {annotation1: "router.openshift.io/haproxy.health.check.interval", value1: "1us", annotation2: "haproxy.router.openshift.io/pod-concurrent-connections", value2: "1"},
	"other balance and forwarding":   {annotation1: "haproxy.router.openshift.io/balance", value1: "source", annotation2: "haproxy.router.openshift.io/set-forwarded-headers", value2: "if-none"},
	"re-encrypted without a CA":      {termination: "reencrypt", policy: "Allow", port: "8080"},
}

// whole fills in what a killer leaves to chance.
func (f fuzzed) whole() fuzzed {
	if f.host == "" {
		f.host = "fuzzed.example.com"
	}
	if f.wildcard == "" {
		f.wildcard = "None"
	}
	if f.weight == 0 {
		f.weight = 100
	}
	return f
}

// Whatever somebody writes into a Route is refused with a verdict, or served by HAProxy, which takes it by commands and
// from files alike; and nobody else notices.
func TestKillers(t *testing.T) {
	w := newFuzzWorld(t)
	for name, f := range killers {
		t.Run(name, func(t *testing.T) {
			w.try(t, f.whole(), w.commands)
			if !w.try(t, f.whole(), w.files) {
				t.Error("what comes from files is refused for the rate of reloads")
			}
		})
	}
}

// See TestKillers. `go test -run '^$' -fuzz FuzzRoutes -parallel 1 ./test/fuzzroutes`
func FuzzRoutes(f *testing.F) {
	for _, k := range killers {
		k := k.whole()
		f.Add(k.host, k.path, k.termination, k.policy, k.wildcard, k.port, k.annotation1, k.value1, k.annotation2, k.value2,
			k.request, k.requestValue, k.response, k.responseValue, k.certificate, k.weight)
	}
	w := newFuzzWorld(f)
	n := 0
	f.Fuzz(func(t *testing.T, host, path, termination, policy, wildcard, port, annotation1, value1, annotation2, value2,
		request, requestValue, response, responseValue, certificate string, weight int32,
	) {
		one := fuzzed{
			host: host, path: path, termination: termination, policy: policy, wildcard: wildcard, port: port,
			annotation1: annotation1, value1: value1, annotation2: annotation2, value2: value2,
			request: request, requestValue: requestValue, response: response, responseValue: responseValue, certificate: certificate, weight: weight,
		}
		taken := w.try(t, one, w.commands)
		if n++; n%50 == 1 || !taken {
			w.try(t, one, w.files)
		}
	})
}

// fuzzWorld is a compiler and two routers with one Route of a victim's: one router that takes changes by commands, and
// one that takes them from files.
type fuzzWorld struct {
	compiler        *compile.Compiler
	commands, files *fuzzRouter
	pair            [2]string
}

type fuzzRouter struct {
	*apply.Applier
	metrics *apply.Metrics
	http    string
	current snapshot.Snapshot

	kept    net.Conn // of a client of the victim's
	answers *bufio.Reader
}

func newFuzzWorld(t testing.TB) *fuzzWorld {
	pod := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	t.Cleanup(pod.Close)
	_, podPort, _ := net.SplitHostPort(pod.Listener.Addr().String())
	ca, err := authority.NewAuthority("fuzz")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue(authority.Options{DNSNames: []string{"fuzzed.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	w := &fuzzWorld{compiler: compile.New(compile.Config{AllowLoopbackEndpoints: true}), pair: [2]string{string(cert), string(key)}}
	number, _ := strconv.ParseInt(podPort, 10, 32)
	first := w.compiler.Apply([]cluster.Change{
		given("Service", &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "victim", Name: "web"}}), webSlice("victim", int32(number)),
		given("Service", &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "stranger", Name: "web"}}), webSlice("stranger", int32(number)),
		given("Route", &routev1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: "victim", Name: "web"}, Spec: routev1.RouteSpec{
			Host: "victim.example.com", WildcardPolicy: routev1.WildcardPolicyNone, To: routev1.RouteTargetReference{Kind: "Service", Name: "web"},
		}}),
	})
	s := snapshot.New(1, first.Config, first.Facts)
	w.commands, w.files = newFuzzRouter(t, s, w.pair, false), newFuzzRouter(t, s, w.pair, true)
	return w
}

func newFuzzRouter(t testing.TB, s snapshot.Snapshot, pair [2]string, files bool) *fuzzRouter {
	dir, err := os.MkdirTemp("", "tj")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	process, err := haproxy.New(haproxy.Config{Binary: haproxytest.Binary(t), Dir: filepath.Join(dir, "haproxy"), TieToParent: true})
	if err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	r := &fuzzRouter{metrics: apply.NewMetrics(nil), http: haproxytest.FreeAddress(t), current: s}
	renderer, err := render.New(render.Options{
		HTTP: []string{r.http}, HTTPS: []string{haproxytest.FreeAddress(t)}, Stats: []string{haproxytest.FreeAddress(t)}, DefaultCertificate: []byte(pair[0] + pair[1]),
		FileDescriptors: int(min(limit.Max, 1<<20)), Jail: true, User: 65534, Group: 65534,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Applier = apply.New(apply.Config{Renderer: renderer, HAProxy: process, Metrics: r.metrics, NoRuntimeBackends: files})
	if err := r.Start(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		_ = r.Run(ctx)
		close(done)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = r.Stop(context.Background())
	})
	return r
}

// try puts the Route into the cluster, looks at what comes of it, and takes it away again. It is not taken, and that is no
// fault of it, if it needs a reload and its namespace had too many.
func (w *fuzzWorld) try(t *testing.T, f fuzzed, r *fuzzRouter) (taken bool) {
	t.Helper()
	route := f.route(w.pair)
	with := w.compiler.Apply([]cluster.Change{given("Route", route)})
	defer func() {
		without := w.compiler.Apply([]cluster.Change{{Key: cluster.Key{Kind: "Route", Namespace: "stranger", Name: "fuzzed"}}})
		r.follow(t, without)
	}()
	var verdict *tsujiv1.RouteVerdict
	for _, v := range with.Verdicts {
		if v.GetNamespace() == "stranger" {
			verdict = v
		}
	}
	if verdict == nil {
		t.Fatal("no verdict")
	}
	if !verdict.GetAdmitted() && (verdict.GetReason() == "" || verdict.GetMessage() == "") {
		t.Errorf("refused without a word: %v", verdict)
	}
	taken = r.follow(t, with)
	if taken && verdict.GetAdmitted() && f.termination != "passthrough" {
		if err := r.askOnce(verdict.GetHost(), verdict.GetPath()); err != nil {
			t.Errorf("%s%s: %v", verdict.GetHost(), verdict.GetPath(), err)
		}
	}
	if err := r.askVictim(); err != nil {
		t.Errorf("the victim: %v", err)
	}
	return taken
}

// follow puts what was compiled into force. It is not taken if the router refuses it for the rate of reloads alone.
func (r *fuzzRouter) follow(t *testing.T, c compile.Result) (taken bool) {
	t.Helper()
	next := snapshot.New(r.current.Version().Revision+1, c.Config, c.Facts)
	if refusal := r.Apply(context.Background(), next, snapshot.Diff(r.current, next)); refusal != nil {
		content := func(res *tsujiv1.RefusedResource) bool { return res.GetRetryAfter() == nil }
		if len(refusal.GetResources()) == 0 || slices.ContainsFunc(refusal.GetResources(), content) {
			t.Fatalf("the router refuses it: %v", refusal)
		}
		return false
	}
	r.current = next
	for _, why := range []string{"failure", "mend"} {
		if n := testutil.ToFloat64(r.metrics.Reloads.WithLabelValues(why)); n != 0 {
			t.Fatalf("%v reloads, because of %s", n, why)
		}
	}
	return true
}

// askOnce asks as a client does that follows what the Route says. A Route may close its doors: any answer will do, and
// so does none, but not silence.
func (r *fuzzRouter) askOnce(host, path string) error {
	c, err := net.DialTimeout("tcp", r.http, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, strings.Replace(host, "*", "x", 1))
	_, err = io.Copy(io.Discard, c)
	if errors.Is(err, unix.ECONNRESET) {
		return nil
	}
	return err
}

// askVictim asks on a connection that is kept. A reload may have closed it: then on another.
func (r *fuzzRouter) askVictim() error {
	for fresh := false; ; fresh = true {
		if r.kept == nil {
			fresh = true
			c, err := net.DialTimeout("tcp", r.http, 5*time.Second)
			if err != nil {
				return err
			}
			r.kept, r.answers = c, bufio.NewReader(c)
		}
		_ = r.kept.SetDeadline(time.Now().Add(20 * time.Second))
		_, err := io.WriteString(r.kept, "GET / HTTP/1.1\r\nHost: victim.example.com\r\n\r\n")
		if err == nil {
			var a *http.Response
			if a, err = http.ReadResponse(r.answers, nil); err == nil {
				body, _ := io.ReadAll(a.Body)
				_ = a.Body.Close()
				if a.StatusCode != http.StatusOK || string(body) != "hello" {
					return fmt.Errorf("%d %q", a.StatusCode, body)
				}
				return nil
			}
		}
		_ = r.kept.Close()
		r.kept = nil
		if fresh {
			return err
		}
	}
}

func given(kind cluster.Kind, o metav1.Object) cluster.Change {
	return cluster.Change{Key: cluster.Key{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}, Object: o}
}

func webSlice(namespace string, port int32) cluster.Change {
	ready, name := true, "http"
	return given("EndpointSlice", &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: "web", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"127.0.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "web-1"}}},
	})
}
