package apply_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is the place of one HAProxy: a directory, and addresses.
type world struct {
	t                  testing.TB
	binary, dir        string
	http, https, stats string
	revision           uint64
	client             *http.Client
}

func newWorld(t testing.TB, binary string) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "tj")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	transport := &http.Transport{DisableKeepAlives: true}
	return &world{
		t: t, binary: binary, dir: dir, http: haproxytest.FreeAddress(t), https: haproxytest.FreeAddress(t), stats: haproxytest.FreeAddress(t),
		client: &http.Client{Transport: transport, Timeout: 10 * time.Second},
	}
}

// router is an Applier with its HAProxy, whose Run goes on until the test ends or die is called.
type router struct {
	*apply.Applier
	w       *world
	process *haproxy.Process
	can     haproxy.Capabilities
	metrics *apply.Metrics
	paced   bool
	die     func() // ends the routerd, not HAProxy
}

type options struct {
	render       func(*render.Options)
	delay, drain time.Duration
	idle         bool // do not Run
	elsewhere    bool // the test runs HAProxy
	noBackends   bool // NoRuntimeBackends
	paced        bool // reloads of one change after the other are as far apart as they are for users
	apply        func(*apply.Config)
}

func (w *world) router(o options) *router {
	t := w.t
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		logger = slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	pc := haproxy.Config{Binary: w.binary, Dir: w.dir, Log: logger, StartTimeout: 30 * time.Second, TieToParent: true}
	if o.elsewhere {
		pc.Binary, pc.TieToParent, pc.Elsewhere = "", false, true
	}
	process, err := haproxy.New(pc)
	must(t, err)
	ro := render.Options{
		HTTP: []string{w.http}, HTTPS: []string{w.https}, Stats: []string{w.stats},
		DefaultCertificate: ownCertificate(), FileDescriptors: 2000,
	}
	ro.Version.Major, ro.Version.Minor = haproxytest.Version(t, w.binary)
	if ro.Elsewhere = o.elsewhere; os.Geteuid() == 0 && !o.elsewhere {
		ro.Jail, ro.User, ro.Group = true, 65534, 65534
	}
	if o.render != nil {
		o.render(&ro)
	}
	renderer, err := render.New(ro)
	must(t, err)
	release := haproxy.Version{Major: ro.Version.Major, Minor: ro.Version.Minor}
	r := &router{w: w, process: process, metrics: apply.NewMetrics(nil), can: release.Capabilities(), paced: o.paced}
	config := apply.Config{
		Renderer: renderer, HAProxy: process, Log: logger, Metrics: r.metrics, ShutdownDelay: o.delay, DrainTimeout: o.drain, NoRuntimeBackends: o.noBackends,
	}
	if o.apply != nil {
		o.apply(&config)
	}
	r.Applier = apply.New(config)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if !o.idle {
			if err := r.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		}
	}()
	r.die = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(func() {
		r.die()
		process.Kill()
		process.Close()
	})
	return r
}

type logWriter struct{ t testing.TB }

func (w logWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// snapshot makes a snapshot of resources.
func (w *world) snapshot(resources ...*tsujiv1.Resource) snapshot.Snapshot {
	w.t.Helper()
	var config, facts snapshot.Set
	for _, r := range resources {
		i, err := tsujiv1.Encode(r)
		must(w.t, err)
		if snapshot.PartOf(r.GetName()) == snapshot.Config {
			config = config.With(i)
		} else {
			facts = facts.With(i)
		}
	}
	w.revision++
	return snapshot.New(w.revision, config, facts)
}

// put applies a snapshot that must come into force.
func (r *router) put(resources ...*tsujiv1.Resource) snapshot.Snapshot {
	r.w.t.Helper()
	next := r.w.snapshot(resources...)
	if refusal := r.try(next); refusal != nil {
		r.w.t.Fatalf("refused: %v", refusal)
	}
	return next
}

func (r *router) try(next snapshot.Snapshot) *tsujiv1.Refusal {
	if !r.paced {
		r.HoldReloads(0)
	}
	base, _ := r.InForce()
	return r.Apply(r.w.t.Context(), next, snapshot.Diff(base, next))
}

// reloads counts reloads, whatever the reason.
func (r *router) reloads() float64 {
	n := 0.0
	for _, reason := range []string{"program", "release", "cheaper", "failure", "mend"} {
		n += testutil.ToFloat64(r.metrics.Reloads.WithLabelValues(reason))
	}
	return n
}

// leaving counts what waits in HAProxy for its last connection to end.
func (r *router) leaving(kind string) float64 {
	return testutil.ToFloat64(r.metrics.Leaving.WithLabelValues(kind))
}

// pids are the processes that the master names.
func (r *router) pids() haproxy.Processes {
	r.w.t.Helper()
	p, err := r.process.Processes(r.w.t.Context())
	must(r.w.t, err)
	return p
}

// get asks the router for a host, and returns status and body.
func (w *world) get(host string) string {
	w.t.Helper()
	s, err := w.tryGet(host)
	must(w.t, err)
	return s
}

func (w *world) tryGet(host string) (string, error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+w.http+"/", nil)
	if err != nil {
		return "", err
	}
	req.Host = host
	res, err := w.client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusOK {
		return fmt.Sprint(res.StatusCode), err
	}
	return string(body), err
}

// keep returns a function that asks for a.test over one connection that is kept, and says whether an answer is its last.
func (w *world) keep(url string) func() string {
	transport := &http.Transport{MaxConnsPerHost: 1, TLSClientConfig: &tls.Config{ServerName: "a.test", InsecureSkipVerify: true}}
	w.t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	return func() string {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		must(w.t, err)
		req.Host = "a.test"
		res, err := client.Do(req)
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return err.Error()
		}
		if res.Close {
			return string(body) + ", the last"
		}
		return string(body)
	}
}

// deaf tells whether nobody listens for HTTP.
func (w *world) deaf() bool {
	c, err := net.Dial("tcp", w.http)
	if err == nil {
		c.Close()
	}
	return err != nil
}

// count asks n times and counts the answers.
func (w *world) count(host string, n int) map[string]int {
	w.t.Helper()
	m := map[string]int{}
	for range n {
		m[w.get(host)]++
	}
	return m
}

// certificate returns the serial number of the certificate that is served for a host.
func (w *world) certificate(host string) string {
	w.t.Helper()
	d := &tls.Dialer{Config: &tls.Config{ServerName: host, InsecureSkipVerify: true}}
	c, err := d.DialContext(w.t.Context(), "tcp", w.https)
	must(w.t, err)
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String() //nolint:errcheck // it is one
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until f is true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// serve starts a server that answers with its name.
func serve(t testing.TB, name string) *tsujiv1.Endpoint {
	t.Helper()
	return serveHandler(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }))
}

func serveHandler(t testing.TB, h http.Handler) *tsujiv1.Endpoint {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return endpoint(t, s)
}

// startTLS starts a server with a certificate for the host of a Service.
func startTLS(t testing.TB, s *httptest.Server, ca *authority.Authority, service string) {
	t.Helper()
	chain, key, err := ca.Issue(authority.Options{DNSNames: []string{service + ".ns.svc"}})
	must(t, err)
	pair, err := tls.X509KeyPair(chain, key)
	must(t, err)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	t.Cleanup(s.Close)
}

func endpoint(t testing.TB, s *httptest.Server) *tsujiv1.Endpoint {
	t.Helper()
	a := netip.MustParseAddrPort(s.Listener.Addr().String())
	return &tsujiv1.Endpoint{
		Address: a.Addr().String(), Port: uint32(a.Port()), PortName: "http", Ready: true, Serving: true,
		TargetKind: "Pod", TargetName: fmt.Sprintf("pod-%d", a.Port()),
	}
}

// serveSlowly starts a server that answers one request in two halves. The first is sent when begun is closed, the
// second when finish is called.
func serveSlowly(t testing.TB) (e *tsujiv1.Endpoint, begun chan struct{}, finish func()) {
	t.Helper()
	begun, end := make(chan struct{}), make(chan struct{})
	e = serveHandler(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "be")
		w.(http.Flusher).Flush() //nolint:errcheck // it is one
		close(begun)
		<-end
		fmt.Fprint(w, "gun")
	}))
	finish = sync.OnceFunc(func() { close(end) })
	t.Cleanup(finish)
	return e, begun, finish
}

func route(name string, services ...*tsujiv1.BackendRef) *tsujiv1.Resource {
	if len(services) == 0 {
		services = []*tsujiv1.BackendRef{service(name, 1)}
	}
	return &tsujiv1.Resource{Name: tsujiv1.RouteName("ns", name), Kind: &tsujiv1.Resource_Route{Route: &tsujiv1.Route{
		Namespace: "ns", Name: name, Host: name + ".test", Path: "/", Termination: tsujiv1.Termination_TERMINATION_INSECURE,
		Backends: services,
	}}}
}

func edge(name string) *tsujiv1.Resource {
	r := route(name)
	r.GetRoute().Termination = tsujiv1.Termination_TERMINATION_EDGE
	r.GetRoute().InsecurePolicy = tsujiv1.InsecurePolicy_INSECURE_POLICY_ALLOW
	r.GetRoute().Certificate = tsujiv1.CertificateName("ns", tsujiv1.FromRoute, name)
	return r
}

func service(name string, weight uint32) *tsujiv1.BackendRef {
	return &tsujiv1.BackendRef{Endpoints: tsujiv1.EndpointsName("ns", name, "http"), Service: name, Weight: weight}
}

func endpoints(service string, list ...*tsujiv1.Endpoint) *tsujiv1.Resource {
	return &tsujiv1.Resource{Name: tsujiv1.EndpointsName("ns", service, "http"), Kind: &tsujiv1.Resource_Endpoints{
		Endpoints: &tsujiv1.Endpoints{Namespace: "ns", Service: service, Port: "http", Endpoints: list},
	}}
}

// certificate makes a certificate of its own for the route's host. With weak, an intermediate comes along
// whose key is shorter than OpenSSL allows.
func certificate(name string, weak bool) (*tsujiv1.Resource, string) {
	chain, key, serial := issue(name + ".test")
	if weak {
		k, err := rsa.GenerateKey(rand.Reader, 1024)
		if err != nil {
			panic(err)
		}
		t := &x509.Certificate{
			SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "weak"}, IsCA: true, BasicConstraintsValid: true,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}
		der, err := x509.CreateCertificate(rand.Reader, t, t, &k.PublicKey, k)
		if err != nil {
			panic(err)
		}
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return &tsujiv1.Resource{Name: tsujiv1.CertificateName("ns", tsujiv1.FromRoute, name), Kind: &tsujiv1.Resource_Certificate{
		Certificate: &tsujiv1.Certificate{ChainPem: chain, PrivateKey: &tsujiv1.PrivateKey{Pem: key}},
	}}, serial
}

var ownCertificate = sync.OnceValue(func() []byte {
	chain, key, _ := issue("router.invalid")
	return append(chain, key...)
})

func issue(host string) (chain, key []byte, serial string) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	n, err2 := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err := errors.Join(err, err2); err != nil {
		panic(err)
	}
	t := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &k.PublicKey, k)
	kd, err2 := x509.MarshalPKCS8PrivateKey(k)
	if err := errors.Join(err, err2); err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd}), n.String()
}
