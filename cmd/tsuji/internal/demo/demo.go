// Package demo runs a control plane, two routers and two backends on this machine, until it is told to end.
//
// It ends what it started, in good order, and leaves nothing but logs. A state directory has one demo at a time. Do not
// assume that it talks to the control plane itself: who runs it hands it a way to ask (Config.Watch).
package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tsuji-dev/tsuji/identity"
)

// StateDir is where a demo keeps what it makes if nobody says otherwise, and where others look for one that runs.
const StateDir = ".demo"

// TrustDomain is the default of every --trust-domain, so that nobody has to give it.
const TrustDomain = "tsuji.local"

// startTimeout is how long everything together may take to come up. HAProxy takes a second or two on a busy machine.
const startTimeout = 90 * time.Second

// Config says what to run, and where.
type Config struct {
	Source     string // directory of manifests
	StateDir   string // for logs, keys and the routers' state; made if absent
	BinDir     string // of the controlplane and routerd to run; empty: that of this program
	HAProxy    string // the program; empty: .tools/bin/haproxy if there is one, else haproxy
	PortOffset int    // is added to every port

	// Out gets what is told to the user, a whole message in each Write, and not escaped.
	Out io.Writer

	// Watch returns what tells how far the control plane is. It need not answer yet.
	Watch func(server string, operator identity.Files) (ControlPlane, error)
}

// ControlPlane tells how far things are. What is missing is for people; empty: nothing is.
type ControlPlane interface {
	// Synced tells whether the control plane has read its source.
	Synced(ctx context.Context) (missing string, err error)
	// Serving tells whether as many routers serve what they should, and which version that is, for people.
	Serving(ctx context.Context, routers int) (version, missing string, err error)
	Close()
}

// UsageError says that a Config cannot work. It names flags of tsuji demo.
type UsageError struct{ text string }

func (e UsageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return UsageError{fmt.Sprintf(format, args...)} }

// demo is a control plane, two routers and two backends on this machine.
type demo struct {
	Config
	ports    ports
	log      *terminal
	children []*child // in the order of their start
}

// Run brings everything up, tells what to try, waits for ctx to end, and takes everything down.
func Run(ctx context.Context, c Config) error {
	d := &demo{Config: c}
	if err := d.complete(); err != nil {
		return err
	}
	return d.run(ctx)
}

// complete fills in what was left to be found, and refuses what cannot work.
func (d *demo) complete() error {
	if d.PortOffset < 0 || d.PortOffset > 65535-highestPort {
		return usagef("--port-offset=%d: want 0 to %d", d.PortOffset, 65535-highestPort)
	}
	d.ports = portsAt(d.PortOffset)
	d.log = &terminal{w: d.Out}
	d.Source = strings.TrimPrefix(d.Source, "dir:")
	if info, err := os.Stat(d.Source); err != nil || !info.IsDir() {
		return usagef("--source=%s is not a directory: "+
			"run tsuji demo at the top of a checkout, where examples/demo is, or name another", d.Source)
	}
	if d.BinDir == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find the directory of this program (--bin-dir names one): %w", err)
		}
		d.BinDir = relative(filepath.Dir(self))
	}
	for _, name := range []string{"controlplane", "routerd"} {
		if _, err := os.Stat(filepath.Join(d.BinDir, name)); err != nil {
			return usagef("there is no %s in %s: `make build` makes it; --bin-dir names another directory", name, d.BinDir)
		}
	}
	if d.HAProxy == "" {
		d.HAProxy = "haproxy"
		if _, err := os.Stat(".tools/bin/haproxy"); err == nil {
			d.HAProxy = ".tools/bin/haproxy"
		}
	}
	if strings.Contains(d.HAProxy, "/") { // routerd runs it in a directory of its own
		abs, err := filepath.Abs(d.HAProxy)
		if err != nil {
			return fmt.Errorf("--haproxy=%s: %w", d.HAProxy, err)
		}
		d.HAProxy = abs
	}
	return nil
}

// run does what Run says, once nothing is left to be found.
func (d *demo) run(ctx context.Context) (err error) {
	if err := d.ports.free(ctx); err != nil {
		return err
	}
	state, err := openState(d.StateDir)
	if err != nil {
		return err
	}
	defer state.close()
	creds, err := issue(d.StateDir)
	if err != nil {
		return err
	}
	source, err := d.manifests(creds)
	if err != nil {
		return err
	}
	defer os.Remove(filepath.Join(source, GeneratedName))

	backends, err := startBackends(ctx, d.ports.backends, creds.backend)
	if err != nil {
		return err
	}
	defer backends.stop()
	defer d.stop()

	version, err := d.start(ctx, source, creds)
	if err != nil {
		if ctx.Err() != nil {
			return nil // Ctrl-C while things came up
		}
		return err
	}
	if err := writeEnv(d.StateDir, d.ports.grpc(), creds.operator); err != nil {
		return err
	}
	d.log.print("%s", d.whatToTry(source, creds, version))
	<-ctx.Done()
	d.log.print("ending")
	return nil
}

// start starts the control plane, then the routers once it answers. It returns when both have acked what they
// should have, and which version that is.
func (d *demo) start(ctx context.Context, source string, creds credentialsOf) (version string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errStart)
	defer cancel()
	watch, err := d.Watch(d.ports.grpc(), creds.operator)
	if err != nil {
		return "", err
	}
	defer watch.Close()

	d.log.print("starting the control plane on %s", d.ports.grpc())
	if err := d.spawn(ctx, "controlplane", "controlplane", d.controlPlaneArgs(source, creds)); err != nil {
		return "", err
	}
	if err := d.await(ctx, watch.Synced); err != nil {
		return "", err
	}
	for _, z := range d.ports.zones {
		d.log.print("starting the router of %s on http %s, https %s", z.name, z.http(), z.https())
		if err := d.spawn(ctx, z.name, "routerd", d.routerArgs(z, creds)); err != nil {
			return "", err
		}
	}
	err = d.await(ctx, func(ctx context.Context) (missing string, err error) {
		version, missing, err = watch.Serving(ctx, len(d.ports.zones))
		return missing, err
	})
	return version, err
}

var errStart = fmt.Errorf("it took longer than %s", startTimeout)

// await asks until nothing is missing, a child ends, or ctx does.
func (d *demo) await(ctx context.Context, ask func(context.Context) (missing string, err error)) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	slow := time.NewTicker(5 * time.Second)
	defer slow.Stop()
	for {
		missing, err := ask(ctx)
		if err == nil && missing == "" {
			return nil
		}
		if err != nil {
			missing = err.Error()
		}
		for _, c := range d.children {
			if c.ended() {
				<-c.reported
				return fmt.Errorf("%s ended before all was up", c.name)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w; see the logs in %s", missing, context.Cause(ctx), d.StateDir)
		case <-slow.C:
			d.log.print("still waiting for %s", missing)
		case <-tick.C:
		}
	}
}

// stop ends the routers together and then the control plane, so that no router misses it, and waits for them.
func (d *demo) stop() {
	var live []*child
	for _, c := range slices.Backward(d.children) {
		c.quiet()
		if !c.ended() {
			live = append(live, c)
		}
	}
	for _, c := range live {
		if c != d.children[0] {
			c.terminate()
		}
	}
	for _, c := range live {
		c.terminate()
		<-c.done
		if c.killed() {
			d.log.print("%s did not end within %s and was killed: see %s", c.name, childGrace, c.logFile)
		}
	}
}

// spawn starts a child, whose end is told if it was not asked for.
func (d *demo) spawn(ctx context.Context, name, program string, args []string) error {
	c, err := startChild(ctx, name, filepath.Join(d.BinDir, program), args, d.StateDir, d.log)
	if err != nil {
		return err
	}
	d.children = append(d.children, c)
	return nil
}

// relative returns a path under the current directory as such, and others as they are.
func relative(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	r, err := filepath.Rel(wd, path)
	if err != nil || strings.HasPrefix(r, "..") {
		return path
	}
	return r
}
