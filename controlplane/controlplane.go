// Package controlplane is the control plane: it follows a source of objects, compiles it into snapshots, and
// serves them to routers.
//
// This file wires the packages below it, in the order in which a Route passes through them; pipeline.go is the
// goroutine that takes changes from the source to the board.
package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/tsuji-dev/tsuji/admin"
	"github.com/tsuji-dev/tsuji/controlplane/access"
	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/inspect"
	"github.com/tsuji-dev/tsuji/controlplane/quarantine"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	"github.com/tsuji-dev/tsuji/controlplane/xds"
	"github.com/tsuji-dev/tsuji/identity"
)

const (
	history    = 100              // versions held for each IngressController, for those who come back
	listed     = 10 * time.Minute // how long a router that is gone stays listed
	drainGrace = 5 * time.Second  // how long calls may finish when the control plane stops
)

// Config is what Run needs.
type Config struct {
	Source      cluster.Source // where objects come from
	Listen      string         // gRPC address: HOST:PORT or unix:PATH
	Admin       string         // HTTP address of metrics and health: HOST:PORT
	AdminHosts  []string       // names by which Admin may be asked for metrics, besides addresses, localhost and Services' names
	Profiles    string         // path of a unix socket for Go's profiles; empty: none
	TLS         identity.Files // certificate, key, and the CA that clients are verified with; not read when Insecure
	TrustDomain string         // SPIFFE trust domain of every identity
	Denied      string         // file of peers that are turned away, which is followed: see [identity.Denied]; empty: none
	Insecure    bool           // no TLS, no identities: for loopback addresses and a directory only
	Reader      cluster.Reader // the service account that must be allowed to read external certificates; zero: that is not looked at
	Loopback    bool           // endpoints may have loopback addresses: for a source on the same machine
	Version     string         // of the program, for people
	Log         *slog.Logger
}

// Validate reports everything that is wrong with the configuration at once. It does not look at Source.
func (c Config) Validate() error {
	var errs []error
	if c.TrustDomain == "" {
		errs = append(errs, errors.New("--trust-domain: must not be empty"))
	}
	for _, l := range []struct{ flag, address string }{{"--listen", c.Listen}, {"--admin", c.Admin}} {
		if err := checkListen(l.flag, l.address); err != nil {
			errs = append(errs, err)
		}
	}
	if err := admin.CheckHosts(c.AdminHosts); err != nil {
		errs = append(errs, fmt.Errorf("--admin-hosts: %w", err))
	}
	if c.Insecure {
		if c.Denied != "" {
			errs = append(errs, errors.New("--insecure has no identities: leave --denied-peers out"))
		}
		for flag, address := range map[string]string{"--listen": c.Listen, "--admin": c.Admin} {
			if !admin.IsLoopback(address) {
				errs = append(errs, fmt.Errorf("--insecure is for loopback addresses only, but %s is %s", flag, address))
			}
		}
	} else if err := c.TLS.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("--tls-cert, --tls-key, --client-ca (or --insecure): %w", err))
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends. It first sends its routers elsewhere, and returns when all that it started has ended.
func Run(ctx context.Context, c Config) error {
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	discoveryMetrics := xds.NewMetrics()
	metrics.MustRegister(discoveryMetrics)

	board := release.NewBoard(history)
	refusals := quarantine.New()
	metrics.MustRegister(refusals)
	routers := fleet.New(fleet.Config{Keep: listed})
	inspection := inspect.New(inspect.Config{Board: board, Fleet: routers, Source: c.Source.String(), Version: c.Version, Log: c.Log, Now: time.Now})
	metrics.MustRegister(inspection)
	denied, err := identity.LoadDenied(c.Denied, c.TrustDomain, c.Log)
	if err != nil {
		return fmt.Errorf("--denied-peers: %w", err)
	}
	guard := access.New(access.Config{TrustDomain: c.TrustDomain, Insecure: c.Insecure, Denied: denied, Log: c.Log})
	discovery := xds.New(xds.Config{
		Board: board, Fleet: routers, Quarantine: refusals, Log: c.Log, Now: time.Now, Authenticate: guard.Authenticate, Metrics: discoveryMetrics,
	})
	healthServer := health.NewServer()
	healthServer.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)

	options := append(xds.ServerOptions(), guard.ServerOptions()...)
	if !c.Insecure {
		keeper, err := identity.Load(c.TLS, c.Log)
		if err != nil {
			return err
		}
		c.checkCertificate(keeper.Certificate())
		options = append(options, grpc.Creds(guard.Credentials(keeper.ServerTLS)))
	}
	server := grpc.NewServer(options...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, discovery)
	inspection.Register(server)
	healthv1.RegisterHealthServer(server, healthServer)
	reflection.Register(server)

	listener, err := listen(ctx, "--listen", c.Listen)
	if err != nil {
		return err
	}
	adminListener, err := listen(ctx, "--admin", c.Admin)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	profiles, err := admin.Profiles(ctx, c.Profiles, c.Log)
	if err != nil {
		return errors.Join(err, listener.Close(), adminListener.Close())
	}

	synced := make(chan struct{})
	p := &pipeline{
		source: c.Source, board: board, quarantine: refusals, inspect: inspection, fleet: routers, keep: listed, now: time.Now, log: c.Log,
		compile: func(name string) *compile.Compiler {
			return compile.New(compile.Config{
				IngressController: name, AllowLoopbackEndpoints: c.Loopback, ExternalCertificateReader: c.Reader, Most: mostRoutes,
			})
		},
		synced: func() {
			inspection.SetSynced()
			healthServer.SetServingStatus("", healthv1.HealthCheckResponse_SERVING)
			c.Log.Info("source read, serving", "source", c.Source.String(), "listen", listener.Addr().String())
			close(synced)
		},
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.Source.Run(ctx) })
	g.Go(func() error { return p.run(ctx) })
	g.Go(func() error { return denied.Run(ctx, guard.EndDenied) })
	g.Go(func() error { return serve(server, listener) })
	g.Go(func() error {
		return admin.Serve(ctx, admin.Config{Listener: adminListener, Metrics: metrics, Hosts: c.AdminHosts, Log: c.Log, Ready: func() error {
			select {
			case <-synced:
				return nil
			default:
				return fmt.Errorf("source %s has not been read yet", c.Source)
			}
		}})
	})
	g.Go(func() error { return profiles(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		c.Log.Info("stopping: sending routers elsewhere")
		healthServer.Shutdown()
		discovery.Drain()
		hard := time.AfterFunc(drainGrace, server.Stop)
		defer hard.Stop()
		server.GracefulStop()
		return nil
	})
	c.Log.Info("control plane started", "version", c.Version, "source", c.Source.String(), "listen", listener.Addr().String(), "admin", adminListener.Addr().String(), "insecure", c.Insecure)
	return g.Wait()
}

func serve(server *grpc.Server, l net.Listener) error {
	if err := server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve gRPC on %s: %w", l.Addr(), err)
	}
	return nil
}
