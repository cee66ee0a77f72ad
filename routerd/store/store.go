// Package store is the snapshot that is in force, on disk: a checkpoint, and a journal of the differences
// that were put into force since.
//
// It guarantees that Open returns a snapshot that was in force once, whole and with the digests it had, or
// none: the last one whose record reached the disk. A record reaches the disk within a second while Run
// runs; what a kernel has taken survives the end of the process at once. A resource that was removed or
// replaced, a private key perhaps, leaves both files within an hour. Nothing of a resource but names is
// ever in a log line or an error.
//
// Do not assume that Append having returned nil means that power may fail: that takes up to a second more.
// One process at a time may have a store open, which is seen to.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/tsuji-dev/tsuji/snapshot"
)

// Config is what Open needs.
type Config struct {
	// Dir is the directory, which nobody but the user of this process may have access to. It is made if it
	// is not there.
	Dir string
	// Log receives what was repaired, and what could not be written.
	Log *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// SyncEvery is how long changes are gathered before they are synced together; zero: 500 ms.
	SyncEvery time.Duration
	// CompactAfter is the age that a journal may reach; zero: 50 minutes. What was removed is on disk for so
	// long.
	CompactAfter time.Duration
	// CompactFactor is how many times the checkpoint's size the journal may have; zero: 2. Below 1 MiB the
	// size of a journal does not matter.
	CompactFactor int
	// Metrics count; nil: nobody looks.
	Metrics *Metrics
}

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("store: no directory"))
	}
	if c.Log == nil {
		errs = append(errs, errors.New("store: no logger"))
	}
	if c.SyncEvery < 0 || c.CompactAfter < 0 || c.CompactFactor < 0 {
		errs = append(errs, errors.New("store: a negative interval or factor"))
	}
	return errors.Join(errs...)
}

// Metrics are what a store counts.
type Metrics struct {
	Appended        prometheus.Counter // changes recorded
	Synced          prometheus.Counter // batches that reached the disk
	Compactions     prometheus.Counter
	Failures        prometheus.Counter // writes and syncs that failed
	SetAside        prometheus.Counter // files that could not be used
	JournalBytes    prometheus.Gauge
	CheckpointBytes prometheus.Gauge
}

// NewMetrics makes metrics, and registers them if r is not nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	f := promauto.With(r)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Namespace: "tsuji", Subsystem: "store", Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return f.NewGauge(prometheus.GaugeOpts{Namespace: "tsuji", Subsystem: "store", Name: name, Help: help})
	}
	return &Metrics{
		Appended:        counter("appended_total", "Changes recorded in the journal."),
		Synced:          counter("synced_total", "Batches of changes that reached the disk."),
		Compactions:     counter("compactions_total", "Checkpoints written in the place of a journal."),
		Failures:        counter("failures_total", "Writes and syncs that failed."),
		SetAside:        counter("set_aside_total", "Files that were damaged or of another format, and were renamed."),
		JournalBytes:    gauge("journal_bytes", "Size of the journal."),
		CheckpointBytes: gauge("checkpoint_bytes", "Size of the checkpoint."),
	}
}

// Names in the directory.
const (
	lockName       = "store.lock"
	checkpointName = "checkpoint"
	journalName    = "journal"
	temporary      = ".tmp" // ends the name of what is not whole yet
)

// minCompact is the size in bytes below which a journal is not compacted for its size.
const minCompact = 1 << 20

// Store is an open store.
type Store struct {
	conf Config
	log  *slog.Logger
	dir  *os.Root
	lock *os.File
	wake chan struct{} // of capacity 1: there is something to sync

	running sync.Mutex // held by Run, and by Close: who syncs and compacts

	mu       sync.Mutex
	held     snapshot.Snapshot // guarded by mu; what was last appended or recovered
	ok       bool              // guarded by mu; whether held is anything
	journal  *os.File          // guarded by mu for writing; replaced only by who has running too. nil: failed
	size     int64             // guarded by mu; of the journal
	base     int64             // guarded by mu; of the checkpoint
	oldest   time.Time         // guarded by mu; of the journal's first record; zero: it has none
	unsynced bool              // guarded by mu; whether the journal has what the disk may not have
	failed   error             // guarded by mu; the journal cannot be gone on with: only a compaction helps
	closed   bool              // guarded by mu
}

var errClosed = errors.New("the store is closed")

// Open opens the store in a directory, makes it if there is none, and recovers what was in force: the
// checkpoint and each whole record of the journal. A file that is damaged, or of a format that it does not know, is set
// aside. It refuses a directory that others have access to, and one that another process has open.
func Open(c Config) (*Store, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.SyncEvery == 0 {
		c.SyncEvery = 500 * time.Millisecond
	}
	if c.CompactAfter == 0 {
		c.CompactAfter = 50 * time.Minute
	}
	if c.CompactFactor == 0 {
		c.CompactFactor = 2
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	dir, lock, err := openDir(c.Dir)
	if err != nil {
		return nil, err
	}
	s := &Store{conf: c, log: c.Log, dir: dir, lock: lock, wake: make(chan struct{}, 1)}
	if err := s.open(); err != nil {
		_ = s.closeFiles()
		return nil, fmt.Errorf("open store in %s: %w", c.Dir, err)
	}
	return s, nil
}

// open recovers what is there, and makes the journal ready to be gone on with.
func (s *Store) open() error {
	for _, name := range []string{checkpointName, journalName} { // left behind by a process that was killed
		if err := s.dir.Remove(name + temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove an unfinished %s: %w", name, err)
		}
	}
	r := s.recoverAll()
	s.held, s.ok, s.base, s.oldest = r.held, r.ok, r.base, r.oldest
	var err error
	if r.usable {
		s.journal, err = s.dir.OpenFile(journalName, os.O_WRONLY|os.O_APPEND, 0o600)
		if err == nil {
			err = s.journal.Truncate(r.size)
		}
		s.size = r.size
		s.unsynced = true // perhaps: the process before may not have come to it
		s.poke()
	}
	if !r.usable || err != nil {
		if err = s.compact(); err != nil {
			// What is served must not depend on a disk that is full: go on, and try again.
			s.fail(fmt.Errorf("renew the journal: %w", err))
		}
	}
	s.gauge()
	return nil
}

// Snapshot returns what was last appended, or else recovered; ok is false if there is nothing.
func (s *Store) Snapshot() (held snapshot.Snapshot, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held, s.ok
}

// Append records that next is in force; d leads to it from what Snapshot returns. A difference that does not
// lead there is not trusted, and the right one is found.
//
// An error says that next is not on disk. The store remembers it all the same, goes on trying as long as Run
// runs, and takes the next difference from there.
func (s *Store) Append(next snapshot.Snapshot, d snapshot.Delta) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("record version %s: %w", next.Version().Short(), errClosed)
	}
	if s.ok && s.held.Version().Equal(next.Version()) {
		return nil
	}
	c := change{at: s.conf.Now(), to: next.Version(), count: next.Len(), delta: d}
	if s.ok {
		c.from = s.held.Version()
	}
	if !s.held.Apply(c.to.Revision, d).Version().Equal(c.to) {
		c.delta = snapshot.Diff(s.held, next)
	}
	s.held, s.ok = next, true
	defer s.poke()
	if s.failed != nil {
		return fmt.Errorf("record version %s: the journal failed before: %w", c.to.Short(), s.failed)
	}
	n, err := s.journal.Write(frame(recordChange, c.append))
	s.size += int64(n)
	s.unsynced = true
	if err != nil {
		err = fmt.Errorf("record version %s: %w", c.to.Short(), err)
		s.failed = err // there may be half a record at the end, which nothing may follow
		s.conf.Metrics.Failures.Inc()
		return err
	}
	if s.oldest.IsZero() {
		s.oldest = c.at
	}
	s.conf.Metrics.Appended.Inc()
	s.conf.Metrics.JournalBytes.Set(float64(s.size))
	return nil
}

// Run syncs what is appended and compacts the journal, until ctx ends; then it syncs a last time.
func (s *Store) Run(ctx context.Context) error {
	s.running.Lock()
	defer s.running.Unlock()
	var retry time.Duration // after a compaction that failed, doubling
	var notBefore time.Time // when to try again
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-s.wake:
			wait(ctx, s.conf.SyncEvery) // what else comes meanwhile is synced along
		case <-time.After(max(s.untilCompaction(), time.Until(notBefore))):
		}
		s.sync()
		if !s.compactionDue() {
			retry = 0
			continue
		}
		if time.Now().Before(notBefore) {
			continue
		}
		err := s.compact()
		if err == nil {
			retry = 0
			continue
		}
		if retry == 0 {
			s.log.Error("what is in force cannot be written to disk; trying again", "directory", s.conf.Dir, "error", err)
		}
		retry = min(max(2*retry, time.Second), time.Minute)
		notBefore = time.Now().Add(retry)
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Close syncs what was appended, closes the files, and lets go of the directory. Run must be over, or end.
func (s *Store) Close() error {
	s.running.Lock()
	defer s.running.Unlock()
	s.sync()
	var err error
	if s.compactionDue() { // after a failure, the last chance
		err = s.compact()
	}
	return errors.Join(err, s.closeFiles())
}

func (s *Store) closeFiles() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var errs []error
	if s.journal != nil {
		errs = append(errs, s.journal.Close())
	}
	errs = append(errs, s.lock.Close(), s.dir.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close store in %s: %w", s.conf.Dir, err)
	}
	return nil
}

// poke wakes Run.
func (s *Store) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Store) fail(err error) {
	s.conf.Metrics.Failures.Inc()
	s.log.Error("the journal of what is in force failed; a new one will be begun", "directory", s.conf.Dir, "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
	s.poke()
}

func (s *Store) gauge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conf.Metrics.JournalBytes.Set(float64(s.size))
	s.conf.Metrics.CheckpointBytes.Set(float64(s.base))
}
