package subscribe

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are what a client counts.
type Metrics struct {
	Connected prometheus.Gauge       // 1 while there is a stream
	Streams   prometheus.Counter     // opened
	Responses prometheus.Counter     // received
	Resources prometheus.Counter     // received, commits included
	Staged    prometheus.Gauge       // bytes of a version that is not whole yet
	Acked     prometheus.Counter     // versions
	LastAck   prometheus.Gauge       // seconds since 1970
	Refused   *prometheus.CounterVec // versions, by class
	Resyncs   *prometheus.CounterVec // series that were thrown away, by reason
	Applying  prometheus.Histogram   // seconds from a whole version to its outcome
}

// NewMetrics makes metrics, and registers them if r is not nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	f := promauto.With(r)
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "tsuji", Subsystem: "subscribe", Name: name, Help: help}
	}
	counter := func(name, help string) prometheus.CounterOpts { return prometheus.CounterOpts(opts(name, help)) }
	gauge := func(name, help string) prometheus.GaugeOpts { return prometheus.GaugeOpts(opts(name, help)) }
	return &Metrics{
		Connected: f.NewGauge(gauge("connected", "Whether there is a stream from a control plane.")),
		Streams:   f.NewCounter(counter("streams_total", "Streams opened.")),
		Responses: f.NewCounter(counter("responses_total", "Responses received.")),
		Resources: f.NewCounter(counter("resources_total", "Resources received, commits included.")),
		Staged:    f.NewGauge(gauge("staged_bytes", "Bytes held of a version that is not whole yet.")),
		Acked:     f.NewCounter(counter("acked_total", "Versions acked: in force and verified.")),
		LastAck:   f.NewGauge(gauge("last_ack_timestamp_seconds", "When a version was acked last.")),
		Refused:   f.NewCounterVec(counter("refused_total", "Versions refused, by class."), []string{"class"}),
		Resyncs: f.NewCounterVec(counter("resyncs_total",
			"Versions thrown away because they did not make what they should, by reason; everything is asked for again."), []string{"reason"}),
		Applying: f.NewHistogram(prometheus.HistogramOpts{
			Namespace: "tsuji", Subsystem: "subscribe", Name: "applying_seconds",
			Help:    "From a whole version to its outcome.",
			Buckets: []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30},
		}),
	}
}
