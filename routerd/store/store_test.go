package store

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tsuji-dev/tsuji/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// secret is in every certificate of these tests, and may be in no log line and no error.
const secret = "MIIEsecretKEYmaterial"

// logbook is a log that can be read while it is written.
type logbook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// place is a directory with a store, opened and closed again in a test.
type place struct {
	t    testing.TB
	dir  string
	log  *logbook
	conf Config
}

func newPlace(t testing.TB) *place {
	p := &place{t: t, dir: filepath.Join(t.TempDir(), "state"), log: &logbook{}}
	p.conf = Config{Dir: p.dir, Log: slog.New(slog.NewTextHandler(p.log, nil)), SyncEvery: time.Millisecond}
	t.Cleanup(func() {
		if strings.Contains(p.log.String(), secret) {
			t.Errorf("the log shows a key:\n%s", p.log)
		}
	})
	return p
}

func (p *place) open() *Store {
	p.t.Helper()
	s, err := Open(p.conf)
	if err != nil {
		p.t.Fatalf("open: %v\n%s", err, p.log)
	}
	return s
}

func (p *place) close(s *Store) {
	p.t.Helper()
	if err := s.Close(); err != nil {
		p.t.Fatal(err)
	}
}

// reopened returns what a process that starts now finds.
func (p *place) reopened() (snapshot.Snapshot, bool) {
	p.t.Helper()
	s := p.open()
	defer p.close(s)
	return s.Snapshot()
}

func (p *place) read(name string) []byte {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

func (p *place) write(name string, b []byte) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), b, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// put changes a snapshot: name=content sets, name alone removes.
func put(s snapshot.Snapshot, changes ...string) snapshot.Snapshot {
	var d snapshot.Delta
	for _, c := range changes {
		if name, content, ok := strings.Cut(c, "="); ok {
			d.Put = append(d.Put, snapshot.NewItem(name, []byte(content)))
		} else {
			d.Removed = append(d.Removed, c)
		}
	}
	return s.Apply(s.Version().Revision+1, d)
}

func (p *place) append(s *Store, next snapshot.Snapshot) {
	p.t.Helper()
	held, _ := s.Snapshot()
	if err := s.Append(next, snapshot.Diff(held, next)); err != nil {
		p.t.Fatal(err)
	}
}

func check(t testing.TB, what string, got snapshot.Snapshot, ok bool, want snapshot.Snapshot) {
	t.Helper()
	if !ok || got.Version() != want.Version() || got.Len() != want.Len() {
		t.Fatalf("%s: %s of %d resources (%v), want %s of %d", what, got.Version().Short(), got.Len(), ok, want.Version().Short(), want.Len())
	}
}

func (p *place) run(s *Store) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			p.t.Error(err)
		}
	}
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

var (
	first  = put(snapshot.Snapshot{}, "settings=s", "route/shop/web=r", "cert/shop/route:web="+secret)
	second = put(first, "endpoints/shop/web/*=e", "route/shop/web=changed")
	third  = put(second, "cert/shop/route:web", "route/shop/web")
)

// What was in force is there again after a restart: nothing at first, then the last that was appended,
// whether the process closed the store or was killed.
func TestRestart(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	if _, ok := p.reopened(); ok {
		t.Error("a new directory holds something")
	}
	s := p.open()
	p.append(s, first)
	p.append(s, second)
	killed := newPlace(t) // a copy of what a kill would leave
	if err := os.MkdirAll(killed.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	killed.write(journalName, p.read(journalName))
	got, ok := killed.reopened()
	check(t, "after a kill", got, ok, second)
	p.append(s, third)
	p.close(s)
	got, ok = p.reopened()
	check(t, "after closing", got, ok, third)
	if strings.Contains(p.log.String()+killed.log.String(), "level=") {
		t.Errorf("logged without need:\n%s%s", p.log, killed.log)
	}
}

// An empty snapshot in force is something, not nothing.
func TestEmptySnapshot(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.open()
	p.append(s, snapshot.Snapshot{})
	p.close(s)
	got, ok := p.reopened()
	check(t, "empty", got, ok, snapshot.Snapshot{})
}

// A difference that does not lead to what is to be recorded is not believed.
func TestAppendOfWrongDifference(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.open()
	p.append(s, first)
	for _, next := range []snapshot.Snapshot{second, third} {
		if err := s.Append(next, snapshot.Diff(second, first)); err != nil {
			t.Fatal(err)
		}
	}
	size := len(p.read(journalName))
	p.append(s, put(third, "settings=s")) // equal content costs nothing
	if got := len(p.read(journalName)); got != size {
		t.Errorf("equal content took %d bytes", got-size)
	}
	p.close(s)
	got, ok := p.reopened()
	check(t, "reopened", got, ok, third)
	if err := s.Append(first, snapshot.Delta{}); err == nil {
		t.Error("a closed store took a change")
	}
}

// A key that was removed is in neither file once the journal's time is over, and what is in force still is.
func TestRemovedKeysLeaveTheDisk(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	var mu sync.Mutex
	now := time.Unix(1_000_000, 0)
	p.conf.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	s := p.open()
	p.append(s, put(snapshot.Snapshot{}, "settings=r"))
	if err := s.compact(); err != nil { // the first checkpoint
		t.Fatal(err)
	}
	p.append(s, first)
	p.append(s, third)
	p.close(s) // the age of a journal survives a restart
	if !bytes.Contains(p.read(journalName), []byte(secret)) {
		t.Fatal("the journal should have the key still")
	}
	mu.Lock()
	now = now.Add(51 * time.Minute)
	mu.Unlock()
	s = p.open()
	stop := p.run(s)
	eventually(t, "the key leaves the disk", func() bool { return !bytes.Contains(p.read(journalName), []byte(secret)) })
	p.append(s, put(third, "settings=t"))
	stop()
	p.close(s)
	for _, name := range []string{journalName, checkpointName} {
		if bytes.Contains(p.read(name), []byte(secret)) {
			t.Errorf("the key is in the %s", name)
		}
	}
	got, ok := p.reopened()
	check(t, "reopened", got, ok, put(third, "settings=t"))
}

// A journal that outgrew its checkpoint is compacted while changes go on coming, and none is lost.
func TestCompactionUnderChanges(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.open()
	stop := p.run(s)
	next := first
	for i := range 200 {
		next = put(next, fmt.Sprintf("route/shop/r%d=%s", i%40, strings.Repeat(fmt.Sprint(i), 20_000)))
		p.append(s, next)
	}
	eventually(t, "compaction", func() bool { return !s.compactionDue() && s.untilSynced() })
	last := put(next, "settings=end")
	p.append(s, last)
	stop()
	p.close(s)
	if b := p.read(checkpointName); len(b) < 40*20_000 {
		t.Errorf("the checkpoint has %d bytes", len(b))
	}
	got, ok := p.reopened()
	check(t, "reopened", got, ok, last)
}

func (s *Store) untilSynced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.unsynced
}

// A change that is appended while the checkpoint is being written begins the new journal.
func TestAppendDuringCompaction(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.open()
	p.append(s, first)
	if err := s.compact(); err != nil {
		t.Fatal(err)
	}
	p.append(s, second)
	if err := s.renew(first, true, s.base); err != nil { // as if first had been what the checkpoint took
		t.Fatal(err)
	}
	p.append(s, third)
	p.close(s)
	got, ok := p.reopened()
	check(t, "reopened", got, ok, third)
}

// The process ends between the new checkpoint and the new journal: the old journal goes on from it, also
// when it came by the checkpoint's version twice.
func TestCrashInCompaction(t *testing.T) {
	t.Parallel()
	for what, steps := range map[string][]snapshot.Snapshot{
		"nothing since":   {first, second},
		"changed since":   {first, second, third},
		"there and back":  {first, second, first, second},
		"back in between": {second, first, second, third},
	} {
		p := newPlace(t)
		s := p.open()
		for _, next := range steps {
			p.append(s, next)
		}
		journal := p.read(journalName)
		s.mu.Lock()
		s.held = second // what compaction took before the last changes
		s.mu.Unlock()
		if err := s.compact(); err != nil {
			t.Fatal(err)
		}
		p.close(s)
		p.write(journalName, journal)
		p.write(checkpointName+temporary, []byte("half a checkpoint with "+secret))
		got, ok := p.reopened()
		check(t, what, got, ok, steps[len(steps)-1])
		got, ok = p.reopened()
		check(t, what+", once more", got, ok, steps[len(steps)-1])
		if _, err := os.Stat(filepath.Join(p.dir, checkpointName+temporary)); !os.IsNotExist(err) {
			t.Errorf("%s: the unfinished file is still there: %v", what, err)
		}
	}
}

// A journal that cannot be written any more is replaced, with all that came meanwhile.
func TestJournalFails(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.open()
	p.append(s, first)
	s.journal.Close() // as good as a broken disk
	if err := s.Append(second, snapshot.Diff(first, second)); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("append to a broken journal: %v", err)
	}
	if err := s.Append(third, snapshot.Diff(second, third)); err == nil {
		t.Error("append after a failure: no error, and it is not on disk")
	}
	got, ok := s.Snapshot()
	check(t, "in memory", got, ok, third)
	stop := p.run(s)
	eventually(t, "the journal is renewed", func() bool { return !s.compactionDue() })
	last := put(third, "settings=end")
	p.append(s, last)
	stop()
	p.close(s)
	got, ok = p.reopened()
	check(t, "reopened", got, ok, last)
}

// An unfinished file that cannot be removed is named, for it may hold keys; once it can be, all is well, and
// a journal that makes no sense costs only itself.
func TestUnfinishedStays(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.open()
	p.append(s, first)
	if err := s.compact(); err != nil {
		t.Fatal(err)
	}
	p.close(s)
	p.write(journalName, []byte("damaged"))
	if err := os.MkdirAll(filepath.Join(p.dir, journalName+temporary, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(p.conf); err == nil || !strings.Contains(err.Error(), journalName+temporary) {
		t.Errorf("what cannot be removed: %v", err)
	}
	if err := os.Remove(filepath.Join(p.dir, journalName+temporary, "x")); err != nil {
		t.Fatal(err)
	}
	got, ok := p.reopened()
	check(t, "reopened", got, ok, first)
}

// A sync that fails may have lost what it should have kept: all is written anew.
func TestSyncFails(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.open()
	p.append(s, first)
	s.journal.Close() // as good as a broken disk
	s.sync()
	if !s.compactionDue() {
		t.Error("the journal is gone on with")
	}
	p.close(s)
	if len(p.read(checkpointName)) < len(secret) {
		t.Error("there is no checkpoint")
	}
	got, ok := p.reopened()
	check(t, "reopened", got, ok, first)
}

// While the disk takes nothing, what is in force is remembered, it is said once, and it is written as soon as
// the disk takes it again, at the latest by Close.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.open()
	p.append(s, first)
	obstacle := filepath.Join(p.dir, checkpointName+temporary, "x")
	if err := os.MkdirAll(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	s.journal.Close()
	stop := p.run(s)
	if err := s.Append(second, snapshot.Diff(first, second)); err == nil {
		t.Error("appended to a broken journal")
	}
	eventually(t, "it is said", func() bool { return strings.Contains(p.log.String(), "cannot be written to disk") })
	if err := s.Append(third, snapshot.Diff(second, third)); err == nil {
		t.Error("appended to a broken journal")
	}
	stop()
	if n := strings.Count(p.log.String(), "cannot be written to disk"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	if err := os.RemoveAll(filepath.Dir(obstacle)); err != nil {
		t.Fatal(err)
	}
	p.close(s)
	got, ok := p.reopened()
	check(t, "reopened", got, ok, third)
}

// A store that cannot write at its end says so.
func TestCloseOnFullDisk(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.open()
	p.append(s, first)
	if err := os.MkdirAll(filepath.Join(p.dir, checkpointName+temporary, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.journal.Close()
	_ = s.Append(second, snapshot.Diff(first, second))
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), checkpointName) {
		t.Errorf("closed with %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
}
