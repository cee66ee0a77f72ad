package stats

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// Listen listens on a unix socket to which only the given user may connect, and its group if mode says so; it takes the place of what an earlier
// process has left there. The directory must be one that nobody else may write to. The socket stays when the listener is closed: who
// connects then is refused at once.
func Listen(ctx context.Context, path string, mode fs.FileMode, user, group int) (net.Listener, error) {
	l, err := listen(ctx, path, mode, user, group)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

func listen(ctx context.Context, path string, mode fs.FileMode, user, group int) (net.Listener, error) {
	// It gets its name only when it has its owner.
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	dir, near, err := nearby(next)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", near)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) //nolint:errcheck // of network "unix"
	err = os.Chmod(next, mode)
	if err == nil && (user != os.Geteuid() || group != os.Getegid()) {
		err = os.Chown(next, user, group)
	}
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		l.Close()
		os.Remove(next)
		return nil, err
	}
	return l, nil
}

// dial connects to a unix socket.
func dial(ctx context.Context, path string) (net.Conn, error) {
	dir, near, err := nearby(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return (&net.Dialer{}).DialContext(ctx, "unix", near)
}

// nearby returns a short path to a file while its directory is open: the address of a socket may have 107 bytes only.
func nearby(path string) (*os.File, string, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, "", err
	}
	return dir, fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), nil
}
