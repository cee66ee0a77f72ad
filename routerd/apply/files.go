package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

// What apply itself knows of HAProxy's files.
const (
	stampMap    = "maps/stamp.map"    // "version": what serves; "program": digest of what is around it; names (names.go)
	readyMap    = "maps/ready.map"    // "ready": 1 or 0
	suspectsMap = "maps/suspects.map" // HAProxy writes it: backends with a server that was not reached
	crtList     = "crt-list.txt"
	// The router's own, where there is TLS.
	defaultCertificate = "certs/_default.pem"
	versionKey         = "version"
	programKey         = "program"
	readyKey           = "ready"
)

// derived are the directories that hold nothing but rendered files.
var derived = []string{"maps", "certs", "ca", "crls", "errors"}

// isDerived tells whether a path is one of a rendered file.
func isDerived(path string) bool {
	dir, _, _ := strings.Cut(path, "/")
	return slices.Contains(derived, dir)
}

// programDigest returns a digest of what is rendered for the empty snapshot: addresses, the program, the
// router's own certificate; and of HAProxy's release. A routerd with other flags, or of another release, has
// another.
func programDigest(r *render.Renderer) string {
	h := sha256.New()
	fmt.Fprintf(h, "%v\n", r.Version())
	for _, f := range r.Dirty() {
		fmt.Fprintf(h, "%s %d\n", f.Path, len(f.Content))
		h.Write(f.Content)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// writeFiles brings the files on disk up to date with the renderer, those too that somebody has removed.
func (a *Applier) writeFiles() error {
	begun := time.Now()
	files, err := a.dirtyFiles()
	a.torn = a.torn || a.cfg.HAProxy.Elsewhere() && len(files) > 0
	for i, f := range files {
		if f.Path == stampMap && !f.Remove {
			f.Content = append([]byte(programKey+" "+a.program+"\n"), f.Content...)
		}
		if err = a.writeFile(f); err != nil {
			files = files[:i]
			break
		}
		if f.Path == haproxy.ConfigFile { // after all that it refers to
			a.diverted = false
		}
	}
	a.cfg.Renderer.Written(files)
	if err != nil {
		a.unwritten++
		a.stale = time.Now()
		return fmt.Errorf("write HAProxy's files: %w", err)
	}
	a.stale, a.unwritten = time.Time{}, 0
	a.slow("write files", begun)
	if len(files) > 0 {
		a.cfg.OnWrite(time.Since(begun))
	}
	return nil
}

// there tells whether a rendered file is on disk.
func (a *Applier) there(path string) bool {
	if path == haproxy.ConfigFile && a.diverted {
		return false
	}
	_, err := os.Lstat(filepath.Join(a.cfg.HAProxy.Dir(), filepath.FromSlash(path)))
	return !errors.Is(err, fs.ErrNotExist)
}

// lookForFiles sees that directories of files that there always are have not been removed.
func (a *Applier) lookForFiles() {
	for _, path := range []string{stampMap, defaultCertificate} {
		if dir, _, _ := strings.Cut(path, "/"); a.stale.IsZero() && a.cfg.Renderer.Has(path) && !a.there(dir) {
			a.cfg.Log.Warn("HAProxy's files have been removed, and are written again", "directory", dir)
			a.stale = time.Now()
		}
	}
}

// writeFile puts one file into place in one step. It is not synced: it can be derived again.
func (a *Applier) writeFile(f render.File) error {
	path := filepath.Join(a.cfg.HAProxy.Dir(), filepath.FromSlash(f.Path))
	if f.Remove {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if a.cfg.HAProxy.Elsewhere() {
		if err := haproxy.ShareDir(filepath.Dir(path), 0o750); err != nil {
			return err
		}
	} else if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return putFile(path, f.Content, f.Mode)
}

// putFile writes a file beside its place, and moves it there.
func putFile(path string, content []byte, mode fs.FileMode) error {
	tmp := path + ".tmp"
	// A file of that name is left from a death in the middle; it may have another mode.
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := os.WriteFile(tmp, content, mode)
	if err == nil && mode&0o077 != 0 {
		err = os.Chmod(tmp, mode) // whatever the umask is
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return os.Rename(tmp, path)
}

// sweepFiles removes rendered files of an earlier life: certificates of routes that are gone, as a rule. What
// is not rendered any more in this life is removed by writeFiles.
func (a *Applier) sweepFiles() {
	if a.swept {
		return
	}
	a.swept = true
	root := a.cfg.HAProxy.Dir()
	for _, dir := range derived {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err != nil || a.cfg.Renderer.Has(filepath.ToSlash(name)) && !strings.HasSuffix(name, ".tmp") {
				return err
			}
			return os.Remove(path)
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.cfg.Log.Warn("files of an earlier life could not be removed", "directory", dir, "error", err)
		}
	}
}
