package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// The control plane, routerd, HAProxy's worker and its master are killed, each alone and each with each other, while
// clients ask and objects change. Who is killed is started again at once, as a kubelet would. No change is lost; no
// answer is of another tenant, nor of what was withdrawn before the request began, as far as the ack of that was
// seen; and nothing is out but for what the death of HAProxy itself costs. `make kills` makes fifty rounds.
func TestKills(t *testing.T) {
	onBoth(t, kills)
}

// longestOutage is what the death of HAProxy may cost. A busy machine may take longer for anything, so it is asked
// for at full size only.
const longestOutage = 3 * time.Second

func kills(t *testing.T, f *fleet) {
	newKillWorld(t, f).rounds(pairs("control plane", "routerd", "worker", "master"))
}

// rounds kills each combination of victims, fifty times at full size, and looks at what it costs.
func (w *killWorld) rounds(combinations [][]string) {
	t := w.t
	t.Helper()
	rounds := 1
	if os.Getenv("TSUJI_LONG") == "1" {
		rounds = 50
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	outages := map[string][]time.Duration{}
	for round := range rounds {
		all := slices.Clone(combinations)
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, victims := range all {
			what := strings.Join(victims, " and ")
			outage := w.kill(victims)
			if dies := slices.ContainsFunc(victims, isHAProxy); !dies && outage > 0 {
				t.Errorf("round %d: %s: requests failed for %s, though HAProxy was not killed: %v", round, what, outage, w.lastFailure())
			}
			if rounds > 1 && outage > longestOutage {
				t.Errorf("round %d: %s: requests failed for %s", round, what, outage)
			}
			outages[what] = append(outages[what], outage)
			if w.tellWrong() {
				return
			}
		}
	}
	w.end()
	for _, victims := range combinations {
		what := strings.Join(victims, " and ")
		list := outages[what]
		slices.Sort(list)
		t.Logf("%-26s out for %s at the median, %s at most, of %d", what, list[len(list)/2], list[len(list)-1], len(list))
	}
}

// isHAProxy tells whether HAProxy ends with the victim.
func isHAProxy(victim string) bool {
	return victim == "worker" || victim == "master" || victim == stopsHAProxy
}

// pairs are the victims, alone and in pairs.
func pairs(who ...string) [][]string {
	var all [][]string
	for i, one := range who {
		all = append(all, []string{one})
		for _, other := range who[i+1:] {
			all = append(all, []string{one, other})
		}
	}
	return all
}

// killWorld is one control plane and one router that are kept alive, clients, and a source that changes.
type killWorld struct {
	t    *testing.T
	f    *fleet
	r    *router
	port int // of the endpoints: every address answers there
	stop context.CancelFunc
	work sync.WaitGroup

	keep [3]keeper // control plane, routerd; HAProxy, where it has a container of its own

	// Generation n of what changes has its endpoint at address(n), and its Route if n is odd. Those from acked on may
	// be seen, up to those that are written.
	written, acked atomic.Int64

	mu      sync.Mutex
	asked   int       // guarded by mu; requests of tenants that nothing changes for
	failed  time.Time // guarded by mu; since when these fail; zero: they do not
	longest time.Duration
	last    error // guarded by mu; the last of these failures
	wrong   []string
}

// keeper keeps a process alive.
type keeper struct {
	mu sync.Mutex // held by who looks at what p has, as long as run runs
	p  *process
}

func newKillWorld(t *testing.T, f *fleet) *killWorld {
	w := &killWorld{t: t, f: f}
	w.port = w.listen()
	var still strings.Builder
	for _, tenant := range []string{"a", "b"} {
		still.WriteString(service("still-"+tenant, w.port, stillAddress(tenant)) + route("still-"+tenant, tenant+".example.com", "still-"+tenant))
	}
	f.write("still.yaml", still.String()+route("moves", "moves.example.com", "moves"))
	w.write(1)
	f.startControlPlane()
	w.r = f.newRouter("tok04", "router-a")
	if f.sidecar {
		w.r.separate()
		w.keep[2].p = w.r.startHAProxy()
	}
	w.r.start()
	w.r.ready()
	w.keep[0].p, w.keep[1].p = f.controlPlane().process, w.r.process
	op := f.operator()

	ctx, stop := context.WithCancel(t.Context())
	w.stop = stop
	t.Cleanup(func() { stop(); w.work.Wait() })
	for i := range w.keep {
		if w.keep[i].p != nil {
			w.work.Go(func() { w.keep[i].run(ctx) })
		}
	}
	w.work.Go(func() { w.change(ctx, op) })
	for n := range 4 {
		w.work.Go(func() { w.askStill(ctx, []string{"a", "b"}[n/2], n%2 == 0) })
	}
	w.work.Go(func() { w.askMoving(ctx) })
	w.work.Go(func() { w.askComing(ctx) })
	eventually(t, "the world turns", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.asked < loadLeast || w.acked.Load() < 3 {
			return errNotYet
		}
		return nil
	})
	return w
}

// run starts the process again when it has ended, until ctx ends.
func (k *keeper) run(ctx context.Context) {
	for {
		k.mu.Lock()
		done := k.p.done
		k.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-done:
		}
		if ctx.Err() != nil {
			return
		}
		k.mu.Lock()
		err := k.p.again()
		k.mu.Unlock()
		if err != nil {
			k.p.t.Errorf("start %s again: %v", k.p.name, err)
			return
		}
	}
}

func (k *keeper) kill() { k.signal(syscall.SIGKILL) }

func (k *keeper) signal(s os.Signal) {
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = k.p.cmd.Process.Signal(s)
}

// again starts a process that has ended as it was started.
func (p *process) again() error {
	out, err := os.OpenFile(p.log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(p.cmd.Path, p.cmd.Args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = out, out, p.cmd.SysProcAttr
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	return nil
}

// listen answers on every address, each time with the one that was asked.
func (w *killWorld) listen() int {
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		w.t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		at, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
		_, _ = fmt.Fprint(rw, at.IP)
	})}
	go func() { _ = srv.Serve(l) }()
	w.t.Cleanup(func() { _ = srv.Close() })
	return l.Addr().(*net.TCPAddr).Port //nolint:errcheck // it is one
}

// Addresses in netnstest's range.
func stillAddress(tenant string) string { return fmt.Sprintf("10.65.0.%d", tenant[0]) }
func address(n int64) string            { return fmt.Sprintf("10.66.%d.%d", n/250, n%250+1) }

func generation(address string) int64 {
	var high, low int64
	if _, err := fmt.Sscanf(address, "10.66.%d.%d", &high, &low); err != nil {
		return -1
	}
	return high*250 + low - 1
}

// write makes a generation.
func (w *killWorld) write(n int64) {
	w.written.Store(n) // it may be seen from now on
	manifest := service("moves", w.port, address(n))
	if n%2 == 1 {
		manifest += route("comes", "comes.example.com", "still-a")
	}
	w.f.write("moves.yaml", manifest)
}

// change makes one generation after the other, each when the one before is acked.
func (w *killWorld) change(ctx context.Context, op *grpc.ClientConn) {
	for n := w.written.Load(); ctx.Err() == nil; n++ {
		if n > w.written.Load() {
			w.write(n)
		}
		for !w.serves(ctx, tsujiv1.NewSnapshotServiceClient(op), tsujiv1.NewFleetServiceClient(op), n) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(10 * time.Millisecond): // between two looks
			}
		}
		w.acked.Store(n)
	}
}

// serves tells whether the router has acked a version with this generation in it.
func (w *killWorld) serves(ctx context.Context, snapshots tsujiv1.SnapshotServiceClient, fleet tsujiv1.FleetServiceClient, n int64) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := snapshots.GetSnapshot(ctx, &tsujiv1.GetSnapshotRequest{})
	if err != nil {
		return false
	}
	comes, moved := false, false
	for _, r := range s.GetResources() {
		comes = comes || r.GetName() == tsujiv1.RouteName("shop", "comes")
		if strings.HasPrefix(r.GetName(), "endpoints/shop/moves/") {
			e := r.GetEndpoints().GetEndpoints()
			moved = len(e) == 1 && e[0].GetAddress() == address(n)
		}
	}
	if !moved || comes != (n%2 == 1) {
		return false
	}
	routers, err := fleet.ListRouters(ctx, &tsujiv1.ListRoutersRequest{})
	if err != nil {
		return false
	}
	return slices.ContainsFunc(routers.GetRouters(), func(r *tsujiv1.Router) bool {
		return digests(r.GetAckedVersion()) == digests(s.GetSnapshot().GetVersion())
	})
}

// ask sends requests one after the other, half a hundred in a second, and hands each answer to judge, with the first
// generation that it may be of and the last.
func (w *killWorld) ask(ctx context.Context, host string, kept bool, judge func(code int, body string, err error, first, last int64)) {
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: !kept}}
	defer c.CloseIdleConnections()
	for ctx.Err() == nil {
		req, _ := http.NewRequest(http.MethodGet, "http://"+w.r.http+"/", nil)
		req.Host = host
		first := w.acked.Load()
		code, body, err := do(c, req)
		judge(code, body, err, first, w.written.Load())
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond): // the load's pace
		}
	}
}

// askStill asks for a tenant whose objects nobody changes: there is one right answer, and none is an outage.
func (w *killWorld) askStill(ctx context.Context, tenant string, kept bool) {
	w.ask(ctx, tenant+".example.com", kept, func(code int, body string, err error, _, _ int64) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.asked++
		switch {
		case err == nil && code == 200:
			if !w.failed.IsZero() {
				w.longest = max(w.longest, time.Since(w.failed))
				w.failed = time.Time{}
			}
			if body != stillAddress(tenant) {
				w.wrong = append(w.wrong, fmt.Sprintf("tenant %s was answered by %s", tenant, body))
			}
		case w.failed.IsZero():
			w.failed = time.Now()
			fallthrough
		default:
			w.last = fmt.Errorf("%d %q %w", code, body, err)
		}
	})
}

// askMoving asks for what moves to another endpoint in each generation.
func (w *killWorld) askMoving(ctx context.Context) {
	w.ask(ctx, "moves.example.com", false, func(code int, body string, err error, first, last int64) {
		if n := generation(body); err == nil && code == 200 && (n < first || n > last) {
			w.isWrong("what moves was answered by %s, generation %d, when %d to %d were right", body, n, first, last)
		}
	})
}

// askComing asks for a Route that is there in every other generation.
func (w *killWorld) askComing(ctx context.Context) {
	w.ask(ctx, "comes.example.com", true, func(code int, body string, err error, first, last int64) {
		switch {
		case err != nil || first != last: // either is right
		case code == 200 && (last%2 == 0 || body != stillAddress("a")):
			w.isWrong("a Route that comes and goes was answered by %s in generation %d", body, last)
		case code == 503 && last%2 == 1:
			w.isWrong("a Route that comes and goes was not there in generation %d", last)
		}
	})
}

func (w *killWorld) isWrong(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

// out tells whether others get no answers either.
func (w *killWorld) out() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.failed.IsZero()
}

// tellWrong tells the first wrong answers, and whether there are any.
func (w *killWorld) tellWrong() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, wrong := range w.wrong {
		if i < 5 {
			w.t.Error(wrong)
		}
	}
	return len(w.wrong) > 0
}

func (w *killWorld) lastFailure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// kill kills the victims at the same time, and waits until changes come into force again and requests are answered. It
// returns for how long they were not.
func (w *killWorld) kill(victims []string) time.Duration {
	w.t.Helper()
	w.mu.Lock()
	w.longest, w.failed = 0, time.Time{}
	w.mu.Unlock()
	master, workers := w.r.haproxyPIDs()
	if master == 0 || len(workers) == 0 {
		w.t.Fatalf("before a kill: master %d, workers %v", master, workers)
	}
	killsHAProxy := slices.ContainsFunc(victims, isHAProxy)
	for _, v := range victims {
		switch v {
		case stopsRouterd:
			w.keep[1].signal(syscall.SIGTERM)
		case stopsHAProxy:
			w.keep[2].signal(syscall.SIGTERM)
		case "control plane":
			w.keep[0].kill()
		case "routerd":
			w.keep[1].kill()
		case "worker":
			for _, pid := range workers {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		case "master":
			_ = syscall.Kill(master, syscall.SIGKILL)
		}
	}
	eventually(w.t, "one HAProxy runs", func() error {
		now, left := w.r.haproxyPIDs()
		if now == 0 || len(left) == 0 || killsHAProxy && slices.ContainsFunc(left, func(pid int) bool { return slices.Contains(workers, pid) }) {
			return fmt.Errorf("master %d, workers %v", now, left)
		}
		return nil
	})
	begun := w.acked.Load()
	eventually(w.t, "changes come into force", func() error {
		if now := w.acked.Load(); now < begun+3 {
			return fmt.Errorf("generation %d is acked, %d written", now, w.written.Load())
		}
		return nil
	})
	eventually(w.t, "all is answered", func() error {
		if w.out() {
			return w.lastFailure()
		}
		return nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.longest
}

// end stops the changes, and sees that the last one is served by the one HAProxy that is left.
func (w *killWorld) end() {
	w.t.Helper()
	w.stop()
	w.work.Wait()
	n := w.written.Load()
	eventually(w.t, "the last change is served", func() error { return answers(w.r.http, "moves.example.com", "/", address(n)) })
	want := 503
	if n%2 == 1 {
		want = 200
	}
	eventually(w.t, "the last Route is as it should be", func() error {
		if code, _, err := get(w.r.http, "comes.example.com", "/"); err != nil || code != want {
			return fmt.Errorf("%d %w, want %d", code, err, want)
		}
		return nil
	})
	w.t.Logf("%d changes, %d requests of tenants that nothing changes for", n, w.asked)
	if masters := w.masters(); len(masters) != 1 {
		w.t.Errorf("HAProxy has the masters %v", masters)
	}
}

// masters are the processes of HAProxy that have a session of their own.
func (w *killWorld) masters() []string {
	paths, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		w.t.Fatal(err)
	}
	var masters []string
	for _, p := range paths {
		at, _ := os.Readlink(p)
		stat, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "stat"))
		pid, rest, _ := strings.Cut(string(stat), " ")
		_, rest, _ = strings.Cut(rest, ") ")
		if fields := strings.Fields(rest); at == w.r.haproxyDir && len(fields) > 3 && fields[3] == pid {
			masters = append(masters, pid)
		}
	}
	return masters
}
