// Package routerd puts the control plane's snapshots into force on one HAProxy.
//
// This file wires the packages below it, in the order in which a snapshot passes through them: subscribe
// receives it, apply puts it into force, the store records it, subscribe acks it.
package routerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tsuji-dev/tsuji/admin"
	"github.com/tsuji-dev/tsuji/identity"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/stats"
	"github.com/tsuji-dev/tsuji/routerd/store"
	"github.com/tsuji-dev/tsuji/routerd/subscribe"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// Run follows the control plane until ctx ends, and then stops gracefully: readiness fails, connections drain,
// HAProxy ends. It follows on until HAProxy takes no more connections, and returns when all that it started has ended.
func Run(ctx context.Context, c Config) error {
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	record, err := store.Open(store.Config{Dir: c.StateDir, Log: c.Log, Metrics: store.NewMetrics(metrics)})
	if err != nil {
		return err
	}
	exporter, err := stats.New(stats.Config{
		Socket: filepath.Join(c.haproxyDir(), haproxy.AdminSocket), File: filepath.Join(c.StateDir, "counters"),
		Metrics: metrics, ServerThreshold: c.MetricsServerThreshold, Log: c.Log,
	})
	if err != nil {
		return errors.Join(err, record.Close())
	}
	router := stats.NewRouter(metrics)
	applier, watcher, version, err := newApplier(ctx, c, metrics, exporter, router)
	if ctx.Err() != nil {
		c.Log.Info("stopped before anything had begun", "error", err)
		return record.Close() //nolint:wrapcheck // says what it tried
	}
	if err != nil {
		return errors.Join(err, record.Close())
	}
	dial, err := dialOptions(c)
	if err != nil {
		return errors.Join(err, record.Close())
	}
	client := subscribe.New(subscribe.Config{
		Servers: c.ControlPlane, Dial: dial,
		Name: c.Name, IngressController: c.IngressController, Zone: c.Zone, RouterdVersion: c.Version, HAProxyVersion: version,
		BackendsByReload: c.NoRuntimeBackends, MostConnections: applier.MostConnections(),
		Features: tsujiv1.Features(),
		Applier:  recorded{applier, record, router, c.Log}, Log: c.Log, Metrics: subscribe.NewMetrics(metrics),
	})
	adminListener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Admin)
	if err != nil {
		return errors.Join(fmt.Errorf("listen on --admin %s: %w", c.Admin, err), record.Close())
	}
	metricsListener, err := listenForMetrics(ctx, c)
	if err != nil {
		return errors.Join(err, adminListener.Close(), record.Close())
	}
	profiles, err := admin.Profiles(ctx, c.Profiles, c.Log)
	if err != nil {
		return errors.Join(err, metricsListener.Close(), adminListener.Close(), record.Close())
	}

	// What serves outlives ctx by the graceful stop.
	alive, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	serving, alive := errgroup.WithContext(alive)
	serving.Go(func() error { return record.Run(alive) })
	serving.Go(func() error { return applier.Run(alive) })
	serving.Go(func() error { return watcher.Run(alive) })
	serving.Go(func() error { return profiles(alive) })
	serving.Go(func() error {
		return admin.Serve(alive, admin.Config{Listener: adminListener, Handler: exporter, Hosts: c.AdminHosts, Log: c.Log, Ready: func() error {
			if applier.Stopping() {
				return errors.New("the router is stopping")
			}
			if _, ok := applier.InForce(); !ok {
				return errors.New("no snapshot is in force yet")
			}
			return nil
		}})
	})
	serving.Go(func() error {
		return admin.Serve(alive, admin.Config{Listener: metricsListener, Handler: exporter, Log: c.Log, Ready: func() error { return nil }})
	})
	c.Log.Info("routerd started", "version", c.Version, "haproxy", version, "zone", c.Zone, "name", c.Name, "control_plane", c.ControlPlane, "state_dir", c.StateDir)

	// A router that stops follows on, as long as HAProxy takes connections: they go where the control plane says.
	following, unfollow := context.WithCancel(alive)
	defer unfollow()
	followed := make(chan error, 1)
	go func() {
		serveRecorded(ctx, c, applier, record) // SIGTERM breaks it off
		followed <- client.Run(following)
	}()
	select {
	case <-ctx.Done():
		err = stop(alive, c, applier, unfollow)
	case <-alive.Done(): // what serves has failed, and serving.Wait tells why
		err = errors.New("routerd: what serves has ended")
	case err = <-followed:
		followed <- nil
	}
	unfollow()
	err = errors.Join(err, <-followed)
	end()
	return errors.Join(err, serving.Wait(), record.Close())
}

// stop stops the applier gracefully, hastily when c.Hasten says so, and the following when HAProxy takes no more
// connections.
func stop(ctx context.Context, c Config, applier *apply.Applier, unfollow func()) error {
	ended := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-applier.Stopped():
			unfollow()
		case <-ended:
		}
	})
	watching.Go(func() {
		select {
		case <-c.Hasten:
			c.Log.Info("stopping at once: connections that are open are cut")
			_ = applier.Stop(ctx) // the first call returns what there is to say
		case <-ended:
		}
	})
	err := applier.Stop(ctx)
	close(ended)
	watching.Wait()
	return err
}

// serveRecorded puts into force what is in the store, with no help from a control plane.
func serveRecorded(ctx context.Context, c Config, applier *apply.Applier, record *store.Store) {
	s, ok := record.Snapshot()
	if !ok {
		return
	}
	if of := ingressControllerOf(s); of != "" && of != c.IngressController {
		c.Log.Warn("what is in the store is of another IngressController, and is not served; waiting for the control plane", "store", of, "ingress_controller", c.IngressController)
	} else if err := applier.Start(ctx, s); err != nil {
		c.Log.Error("what is in the store could not be put into force; waiting for the control plane", "version", s.Version().Short(), "error", err)
	}
}

// ingressControllerOf returns whose routes a snapshot has, by its Settings; empty: they do not say. A state directory may have been another
// router's before.
func ingressControllerOf(s snapshot.Snapshot) string {
	item, ok := s.Get(tsujiv1.SettingsName)
	if !ok {
		return ""
	}
	r, err := tsujiv1.Decode(item)
	if err != nil {
		return ""
	}
	return r.GetSettings().GetIngressController()
}

// dialOptions returns how control planes are dialled: only a control plane's certificate is accepted, or one for the
// name that they have been given.
func dialOptions(c Config) ([]grpc.DialOption, error) {
	if c.Insecure {
		return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, nil
	}
	keeper, err := identity.Load(c.TLS, c.Log)
	if err != nil {
		return nil, err
	}
	if err := c.checkCertificate(keeper.Certificate()); err != nil {
		// No reason to end: what is in the store can be served, and the files may be replaced.
		c.Log.Error("control planes will turn this router away", "certificate", c.TLS.Cert, "error", err)
	}
	if c.ControlPlaneName != "" {
		return []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(keeper.ClientTLSNamed(c.ControlPlaneName)))}, nil
	}
	accept := func(id identity.ID) error {
		if id.Role != identity.RoleControlPlane {
			return fmt.Errorf("%s is no control plane", id)
		}
		return nil
	}
	return []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(keeper.ClientTLS(c.TrustDomain, accept)))}, nil
}

// recorded is the applier, with a record of what it put into force.
type recorded struct {
	*apply.Applier
	store  *store.Store
	router *stats.Router
	log    *slog.Logger
}

// Apply puts next into force and records it. A record that cannot be written is no refusal: next serves. It is
// logged, and the store writes a whole checkpoint as soon as it can.
func (r recorded) Apply(ctx context.Context, next snapshot.Snapshot, d snapshot.Delta) *tsujiv1.Refusal {
	if refusal := r.Applier.Apply(ctx, next, d); refusal != nil {
		select {
		case <-r.Stopped(): // which says nothing of next, and ends the following
			<-ctx.Done()
		default:
		}
		return refusal
	}
	r.router.Recovered()
	if err := r.store.Append(next, d); err != nil {
		r.log.Error("what serves could not be recorded: a restart would serve an older version until it has followed", "version", next.Version().Short(), "error", err)
	}
	return nil
}
