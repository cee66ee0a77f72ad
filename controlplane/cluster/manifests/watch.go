package manifests

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// A watch waits for edits below a directory. Without one from the system (no more inotify instances, say)
// it waits for the poll alone.
type watch struct {
	root string
	log  *slog.Logger
	fs   *fsnotify.Watcher // nil: there is none
	dirs map[string]fs.FileInfo
	told bool // that something cannot be watched
}

func newWatch(root string, log *slog.Logger) *watch {
	w := &watch{root: root, log: log, dirs: map[string]fs.FileInfo{}}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		w.cannot(root, err)
		return w
	}
	w.fs = notify
	return w
}

func (w *watch) close() {
	if w.fs != nil {
		_ = w.fs.Close() // also waits for its goroutine; what it returns is nil
	}
}

// cannot logs, once, that edits will be noticed late.
func (w *watch) cannot(path string, err error) {
	if !w.told {
		w.log.Warn("cannot watch for edits, which will be noticed by polling only: "+
			"raise fs.inotify.max_user_watches and max_user_instances", "path", path, "error", err)
		w.told = true
	}
}

// forget ends the watches of directories that are gone, or are another one of the same name. It comes
// before a walk adds those that it finds: a directory that moved has its old watch until then.
func (w *watch) forget() {
	if w.fs == nil {
		return
	}
	for dir, was := range w.dirs {
		if is, err := os.Stat(dir); err == nil && os.SameFile(was, is) {
			continue
		}
		delete(w.dirs, dir)
		_ = w.fs.Remove(dir) // which may have happened by itself
	}
	w.add(filepath.Dir(w.root)) // where root may appear, vanish, or be exchanged
}

// add watches a directory, once more if that was so: the system may have dropped it.
func (w *watch) add(dir string) {
	if w.fs == nil {
		return
	}
	info, err := os.Stat(dir)
	if err == nil {
		err = w.fs.Add(dir)
	}
	switch {
	case err == nil:
		w.dirs[dir] = info
	case !errors.Is(err, fs.ErrNotExist):
		w.cannot(dir, err)
	}
}

// wait returns when the directory was edited and is quiet again, at the latest after poll, or when ctx ends.
func (w *watch) wait(ctx context.Context, poll, settle time.Duration) {
	var events chan fsnotify.Event
	var errs chan error
	if w.fs != nil {
		events, errs = w.fs.Events, w.fs.Errors
	}
	timer := time.NewTimer(poll)
	defer timer.Stop()
	var bound time.Time // when it is read however busy it is; zero: nothing happened yet
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case e := <-events:
			if !w.concerns(e.Name) {
				continue
			}
		case err := <-errs: // events were lost, or worse: look
			w.log.Debug("watching for edits", "path", w.root, "error", err)
		}
		if bound.IsZero() {
			bound = time.Now().Add(10 * settle)
		}
		timer.Reset(min(settle, time.Until(bound)))
	}
}

// concerns tells whether what happened to a name can change what is read.
func (w *watch) concerns(name string) bool {
	if filepath.Dir(name) == filepath.Dir(w.root) && name != w.root {
		return false // a neighbour
	}
	base := filepath.Base(name)
	return name == w.root || !ignored(base) || strings.HasPrefix(base, "..") // ..data: a mounted ConfigMap is exchanged
}
