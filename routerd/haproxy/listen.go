package haproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Address is an address that haproxy.cfg binds.
type Address struct {
	Flag    string // where it is from: "--http"
	Address string // "127.0.0.1:80", "[::1]:80", ":80" (every IPv4 address); "unix:PATH" is not looked at
}

// leftTime is how long the workers of a master that was killed may take to end, and a little more.
const leftTime = time.Second

// warnShared logs which of the addresses another process has bound as well: HAProxy sets SO_REUSEPORT, so that it would
// share them in silence. That is no error, because a router hands over to another one of the same host that way.
// Workers of an earlier life of this HAProxy may still be about to end: they are waited for. Nothing listens on what is
// tried, so that no connection is lost. mu is held.
func (p *Process) warnShared(ctx context.Context) {
	if slices.ContainsFunc(p.left, (*master).alive) {
		return // they stop listening, and a successor must not wait for that
	}
	var wait <-chan time.Time
	for _, a := range p.cfg.Listen {
		for shared(a) {
			if wait == nil {
				wait = time.After(leftTime)
			}
			select {
			case <-wait:
				wait = closedTime()
				p.cfg.Log.Warn("another process has bound an address of this router as well, and connections are shared with it: end it, unless one of the two takes over from the other, or give this router another address",
					"flag", a.Flag, "address", a.Address)
			case <-ctx.Done():
				return
			case <-time.After(5 * time.Millisecond):
				continue
			}
			break
		}
	}
}

// closedTime returns a channel that is always ready.
func closedTime() <-chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}

// shared tells whether another process has bound the address in a way that it can be bound once more.
func shared(a Address) bool {
	return errors.Is(tryBind(a.Address, false), unix.EADDRINUSE) && tryBind(a.Address, true) == nil
}

// refused explains why HAProxy could not start by the addresses that cannot be bound; nil: all can.
func (p *Process) refused() error {
	var errs []error
	for _, a := range p.cfg.Listen {
		switch err := tryBind(a.Address, true); {
		case errors.Is(err, unix.EADDRINUSE):
			errs = append(errs, fmt.Errorf("%s=%s: another program listens there: end it, or give %s another address: %w", a.Flag, a.Address, a.Flag, err))
		case errors.Is(err, unix.EACCES):
			errs = append(errs, fmt.Errorf("%s=%s: this user may not listen there: give %s a port above 1023, or routerd CAP_NET_BIND_SERVICE: %w", a.Flag, a.Address, a.Flag, err))
		case err != nil:
			errs = append(errs, fmt.Errorf("%s=%s: HAProxy cannot listen there: give %s another address: %w", a.Flag, a.Address, a.Flag, err))
		}
	}
	return errors.Join(errs...)
}

// tryBind tells whether an address can be bound now, and lets go of it. What is no address of TCP always can.
func tryBind(address string, reusePort bool) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || strings.HasPrefix(address, "unix:") {
		return nil
	}
	if host == "" || host == "*" {
		host = "0.0.0.0"
	}
	at, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil {
		return nil
	}
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(at.Port())})
	if at.Addr().Is4() {
		to.(*unix.SockaddrInet4).Addr = at.Addr().As4() //nolint:errcheck // it is one
	} else {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil // as on a machine without IPv6: HAProxy will say so
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written to it
	options := []int{unix.SO_REUSEADDR}
	if reusePort {
		options = append(options, unix.SO_REUSEPORT)
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o, 1); err != nil {
			return nil
		}
	}
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return nil
		}
	}
	return unix.Bind(fd, to)
}
