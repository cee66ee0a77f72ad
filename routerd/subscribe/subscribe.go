// Package subscribe follows a control plane: it receives versions over delta xDS, has each put into force, and
// answers for it.
//
// It guarantees that a version is acked only after the applier put it into force, that nothing is given to the
// applier but a whole version whose digests were verified, and that a stream which breaks at any point changes
// nothing. Receiving never waits for applying. A control plane, however wrong it behaves, costs a bounded
// amount of memory and its own stream.
//
// Do not assume that every version is seen: a router that is slow, or away, receives the next one that there is.
package subscribe

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// Applier puts versions into force. It is called by one goroutine at a time.
type Applier interface {
	// InForce returns what serves; ok is false if nothing does yet.
	InForce() (s snapshot.Snapshot, ok bool)
	// Apply puts next into force; d leads to it from what serves. It returns when next serves and was
	// verified (nil), or else why it does not, and then what served still does.
	Apply(ctx context.Context, next snapshot.Snapshot, d snapshot.Delta) *tsujiv1.Refusal
}

// Config is what New needs.
type Config struct {
	// Servers are the control planes, HOST:PORT, unix:PATH or any target of gRPC. One is used at a time; the
	// next when its stream ends.
	Servers []string
	// Dial says how they are dialled. The transport credentials in it decide whom to trust.
	Dial []grpc.DialOption

	Name              string // the router's name
	Instance          string // of this process; empty: a random one
	IngressController string // the one that is served
	Zone              string // the one that the router is in
	RouterdVersion    string // for people
	HAProxyVersion    string // for people, and for whether a large change is sent in pieces
	BackendsByReload  bool   // backends are made by reloads whatever HAProxy can do
	MostConnections   uint32 // that its file descriptors allow, for people; zero: not known

	Applier  Applier
	Features []string // that this router has; a resource that requires another is refused
	Log      *slog.Logger

	// BackoffMin and BackoffMax bound the wait before the next attempt: a random part of BackoffMin, which
	// doubles with every failure up to BackoffMax. Zero: 500 ms and 30 s.
	BackoffMin, BackoffMax time.Duration
	// StagingLimit is how many bytes of a version that has not come into force yet are held; zero: 512 MiB.
	StagingLimit int
	// Metrics count; nil: nobody looks.
	Metrics *Metrics
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var errs []error
	for _, need := range []struct {
		what    string
		missing bool
	}{
		{"servers", len(c.Servers) == 0}, {"a name", c.Name == ""}, {"an ingress controller", c.IngressController == ""},
		{"a zone", c.Zone == ""}, {"an applier", c.Applier == nil}, {"a logger", c.Log == nil},
	} {
		if need.missing {
			errs = append(errs, fmt.Errorf("subscribe: %s must be given", need.what))
		}
	}
	if c.BackoffMin < 0 || c.BackoffMax < 0 || c.StagingLimit < 0 {
		errs = append(errs, errors.New("subscribe: a negative time or limit"))
	}
	return errors.Join(errs...)
}

// Set on purpose, and in step with what the control plane allows.
const (
	maxMessage       = 16 << 20         // bytes of a response; the server cuts at 1 MiB, or one resource
	keepaliveTime    = 30 * time.Second // of silence before the server is asked whether it is there
	keepaliveTimeout = 10 * time.Second // for its answer
	connectTimeout   = 10 * time.Second // for TCP and TLS with one address
	healthyAfter     = 10 * time.Second // a stream that lasted so long was worth its connection
)

// Status is how the following goes.
type Status struct {
	Connected bool             // whether there is a stream
	Server    string           // with whom, or with whom it was tried last
	Since     time.Time        // when Connected became what it is
	Failures  int              // attempts since the last stream that was worth it
	Error     string           // why the last stream ended; empty: none did
	Version   snapshot.Version // that was acked last, over any stream; zero: none
	Acked     time.Time        // when
	Refusal   *tsujiv1.Refusal // of the version that was refused last, until another is acked; nil: none
}

// Client follows a control plane.
type Client struct {
	conf    Config
	log     *slog.Logger
	metrics *Metrics
	dial    []grpc.DialOption
	random  func() float64 // in [0, 1)

	// For Run's goroutine only.
	resync bool // whether the next stream must not name what is in force: the last one's base did not fit

	mu       sync.Mutex
	status   Status            // guarded by mu
	observed *tsujiv1.Observed // guarded by mu; what came with observedAt; nil: unknown
	at       snapshot.Version  // guarded by mu; the version that observed belongs to
}

// New makes a client, which does nothing until Run.
func New(c Config) *Client {
	if c.Instance == "" {
		c.Instance = rand.Text()
	}
	if c.BackoffMin == 0 {
		c.BackoffMin = 500 * time.Millisecond
	}
	if c.BackoffMax == 0 {
		c.BackoffMax = 30 * time.Second
	}
	if c.StagingLimit == 0 {
		c.StagingLimit = 512 << 20
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	client := &Client{
		conf: c, log: c.Log, metrics: c.Metrics,
		random: mathrand.Float64, // spreads load; nothing is secret in it
		status: Status{Since: c.Now()},
	}
	client.dial = append([]grpc.DialOption{
		grpc.WithUserAgent("tsuji-routerd/" + c.RouterdVersion),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: connectTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithDisableServiceConfig(), // how the control plane is used is not DNS's to say
	}, c.Dial...)
	return client
}

// Run follows until ctx ends. It returns when everything that it started has ended; an error means that it
// could not begin.
func (c *Client) Run(ctx context.Context) error {
	if err := c.conf.Validate(); err != nil {
		return err
	}
	at := int(c.random() * float64(len(c.conf.Servers))) // so that not all routers begin with the first
	for failures := 0; ; {
		server := c.conf.Servers[at%len(c.conf.Servers)]
		at++
		healthy, err := c.follow(ctx, server)
		if ended(ctx) {
			c.failed(server, nil, 0)
			return nil
		}
		if healthy {
			failures = 0
		}
		pause := c.pause(failures)
		failures++
		c.failed(server, err, failures)
		stays := "what is in force stays"
		if _, ok := c.conf.Applier.InForce(); !ok {
			stays = "nothing is in force yet"
		}
		c.log.Warn("not following the control plane; "+stays, "server", server, "error", err, "next_attempt_in", pause.Round(time.Millisecond))
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// pause returns how long to wait after so many failures in a row: a random part of the whole, so that routers
// that lost the same server do not come back together.
func (c *Client) pause(failures int) time.Duration {
	return time.Duration(c.random() * float64(min(c.conf.BackoffMax, c.conf.BackoffMin<<min(failures, 16))))
}

func ended(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	default:
		return false
	}
}

// follow has one connection and one stream. healthy tells whether they were of use; err, why they ended.
func (c *Client) follow(ctx context.Context, server string) (healthy bool, err error) {
	// A connection of its own for each stream: gRPC's waits between attempts would come on top of ours.
	conn, err := grpc.NewClient(server, c.dial...)
	if err != nil {
		return false, fmt.Errorf("control plane %s: %w", server, err)
	}
	defer conn.Close()
	began := time.Now()
	s := newSession(c, server, c.resync)
	err = s.run(ctx, conn)
	var m *mismatchError
	switch {
	case errors.As(err, &m):
		c.metrics.Resyncs.WithLabelValues(m.reason).Inc()
		c.resync = true
	case s.settled.Load():
		c.resync = false
	}
	return s.settled.Load() && m == nil || time.Since(began) >= healthyAfter, err
}

// Status returns how the following goes.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	s.Refusal = proto.CloneOf(s.Refusal)
	return s
}

func (c *Client) connected(server string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.Connected, c.status.Server, c.status.Since = true, server, c.conf.Now()
	c.metrics.Connected.Set(1)
	c.metrics.Streams.Inc()
}

// lost notes that a stream has ended, or could not be had.
func (c *Client) lost(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status.Connected {
		c.status.Connected, c.status.Since = false, c.conf.Now()
	}
	if err != nil {
		c.status.Error = err.Error()
	}
	c.metrics.Connected.Set(0)
	c.metrics.Staged.Set(0)
}

// failed notes why an attempt came to its end, and how many in a row were worth nothing.
func (c *Client) failed(server string, err error, failures int) {
	c.lost(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.Server, c.status.Failures = server, failures
}

// acked notes that a version is in force and that the control plane is told so.
func (c *Client) acked(v snapshot.Version, o *tsujiv1.Observed) {
	c.metrics.Acked.Inc()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.observed, c.at = o, v
	c.status.Version, c.status.Acked, c.status.Refusal, c.status.Failures = v, c.conf.Now(), nil, 0
	c.metrics.LastAck.Set(float64(c.status.Acked.Unix()))
}

func (c *Client) refused(r *tsujiv1.Refusal) {
	c.metrics.Refused.WithLabelValues(r.GetClass().String()).Inc()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.Refusal = r
}

// observedOf returns how far the control plane had followed its source when it made this version, as far as
// is known.
func (c *Client) observedOf(v snapshot.Version) *tsujiv1.Observed {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.observed == nil || !c.at.Equal(v) {
		return nil
	}
	return c.observed
}
