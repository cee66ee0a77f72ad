package access

import (
	"crypto/x509"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/fair"
	"github.com/tsuji-dev/tsuji/identity"
)

// How many connections there may be. A router and a tool have one each; those that are lost without a word are noticed
// within a minute, and more may be made meanwhile.
const (
	mostShared      = 512  // of an identity that the routers of a zone share
	mostOwn         = 16   // of any other identity
	mostUnknown     = 16   // of all together whose certificates have no identity
	mostUnproven    = 256  // of a host, which have not shown a certificate yet
	mostAllUnproven = 2048 // of all hosts, which have not
	unknownPeer     = "no identity"
	unprovenPlace   = "handshake "
	callPlace       = "call "
)

// connections are those that are open, with the certificates that they were made with.
type connections struct {
	places *fair.Places

	mu   sync.Mutex
	open map[*connection]struct{} // guarded by mu
}

// connection is one that is open.
type connection struct {
	net.Conn
	raw    net.Conn // below TLS
	leaf   *x509.Certificate
	of     *connections
	place  *fair.Place
	frames frames      // what its peer sends; its reader's own
	refuse func(error) // is told why nothing more is read
}

func newConnections() *connections {
	return &connections{places: fair.NewPlaces(), open: map[*connection]struct{}{}}
}

// Read returns what the peer sends, while that is what gRPC's clients send.
func (c *connection) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if odd := c.frames.take(b[:n], time.Now()); odd != nil {
		c.refuse(odd)
		return 0, errors.Join(odd, c.Close())
	}
	return n, err //nolint:wrapcheck // it is a net.Conn
}

// Close closes the connection, which may be called more than once.
func (c *connection) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	c.place.Leave()
	return c.Conn.Close() //nolint:wrapcheck // it is a net.Conn
}

// enter takes a place for a connection; false: its identity has as many as it may. The oldest connection of the host
// with most of them ends if the newcomer's has fewer.
func (cs *connections) enter(conn, raw net.Conn, leaf *x509.Certificate,
	trustDomain string) (c *connection, peer string, ok bool) {
	peer, most := unknownPeer, mostUnknown
	if id, err := identity.FromCertificate(leaf, trustDomain); err == nil {
		peer, most = id.String(), mostOwn
		if id.Role == identity.RoleRouter && id.Name == "" {
			most = mostShared
		}
	}
	c = &connection{Conn: conn, raw: raw, leaf: leaf, of: cs}
	// Without a farewell: a peer that does not read would hold it up.
	c.place, ok = cs.places.Enter(peer, fair.HostOf(raw.RemoteAddr().String()), most, func() { _ = raw.Close() })
	if !ok {
		return nil, peer, false
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.open[c] = struct{}{}
	return c, peer, true
}

// end closes those whose certificates are refused, and returns why.
func (cs *connections) end(refuse func(*x509.Certificate) error) (reasons map[*connection]error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	reasons = map[*connection]error{}
	for c := range cs.open {
		if err := refuse(c.leaf); err != nil {
			reasons[c] = err
			_ = c.raw.Close() // gRPC notices, and closes the rest
		}
	}
	return reasons
}
