package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// openDir opens the directory, makes it if there is none, and locks it. All further access goes through
// what it opened, so that it is to the directory that was looked at, whatever is renamed meanwhile.
func openDir(path string) (*os.Root, *os.File, error) {
	path = filepath.Clean(path) // "link/" would be what the link leads to
	fail := func(err error) (*os.Root, *os.File, error) {
		return nil, nil, fmt.Errorf("state directory %s: %w", path, err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fail(err)
	}
	seen, err := os.Lstat(path)
	if err != nil {
		return fail(err)
	}
	if err := private(path, seen); err != nil {
		return fail(err)
	}
	dir, err := os.OpenRoot(path)
	if err != nil {
		return fail(err)
	}
	opened, err := dir.Stat(".")
	if err == nil && !os.SameFile(seen, opened) {
		err = errors.New("it was replaced while it was opened; start again")
	}
	if err != nil {
		_ = dir.Close()
		return fail(err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		_ = dir.Close()
		return fail(err)
	}
	return dir, lock, nil
}

// private tells what is wrong with a directory that private keys are to be kept in.
func private(path string, i os.FileInfo) error {
	if i.Mode()&os.ModeSymlink != 0 {
		return errors.New("it is a symbolic link; name the directory that it leads to")
	}
	if !i.IsDir() {
		return errors.New("it is not a directory; move it away, or name another")
	}
	if owner, ok := i.Sys().(*syscall.Stat_t); ok && int(owner.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d, and this process is user %d: run \"chown %d %s\", or name another",
			owner.Uid, os.Geteuid(), os.Geteuid(), path)
	}
	if i.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("others have access to it (mode %04o), and it holds private keys: run \"chmod 0700 %s\"",
			i.Mode().Perm(), path)
	}
	return nil
}

// lockDir takes the lock, which the kernel releases when this process ends, however it does.
func lockDir(dir *os.Root) (*os.File, error) {
	f, err := dir.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		who, _ := io.ReadAll(io.LimitReader(f, 20))
		err = fmt.Errorf("another routerd (process %s) uses it: end that one, or give this one a directory of its own",
			strings.TrimSpace(string(who)))
	} else if err != nil {
		err = fmt.Errorf("lock it: %w", err)
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		if errors.Is(err, unix.ENOSPC) {
			err = nil // the number is for people
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openFile opens a file for reading, and closes it to others if it was not.
func openFile(dir *os.Root, name string) (*os.File, int64, error) {
	f, err := dir.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a named pipe does not hold us up
	if err != nil {
		return nil, 0, err
	}
	i, err := f.Stat()
	switch {
	case err != nil:
	case !i.Mode().IsRegular():
		err = fmt.Errorf("%s is not a regular file; move it away", name)
	case i.Mode().Perm()&0o077 != 0:
		err = f.Chmod(0o600)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, i.Size(), nil
}

// keptAside is how many files of a name are kept that were of no use. They may hold private keys.
const keptAside = 3

// setAside renames a file that is of no use to this routerd, and says so. Older ones move on, and the oldest goes.
func (s *Store) setAside(name string, reason error) {
	aside := func(n int) string { return fmt.Sprintf("%s.unusable-%d", name, n) }
	err := s.dir.RemoveAll(aside(keptAside))
	for n := keptAside - 1; n > 0; n-- {
		if moved := s.dir.Rename(aside(n), aside(n+1)); !errors.Is(moved, os.ErrNotExist) {
			err = errors.Join(err, moved)
		}
	}
	if err == nil {
		err = s.dir.Rename(name, aside(1))
	}
	s.conf.Metrics.SetAside.Inc()
	s.log.Error("a file of what was in force is of no use to this routerd, and set aside; what is not in the other comes from the control plane",
		"directory", s.conf.Dir, "file", name, "kept_as", aside(1), "reason", reason)
	if err != nil {
		s.log.Error("it could not be kept", "directory", s.conf.Dir, "file", name, "error", err)
	}
}

// replace writes a file so that there is, at any time, the old one or the new one, whole.
func replace(dir *os.Root, name string, write func(io.Writer) error) (err error) {
	f, err := dir.OpenFile(name+temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = dir.Rename(name+temporary, name)
	}
	if err != nil {
		_ = dir.Remove(name + temporary)
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// syncDir makes renames last.
func syncDir(dir *os.Root) error {
	d, err := dir.Open(".")
	if err != nil {
		return fmt.Errorf("sync the directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync the directory: %w", err)
	}
	return nil
}
