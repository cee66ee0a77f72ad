package routerd

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/tsuji-dev/tsuji/admin"
	"github.com/tsuji-dev/tsuji/identity"
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
	StateDir           string   // what is in force; made if absent, else it must be ours and 0700

	HAProxy     string // the HAProxy to run
	HAProxyTied bool   // HAProxy ends when this process does, however that is

	NoRuntimeBackends bool // a backend comes or goes by a reload, whatever HAProxy can do

	ShutdownDelay time.Duration // how long readiness fails before connections are drained
	DrainTimeout  time.Duration // how long connections may drain

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
	need("--haproxy", c.HAProxy, "the HAProxy to run")
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
		if path, ok := strings.CutPrefix(a, "unix:"); ok && path == "" {
			errs = append(errs, fmt.Errorf("--control-plane %q: want unix:PATH", a))
		}
	}
	return errors.Join(errs...)
}
