package stats

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Router is the metrics of OpenShift's router about itself that its dashboards and alerts use. Its methods are for who
// writes HAProxy's files and reloads it.
type Router struct {
	reload, write prometheus.Summary
	failure       prometheus.Gauge
}

// NewRouter makes the metrics, and registers them; with nil they are not registered. The alert on
// template_router_reload_failure rests while nothing was reloaded.
func NewRouter(r prometheus.Registerer) *Router {
	const namespace = "template_router"
	m := &Router{
		reload: prometheus.NewSummary(prometheus.SummaryOpts{
			Namespace: namespace, Name: "reload_seconds", Help: "Seconds that a reload of HAProxy took, those that failed included.",
		}),
		write: prometheus.NewSummary(prometheus.SummaryOpts{
			Namespace: namespace, Name: "write_config_seconds", Help: "Seconds that writing HAProxy's files took.",
		}),
		failure: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: namespace, Name: "reload_failure", Help: "Whether the last reload of HAProxy failed, and no snapshot has come into force since: 1 or 0.",
		}),
	}
	if r != nil {
		r.MustRegister(m.reload, m.write, m.failure)
	}
	return m
}

// Reloaded counts a reload that took so long and ended so.
func (m *Router) Reloaded(took time.Duration, err error) {
	m.reload.Observe(took.Seconds())
	m.failure.Set(0)
	if err != nil {
		m.failure.Set(1)
	}
}

// Recovered says that HAProxy runs the newest snapshot without a reload: what an earlier reload failed for is over.
func (m *Router) Recovered() { m.failure.Set(0) }

// Wrote counts that HAProxy's files were written, which took so long.
func (m *Router) Wrote(took time.Duration) { m.write.Observe(took.Seconds()) }
