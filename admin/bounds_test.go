package admin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// patience bounds every wait for a condition.
const patience = 30 * time.Second

// serving serves on a listener until the test ends.
func serving(t *testing.T, l net.Listener, c Config) {
	t.Helper()
	c.Listener, c.Metrics, c.Log = l, prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	if c.Ready == nil {
		c.Ready = func() error { return errors.New("not yet") }
	}
	running(t, func(ctx context.Context) error { return Serve(ctx, c) })
}

func running(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func tcp(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// connect opens a connection that is closed with the test.
func connect(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// ask sends a request, and returns the status of its answer.
func ask(c net.Conn, path, more string) (int, error) {
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\n%s\r\n", path, more); err != nil {
		return 0, err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

// A page whose own name leads to the admin address is told no metrics. Whoever asks by a name that is nobody's on the
// Internet is, and by one that is listed; and probes learn whether the daemon is well, by whatever name.
func TestForeignHosts(t *testing.T) {
	l := tcp(t)
	serving(t, l, Config{Hosts: []string{"Metrics.example.com"}})
	for host, want := range map[string]int{
		"127.0.0.1:9401": 200, "10.1.2.3": 200, "[::1]:9401": 200, "[fd00::1]": 200, "localhost": 200, "LOCALHOST.:9401": 200, "": 200,
		"controlplane": 200, "controlplane:9401": 200, "x.localhost": 200, "metrics.example.com": 200, "METRICS.example.com.:9401": 200,
		"controlplane.tsuji.svc:9401": 200, "controlplane.tsuji.svc.cluster.local": 200, "controlplane.tsuji.svc.cluster.local.:80": 200,
		"evil.example": 421, "evil.example:9401": 421, "x.metrics.example.com": 421, "127.0.0.1.evil.example": 421, "svc.evil.example": 421,
		"evilsvc.example": 421, "controlplane.tsuji.svc.evil.example": 421, "localhost.evil.example": 421, "127.0.0.1.": 200, "0x7f.1": 421,
	} {
		for path, want := range map[string]int{"/metrics": want, "/healthz": 200, "/readyz": 503} {
			if got, err := ask(connect(t, l), path, "Host: "+host+"\r\nConnection: close\r\n"); got != want || err != nil {
				t.Errorf("%s of %q: %d %v, want %d", path, host, got, err, want)
			}
		}
	}
	for _, bad := range []string{"", "x:80", "https://x", "*.x", ".x", "x.", "x y"} {
		if CheckHosts([]string{"good.example", bad}) == nil {
			t.Errorf("a list with %q was taken", bad)
		}
	}
}

// A socket in the file system hands on whatever Host it was asked for: no page reaches it.
func TestHostsOfASocket(t *testing.T) {
	l, err := ListenUnix(t.Context(), filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	serving(t, l, Config{})
	c, err := net.Dial("unix", strings.TrimSuffix(l.Addr().String(), ".new"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := ask(c, "/metrics", "Host: any.example\r\n"); got != 200 {
		t.Errorf("%d, %v", got, err)
	}
}

// Who holds all connections open without asking shuts out nobody: the one that has been idle for the longest goes.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	l := tcp(t)
	serving(t, l, Config{})
	var held []net.Conn
	for i := range maxConnections {
		c := connect(t, l)
		if i%2 == 0 { // half of them have asked once, and are idle since
			if got, err := ask(c, "/healthz", "Host: x\r\n"); got != 200 {
				t.Fatalf("connection %d: %d, %v", i, got, err)
			}
		}
		held = append(held, c)
	}
	for range 3 * maxConnections { // each is closed when it was answered, and then some idle one has gone
		if got, err := ask(connect(t, l), "/healthz", "Host: x\r\n"); got != 200 {
			t.Fatalf("beside %d idle connections: %d, %v", maxConnections, got, err)
		}
	}
	for i, c := range held { // all of them have been the oldest
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(fmt.Sprint(err), "reset") {
			t.Errorf("connection %d: %v, want that it was closed", i, err)
		}
	}
}

// Where each connection has a request, one more takes the place of that which asked first. The others get their answers.
func TestBusyConnectionsAreBounded(t *testing.T) {
	l := tcp(t)
	arrived, release := make(chan struct{}, maxConnections), make(chan struct{})
	serving(t, l, Config{Ready: func() error {
		arrived <- struct{}{}
		<-release
		return nil
	}})
	var held []net.Conn
	for range maxConnections {
		c := connect(t, l)
		if _, err := io.WriteString(c, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		<-arrived
		held = append(held, c)
	}
	if got, err := ask(connect(t, l), "/healthz", "Host: x\r\n"); got != 200 {
		t.Errorf("one more: %d, %v", got, err)
	}
	if _, err := held[0].Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(fmt.Sprint(err), "reset") {
		t.Errorf("the one that asked first: %v, want that it was closed", err)
	}
	close(release)
	for i, c := range held[1:] {
		if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("connection %d: %v", i, err)
		}
	}
}

// A head that is too large is refused, and nothing may take for ever.
func TestRequestsAreBounded(t *testing.T) {
	l := tcp(t)
	serving(t, l, Config{})
	if got, err := ask(connect(t, l), "/healthz", "Host: x\r\nX: "+strings.Repeat("x", 32<<10)+"\r\n"); got != 431 {
		t.Errorf("32 KiB of header: %d, %v", got, err)
	}
	s := server(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= 0 || s.IdleTimeout <= 0 {
		t.Errorf("timeouts: header %v, read %v, write %v, idle %v", s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout, s.IdleTimeout)
	}
}

// Profiles are on a socket that only its owner may use, which takes the place of an earlier one, and of nothing else.
func TestProfiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "profiles")
	for range 2 { // the second finds the socket of the first
		run, err := Profiles(t.Context(), path, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode() != fs.ModeSocket|0o600 {
			t.Fatalf("%v, %v", info, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- run(ctx) }()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		for _, profile := range []string{"heap", "goroutine", "profile?seconds=1"} {
			if got, err := ask(c, "/debug/pprof/"+profile, "Host: x\r\n"); got != 200 {
				t.Errorf("%s: %d, %v", profile, got, err)
			}
		}
		_ = c.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, not := range []string{file, dir, filepath.Join(dir, "nowhere", "s")} {
		if _, err := Profiles(t.Context(), not, slog.Default()); err == nil || !strings.Contains(err.Error(), "--profiles") {
			t.Errorf("%s: %v", not, err)
		}
	}
	if content, err := os.ReadFile(file); string(content) != "mine" {
		t.Errorf("the file is %q now, %v", content, err)
	}
	run, err := Profiles(t.Context(), "", slog.Default())
	if err != nil || run(t.Context()) != nil {
		t.Errorf("no profiles: %v", err)
	}
}
