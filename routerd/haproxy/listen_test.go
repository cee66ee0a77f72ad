package haproxy

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// warnings keeps what is logged.
type warnings struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (w *warnings) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(b)
}

// shared returns how many lines of the log say that an address is shared.
func (w *warnings) shared() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Count(w.buf.String(), "flag=--http")
}

// listening makes a Process that listens on an address, and says what it logs.
func listening(t *testing.T, binary, address string) (*Process, *warnings) {
	t.Helper()
	log := &warnings{}
	p, dir := setup(t, binary, func(c *Config) {
		c.Listen = []Address{{"--http", address}, {"--stats", "unix:/nowhere"}}
		c.Log = slog.New(slog.NewTextHandler(log, nil))
	})
	write(t, dir, ConfigFile, strings.ReplaceAll(base, "ADDRESS", address))
	return p, log
}

// Who starts on an address that another HAProxy has is told so, and serves; who starts again, or takes over, is not.
func TestSharedAddress(t *testing.T) { haproxytest.Each(t, sharedAddressStory) }

func sharedAddressStory(t *testing.T, binary string) {
	address := haproxytest.FreeAddress(t)
	first, log := listening(t, binary, address)
	start(t, first)
	first.Kill()
	<-first.Exited()
	start(t, first)
	// The workers end after the master, in their own time.
	if err := unix.Kill(first.master.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-first.Exited()
	start(t, first)

	next := process(t, binary, first.Dir(), func(c *Config) { c.Listen, c.Log = first.cfg.Listen, first.cfg.Log })
	if ok, err := next.Adopt(t.Context()); !ok || err != nil {
		t.Fatal("not taken over:", err)
	}
	if n := log.shared(); n != 0 {
		t.Errorf("%d warnings of itself", n)
	}

	second, log := listening(t, binary, address)
	start(t, second)
	if n := log.shared(); n != 1 {
		t.Errorf("%d warnings of the other one, want 1", n)
	}
}

// An address that a program has for itself is named with its flag: the configuration is not at fault.
func TestTakenAddress(t *testing.T) { haproxytest.Each(t, takenAddressStory) }

func takenAddressStory(t *testing.T, binary string) {
	other, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	address := other.Addr().String()
	p, _ := listening(t, binary, address)
	_, err = p.Start(t.Context())
	var refused *CheckError
	if want := "--http=" + address + ": another program listens there: end it, or give --http another address"; err == nil || errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}
