package access

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/tsuji-dev/tsuji/controlplane/fair"
)

// Credentials are those of a server. Whoever does not get as far as a call, because of a certificate that is not known,
// over, denied, or not there, or because there are too many connections, is in the log too: gRPC tells nobody. The
// configuration is made with a function that the client's certificate has to be put to: see identity.Keeper.ServerTLS.
func (g *Guard) Credentials(config func(accept func(*x509.Certificate) error) *tls.Config) credentials.TransportCredentials {
	return &handshakes{TransportCredentials: credentials.NewTLS(config(g.denies)), guard: g}
}

// denies tells by an error that a certificate is denied.
func (g *Guard) denies(leaf *x509.Certificate) error {
	if g.config.Denied == nil {
		return nil
	}
	return g.config.Denied.Denies(leaf) //nolint:wrapcheck // it says all there is to say
}

// EndDenied ends the connections of peers that are denied by now, and with them their streams.
func (g *Guard) EndDenied() {
	for c, reason := range g.connections.end(g.denies) {
		g.config.Log.Warn("connection ended: its peer is denied", "address", c.raw.RemoteAddr().String(), "err", reason)
	}
}

// handshakes are the guard's credentials.
type handshakes struct {
	credentials.TransportCredentials
	guard *Guard
}

var (
	errUnproven = fmt.Errorf("more than %d connections of this host, or %d of all, have not shown a certificate yet, and this is the oldest",
		mostUnproven, mostAllUnproven)
	errCrowd = errors.New("its identity has too many connections: give each router a certificate of its own " +
		"(…/router/NAME), or deny it, if they are not your routers' (--denied-peers)")
)

// ServerHandshake does as gRPC's own, within bounds, and logs what goes wrong.
func (h *handshakes) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	address := raw.RemoteAddr().String()
	host := fair.HostOf(address)
	places, giveWay := h.guard.connections.places, func() {
		h.failed(host, address, errUnproven)
		_ = raw.Close()
	}
	ofHost := places.Push(unprovenPlace+host, host, mostUnproven, giveWay)
	ofAll := places.Push(unprovenPlace, host, mostAllUnproven, giveWay)
	conn, info, err := h.TransportCredentials.ServerHandshake(raw)
	ofHost.Leave()
	ofAll.Leave()
	if err != nil {
		h.failed(host, address, err)
		return conn, info, err //nolint:wrapcheck // gRPC looks at it
	}
	state, ok := info.(credentials.TLSInfo)
	if !ok || len(state.State.PeerCertificates) == 0 {
		return nil, nil, errNoCertificate
	}
	leaf := state.State.PeerCertificates[0]
	c, peer, ok := h.guard.connections.enter(conn, raw, leaf, h.guard.config.TrustDomain)
	if !ok {
		h.failed(peer, address, fmt.Errorf("%s: %w", peer, errCrowd))
		return nil, nil, errCrowd
	}
	c.refuse = func(err error) {
		h.guard.log.Warn(peer, "connection ended: no client of gRPC sends this", "address", address, "err", err)
	}
	if err := h.guard.denies(leaf); err != nil { // since it was verified
		h.failed(peer, address, err)
		return nil, nil, errors.Join(err, c.Close())
	}
	return c, info, nil
}

// Clone returns a copy that counts in the same place.
func (h *handshakes) Clone() credentials.TransportCredentials {
	return &handshakes{TransportCredentials: h.TransportCredentials.Clone(), guard: h.guard}
}

func (h *handshakes) failed(peer, address string, err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		// Somebody looked whether the port is open, or hung up.
		h.guard.config.Log.Debug("connection ended before its TLS handshake", "address", address, "err", err)
		return
	}
	h.guard.log.Warn(peer, "connection refused", "address", address, "err", err)
}
