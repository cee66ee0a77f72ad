package admin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A daemon shows its metrics, is alive, becomes ready, and stops answering when its context ends.
func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "tsuji_test_total", Help: "h"})
	reg.MustRegister(c)
	c.Inc()
	var ready atomic.Bool
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, Config{Listener: l, Metrics: reg, Log: slog.New(slog.DiscardHandler), Ready: func() error {
			if !ready.Load() {
				return errors.New("the source has not been read yet")
			}
			return nil
		}})
	}()
	get := func(path string) (int, string) {
		t.Helper()
		r, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(b)
	}
	for _, want := range []struct {
		path   string
		status int
		body   string
	}{
		{"/healthz", 200, "ok"},
		{"/readyz", 503, "the source has not been read yet"},
		{"/metrics", 200, "tsuji_test_total 1"},
		{"/debug/pprof/", 404, ""},
		{"/elsewhere", 404, ""},
	} {
		if status, body := get(want.path); status != want.status || !strings.Contains(body, want.body) {
			t.Errorf("GET %s: %d %q, want %d with %q", want.path, status, body, want.status, want.body)
		}
	}
	ready.Store(true)
	if status, body := get("/readyz"); status != 200 {
		t.Errorf("GET /readyz when ready: %d %q, want 200", status, body)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve returned %v after its context ended, want nil", err)
	}
}

func TestIsLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:80": true, "127.9.9.9:1": true, "[::1]:80": true, "localhost:80": true, "unix:/run/x.sock": true,
		":80": false, "0.0.0.0:80": false, "[::]:80": false, "10.0.0.1:80": false, "example.com:80": false, "127.0.0.1": false,
	} {
		if got := IsLoopback(address); got != want {
			t.Errorf("IsLoopback(%q) = %v, want %v", address, got, want)
		}
	}
}
