package admin

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxConnections is how many connections an admin address has at once. Two Prometheus and the kubelet keep a few.
	maxConnections = 64
	// maxMetrics is how many requests for metrics are under way at once. Those of connections that have ended go on
	// until they notice, so it is more than there are connections.
	maxMetrics = 2 * maxConnections
)

// connections bounds a server's connections. One more takes the place of another, of the host that has most of them:
// a flood from elsewhere ends neither a probe nor what Prometheus reads. Of one host's, idle ones and those with a
// request give way by turns, whichever are more, the oldest first: who is slow with a header, a body or reading ends
// no idle connection, who opens many and says nothing ends no long answer, and who asks and reads at once is done
// before its turn comes.
type connections struct {
	mu   sync.Mutex
	turn uint64
	open map[net.Conn]held // at most maxConnections; guarded by mu
}

// held is what is known of a connection.
type held struct {
	host  netip.Prefix
	busy  bool   // it has a request, whose body, or whose answer's reader, may never come
	since uint64 // the turn at which it became so
}

// changed follows a connection's states; it is http.Server's ConnState.
func (c *connections) changed(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn++
	switch state {
	case http.StateNew:
		if c.open == nil {
			c.open = map[net.Conn]held{}
		}
		host := hostOf(conn.RemoteAddr())
		if len(c.open) >= maxConnections {
			c.makeRoom(host)
		}
		c.open[conn] = held{host: host, since: c.turn}
	case http.StateIdle, http.StateActive:
		if h, known := c.open[conn]; known { // else it was closed to make room
			c.open[conn] = held{host: h.host, busy: state == http.StateActive, since: c.turn}
		}
	case http.StateHijacked, http.StateClosed:
		delete(c.open, conn)
	}
}

// makeRoom closes a connection for one from a host. mu is held.
func (c *connections) makeRoom(newcomer netip.Prefix) {
	of := map[netip.Prefix]int{newcomer: 1}
	most := 1
	for _, h := range c.open {
		of[h.host]++
		most = max(most, of[h.host])
	}
	// The oldest of each kind, among the hosts with most. One of them has a connection: where the newcomer's has none,
	// others have as many as its first.
	var oldest [2]net.Conn
	var count [2]int
	for conn, h := range c.open {
		if of[h.host] < most {
			continue
		}
		kind := 0
		if h.busy {
			kind = 1
		}
		count[kind]++
		if oldest[kind] == nil || h.since < c.open[oldest[kind]].since {
			oldest[kind] = conn
		}
	}
	victim := oldest[0]
	if count[1] > count[0] {
		victim = oldest[1]
	}
	delete(c.open, victim)
	_ = victim.Close() // its next state is StateClosed
}

// hostOf returns the network that one machine has all addresses of: an IPv4 address, or 64 bits of IPv6. All that
// connect to a unix socket are one.
func hostOf(address net.Addr) netip.Prefix {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap()
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	return netip.PrefixFrom(ip, bits).Masked()
}

// withoutBodies answers as h does, and waits for no body that a request announces: nothing here reads one.
func withoutBodies(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// The server reads what is left of a body when it has answered. That now ends with what has come.
			w.Header().Set("Connection", "close")
			_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
		}
		h.ServeHTTP(w, r)
	})
}

// bounded answers 503 where too many requests are under way.
func bounded(h http.Handler) http.Handler {
	underWay := make(chan struct{}, maxMetrics)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case underWay <- struct{}{}:
			defer func() { <-underWay }()
			h.ServeHTTP(w, r)
		default:
			http.Error(w, "too many requests for metrics are under way", http.StatusServiceUnavailable)
		}
	})
}
