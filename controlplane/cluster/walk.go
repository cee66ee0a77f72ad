package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// maxFile is the largest file that is read, in bytes.
const maxFile = 256 << 20

// maxDepth is how deep directories are followed, which ends links that lead in circles.
const maxDepth = 32

// A found is a manifest that a walk came across.
type found struct {
	path string // relative, with slashes
	info fs.FileInfo
	err  error // it cannot be looked at
}

// A walk is one look at the names below a directory.
type walk struct {
	root  string
	visit func(dir string) // called before each directory is listed
	files []found          // in the order of their paths
	// dirs are those that could not be listed: nobody knows what is in them.
	dirs map[string]error
}

// newWalk looks at the names below root. An error means that root itself cannot be listed.
func newWalk(root string, visit func(dir string)) (*walk, error) {
	w := &walk{root: root, visit: visit, dirs: map[string]error{}}
	info, err := os.Stat(root)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", root, err)
	}
	if err := w.dir("", []fs.FileInfo{info}); err != nil {
		return nil, fmt.Errorf("list %s: %w", root, err)
	}
	slices.SortFunc(w.files, func(a, b found) int { return strings.Compare(a.path, b.path) })
	return w, nil
}

// dir looks at one directory; above are it and those that it is in.
func (w *walk) dir(rel string, above []fs.FileInfo) error {
	abs := filepath.Join(w.root, filepath.FromSlash(rel))
	w.visit(abs)
	entries, err := os.ReadDir(abs)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ignored(e.Name()) || e.Type().IsRegular() && !isManifest(e.Name()) {
			continue
		}
		p := path.Join(rel, e.Name())
		info, err := os.Stat(filepath.Join(abs, e.Name())) // follows links: a mounted ConfigMap is made of them
		switch {
		case err != nil && errors.Is(err, fs.ErrNotExist) && e.Type()&fs.ModeSymlink == 0:
			// It went away just now.
		case err != nil && isManifest(p):
			w.files = append(w.files, found{path: p, err: err})
		case err != nil: // a link to nothing, that may have been to a directory
			if e.Type()&fs.ModeSymlink != 0 {
				w.dirs[p] = err
			}
		case info.IsDir():
			if len(above) > maxDepth || slices.ContainsFunc(above, func(a fs.FileInfo) bool { return os.SameFile(a, info) }) {
				continue
			}
			if err := w.dir(p, append(above[:len(above):len(above)], info)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				w.dirs[p] = err
			}
		case isManifest(p):
			w.files = append(w.files, found{path: p, info: info})
		}
	}
	return nil
}

// ignored tells whether a name is none of a manifest or a directory of them: hidden, or an editor's.
func ignored(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") || strings.HasPrefix(name, "#") && strings.HasSuffix(name, "#")
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
