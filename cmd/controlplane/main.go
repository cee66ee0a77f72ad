// Command controlplane watches a cluster, or a directory of manifests, and serves what it compiles from it to
// routers over delta xDS.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsuji-dev/tsuji/cmd/internal/flagenv"
	"github.com/tsuji-dev/tsuji/controlplane"
	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/cluster/kube"
	"github.com/tsuji-dev/tsuji/controlplane/cluster/manifests"
	"github.com/tsuji-dev/tsuji/controlplane/cluster/serviceca"
)

// version is set by the linker.
var version = "unreleased"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "controlplane:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	c := controlplane.Config{Version: version}
	var source, kubeconfig, namespace, serviceCA, reader string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "controlplane",
		Short: "Compile Routes into versioned snapshots, and serve them to routers",
		Long: `controlplane watches a source of objects, compiles its Routes into versioned snapshots, and serves
them to routerd over gRPC (delta xDS). Every flag can also come from an environment variable:
--state-dir is TSUJI_STATE_DIR.`,
		Args:          cobra.NoArgs,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			return flagenv.Apply(cmd.Flags(), os.LookupEnv)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Log = logger(verbose)
			var err error
			if c.Reader, err = cluster.ParseReader(reader); err != nil {
				err = fmt.Errorf("--external-certificate-reader: %w", err)
			}
			if err := errors.Join(checkSource(source, c.Insecure), c.Validate(), err); err != nil {
				return err
			}
			if path, isDir := strings.CutPrefix(source, "dir:"); isDir {
				c.Loopback = true
				c.Source, err = manifests.NewDir(manifests.DirConfig{Path: path, Log: c.Log, Now: time.Now})
			} else {
				c.Source, err = apiServer(kubeconfig, namespace, c)
			}
			if err != nil {
				return err
			}
			if serviceCA != "" {
				if c.Source, err = serviceca.New(serviceca.Config{Source: c.Source,
					Path: serviceCA, Log: c.Log}); err != nil {
					return err
				}
			}
			return controlplane.Run(cmd.Context(), c)
		},
	}
	f := cmd.Flags()
	f.StringVar(&source, "source", "",
		"where objects come from: kube, the Kubernetes API; or dir:PATH, a directory of manifests")
	f.StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server; empty: as a Pod of its cluster")
	f.StringVar(&namespace, "namespace", "", "follow the Routes of this namespace only; empty: of all")
	f.StringVar(&reader, "external-certificate-reader", "",
		"service account that must be allowed to get, list and watch the Secrets that Routes name as external certificates, "+
			"as system:serviceaccount:openshift-ingress:router must be for OpenShift's router; "+
			"empty: the control plane's own right to list and watch them is enough")
	f.StringVar(&serviceCA, "service-ca-file", "",
		"file of the CA certificates that Services' own are verified with, PEM; empty: ConfigMap service-ca-bundle of openshift-ingress")
	f.StringVar(&c.Listen, "listen", "127.0.0.1:9400",
		"gRPC address (discovery, inspection, reflection, health), HOST:PORT or unix:PATH")
	f.StringVar(&c.Admin, "admin", "127.0.0.1:9401", "HTTP address of /metrics, /healthz and /readyz")
	f.StringSliceVar(&c.AdminHosts, "admin-hosts", nil,
		"names by which --admin may be asked for /metrics, comma-separated, besides addresses, localhost, names without a dot and those of Services (*.svc)")
	f.StringVar(&c.Profiles, "profiles", "",
		"path of a unix socket, for this user only, that answers with Go's profiles (/debug/pprof/); empty: none")
	f.StringVar(&c.TLS.Cert, "tls-cert", "", "file of this replica's certificate, PEM")
	f.StringVar(&c.TLS.Key, "tls-key", "", "file of its private key, PEM, for its owner only")
	f.StringVar(&c.TLS.CA, "client-ca", "",
		"file of the CA certificates that routers and operators are verified with, PEM")
	f.StringVar(&c.TrustDomain, "trust-domain", "tsuji.local", "SPIFFE trust domain of all identities")
	f.StringVar(&c.Denied, "denied-peers", "",
		"file of identities (spiffe://…) and certificates (serial=HEX) that are turned away, one a line, read again when it changes; empty: none")
	f.BoolVar(&c.Insecure, "insecure", false,
		"no TLS and no identities; only with loopback addresses and a directory source")
	f.BoolVarP(&verbose, "verbose", "v", false, "log debug messages too")
	return cmd
}

// checkSource tells what is wrong with --source.
func checkSource(source string, insecure bool) error {
	path, isDir := strings.CutPrefix(source, "dir:")
	switch {
	case isDir && path != "", source == "kube" && !insecure:
		return nil
	case source == "kube":
		return errors.New("--insecure is for a directory as the source only, not for --source=kube")
	default:
		return fmt.Errorf("--source=%s: want kube, or dir:PATH, a directory of manifests, as in --source=dir:examples/demo", source)
	}
}

// apiServer returns the Kubernetes API as a source.
func apiServer(kubeconfig, namespace string, c controlplane.Config) (cluster.Source, error) {
	rest, err := kube.LoadREST(kubeconfig)
	if err != nil {
		return nil, err
	}
	return kube.New(kube.Config{
		REST: rest, Namespace: namespace, ExternalCertificateReader: c.Reader, Version: version, Log: c.Log, Now: time.Now,
	})
}

func logger(verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
