// Package health takes endpoints out of service that do not answer, with no standing checks.
//
// HAProxy says which backends had to try again to connect; that a request fails on one endpoint and goes on to another
// is HAProxy's own doing. The servers of such a backend to which connections failed are probed: two attempts to
// connect, of which one must succeed. A server that is dead is suspended, and probed until it answers again. While nothing is wrong
// there is one question to HAProxy twice a second, whatever the number of routes.
//
// It guarantees that a server is not suspended while no other server of its backend that takes new traffic is
// alive: where all are dead, all stay in service. It guarantees that a suspended server is restored when it answers
// again. What is suspended is decided anew all the time: a reload or a new worker, which forget, change nothing for long.
//
// Do not assume that an endpoint is well because it is not suspended: one that accepts connections and answers no
// request is not found, and one that gets no request is not probed. Servers with a check of their own, because their Route
// asks for an interval, are HAProxy's business. HAProxy before 3.0 says nothing: there the counters of all backends are
// read instead, every 1.5 s where there are many.
package health

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

const (
	period        = 500 * time.Millisecond // of the question to HAProxy
	probeTimeout  = time.Second            // of an attempt
	secondTry     = 250 * time.Millisecond // from an attempt of a probe to the next
	mostProbes    = 64                     // at once
	askTimeout    = 5 * time.Second        // for what HAProxy or the applier is asked
	failureRepeat = 10 * time.Second
	mostCounted   = 10_000                  // backends whose counters are remembered
	compareRest   = 50                      // times as long as it took to read those of all backends passes until they are read again,
	longestRest   = 1500 * time.Millisecond // but no more than this
)

// suspects is where routerd/render has HAProxy say which backends had trouble.
var suspects = haproxy.Suspects{Map: "maps/suspects.map", Table: "suspects"}

// Config is what a Watcher needs.
type Config struct {
	Applier *apply.Applier   // Required.
	HAProxy *haproxy.Process // of the applier. Required.
	Log     *slog.Logger     // nil: nothing is logged
	Metrics *Metrics         // nil: nothing is counted
}

// Metrics is what a Watcher counts.
type Metrics struct {
	Suspected prometheus.Counter     // times that a server became suspicious
	Dead      prometheus.Gauge       // servers that do not answer probes, suspended or not
	Probes    *prometheus.CounterVec // by result
}

// NewMetrics makes the metrics, and registers them; with nil they are not registered.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		Suspected: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "tsuji", Subsystem: "health", Name: "suspected_total", Help: "Times that a server was probed because HAProxy failed to connect to it.",
		}),
		Dead: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "tsuji", Subsystem: "health", Name: "dead_servers", Help: "Servers that do not answer probes: those that are suspended, and those that are not because no other is alive.",
		}),
		Probes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "tsuji", Subsystem: "health", Name: "probes_total", Help: "Probes of suspicious and dead servers, by result (ok, failed).",
		}, []string{"result"}),
	}
	if r != nil {
		r.MustRegister(m.Suspected, m.Dead, m.Probes)
	}
	return m
}

// Watcher suspends and restores servers of one HAProxy.
type Watcher struct {
	cfg Config

	// Run owns all that follows.
	judge     *judge
	worker    *haproxy.Runtime             // nil: connect first
	failures  map[string]map[string]uint64 // connections that failed, by HAProxy's name of the backend, and server
	sums      map[string]uint64            // the same by backend, where HAProxy does not say which had trouble
	compare   time.Time                    // when to read those again
	complains time.Time                    // when a failure may be logged again
}

// New makes a Watcher. Nothing runs until Run.
func New(cfg Config) *Watcher {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil)
	}
	return &Watcher{cfg: cfg, judge: newJudge(mostProbes), failures: map[string]map[string]uint64{}}
}

// answer is how a probe ended.
type answer struct {
	probe
	ok bool
}

// Run watches until ctx ends, and then leaves everything as it is. It returns nil.
func (h *Watcher) Run(ctx context.Context) error {
	answers := make(chan answer)
	var probes sync.WaitGroup
	defer probes.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer h.disconnect()
	timer := time.NewTimer(period)
	defer timer.Stop()
	ask := time.Now().Add(period)
	for {
		select {
		case <-ctx.Done():
			return nil
		case a := <-answers:
			h.judge.result(time.Now(), a.probe, a.ok)
		case <-timer.C:
		}
		if now := time.Now(); !now.Before(ask) {
			h.complain("ask HAProxy which endpoints it cannot reach", h.ask(ctx))
			ask = now.Add(period)
		}
		h.complain("suspend or restore an endpoint", h.settle(ctx))
		for _, p := range h.judge.probes(time.Now()) {
			probes.Go(func() {
				a := answer{p, h.connects(ctx, p)}
				select {
				case answers <- a:
				case <-ctx.Done():
				}
			})
		}
		wake := ask
		if at, ok := h.judge.next(); ok && at.Before(wake) {
			wake = at
		}
		timer.Reset(time.Until(wake))
	}
}

// connects makes a probe. Its attempts overlap: who hears nothing from the first need not wait until it is over.
func (h *Watcher) connects(ctx context.Context, p probe) bool {
	trying, done := context.WithCancel(ctx)
	defer done()
	var ok atomic.Bool
	var attempts sync.WaitGroup
	for i := range p.tries {
		attempts.Go(func() {
			wait := time.NewTimer(time.Duration(i) * secondTry)
			defer wait.Stop()
			select {
			case <-trying.Done():
				return
			case <-wait.C:
			}
			conn, err := (&net.Dialer{Timeout: probeTimeout, KeepAlive: -1}).DialContext(trying, "tcp", p.address)
			if err == nil {
				conn.Close()
				ok.Store(true)
				done()
			}
		})
	}
	attempts.Wait()
	if ctx.Err() == nil {
		h.cfg.Metrics.Probes.WithLabelValues(map[bool]string{true: "ok", false: "failed"}[ok.Load()]).Inc()
	}
	return ok.Load()
}

// complain logs an error, not too often.
func (h *Watcher) complain(what string, err error) {
	if err == nil || errors.Is(err, context.Canceled) || time.Now().Before(h.complains) {
		return
	}
	h.complains = time.Now().Add(failureRepeat)
	h.cfg.Log.Warn("could not "+what+"; trying again", "error", err)
}

// ask asks HAProxy which backends had trouble, and tells the judge.
func (h *Watcher) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := h.refresh(ctx); err != nil {
		return err
	}
	if _, serving := h.cfg.Applier.InForce(); !serving {
		return nil
	}
	if err := h.connect(ctx); err != nil {
		return err
	}
	troubled, err := h.troubled(ctx)
	if err == nil && len(troubled) > 0 {
		err = h.look(ctx, troubled)
	}
	if err != nil {
		h.disconnect()
	}
	return err
}

// troubled returns the backends that had trouble to connect since it was called last, by HAProxy's names. Where HAProxy does
// not say so its counters do, all of which have to be read: the more routes the more seldom.
func (h *Watcher) troubled(ctx context.Context) ([]string, error) {
	if h.worker.Version().HasSuspects() {
		return suspects.Take(ctx, h.worker) //nolint:wrapcheck // says what it asked
	}
	begun := time.Now()
	if begun.Before(h.compare) {
		return nil, nil
	}
	all, err := h.worker.BackendStats(ctx)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it asked
	}
	var names []string
	sums := make(map[string]uint64, len(all))
	for name, s := range all {
		sums[name] = s.Econ + s.Retried
		if sums[name] != h.sums[name] {
			names = append(names, name)
		}
	}
	h.sums, h.compare = sums, begun.Add(min(compareRest*time.Since(begun), longestRest))
	slices.Sort(names)
	return names, nil
}

// refresh tells the judge which servers there are.
func (h *Watcher) refresh(ctx context.Context) error {
	for _, name := range h.judge.watching() {
		servers, err := h.cfg.Applier.Servers(ctx, name)
		if err != nil {
			return err
		}
		h.judge.update(time.Now(), name, servers)
	}
	return nil
}

// look finds the servers to which connections failed.
func (h *Watcher) look(ctx context.Context, troubled []string) error {
	if len(h.failures) > mostCounted {
		clear(h.failures) // which costs a probe of those that failed before
	}
	for _, actual := range troubled {
		stats, err := h.worker.ServerStats(ctx, actual)
		if refused := (*haproxy.RefusedError)(nil); errors.As(err, &refused) {
			continue // it was deleted
		} else if err != nil {
			return err
		}
		before, now := h.failures[actual], map[string]uint64{}
		var failed []string
		for server, s := range stats[0] {
			now[server] = s.Econ + s.Retried
			if now[server] != before[server] {
				failed = append(failed, server)
			}
		}
		h.failures[actual] = now
		name := render.Logical(actual)
		servers, err := h.cfg.Applier.Servers(ctx, name)
		if err != nil {
			return err
		}
		slices.Sort(failed)
		n := h.judge.suspect(time.Now(), name, servers, failed)
		h.cfg.Metrics.Suspected.Add(float64(n))
		h.cfg.Log.Debug("connections failed", "backend", actual, "servers", failed, "suspicious", n)
	}
	return nil
}

// connect connects to the worker, if that is another one than before, or is stopping.
func (h *Watcher) connect(ctx context.Context) error {
	if h.worker != nil {
		info, err := h.worker.Info(ctx)
		if err == nil && !info.Stopping {
			return nil
		}
		h.disconnect()
	}
	var err error
	h.worker, err = h.cfg.HAProxy.Connect(ctx)
	return err
}

func (h *Watcher) disconnect() {
	if h.worker != nil {
		h.worker.Close()
		h.worker = nil
	}
	clear(h.failures) // a worker counts from nothing
	h.sums = nil
}

// settle suspends and restores what differs from what should be.
func (h *Watcher) settle(ctx context.Context) error {
	h.cfg.Metrics.Dead.Set(float64(h.judge.dead()))
	have := h.cfg.Applier.Suspended()
	if slices.Equal(h.judge.wanted(), have) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := h.refresh(ctx); err != nil {
		return err
	}
	wanted := h.judge.wanted()
	var errs []error
	change := func(list, other []apply.Server, do func(context.Context, string, string) error, message string) {
		for _, s := range list {
			if _, found := slices.BinarySearchFunc(other, s, compare); found {
				continue
			}
			switch err := do(ctx, s.Backend, s.Name); {
			case err == nil:
				h.cfg.Log.Info(message, "route", routeOf(s.Backend), "pod", podOf(s.Name), "server", s.Name)
			case !errors.Is(err, apply.ErrNoServer): // that one left, as the judge will be told
				errs = append(errs, err)
			}
		}
	}
	change(have, wanted, h.cfg.Applier.Restore, "endpoint is in service again")
	change(wanted, have, h.cfg.Applier.Suspend, "endpoint does not answer and is out of service")
	return errors.Join(errs...)
}

// routeOf returns namespace/name of a backend's route.
func routeOf(backend string) string {
	_, rest, _ := strings.Cut(backend, ":")
	return strings.Replace(rest, ":", "/", 1)
}

// podOf returns the Pod that a server's name names; empty: none.
func podOf(server string) string {
	kind, rest, _ := strings.Cut(server, ":")
	pod, _, _ := strings.Cut(rest, ":")
	if kind != "pod" {
		return ""
	}
	return pod
}
