package manifests

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/test/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// never is longer than any test waits: what happens before was told by the system, not polled.
const never = time.Hour

// running starts a source over dir; the test's end ends it and waits for it.
func running(t *testing.T, c DirConfig) *Dir {
	t.Helper()
	if c.Poll == 0 {
		c.Poll = never
	}
	if c.Settle == 0 {
		c.Settle = 5 * time.Millisecond
	}
	d := newDir(t, c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return d
}

// has tells whether a mirror has a ConfigMap with that value.
func has(m *sourcetest.Mirror, name, value string) bool {
	o, ok := m.Objects[cluster.Key{Kind: cluster.ConfigMap, Namespace: "default", Name: name}]
	return ok && o.GetLabels()["v"] == value
}

func manifest(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: %s\n  labels: {v: %q}\n", name, value)
}

func write(t testing.TB, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

// However a file is saved, wherever it appears, the edit is noticed without polling.
func TestLiveEdits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(p string) string { return filepath.Join(dir, p) }
	write(t, at("a.yaml"), manifest("a", "1"))
	d := running(t, DirConfig{Path: dir})
	m := sourcetest.Mirror{Strict: true}
	m.Until(t, d, "first read", func() bool { return has(&m, "a", "1") })
	for _, step := range []struct {
		what string
		do   func()
		then func() bool
	}{
		{"written in place", func() { write(t, at("a.yaml"), manifest("a", "2")) }, func() bool { return has(&m, "a", "2") }},
		{"same size, same second", func() { write(t, at("a.yaml"), manifest("a", "3")) }, func() bool { return has(&m, "a", "3") }},
		{"saved by renaming", func() {
			write(t, at(".a.yaml.tmp"), manifest("a", "4"))
			must(t, os.Rename(at(".a.yaml.tmp"), at("a.yaml")))
		}, func() bool { return has(&m, "a", "4") }},
		{"new directories", func() { write(t, at("x/y/z/b.yaml"), manifest("b", "1")) }, func() bool { return has(&m, "b", "1") }},
		{"edited in a new directory", func() { write(t, at("x/y/z/b.yaml"), manifest("b", "2")) }, func() bool { return has(&m, "b", "2") }},
		{"directory renamed, then edited", func() {
			must(t, os.Rename(at("x"), at("w")))
			write(t, at("w/y/z/b.yaml"), manifest("b", "3"))
		}, func() bool { return has(&m, "b", "3") }},
		{"edited in a renamed directory", func() { write(t, at("w/y/z/b.yaml"), manifest("b", "4")) }, func() bool { return has(&m, "b", "4") }},
		{"broken", func() { write(t, at("a.yaml"), "kind: [") }, func() bool { return len(m.Faults) == 1 && has(&m, "a", "4") }},
		{"mended", func() { write(t, at("a.yaml"), manifest("a", "5")) }, func() bool { return len(m.Faults) == 0 && has(&m, "a", "5") }},
		{"directory removed", func() { must(t, os.RemoveAll(at("w"))) }, func() bool { return len(m.Objects) == 1 }},
		{"everything removed", func() { must(t, os.RemoveAll(dir)) }, func() bool { return len(m.Faults) == 1 && has(&m, "a", "5") }},
		{"put back", func() { write(t, at("a.yaml"), manifest("a", "6")) }, func() bool { return len(m.Faults) == 0 && has(&m, "a", "6") }},
		{"edited there", func() { write(t, at("a.yaml"), manifest("a", "7")) }, func() bool { return has(&m, "a", "7") }},
	} {
		step.do()
		m.Until(t, d, step.what, step.then)
	}
}

// A ConfigMap that is mounted is updated by exchanging one link, as the kubelet does it, time and again.
func TestMountedConfigMap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(p string) string { return filepath.Join(dir, p) }
	mount := func(n int) {
		name := fmt.Sprintf("..%d", n)
		write(t, at(name+"/a.yaml"), manifest("a", fmt.Sprint(n)))
		write(t, at(name+"/sub/b.yaml"), manifest("b", fmt.Sprint(n)))
		must(t, os.Symlink(name, at("..data_tmp")))
		must(t, os.Rename(at("..data_tmp"), at("..data")))
		must(t, os.RemoveAll(at(fmt.Sprintf("..%d", n-1))))
	}
	mount(1)
	must(t, os.Symlink("..data/a.yaml", at("a.yaml")))
	must(t, os.Symlink("..data/sub", at("sub")))
	d := running(t, DirConfig{Path: dir})
	m := sourcetest.Mirror{Strict: true}
	for n := 1; n <= 5; n++ {
		if n > 1 {
			mount(n)
		}
		m.Until(t, d, fmt.Sprint("mount ", n), func() bool {
			return has(&m, "a", fmt.Sprint(n)) && has(&m, "b", fmt.Sprint(n)) && len(m.Faults) == 0
		})
	}
}

// The whole directory may be a link that is exchanged, as releases are deployed; it may come late, too.
func TestDirectoryIsALink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "1/a.yaml"), manifest("a", "1"))
	write(t, filepath.Join(dir, "2/a.yaml"), manifest("a", "2"))
	d := running(t, DirConfig{Path: filepath.Join(dir, "current")})
	m := sourcetest.Mirror{Strict: true}
	m.Until(t, d, "nothing there", func() bool { return len(m.Faults) == 1 })
	if m.Synced {
		t.Fatal("synced with nothing")
	}
	must(t, os.Symlink("1", filepath.Join(dir, "current")))
	m.Until(t, d, "appears", func() bool { return m.Synced && has(&m, "a", "1") })
	must(t, os.Symlink("2", filepath.Join(dir, "next")))
	must(t, os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "current")))
	m.Until(t, d, "exchanged", func() bool { return has(&m, "a", "2") })
	write(t, filepath.Join(dir, "2/a.yaml"), manifest("a", "3"))
	m.Until(t, d, "edited", func() bool { return has(&m, "a", "3") })
}

// Without a word from the system, the poll finds the edit.
func TestPoll(t *testing.T) {
	t.Parallel()
	dir, elsewhere := t.TempDir(), t.TempDir()
	write(t, filepath.Join(elsewhere, "a.yaml"), manifest("a", "1"))
	must(t, os.Link(filepath.Join(elsewhere, "a.yaml"), filepath.Join(dir, "a.yaml"))) // nobody watches there
	d := running(t, DirConfig{Path: dir, Poll: 20 * time.Millisecond})
	m := sourcetest.Mirror{Strict: true}
	m.Until(t, d, "first read", func() bool { return has(&m, "a", "1") })
	write(t, filepath.Join(elsewhere, "a.yaml"), manifest("a", "2"))
	m.Until(t, d, "edit", func() bool { return has(&m, "a", "2") })
}

// A directory that is never quiet is read all the same.
func TestNeverQuiet(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), manifest("a", "0"))
	d := running(t, DirConfig{Path: dir, Settle: 40 * time.Millisecond})
	m := sourcetest.Mirror{Strict: true}
	m.Until(t, d, "first read", func() bool { return has(&m, "a", "0") })
	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for i := 1; ctx.Err() == nil; i++ {
			<-tick.C
			write(t, filepath.Join(dir, ".tmp"), manifest("a", fmt.Sprint(i)))
			_ = os.Rename(filepath.Join(dir, ".tmp"), filepath.Join(dir, "a.yaml"))
		}
	})
	m.Until(t, d, "an edit while more come", func() bool { return !has(&m, "a", "0") })
	cancel()
	writer.Wait()
}

// Many hands write, break and remove files while the source is followed: in the end it is what a fresh
// source reads.
func TestManyWriters(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "keep.yaml"), manifest("keep", "1"))
	d := running(t, DirConfig{Path: dir})
	var writers sync.WaitGroup
	for n := range 4 {
		writers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(n), 1))
			for i := range 60 {
				path := filepath.Join(dir, fmt.Sprint("d", r.IntN(3)), fmt.Sprintf("w%d-%d.yaml", n, r.IntN(4)))
				name := strings.TrimSuffix(filepath.Base(path), ".yaml")
				_ = os.MkdirAll(filepath.Dir(path), 0o755)
				switch r.IntN(4) {
				case 0:
					_ = os.RemoveAll(path)
				case 1:
					_ = os.WriteFile(path, []byte("kind: ["), 0o644)
				default:
					_ = os.WriteFile(path, []byte(manifest(name, fmt.Sprint(i))+"---\n"+manifest(name+"-b", fmt.Sprint(i))), 0o644)
				}
			}
		})
	}
	m := sourcetest.Mirror{Strict: true}
	finished := make(chan struct{})
	go func() { writers.Wait(); close(finished) }()
	for done := false; !done; {
		m.Until(t, d, "a change", func() bool { return true })
		select {
		case <-finished:
			done = true
		case <-d.Changed():
		}
	}
	// Mend what was left broken, so that nothing depends on the past.
	must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if b, _ := os.ReadFile(path); string(b) == "kind: [" {
			return os.Remove(path)
		}
		return err
	}))
	fresh := newDir(t, DirConfig{Path: dir})
	fresh.read(t.Context(), func(string) {})
	b, _ := fresh.Take()
	m.Until(t, d, "as a fresh source", func() bool {
		if len(m.Objects) != len(b.Changes) {
			return false
		}
		for _, c := range b.Changes {
			if !has(&m, c.Key.Name, c.Object.GetLabels()["v"]) {
				return false
			}
		}
		return true
	})
}

// Changes that nobody took are one change each, and none if they cancel out; Changed is open until there
// is something to take.
func TestCoalescing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
	clock := time.UnixMilli(1000)
	d := newDir(t, DirConfig{Path: dir, Now: func() time.Time { return clock }})
	read := func() { d.read(t.Context(), func(string) {}) }
	open := func(what string, want bool) {
		t.Helper()
		select {
		case <-d.Changed():
			if want {
				t.Errorf("%s: there should be nothing to take", what)
			}
		default:
			if !want {
				t.Errorf("%s: there should be something to take", what)
			}
		}
	}
	open("before the first read", true)
	write(t, a, manifest("a", "1"))
	read()
	open("after the first read", false)
	first, _ := d.Take()
	open("after Take", true)
	if first.Revision != 1000 || first.Observed.Epoch != "dir:"+d.epoch[4:] || len(first.Observed.Kinds) != len(cluster.Kinds()) || first.Observed.Kinds[0].Revision != 1000 {
		t.Errorf("first batch: revision %d, observed %v", first.Revision, first.Observed)
	}
	read()
	open("read again", true)

	write(t, a, manifest("a", "2"))
	read()
	write(t, a, manifest("a", "3"))
	write(t, b, manifest("b", "1"))
	read()
	must(t, os.Remove(b))
	read()
	batch, _ := d.Take()
	if len(batch.Changes) != 1 || batch.Changes[0].Object.GetLabels()["v"] != "3" || batch.Revision != 1003 {
		t.Errorf("want one change, at 1003, the clock standing still: %+v", batch)
	}
	if first.Changes[0].Object.GetLabels()["v"] != "1" {
		t.Error("an object was modified after it was handed out")
	}
	write(t, a, manifest("a", "4"))
	read()
	write(t, a, manifest("a", "3"))
	read()
	if batch, _ := d.Take(); len(batch.Changes) != 0 {
		t.Errorf("changed and changed back: %+v", batch.Changes)
	}
}

// A fault is logged when it appears and when it goes, once.
func TestFaultsAreLogged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var logged bytes.Buffer
	d := newDir(t, DirConfig{Path: dir, Log: slog.New(slog.NewTextHandler(&logged, nil))})
	write(t, filepath.Join(dir, "a.yaml"), manifest("a", "1"))
	write(t, filepath.Join(dir, "b.yaml"), "kind: [")
	for range 3 {
		d.read(t.Context(), func(string) {})
	}
	must(t, os.Remove(filepath.Join(dir, "b.yaml")))
	for range 3 {
		d.read(t.Context(), func(string) {})
	}
	if got := logged.String(); strings.Count(got, "place=b.yaml line=1") != 2 || strings.Count(got, "\n") != 2 || !strings.Contains(got, "mended") {
		t.Errorf("log:\n%s", got)
	}
}

// A file that may not be read keeps what it said.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root reads everything")
	}
	dir := t.TempDir()
	d := newDir(t, DirConfig{Path: dir})
	write(t, filepath.Join(dir, "a.yaml"), manifest("a", "1"))
	write(t, filepath.Join(dir, "sub/b.yaml"), manifest("b", "1"))
	d.read(t.Context(), func(string) {})
	d.Take()
	must(t, os.Chmod(filepath.Join(dir, "a.yaml"), 0))
	must(t, os.Chtimes(filepath.Join(dir, "a.yaml"), time.Now(), time.Now()))
	must(t, os.Chmod(filepath.Join(dir, "sub"), 0))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "sub"), 0o755) })
	d.read(t.Context(), func(string) {})
	b, _ := d.Take()
	if len(b.Changes) != 0 || len(b.Faults) != 2 {
		t.Errorf("want two faults and no change: %+v", b)
	}
}

// A source is run once, and is told everything it needs.
func TestConfig(t *testing.T) {
	t.Parallel()
	if _, err := NewDir(DirConfig{Settle: -1}); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("want every fault at once: %v", err)
	}
	d := newDir(t, DirConfig{Path: t.TempDir()})
	if want := "dir:" + d.path; d.String() != want {
		t.Errorf("String: %s", d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
	if d.Run(ctx) == nil {
		t.Error("it can be run twice")
	}
}
