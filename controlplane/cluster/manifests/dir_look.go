package manifests

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

// look reads those of the files that changed. It returns what every file says, and faults that are in none.
func (d *Dir) look(ctx context.Context, w *walk) (map[string]*file, []cluster.Fault) {
	next := make(map[string]*file, len(w.files))
	faults := d.unlisted(w, next)
	if w.cut {
		maps.Copy(next, d.files)
		faults = append(faults, cluster.Fault{
			Place: ".",
			Message: fmt.Sprintf("there are more than %d names below the directory, and not all were looked at; "+
				"what was read before stays in force", w.most.names),
			Remedy: "have nothing in it but manifests, several objects in each",
		})
	}
	// What is known comes before what is new: who fills the directory takes nothing from others.
	known := func(f found) int {
		if d.files[f.path] != nil {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(w.files, func(a, b found) int { return known(a) - known(b) })
	var bytes int64
	files, left, first := len(next), 0, ""
	for _, found := range w.files {
		if ctx.Err() != nil {
			break
		}
		old := d.files[found.path]
		if next[found.path] == nil {
			files++
		}
		if found.info != nil {
			bytes += found.info.Size()
		}
		over := files > w.most.files || bytes > w.most.bytes
		switch {
		case found.err == nil && old.unchanged(found.info):
			next[found.path] = old
		case over && old != nil:
			next[found.path] = old.failed(found.path, "the files together are beyond the bounds of a directory",
				"see what "+d.path+" is told for itself")
		case over:
			files, bytes, left = files-1, bytes-found.info.Size(), left+1
			if first == "" || found.path < first {
				first = found.path
			}
		default:
			if f := d.decoder.open(ctx, found, old, w.most.file,
				func() (*os.File, error) { return w.open(found.path) }); f != nil {
				next[found.path] = f
			} else {
				delete(next, found.path)
			}
		}
	}
	if left > 0 {
		faults = append(faults, cluster.Fault{
			Place: ".",
			Message: fmt.Sprintf("there are more manifests than are read, which is %d with %d MiB together: "+
				"%d new ones are not, the first of them %s", w.most.files, w.most.bytes>>20, left, first),
			Remedy: "remove what nobody needs, and write several objects into each file",
		})
	}
	return next, faults
}

// unlisted has what is in directories that could not be listed stay as it was, and tells of it.
func (d *Dir) unlisted(w *walk, next map[string]*file) (faults []cluster.Fault) {
	for dir, err := range w.dirs {
		held := 0
		for p, f := range d.files {
			if strings.HasPrefix(p, dir+"/") {
				next[p] = f
				held++
			}
		}
		if errors.Is(err, fs.ErrNotExist) && held == 0 {
			continue // a link to nothing that never was a directory
		}
		fault := cluster.Fault{Place: dir, Message: fmt.Sprintf("the directory cannot be listed (%s)", reason(err))}
		switch {
		case errors.Is(err, errOutside):
			fault.Message, fault.Remedy = errOutside.Error()+", and is not followed", remedyOutside
		case errors.Is(err, errDeep):
			fault.Message, fault.Remedy = errDeep.Error()+", and is not read", "put it further up"
		default:
			fault.Remedy = "let the control plane's user read and enter it, restore what it is a link to, or remove it"
		}
		fault.Message += kept(held)
		faults = append(faults, fault)
	}
	return faults
}

const remedyOutside = "put what it leads to into the directory, make the link relative, " +
	"or let --source name a directory that has both"

// open reads a file, which at opens, if it has no more bytes than most. It returns nil if the file went away meanwhile,
// and old if it says what it said.
func (d *decoder) open(ctx context.Context, found found, old *file, most int64, at func() (*os.File, error)) *file {
	switch {
	case found.err != nil && errors.Is(found.err, fs.ErrNotExist):
		return old.failed(found.path, "the file is a link to nothing", "restore what it points to, or remove the link")
	case errors.Is(found.err, errOutside):
		return old.failed(found.path, errOutside.Error()+", and is not followed", remedyOutside)
	case found.err != nil:
		return old.failed(found.path, "the file cannot be looked at: "+reason(found.err),
			"let the control plane's user read it")
	}
	read := time.Now()
	content, err := content(found, most, at)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, errNotOrdinary):
		return old.failed(found.path, err.Error(), "remove it, or rename it")
	case errors.Is(err, errLarge):
		return old.failed(found.path, err.Error(), "divide it")
	case err != nil:
		return old.failed(found.path, "the file cannot be read: "+reason(err), "let the control plane's user read it")
	}
	sum := sha256.Sum256(content)
	if old != nil && old.info != nil && old.sum == sum {
		f := *old
		f.info, f.read = found.info, read
		return &f
	}
	f := d.parse(ctx, found.path, content, old)
	f.info, f.read, f.sum = found.info, read, sum
	return f
}

var (
	errNotOrdinary = errors.New("the file is no ordinary file")
	errLarge       = fmt.Errorf("the file is larger than %d MiB", maxFile>>20)
)

// content returns what a file holds. Another may be there than the walk came across: neither does it wait for one that
// nobody writes to, nor read one that grows for ever.
func content(found found, most int64, at func() (*os.File, error)) ([]byte, error) {
	if !found.info.Mode().IsRegular() {
		return nil, errNotOrdinary
	}
	if found.info.Size() > most {
		return nil, errLarge
	}
	f, err := at()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errNotOrdinary
	}
	content, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(content)) > most {
		err = errLarge
	}
	return content, err //nolint:wrapcheck // the caller says what it is about
}
