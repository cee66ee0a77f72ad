// Command routerd puts the control plane's snapshots into force on one HAProxy.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/tsuji-dev/tsuji/cmd/internal/flagenv"
	"github.com/tsuji-dev/tsuji/routerd"
)

// version is set by the linker.
var version = "unreleased"

func main() {
	if os.Getpid() == 1 {
		status, err := asFirst()
		if err != nil {
			fmt.Fprintln(os.Stderr, "routerd:", err)
			status = 1
		}
		os.Exit(status)
	}
	ctx, hasten := signals()
	if err := command(hasten).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "routerd:", err)
		os.Exit(1)
	}
}

// signals returns a context that the first signal to end ends, for a graceful stop, and a channel that the second
// closes, for a hasty one. After that they have their default effect again.
func signals() (context.Context, <-chan struct{}) {
	got := make(chan os.Signal, 2)
	signal.Notify(got, os.Interrupt, syscall.SIGTERM)
	ctx, stop := context.WithCancel(context.Background())
	hasten := make(chan struct{})
	go func() { // for as long as the process lives
		<-got
		stop()
		<-got
		signal.Stop(got)
		close(hasten)
	}()
	return ctx, hasten
}

func command(hasten <-chan struct{}) *cobra.Command {
	c := routerd.Config{Version: version, Hasten: hasten}
	var verbose bool
	cmd := &cobra.Command{
		Use:   "routerd",
		Short: "Put snapshots into force on one HAProxy",
		Long: `routerd follows a control plane, puts each snapshot into force on the HAProxy that it runs, and acks the
version that then serves. Every flag can also come from an environment variable: --state-dir is
TSUJI_STATE_DIR.

SIGTERM stops gracefully: readiness fails, --shutdown-delay passes, connections drain, HAProxy ends. A second SIGTERM
skips what is left of that. Any other end of routerd leaves HAProxy serving; the next routerd with the same --state-dir
takes it over.

With --haproxy-master somebody else runs HAProxy, as "haproxy -W -S unix@run/master.sock,mode,660 -f haproxy.cfg" in
--haproxy-dir, which "routerd prepare" makes. routerd reloads it, and leaves it serving after --shutdown-delay: who runs
it ends it.`,
		Args:          cobra.NoArgs,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			return flagenv.Apply(cmd.Flags(), os.LookupEnv)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Log = logger(verbose)
			if err := c.Validate(); err != nil {
				return err
			}
			// Private keys are in memory here, and in HAProxy, which inherits the limit: no core dumps.
			if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
				return fmt.Errorf("forbid core dumps: %w", err)
			}
			return routerd.Run(cmd.Context(), c)
		},
	}
	cmd.AddCommand(prepare())
	f := cmd.Flags()
	f.StringVar(&c.Zone, "zone", "", "the zone that this router is in (tok04)")
	f.StringVar(&c.Name, "name", "", "the router's name; empty: the host's name")
	f.StringVar(&c.IngressController, "ingress-controller", "default", "the IngressController that this router serves")
	f.StringSliceVar(&c.ControlPlane, "control-plane", nil, "addresses of control planes, HOST:PORT or unix:PATH, comma-separated; one is used at a time")
	f.StringVar(&c.TLS.Cert, "tls-cert", "", "file of this router's certificate, PEM")
	f.StringVar(&c.TLS.Key, "tls-key", "", "file of its private key, PEM, for its owner only")
	f.StringVar(&c.TLS.CA, "ca", "", "file of the CA certificates that control planes are verified with, PEM")
	f.StringVar(&c.ControlPlaneName, "control-plane-name", "", "DNS name that a control plane's certificate must have, where --ca gives no identities (OpenShift's service CA); empty: it has an identity")
	f.StringVar(&c.TrustDomain, "trust-domain", "tsuji.local", "SPIFFE trust domain of all identities")
	f.BoolVar(&c.Insecure, "insecure", false, "no TLS and no identities; only with loopback addresses")
	f.StringSliceVar(&c.HTTP, "http", []string{":80"}, "addresses for HTTP, comma-separated; [ADDRESS]:PORT or unix:PATH")
	f.StringSliceVar(&c.HTTPS, "https", []string{":443"}, "addresses for HTTPS")
	f.StringSliceVar(&c.Stats, "stats", []string{":1936"}, "addresses of /healthz, /healthz/ready, /metrics and /_tsuji/version")
	f.StringVar(&c.StateDir, "state-dir", "", "directory of what is in force; made if absent, else it must be ours and 0700")
	f.StringVar(&c.HAProxy, "haproxy", "haproxy", "the HAProxy to run")
	f.BoolVar(&c.HAProxyTied, "haproxy-tied", false, "end HAProxy when this process ends, however it does; for demonstrations and tests")
	f.StringVar(&c.HAProxyUser, "haproxy-user", "65534:65534",
		"user and group, UID:GID, that HAProxy becomes when routerd is root; better one that nobody else has")
	elsewhere(f, &c)
	f.BoolVar(&c.NoRuntimeBackends, "no-runtime-backends", false, "add and delete backends by reloads, as before HAProxy 3.4; endpoints, certificates and map entries still change without")
	f.DurationVar(&c.ShutdownDelay, "shutdown-delay", 45*time.Second, "how long readiness fails before connections are drained")
	f.DurationVar(&c.DrainTimeout, "drain-timeout", time.Hour, "how long connections may drain")
	f.StringVar(&c.Admin, "admin", "127.0.0.1:9402", "HTTP address of routerd's own /metrics, /healthz and /readyz")
	f.StringSliceVar(&c.AdminHosts, "admin-hosts", nil,
		"names by which --admin may be asked for /metrics, comma-separated, besides addresses, localhost, names without a dot and those of Services (*.svc)")
	f.StringVar(&c.Profiles, "profiles", "", "path of a unix socket, for this user only, that answers with Go's profiles (/debug/pprof/); empty: none")
	f.IntVar(&c.MetricsServerThreshold, "metrics-server-threshold", 500, "number of servers above which /metrics has none of servers; negative: never any")
	f.BoolVarP(&verbose, "verbose", "v", false, "log debug messages too")
	return cmd
}

// elsewhere adds the flags for a HAProxy that somebody else runs.
func elsewhere(f *pflag.FlagSet, c *routerd.Config) {
	f.StringVar(&c.HAProxyMaster, "haproxy-master", "",
		"unix:PATH of the master's socket of a HAProxy that somebody else runs, with a user of its own; empty: routerd runs --haproxy")
	f.StringVar(&c.HAProxyDir, "haproxy-dir", "", "HAProxy's directory; with --haproxy-master, one that its user may read; empty: haproxy in --state-dir")
}

// prepare is the command that makes what a HAProxy that somebody else runs begins with.
func prepare() *cobra.Command {
	c := routerd.Config{Version: version}
	cmd := &cobra.Command{
		Use:   "prepare",
		Short: "Make what a HAProxy that somebody else runs begins with",
		Long: `prepare makes --haproxy-dir, with a configuration that serves nothing if there is none yet, and the directory of
--haproxy-master. Their group is that of the directories that they are made in, if those have the setgid bit.`,
		Args: cobra.NoArgs,
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			return flagenv.Apply(cmd.Flags(), os.LookupEnv)
		},
		RunE: func(*cobra.Command, []string) error { return routerd.Prepare(c) },
	}
	elsewhere(cmd.Flags(), &c)
	return cmd
}

func logger(verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
