package stats

import (
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A reload that fails raises the alert, and the next that succeeds ends it.
func TestRouter(t *testing.T) {
	r := prometheus.NewRegistry()
	m := NewRouter(r)
	e, err := New(Config{Socket: t.TempDir() + "/none.sock", Metrics: r})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, Exporter: e}
	w.want(w.metrics(), "haproxy_up", "0", "template_router_reload_failure", "0", "template_router_reload_seconds_count", "0")
	m.Wrote(2 * time.Second)
	m.Reloaded(time.Second, errors.New("refused"))
	w.want(w.metrics(), "template_router_reload_failure", "1", "template_router_write_config_seconds_sum", "2")
	m.Recovered()
	w.want(w.metrics(), "template_router_reload_failure", "0", "template_router_reload_seconds_count", "1")
	m.Reloaded(time.Second, errors.New("refused"))
	m.Reloaded(time.Second, nil)
	w.want(w.metrics(), "template_router_reload_failure", "0", "template_router_reload_seconds_count", "3", "template_router_reload_seconds_sum", "3")
}
