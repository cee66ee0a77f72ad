package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/snapshot"
)

// A directory that others have access to, that is a link, or is none, is refused with what to do about it;
// one that is not there is made for us alone.
func TestDirectory(t *testing.T) {
	t.Parallel()
	mkdir := func(mode os.FileMode) func(*place) {
		return func(p *place) {
			if err := os.Mkdir(p.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(p.dir, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	for what, c := range map[string]struct {
		prepare func(*place)
		want    string
	}{
		"absent":         {func(*place) {}, ""},
		"ours":           {mkdir(0o700), ""},
		"group may read": {mkdir(0o740), "chmod 0700"},
		"others may go":  {mkdir(0o701), "chmod 0700"},
		"a link": {func(p *place) {
			mkdir(0o700)(p)
			to := p.dir + "-link"
			if err := os.Symlink(p.dir, to); err != nil {
				t.Fatal(err)
			}
			p.conf.Dir = to
		}, "symbolic link"},
		"a file": {func(p *place) {
			if err := os.WriteFile(p.dir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a directory"},
	} {
		p := newPlace(t)
		c.prepare(p)
		s, err := Open(p.conf)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			p.close(s)
			if i, err := os.Stat(p.dir); err != nil || i.Mode().Perm() != 0o700 {
				t.Errorf("%s: mode %v, %v", what, i.Mode(), err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), p.conf.Dir) {
			t.Errorf("%s: %v, want a hint of %q", what, err, c.want)
		}
	}
}

// A directory of another user's is refused. (Only root can make one for the test.)
func TestForeignDirectory(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give a directory to another user")
	}
	p := newPlace(t)
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(p.dir, 12345, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(p.conf); err == nil || !strings.Contains(err.Error(), "user 12345") {
		t.Errorf("opened another's directory: %v", err)
	}
}

// Two routerds cannot share a directory; when the first has gone the second may.
func TestLock(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.open()
	if _, err := Open(p.conf); err == nil || !strings.Contains(err.Error(), "another routerd (process ") {
		t.Errorf("opened twice: %v", err)
	}
	p.close(s)
	p.close(p.open())
}

// All files are for their owner only, also ones that came back from a backup looser.
func TestFileModes(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.open()
	p.append(s, first)
	if err := s.compact(); err != nil {
		t.Fatal(err)
	}
	p.close(s)
	for _, name := range []string{checkpointName, journalName} {
		if err := os.Chmod(filepath.Join(p.dir, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p.close(p.open())
	entries, err := os.ReadDir(p.dir)
	if err != nil || len(entries) != 3 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	for _, e := range entries {
		if i, err := e.Info(); err != nil || i.Mode() != 0o600 {
			t.Errorf("%s has mode %v, %v", e.Name(), i.Mode(), err)
		}
	}
}

// setHeader changes format and epoch of a file, with a right checksum.
func setHeader(b []byte, format, epoch uint32) []byte {
	h := binary.BigEndian.AppendUint32(append([]byte{}, b[:8]...), format)
	h = binary.BigEndian.AppendUint32(h, epoch)
	h = binary.BigEndian.AppendUint32(h, crc32.Checksum(h, castagnoli))
	return append(h, b[headerSize:]...)
}

// A file of another format, one that is damaged, or none at all is set aside as it is, told, and holds up nothing: what the other
// file has is served, and what comes next is recorded. The last three are kept.
func TestSetAside(t *testing.T) {
	t.Parallel()
	type bad struct {
		name string
		make func(b []byte) []byte // nil: a directory stands in its place
	}
	newer := func(b []byte) []byte { return setHeader(b, format+1, snapshot.Epoch) }
	for what, c := range map[string]struct {
		bad
		left *snapshot.Snapshot // that is served; nil: none
	}{
		"a newer checkpoint":   {bad{checkpointName, newer}, nil},
		"a newer journal":      {bad{journalName, newer}, &first},
		"a damaged checkpoint": {bad{checkpointName, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }}, nil},
		"a damaged journal":    {bad{journalName, func(b []byte) []byte { return b[3:] }}, &first},
		"no checkpoint":        {bad{checkpointName, nil}, nil},
		"no journal":           {bad{journalName, nil}, &first},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			s := p.open()
			p.append(s, first)
			if err := s.compact(); err != nil {
				t.Fatal(err)
			}
			p.append(s, second)
			p.close(s)
			var was []byte
			for i := range keptAside + 2 { // again and again
				if i > 0 {
					s := p.open()
					p.append(s, put(second, fmt.Sprintf("settings=%d", i)))
					p.append(s, first)
					if err := s.compact(); err != nil {
						t.Fatal(err)
					}
					p.append(s, second)
					p.close(s)
				}
				if was = nil; c.make != nil {
					was = c.make(p.read(c.name))
					p.write(c.name, was)
				} else if err := errors.Join(os.Remove(filepath.Join(p.dir, c.name)), os.Mkdir(filepath.Join(p.dir, c.name), 0o700)); err != nil {
					t.Fatal(err)
				}
				s := p.open()
				got, ok := s.Snapshot()
				if c.left != nil {
					check(t, what, got, ok, *c.left)
				} else if ok {
					t.Fatalf("serves %s", got.Version().Short())
				}
				p.append(s, third)
				p.close(s)
				got, ok = p.reopened()
				check(t, what+", and what comes next", got, ok, third)
			}
			kept, err := filepath.Glob(filepath.Join(p.dir, c.name+".unusable-*"))
			if err != nil || len(kept) != keptAside {
				t.Errorf("kept are %v", kept)
			}
			if c.make != nil && string(p.read(c.name+".unusable-1")) != string(was) {
				t.Error("it was not kept as it is")
			}
			if !strings.Contains(p.log.String(), "set aside") || !strings.Contains(p.log.String(), "kept_as="+c.name+".unusable-1") {
				t.Errorf("the log does not say so:\n%s", p.log)
			}
		})
	}
}

// The first checkpoint is written as soon as there is something to write, not when the journal is old.
func TestFirstCheckpoint(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.open()
	p.append(s, first)
	stop := p.run(s)
	eventually(t, "there is a checkpoint", func() bool {
		_, err := os.Stat(filepath.Join(p.dir, checkpointName))
		return err == nil
	})
	stop()
	if err := s.closeFiles(); err != nil { // as killed
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(p.dir, journalName)); err != nil {
		t.Fatal(err)
	}
	got, ok := p.reopened()
	check(t, "of the checkpoint alone", got, ok, first)
}

// A release that digests otherwise still finds what was in force, and writes it anew in its own terms.
func TestOtherEpoch(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.open()
	p.append(s, first)
	if err := s.compact(); err != nil {
		t.Fatal(err)
	}
	p.append(s, second)
	p.append(s, third)
	p.close(s)
	// The digests that the other release would have made, the same in both files, are other ones.
	other := func(v snapshot.Version) snapshot.Version {
		v.Config[0] ^= 0xff
		return v
	}
	checkpoint, journal := header(checkpointMagic), header(journalMagic)
	checkpoint = append(checkpoint, frame(recordItems, func(b []byte) []byte {
		for _, i := range first.Sorted() {
			b = appendItem(b, i)
		}
		return b
	})...)
	checkpoint = append(checkpoint, frame(recordEnd, end{other(first.Version()), first.Len()}.append)...)
	from := first
	for _, to := range []snapshot.Snapshot{second, third} {
		c := change{from: other(from.Version()), to: other(to.Version()), count: to.Len(), delta: snapshot.Diff(from, to)}
		journal = append(journal, frame(recordChange, c.append)...)
		from = to
	}
	p.write(checkpointName, setHeader(checkpoint, format, snapshot.Epoch+1))
	p.write(journalName, setHeader(journal, format, snapshot.Epoch+1))
	got, ok := p.reopened()
	check(t, "of another epoch", got, ok, third)
	if got := p.read(checkpointName); string(got[:headerSize]) != string(header(checkpointMagic)) {
		t.Error("it was not written anew")
	}
	got, ok = p.reopened()
	check(t, "written anew", got, ok, third)
}

// A checkpoint whose digests do not fit its content is of no use, though every checksum is right.
func TestCheckpointOfOtherContent(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.open()
	p.append(s, first)
	if err := s.compact(); err != nil {
		t.Fatal(err)
	}
	p.close(s)
	forged := append(header(checkpointMagic), frame(recordEnd, end{first.Version(), 0}.append)...)
	p.write(checkpointName, forged)
	if got, ok := p.reopened(); ok {
		t.Errorf("recovered %s", got.Version().Short())
	}
	if !strings.Contains(p.log.String(), "level=ERROR") {
		t.Errorf("the log does not say so:\n%s", p.log)
	}
}

// A configuration is checked whole.
func TestValidate(t *testing.T) {
	t.Parallel()
	_, err := Open(Config{SyncEvery: -1})
	for _, want := range []string{"no directory", "no logger", "negative"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}
