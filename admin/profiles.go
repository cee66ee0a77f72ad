package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"time"
)

// Profiles listens on a unix socket for this user only, and returns what answers there, until its context ends, with
// Go's profiles of this process. What is in memory shows in them. Without a path there is no socket, and nothing to
// run.
func Profiles(ctx context.Context, path string, log *slog.Logger) (run func(context.Context) error, err error) {
	if path == "" {
		return func(context.Context) error { return nil }, nil
	}
	l, err := ListenUnix(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("--profiles: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	srv := server(mux, log)
	srv.WriteTimeout = 10 * time.Minute // a profile is written when its time is over, which the client chooses
	return func(ctx context.Context) error { return serve(ctx, srv, l) }, nil
}

// ListenUnix listens on a unix socket to which only this user, and root, may connect. It takes the place of a socket
// that a predecessor has left there, and of nothing else. The socket stays when the listener is closed: who connects
// then is refused at once.
func ListenUnix(ctx context.Context, path string) (net.Listener, error) {
	info, err := os.Lstat(path)
	switch {
	case err == nil && info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("listen on %s: there is something that is no socket: remove it, or name another path",
			path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// It gets its name only when nobody else may connect.
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", next)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) //nolint:errcheck // of network "unix"
	if err = os.Chmod(next, 0o600); err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close(), os.Remove(next))
	}
	return l, nil
}
