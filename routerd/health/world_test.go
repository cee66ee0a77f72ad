package health_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/health"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// router is an Applier with its HAProxy and a Watcher.
type router struct {
	*apply.Applier
	t           testing.TB
	process     *haproxy.Process
	http, https string
	metrics     *health.Metrics
	revision    uint64
}

func newRouter(t testing.TB, binary string) *router {
	t.Helper()
	dir, err := os.MkdirTemp("", "tj")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	logger := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		logger = slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	process, err := haproxy.New(haproxy.Config{Binary: binary, Dir: dir, Log: logger, StartTimeout: 30 * time.Second, TieToParent: true})
	must(t, err)
	r := &router{t: t, process: process, http: freePort(t), https: freePort(t), metrics: health.NewMetrics(nil)}
	chain, key := issue(t)
	o := render.Options{HTTP: []string{r.http}, HTTPS: []string{r.https}, Stats: []string{freePort(t)}, DefaultCertificate: append(chain, key...), FileDescriptors: 2000}
	o.Version.Major, o.Version.Minor = haproxytest.Version(t, binary)
	if os.Geteuid() == 0 {
		o.Jail, o.User, o.Group = true, 65534, 65534
	}
	renderer, err := render.New(o)
	must(t, err)
	r.Applier = apply.New(apply.Config{Renderer: renderer, HAProxy: process, Log: logger})
	watcher := health.New(health.Config{Applier: r.Applier, HAProxy: process, Log: logger, Metrics: r.metrics})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{r.Run, watcher.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
		process.Kill()
		process.Close()
	})
	return r
}

type logWriter struct{ t testing.TB }

func (w logWriter) Write(b []byte) (int, error) {
	w.t.Log(time.Now().Format("05.000 ") + strings.TrimSpace(string(b)))
	return len(b), nil
}

// put applies a snapshot that must come into force.
func (r *router) put(resources ...*tsujiv1.Resource) {
	r.t.Helper()
	var config, facts snapshot.Set
	for _, x := range resources {
		i, err := tsujiv1.Encode(x)
		must(r.t, err)
		if snapshot.PartOf(x.GetName()) == snapshot.Config {
			config = config.With(i)
		} else {
			facts = facts.With(i)
		}
	}
	r.revision++
	next := snapshot.New(r.revision, config, facts)
	base, _ := r.InForce()
	if refusal := r.Apply(r.t.Context(), next, snapshot.Diff(base, next)); refusal != nil {
		r.t.Fatalf("refused: %v", refusal)
	}
}

// stats returns what HAProxy has counted for a server of the route.
func (r *router) stats(p *pod) haproxy.ServerStats {
	r.t.Helper()
	c, err := r.process.Connect(r.t.Context())
	must(r.t, err)
	defer c.Close()
	list, err := c.ServerStats(r.t.Context(), p.backend)
	must(r.t, err)
	s, ok := list[0][p.server()]
	if !ok {
		r.t.Fatalf("%s is not in %v", p.server(), list)
	}
	return s
}

// suspended tells whether exactly these are.
func (r *router) suspended(pods ...*pod) bool {
	list := r.Suspended()
	if len(list) != len(pods) {
		return false
	}
	for i := range list {
		if list[i] != (apply.Server{Backend: pods[i].backend, Name: pods[i].server()}) {
			return false
		}
	}
	return true
}

// pod is an endpoint of route ns/a, which answers with its name, and closes each connection.
type pod struct {
	t        testing.TB
	name     string
	backend  string
	address  netip.AddrPort
	tls      *tls.Config // nil: plain HTTP
	requests atomic.Int64
	open     atomic.Int64   // connections
	accepted chan time.Time // of connections, while there is room

	listener *net.TCPListener // nil: it refuses connections
	web      *http.Server
	done     chan struct{}
}

func newPod(t testing.TB, name, backend string, config *tls.Config) *pod {
	t.Helper()
	p := &pod{
		t: t, name: name, backend: backend, tls: config, address: netip.MustParseAddrPort(freePort(t)),
		accepted: make(chan time.Time, 1000),
	}
	p.listen()
	t.Cleanup(p.close)
	return p
}

func (p *pod) server() string {
	return fmt.Sprintf("pod:%s:a:http:%s:%d", p.name, p.address.Addr(), p.address.Port())
}

func (p *pod) endpoint() *tsujiv1.Endpoint {
	return &tsujiv1.Endpoint{
		Address: p.address.Addr().String(), Port: uint32(p.address.Port()), PortName: "http", Ready: true, Serving: true,
		TargetKind: "Pod", TargetName: p.name,
	}
}

func (p *pod) listen() {
	p.t.Helper()
	var c net.ListenConfig
	c.SetMultipathTCP(false) // which has no filters
	l, err := c.Listen(p.t.Context(), "tcp", p.address.String())
	must(p.t, err)
	var ok bool
	if p.listener, ok = l.(*net.TCPListener); !ok {
		p.t.Fatalf("%T", l)
	}
	p.done = make(chan struct{})
	p.web = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			p.requests.Add(1)
			fmt.Fprint(w, p.name)
		}),
		ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
		ConnState: func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				p.open.Add(1)
				select {
				case p.accepted <- time.Now():
				default:
				}
			case http.StateClosed:
				p.open.Add(-1)
			default:
			}
		},
	}
	p.web.SetKeepAlivesEnabled(false)
	serving := l
	if p.tls != nil {
		serving = tls.NewListener(l, p.tls)
	}
	go func() {
		defer close(p.done)
		_ = p.web.Serve(serving)
	}()
}

// control does something with the listening socket.
func (p *pod) control(f func(fd int) error) {
	p.t.Helper()
	raw, err := p.listener.SyscallConn()
	must(p.t, err)
	var inner error
	must(p.t, raw.Control(func(fd uintptr) { inner = f(int(fd)) }))
	must(p.t, inner)
}

// vanish lets nothing reach the address any more, as when its node is gone: who connects hears nothing. Connections
// that were made before are answered.
func (p *pod) vanish() {
	p.t.Helper()
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	p.control(func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
	})
}

// refuse refuses connections, as when the process has ended. Those that were made before are answered.
func (p *pod) refuse() {
	p.t.Helper()
	p.vanish()
	eventually(p.t, "no connection waits", func() bool {
		waiting := uint32(1)
		p.control(func(fd int) error {
			info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			if err == nil {
				waiting = info.Unacked // of a listener: those that were not accepted
			}
			return err
		})
		return waiting == 0 && p.open.Load() == 0
	})
	must(p.t, p.listener.Close()) // Shutdown would drop a request that has just been read
	<-p.done
	p.listener = nil
}

// comeBack ends vanish or refuse.
func (p *pod) comeBack() {
	p.t.Helper()
	if p.listener == nil {
		p.listen()
		return
	}
	p.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) })
}

func (p *pod) close() {
	if p.listener != nil {
		p.web.Close()
		<-p.done
	}
}

// load is a steady load on a.test: clients without a cookie, and with one.
type load struct {
	stop    func()
	mu      sync.Mutex
	failed  []string      // guarded by mu
	count   int           // guarded by mu
	slowest time.Duration // guarded by mu
	served  map[string]int
}

// answers returns what was answered since it was called last.
func (l *load) answers() (count int, failed []string, slowest time.Duration, served map[string]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	count, failed, slowest, served = l.count, l.failed, l.slowest, l.served
	l.count, l.failed, l.slowest, l.served = 0, nil, 0, map[string]int{}
	return count, failed, slowest, served
}

func (r *router) load(url string, clients int) *load {
	l := &load{served: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for n := range clients {
		client := r.client()
		if n%2 == 0 {
			client.Jar, _ = cookiejar.New(nil) // fails never
		}
		running.Go(func() {
			for ctx.Err() == nil {
				begun := time.Now()
				body, err := get(ctx, client, url)
				if ctx.Err() != nil {
					return
				}
				l.mu.Lock()
				l.count++
				l.slowest = max(l.slowest, time.Since(begun))
				if err != nil {
					l.failed = append(l.failed, err.Error())
				}
				l.served[body]++
				l.mu.Unlock()
				select {
				case <-time.After(5 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	l.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	r.t.Cleanup(l.stop)
	return l
}

// client connects to the router, whatever the host is, for each request.
func (r *router) client() *http.Client {
	dial := func(address string) func(context.Context, string, string) (net.Conn, error) {
		return func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: dial(r.http),
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&tls.Dialer{Config: &tls.Config{ServerName: "a.test", InsecureSkipVerify: true}}).DialContext(ctx, "tcp", r.https)
		},
	}}
}

func get(ctx context.Context, c *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", res.StatusCode)
	}
	return string(body), err
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until f is true, and returns how long that took.
func eventually(t testing.TB, what string, f func() bool) time.Duration {
	t.Helper()
	begun := time.Now()
	for !f() {
		if time.Since(begun) > 20*time.Second {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(begun)
}

// freePort finds a port below those that the system hands out to clients, so that nobody takes it by chance.
func freePort(t testing.TB) string {
	t.Helper()
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+mrand.N(22_000)))
		if err == nil {
			l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("there is no free port")
	return ""
}

// issue makes a certificate of its own.
func issue(t testing.TB) (chain, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a.test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	must(t, err)
	kd, err := x509.MarshalPKCS8PrivateKey(k)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd})
}
