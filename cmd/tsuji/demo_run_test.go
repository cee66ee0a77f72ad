package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tsuji-dev/tsuji/cmd/tsuji/internal/demo"
	"github.com/tsuji-dev/tsuji/identity"
)

const examples = "../../examples/demo"

// standIn makes this test's program a child of the demo's, when it is called by such a name: a control plane
// that answers as a busy one, or a router that does nothing until it is ended.
func standIn(name string, args []string) (code int, ok bool) {
	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	switch name {
	case "routerd":
		fmt.Println("level=INFO msg=started")
		<-ended.Done()
		return 0, true
	case "controlplane":
		if err := controlPlaneStandIn(ended, args); err != nil {
			fmt.Println("controlplane:", err)
			return 1, true
		}
		return 0, true
	default:
		return 0, false
	}
}

func controlPlaneStandIn(ended context.Context, args []string) error {
	var f identity.Files
	var listen string
	flags := pflag.NewFlagSet("controlplane", pflag.ContinueOnError)
	flags.StringVar(&listen, "listen", "", "")
	flags.StringVar(&f.Cert, "tls-cert", "", "")
	flags.StringVar(&f.Key, "tls-key", "", "")
	flags.StringVar(&f.CA, "client-ca", "", "")
	source := flags.String("source", "", "")
	flags.String("admin", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if os.Getenv("STAND_IN_FAILS") != "" {
		return errors.New("out of luck")
	}
	keeper, err := identity.Load(f, nil)
	if err != nil {
		return err
	}
	c := busy()
	c.status.Source = *source
	c.routers[1].AckedVersion = c.routers[1].TargetVersion
	l, err := new(net.ListenConfig).Listen(ended, "tcp", listen)
	if err != nil {
		return err
	}
	s := c.server(grpc.Creds(credentials.NewTLS(keeper.ServerTLS(nil))))
	defer context.AfterFunc(ended, s.Stop)()
	return s.Serve(l)
}

// screen is a terminal that several write to, and a test reads.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// bins is a directory of children's programs, which are this test's.
func bins(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"controlplane", "routerd"} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// freeOffset is a --port-offset at which all ports are free.
func freeOffset(t *testing.T) int {
	t.Helper()
	for range 100 {
		if n := 1000 + rand.IntN(15000); demo.PortsFree(t.Context(), n) == nil {
			return n
		}
	}
	t.Fatal("no free ports found")
	return 0
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come true within a minute")
		}
	}
}

// The demo comes up, is found by the other commands, reports a child that died, goes on without it, and ends
// leaving nothing behind but logs.
func TestDemo(t *testing.T) {
	source, err := filepath.Abs(examples)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	var out screen
	p := newProgram(world{out: &out, err: &out, env: func(string) (string, bool) { return "", false }})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	code := make(chan int)
	args := []string{"demo", "--bin-dir=" + bins(t), "--source=" + source, "--port-offset=" + strconv.Itoa(freeOffset(t))}
	go func() { code <- p.run(ctx, args) }()
	waitFor(t, func() bool {
		return strings.Contains(out.String(), "Both zones serve version 1767600000000-abababab+cdcdcdcd")
	})
	if got, code := tsuji(t, nil, "status"); code != 0 || !strings.Contains(got, "dir:.demo/manifests") {
		t.Errorf("tsuji status has exit code %d: %s", code, got)
	}
	if got, code := tsuji(t, nil, "demo", "--bin-dir="+bins(t), "--source="+source, "--port-offset="+strconv.Itoa(freeOffset(t))); code != exitError || !strings.Contains(got, "another demo runs") {
		t.Errorf("a second demo has exit code %d: %s", code, got)
	}

	pids := map[string]int{}
	for _, name := range []string{"controlplane", "tok04", "tok05"} {
		b, err := os.ReadFile(filepath.Join(demo.StateDir, name+".pid"))
		if err != nil {
			t.Fatal(err)
		}
		if pids[name], err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Kill(pids["controlplane"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		return strings.Contains(out.String(), "ended: signal: killed") && strings.Contains(out.String(), "sh .demo/controlplane.sh")
	})
	cancel()
	if got := <-code; got != 0 {
		t.Errorf("exit code %d:\n%s", got, out.String())
	}
	for name, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
	for _, gone := range []string{"env", "tls", "manifests/" + demo.GeneratedName} {
		if _, err := os.Stat(filepath.Join(demo.StateDir, gone)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left", gone)
		}
	}
	if strings.Contains(out.String(), "tok04 (pid") {
		t.Errorf("the end of a router was told, though it was asked for:\n%s", out.String())
	}
}

// A child that ends before all is up ends the demo, which tells what it said.
func TestDemoThatCannotStart(t *testing.T) {
	source, err := filepath.Abs(examples)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	t.Setenv("STAND_IN_FAILS", "1")
	got, code := tsuji(t, nil, "demo", "--bin-dir="+bins(t), "--source="+source, "--port-offset="+strconv.Itoa(freeOffset(t)))
	if code != exitError || !strings.Contains(got, "controlplane: out of luck") || !strings.Contains(got, "controlplane ended before all was up") {
		t.Errorf("exit code %d:\n%s", code, got)
	}
}
