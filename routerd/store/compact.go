package store

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/tsuji-dev/tsuji/snapshot"
)

// sync makes what was appended last. The caller has running.
func (s *Store) sync() {
	s.mu.Lock()
	journal, due := s.journal, s.unsynced && s.failed == nil && !s.closed
	s.unsynced = false
	s.mu.Unlock()
	if !due {
		return
	}
	if err := journal.Sync(); err != nil {
		// What the kernel could not write it may have dropped, and will not try again.
		s.fail(fmt.Errorf("sync the journal: %w", err))
		return
	}
	s.conf.Metrics.Synced.Inc()
}

// untilCompaction returns how long the journal may stay.
func (s *Store) untilCompaction() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.failed != nil:
		return 0
	case s.oldest.IsZero():
		return s.conf.CompactAfter
	case s.base == 0:
		return 0
	}
	return max(0, s.oldest.Add(s.conf.CompactAfter).Sub(s.conf.Now()))
}

func (s *Store) compactionDue() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return false
	case s.failed != nil:
		return true
	case s.oldest.IsZero():
		return false
	case s.base == 0: // the first checkpoint does not wait: a journal is worth nothing without its first record
		return true
	case s.size > minCompact && s.size > s.base*int64(s.conf.CompactFactor):
		return true
	default:
		return !s.conf.Now().Before(s.oldest.Add(s.conf.CompactAfter))
	}
}

// compact writes what is held as a checkpoint and begins a new journal. Changes may be appended meanwhile;
// they wait only for the new journal, which begins with what they changed. The caller has running.
//
// A process that ends in between leaves the new checkpoint with the old journal, which recovery reads from
// the record that follows from the checkpoint.
func (s *Store) compact() error {
	err := s.rewrite()
	if err != nil {
		s.conf.Metrics.Failures.Inc()
		return err
	}
	s.conf.Metrics.Compactions.Inc()
	s.gauge()
	return nil
}

func (s *Store) rewrite() error {
	s.mu.Lock()
	written, ok := s.held, s.ok
	s.mu.Unlock()
	var size int64
	if ok {
		err := replace(s.dir, checkpointName, func(w io.Writer) (err error) {
			size, err = writeCheckpoint(w, written)
			return err
		})
		if err != nil {
			return err
		}
		if err := syncDir(s.dir); err != nil {
			return err
		}
	}
	if err := s.renew(written, ok, size); err != nil {
		return err
	}
	return syncDir(s.dir)
}

// renew puts a new journal in the place of the old one.
func (s *Store) renew(written snapshot.Snapshot, ok bool, base int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	content, oldest := header(journalMagic), time.Time{}
	if s.ok && (!ok || !s.held.Version().Equal(written.Version())) {
		c := change{at: s.conf.Now(), to: s.held.Version(), count: s.held.Len(), delta: snapshot.Diff(written, s.held)}
		if ok {
			c.from = written.Version()
		}
		content, oldest = append(content, frame(recordChange, c.append)...), c.at
	}
	err := replace(s.dir, journalName, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
	if err != nil {
		return err
	}
	journal, err := s.dir.OpenFile(journalName, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		// The old file has no name any more: what went there would be lost.
		s.failed = fmt.Errorf("open the new journal: %w", err)
		return s.failed
	}
	if s.journal != nil {
		_ = s.journal.Close() // nothing in it counts any more
	}
	s.journal, s.size, s.base, s.oldest = journal, int64(len(content)), base, oldest
	s.failed, s.unsynced = nil, false
	return nil
}

// writeCheckpoint writes a whole checkpoint and returns its size.
func writeCheckpoint(w io.Writer, held snapshot.Snapshot) (int64, error) {
	const batch = 64 << 10 // bytes of items in a record, about
	b := bufio.NewWriterSize(w, batch)
	size := int64(0)
	write := func(p []byte) { // bufio keeps the first error for Flush
		n, _ := b.Write(p)
		size += int64(n)
	}
	write(header(checkpointMagic))
	var items []byte
	flush := func() {
		if len(items) > 0 {
			write(frame(recordItems, func(b []byte) []byte { return append(b, items...) }))
			items = items[:0]
		}
	}
	for _, part := range []snapshot.Set{held.Config(), held.Facts()} {
		for i := range part.All() {
			if items = appendItem(items, i); len(items) > batch {
				flush()
			}
		}
	}
	flush()
	write(frame(recordEnd, end{version: held.Version(), count: held.Len()}.append))
	if err := b.Flush(); err != nil {
		return 0, err
	}
	return size, nil
}
