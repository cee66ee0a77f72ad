// Package admin is the HTTP address at which a daemon can be looked at: metrics, liveness, readiness; and, on a socket
// of its own for its owner only, Go's profiles.
//
// It guarantees that Serve returns only after every handler has, that nothing but reading is offered, and that what it
// costs is bounded: connections, sizes and times. A page in a browser does not get it to tell more than whether the
// daemon is well. Do not expose it further than to who may know names of routes and routers.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config is what Serve needs.
type Config struct {
	Listener net.Listener        // closed by Serve
	Metrics  prometheus.Gatherer // what /metrics answers
	Handler  http.Handler        // what /metrics answers instead; nil: Metrics
	Ready    func() error        // nil error: /readyz answers 200; else 503 with the error's text
	Hosts    []string            // names by which it may be asked for metrics, besides those that are always let in
	Log      *slog.Logger
}

// Serve answers until ctx ends, then lets requests under way finish for up to two seconds.
func Serve(ctx context.Context, c Config) error {
	return serve(ctx, server(handler(c), c.Log), c.Listener)
}

// server returns a server for one handler.
func server(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           withoutBodies(h),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second, // of requests that have no body
		WriteTimeout:      30 * time.Second, // of metrics, to a reader that is slow; Prometheus waits for 10 s
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10, // and 4 KiB that net/http adds
		ConnState:         new(connections).changed,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),

		DisableGeneralOptionsHandler: true, // it would read a body
	}
}

func serve(ctx context.Context, srv *http.Server, l net.Listener) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		// The daemon's context has ended: the last requests get a time of their own.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			_ = srv.Close()
		}
	})
	err := srv.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve admin address %s: %w", l.Addr(), err)
}

func handler(c Config) http.Handler {
	mux := http.NewServeMux()
	metrics := c.Handler
	if metrics == nil {
		metrics = promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{})
	}
	if c.Listener.Addr().Network() != "unix" { // what can connect there is no browser, and hands on anybody's Host
		metrics = onlyOurs(c.Hosts, metrics)
	}
	mux.Handle("GET /metrics", bounded(metrics))
	// Probes ask by whatever name they are given, and learn nothing but whether the daemon is well.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := c.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	return mux
}

// IsLoopback tells whether an address HOST:PORT, or unix:PATH, can only be reached from this machine. A name
// other than localhost is not looked up, and is not loopback.
func IsLoopback(address string) bool {
	if len(address) > 5 && address[:5] == "unix:" {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
