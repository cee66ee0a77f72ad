package health_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/health"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
	"github.com/tsuji-dev/tsuji/test/podtest"
)

// TestMain lets twice as many stories run at a time as there are cores, if nothing else was asked for: what they do most is
// to wait for an endpoint that is gone.
func TestMain(m *testing.M) {
	flag.Parse()
	const parallel = "test.parallel"
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == parallel })
	if !asked {
		if err := flag.Set(parallel, strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

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
	logger := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		logger = slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return newRouterThatLogs(t, binary, logger)
}

func newRouterThatLogs(t testing.TB, binary string, logger *slog.Logger) *router {
	t.Helper()
	dir, err := os.MkdirTemp("", "tj")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	process, err := haproxy.New(haproxy.Config{Binary: binary, Dir: dir, Log: logger, StartTimeout: 30 * time.Second, TieToParent: true})
	must(t, err)
	r := &router{t: t, process: process, http: haproxytest.FreeAddress(t), https: haproxytest.FreeAddress(t), metrics: health.NewMetrics(nil)}
	chain, key := issue(t)
	o := render.Options{HTTP: []string{r.http}, HTTPS: []string{r.https}, Stats: []string{haproxytest.FreeAddress(t)}, DefaultCertificate: append(chain, key...), FileDescriptors: 2000}
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

// settled waits until no request is under way to servers that are out of service.
func (r *router) settled(pods ...*pod) {
	r.t.Helper()
	for _, p := range pods {
		podtest.Eventually(r.t, "nothing is under way to "+p.Name, func() bool {
			s := r.stats(p)
			return s.Status == "MAINT" && s.Sessions == 0
		})
	}
}

// pod is an endpoint of route ns/a.
type pod struct {
	*podtest.Pod
	backend string
}

func newPod(t testing.TB, name, backend string, config *tls.Config) *pod {
	t.Helper()
	return &pod{podtest.New(t, name, haproxytest.FreeAddress(t), config), backend}
}

func (p *pod) server() string {
	return fmt.Sprintf("pod:%s:a:http:%s:%d", p.Name, p.Address.Addr(), p.Address.Port())
}

func (p *pod) endpoint() *tsujiv1.Endpoint {
	return &tsujiv1.Endpoint{
		Address: p.Address.Addr().String(), Port: uint32(p.Address.Port()), PortName: "http", Ready: true, Serving: true,
		TargetKind: "Pod", TargetName: p.Name,
	}
}

// load asks for a.test all the time.
func (r *router) load(t testing.TB, termination tsujiv1.Termination, clients int) *podtest.Load {
	if termination == tsujiv1.Termination_TERMINATION_INSECURE {
		return podtest.NewLoad(t, "http://a.test/", r.http, clients)
	}
	return podtest.NewLoad(t, "https://a.test/", r.https, clients)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
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
