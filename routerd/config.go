package routerd

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/tsuji-dev/tsuji/admin"
	"github.com/tsuji-dev/tsuji/identity"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

// Config is what Run needs. Names of flags stand in the errors of Validate.
type Config struct {
	Zone              string         // the zone that this router is in
	Name              string         // the router's name; empty: the host's
	IngressController string         // the one that this router serves
	ControlPlane      []string       // HOST:PORT or unix:PATH; one is used at a time
	TLS               identity.Files // certificate, key, and the CA that control planes are verified with; not read when Insecure
	TrustDomain       string         // SPIFFE trust domain of every identity
	ControlPlaneName  string         // DNS name that a control plane's certificate must have; empty: it has an identity
	Insecure          bool           // no TLS, no identities: for loopback addresses only

	HTTP, HTTPS, Stats []string // addresses to serve on, [ADDRESS]:PORT or unix:PATH
	Admin              string   // routerd's own HTTP address, of metrics and health
	AdminHosts         []string // names by which Admin may be asked for metrics, besides addresses, localhost and Services' names
	Profiles           string   // path of a unix socket for Go's profiles; empty: none
	StateDir           string   // what is in force; made if absent, else it must be ours and 0700

	HAProxy     string // the HAProxy to run
	HAProxyTied bool   // HAProxy ends when this process does, however that is
	HAProxyUser string // UID:GID, what HAProxy becomes when this process is root; empty: 65534:65534

	// HAProxyMaster is the socket of the master of a HAProxy that somebody else runs, unix:PATH; empty: HAProxy is run here.
	// HAProxy's user must be able to read what is in HAProxyDir, by its group.
	HAProxyMaster string
	HAProxyDir    string // HAProxy's directory; empty: in StateDir

	NoRuntimeBackends bool // a backend comes or goes by a reload, whatever HAProxy can do

	ShutdownDelay time.Duration // how long readiness fails before connections are drained
	DrainTimeout  time.Duration // how long connections may drain

	// Hasten is closed when there is no time for either of the two any more. Nil: there always is.
	Hasten <-chan struct{}

	MetricsServerThreshold int // servers above which there are no metrics of servers; 0: 500; negative: never any

	Version string // of the program, for people
	Log     *slog.Logger
}

// Validate reports everything that is wrong with the configuration at once, and fills in the name.
func (c *Config) Validate() error {
	var errs []error
	need := func(flag, value, what string) {
		if value == "" {
			errs = append(errs, fmt.Errorf("%s: want %s", flag, what))
		}
	}
	if c.Name == "" {
		c.Name, _ = os.Hostname()
	}
	need("--zone", c.Zone, "the zone that this router is in, as in --zone=tok04")
	need("--name", c.Name, "a name for this router")
	need("--ingress-controller", c.IngressController, "the IngressController to serve")
	need("--state-dir", c.StateDir, "a directory for what is in force")
	if c.HAProxyUser == "" {
		c.HAProxyUser = "65534:65534"
	}
	if _, _, err := c.jailed(); err != nil {
		errs = append(errs, err)
	}
	if c.elsewhere() {
		errs = append(errs, c.checkMaster()...)
	} else {
		need("--haproxy", c.HAProxy, "the HAProxy to run")
	}
	need("--trust-domain", c.TrustDomain, "the trust domain of all identities")
	if len(c.ControlPlane) == 0 {
		errs = append(errs, errors.New("--control-plane: want the address of at least one control plane, HOST:PORT"))
	}
	if c.ShutdownDelay < 0 || c.DrainTimeout < 0 {
		errs = append(errs, errors.New("--shutdown-delay, --drain-timeout: must not be negative"))
	}
	if c.Insecure {
		for _, a := range append([]string{c.Admin}, c.ControlPlane...) {
			if !admin.IsLoopback(a) {
				errs = append(errs, fmt.Errorf("--insecure is for loopback addresses only, not %s", a))
			}
		}
		if c.ControlPlaneName != "" {
			errs = append(errs, errors.New("--control-plane-name: there are no certificates with --insecure"))
		}
	} else if err := c.TLS.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("--tls-cert, --tls-key, --ca (or --insecure): %w", err))
	}
	for _, a := range c.ControlPlane {
		if err := checkServer(a); err != nil {
			errs = append(errs, fmt.Errorf("--control-plane %q: %w", a, err))
		}
	}
	if id := c.identity(); id.Zone != "" && id.Name != "" && id.IngressController != "" && id.TrustDomain != "" {
		if _, err := identity.Parse(id.String(), id.TrustDomain); err != nil {
			errs = append(errs, fmt.Errorf("--zone, --name, --ingress-controller, --trust-domain: want letters, digits, dots, dashes and underscores in each, have %q, %q, %q, %q",
				id.Zone, id.Name, id.IngressController, id.TrustDomain))
		}
	}
	return errors.Join(append(errs, c.checkAddresses()...)...)
}

// checkServer tells what is wrong with a control plane's address. Its port must be a number: there is no other
// way to tell a typing error from a service's name, and gRPC takes 443 where there is none.
func checkServer(address string) error {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if path == "" {
			return errors.New("want unix:PATH")
		}
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || n == 0 {
		return errors.New("want HOST:PORT, as in controlplane.tsuji.svc:9400")
	}
	return nil
}

// listen returns the addresses that HAProxy binds.
func (c *Config) listen() []haproxy.Address {
	var all []haproxy.Address
	for _, f := range []struct {
		flag      string
		addresses []string
	}{{"--http", c.HTTP}, {"--https", c.HTTPS}, {"--stats", c.Stats}} {
		for _, a := range f.addresses {
			all = append(all, haproxy.Address{Flag: f.flag, Address: a})
		}
	}
	return all
}

// checkAddresses refuses an address that is none, and one that is given twice: HAProxy would bind it twice, and the
// kernel hand each connection to either.
func (c *Config) checkAddresses() []error {
	var errs []error
	for _, l := range c.listen() {
		err := render.CheckAddress(l.Address)
		if _, bad := strconv.ParseUint(l.Address, 10, 16); bad == nil {
			err = fmt.Errorf("want [ADDRESS]:PORT, as in %s=:%s", l.Flag, l.Address)
		} else if err != nil {
			err = fmt.Errorf("want [ADDRESS]:PORT or unix:PATH: %w", err)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s=%s: %w", l.Flag, l.Address, err))
		}
	}
	if len(c.HTTP)+len(c.HTTPS) == 0 {
		errs = append(errs, errors.New("--http, --https: want at least one address, as in --http=:80"))
	}
	if len(c.Stats) == 0 {
		errs = append(errs, errors.New("--stats: want at least one address, as in --stats=:1936"))
	}
	if _, _, err := net.SplitHostPort(c.Admin); err != nil {
		errs = append(errs, fmt.Errorf("--admin=%s: want HOST:PORT, as in --admin=127.0.0.1:9402: %w", c.Admin, err))
	}
	if err := admin.CheckHosts(c.AdminHosts); err != nil {
		errs = append(errs, fmt.Errorf("--admin-hosts: %w", err))
	}
	flags := map[string]string{}
	for _, f := range []struct {
		flag      string
		addresses []string
	}{{"--http", c.HTTP}, {"--https", c.HTTPS}, {"--stats", c.Stats}, {"--admin", []string{c.Admin}}} {
		for _, a := range f.addresses {
			if other, taken := flags[a]; taken {
				errs = append(errs, fmt.Errorf("%s: %s is given for %s already: want another address", f.flag, a, other))
			}
			flags[a] = f.flag
		}
	}
	return errs
}

// identity is what this router says it is.
func (c *Config) identity() identity.ID {
	return identity.ID{TrustDomain: c.TrustDomain, Role: identity.RoleRouter, IngressController: c.IngressController, Zone: c.Zone, Name: c.Name}
}

// checkCertificate tells why control planes would turn this router away, as far as that can be seen from here.
func (c *Config) checkCertificate(cert *x509.Certificate) error {
	own, err := identity.FromCertificate(cert, c.TrustDomain)
	if err != nil {
		return fmt.Errorf("%w (--trust-domain=%s)", err, c.TrustDomain)
	}
	want := c.identity()
	if own.Name == "" {
		want.Name = "" // a certificate for every router of its zone
	}
	if own != want {
		return fmt.Errorf("the certificate is for %s, and --ingress-controller=%s, --zone=%s and --name=%s say %s: correct these, or give it a certificate for that",
			own, c.IngressController, c.Zone, c.Name, want)
	}
	return nil
}
