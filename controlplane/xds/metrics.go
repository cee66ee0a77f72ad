package xds

import "github.com/prometheus/client_golang/prometheus"

// Metrics count what the server does. They are a prometheus.Collector, which the caller registers.
type Metrics struct {
	streams   prometheus.Gauge
	ended     *prometheus.CounterVec
	responses prometheus.Counter
	resources prometheus.Counter
	removed   prometheus.Counter
	bytes     prometheus.Counter
	acks      prometheus.Counter
	nacks     *prometheus.CounterVec
	alone     prometheus.Counter
	stale     prometheus.Counter
	fullSyncs prometheus.Counter
	syncing   prometheus.Gauge
	syncWaits *prometheus.CounterVec
	lagging   prometheus.Gauge
	lagWaits  *prometheus.CounterVec
}

// NewMetrics makes the metrics of one server.
func NewMetrics() *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "tsuji", Subsystem: "xds", Name: name,
			Help: help})
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "tsuji", Subsystem: "xds", Name: name, Help: help}, []string{label})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "tsuji", Subsystem: "xds", Name: name, Help: help})
	}
	return &Metrics{
		streams:   gauge("streams", "Discovery streams open now."),
		ended:     counters("streams_ended_total", "Discovery streams that the server refused or ended, by reason.", "reason"),
		responses: counter("responses_total", "Responses sent: parts of versions."),
		resources: counter("resources_total", "Resources sent, commits not counted."),
		removed:   counter("removed_total", "Names of removed resources sent."),
		bytes:     counter("bytes_total", "Bytes of resources and names sent, commits not counted."),
		acks:      counter("acks_total", "Versions that routers said are in force, reconnects included."),
		nacks:     counters("nacks_total", "Versions that routers refused, by class.", "class"),
		alone:     counter("nacks_alone_total", "Versions that a router refused for content which another of its kind serves."),
		stale:     counter("stale_answers_total", "Requests that answered nothing that was on its way."),
		fullSyncs: counter("full_syncs_total", "Series that were sent whole, with no base."),
		syncing:   gauge("full_syncs_waiting", "Streams that wait now for their turn to be sent a whole series."),
		syncWaits: counters("full_sync_waits_total", "Whole series that waited for others, by how that ended.", "outcome"),
		lagging:   gauge("streams_lagging", "Streams that wait now for this replica to catch up with what their routers have."),
		lagWaits:  counters("lag_waits_total", "Streams that waited for this replica to catch up, by how that ended.", "outcome"),
	}
}

// Describe sends the descriptions of the metrics.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(ch)
	}
}

// Collect sends the metrics.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(ch)
	}
}

func (m *Metrics) all() []prometheus.Collector {
	return []prometheus.Collector{
		m.streams, m.ended, m.responses, m.resources, m.removed, m.bytes,
		m.acks, m.nacks, m.alone, m.stale, m.fullSyncs, m.syncing, m.syncWaits, m.lagging, m.lagWaits,
	}
}
