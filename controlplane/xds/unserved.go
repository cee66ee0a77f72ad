package xds

import (
	"sync"
	"time"
)

// tellEvery is how often routers that nobody has anything for are logged at the most: as many as there are may connect
// again and again.
const tellEvery = time.Second

// unserved logs routers whose IngressController is not served. They wait, and serve what they had.
type unserved struct {
	mu      sync.Mutex
	last    time.Time // guarded by mu; when one was logged
	skipped int       // guarded by mu; those since
}

func (u *unserved) tell(s *session, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if since := now.Sub(u.last); since >= 0 && since < tellEvery {
		u.skipped++
		return
	}
	s.server.config.Log.Warn("a router waits: there is no IngressController of that name, or it was deleted",
		"ingress_controller", s.view.IngressController, "router", s.name, "zone", s.view.Zone, "address", s.address, "skipped", u.skipped)
	u.last, u.skipped = now, 0
}
