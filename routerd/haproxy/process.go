package haproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A master is known by its socket. Where that is gone, because somebody has tidied up, it is known by how it was
// started, and where it works: nobody else can work in a directory that is closed to all others. No file has to be
// trusted for that.

// relatives are the processes in /proc that are of this directory's HAProxy.
type relatives struct {
	masters []int
	orphans []int // workers whose master has ended; they end by themselves, if they do not hang
}

// relatives finds them.
func (p *Process) relatives() (relatives, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return relatives{}, fmt.Errorf("look for HAProxy: %w", err)
	}
	var r relatives
	parents := map[int]int{} // of all that are of this directory, by their pid
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !p.isRelative(pid) {
			continue
		}
		s, err := statOf(pid)
		if err != nil {
			continue // it has ended
		}
		if s.session == pid { // master.start made it one
			r.masters = append(r.masters, pid)
		}
		parents[pid] = s.parent
	}
	for pid, parent := range parents {
		if _, ok := parents[parent]; !ok && !slices.Contains(r.masters, pid) {
			r.orphans = append(r.orphans, pid)
		}
	}
	return r, nil
}

// isRelative tells whether a process runs HAProxy for this directory. A worker may have the jail as its root, and then
// works there.
func (p *Process) isRelative(pid int) bool {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !slices.ContainsFunc(bytes.Split(args, []byte{0}),
		func(arg []byte) bool { return string(arg) == masterListener }) {
		return false
	}
	dir, err := p.dir.Stat()
	if err != nil {
		return false
	}
	if at, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid)); err == nil && os.SameFile(at, dir) {
		return true
	}
	jail, err := os.Stat(filepath.Join(p.cfg.Dir, JailDir))
	if err != nil {
		return false
	}
	root, err := os.Stat(fmt.Sprintf("/proc/%d/root", pid))
	return err == nil && os.SameFile(root, jail)
}

// stat is what /proc tells of a process.
type stat struct{ parent, session int }

func statOf(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// pid (name) state parent group session …; the name may hold anything
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 4 {
		return stat{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	parent, err := strconv.Atoi(fields[1])
	session, err2 := strconv.Atoi(fields[3])
	return stat{parent, session}, errors.Join(err, err2)
}

// workers opens the processes that a master has, old ones included. They must be closed.
func (m *master) workers() []*os.File {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []*os.File
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if s, err := statOf(pid); err != nil || s.parent != m.pid {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		f := os.NewFile(uintptr(fd), "pidfd:"+e.Name())
		if s, err := statOf(pid); err != nil || s.parent != m.pid { // its number may have become another's
			f.Close()
			continue
		}
		found = append(found, f)
	}
	return found
}

// findLost takes note of masters of this directory that cannot be asked any more: another one will be started beside
// them, and then they finish what they have. mu is held.
func (p *Process) findLost() error {
	found, err := p.relatives()
	if err != nil {
		return err
	}
	for _, pid := range found.masters {
		if p.master != nil && p.master.pid == pid && p.master.alive() {
			continue
		}
		if err := p.setAside(pid); err != nil {
			return err
		}
		p.cfg.Log.Warn("HAProxy runs, and its socket is gone; another one takes its place", "master", pid)
	}
	return nil
}

// setAside holds a master that is not to be gone on with. mu is held.
func (p *Process) setAside(pid int) error {
	p.left = slices.DeleteFunc(p.left, func(m *master) bool { return !m.alive() })
	if slices.ContainsFunc(p.left, func(m *master) bool { return m.pid == pid }) {
		return nil
	}
	m, err := watch(pid, nil)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	if !p.isRelative(pid) { // looked at again, now that it is held
		m.detach()
		return nil
	}
	p.left = append(p.left, m)
	return nil
}

// relieve has those that were set aside stop listening, and end with their last connection. Their workers are told
// directly too: a master may hang. mu is held.
func (p *Process) relieve() error {
	var errs []error
	for _, m := range p.left {
		if !m.alive() {
			continue
		}
		for _, w := range m.workers() {
			errs = append(errs, signalTo(w, unix.SIGUSR1), w.Close())
		}
		errs = append(errs, m.signal(unix.SIGUSR1))
	}
	return errors.Join(errs...)
}

// endOrphans waits until workers have ended that have lost their master, and kills those that did not notice: they have
// the ports, and whatever is sent to them may hang. mu is held.
func (p *Process) endOrphans(ctx context.Context) {
	for begun := time.Now(); ; {
		found, err := p.relatives()
		if err != nil || len(found.orphans) == 0 {
			return
		}
		if time.Since(begun) > leftTime {
			for _, pid := range found.orphans {
				p.killOrphan(pid)
			}
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (p *Process) killOrphan(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), "pidfd:"+strconv.Itoa(pid))
	defer f.Close()
	if !p.isRelative(pid) { // looked at again, now that it is held
		return
	}
	p.cfg.Log.Warn("a worker of HAProxy's has lost its master and goes on; it is killed", "pid", pid)
	if signalTo(f, unix.SIGKILL) == nil {
		_ = awaitEnd(f, killGrace)
	}
}
