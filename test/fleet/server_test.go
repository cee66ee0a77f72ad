package fleet_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/tsuji-dev/tsuji/controlplane"
	"github.com/tsuji-dev/tsuji/identity"
)

// Kinds of servers.
const (
	kindTsuji  = "tsuji"
	kindLinear = "LinearCache"
	kindBare   = "gRPC alone" // accepts streams, and says nothing: what any server pays for them
)

// serverConfig says what a server's process is to be.
type serverConfig struct {
	Kind   string
	Listen string // HOST:PORT
	Admin  string // HOST:PORT
	TLS    identity.Files
	Pairs  string // file of pairs, JSON
	Routes int
	Seed   uint64
	Replay int // changes that were made before it starts
}

// order is a line that a server is sent; it answers each with a report.
type order struct {
	Change      int    // so many changes are made
	Collect     bool   // garbage is collected before the heap is looked at
	Profile     string // file that a profile of the CPU is written to from now on
	StopProfile bool
}

// report is a server's answer.
type report struct {
	Revision   uint64 // after the changes
	At         int64  // when they were made, in nanoseconds since 1970
	CPU        time.Duration
	Heap       uint64 // bytes in use, stacks included
	Resident   uint64 // bytes of the process
	Goroutines int
}

// serve is a server's process. It ends with SIGTERM, or when nobody can send orders any more.
func serve(text string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var c serverConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return fmt.Errorf("%s: %w", serverVariable, err)
	}
	content, err := os.ReadFile(c.Pairs)
	if err != nil {
		return err
	}
	var pairs []pair
	if err := json.Unmarshal(content, &pairs); err != nil {
		return fmt.Errorf("%s: %w", c.Pairs, err)
	}
	s := newSource(newWorld(c.Seed, c.Routes, pairs), c.Replay)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.run(ctx, s) })
	go func() { // is not waited for: a read of a pipe has no end of its own
		obey(s)
		stop()
	}()
	return g.Wait()
}

func (c serverConfig) run(ctx context.Context, s *source) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	switch c.Kind {
	case kindTsuji:
		config := controlplane.Config{
			Source: s, Listen: c.Listen, Admin: c.Admin, TLS: c.TLS, TrustDomain: trustDomain, Version: "fleet", Log: log,
		}
		if err := config.Validate(); err != nil {
			return err
		}
		return controlplane.Run(ctx, config)
	case kindLinear:
		return c.runLinear(ctx, s, log)
	case kindBare:
		return c.runGRPC(ctx, silent{}, log)
	default:
		return fmt.Errorf("there is no server of kind %q", c.Kind)
	}
}

// obey answers orders until there are no more.
func obey(s *source) {
	lines, answers := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		r, err := o.carryOut(s)
		if err := errors.Join(err, answers.Encode(r)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
	}
}

func (o order) carryOut(s *source) (report, error) {
	if o.Profile != "" {
		f, err := os.Create(o.Profile)
		if err != nil {
			return report{}, err
		}
		if err := pprof.StartCPUProfile(f); err != nil { // the file is open until the process ends
			return report{}, err
		}
	}
	if o.StopProfile {
		pprof.StopCPUProfile()
	}
	r := report{}
	if o.Change > 0 {
		revision, at := s.change(o.Change)
		r.Revision, r.At = revision, at.UnixNano()
		return r, nil
	}
	r.CPU, r.Goroutines = processCPU(), runtime.NumGoroutine()
	if o.Collect {
		runtime.GC()
		runtime.GC() // what has a finalizer goes with the second
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	r.Heap = m.HeapAlloc + m.StackInuse
	r.Resident = resident()
	return r, nil
}

// processCPU is what this process has taken of the processors so far.
func processCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err) // only for arguments that make no sense
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident is how much memory this process has, in bytes; zero: unknown.
func resident() uint64 {
	content, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages uint64
	if _, err := fmt.Sscan(string(content), &size, &pages); err != nil && !errors.Is(err, io.EOF) {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}
