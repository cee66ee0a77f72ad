package apply

import (
	"fmt"
	"strings"
)

// told is what was said last of what the machine does not allow.
type told struct {
	connections uint32
	unchecked   string
	slowed      string // namespaces
}

// tellLimits tells of what the Settings and Routes want and do not get: in the metrics always, in the log when it
// changes.
func (a *Applier) tellLimits() {
	r, m := a.cfg.Renderer, a.cfg.Metrics
	wanted, allowed := r.Connections()
	m.Connections.WithLabelValues("wanted").Set(float64(wanted))
	m.Connections.WithLabelValues("in_force").Set(float64(allowed))
	if now := wanted - allowed; now != a.told.connections {
		a.told.connections = now
		if now > 0 {
			a.cfg.Log.Warn("file descriptors allow fewer connections than are wanted: raise the limit of HAProxy (ulimit -n), or lower maxConnections",
				"wanted", wanted, "in_force", allowed)
		} else {
			a.cfg.Log.Info("file descriptors allow all connections that are wanted", "wanted", wanted)
		}
	}
	servers, checked, left := r.Checks()
	m.Checks.WithLabelValues("wanted").Set(float64(servers))
	m.Checks.WithLabelValues("in_force").Set(float64(checked))
	unchecked := ""
	if n := len(left); n > 0 {
		unchecked = fmt.Sprintf("%d: %s", n, strings.Join(left[:min(n, 20)], " "))
	}
	if unchecked != a.told.unchecked {
		a.told.unchecked = unchecked
		if unchecked != "" {
			a.cfg.Log.Warn("file descriptors do not allow all health checks: those of some routes are left out, and routerd probes what fails",
				"servers", servers, "checked", checked, "routes", unchecked)
		} else {
			a.cfg.Log.Info("file descriptors allow all health checks", "servers", servers)
		}
	}
	a.tellSlowed()
}

// tellSlowed tells of health checks that are made less often than Routes ask for.
func (a *Applier) tellSlowed() {
	servers, namespaces := a.cfg.Renderer.SlowedChecks()
	a.cfg.Metrics.Checks.WithLabelValues("slowed").Set(float64(servers))
	slowed := strings.Join(namespaces[:min(len(namespaces), 20)], " ")
	if slowed == a.told.slowed {
		return
	}
	a.told.slowed = slowed
	if slowed != "" {
		a.cfg.Log.Warn("routes of a namespace ask for more than 640 health checks a second: their intervals are doubled "+
			"until they are no more; ask for longer ones",
			"servers", servers, "namespaces", slowed)
	} else {
		a.cfg.Log.Info("health checks are made as often as routes ask for")
	}
}

// MostConnections returns how many connections the file descriptors allow; zero: that is not known. It is always the same.
func (a *Applier) MostConnections() uint32 { return a.cfg.Renderer.MostConnections() }
