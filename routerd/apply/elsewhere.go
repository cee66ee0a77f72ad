package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// A HAProxy that somebody else runs is started again by them, and begins with what is on disk before anybody is asked. So
// haproxy.cfg is there only while all files are what is in force: before anything else is put into force, at run time or
// by writing files, first.cfg takes its place, with which HAProxy serves nothing until it is reloaded. What was withdrawn
// never comes back. It costs a reload after HAProxy's own death, as it costs a start where HAProxy is our child.
//
// One that begins while files are written may have read some before that and some after, the stamp among these: what it
// says of itself counts only if files were written while another lived (torn), and it is reloaded otherwise.

// firstFile is what haproxy.cfg is while there is nothing to begin with.
const firstFile = "first.cfg"

// Prepare writes what a HAProxy elsewhere begins with into its directory: nothing, if anew is set or there is not
// anything yet.
func Prepare(dir string, anew bool) error {
	err := putFile(filepath.Join(dir, firstFile), render.First(), 0o640)
	if err == nil && !anew {
		_, err = os.Lstat(filepath.Join(dir, haproxy.ConfigFile))
		anew = errors.Is(err, fs.ErrNotExist)
	}
	if anew {
		err = standIn(dir)
	}
	if err != nil {
		return fmt.Errorf("write what HAProxy begins with: %w", err)
	}
	return nil
}

// standIn puts first.cfg into the place of haproxy.cfg. It takes no room on the disk.
func standIn(dir string) error {
	path := filepath.Join(dir, haproxy.ConfigFile)
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(filepath.Join(dir, firstFile), tmp); errors.Is(err, fs.ErrNotExist) {
		return putFile(path, render.First(), 0o640) // somebody has tidied up
	} else if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	_ = os.Remove(tmp) // a name that leads to the same file already is not taken away
	return nil
}

// divert has a HAProxy elsewhere begin with nothing, because the files are not what is in force from now on. turn is held,
// here and below.
func (a *Applier) divert() error {
	if !a.cfg.HAProxy.Elsewhere() || a.diverted {
		return nil
	}
	if err := standIn(a.cfg.HAProxy.Dir()); err != nil {
		return fmt.Errorf("put aside what HAProxy begins with: %w", err)
	}
	a.diverted = true
	return nil
}

// dirtyFiles returns the files that have to be written, and has HAProxy begin with nothing until they are.
func (a *Applier) dirtyFiles() ([]render.File, error) {
	r := a.cfg.Renderer
	r.Recheck(a.there)
	files := r.Dirty()
	if len(files) == 0 || a.diverted || !a.cfg.HAProxy.Elsewhere() {
		return files, nil
	}
	if err := a.divert(); err != nil {
		return nil, err
	}
	r.Recheck(a.there) // haproxy.cfg is one of them now
	return r.Dirty(), nil
}

// await adopts HAProxy. One elsewhere is waited for; it is to begin with nothing, unless the files are known to be what is
// in force: with those of a change that was under way it might not even start.
func (a *Applier) await(ctx context.Context) error {
	err := a.adopt(ctx)
	if err != nil || a.alive() || !a.cfg.HAProxy.Elsewhere() {
		return err
	}
	if a.suspect || a.inForce.Load() == nil {
		if err := a.divert(); err != nil {
			return err
		}
	}
	w, err := a.cfg.HAProxy.Start(ctx)
	if err != nil {
		return err //nolint:wrapcheck // says what it tried
	}
	a.disconnect()
	if err := a.sameRelease(w); err != nil {
		w.Close()
		return err
	}
	a.worker, a.up = w, true
	a.suspect = a.suspect || a.torn
	return nil
}

// again makes HAProxy run what is in force, after it has ended or run something else. One elsewhere that has begun anew by
// itself may say that it does already.
func (a *Applier) again(ctx context.Context, v snapshot.Version) (method, error) {
	if a.cfg.HAProxy.Elsewhere() && !a.alive() && a.await(ctx) == nil && !a.torn && a.agrees(ctx, v) {
		a.suspect = false
		a.begunAnew()
		return byNothing, nil
	}
	return a.serve(ctx, v, becauseMend)
}

var errTorn = errors.New("HAProxy has begun while its files were written")

// met tells whether a worker that was connected to anew runs v.
func (a *Applier) met(ctx context.Context, v snapshot.Version) error {
	if a.torn {
		a.suspect = true
		return errTorn
	}
	return a.verifyStamp(ctx, v)
}

// outlived notes, after files have been written, whether the worker that was there before still is: then whatever begins
// from now on reads all of them.
func (a *Applier) outlived(ctx context.Context) {
	if a.torn && a.worker != nil && a.worker.PID() == a.pid {
		_, err := a.worker.Info(ctx)
		a.torn = err != nil
	}
}

// settle makes sure that what is run by a reload lives, once the files have been written. One elsewhere that ended since
// it was looked at is not to begin with them, since they may not be what it can run; and another may have begun already.
func (a *Applier) settle(ctx context.Context) error {
	if !a.cfg.HAProxy.Elsewhere() || a.alive() {
		return nil
	}
	if err := a.divert(); err != nil {
		return err
	}
	if err := a.await(ctx); err != nil {
		return err
	}
	return a.writeFiles()
}

// ErrOtherRelease says that a HAProxy elsewhere is of another release than what is rendered for: it was replaced. routerd
// has to begin anew.
var ErrOtherRelease = errors.New("HAProxy is of another release now")

// sameRelease tells whether a worker is of the release that is rendered for.
func (a *Applier) sameRelease(w *haproxy.Runtime) error {
	have, want := w.Version(), a.cfg.Renderer.Version()
	if !a.cfg.HAProxy.Elsewhere() || have.Major == want.Major && have.Minor == want.Minor {
		return nil
	}
	a.replaced = fmt.Errorf("%w: it is %s, and was %v", ErrOtherRelease, have, want)
	return a.replaced
}

// leave ends what a router does with a HAProxy elsewhere, which goes on: who runs it stops it, now that readiness has
// failed for long enough, or goes on with it when only routerd is replaced.
func (a *Applier) leave(ctx context.Context) error {
	a.takeFromOthers(ctx)
	defer a.give()
	a.stopped = true
	a.disconnect()
	close(a.deaf)
	a.cfg.Renderer.SetReady(true) // for one that begins anew; this one says what it was told
	if a.stale.IsZero() || a.inForce.Load() == nil || a.suspect {
		return nil
	}
	return a.writeFiles()
}
