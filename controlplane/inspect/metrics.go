package inspect

import "github.com/prometheus/client_golang/prometheus"

// The metrics are what GetStatus and ListRouters answer, for those who are to be called when something is wrong. They
// have labels for zones and IngressControllers, and none for Routes or routers, of which there may be many.
func metrics() (synced, faults, routes, lastGood, routers, waiting *prometheus.Desc) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tsuji_"+name, help, labels, nil)
	}
	return desc("source_synced", "Whether the source was read whole; nothing is served before."),
		desc("source_faults", "What is wrong in the source now, held drops of Routes included: tsuji status tells what to do."),
		desc("routes", "Routes by verdict, those made of Ingresses included: admitted or refused.", "verdict"),
		desc("routes_last_good", "Admitted Routes that use a certificate or CA as it was last good: it has vanished, or is none."),
		desc("routers", "Routers that follow this replica, or did lately, by state: current, behind, refused (it refused a version, and has acked none since) or gone.",
			"ingress_controller", "zone", "state"),
		desc("waiting_resources", "Resources that are not sent yet as they should be: a large change is under way in pieces.", "ingress_controller")
}

// Describe sends the descriptions of the metrics: a Server is a prometheus.Collector.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	synced, faults, routes, lastGood, routers, waiting := metrics()
	for _, d := range []*prometheus.Desc{synced, faults, routes, lastGood, routers, waiting} {
		ch <- d
	}
}

// Collect sends the metrics.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	synced, faults, routes, lastGood, routers, waiting := metrics()
	gauge := func(d *prometheus.Desc, value int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), labels...)
	}
	type place struct{ ingressController, zone string }
	count := map[place]map[string]int{}
	all := s.routers()
	for _, r := range all {
		p := place{r.GetIngressController(), r.GetZone()}
		if count[p] == nil {
			// All of them, so that one that goes to 0 is seen to.
			count[p] = map[string]int{"current": 0, "behind": 0, "refused": 0, "gone": 0}
		}
		switch {
		case !r.GetConnected():
			count[p]["gone"]++
		case equal(r.GetAckedVersion(), r.GetTargetVersion()):
			count[p]["current"]++
		case r.GetRefusal() != nil:
			count[p]["refused"]++
		default:
			count[p]["behind"]++
		}
	}
	for p, states := range count {
		for state, n := range states {
			gauge(routers, n, p.ingressController, p.zone, state)
		}
	}
	for _, e := range s.c.Board.List() {
		if e.Current {
			gauge(waiting, e.Waiting, e.IngressController)
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	gauge(synced, index(s.synced))
	gauge(faults, len(s.allFaults(all)))
	gauge(routes, int(s.judged[index(true)]), "admitted")
	gauge(routes, int(s.judged[index(false)]), "refused")
	n := 0
	for _, v := range s.verdicts {
		if v.GetAdmitted() && len(v.GetLastGood()) > 0 {
			n++
		}
	}
	gauge(lastGood, n)
}
