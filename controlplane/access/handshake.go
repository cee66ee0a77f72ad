package access

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// logEvery is how often a failed handshake is logged at the most: strangers must not be able to fill the log.
const logEvery = time.Second

// Credentials are those of a server with this configuration. Whoever does not get as far as a call, because of
// a certificate that is not known, over, or not there, is in the log too: gRPC tells nobody.
func Credentials(config *tls.Config, log *slog.Logger) credentials.TransportCredentials {
	return newHandshakes(config, log, time.Now)
}

func newHandshakes(config *tls.Config, log *slog.Logger, now func() time.Time) *handshakes {
	return &handshakes{TransportCredentials: credentials.NewTLS(config), log: log, now: now, state: &handshakeLog{}}
}

type handshakes struct {
	credentials.TransportCredentials
	log   *slog.Logger
	now   func() time.Time
	state *handshakeLog // of all clones
}

type handshakeLog struct {
	mu      sync.Mutex
	last    time.Time // guarded by mu; when a failure was logged
	skipped int       // guarded by mu; failures since
}

// ServerHandshake does as gRPC's own, and logs what goes wrong.
func (h *handshakes) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := h.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		h.failed(raw.RemoteAddr().String(), err)
	}
	return conn, info, err //nolint:wrapcheck // gRPC looks at it
}

// Clone returns a copy that logs in the same place.
func (h *handshakes) Clone() credentials.TransportCredentials {
	c := *h
	c.TransportCredentials = h.TransportCredentials.Clone()
	return &c
}

func (h *handshakes) failed(address string, err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		// Somebody looked whether the port is open, or hung up.
		h.log.Debug("connection ended before its TLS handshake", "address", address, "err", err)
		return
	}
	s := h.state
	s.mu.Lock()
	defer s.mu.Unlock()
	now := h.now()
	if since := now.Sub(s.last); since >= 0 && since < logEvery {
		s.skipped++
		return
	}
	h.log.Warn("connection refused: TLS handshake failed", "address", address, "err", err, "skipped", s.skipped)
	s.last, s.skipped = now, 0
}
