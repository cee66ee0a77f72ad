package test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// The API server is killed: traffic goes on. It comes back with its data: nothing changes, and changes are followed
// again. Its connections are cut again and again while objects change: none is missed. It loses its data: what was
// served still is, and the control plane says why.
func TestAPIServerGone(t *testing.T) {
	f := newFleet(t)
	c := newCluster(t)
	relay := newRelay(t, strings.TrimPrefix(c.server.Config().Host, "https://"))
	c.kubeconfig = relay.kubeconfig(t, c.server.Kubeconfig(), f.dir)
	f.source = c
	r := served(t, f, 40)
	op := f.operator()
	stop := load(t, r.http, "r3.example.com")
	before := f.routers(op)["router-a"].GetAckedVersion()

	if err := c.server.Kill(); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		if err := answers(r.http, fmt.Sprintf("r%d.example.com", i), "/", "pod"); err != nil {
			t.Errorf("with no API server: %v", err)
		}
	}
	if err := c.server.Restart(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	f.write("back.yaml", route("back", "back.example.com", "web"))
	eventually(t, "changes are followed again", func() error { return answers(r.http, "back.example.com", "/", "pod") })
	f.remove("back.yaml")
	eventually(t, "the version of before is served again", func() error {
		if now := f.routers(op)["router-a"].GetAckedVersion(); digests(now) != digests(before) {
			return fmt.Errorf("%s, want %s", now, before)
		}
		return nil
	})

	cuts, pause := 10, time.Duration(0)
	if os.Getenv("TSUJI_LONG") != "" {
		cuts, pause = 60, time.Second
	}
	for i := range cuts {
		relay.cut()
		time.Sleep(pause) // of the long story: a cut a second, for a minute
		name := fmt.Sprintf("cut%d", i)
		f.write(name+".yaml", route(name, name+".example.com", "web"))
		eventually(t, "a change is followed though connections are cut", func() error { return answers(r.http, name+".example.com", "/", "pod") })
	}

	if err := c.server.Restart(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	c.objects = map[string][]*object{} // they are gone
	status := tsujiv1.NewStatusServiceClient(op)
	eventually(t, "the loss is told", func() error {
		s, err := status.GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		for _, fault := range s.GetFaults() {
			if strings.Contains(fault.GetMessage(), "routes went within") {
				return nil
			}
		}
		return fmt.Errorf("faults: %v", s.GetFaults())
	})
	for i := range 40 {
		if err := answers(r.http, fmt.Sprintf("r%d.example.com", i), "/", "pod"); err != nil {
			t.Errorf("after the API server lost its data: %v", err)
		}
	}
	if sent, failed := stop(); len(failed) > 0 || sent < loadLeast {
		t.Errorf("%d requests, of which failed: %v", sent, failed)
	}
}

// relay passes TCP connections on, until they are cut.
type relay struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	conns map[net.Conn]struct{} // guarded by mu
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: l, to: to, conns: map[net.Conn]struct{}{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { r.pass(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.cut()
		wg.Wait()
	})
	return r
}

func (r *relay) pass(from net.Conn) {
	defer from.Close()
	to, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", r.to)
	if err != nil {
		return
	}
	defer to.Close()
	r.mu.Lock()
	r.conns[from], r.conns[to] = struct{}{}, struct{}{}
	r.mu.Unlock()
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(to, from)
		_ = to.Close()
		close(done)
	}()
	_, _ = io.Copy(from, to)
	_ = from.Close()
	<-done
	r.mu.Lock()
	delete(r.conns, from)
	delete(r.conns, to)
	r.mu.Unlock()
}

// cut closes every connection.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		_ = c.Close()
	}
}

// kubeconfig is the one of that path, through the relay.
func (r *relay) kubeconfig(t *testing.T, path, dir string) string {
	t.Helper()
	k, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range k.Clusters {
		c.Server = "https://" + r.listener.Addr().String()
	}
	through := filepath.Join(dir, "relay.kubeconfig")
	if err := clientcmd.WriteToFile(*k, through); err != nil {
		t.Fatal(err)
	}
	return through
}
