package render

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Options are what a router is told on its command line, and what its machine is like. Every field but the
// addresses may be zero.
type Options struct {
	// HTTP, HTTPS and Stats are the addresses to listen on: "127.0.0.1:80", "[::1]:80", ":80" (every IPv4
	// address), "[::]:80" (every IPv6 address), or "unix:PATH". At least one of HTTP and HTTPS, and one of
	// Stats, is needed.
	HTTP, HTTPS, Stats []string

	// Version is HAProxy's. The zero value stands for 3.4.
	Version Version

	// OldTLS says that HAProxy's TLS library knows no hybrid groups (X25519MLKEM768 and the like; OpenSSL knows
	// them since 3.5): those that the Settings name are left out, for HAProxy does not start with one that the
	// library does not know.
	OldTLS bool

	// Jail says that HAProxy is started as root: it then changes its root to run/jail, which must exist and
	// be empty, and its user and group to User and Group, neither of which may be 0.
	Jail        bool
	User, Group int

	// Elsewhere says that somebody else runs HAProxy, with a user of its own that has a group in common with
	// routerd's. There is no Jail then.
	Elsewhere bool

	// DefaultCertificate is the PEM of certificate and key for hosts that have none, used while the
	// Settings name no certificate. Needed when there is an HTTPS address.
	DefaultCertificate []byte

	// FileDescriptors is how many HAProxy may have open (its hard limit). The number of connections is
	// lowered to what fits. Zero: it fits.
	FileDescriptors int
}

// Version is a release of HAProxy.
type Version struct{ Major, Minor int }

// AtLeast tells whether v is the release, or a later one.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// String returns "3.4".
func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// Supported tells what is wrong with a release.
func (v Version) Supported() error {
	if !v.AtLeast(oldest.Major, oldest.Minor) {
		return fmt.Errorf("HAProxy %v: want %v or later", v, oldest)
	}
	return nil
}

// oldest is the oldest release that the program is written for.
var oldest = Version{2, 6}

// Validate returns every fault of the options.
func (o Options) Validate() error {
	var errs []error
	for _, l := range []struct {
		name      string
		addresses []string
	}{{"HTTP", o.HTTP}, {"HTTPS", o.HTTPS}, {"Stats", o.Stats}} {
		for _, a := range l.addresses {
			if _, err := bindAddress(a); err != nil {
				errs = append(errs, fmt.Errorf("%s address %q: %w", l.name, a, err))
			}
		}
	}
	if len(o.HTTP)+len(o.HTTPS) == 0 {
		errs = append(errs, errors.New("no HTTP or HTTPS address"))
	}
	if len(o.Stats) == 0 {
		errs = append(errs, errors.New("no Stats address"))
	}
	if err := o.version().Supported(); err != nil {
		errs = append(errs, err)
	}
	if o.Jail && (o.User <= 0 || o.Group <= 0) {
		errs = append(errs, fmt.Errorf("jail: want an unprivileged user and group, have %d and %d", o.User, o.Group))
	}
	if o.Jail && o.Elsewhere {
		errs = append(errs, errors.New("jail: who runs HAProxy elsewhere has it change its root"))
	}
	if len(o.HTTPS) > 0 {
		if _, err := canonicalPair(o.DefaultCertificate, nil); err != nil {
			errs = append(errs, fmt.Errorf("default certificate: %w", err))
		}
	}
	if o.FileDescriptors < 0 {
		errs = append(errs, fmt.Errorf("%d file descriptors", o.FileDescriptors))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("render options: %w", err)
	}
	return nil
}

func (o Options) version() Version {
	if o.Version == (Version{}) {
		return Version{3, 4}
	}
	return o.Version
}

// CheckAddress tells what is wrong with an address to listen on.
func CheckAddress(a string) error {
	_, err := bindAddress(a)
	return err
}

// bindAddress returns what a bind line says for an address of the command line.
func bindAddress(a string) (string, error) {
	if path, ok := strings.CutPrefix(a, "unix:"); ok {
		if path == "" || len(path) > 100 || !only(path, isPathByte) {
			return "", errors.New("want unix:PATH of at most 100 letters, digits and /._-+")
		}
		return "unix@" + path, nil
	}
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return "", err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", fmt.Errorf("port %q: want 1 to 65535", port)
	}
	if host == "" || host == "*" {
		return fmt.Sprintf("ipv4@*:%d", n), nil
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return "", err
	case ip.Zone() != "":
		return "", errors.New("an address with a zone")
	case ip.Is4():
		return fmt.Sprintf("ipv4@%v:%d", ip, n), nil
	default:
		return fmt.Sprintf("ipv6@[%v]:%d v6only", ip, n), nil
	}
}
