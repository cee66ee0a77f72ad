package admin

import (
	"net"
	"net/http"
	"sync"
)

// maxConnections is how many connections an admin address has at once. Two Prometheus and the kubelet keep a few.
const maxConnections = 64

// connections bounds a server's connections. One more takes the place of the one that has been without a request for
// the longest, and where each has a request, of the one whose request began first: it may be one whose body never comes,
// or whose answer is not read. So who holds all connections shuts out no probe, which is answered at once.
type connections struct {
	mu      sync.Mutex
	turn    uint64
	waiting map[net.Conn]uint64 // without a request, since which turn; guarded by mu
	busy    map[net.Conn]uint64 // with one; guarded by mu
}

// changed follows a connection's states; it is http.Server's ConnState.
func (c *connections) changed(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting, c.busy = map[net.Conn]uint64{}, map[net.Conn]uint64{}
	}
	c.turn++
	switch state {
	case http.StateNew:
		if len(c.waiting)+len(c.busy) >= maxConnections && !closeOldest(c.waiting) {
			closeOldest(c.busy)
		}
		c.waiting[conn] = c.turn
	case http.StateIdle:
		if _, known := c.busy[conn]; known { // else it was closed to make room
			delete(c.busy, conn)
			c.waiting[conn] = c.turn
		}
	case http.StateActive:
		if _, known := c.waiting[conn]; known {
			delete(c.waiting, conn)
			c.busy[conn] = c.turn
		}
	case http.StateHijacked, http.StateClosed:
		delete(c.waiting, conn)
		delete(c.busy, conn)
	}
}

// closeOldest closes the connection that has been there for the longest, and tells whether there was one.
func closeOldest(conns map[net.Conn]uint64) bool {
	var oldest net.Conn
	for conn, since := range conns {
		if oldest == nil || since < conns[oldest] {
			oldest = conn
		}
	}
	if oldest == nil {
		return false
	}
	delete(conns, oldest)
	_ = oldest.Close() // its next state is StateClosed
	return true
}
