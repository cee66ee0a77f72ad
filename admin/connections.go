package admin

import (
	"net"
	"net/http"
	"sync"
)

// maxConnections is how many connections an admin address has at once. Two Prometheus and the kubelet keep a few.
const maxConnections = 64

// connections bounds a server's connections. One more takes the place of the one that has been without a request for
// the longest, so that who holds many idle ones shuts out no probe. Where each has a request, whose body may never come,
// the new one is closed.
type connections struct {
	mu      sync.Mutex
	turn    uint64
	waiting map[net.Conn]uint64 // without a request, since which turn; guarded by mu
	busy    map[net.Conn]bool   // with one; guarded by mu
}

// changed follows a connection's states; it is http.Server's ConnState.
func (c *connections) changed(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting, c.busy = map[net.Conn]uint64{}, map[net.Conn]bool{}
	}
	switch state {
	case http.StateNew:
		if len(c.waiting)+len(c.busy) >= maxConnections && !c.makeRoom() {
			_ = conn.Close() // its next state is StateClosed
		}
		c.wait(conn)
	case http.StateIdle:
		delete(c.busy, conn)
		c.wait(conn)
	case http.StateActive:
		if _, known := c.waiting[conn]; known { // else it was closed to make room
			delete(c.waiting, conn)
			c.busy[conn] = true
		}
	case http.StateHijacked, http.StateClosed:
		delete(c.waiting, conn)
		delete(c.busy, conn)
	}
}

// wait notes that a connection has no request. mu is held.
func (c *connections) wait(conn net.Conn) {
	c.turn++
	c.waiting[conn] = c.turn
}

// makeRoom closes the connection that has waited for the longest, if one waits. mu is held.
func (c *connections) makeRoom() bool {
	var oldest net.Conn
	for conn, since := range c.waiting {
		if oldest == nil || since < c.waiting[oldest] {
			oldest = conn
		}
	}
	if oldest == nil {
		return false
	}
	delete(c.waiting, oldest)
	_ = oldest.Close()
	return true
}
