package apply

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics is what an Applier counts.
type Metrics struct {
	Applies   *prometheus.CounterVec   // snapshots put into force, or tried, by method and result
	Duration  *prometheus.HistogramVec // seconds that it took, by method
	Fallbacks prometheus.Counter       // changes that were begun at run time and ended in a reload
	Reloads   prometheus.Counter       // reloads, those that HAProxy refused included
	Restarts  prometheus.Counter       // times that HAProxy had to be mended: it had ended, or ran something else
	Adoptions prometheus.Counter       // times that a running HAProxy was taken over without a reload
	Leaving   prometheus.Gauge         // servers that wait for their last connection to end
}

// NewMetrics makes the metrics, and registers them; with nil they are not registered.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "tsuji", Subsystem: "apply", Name: name, Help: help})
	}
	m := &Metrics{
		Applies: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "tsuji", Subsystem: "apply", Name: "snapshots_total",
			Help: "Snapshots that were to be put into force, by method (none, runtime, reload, start) and result (ok, failed).",
		}, []string{"method", "result"}),
		Duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "tsuji", Subsystem: "apply", Name: "duration_seconds",
			Help:    "Time from a snapshot's arrival until it was verified to be in force, by method.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"method"}),
		Fallbacks: counter("fallbacks_total", "Changes that could not be made at run time although they should, and cost a reload."),
		Reloads:   counter("reloads_total", "Reloads of HAProxy."),
		Restarts:  counter("restarts_total", "Attempts to mend a HAProxy that had ended or ran something else."),
		Adoptions: counter("adoptions_total", "Running HAProxys that were taken over without a reload."),
		Leaving: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "tsuji", Subsystem: "apply", Name: "draining_servers",
			Help: "Servers that take no new traffic and are deleted when their last connection ends.",
		}),
	}
	if r != nil {
		r.MustRegister(m.Applies, m.Duration, m.Fallbacks, m.Reloads, m.Restarts, m.Adoptions, m.Leaving)
	}
	return m
}

func (m *Metrics) applied(by method, err error, d time.Duration) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.Applies.WithLabelValues(string(by), result).Inc()
	if err == nil {
		m.Duration.WithLabelValues(string(by)).Observe(d.Seconds())
	}
}
