package controlplane

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"

	"github.com/tsuji-dev/tsuji/admin"
	"github.com/tsuji-dev/tsuji/identity"
)

// checkListen tells what is wrong with the address of a flag.
func checkListen(flag, address string) error {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if path == "" {
			return fmt.Errorf("%s=%s: want unix:PATH", flag, address)
		}
		return nil
	}
	if _, err := strconv.ParseUint(address, 10, 16); err == nil {
		return fmt.Errorf("%s=%s: want HOST:PORT, as in %s=:%s", flag, address, flag, address)
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("%s=%s: want HOST:PORT, as in %s=127.0.0.1:9400: %w", flag, address, flag, err)
	}
	return nil
}

// listen opens HOST:PORT, or unix:PATH for its owner only, in the place of a socket that a predecessor left. The
// errors name the flag that the address is from.
func listen(ctx context.Context, flag, address string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			return nil, fmt.Errorf("%s=%s: another process listens there: end it, or give %s another address: %w", flag, address, flag, err)
		case err != nil:
			return nil, fmt.Errorf("%s=%s: %w", flag, address, err)
		}
		return l, nil
	}
	l, err := admin.ListenUnix(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("%s=%s: %w", flag, address, err)
	}
	return l, nil
}

// checkCertificate logs why routers and operators would turn this control plane away, as far as that can be seen from
// here. That is no reason to end: the files may be replaced. A certificate with DNS names only is for routers that
// were given one of these (routerd --control-plane-name).
func (c Config) checkCertificate(cert *x509.Certificate) {
	if len(cert.URIs) == 0 && len(cert.DNSNames) > 0 {
		return
	}
	id, err := identity.FromCertificate(cert, c.TrustDomain)
	switch {
	case err != nil:
		err = fmt.Errorf("%w (--trust-domain=%s): correct --trust-domain, or give --tls-cert a certificate for spiffe://%s/controlplane/NAME", err, c.TrustDomain, c.TrustDomain)
	case id.Role != identity.RoleControlPlane:
		err = fmt.Errorf("the certificate is for %s, which is no control plane: give --tls-cert one for spiffe://%s/controlplane/NAME", id, c.TrustDomain)
	default:
		return
	}
	c.Log.Error("routers and operators will turn this control plane away", "certificate", c.TLS.Cert, "error", err)
}
