package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/tsuji-dev/tsuji/snapshot"
)

// recovery is what was found on disk.
type recovery struct {
	held snapshot.Snapshot
	ok   bool
	// recorded is held's version as the files have it: another than held's own when they were written with
	// another schema epoch. Zero if nothing is held.
	recorded snapshot.Version
	base     int64     // size of the checkpoint
	usable   bool      // whether the journal can be gone on with, once it was cut at size
	size     int64     // where the last whole record of the journal that counts ends
	oldest   time.Time // when its first record was made; zero: it has none
}

// recoverAll reads the checkpoint, then the journal. What is of no use to this routerd is set aside and left out: what
// was in force comes from the control plane then, and a routerd that knows better, or a person, still finds the file.
func (s *Store) recoverAll() recovery {
	var r recovery
	whole := true
	if err := s.recoverCheckpoint(&r); err != nil {
		whole = false
		s.setAside(checkpointName, err)
	}
	if err := s.recoverJournal(&r); err != nil {
		r.usable = false
		s.setAside(journalName, err)
	}
	if !whole || r.recorded != r.held.Version() && r.ok {
		r.usable = false // written anew, in today's terms
	}
	return r
}

// recoverCheckpoint reads the checkpoint; that there is none is fine.
func (s *Store) recoverCheckpoint(r *recovery) error {
	f, size, err := openFile(s.dir, checkpointName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	held, recorded, err := readCheckpoint(f, size)
	if err != nil {
		return err
	}
	r.held, r.ok, r.recorded, r.base = held, true, recorded, size
	return nil
}

// readCheckpoint returns the snapshot, and its version as it is written there. It returns nothing but what
// was written whole: of the same schema epoch the digests agree, of another the checksums have to do.
func readCheckpoint(f io.Reader, size int64) (snapshot.Snapshot, snapshot.Version, error) {
	fail := func(err error) (snapshot.Snapshot, snapshot.Version, error) {
		return snapshot.Snapshot{}, snapshot.Version{}, err
	}
	r, epoch, err := readHeader(f, size, checkpointMagic)
	if err != nil {
		return fail(err)
	}
	parts := [2]*snapshot.Editor{snapshot.Set{}.Edit(), snapshot.Set{}.Edit()}
	for {
		t, payload, err := r.next()
		switch {
		case errors.Is(err, io.EOF):
			return fail(fmt.Errorf("no end: %w", errDamaged))
		case err != nil:
			return fail(err)
		case t == recordItems:
			if err := parseItems(payload,
				func(i snapshot.Item) { parts[snapshot.PartOf(i.Name())].Put(i) }); err != nil {
				return fail(err)
			}
		case t == recordEnd:
			e, err := parseEnd(payload)
			if err != nil {
				return fail(err)
			}
			held := snapshot.New(e.version.Revision, parts[snapshot.Config].Set(), parts[snapshot.Facts].Set())
			if r.left != 0 || held.Len() != e.count || epoch == snapshot.Epoch && held.Version() != e.version {
				return fail(fmt.Errorf("it does not make version %s: %w", e.version.Short(), errDamaged))
			}
			return held, e.version, nil
		default:
			return fail(fmt.Errorf("record of type %d: %w", t, errDamaged))
		}
	}
}

// recoverJournal applies the journal's records to what the checkpoint held. Records from before the
// checkpoint are passed over: they are there if the process ended between writing it and a new journal.
func (s *Store) recoverJournal(r *recovery) error {
	f, size, err := openFile(s.dir, journalName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	records, epoch, err := readHeader(f, size, journalMagic)
	if err != nil {
		return err
	}
	r.usable, r.size = epoch == snapshot.Epoch, headerSize
	var last snapshot.Version // where the records passed over lead
	for first := true; ; first = false {
		t, payload, err := records.next()
		if errors.Is(err, io.EOF) {
			break
		}
		var c change
		if err == nil && t == recordChange {
			c, err = parseChange(payload)
		} else if err == nil {
			err = fmt.Errorf("record of type %d: %w", t, errDamaged)
		}
		if err == nil && first {
			r.oldest = c.at
			if now := s.conf.Now(); c.at.After(now) {
				r.oldest = now // the clock was set back
			}
		}
		if err == nil && !c.from.Equal(r.recorded) {
			if r.size != headerSize {
				err = fmt.Errorf("a record that does not follow from the one before: %w", errDamaged)
			} else {
				last = c.to
				continue
			}
		}
		if err == nil {
			err = r.apply(c, epoch)
		}
		if errors.Is(err, errDamaged) {
			s.log.Warn("the journal of what was in force ends in a record that is not whole; it is left out, and what follows",
				"directory", s.conf.Dir, "at", r.size, "bytes", size-r.size, "version", r.recorded.Short(), "error", err)
			break
		}
		if err != nil {
			return err
		}
		r.size = records.off
	}
	if r.size == headerSize && size != headerSize {
		r.usable = false // nothing in it counts
		if !last.IsZero() && !last.Equal(r.recorded) {
			return fmt.Errorf("it leads to version %s and does not follow from the checkpoint, version %s",
				last.Short(), r.recorded.Short())
		}
	}
	return nil
}

// apply puts a change in, if it leads where it says.
func (r *recovery) apply(c change, epoch uint32) error {
	next := r.held.Apply(c.to.Revision, c.delta)
	if next.Len() != c.count || epoch == snapshot.Epoch && next.Version() != c.to {
		return fmt.Errorf("a record that does not make version %s: %w", c.to.Short(), errDamaged)
	}
	r.held, r.ok, r.recorded = next, true, c.to
	return nil
}
