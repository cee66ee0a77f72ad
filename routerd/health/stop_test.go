package health_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// log keeps what is logged.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// That HAProxy does not answer any more is no news when the router is stopped.
func TestStopIsQuiet(t *testing.T) {
	t.Parallel()
	said := &log{}
	r := newRouterThatLogs(t, haproxytest.Binary(t), slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: slog.LevelDebug})))
	r.put()
	must(t, r.Stop(t.Context()))
	for begun := time.Now(); !strings.Contains(said.String(), "could not ask HAProxy which endpoints it cannot reach"); time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > time.Minute {
			t.Fatal("HAProxy is not asked any more:\n" + said.String())
		}
	}
	for line := range strings.Lines(said.String()) {
		if strings.Contains(line, "level=WARN") && strings.Contains(line, "could not ask HAProxy") {
			t.Error(line)
		}
	}
}
