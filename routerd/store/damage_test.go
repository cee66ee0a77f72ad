package store

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tsuji-dev/tsuji/snapshot"
)

// written is a store's files and what was in force after each record.
type written struct {
	checkpoint, journal []byte
	states              []snapshot.Snapshot // [0]: the checkpoint's
	ends                []int               // where the record that led to states[i] ends in the journal
}

// write makes a store with a checkpoint and n records in its journal.
func write(t testing.TB, n int, change func(i int, s snapshot.Snapshot) snapshot.Snapshot) written {
	t.Helper()
	p := newPlace(t)
	s := p.open()
	p.append(s, first)
	if err := s.compact(); err != nil {
		t.Fatal(err)
	}
	w := written{states: []snapshot.Snapshot{first}, ends: []int{headerSize}}
	next := first
	for i := range n {
		next = change(i, next)
		p.append(s, next)
		w.states = append(w.states, next)
		w.ends = append(w.ends, int(s.size))
	}
	p.close(s)
	w.checkpoint, w.journal = p.read(checkpointName), p.read(journalName)
	return w
}

// upTo returns what was in force when the journal had n bytes.
func (w written) upTo(n int) snapshot.Snapshot {
	last := 0
	for i, e := range w.ends {
		if e <= n {
			last = i
		}
	}
	return w.states[last]
}

// small is a journal of a few short records.
func small(t testing.TB) written {
	return write(t, 5, func(i int, s snapshot.Snapshot) snapshot.Snapshot {
		return put(s, fmt.Sprintf("route/shop/r%d=%d", i%2, i), "cert/shop/route:web="+secret+fmt.Sprint(i))
	})
}

// damagedPlace is a directory that damaged files are put into again and again.
func damagedPlace(t testing.TB) *place {
	p := newPlace(t)
	p.conf.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return p
}

// A journal that ends at any byte is recovered to its last whole record, and can be gone on with.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	w, p := small(t), damagedPlace(t)
	for n := range len(w.journal) + 1 {
		p.write(checkpointName, w.checkpoint)
		p.write(journalName, w.journal[:n])
		s := p.open()
		got, ok := s.Snapshot()
		check(t, fmt.Sprintf("cut at %d of %d", n, len(w.journal)), got, ok, w.upTo(n))
		if n%7 == 0 {
			next := put(got, "settings=afterwards")
			p.append(s, next)
			p.close(s)
			got, ok = p.reopened()
			check(t, fmt.Sprintf("cut at %d and gone on with", n), got, ok, next)
		} else if err := s.closeFiles(); err != nil { // as killed: nothing synced
			t.Fatal(err)
		}
	}
}

// A journal with any byte changed is recovered to the record before.
func TestFlipAnywhere(t *testing.T) {
	t.Parallel()
	w, p := small(t), damagedPlace(t)
	for n := range w.journal {
		b := bytes.Clone(w.journal)
		b[n] ^= 1 << (n % 8)
		p.write(checkpointName, w.checkpoint)
		p.write(journalName, b)
		s := p.open()
		got, ok := s.Snapshot()
		check(t, fmt.Sprintf("flipped at %d of %d", n, len(b)), got, ok, w.upTo(n))
		if err := s.closeFiles(); err != nil {
			t.Fatal(err)
		}
	}
}

// A checkpoint that is cut or has a byte changed holds nothing, rather than something else.
func TestDamagedCheckpoint(t *testing.T) {
	t.Parallel()
	w, p := small(t), damagedPlace(t)
	for n := range w.checkpoint {
		flipped := bytes.Clone(w.checkpoint)
		flipped[n] ^= 1 << (n % 8)
		for what, b := range map[string][]byte{"cut": w.checkpoint[:n], "flipped": flipped} {
			p.write(checkpointName, b)
			p.write(journalName, w.journal)
			s := p.open()
			if got, ok := s.Snapshot(); ok {
				t.Fatalf("%s at %d: recovered %s", what, n, got.Version().Short())
			}
			if err := s.closeFiles(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Larger journals, cut or changed in several places: what is recovered was in force once, and is the last
// before the first damage.
func TestDamageProperty(t *testing.T) {
	t.Parallel()
	w := write(t, 40, func(i int, s snapshot.Snapshot) snapshot.Snapshot {
		next := put(s, fmt.Sprintf("route/shop/r%d=%s", i%13, bytes.Repeat([]byte{byte(i)}, i*37%900)), fmt.Sprintf("cert/shop/route:c%d=%d", i%5, i))
		if i%3 == 0 {
			next = put(next, fmt.Sprintf("route/shop/r%d", (i+5)%13))
		}
		return next
	})
	p := damagedPlace(t)
	rapid.Check(t, func(t *rapid.T) {
		b := bytes.Clone(w.journal)
		sound := len(b)
		for range rapid.IntRange(0, 3).Draw(t, "flips") {
			at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
			b[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "with"))
		}
		if rapid.Bool().Draw(t, "cut") {
			b = b[:rapid.IntRange(0, len(b)).Draw(t, "length")]
		}
		if rapid.Bool().Draw(t, "more") {
			b = append(b, rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "garbage")...)
		}
		for n := range min(len(b), len(w.journal)) {
			if b[n] != w.journal[n] {
				sound = min(sound, n)
			}
		}
		sound = min(sound, len(b))
		p.write(checkpointName, w.checkpoint)
		p.write(journalName, b)
		s, err := Open(p.conf)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.closeFiles() }()
		want := w.upTo(sound)
		if got, ok := s.Snapshot(); !ok || got.Version() != want.Version() {
			t.Fatalf("recovered %s, want %s (sound up to %d)", got.Version().Short(), want.Version().Short(), sound)
		}
	})
}

// Whole records in the wrong order, twice, or left out are not applied.
func TestRecordsOutOfOrder(t *testing.T) {
	t.Parallel()
	w, p := small(t), damagedPlace(t)
	record := func(i int) []byte { return w.journal[w.ends[i-1]:w.ends[i]] }
	for what, c := range map[string]struct {
		records []int
		want    int
	}{
		"left out":      {[]int{1, 2, 4, 5}, 2},
		"twice":         {[]int{1, 2, 2, 3}, 2},
		"swapped":       {[]int{1, 3, 2}, 1},
		"first missing": {[]int{2, 3}, 0},
	} {
		b := bytes.Clone(w.journal[:headerSize])
		for _, i := range c.records {
			b = append(b, record(i)...)
		}
		p.write(checkpointName, w.checkpoint)
		p.write(journalName, b)
		got, ok := p.reopened()
		check(t, what, got, ok, w.states[c.want])
	}
}

// Whatever stands in the files, reading them ends, with something that was written whole or with nothing.
func FuzzRecover(f *testing.F) {
	w := small(f)
	f.Add(w.checkpoint, w.journal)
	f.Add(w.checkpoint[:30], []byte{})
	f.Fuzz(func(t *testing.T, checkpoint, journal []byte) {
		held, recorded, err := readCheckpoint(bytes.NewReader(checkpoint), int64(len(checkpoint)))
		if err == nil && recorded.Revision != held.Version().Revision {
			t.Error("a checkpoint of two minds")
		}
		r, _, err := readHeader(bytes.NewReader(journal), int64(len(journal)), journalMagic)
		if err != nil {
			return
		}
		for {
			_, payload, err := r.next()
			if err != nil {
				return
			}
			c, err := parseChange(payload)
			if err != nil {
				continue
			}
			// What is read can be written, and is read as the same again.
			again, err := parseChange(c.append(nil))
			if err != nil || again.to != c.to || len(again.delta.Put) != len(c.delta.Put) || !again.at.Equal(c.at.Truncate(time.Millisecond)) {
				t.Errorf("read again: %v", err)
			}
		}
	})
}

// Records whose checksum is right and whose content is nonsense end recovery as well.
func TestNonsense(t *testing.T) {
	t.Parallel()
	w, p := small(t), damagedPlace(t)
	sound := change{from: w.states[5].Version(), to: w.states[5].Version(), count: w.states[5].Len()}.append(nil)
	huge := append(bytes.Clone(sound[:len(sound)-2]), 0xff, 0xff, 0xff, 0xff, 0x7f) // puts a great many
	for what, record := range map[string][]byte{
		"empty":          frame(recordChange, func(b []byte) []byte { return b }),
		"another type":   frame(recordItems, func(b []byte) []byte { return append(b, sound...) }),
		"cut short":      frame(recordChange, func(b []byte) []byte { return append(b, sound[:100]...) }),
		"too long":       frame(recordChange, func(b []byte) []byte { return append(append(b, sound...), 0) }),
		"a huge number":  frame(recordChange, func(b []byte) []byte { return append(b, huge...) }),
		"another result": frame(recordChange, change{from: w.states[5].Version(), to: w.states[1].Version(), count: w.states[5].Len()}.append),
	} {
		p.write(checkpointName, w.checkpoint)
		p.write(journalName, append(bytes.Clone(w.journal), record...))
		got, ok := p.reopened()
		check(t, what, got, ok, w.states[5])
		if n := len(p.read(journalName)); n != len(w.journal) {
			t.Errorf("%s: the journal was left with %d bytes, want %d", what, n, len(w.journal))
		}
	}
}
