package routerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/health"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/routerd/stats"
)

// HAProxy is had in one of two ways: routerd runs it, as a child that outlives it; or somebody else does, with
// --haproxy-master, as a container beside routerd's with a user of its own.

// Prepare makes what a HAProxy that somebody else runs begins with, so that it can be started before routerd.
func Prepare(c Config) error {
	if err := errors.Join(c.checkMaster()...); err != nil {
		return err
	}
	process, err := haproxy.New(c.process())
	if err != nil {
		return fmt.Errorf("--haproxy-dir, --haproxy-master: %w", err)
	}
	return errors.Join(apply.Prepare(process.Dir(), false), process.Close())
}

// haproxyDir returns HAProxy's directory.
func (c *Config) haproxyDir() string {
	if c.HAProxyDir != "" {
		return c.HAProxyDir
	}
	return filepath.Join(c.StateDir, "haproxy")
}

// elsewhere tells whether somebody else runs HAProxy.
func (c *Config) elsewhere() bool { return c.HAProxyMaster != "" }

// process is how HAProxy is had.
func (c *Config) process() haproxy.Config {
	p := haproxy.Config{Binary: c.HAProxy, Dir: c.haproxyDir(), Log: c.Log, TieToParent: c.HAProxyTied, Listen: c.listen()}
	if c.elsewhere() {
		p.Binary, p.Elsewhere, p.Sockets = "", true, filepath.Dir(strings.TrimPrefix(c.HAProxyMaster, "unix:"))
	}
	return p
}

// checkMaster tells what is wrong with what is said of a HAProxy that somebody else runs.
func (c *Config) checkMaster() []error {
	var errs []error
	if !c.elsewhere() {
		return append(errs, errors.New("--haproxy-master: want the socket of a master that somebody else runs, as in unix:/var/run/tsuji/master.sock"))
	}
	path, ok := strings.CutPrefix(c.HAProxyMaster, "unix:")
	if !ok || !filepath.IsAbs(path) || filepath.Base(path) != filepath.Base(haproxy.MasterSocket) {
		errs = append(errs, fmt.Errorf("--haproxy-master=%s: want unix:/PATH/TO/%s", c.HAProxyMaster, filepath.Base(haproxy.MasterSocket)))
	}
	if !filepath.IsAbs(c.HAProxyDir) {
		errs = append(errs, fmt.Errorf("--haproxy-dir=%s: with --haproxy-master, want the path of a directory that HAProxy's user may read", c.HAProxyDir))
	}
	if c.StateDir != "" && c.HAProxyDir != "" {
		state, _ := filepath.Abs(c.StateDir)
		if rel, err := filepath.Rel(state, c.HAProxyDir); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			errs = append(errs, fmt.Errorf("--haproxy-dir=%s: is in --state-dir=%s, where nobody else may read: want another directory", c.HAProxyDir, c.StateDir))
		}
	}
	if c.HAProxyTied {
		errs = append(errs, errors.New("--haproxy-tied: who runs HAProxy for --haproxy-master ends it"))
	}
	return errs
}

// jailed returns the user and group that HAProxy becomes when routerd is root.
func (c *Config) jailed() (user, group int, err error) {
	u, g, both := strings.Cut(c.HAProxyUser, ":")
	user, err = strconv.Atoi(u)
	if both && err == nil {
		group, err = strconv.Atoi(g)
	}
	if err != nil || !both || user <= 0 || group <= 0 {
		return 0, 0, fmt.Errorf("--haproxy-user=%s: want UID:GID, numbers and not root's, as in 65534:65534", c.HAProxyUser)
	}
	return user, group, nil
}

// machine returns the release of HAProxy, and what its machine is like: as its program says, or the worker that answers,
// which is waited for.
func (c *Config) machine(ctx context.Context, process *haproxy.Process) (haproxy.Version, render.Machine, error) {
	if c.elsewhere() {
		// Where none answers the files may be those of a change that was under way, with which none would start.
		answers, err := process.Connect(ctx)
		if err == nil {
			answers.Close()
		}
		if err := apply.Prepare(process.Dir(), err != nil); err != nil {
			return haproxy.Version{}, render.Machine{}, err
		}
		info, err := process.Await(ctx)
		if err != nil {
			return haproxy.Version{}, render.Machine{}, fmt.Errorf("--haproxy-master=%s: %w", c.HAProxyMaster, err)
		}
		return info.Version, render.MachineOf(info.Description, info.Descriptors), nil
	}
	version, err := process.Version(ctx)
	if err != nil {
		return haproxy.Version{}, render.Machine{}, fmt.Errorf("--haproxy=%s: %w", c.HAProxy, err)
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return haproxy.Version{}, render.Machine{}, fmt.Errorf("read the limit of open files: %w", err)
	}
	return version, render.Machine{Descriptors: int(min(files.Max, maxFileDescriptors)), OldTLS: version.OldTLS()}, nil
}

// maxFileDescriptors is as many as HAProxy is told that it may open at the most: "unlimited" is a number too.
const maxFileDescriptors = 4 << 20

// newApplier makes the applier and what it stands on: the HAProxy of this directory, and a renderer for its release;
// and the watcher of its endpoints. The exporter keeps what HAProxy counts, the router's metrics tell of its reloads.
func newApplier(ctx context.Context, c Config, metrics prometheus.Registerer, exporter *stats.Exporter, router *stats.Router) (
	*apply.Applier, *health.Watcher, string, error,
) {
	process, err := haproxy.New(c.process())
	if errors.Is(err, haproxy.ErrNoProgram) {
		return nil, nil, "", fmt.Errorf("--haproxy=%s: want the path of HAProxy's program, or its name if it is in PATH: %w", c.HAProxy, err)
	}
	if err != nil {
		return nil, nil, "", err
	}
	version, machine, err := c.machine(ctx, process)
	if err != nil {
		return nil, nil, "", err
	}
	if err := (render.Version{Major: version.Major, Minor: version.Minor}).Supported(); err != nil {
		return nil, nil, "", fmt.Errorf("--haproxy=%s%s: %w", c.HAProxy, c.HAProxyMaster, err)
	}
	certificate, err := defaultCertificate(c.StateDir, time.Now())
	if err != nil {
		return nil, nil, "", err
	}
	options := render.Options{
		HTTP: c.HTTP, HTTPS: c.HTTPS, Stats: c.Stats,
		Version:            render.Version{Major: version.Major, Minor: version.Minor},
		OldTLS:             machine.OldTLS,
		DefaultCertificate: certificate,
		FileDescriptors:    machine.Descriptors,
		Elsewhere:          c.elsewhere(),
	}
	if os.Geteuid() == 0 && !c.elsewhere() {
		options.Jail = true
		if options.User, options.Group, err = c.jailed(); err != nil {
			return nil, nil, "", err
		}
	}
	renderer, err := render.New(options)
	if err != nil {
		return nil, nil, "", err
	}
	a := apply.New(apply.Config{
		Renderer: renderer, HAProxy: process, Log: c.Log, Metrics: apply.NewMetrics(metrics), ShutdownDelay: c.ShutdownDelay, DrainTimeout: c.DrainTimeout,
		NoRuntimeBackends: c.NoRuntimeBackends,
		BeforeReload:      exporter.Record, OnReload: router.Reloaded, OnWrite: router.Wrote,
	})
	w := health.New(health.Config{Applier: a, HAProxy: process, Log: c.Log, Metrics: health.NewMetrics(metrics)})
	return a, w, version.String(), nil
}

// listenForMetrics makes the listener through which HAProxy hands on what the stats addresses are asked for: in the
// jail, where there is one, and for its user; where it has a user of its own, for the group that is in common.
func listenForMetrics(ctx context.Context, c Config) (net.Listener, error) {
	path, user, group := filepath.Join(c.haproxyDir(), haproxy.RunDir, metricsSocket), os.Geteuid(), os.Getegid()
	if c.elsewhere() {
		return stats.Listen(ctx, filepath.Join(c.haproxyDir(), metricsSocket), 0o660, user, group) //nolint:wrapcheck // as below
	}
	if user == 0 {
		var err error
		if user, group, err = c.jailed(); err != nil {
			return nil, err
		}
		path = filepath.Join(c.haproxyDir(), haproxy.JailDir, metricsSocket)
	}
	return stats.Listen(ctx, path, 0o600, user, group) //nolint:wrapcheck // says what it tried
}

// metricsSocket is the name of the socket; haproxy.cfg has it too.
const metricsSocket = "metrics.sock"
