package apply

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics is what an Applier counts.
type Metrics struct {
	Applies     *prometheus.CounterVec   // snapshots put into force, or tried, by method and result
	Duration    *prometheus.HistogramVec // seconds that it took, by method
	Fallbacks   prometheus.Counter       // changes that were begun at run time and ended in a reload
	Reloads     *prometheus.CounterVec   // reloads by reason, those that HAProxy refused included
	Held        prometheus.Counter       // resources that were to wait for a reload of their own: there were too many
	Workers     prometheus.Gauge         // workers of before reloads that still hold connections
	Restarts    prometheus.Counter       // times that HAProxy had to be mended: it had ended, or ran something else
	Adoptions   prometheus.Counter       // times that a running HAProxy was taken over without a reload
	Leaving     *prometheus.GaugeVec     // what waits in HAProxy for its last connection to end, by kind
	Checks      *prometheus.GaugeVec     // servers whose health Routes ask to be checked, and those that are: wanted, in_force, slowed
	Connections *prometheus.GaugeVec     // that the Settings want, and that file descriptors allow: wanted, in_force
	Suspended   prometheus.Gauge         // servers that are out of service because they are dead
	Repairs     *prometheus.CounterVec   // differences that were found in HAProxy and repaired, by kind

	Unrepaired *prometheus.GaugeVec // differences that a repair did not change, by kind

	Unread prometheus.Counter // answers of HAProxy's that could not be read

	Operations prometheus.Counter // commands that changes were made of, those that read back included
	Seconds    prometheus.Counter // that they took
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
		Reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "tsuji", Subsystem: "apply", Name: "reloads_total",
			Help: "Reloads of HAProxy, by reason: program (Settings or a new profile), release (HAProxy cannot do it at run time, or may not), cheaper (a large change), failure (of a change at run time), mend (HAProxy ran something else).",
		}, []string{"reason"}),
		Held: counter("reloads_held_total",
			"Routes and certificates that were put off because they need a reload and there were too many lately, each time."),
		Workers: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "tsuji", Subsystem: "apply", Name: "old_workers", Help: "Workers of HAProxy that a reload has replaced and that still hold connections.",
		}),
		Restarts:  counter("restarts_total", "Attempts to mend a HAProxy that had ended or ran something else."),
		Adoptions: counter("adoptions_total", "Running HAProxys that were taken over without a reload."),
		Leaving: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "tsuji", Subsystem: "apply", Name: "draining",
			Help: "What takes no new traffic and is deleted from HAProxy when its last connection ends, by kind: servers, backends, certificates.",
		}, []string{"kind"}),
		Checks: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "tsuji", Subsystem: "apply", Name: "checked_servers",
			Help: "Servers whose health Routes ask to be checked (wanted), and those that are (in_force): file descriptors may not allow all. " +
				"Of these, those that are checked less often than is asked for (slowed).",
		}, []string{"state"}),
		Connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "tsuji", Subsystem: "apply", Name: "max_connections",
			Help: "Connections that the IngressController allows (wanted), and as many of them as file descriptors allow (in_force).",
		}, []string{"state"}),
		Suspended: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "tsuji", Subsystem: "apply", Name: "suspended_servers", Help: "Servers that are out of service because they are dead.",
		}),
		Repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "tsuji", Subsystem: "apply", Name: "repairs_total",
			Help: "Differences between HAProxy and what it should run that were found, and repaired, by kind: entry (of a map), backend, server, certificate, ca, line (of the crt-list), frontend.",
		}, []string{"kind"}),
		Unrepaired: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "tsuji", Subsystem: "apply", Name: "unrepaired",
			Help: "Differences between HAProxy and what it should run that a repair did not change, by kind as in repairs_total. The log names them. They are tried again ever more seldom.",
		}, []string{"kind"}),
		Unread:     counter("unread_answers_total", "Answers of HAProxy's about a certificate that could not be read: it is taken to have what it said that it has put into use."),
		Operations: counter("operations_total", "Commands that changes at run time were made of, those that read back included."),
		Seconds:    counter("operations_seconds_total", "Time that changes at run time took."),
	}
	for _, why := range reasons {
		m.Reloads.WithLabelValues(string(why)) // that there was none is a fact as well
	}
	for _, kind := range driftKinds {
		m.Repairs.WithLabelValues(kind)
		m.Unrepaired.WithLabelValues(kind)
	}
	if r != nil {
		r.MustRegister(m.Applies, m.Duration, m.Fallbacks, m.Reloads, m.Held, m.Workers, m.Restarts, m.Adoptions, m.Leaving, m.Checks, m.Connections, m.Suspended, m.Repairs, m.Unrepaired, m.Unread, m.Operations, m.Seconds)
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

func (m *Metrics) online(operations int, d time.Duration) {
	m.Operations.Add(float64(operations))
	m.Seconds.Add(d.Seconds())
}
