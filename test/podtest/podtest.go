// Package podtest is endpoints for tests that die as real ones do, and clients that ask for them all the time.
//
// It guarantees that a Pod which is told to die loses no request that it has accepted: whatever fails after that is for
// a router to answer for.
//
// Do not import it outside of tests.
package podtest

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Pod is an endpoint, which answers with its name, and closes each connection.
type Pod struct {
	Name     string
	Address  netip.AddrPort
	Requests atomic.Int64   // that it has answered
	Accepted chan time.Time // when connections were accepted, while there is room

	t        testing.TB
	tls      *tls.Config // nil: plain HTTP
	open     atomic.Int64
	listener *net.TCPListener // nil: it refuses connections
	web      *http.Server
	done     chan struct{}
}

// New starts a Pod on an address, port 0 being any; it ends with the test. It speaks TLS if there is a configuration for it.
func New(t testing.TB, name, address string, config *tls.Config) *Pod {
	t.Helper()
	p := &Pod{Name: name, Accepted: make(chan time.Time, 1000), t: t, tls: config}
	p.listen(address)
	p.Address = p.listener.Addr().(*net.TCPAddr).AddrPort() //nolint:errcheck // of a TCP listener
	t.Cleanup(func() {
		if p.listener != nil {
			_ = p.web.Close() // what it has is nobody's any more
			<-p.done
		}
	})
	return p
}

func (p *Pod) listen(address string) {
	p.t.Helper()
	var c net.ListenConfig
	c.SetMultipathTCP(false) // which has no filters
	l, err := c.Listen(p.t.Context(), "tcp", address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.listener = l.(*net.TCPListener) //nolint:errcheck // of network "tcp"
	p.done = make(chan struct{})
	p.web = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			p.Requests.Add(1)
			fmt.Fprint(w, p.Name)
		}),
		ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
		ConnState: func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				p.open.Add(1)
				select {
				case p.Accepted <- time.Now():
				default:
				}
			case http.StateClosed:
				p.open.Add(-1)
			default:
			}
		},
	}
	p.web.SetKeepAlivesEnabled(false)
	if p.tls != nil {
		l = tls.NewListener(l, p.tls)
	}
	go func() {
		defer close(p.done)
		_ = p.web.Serve(l)
	}()
}

// control does something with the listening socket.
func (p *Pod) control(f func(fd int) error) {
	p.t.Helper()
	raw, err := p.listener.SyscallConn()
	var inner error
	if err == nil {
		err = raw.Control(func(fd uintptr) { inner = f(int(fd)) })
	}
	if err != nil || inner != nil {
		p.t.Fatal(err, inner)
	}
}

// Vanish lets nothing reach the address any more, as when its node is gone: who connects hears nothing. Connections
// that were made before are answered.
func (p *Pod) Vanish() {
	p.t.Helper()
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	p.control(func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
	})
}

// Refuse refuses connections, as when the process has ended. Those that were made before are answered.
func (p *Pod) Refuse() {
	p.t.Helper()
	p.Vanish()
	Eventually(p.t, "no connection waits", func() bool {
		waiting := uint32(1)
		p.control(func(fd int) error {
			info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			if err == nil {
				waiting = info.Unacked // of a listener: those that were not accepted
			}
			return err
		})
		return waiting == 0 && p.open.Load() == 0
	})
	if err := p.listener.Close(); err != nil { // Shutdown would drop a request that has just been read
		p.t.Fatal(err)
	}
	<-p.done
	p.listener = nil
}

// Return ends Vanish or Refuse.
func (p *Pod) Return() {
	p.t.Helper()
	if p.listener == nil {
		p.listen(p.Address.String())
		return
	}
	p.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) })
}

// patience bounds every wait for a condition. It is long because machines are noisy: no story passes by it.
const patience = 60 * time.Second

// Eventually waits until a condition holds, and returns how long that took.
func Eventually(t testing.TB, what string, condition func() bool) time.Duration {
	t.Helper()
	begun := time.Now()
	for !condition() {
		if time.Since(begun) > patience {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond) // between two looks
	}
	return time.Since(begun)
}

// Promise is a bound of time that the machine has a part in: however loaded it is, a story says what was promised
// and not what this machine can do.
type Promise struct {
	t     testing.TB
	begun time.Time
	late  atomic.Int64 // nanoseconds for which a goroutine that only sleeps was kept waiting
}

// Begin begins to measure.
func Begin(t testing.TB) *Promise {
	p := &Promise{t: t, begun: time.Now()}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		const pause = 20 * time.Millisecond
		for ctx.Err() == nil {
			slept := time.Now()
			time.Sleep(pause)
			if late := time.Since(slept) - pause; late > pause/2 { // less than that is how timers are
				p.late.Add(int64(late))
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

// Within fails the test if more time has passed since Begin than the bound and four times what this process was kept waiting: what is
// promised takes several processes, one after the other, and each waits for its turn. It returns the time.
func (p *Promise) Within(bound time.Duration, what string) time.Duration {
	p.t.Helper()
	took, late := time.Since(p.begun), time.Duration(p.late.Load())
	if took > bound+4*late {
		p.t.Errorf("%s: took %v, want %v; this process was kept waiting for %v", what, took, bound, late)
	}
	return took
}
