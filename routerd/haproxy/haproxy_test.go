package haproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("TSUJI_TEST_STARTER"); dir != "" {
		starter(dir)
	}
	goleak.VerifyTestMain(m)
}

// starter is a program that starts HAProxy, says so, and waits to be killed.
func starter(dir string) {
	p, err := New(Config{Binary: os.Getenv("TSUJI_TEST_HAPROXY"), Dir: dir, TieToParent: os.Getenv("TSUJI_TEST_TIED") != ""})
	if err == nil {
		_, err = p.Start(context.Background())
	}
	fmt.Println("started:", err)
	select {}
}

const base = `global
  stats socket unix@run/admin.sock mode 600 level admin expose-fd listeners
  hard-stop-after 5s
  uid 0
  chroot /
defaults
  mode http
  timeout client 10s
  timeout server 10s
  timeout connect 2s
frontend f
  bind ADDRESS
  http-request set-var(txn.v) str(version),map_str(maps/stamp.map)
  default_backend b
backend b
  balance roundrobin
  server s1 127.0.0.1:9 weight 100
`

// a directory with a configuration, and a Process for it that is ended with the test.
func setup(t testing.TB, binary string, change func(*Config)) (*Process, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tj")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	write(t, dir, "maps/stamp.map", "version one\n")
	write(t, dir, ConfigFile, strings.ReplaceAll(base, "ADDRESS", haproxytest.FreeAddress(t)))
	return process(t, binary, dir, change), dir
}

func process(t testing.TB, binary, dir string, change func(*Config)) *Process {
	t.Helper()
	cfg := Config{Binary: binary, Dir: dir, StartTimeout: 20 * time.Second, TieToParent: true, Log: slog.New(slog.DiscardHandler)}
	if testing.Verbose() {
		cfg.Log = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if change != nil {
		change(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill(); p.Close() })
	return p
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func write(t testing.TB, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func connect(t testing.TB, p *Process) *Runtime {
	t.Helper()
	r, err := p.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func start(t testing.TB, p *Process) {
	t.Helper()
	r, err := p.Start(t.Context())
	must(t, err)
	r.Close()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func awaitExit(t testing.TB, p *Process) {
	t.Helper()
	select {
	case <-p.Exited():
	case <-time.After(time.Minute):
		t.Fatal("HAProxy has not ended")
	}
}

// HAProxy is started, reloaded, told to stop, and each time the worker that answers is the one meant.
func TestLife(t *testing.T) { haproxytest.Each(t, lifeStory) }

func lifeStory(t *testing.T, binary string) {
	p, dir := setup(t, binary, nil)
	must(t, p.Check(t.Context()))
	start(t, p)
	if _, err := p.Start(t.Context()); err == nil {
		t.Error("started twice")
	}
	first := connect(t, p)
	version, err := p.Version(t.Context())
	must(t, err)
	if major, minor := haproxytest.Version(t, binary); version.Major != major || version.Minor != minor || version.TLS == "" ||
		first.Version().Text != version.Text {
		t.Errorf("the program says %+v, the worker %+v", version, first.Version())
	}
	second, err := p.Reload(t.Context())
	must(t, err)
	worker := second.PID()
	if worker == first.PID() {
		t.Errorf("worker %d is still there", worker)
	}
	if i, err := first.Info(t.Context()); err != nil || !i.Stopping {
		t.Errorf("the first worker is not stopping: %+v, %v", i, err)
	}
	first.Close()

	// A configuration that is refused: the worker stays, and the line is named.
	good, err := os.ReadFile(filepath.Join(dir, ConfigFile))
	must(t, err)
	write(t, dir, ConfigFile, strings.Replace(string(good), "roundrobin", "bogus", 1))
	for what, f := range map[string]func(context.Context) error{
		"check": p.Check, "reload": func(ctx context.Context) error { _, err := p.Reload(ctx); return err },
	} {
		var refused *CheckError
		if err := f(t.Context()); !errors.As(err, &refused) || len(refused.Alerts) != 1 ||
			refused.Alerts[0].File != ConfigFile || refused.Alerts[0].Line != 16 {
			t.Errorf("%s: %v", what, err)
		}
	}
	procs, err := p.Processes(t.Context())
	must(t, err)
	if i, err := second.Info(t.Context()); err != nil || i.Stopping || procs.Worker != worker {
		t.Errorf("after a refused reload: %+v, %v, %+v", i, err, procs)
	}
	second.Close()

	// Corrected, it is taken. And refused once more: the start below finds it so.
	bad, err := os.ReadFile(filepath.Join(dir, ConfigFile))
	must(t, err)
	write(t, dir, ConfigFile, string(good))
	third, err := p.Reload(t.Context())
	must(t, err)
	if third.PID() == worker {
		t.Errorf("worker %d is still there", worker)
	}
	third.Close()
	write(t, dir, ConfigFile, string(bad))

	must(t, p.SoftStop())
	awaitExit(t, p)

	// And a start that is refused.
	var refused *CheckError
	if _, err := p.Start(t.Context()); !errors.As(err, &refused) || refused.Alerts[0].Line != 16 {
		t.Errorf("start: %v", err)
	}
	awaitExit(t, p)
}

// HAProxy outlives its Process, and the next one takes it over; a killed worker takes its master with it,
// a killed master its workers, and both are noticed.
func TestAdopt(t *testing.T) { haproxytest.Each(t, adoptStory) }

func adoptStory(t *testing.T, binary string) {
	p, dir := setup(t, binary, nil)
	if ok, err := p.Adopt(t.Context()); ok || err != nil {
		t.Fatalf("adopted nothing: %v, %v", ok, err)
	}
	start(t, p)
	before, err := p.Processes(t.Context())
	must(t, err)
	// Not Close: the thread that it is tied to has to stay.
	next := process(t, binary, dir, nil)
	ok, err := next.Adopt(t.Context())
	must(t, err)
	after, err := next.Processes(t.Context())
	must(t, err)
	if !ok || before.Worker != after.Worker {
		t.Fatalf("adopted %v: %+v, then %+v", ok, before, after)
	}
	must(t, unix.Kill(after.Worker, unix.SIGKILL))
	awaitExit(t, next)
	awaitExit(t, p)
	if ok, err := next.Adopt(t.Context()); ok || err != nil {
		t.Errorf("adopted a dead one: %v, %v", ok, err)
	}

	start(t, next)
	procs, err := next.Processes(t.Context())
	must(t, err)
	worker, err := unix.PidfdOpen(procs.Worker, 0)
	must(t, err)
	defer unix.Close(worker)
	must(t, unix.Kill(procs.Master, unix.SIGKILL))
	awaitExit(t, next)
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(worker), Events: unix.POLLIN}}, 5000); n != 1 || err != nil {
		t.Errorf("the worker has not ended: %d, %v", n, err)
	}
}

// HAProxy outlives a program that is killed, and goes on when what it says fills the FIFO that nobody reads;
// unless it is tied to that program.
func TestOutlive(t *testing.T) { haproxytest.Each(t, outliveStory) }

func outliveStory(t *testing.T, binary string) {
	for _, tied := range []string{"", "yes"} {
		t.Run("tied="+tied, func(t *testing.T) {
			p, dir := setup(t, binary, nil)
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), "TSUJI_TEST_STARTER="+dir, "TSUJI_TEST_HAPROXY="+binary, "TSUJI_TEST_TIED="+tied)
			out, err := cmd.StdoutPipe()
			must(t, err)
			must(t, cmd.Start())
			line, err := bufio.NewReader(out).ReadString('\n')
			if line != "started: <nil>\n" {
				t.Fatal(line, err)
			}
			procs, err := p.Processes(t.Context())
			must(t, err)
			pidfd, err := unix.PidfdOpen(procs.Master, 0)
			must(t, err)
			defer unix.Close(pidfd)
			must(t, cmd.Process.Kill())
			_ = cmd.Wait()
			if tied != "" {
				if n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 10_000); n != 1 || err != nil {
					t.Errorf("HAProxy has not ended: %d, %v", n, err)
				}
				return
			}
			r := connect(t, p)
			for range 10 {
				var ops []Op
				for i := range 200 { // each of these is a line in HAProxy's output
					name := fmt.Sprint("s", i+2)
					ops = append(ops, AddServer("b", name, "127.0.0.1:1"), DelServer("b", name))
				}
				must(t, r.Do(t.Context(), ops...))
			}
			if ok, err := p.Adopt(t.Context()); !ok || err != nil {
				t.Fatalf("adopted %v, %v", ok, err)
			}
			next, err := p.Reload(t.Context())
			must(t, err)
			next.Close()
			var limits unix.Rlimit
			must(t, unix.Prlimit(procs.Master, unix.RLIMIT_CORE, nil, &limits))
			if limits != (unix.Rlimit{}) {
				t.Errorf("core dumps: %+v", limits)
			}
			r.Close()
			p.Kill()
			if tail := p.output.drain(); !strings.Contains(tail, "Loading success") {
				t.Errorf("what HAProxy said: %s", tail)
			}
		})
	}
}

// What listens on the socket but works elsewhere is not taken over.
func TestAdoptStranger(t *testing.T) {
	p, dir := setup(t, haproxytest.Binary(t), nil)
	must(t, os.MkdirAll(filepath.Join(dir, RunDir), 0o700))
	l, err := net.Listen("unix", filepath.Join(dir, MasterSocket))
	must(t, err)
	defer l.Close()
	if ok, err := p.Adopt(t.Context()); ok || err == nil || !strings.Contains(err.Error(), "another directory") {
		t.Errorf("adopted a stranger: %v, %v", ok, err)
	}
}

// Commands of all kinds, with every answer understood.
func TestCommands(t *testing.T) { haproxytest.Each(t, commandsStory) }

func commandsStory(t *testing.T, binary string) {
	p, _ := setup(t, binary, nil)
	start(t, p)
	r, ctx := connect(t, p), t.Context()

	must(t, r.Do(ctx, AddServer("b", "pod:a:b:", "127.0.0.1:81", "weight", "7", "check", "inter", "1m"),
		EnableHealth("b", "pod:a:b:"), SetServerState("b", "pod:a:b:", Ready),
		SetServerWeight("b", "s1", 0), SetServerAddr("b", "s1", netip.MustParseAddrPort("[::1]:82"))))
	// HAProxy moves a server a little later than it says so.
	var states map[string]ServerState
	for deadline := time.Now().Add(time.Minute); states["s1"].Port != 82 && time.Now().Before(deadline); {
		list, err := r.BackendsState(ctx, "b")
		must(t, err)
		states = list[0]
	}
	if all, err := r.ServersState(ctx); err != nil || len(all) != 2 || all[0].Backend != "b" {
		t.Errorf("all: %+v, %v", all, err)
	}
	if s := states["pod:a:b:"]; s.State() != Ready || s.Weight != 7 || s.Port != 81 || !s.Checked {
		t.Errorf("added: %+v", s)
	}
	if s := states["s1"]; s.Weight != 0 || s.Address.String() != "::1" || s.Port != 82 || s.Checked {
		t.Errorf("moved: %+v", s)
	}
	for _, op := range []Op{
		AddServer("b", "s1", "127.0.0.1:81"),
		AddServer("b", "s2", "127.0.0.1:81", "bogus"),
		AddServer("nope", "s2", "127.0.0.1:81"),
		DelServer("b", "s1"),
		AwaitRemovable("b", "s1", 1),
		SetServerWeight("b", "s1", 257),
		SetServerWeight("b", "s2", 1),
		SetServerState("b", "s1", "bogus"),
		SetServerAddr("b", "s2", netip.MustParseAddrPort("127.0.0.1:1")),
		SetMap("maps/stamp.map", "other", "x"),
		SetMap("maps/other.map", "version", "x"),
		SetCertificate("nope", "x"), CommitCertificate("nope"), SetCA("nope", "x", r.Version(), 16384)[0], CommitCA("nope"),
		{Cmd("bogus"), silent},
	} {
		var refused *RefusedError
		if err := r.Do(ctx, op); !errors.As(err, &refused) {
			t.Errorf("%s: %v", op, err)
		}
	}
	remove := []Op{SetServerState("b", "pod:a:b:", Maint), AwaitRemovable("b", "pod:a:b:", 1000), DelServer("b", "pod:a:b:")}
	if !r.Version().Capabilities().DelServerWait {
		remove = slices.Delete(remove, 1, 2)
	}
	must(t, r.Do(ctx, remove...))

	kept := func(t rapid.TB, value string) {
		if err := r.Do(ctx, SetMap("maps/stamp.map", "version", value)); err != nil {
			t.Fatalf("map: %q: %v", value, err)
		}
		got, err := r.GetMapKeys(ctx, []MapKey{{"maps/stamp.map", "version"}})
		if err != nil || got[0] != (MapValue{value, true}) {
			t.Fatalf("map: %q became %v, %v", value, got, err)
		}
		entries, err := r.ShowMap(ctx, "maps/stamp.map")
		if err != nil || len(entries) != 1 || entries[0].Key != "version" || entries[0].Value != value {
			t.Fatalf("map: %q became %q, %v", value, entries, err)
		}
	}
	for _, value := range []string{`applying 1-a+b`, `a;b \ c`, `"quoted", value="x"`, "#"} {
		kept(t, value)
	}
	for _, value := range []string{"<<", "v <<x"} { // which would announce a payload
		if r.Do(ctx, SetMap("maps/stamp.map", "version", value)) == nil {
			t.Errorf("map: %q was taken", value)
		}
	}
	// Whatever else Cmd takes for a word is one to HAProxy.
	part := rapid.SampledFrom([]string{"v", "<", "<<", " ", `\`, ";", "#", `"`, "'", "$", "%", "辻", "@1"})
	rapid.Check(t, func(rt *rapid.T) {
		value := "v" + strings.Join(rapid.SliceOfN(part, 0, 8).Draw(rt, "value"), "") + "v"
		if Cmd("x", value).err == nil {
			kept(rt, value)
		}
	})
	if got, err := r.GetMapKeys(ctx, []MapKey{{"maps/stamp.map", "other"}}); err != nil || got[0].Found {
		t.Errorf("found %v, %v", got, err)
	}
}

// Many commands, more than any buffer holds, are answered each by its own answer; so are large ones.
func TestBatch(t *testing.T) { haproxytest.Each(t, batchStory) }

func batchStory(t *testing.T, binary string) {
	p, _ := setup(t, binary, nil)
	start(t, p)
	r, ctx := connect(t, p), t.Context()
	var commands []Command
	for i := range 3000 {
		commands = append(commands, Cmd("add", "map", "maps/stamp.map", fmt.Sprint("key", i), strings.Repeat("x", i%3000)+"x"),
			Cmd("get", "map", "maps/stamp.map", fmt.Sprint("key", i)))
	}
	answers, err := r.Exec(ctx, commands...)
	must(t, err)
	for i := range 3000 {
		v, err := parseGetMap(answers[2*i+1].text, fmt.Sprint("key", i))
		if answers[2*i].text != "" || !v.Found || err != nil || len(v.Value) != i%3000+1 {
			t.Fatalf("%d: %q, %q, %v", i, answers[2*i].text, answers[2*i+1].text, err)
		}
	}
	entries, err := r.ShowMap(ctx, "maps/stamp.map")
	if err != nil || len(entries) != 3001 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
}

// A connection that breaks, or whose context ends, is of no further use and says so.
func TestBroken(t *testing.T) { haproxytest.Each(t, brokenStory) }

func brokenStory(t *testing.T, binary string) {
	p, _ := setup(t, binary, nil)
	start(t, p)
	r := connect(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	pause(t, r.PID())
	raw, err := r.conn.(*net.UnixConn).SyscallConn() //nolint:errcheck // it is one
	must(t, err)
	go func() {
		for asked := false; !asked; time.Sleep(time.Millisecond) { // the question waits in the socket
			_ = raw.Control(func(fd uintptr) {
				n, err := unix.IoctlGetInt(int(fd), unix.TIOCOUTQ)
				asked = n > 0 || err != nil
			})
		}
		cancel()
	}()
	_, err = r.Info(ctx)
	must(t, unix.Kill(r.PID(), unix.SIGCONT))
	if !errors.Is(err, ErrClosed) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := r.Info(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("used again: %v", err)
	}
	r = connect(t, p)
	p.Kill()
	if _, err := r.Info(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("of a dead worker: %v", err)
	}
	if _, err := p.Connect(t.Context()); err == nil {
		t.Error("connected to nobody")
	}
}

// A master that ends while it is asked to reload: who asked knows that it has ended, and may start another.
func TestReloadOfAMasterThatEnds(t *testing.T) {
	p, dir := setup(t, haproxytest.Binary(t), nil)
	start(t, p)
	socket := filepath.Join(dir, MasterSocket)
	must(t, os.Remove(socket))
	l, err := net.Listen("unix", socket)
	must(t, err)
	answered := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			err = c.Close()
		}
		answered <- errors.Join(err, unix.Kill(p.master.pid, unix.SIGKILL))
	}()
	if _, err := p.Reload(t.Context()); err == nil {
		t.Error("reloaded")
	}
	select {
	case <-p.Exited():
	default:
		t.Error("it is not known that HAProxy has ended")
	}
	must(t, <-answered)
	must(t, l.Close())
	start(t, p)
}

// A master that is given up ends in its own time, and is waited for even so: it does not stay as a zombie.
func TestLeave(t *testing.T) {
	p, _ := setup(t, haproxytest.Binary(t), nil)
	start(t, p)
	m := p.master
	p.Leave()
	start(t, p)
	select {
	case <-m.done:
	case <-time.After(time.Minute):
		t.Fatal("the one that was given up has not ended")
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", m.pid)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if !p.master.alive() {
		t.Error("the other one has ended")
	}
}

// pause stops a process, and returns when each of its threads stands still.
func pause(t *testing.T, pid int) {
	t.Helper()
	must(t, unix.Kill(pid, unix.SIGSTOP))
	for moving := true; moving; {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		must(t, err)
		moving = false
		for _, task := range tasks {
			status, err := os.ReadFile(task)
			must(t, err)
			moving = moving || !strings.Contains(string(status), "T (stopped)")
		}
	}
}

func BenchmarkExec(b *testing.B) {
	p, _ := setup(b, haproxytest.Binary(b), nil)
	start(b, p)
	r := connect(b, p)
	for _, n := range []int{1, 10, 100} {
		ops := make([]Op, n)
		for i := range ops {
			ops[i] = SetServerWeight("b", "s1", i%256)
		}
		b.Run(fmt.Sprintf("pipelined=%d", n), func(b *testing.B) {
			for b.Loop() {
				must(b, r.Do(b.Context(), ops...))
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/command")
		})
		line := strings.TrimSuffix(strings.Repeat("set server b/s1 weight 3; ", n), "; ")
		b.Run(fmt.Sprintf("one-line=%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := r.Exec(b.Context(), Command{line: line}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/command")
		})
	}
}
