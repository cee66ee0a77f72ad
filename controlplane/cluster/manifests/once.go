package manifests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

// Stdin is the path that stands for the standard input.
const Stdin = "-"

// Place is where in a file an object stands.
type Place struct {
	Path string
	Line int // from 1
}

// String returns "routes.yaml:12".
func (p Place) String() string { return fmt.Sprintf("%s:%d", p.Path, p.Line) }

// Contents is what files say, read once.
type Contents struct {
	// Changes has the objects, sorted by key.
	Changes []cluster.Change
	// Places tells where each object stands.
	Places map[cluster.Key]Place
	// Faults are what is wrong, sorted by place and line. Places are as the paths were given.
	Faults []cluster.Fault
}

// Read reads files as a [Dir] reads those in its directory: each path is a file, a directory or
// [Stdin]. A file that is named is read whatever its name is. An error means that a path cannot be read at
// all; everything else that is wrong is a fault.
func Read(ctx context.Context, paths []string, stdin io.Reader) (Contents, error) {
	d := noDirectory()
	files := map[string]*file{}
	var faults []cluster.Fault
	var errs []error
	for _, path := range paths {
		more, err := d.once(ctx, path, stdin, files)
		faults, errs = append(faults, more...), append(errs, err)
	}
	if err := errors.Join(append(errs, ctx.Err())...); err != nil {
		return Contents{}, err
	}
	for _, f := range files {
		faults = append(faults, f.faults...)
	}
	d.commit(files)
	for _, fs := range d.doubles {
		faults = append(faults, fs...)
	}
	for i := range faults {
		faults[i] = faults[i].Printable()
	}
	m := Contents{Places: map[cluster.Key]Place{}, Faults: cluster.SortFaults(faults)}
	for _, key := range slices.SortedFunc(maps.Keys(d.current), cluster.Key.Compare) {
		m.Changes = append(m.Changes, cluster.Change{Key: key, Object: d.current[key]})
		m.Places[key] = Place{Path: d.claims[key][0].path, Line: d.claims[key][0].line}
	}
	return m, nil
}

// noDirectory returns a Dir of no directory, for what it does with files.
func noDirectory() *Dir {
	return &Dir{
		decoder: newDecoder(), files: map[string]*file{}, claims: map[cluster.Key][]claim{},
		doubles: map[cluster.Key][]cluster.Fault{}, current: map[cluster.Key]metav1.Object{},
	}
}

// once reads one path into files. It returns faults that are in no file.
func (d *Dir) once(ctx context.Context, path string, stdin io.Reader, files map[string]*file) ([]cluster.Fault, error) {
	if path == Stdin {
		content, err := io.ReadAll(io.LimitReader(stdin, maxFile+1))
		switch {
		case err != nil:
			return nil, fmt.Errorf("read the standard input: %w", err)
		case len(content) > maxFile:
			return nil, errors.New("the standard input is larger than 256 MiB")
		}
		files[Stdin] = d.decoder.parse(ctx, Stdin, content, nil)
		return nil, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", path, reason(err))
	}
	path = filepath.ToSlash(filepath.Clean(path))
	if !info.IsDir() {
		f := d.decoder.open(ctx, found{path: path, info: info}, nil, maxFile,
			func() (*os.File, error) { return os.OpenFile(path, readOnly, 0) })
		switch {
		case f == nil: // it went away meanwhile
			return nil, fmt.Errorf("%s: %w", path, os.ErrNotExist)
		case f.info == nil:
			return nil, fmt.Errorf("%s: %s", path, f.faults[0].Message)
		}
		files[path] = f
		return nil, nil
	}
	w, err := newWalk(ctx, path, ordinaryBounds(), func(string) {})
	if err != nil {
		return nil, err
	}
	defer w.close()
	if w.cut {
		return nil, fmt.Errorf("%s: there are more than %d names below it", path, maxNames)
	}
	faults := d.unlisted(w, map[string]*file{})
	for i, f := range faults {
		faults[i].Place = joined(path, f.Place)
	}
	for _, f := range w.files {
		at := f.path
		f.path = joined(path, at)
		if read := d.decoder.open(ctx, f, nil, w.most.file,
			func() (*os.File, error) { return w.open(at) }); read != nil {
			files[f.path] = read
		}
	}
	return faults, nil
}

func joined(dir, path string) string {
	return filepath.ToSlash(filepath.Join(dir, filepath.FromSlash(path)))
}
