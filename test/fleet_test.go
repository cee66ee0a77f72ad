package test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tsuji-dev/tsuji/identity"
	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
	"github.com/tsuji-dev/tsuji/test/netnstest"
)

// patience bounds every wait for a condition. It is long because machines are noisy: no story passes by it.
const patience = 60 * time.Second

// fleet is a source of objects, a control plane and routers in zones, as separate processes on addresses of
// their own, with mutual TLS.
type fleet struct {
	t        testing.TB
	dir      string // everything the fleet writes
	ca       *authority.Authority
	replicas []*replica // of the control plane; one, if a story adds none
	haproxy  string     // that routers run
	sidecar  bool       // somebody else runs it for them
	source
}

// replica is one control plane.
type replica struct {
	grpc, admin string
	extra       []string // arguments beside those that all have
	*process             // nil: not started yet
}

// onBoth tells a story twice: with a directory of manifests as the source, and with a Kubernetes API server.
func onBoth(t *testing.T, story func(t *testing.T, f *fleet)) {
	t.Helper()
	t.Run("directory", func(t *testing.T) { story(t, newFleet(t)) })
	t.Run("kubernetes", func(t *testing.T) {
		f := newFleet(t)
		f.source = newCluster(t)
		story(t, f)
	})
}

// newFleet makes a fleet whose source is a directory of manifests; nothing runs yet.
func newFleet(t testing.TB) *fleet {
	t.Helper()
	dir, err := os.MkdirTemp("", "tj") // short: unix sockets live below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ca, err := authority.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, dir: dir, ca: ca, haproxy: haproxytest.Binary(t), source: newDirectory(t, filepath.Join(dir, "manifests"))}
	f.addReplica()
	return f
}

// issue writes a certificate for the identity and returns its files.
func (f *fleet) issue(uri string) identity.Files {
	f.t.Helper()
	name := strings.NewReplacer("/", "_", ":", "").Replace(uri)
	files, err := f.ca.WriteFiles(f.dir, name, authority.Options{URI: uri, DNSNames: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
	if err != nil {
		f.t.Fatal(err)
	}
	return files
}

// addReplica chooses the addresses of one more replica.
func (f *fleet) addReplica() *replica {
	f.t.Helper()
	r := &replica{grpc: haproxytest.FreeAddress(f.t), admin: haproxytest.FreeAddress(f.t)}
	f.replicas = append(f.replicas, r)
	return r
}

// startControlPlane starts every replica, and waits until they have read their source.
func (f *fleet) startControlPlane() {
	f.t.Helper()
	for _, r := range f.replicas {
		f.startReplica(r)
	}
	for _, r := range f.replicas {
		f.readyReplica(r)
	}
}

func (f *fleet) startReplica(r *replica) {
	f.t.Helper()
	files := f.issue("spiffe://tsuji.local/controlplane/test")
	args := append(f.args(), "--listen="+r.grpc, "--admin="+r.admin, "--tls-cert="+files.Cert, "--tls-key="+files.Key, "--client-ca="+files.CA)
	r.process = start(f.t, filepath.Join(f.dir, "controlplane-"+r.grpc+".log"), "controlplane", append(args, r.extra...)...)
}

func (f *fleet) readyReplica(r *replica) {
	f.t.Helper()
	eventually(f.t, "the control plane is ready", func() error { return status("http://"+r.admin+"/readyz", 200) })
}

// controlPlane is the first replica, which is the only one as a rule.
func (f *fleet) controlPlane() *replica { return f.replicas[0] }

// router is one routerd.
type router struct {
	f                                   *fleet
	zone, name                          string
	http, https, stats, admin, stateDir string
	haproxyDir                          string
	args                                []string
	*process
}

// newRouter chooses a router's addresses; start starts it.
func (f *fleet) newRouter(zone, name string) *router {
	f.t.Helper()
	files := f.issue("spiffe://tsuji.local/ingress/default/zone/" + zone + "/router/" + name)
	var addresses []string
	for _, r := range f.replicas {
		addresses = append(addresses, r.grpc)
	}
	r := &router{
		f: f, zone: zone, name: name, http: haproxytest.FreeAddress(f.t), https: haproxytest.FreeAddress(f.t), stats: haproxytest.FreeAddress(f.t), admin: haproxytest.FreeAddress(f.t),
		stateDir: filepath.Join(f.dir, name), haproxyDir: filepath.Join(f.dir, name, "haproxy"),
	}
	r.args = []string{
		"--zone=" + zone, "--name=" + name, "--control-plane=" + strings.Join(addresses, ","),
		"--tls-cert=" + files.Cert, "--tls-key=" + files.Key, "--ca=" + files.CA,
		"--http=" + r.http, "--https=" + r.https, "--stats=" + r.stats, "--admin=" + r.admin,
		"--state-dir=" + r.stateDir, "--haproxy=" + f.haproxy, "--shutdown-delay=0s", "--drain-timeout=5s",
	}
	f.t.Cleanup(func() { r.killHAProxy() })
	return r
}

func (r *router) start(extra ...string) {
	r.f.t.Helper()
	r.process = start(r.f.t, filepath.Join(r.f.dir, r.name+".log"), "routerd", append(r.args, extra...)...)
}

// startIn starts it in surroundings of its own.
func (r *router) startIn(change func(cmd *exec.Cmd)) {
	r.f.t.Helper()
	r.process = startIn(r.f.t, filepath.Join(r.f.dir, r.name+".log"), "routerd", change, r.args...)
}

// ready waits until the router answers that it serves.
func (r *router) ready() {
	r.f.t.Helper()
	eventually(r.f.t, r.name+" is ready", func() error { return status("http://"+r.stats+"/healthz/ready", 200) })
}

// haproxy returns the process ids of the router's HAProxy: those whose working directory is in its state directory.
func (r *router) haproxyPIDs() (master int, workers []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		r.f.t.Fatal(err)
	}
	var all []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		exe, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if !bytes.Contains(exe, []byte("haproxy.cfg")) {
			continue
		}
		env, _ := os.Readlink("/proc/" + e.Name() + "/cwd")
		root, _ := os.Readlink("/proc/" + e.Name() + "/root")
		if strings.HasPrefix(env, r.haproxyDir) || strings.HasPrefix(root, r.haproxyDir) {
			all = append(all, pid)
		}
	}
	for _, pid := range all {
		parent := parentOf(pid)
		isWorker := false
		for _, other := range all {
			isWorker = isWorker || parent == other
		}
		if isWorker {
			workers = append(workers, pid)
		} else {
			master = pid
		}
	}
	return master, workers
}

func (r *router) killHAProxy() {
	master, workers := r.haproxyPIDs()
	for _, pid := range append(workers, master) {
		if pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func parentOf(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// pid (comm) state ppid
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

// process is a child of the test.
type process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// start runs one of the binaries with its output in a file; it is killed at the end of the test at the latest.
func start(t testing.TB, log, name string, args ...string) *process {
	t.Helper()
	return startIn(t, log, name, func(*exec.Cmd) {}, args...)
}

// startIn is start with a last word on how it is run.
func startIn(t testing.TB, log, name string, change func(cmd *exec.Cmd), args ...string) *process {
	t.Helper()
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(filepath.Join(bin, name), args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	change(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, name: name, cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			b, _ := os.ReadFile(log)
			t.Logf("---- %s\n%s---- its end\n%s", log, warnings(b, 40), tail(b, 6000))
		}
	})
	return p
}

// warnings returns the first lines of a log that are not just information.
func warnings(log []byte, most int) string {
	var b strings.Builder
	for line := range strings.Lines(string(log)) {
		if most > 0 && !strings.Contains(line, "level=INFO") {
			b.WriteString(line)
			most--
		}
	}
	return b.String()
}

// kill ends the process with SIGKILL, and waits for it.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// terminate ends the process with SIGTERM, and waits for it.
func (p *process) terminate() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("%s did not end on SIGTERM", p.name)
	}
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

// logged tells whether the process wrote a line that has all the words.
func (p *process) logged(words ...string) error {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		found := true
		for _, w := range words {
			found = found && strings.Contains(line, w)
		}
		if found {
			return nil
		}
	}
	return fmt.Errorf("%s logged no line with %q", p.name, words)
}

// dial connects to a replica with the identity's certificate.
func (f *fleet) dial(r *replica, files identity.Files) *grpc.ClientConn {
	f.t.Helper()
	conn, err := grpc.NewClient(r.grpc, grpc.WithTransportCredentials(credentials.NewTLS(f.clientTLS(files))))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// clientTLS is how a peer with these files connects to a control plane.
func (f *fleet) clientTLS(files identity.Files) *tls.Config {
	f.t.Helper()
	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		f.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(f.ca.CertPEM())
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS13}
}

// operator connects to the control plane with an operator's certificate.
func (f *fleet) operator() *grpc.ClientConn { return f.operatorOf(f.controlPlane()) }

func (f *fleet) operatorOf(r *replica) *grpc.ClientConn {
	return f.dial(r, f.issue("spiffe://tsuji.local/operator/test"))
}

// routers asks the control plane for its routers, by name.
func (f *fleet) routers(conn *grpc.ClientConn) map[string]*tsujiv1.Router {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	r, err := tsujiv1.NewFleetServiceClient(conn).ListRouters(ctx, &tsujiv1.ListRoutersRequest{}, grpc.WaitForReady(true))
	if err != nil {
		f.t.Fatal(err)
	}
	byName := map[string]*tsujiv1.Router{}
	for _, r := range r.GetRouters() {
		byName[r.GetName()] = r
	}
	return byName
}

// converged waits until each router named has acked what it should have.
func (f *fleet) converged(conn *grpc.ClientConn, names ...string) {
	f.t.Helper()
	eventually(f.t, "all routers serve their target", func() error {
		byName := f.routers(conn)
		for _, n := range names {
			r := byName[n]
			if !r.GetConnected() || r.GetAckedVersion() == "" || digests(r.GetAckedVersion()) != digests(r.GetTargetVersion()) {
				return fmt.Errorf("%s: connected %v, acked %q, target %q, refusal %v", n, r.GetConnected(), r.GetAckedVersion(), r.GetTargetVersion(), r.GetRefusal())
			}
		}
		return nil
	})
}

// digests is a version without its revision.
func digests(version string) string {
	_, d, _ := strings.Cut(version, "-")
	return d
}

// backend is an HTTP server of the test's own; it answers with its name.
func backend(t testing.TB, name string) (host string, port int) {
	t.Helper()
	srv := &http.Server{Handler: answering(name), ReadHeaderTimeout: patience}
	l, err := net.Listen("tcp", netnstest.PodAddress+":0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	a, _ := l.Addr().(*net.TCPAddr)
	return a.IP.String(), a.Port
}

// tlsBackend is the same over TLS.
func tlsBackend(t testing.TB, name string, certPEM, keyPEM []byte) (host string, port int) {
	t.Helper()
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: answering(name), ReadHeaderTimeout: patience}
	l, err := tls.Listen("tcp", netnstest.PodAddress+":0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	a, _ := l.Addr().(*net.TCPAddr)
	return a.IP.String(), a.Port
}

func answering(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %s %s\n", name, r.Host, r.URL.Path)
	})
}

var client = &http.Client{
	Timeout:       10 * time.Second,
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// get asks an address for a host's path, and returns the status and the body.
func get(address, host, path string) (int, string, error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return 0, "", err
	}
	req.Host = host
	return do(client, req)
}

func do(c *http.Client, req *http.Request) (int, string, error) {
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "", err
	}
	return resp.StatusCode, string(b), nil
}

// answers is nil when the address gives the host's path a 200 whose body begins so.
func answers(address, host, path, begin string) error {
	code, body, err := get(address, host, path)
	if err != nil {
		return err
	}
	if code != 200 || !strings.HasPrefix(body, begin) {
		return fmt.Errorf("http://%s%s (Host: %s): %d %q, want 200 %q", address, path, host, code, body, begin)
	}
	return nil
}

func status(url string, want int) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != want {
		return fmt.Errorf("%s: %d %q, want %d", url, resp.StatusCode, b, want)
	}
	return nil
}

// eventually waits until the condition holds; it fails the test with its last error.
func eventually(t testing.TB, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond) // between two looks at a condition
	}
}

// loadLeast is how many requests of a load tell something.
const loadLeast = 100

// load sends requests one after the other from some clients, half of them on connections of their own, until
// stop is called, which returns how many there were and the first failures.
func load(t testing.TB, address, host string) (stop func() (int, []error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var sent int
	var failed []error
	enough := make(chan struct{}) // closed when loadLeast requests were answered, or failed
	for n := range 4 {
		c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: n%2 == 0}}
		wg.Go(func() {
			defer c.CloseIdleConnections()
			for ctx.Err() == nil {
				req, _ := http.NewRequest(http.MethodGet, "http://"+address+"/", nil)
				req.Host = host
				code, body, err := do(c, req)
				if err == nil && code != 200 {
					err = fmt.Errorf("%d %q", code, body)
				}
				mu.Lock()
				if sent++; sent == loadLeast {
					close(enough)
				}
				if err != nil && len(failed) < 5 {
					failed = append(failed, fmt.Errorf("request %d: %w", sent, err))
				}
				mu.Unlock()
				select {
				case <-ctx.Done():
				case <-time.After(2 * time.Millisecond): // the load's pace
				}
			}
		})
	}
	var once sync.Once
	stop = func() (int, []error) {
		once.Do(func() {
			select {
			case <-enough:
			case <-ctx.Done():
			case <-time.After(20 * time.Second):
			}
			cancel()
			wg.Wait()
		})
		return sent, failed
	}
	t.Cleanup(func() { stop() })
	return stop
}

var errNotYet = errors.New("not yet")
