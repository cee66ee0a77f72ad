package stats

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// long is an interval that does not end within a test: HAProxy is read once, and when Record says so.
const long = time.Hour

// Requests go through routes of every termination; their numbers appear with OpenShift's names and labels; a backend and its
// predecessor are one; a reload sets nothing back; a route that is gone is forgotten.
func TestStory(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, binary string) {
		answer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
		t.Cleanup(answer.Close)
		address := strings.TrimPrefix(answer.URL, "http://")
		routes := strings.ReplaceAll(`
backend be_http:shop:cart from d
  server pod:cart-1:cart:http:ADDRESS ADDRESS weight 1
  server ept:cart:http:192.0.2.1:80 192.0.2.1:80 weight 1 disabled
backend be_http:shop:cart:2 from d
  server pod:cart-1:cart:http:ADDRESS ADDRESS weight 1
backend be_edge_http:shop:pay from d
  server pod:pay-1:pay::ADDRESS ADDRESS weight 1
backend be_secure:bank:a.b from d
  server ept:a::192.0.2.1:443 192.0.2.1:443 disabled
backend be_secure:bank:none from d
backend be_tcp:db:sql from d
  mode tcp
  server pod:sql-0:sql:tcp:2001:db8::1:5432 [2001:db8::1]:5432 weight 1
`, "ADDRESS", address)
		w := start(t, binary, Config{Interval: long, Metrics: own()}, routes)
		call := func(n int, path string, want int) {
			t.Helper()
			for range n {
				if status, _ := w.get(w.http, path); status != want {
					t.Fatalf("GET %s: %d, want %d", path, status, want)
				}
			}
		}
		call(3, "/be_http:shop:cart", 418)
		call(2, "/be_http:shop:cart:2", 418)
		call(1, "/be_edge_http:shop:pay", 418)
		call(1, "/elsewhere", 503)

		cart := `{backend="http",namespace="shop",route="cart"`
		pod := `{server="` + address + `",namespace="shop",route="cart",pod="cart-1",service="cart"`
		w.want(w.metrics(),
			"haproxy_up", "1", "haproxy_max_connections", "777", "haproxy_exporter_total_scrapes", "1", "haproxy_exporter_csv_parse_failures", "0",
			`haproxy_exporter_server_threshold{type="current"}`, "7", `haproxy_exporter_server_threshold{type="limit"}`, "500",
			`haproxy_frontend_connections_total{frontend="public"}`, "7", `haproxy_frontend_http_responses_total{frontend="public",code="4xx"}`, "6",
			"haproxy_backend_connections_total"+cart+"}", "5", "haproxy_backend_http_responses_total"+cart+`,code="4xx"}`, "5",
			"haproxy_backend_max_sessions"+cart+"}", "1", "haproxy_backend_up"+cart+"}", "1",
			`haproxy_backend_connections_total{backend="https-edge",namespace="shop",route="pay"}`, "1",
			`haproxy_backend_up{backend="https",namespace="bank",route="a.b"}`, "0",
			`haproxy_backend_up{backend="https",namespace="bank",route="none"}`, "1", // without servers HAProxy calls it up
			`haproxy_backend_up{backend="tcp",namespace="db",route="sql"}`, "1",
			`haproxy_backend_http_responses_total{backend="tcp",namespace="db",route="sql",code="2xx"}`, "-",
			`haproxy_backend_connections_total{backend="other/openshift_default",namespace="",route=""}`, "1",
			"haproxy_server_connections_total"+pod+"}", "5", "haproxy_server_up"+pod+"}", "1",
			`haproxy_server_up{server="192.0.2.1:80",namespace="shop",route="cart",pod="",service="cart"}`, "0",
			`haproxy_server_up{server="2001:db8::1:5432",namespace="db",route="sql",pod="sql-0",service="sql"}`, "1",
			"tsuji_test", "42",
		)

		call(1, "/be_http:shop:cart", 418)
		w.want(w.metrics(), "haproxy_exporter_total_scrapes", "1", "haproxy_backend_connections_total"+cart+"}", "5") // as read before
		w.Record(t.Context())
		w.reload()
		w.Record(t.Context())
		w.want(w.metrics(), "haproxy_backend_connections_total"+cart+"}", "6", "haproxy_server_connections_total"+pod+"}", "6",
			`haproxy_frontend_connections_total{frontend="public"}`, "8", "haproxy_exporter_total_scrapes", "3")

		// The predecessor goes; what it had counted stays.
		call(4, "/be_http:shop:cart:2", 418)
		w.Record(t.Context())
		_, rest, _ := strings.Cut(routes, "backend be_http:shop:cart:2")
		w.configure("\nbackend be_http:shop:cart:2" + rest)
		w.reload()
		call(1, "/be_http:shop:cart:2", 418)
		w.Record(t.Context())
		w.want(w.metrics(), "haproxy_backend_connections_total"+cart+"}", "11")

		// All routes go, and come back with nothing.
		w.configure("")
		w.reload()
		w.Record(t.Context())
		w.want(w.metrics(), "haproxy_backend_connections_total"+cart+"}", "-", "haproxy_server_up"+pod+"}", "-")
		w.configure(routes)
		w.reload()
		w.Record(t.Context())
		w.want(w.metrics(), "haproxy_backend_connections_total"+cart+"}", "0")

		// HAProxy ends: nothing that is not true any more is shown.
		w.process.Kill()
		w.Record(t.Context())
		w.want(w.metrics(), "haproxy_up", "0", "haproxy_backend_connections_total"+cart+"}", "-", "tsuji_test", "42")
	})
}

// The stats address answers what routerd answers; without routerd 503, and all else as before.
func TestThroughHAProxy(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, binary string) {
		w := start(t, binary, Config{Interval: long, Metrics: own()}, "")
		check := func(want int) string {
			t.Helper()
			status, text := w.get(w.stats, "/metrics")
			if status != want {
				t.Fatalf("GET /metrics: %d, want %d", status, want)
			}
			if status, _ := w.get(w.stats, "/healthz"); status != http.StatusOK {
				t.Fatalf("GET /healthz: %d, want 200", status)
			}
			return text
		}
		check(http.StatusServiceUnavailable)
		for range 2 { // the second takes over the socket that the first has left
			stop := w.listen()
			got := parse(t, check(http.StatusOK))
			w.want(got, "haproxy_up", "1", "tsuji_test", "42", `haproxy_frontend_current_sessions{frontend="stats"}`, "1")
			if got["haproxy_process_start_time_seconds"] == "" {
				t.Error("there is nothing about HAProxy's process")
			}
			stop()
			check(http.StatusServiceUnavailable)
		}
		if status, _ := w.get(w.stats, "/metrics/x"); status != http.StatusNotFound {
			t.Errorf("GET /metrics/x: %d, want 404", status)
		}
		if os.Geteuid() != 0 {
			return
		}
		info, err := os.Stat(w.dir + "/run/jail/metrics.sock")
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the socket: %v, %v; want mode 0600", info.Mode(), err)
		}
	})
}

// Servers are shown up to the threshold, and not asked for above it, whether they take traffic or not.
func TestServerThreshold(t *testing.T) {
	backends := "backend be_http:a:b from d\n  server pod:p:s:http:192.0.2.1:80 192.0.2.1:80\n  server pod:q:s:http:192.0.2.2:80 192.0.2.2:80 disabled\n"
	pod := `haproxy_server_up{server="192.0.2.1:80",namespace="a",route="b",pod="p",service="s"}`
	for _, c := range []struct {
		threshold     int
		pod, current  string
		limit, reason string
	}{
		{3, "1", "3", "3", "the two and the metrics' own"},
		{2, "-", "2", "2", "those that take traffic are two"},
		{1, "-", "2", "1", "there are more that take traffic"},
		{-1, "-", "2", "0", "there are never any"},
	} {
		w := start(t, haproxytest.Binary(t), Config{Interval: long, ServerThreshold: c.threshold}, backends)
		got := w.metrics()
		w.want(got, pod, c.pod, `haproxy_exporter_server_threshold{type="current"}`, c.current,
			`haproxy_exporter_server_threshold{type="limit"}`, c.limit, `haproxy_backend_up{backend="http",namespace="a",route="b"}`, "1")
		if t.Failed() {
			t.Fatal(c.reason)
		}
		w.process.Kill()
	}
}

// Who takes gzip gets one file with the same text as who does not.
func TestEncodings(t *testing.T) {
	w := start(t, haproxytest.Binary(t), Config{Interval: long, Metrics: own()}, "")
	filter := func(text string) string { // what the process uses changes from one time to the next
		var b strings.Builder
		for line := range strings.Lines(text) {
			if !strings.Contains(line, "haproxy_process_") {
				b.WriteString(line)
			}
		}
		return b.String()
	}
	plain := filter(ask(t, w.Exporter, ""))
	if !strings.Contains(plain, "haproxy_frontend_bytes_in_total{") || !strings.Contains(plain, "tsuji_test") {
		t.Fatalf("metrics are missing in\n%s", plain)
	}
	for _, encoding := range []string{"gzip", "deflate, GZIP;q=0.5", "gzip;q=0", "identity"} {
		if got := filter(ask(t, w.Exporter, encoding)); got != plain {
			t.Errorf("Accept-Encoding %q: %d bytes that differ from the %d without", encoding, len(got), len(plain))
		}
	}
}
