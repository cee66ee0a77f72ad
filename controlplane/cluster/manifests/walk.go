package manifests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// What is read of a directory at most.
const (
	maxFile  = 256 << 20 // bytes of one file
	maxBytes = 1 << 30   // bytes of all of them
	maxFiles = 100_000   // manifests
	maxNames = 500_000   // names of whatever there is, which all are looked at
	maxDepth = 32        // directories one in the other
)

// bounds are those of one source.
type bounds struct {
	file, bytes  int64
	files, names int
}

func ordinaryBounds() bounds {
	return bounds{file: maxFile, bytes: maxBytes, files: maxFiles, names: maxNames}
}

// A found is a manifest that a walk came across.
type found struct {
	path string // relative, with slashes
	info fs.FileInfo
	err  error // it cannot be looked at
}

// A walk is one look at the names below a directory. Each file and each directory is come across once, however many
// links lead to it, and by its own name if it has one. Nothing is followed out of the directory.
type walk struct {
	top   *os.Root
	most  bounds
	visit func(dir string) // called before each directory is listed
	files []found          // in the order of their paths
	// dirs are those that could not be listed: nobody knows what is in them.
	dirs map[string]error

	seen  map[inode]bool
	links []string // which are looked at when all that is no link was
	names int
	cut   bool // there are more names than are looked at
}

// An inode is a file or a directory, whatever its names are.
type inode struct{ device, number uint64 }

// What is wrong with a name that a walk came across.
var (
	errOutside = errors.New("it is a link that leads out of the directory, or is absolute")
	errDeep    = fmt.Errorf("it is more than %d directories deep", maxDepth)
)

// escapes is how package os says that a link leads out of an [os.Root], for which it has no exported error.
const escapes = "path escapes from parent"

// newWalk looks at the names below root, which may be a link itself. An error means that root cannot be listed, or
// that ctx has ended. The caller closes it.
func newWalk(ctx context.Context, root string, most bounds, visit func(dir string)) (*walk, error) {
	top, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	w := &walk{top: top, most: most, visit: visit, dirs: map[string]error{}, seen: map[inode]bool{}}
	err = w.dir(ctx, ".")
	for i := 0; err == nil && i < len(w.links); i++ {
		link := w.links[i]
		info, failed := top.Stat(link)
		if failed != nil && reason(failed) == escapes {
			if is, err := os.Stat(filepath.Join(root, filepath.FromSlash(link))); !isManifest(link) &&
				(err != nil || !is.IsDir()) {
				continue // nothing that would be read
			}
			failed = errOutside
		}
		err = w.take(ctx, link, info, failed)
	}
	if err != nil {
		_ = top.Close() // it was only read
		return nil, fmt.Errorf("list %s: %w", root, err)
	}
	slices.SortFunc(w.files, func(a, b found) int { return strings.Compare(a.path, b.path) })
	return w, nil
}

func (w *walk) close() { _ = w.top.Close() } // it was only read

// readOnly opens a file without waiting for anybody who writes to it.
const readOnly = os.O_RDONLY | syscall.O_NONBLOCK

// open opens a file that was come across.
func (w *walk) open(rel string) (*os.File, error) {
	return w.top.OpenFile(filepath.FromSlash(rel), readOnly, 0) //nolint:wrapcheck // the caller says what it is about
}

// dir looks at one directory.
func (w *walk) dir(ctx context.Context, rel string) error {
	w.visit(filepath.Join(w.top.Name(), filepath.FromSlash(rel)))
	f, err := w.top.OpenFile(rel, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err //nolint:wrapcheck // the caller says what it is about
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !w.first(info) {
		return err //nolint:wrapcheck // the same
	}
	entries, err := w.list(ctx, f)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ignored(e.Name()) || e.Type().IsRegular() && !isManifest(e.Name()) {
			continue
		}
		p := path.Join(rel, e.Name())
		if e.Type()&fs.ModeSymlink != 0 {
			w.links = append(w.links, p)
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) { // it went away just now
			continue
		}
		if err := w.take(ctx, p, info, err); err != nil {
			return err
		}
	}
	return nil
}

// list returns what stands in a directory by name, of which there may be more than will be looked at.
func (w *walk) list(ctx context.Context, dir *os.File) ([]fs.DirEntry, error) {
	const batch = 1000
	var all []fs.DirEntry
	for ctx.Err() == nil {
		if w.names >= w.most.names {
			w.cut = true
			break
		}
		entries, err := dir.ReadDir(min(batch, w.most.names-w.names))
		w.names += len(entries)
		all = append(all, entries...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err //nolint:wrapcheck // the caller's caller says what it is about
		}
	}
	slices.SortFunc(all, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return all, ctx.Err() //nolint:wrapcheck // whoever ended it knows
}

// take takes what a name is, or err why that is not known. It returns an error if ctx has ended.
func (w *walk) take(ctx context.Context, p string, info fs.FileInfo, err error) error {
	switch {
	case err != nil && isManifest(p):
		w.files = append(w.files, found{path: p, err: err})
	case err != nil: // a link to nothing, that may have been to a directory
		w.dirs[p] = err
	case info.IsDir():
		err := errDeep
		if strings.Count(p, "/") < maxDepth {
			err = w.dir(ctx, p)
		}
		if ctx.Err() != nil {
			return ctx.Err() //nolint:wrapcheck // whoever ended it knows
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.dirs[p] = err
		}
	case isManifest(p) && w.first(info):
		w.files = append(w.files, found{path: p, info: info})
	}
	return nil
}

// first tells whether a file or directory was not come across before.
func (w *walk) first(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true
	}
	id := inode{uint64(s.Dev), s.Ino} //nolint:unconvert // it has another size on other systems
	if w.seen[id] {
		return false
	}
	w.seen[id] = true
	return true
}

// ignored tells whether a name is none of a manifest or a directory of them: hidden, or an editor's.
func ignored(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") || strings.HasPrefix(name, "#") &&
		strings.HasSuffix(name, "#")
}

// isManifest tells whether a file of that name is read.
func isManifest(name string) bool {
	switch path.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// reason is the part of a file's error that does not name the file again.
func reason(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}
