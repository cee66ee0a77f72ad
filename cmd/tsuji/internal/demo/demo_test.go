package demo

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/cluster/manifests"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/explain"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

const examples = "../../../../examples/demo"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newDemo is a demo that has its certificates and manifests, but runs nothing.
func newDemo(t *testing.T, offset int) (*demo, credentialsOf, string) {
	t.Helper()
	d := &demo{ports: portsAt(offset), Config: Config{
		Source: t.TempDir(), StateDir: filepath.Join(t.TempDir(), "state"), BinDir: "bin", HAProxy: "haproxy", PortOffset: offset,
	}}
	if err := os.CopyFS(d.Source, os.DirFS(examples)); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(d.Source, GeneratedName)) // of a demo that runs in this checkout
	s, err := openState(d.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	c, err := issue(d.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	source, err := d.manifests(c)
	if err != nil {
		t.Fatal(err)
	}
	return d, c, source
}

// read reads a directory of manifests as the control plane does, and compiles it.
func read(t *testing.T, dir string) (cluster.Batch, compile.Result) {
	t.Helper()
	source, err := manifests.NewDir(manifests.DirConfig{Path: dir, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() {
		if err := source.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer following.Wait()
	defer cancel()
	for {
		changed := source.Changed()
		if batch, synced := source.Take(); synced {
			return batch, compile.New(compile.Config{AllowLoopbackEndpoints: true}).Apply(batch.Changes)
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Fatal("the directory was not read within 10 s")
		}
	}
}

// The demo's manifests are without fault, every Route in them is admitted, without warnings, and all that a
// Route refers to is there; with other ports, too.
func TestManifests(t *testing.T) {
	for _, offset := range []int{0, 20000} {
		_, _, dir := newDemo(t, offset)
		batch, result := read(t, dir)
		for _, f := range batch.Faults {
			t.Errorf("fault: %s", f)
		}
		var hosts []string
		for _, v := range result.Verdicts {
			hosts = append(hosts, fmt.Sprintf("%s%s %s", v.GetHost(), v.GetPath(), explain.Termination(v.GetTermination())))
			if !v.GetAdmitted() || len(v.GetWarnings()) > 0 {
				t.Errorf("%s is refused, or warned of: %v", v.GetName(), v)
			}
		}
		want := []string{
			"edge.demo.example edge",
			"hello.demo.example insecure",
			"hello.demo.example/b insecure",
			"passthrough.demo.example passthrough",
			"reencrypt.demo.example reencrypt",
		}
		if d := cmp.Diff(want, hosts); d != "" {
			t.Errorf("routes (-want +got):\n%s", d)
		}
		addresses := map[string]int{}
		for i := range result.Facts.All() {
			r, err := tsujiv1.Decode(i)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range r.GetEndpoints().GetEndpoints() {
				addresses[loopback(int(e.GetPort()))]++
			}
		}
		for _, b := range portsAt(offset).backends {
			if addresses[loopback(b.httpPort)] == 0 || b.name == "backend-a" && addresses[loopback(b.tlsPort)] == 0 {
				t.Errorf("no route leads to %+v: %v", b, addresses)
			}
		}
		if info, err := os.Stat(filepath.Join(dir, GeneratedName)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s holds keys, and has the mode %v %v", GeneratedName, info, err)
		}
	}
}

// A file of the user's own is never written over; one of an earlier demo is.
func TestGeneratedIsOurs(t *testing.T) {
	path := filepath.Join(t.TempDir(), GeneratedName)
	for _, c := range []struct {
		before string
		wrong  string
	}{{generatedHead + "old", ""}, {"kind: Route", "rename yours"}, {"", "rename yours"}} {
		if err := os.WriteFile(path, []byte(c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		err := writeGenerated(path, []byte(generatedHead+"new"))
		after, _ := os.ReadFile(path)
		if c.wrong == "" && (err != nil || string(after) != generatedHead+"new") {
			t.Errorf("after %q: %v, %q", c.before, err, after)
		}
		if c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong) || string(after) != c.before) {
			t.Errorf("after %q: %v, %q", c.before, err, after)
		}
	}
}

// The state directory is for its owner, for one demo at a time, and never somebody else's; what is of no use
// later is removed at the end.
func TestStateDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode is %v %v, want 0700", info.Mode(), err)
	}
	if _, err := openState(dir); err == nil || !strings.Contains(err.Error(), "another demo runs") {
		t.Errorf("a second demo got %v", err)
	}
	c, err := issue(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeEnv(dir, "127.0.0.1:1", c.operator); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tok04.log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.close()
	left := func() string {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return strings.Join(names, " ")
	}
	if left() != "lock tok04.log" {
		t.Errorf("at the end there is %s, want the lock and the log", left())
	}
	if s, err = openState(dir); err != nil {
		t.Fatal(err)
	}
	if left() != "lock" {
		t.Errorf("at the next start there is %s, want the lock", left())
	}
	s.close()

	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openState(other); err == nil || !strings.Contains(err.Error(), "not a demo's") {
		t.Errorf("somebody else's directory gave %v", err)
	}
}

// What is written for a shell is read back, in whatever directory; other variables are not taken from there.
func TestEnv(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "it's a $dir")
	if err := os.MkdirAll(filepath.Join(dir, tlsName), 0o700); err != nil {
		t.Fatal(err)
	}
	if none, err := Env(dir); err != nil || none != nil {
		t.Errorf("before there is one, got %v %v", none, err)
	}
	os.RemoveAll(filepath.Join(dir, tlsName))
	c, err := issue(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeEnv(dir, "127.0.0.1:9400", c.operator); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, envName), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(f, "export TSUJI_INSECURE=true")
	f.Close()
	got, err := Env(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"TSUJI_SERVER": "127.0.0.1:9400", "TSUJI_TLS_CERT": c.operator.Cert, "TSUJI_TLS_KEY": c.operator.Key, "TSUJI_CA": c.operator.CA}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A backend says who it is, and shows the certificate of the name that it is asked for.
func TestBackends(t *testing.T) {
	d, c, _ := newDemo(t, 0)
	for i := range d.ports.backends { // any free ones
		d.ports.backends[i].httpPort, d.ports.backends[i].tlsPort = freePort(t), freePort(t)
	}
	b, err := startBackends(t.Context(), d.ports.backends, c.backend)
	if err != nil {
		t.Fatal(err)
	}
	defer b.stop()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.ca)
	get := func(url, serverName string) (string, *tls.ConnectionState) {
		t.Helper()
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: serverName}}
		defer transport.CloseIdleConnections()
		r, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body), r.TLS
	}
	for _, p := range d.ports.backends {
		if body, _ := get("http://"+loopback(p.httpPort)+"/x", ""); !strings.HasPrefix(body, "Hello from "+p.name+", over plain HTTP\n\nGET /x ") {
			t.Errorf("%s says %q", p.name, body)
		}
		for _, name := range []string{passthroughHost, "secure.demo.svc"} {
			if body, _ := get("https://"+loopback(p.tlsPort), name); !strings.HasPrefix(body, "Hello from "+p.name+", over TLS for "+name+"\n") {
				t.Errorf("%s says %q", p.name, body)
			}
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	return portNumber(t, haproxytest.FreeAddress(t))
}

func portNumber(t *testing.T, address string) int {
	t.Helper()
	n, err := strconv.Atoi(portOf(address))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A port that is taken is named, with what to do.
func TestPortsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := ports{grpcPort: portNumber(t, l.Addr().String()), adminPort: freePort(t)}
	if err := p.free(t.Context()); err == nil || !strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), "--port-offset") {
		t.Errorf("got %v", err)
	}
}

// What a child logs is kept whole; warnings come to the terminal; an end that nobody asked for is told
// with the last lines and the command line; one that was asked for is not.
func TestChild(t *testing.T) {
	t.Setenv("TSUJI_LEAK", "x")
	dir := t.TempDir()
	var b bytes.Buffer
	out := &terminal{w: &b}
	start := func(name, script string) *child {
		t.Helper()
		c, err := startChild(t.Context(), name, "/bin/sh", []string{"-c", script}, dir, out)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	died := start("tok04", `echo level=INFO msg=hi; echo level=WARN msg=careful >&2; echo "bad $TSUJI_LEAK" >&2; exit 3`)
	<-died.reported
	asked := start("tok05", `trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done`)
	for {
		if log, _ := os.ReadFile(asked.logFile); bytes.Contains(log, []byte("ready")) {
			break
		}
		select {
		case <-asked.reported:
			t.Fatalf("it ended before it was asked to: %v", asked.err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	asked.quiet()
	asked.terminate()
	<-asked.reported

	if log, _ := os.ReadFile(died.logFile); string(log) != "level=INFO msg=hi\nlevel=WARN msg=careful\nbad \n" {
		t.Errorf("the log is %q", log)
	}
	if log, _ := os.ReadFile(asked.logFile); string(log) != "ready\nbye\n" || asked.killed() {
		t.Errorf("the log of the one that was asked to end is %q, killed %v", log, asked.killed())
	}
	if script, _ := os.ReadFile(filepath.Join(dir, "tok05.sh")); !strings.HasPrefix(string(script), "exec /bin/sh -c 'trap '\\''") {
		t.Errorf("the script is %q", script)
	}
	if pid, _ := os.ReadFile(filepath.Join(dir, "tok05.pid")); string(pid) != fmt.Sprintln(asked.cmd.Process.Pid) {
		t.Errorf("the process id is written down as %q", pid)
	}
	told := b.String()
	for _, want := range []string{"[tok04] warn msg=careful\n", fmt.Sprintf("tok04 (pid %d) ended: exit status 3", died.cmd.Process.Pid), "\n  bad \n", "sh " + filepath.Join(dir, "tok04.sh")} {
		if !strings.Contains(told, want) {
			t.Errorf("the terminal does not show %q:\n%s", want, told)
		}
	}
	if strings.Contains(told, "tok05") {
		t.Errorf("an end that was asked for is told:\n%s", told)
	}
}

// The words of a command line come back from a shell as they are.
func TestQuote(t *testing.T) {
	for word, want := range map[string]string{"--http=127.0.0.1:80": "--http=127.0.0.1:80", "a b": "'a b'", "it's": `'it'\''s'`, "": "''", "$x": "'$x'"} {
		if got := quote(word); got != want {
			t.Errorf("quote(%q) is %s, want %s", word, got, want)
		}
		if got := unquote(quote(word)); got != word {
			t.Errorf("unquote(quote(%q)) is %q", word, got)
		}
	}
}
