package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// defaultStateDir is where the demo keeps what it makes, and where the other commands look for one that runs.
const defaultStateDir = ".demo"

// startTimeout is how long everything together may take to come up. HAProxy takes a second or two on a busy machine.
const startTimeout = 90 * time.Second

// demo is a control plane, two routers and two backends on this machine.
type demo struct {
	w        world
	source   string
	stateDir string
	binDir   string
	haproxy  string
	offset   int

	ports    ports
	log      *terminal
	children []*child // in the order of their start
}

func demoCommand(w world) *cobra.Command {
	d := &demo{w: w}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a control plane, two zones and two backends on this machine",
		Long: `demo runs, until Ctrl-C, a control plane over a directory of manifests, a router with its HAProxy in each
of two zones, and two small backends. They know each other by certificates that are made on the spot.

In --source it writes ` + generatedName + `, which holds those certificates that Routes need, and removes it at
the end. In --state-dir it keeps logs, keys, and what the routers have on disk; each start begins afresh.
The commands that look at a control plane find the demo by themselves when they are run in the same
directory; elsewhere, source STATE-DIR/env first.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := d.complete(); err != nil {
				return err
			}
			return d.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&d.source, "source", "examples/demo", "directory of manifests")
	f.StringVar(&d.stateDir, "state-dir", defaultStateDir, "directory for logs, keys and the routers' state; made if absent")
	f.StringVar(&d.binDir, "bin-dir", "", "directory of the controlplane and routerd to run; empty: that of this program")
	f.StringVar(&d.haproxy, "haproxy", "", "the HAProxy to run; empty: .tools/bin/haproxy if there is one, else haproxy")
	f.IntVar(&d.offset, "port-offset", 0, "a number added to every port, the backends' in the manifests included, which are copied then")
	return cmd
}

// complete fills in what was left to be found, and refuses what cannot work.
func (d *demo) complete() error {
	if d.offset < 0 || d.offset > 65535-highestPort {
		return usagef("--port-offset=%d: want 0 to %d", d.offset, 65535-highestPort)
	}
	d.ports = portsAt(d.offset)
	d.log = &terminal{w: d.w.out}
	d.source = strings.TrimPrefix(d.source, "dir:")
	if info, err := os.Stat(d.source); err != nil || !info.IsDir() {
		return usagef("--source=%s is not a directory: run tsuji demo at the top of a checkout, where examples/demo is, or name another", d.source)
	}
	if d.binDir == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find the directory of this program (--bin-dir names one): %w", err)
		}
		d.binDir = relative(filepath.Dir(self))
	}
	for _, name := range []string{"controlplane", "routerd"} {
		if _, err := os.Stat(filepath.Join(d.binDir, name)); err != nil {
			return usagef("there is no %s in %s: `make build` makes it; --bin-dir names another directory", name, d.binDir)
		}
	}
	if d.haproxy == "" {
		d.haproxy = "haproxy"
		if _, err := os.Stat(".tools/bin/haproxy"); err == nil {
			d.haproxy = ".tools/bin/haproxy"
		}
	}
	if strings.Contains(d.haproxy, "/") { // routerd runs it in a directory of its own
		abs, err := filepath.Abs(d.haproxy)
		if err != nil {
			return fmt.Errorf("--haproxy=%s: %w", d.haproxy, err)
		}
		d.haproxy = abs
	}
	return nil
}

// run brings everything up, tells what to try, waits for ctx to end, and takes everything down.
func (d *demo) run(ctx context.Context) (err error) {
	if err := d.ports.free(ctx); err != nil {
		return err
	}
	state, err := openState(d.stateDir)
	if err != nil {
		return err
	}
	defer state.close()
	creds, err := issue(d.stateDir)
	if err != nil {
		return err
	}
	source, err := d.manifests(creds)
	if err != nil {
		return err
	}
	defer os.Remove(filepath.Join(source, generatedName))

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
	if err := writeEnv(d.stateDir, d.ports.grpc(), creds.operator); err != nil {
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
	watch, err := watchControlPlane(d.ports.grpc(), creds.operator)
	if err != nil {
		return "", err
	}
	defer watch.close()

	d.log.print("starting the control plane on %s", d.ports.grpc())
	if err := d.spawn(ctx, "controlplane", "controlplane", d.controlPlaneArgs(source, creds)); err != nil {
		return "", err
	}
	if err := d.await(ctx, watch.synced); err != nil {
		return "", err
	}
	for _, z := range d.ports.zones {
		d.log.print("starting the router of %s on http %s, https %s", z.name, z.http(), z.https())
		if err := d.spawn(ctx, z.name, "routerd", d.routerArgs(z, creds)); err != nil {
			return "", err
		}
	}
	err = d.await(ctx, func(ctx context.Context) (string, error) { return watch.current(ctx, len(d.ports.zones)) })
	return watch.version, err
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
			return fmt.Errorf("waiting for %s: %w; see the logs in %s", missing, context.Cause(ctx), d.stateDir)
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
	c, err := startChild(ctx, name, filepath.Join(d.binDir, program), args, d.stateDir, d.log)
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
