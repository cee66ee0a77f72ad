package stats

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is an HAProxy and an Exporter of it.
type world struct {
	t       testing.TB
	dir     string
	process *haproxy.Process
	*Exporter
	http, stats string // addresses
}

// program is a configuration with a path for each backend: /be_http:shop:cart leads to the backend of that name.
// Its stats frontend is as render writes it.
const program = `global
  nbthread 1
  stats socket unix@run/admin.sock mode 600 level admin expose-fd listeners
  hard-stop-after 5s
  maxconn 777
USER
defaults d
  mode http
  timeout client 10s
  timeout server 10s
  timeout connect 2s
frontend public from d
  bind HTTP
  http-request return status 200 if { path /own }
  use_backend %[path,bytes(1)]
  default_backend openshift_default
frontend stats from d
  bind STATS
  http-request return status 200 content-type text/plain string ok if { path /healthz }
  http-request use-service prometheus-exporter if { path /prometheus }
  http-request return status 404 content-type text/plain string 'not found' unless { path /metrics }
  http-request return status 405 content-type text/plain string 'method not allowed' unless { method GET }
  default_backend be_routerd_metrics
backend be_routerd_metrics from d
  timeout connect 1s
  timeout server 30s
  timeout queue 5s
  retries 0
  server routerd SOCKET maxconn 4
backend openshift_default from d
`

// start starts HAProxy with the backends, in its jail when that can be.
func start(t testing.TB, binary string, c Config, backends string) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "tj")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p, err := haproxy.New(haproxy.Config{Binary: binary, Dir: dir, TieToParent: true, StartTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill(); p.Close() })
	w := &world{t: t, dir: dir, process: p, http: haproxytest.FreeAddress(t), stats: haproxytest.FreeAddress(t)}
	w.configure(backends)
	if _, err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Socket = filepath.Join(dir, haproxy.AdminSocket)
	c.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	if w.Exporter, err = New(c); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) configure(backends string) {
	w.t.Helper()
	user, socket := "", "unix@run/metrics.sock"
	if os.Geteuid() == 0 {
		user, socket = "  chroot run/jail\n  uid 65534\n  gid 65534", "unix@/metrics.sock"
	}
	text := strings.NewReplacer("HTTP", w.http, "STATS", w.stats, "USER", user, "SOCKET", socket).Replace(program)
	if err := os.WriteFile(filepath.Join(w.dir, haproxy.ConfigFile), []byte(text+backends), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// listen serves the exporter where HAProxy looks for it.
func (w *world) listen() (stop func()) {
	w.t.Helper()
	path, user, group := filepath.Join(w.dir, haproxy.RunDir, "metrics.sock"), os.Geteuid(), os.Getegid()
	if user == 0 {
		path, user, group = filepath.Join(w.dir, haproxy.JailDir, "metrics.sock"), 65534, 65534
	}
	l, err := Listen(w.t.Context(), path, 0o600, user, group)
	if err != nil {
		w.t.Fatal(err)
	}
	srv := &http.Server{Handler: w.Exporter}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // until it is closed
	}()
	return func() {
		_ = srv.Close()
		<-done
	}
}

// reload reloads HAProxy, so that another worker serves.
func (w *world) reload() {
	w.t.Helper()
	rt, err := w.process.Reload(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	rt.Close()
}

// get asks HAProxy on a connection of its own.
func (w *world) get(address, path string) (int, string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s%s", address, path), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Close = true
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return a.StatusCode, string(body)
}

// metrics returns what the exporter answers itself, by name and labels.
func (w *world) metrics() map[string]string {
	w.t.Helper()
	return parse(w.t, ask(w.t, w.Exporter, ""))
}

// ask asks a handler, as one that takes the encoding.
func ask(t testing.TB, h http.Handler, encoding string) string {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	if encoding != "" {
		r.Header.Set("Accept-Encoding", encoding)
	}
	a := httptest.NewRecorder()
	h.ServeHTTP(a, r)
	body := io.Reader(a.Body)
	if a.Header().Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(body)
		if err != nil {
			t.Fatal(err)
		}
		z.Multistream(false) // not everyone reads a second file
		body = z
	}
	text, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// parse reads the text format, strictly as to series that are there twice.
func parse(t testing.TB, text string) map[string]string {
	t.Helper()
	got := map[string]string{}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		if i < 0 {
			t.Fatalf("%q is not a sample", line)
		}
		if _, twice := got[line[:i]]; twice {
			t.Errorf("%s is there twice", line[:i])
		}
		got[line[:i]] = strings.TrimSpace(line[i:])
	}
	return got
}

// want compares some samples; "-" says that there is none.
func (w *world) want(got map[string]string, samples ...string) {
	w.t.Helper()
	for i := 0; i < len(samples); i += 2 {
		have, ok := got[samples[i]]
		if !ok {
			have = "-"
		}
		if have != samples[i+1] {
			w.t.Errorf("%s: %s, want %s", samples[i], have, samples[i+1])
		}
	}
}

// own is a registry of the program's.
func own() prometheus.Gatherer {
	r := prometheus.NewRegistry()
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "tsuji_test", Help: "h"})
	g.Set(42)
	r.MustRegister(g)
	return r
}
