// Package stats exposes what one HAProxy counts, with the names and labels of OpenShift's router.
//
// It guarantees that HAProxy is asked no more often than every 5 s × (1 + rows/1000), however many ask for the
// metrics; that it is asked for servers only while they are few; that a counter of a series goes on, across reloads and
// while a route's backend replaces another one of its name, from what was read last; that two objects never make the
// same series twice, which would spoil the whole answer; and that an answer which HAProxy broke off changes nothing.
//
// Do not assume that the figures are as of now, nor that they are exact across a reload: what a worker counts after
// the last reading is lost, as it is with OpenShift's router. Record, before a reload, keeps that small. Of workers that
// only finish what they have nothing is shown. With a file for them, counters go on when another process takes HAProxy over.
//
// No connection to HAProxy is kept from one reading to the next. So a reading concerns the worker that serves, and none is
// kept alive by being looked at.
package stats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"
)

// Config is what an Exporter needs.
type Config struct {
	// Socket is the path of the worker's admin socket. Required.
	Socket string
	// File is where counters are kept, so that they go on when another process reads the same HAProxy. Empty: they begin
	// with what HAProxy's worker has.
	File string
	// Metrics are answered too, after HAProxy's: the program's own. Nil: there are none.
	Metrics prometheus.Gatherer
	// ServerThreshold is the number of servers above which there are no metrics of servers. Zero: 500, as
	// with OpenShift's router. Negative: there are never any.
	ServerThreshold int
	// Interval is the least time between two readings; a thousandth of it is added for each row. Zero: 5 s.
	Interval time.Duration
	// Timeout bounds a reading. Zero: 5 s.
	Timeout time.Duration
	// Log takes why a reading failed. Nil: nothing is logged.
	Log *slog.Logger
}

// Exporter reads HAProxy's statistics and answers with them. It is safe for concurrent use.
type Exporter struct {
	cfg Config
	own prometheus.Gatherer

	up, interval, maxConnections prometheus.Gauge
	serversCurrent, serversLimit prometheus.Gauge
	scrapes, failures            prometheus.Counter

	mu     sync.Mutex
	table  *table    // guarded by mu
	kept   kept      // guarded by mu; of an earlier process, until the first reading
	packer packer    // guarded by mu
	text   packed    // guarded by mu; of the last reading, empty if it failed
	due    time.Time // guarded by mu; when to read again

	pidMu sync.Mutex
	pid   int // guarded by pidMu; of the worker that was read last, 0: none
}

// New makes an Exporter, which reads nothing yet.
func New(c Config) (*Exporter, error) {
	if c.Socket == "" {
		return nil, errors.New("stats: the path of HAProxy's admin socket is missing")
	}
	if c.Interval < 0 || c.Timeout < 0 {
		return nil, fmt.Errorf("stats: interval %s, timeout %s: must not be negative", c.Interval, c.Timeout)
	}
	if c.ServerThreshold == 0 {
		c.ServerThreshold = 500
	}
	if c.Interval == 0 {
		c.Interval = 5 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	e := &Exporter{cfg: c, table: newTable()}
	if c.File != "" {
		var err error
		if e.kept, err = loadKept(c.File); err != nil {
			c.Log.Warn("counters begin with what HAProxy has: those that were kept cannot be read", "file", c.File, "error", err)
		}
	}
	e.register()
	return e, nil
}

// register makes what is exposed of the exporter itself and of HAProxy's process.
func (e *Exporter) register() {
	gauge := func(name, help string, labels prometheus.Labels) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "haproxy", Name: name, Help: help, ConstLabels: labels})
	}
	threshold := "Servers that take traffic or could, and the number of servers above which there are no metrics of servers."
	e.up = gauge("up", "Whether HAProxy answered the last reading: 1 or 0.", nil)
	e.interval = gauge("exporter_scrape_interval", "Seconds from the last reading until the next is allowed.", nil)
	e.maxConnections = gauge("max_connections", "Connections that HAProxy accepts at one time.", nil)
	e.serversCurrent = gauge("exporter_server_threshold", threshold, prometheus.Labels{"type": "current"})
	e.serversLimit = gauge("exporter_server_threshold", threshold, prometheus.Labels{"type": "limit"})
	e.serversLimit.Set(float64(max(e.cfg.ServerThreshold, 0)))
	e.scrapes = prometheus.NewCounter(prometheus.CounterOpts{Namespace: "haproxy", Name: "exporter_total_scrapes", Help: "Readings of HAProxy."})
	e.failures = prometheus.NewCounter(prometheus.CounterOpts{Namespace: "haproxy", Name: "exporter_csv_parse_failures", Help: "Rows and values that could not be understood."})
	own := prometheus.NewRegistry()
	own.MustRegister(e.up, e.interval, e.maxConnections, e.serversCurrent, e.serversLimit, e.scrapes, e.failures,
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{Namespace: "haproxy", PidFn: e.worker}))
	e.own = own
	if e.cfg.Metrics != nil {
		e.own = prometheus.Gatherers{own, e.cfg.Metrics}
	}
}

// worker returns the process that was read last.
func (e *Exporter) worker() (int, error) {
	e.pidMu.Lock()
	defer e.pidMu.Unlock()
	if e.pid == 0 {
		return 0, errors.New("there is no worker")
	}
	return e.pid, nil
}

// Record reads HAProxy now, whatever the interval. Before a reload it keeps what the worker has counted until then.
// That HAProxy does not answer is logged only: it must not keep anyone from what is to be done next.
func (e *Exporter) Record(ctx context.Context) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refresh(ctx) {
		e.keep(true)
	}
}

// keep writes the counters to their file, if there is one, whole if the worker is to be replaced next. mu is held.
func (e *Exporter) keep(whole bool) {
	if e.cfg.File == "" {
		return
	}
	if err := e.table.keep(identify(e.table.worker), whole).save(e.cfg.File); err != nil {
		e.cfg.Log.Warn("counters cannot be kept for the next process", "file", e.cfg.File, "error", err)
	}
}

// ServeHTTP answers with the metrics, in Prometheus' text format.
func (e *Exporter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	if !time.Now().Before(e.due) {
		// What is read is for others too: that this one goes away must not spoil it.
		if e.refresh(context.WithoutCancel(r.Context())) && e.table.moved {
			e.keep(false)
		}
	}
	text := e.text
	e.mu.Unlock()

	var rest bytes.Buffer
	families, err := e.own.Gather()
	if err != nil {
		e.cfg.Log.Warn("metrics of the program are not complete", "error", err)
	}
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&rest, f); err != nil {
			e.cfg.Log.Warn("a metric cannot be written", "metric", f.GetName(), "error", err)
		}
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Header().Set("Vary", "Accept-Encoding")
	write := text.writeText
	if acceptsGzip(r.Header.Values("Accept-Encoding")) {
		w.Header().Set("Content-Encoding", "gzip")
		write = text.writeGzip
	}
	_ = write(w, rest.Bytes()) // who asked has gone
}

func acceptsGzip(headers []string) bool {
	for _, h := range headers {
		for item := range strings.SplitSeq(h, ",") {
			coding, quality, _ := strings.Cut(strings.ReplaceAll(item, " ", ""), ";")
			if strings.EqualFold(coding, "gzip") && (quality == "" || strings.Trim(quality, "q=0.") != "") {
				return true
			}
		}
	}
	return false
}

// refresh reads HAProxy and makes the text of it. After a failure there is none, and the next who asks tries again. It tells
// whether HAProxy was read. mu is held.
func (e *Exporter) refresh(ctx context.Context) bool {
	e.scrapes.Inc()
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	pid, rows, err := e.read(ctx)
	e.pidMu.Lock()
	e.pid = pid
	e.pidMu.Unlock()
	if err != nil {
		e.cfg.Log.Warn("HAProxy's statistics could not be read", "error", err)
		e.up.Set(0)
		e.text, e.due = packed{}, time.Time{}
		return false
	}
	e.up.Set(1)
	e.table.takeUp(e.kept, identify(pid))
	e.kept = kept{}
	e.table.commit(pid)
	e.text = e.packer.pack(e.table.write)
	pause := e.cfg.Interval + e.cfg.Interval*time.Duration(rows)/1000
	e.interval.Set(pause.Seconds())
	e.due = time.Now().Add(pause)
	return true
}

// read reads frontends and backends, and servers if they are few. It returns the worker and the number of rows. mu is held.
func (e *Exporter) read(ctx context.Context) (pid, rows int, err error) {
	e.table.begin()
	first, err := e.ask(ctx, "3", -1) // 1: frontends, 2: backends
	if err != nil {
		return 0, 0, err
	}
	e.maxConnections.Set(float64(first.maxConnections))
	e.serversCurrent.Set(float64(first.usable))
	if first.usable > uint64(max(e.cfg.ServerThreshold, 0)) || e.cfg.ServerThreshold < 0 {
		return first.pid, first.rows, nil
	}
	// Servers that are down or in maintenance were not counted: there may be more than it seems.
	servers, err := e.ask(ctx, "4", e.cfg.ServerThreshold)
	switch {
	case errors.Is(err, errTooMany), err == nil && servers.pid != first.pid:
		e.table.drop(server)
		servers.rows = 0
	case err != nil:
		return 0, 0, err
	default:
		e.serversCurrent.Set(float64(servers.rows))
	}
	return first.pid, first.rows + servers.rows, nil
}

var errTooMany = errors.New("too many rows")

// reading is what a reading was about.
type reading struct {
	info
	rows   int
	usable uint64 // servers, as backends tell
}

// ask reads the rows of some types into the table. With a limit above zero or equal to it the error is errTooMany when there are more.
func (e *Exporter) ask(ctx context.Context, types string, limit int) (reading, error) {
	conn, err := dial(ctx, e.cfg.Socket)
	if err != nil {
		return reading{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	// Without a prompt it closes after the answers, which one worker gives, whatever happens meanwhile.
	if _, err := io.WriteString(conn, "show info;show stat -1 "+types+" -1\n"); err != nil {
		return reading{}, err
	}
	a := newAnswers(conn)
	defer func() { e.failures.Add(float64(a.failures)) }()
	var got reading
	if got.info, err = a.info(); err != nil {
		return reading{}, err
	}
	if err := a.header(); err != nil {
		return reading{}, err
	}
	for r := new(row); ; {
		ok, err := a.next(r)
		if err != nil {
			return reading{}, err
		}
		if !ok {
			return got, nil
		}
		got.rows++
		got.usable += r.usable
		if limit >= 0 && got.rows > limit {
			return got, errTooMany
		}
		e.table.add(r)
	}
}
