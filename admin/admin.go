// Package admin is the HTTP address at which a daemon can be looked at: metrics, liveness, readiness, and
// on a loopback address Go's profiler.
//
// It guarantees that Serve returns only after every handler has, and that nothing but reading is offered.
// Do not expose it further than to who may know names of routes and routers.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
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
	Log      *slog.Logger
}

// Serve answers until ctx ends, then lets requests under way finish for up to two seconds.
func Serve(ctx context.Context, c Config) error {
	srv := &http.Server{
		Handler:           handler(c),
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(c.Log.Handler(), slog.LevelWarn),
	}
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
	err := srv.Serve(c.Listener)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve admin address %s: %w", c.Listener.Addr(), err)
}

func handler(c Config) http.Handler {
	mux := http.NewServeMux()
	metrics := c.Handler
	if metrics == nil {
		metrics = promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{})
	}
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := c.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	if IsLoopback(c.Listener.Addr().String()) {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
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
