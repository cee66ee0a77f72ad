package manifests

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/tsuji-dev/tsuji/test/sourcetest"
)

// Links that lead to links cost as much as there are: each directory is listed once. Two in each of 64 directories would be
// 2^64 ways.
func TestLinksOfLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const levels = 64
	for i := range levels {
		write(t, filepath.Join(dir, fmt.Sprintf("d%02d/x.yaml", i)), manifest(fmt.Sprint("m", i), "1"))
		for _, name := range []string{"a", "b"} {
			must(t, os.Symlink(fmt.Sprintf("../d%02d", (i+1)%levels), filepath.Join(dir, fmt.Sprintf("d%02d/%s", i, name))))
		}
	}
	// The same among directories that have no name of their own that is read.
	for i := range levels {
		write(t, filepath.Join(dir, fmt.Sprintf(".h%02d/x.yaml", i)), manifest(fmt.Sprint("h", i), "1"))
		for _, name := range []string{"a", "b"} {
			must(t, os.Symlink(fmt.Sprintf("../.h%02d", (i+1)%levels), filepath.Join(dir, fmt.Sprintf(".h%02d/%s", i, name))))
		}
	}
	must(t, os.Symlink(".h00", filepath.Join(dir, "h")))
	d := newDir(t, DirConfig{Path: dir})
	visited := 0
	d.read(t.Context(), func(string) { visited++ })
	b, _ := d.Take()
	shown := 0
	for _, c := range b.Changes {
		if strings.HasPrefix(c.Key.Name, "m") {
			shown++
		}
	}
	if shown != levels || visited > 4*levels+1 {
		t.Errorf("%d objects of %d directories with two links each, which were listed %d times", shown, levels, visited)
	}
}

// A source reads no more than its bounds. What it knows comes first, and stays; the fault says what is not read.
func TestDirBounds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what string
		most bounds
		want string
	}{
		{"files", bounds{file: 1 << 20, bytes: 1 << 20, files: 4, names: 1000}, "there are more manifests than are read, which is 4 with 1 MiB together: 12 new ones are not, the first of them a10.yaml"},
		{"bytes", bounds{file: 1 << 20, bytes: 8 * int64(len(manifest("z0", "1"))), files: 100, names: 1000}, "new ones are not, the first of them a"},
		{"names", bounds{file: 1 << 20, bytes: 1 << 20, files: 100, names: 5}, "there are more than 5 names below the directory, and not all were looked at; what was read before stays in force"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			d := newDir(t, DirConfig{Path: dir})
			d.most = c.most
			m := sourcetest.Mirror{Strict: true}
			read := func() {
				d.read(t.Context(), func(string) {})
				m.Until(t, d, "read", func() bool { return true })
			}
			write(t, filepath.Join(dir, "z0.yaml"), manifest("z0", "1"))
			write(t, filepath.Join(dir, "z1.yaml"), manifest("z1", "1"))
			read()
			if len(m.Faults) > 0 {
				t.Fatalf("faults within bounds: %v", m.Faults)
			}
			for i := range 14 { // they come first by name
				write(t, filepath.Join(dir, fmt.Sprintf("a%d.yaml", i)), manifest(fmt.Sprint("a", i), "1"))
			}
			write(t, filepath.Join(dir, "z0.yaml"), manifest("z0", "2"))
			read()
			if !has(&m, "z1", "1") || c.what != "names" && !has(&m, "z0", "2") || !has(&m, "z0", "1") && !has(&m, "z0", "2") {
				t.Errorf("what was there before is not: %v", m.Objects)
			}
			if len(m.Objects) >= 16 || len(m.Faults) != 1 || !strings.Contains(m.Faults[0].String(), c.want) {
				t.Errorf("%d objects, faults %v; want a fault with %q", len(m.Objects), m.Faults, c.want)
			}
			for i := range 14 {
				must(t, os.Remove(filepath.Join(dir, fmt.Sprintf("a%d.yaml", i))))
			}
			read()
			if len(m.Faults) > 0 || len(m.Objects) != 2 || !has(&m, "z0", "2") {
				t.Errorf("within bounds again: %v, faults %v", m.Objects, m.Faults)
			}
		})
	}
}

// Directories are followed to a depth that no one has.
func TestDirDepth(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	deep := strings.Repeat("d/", maxDepth)
	write(t, filepath.Join(dir, deep, "a.yaml"), manifest("a", "1"))
	write(t, filepath.Join(dir, deep, "d/b.yaml"), manifest("b", "1"))
	d := newDir(t, DirConfig{Path: dir})
	d.read(t.Context(), func(string) {})
	b, _ := d.Take()
	if len(b.Changes) != 1 || b.Changes[0].Key.Name != "a" || len(b.Faults) != 1 || !strings.Contains(b.Faults[0].Message, "more than 32 directories deep") {
		t.Errorf("changes %v, faults %v", b.Changes, b.Faults)
	}
}

// Between the look at a name and its reading there may come another file of that name: one that nobody writes to,
// or that grows. Neither holds up the source.
func TestFileIsExchanged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	write(t, path, manifest("a", "1"))
	info, err := os.Stat(path)
	must(t, err)
	is := found{path: "a.yaml", info: info}
	open := func() (*os.File, error) { return os.OpenFile(path, readOnly, 0) }

	must(t, os.Remove(path))
	must(t, unix.Mkfifo(path, 0o600))
	got := make(chan error, 1)
	go func() {
		_, err := content(is, 1000, open)
		got <- err
	}()
	select {
	case err := <-got:
		if !errors.Is(err, errNotOrdinary) {
			t.Errorf("a FIFO in place of a file: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it waits for somebody to write into the FIFO")
	}

	must(t, os.Remove(path))
	write(t, path, strings.Repeat("# \n", 1000))
	if _, err := content(is, 1000, open); !errors.Is(err, errLarge) {
		t.Errorf("a file that grew beyond what is read: %v", err)
	}
	must(t, os.Remove(path))
	if _, err := content(is, 1000, open); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that went away: %v", err)
	}
}

// Whatever files are called, faults can be printed, and sent as a protobuf.
func TestOddNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"\x1b[2J.yaml", "a\nb.yaml", "\xff\xfe.yaml", "\u202egnp.yaml", "\x7f", "with space.yaml", "日本.yaml"} {
		if !strings.HasSuffix(name, ".yaml") {
			must(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
			name += "/x.yaml"
		}
		write(t, filepath.Join(dir, name), "kind: [")
		write(t, filepath.Join(dir, strings.TrimSuffix(name, ".yaml")+"-good.yaml"), manifest("same", "1"))
	}
	must(t, os.Symlink("/etc/\x1bpasswd", filepath.Join(dir, "\x1blink.yaml")))
	d := newDir(t, DirConfig{Path: dir})
	d.read(t.Context(), func(string) {})
	b, _ := d.Take()
	if len(b.Changes) != 1 || len(b.Faults) != 7+6+1 {
		t.Errorf("changes %v, %d faults", b.Changes, len(b.Faults))
	}
	var places []string
	for _, f := range b.Faults {
		s := f.String()
		if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x202e }) {
			t.Errorf("fault %q", s)
		}
		places = append(places, f.Place)
	}
	for _, want := range []string{`\x1b[2J.yaml`, `a\nb.yaml`, `\xff\xfe.yaml`, `\u202egnp.yaml`, `\x7f/x.yaml`, "with space.yaml", "日本.yaml"} {
		if !strings.Contains(strings.Join(places, "|"), want) {
			t.Errorf("no fault at %s: %q", want, places)
		}
	}
}

// A source that is told to end does not look at the rest of a large directory first, and takes nothing for gone.
func TestWalkEnds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 50 {
		write(t, filepath.Join(dir, fmt.Sprintf("d%d/a.yaml", i)), manifest(fmt.Sprint("a", i), "1"))
	}
	d := newDir(t, DirConfig{Path: dir})
	d.read(t.Context(), func(string) {})
	d.Take()
	ctx, cancel := context.WithCancel(t.Context())
	visited := 0
	d.read(ctx, func(string) {
		if visited++; visited == 3 {
			cancel()
		}
	})
	if b, synced := d.Take(); visited > 4 || !synced || len(b.Changes) > 0 || len(b.Faults) > 0 {
		t.Errorf("%d directories were visited, changes %v, faults %v", visited, b.Changes, b.Faults)
	}
}
