package quarantine

import "github.com/prometheus/client_golang/prometheus"

// The metrics tell how much is held of each IngressController that has, or had, routers.
func held() *prometheus.Desc {
	return prometheus.NewDesc("tsuji_quarantined", "Resources that routers refuse: what was last good is served in their place, or nothing.",
		[]string{"ingress_controller"}, nil)
}

func heldNamespaces() *prometheus.Desc {
	return prometheus.NewDesc("tsuji_quarantined_namespaces", "Namespaces whose changes all wait, because routers refused too many of their resources.",
		[]string{"ingress_controller"}, nil)
}

// Describe sends the descriptions of the metrics: a Registry is a prometheus.Collector.
func (r *Registry) Describe(ch chan<- *prometheus.Desc) {
	ch <- held()
	ch <- heldNamespaces()
}

// Collect sends the metrics, as of the last time that it was asked what is held.
func (r *Registry) Collect(ch chan<- prometheus.Metric) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, c := range r.controllers {
		ch <- prometheus.MustNewConstMetric(held(), prometheus.GaugeValue, float64(len(c.entries)), name)
		ch <- prometheus.MustNewConstMetric(heldNamespaces(), prometheus.GaugeValue, float64(c.frozenNow), name)
	}
}
