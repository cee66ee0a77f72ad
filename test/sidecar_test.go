package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// HAProxy has a container of its own: its own user, its own processes, and somebody else who starts it again. It, routerd
// and the control plane are killed, and told to stop as for an upgrade, each alone and with each other. What TestKills says
// holds: no change is lost, no answer is of what was withdrawn, and nothing is out but for HAProxy's own death.
func TestSidecarKills(t *testing.T) {
	f := newFleet(t)
	f.sidecar = true
	newKillWorld(t, f).rounds(pairs("control plane", "routerd", stopsRouterd, "worker", "master", stopsHAProxy))
}

// So it is on earlier releases, where more is made by reloads: there the two that a Pod has die, alone and together.
func TestSidecarEachHAProxy(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, binary string) {
		f := newFleet(t)
		f.sidecar, f.haproxy = true, binary
		newKillWorld(t, f).rounds([][]string{{"routerd"}, {stopsRouterd}, {"master"}, {"routerd", "master"}})
	})
}

// Victims that are told to end, as a kubelet tells those whose image is another.
const (
	stopsRouterd = "routerd, stopped,"
	stopsHAProxy = "HAProxy, stopped,"
)

// Who HAProxy is in a container of its own: nobody that anything else is, and in the group of its directories.
const (
	sidecarUser  = 65531
	sidecarGroup = 65530
)

// separate has somebody else run HAProxy for this router.
func (r *router) separate() {
	t := r.f.t
	t.Helper()
	shared := r.stateDir + "-shared"
	for _, err := range []error{
		os.Chmod(r.f.dir, 0o711), // HAProxy has to pass through
		os.Mkdir(shared, 0o750), os.Chown(shared, 0, sidecarGroup), os.Chmod(shared, 0o750|os.ModeSetgid),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r.haproxyDir = filepath.Join(shared, "haproxy")
	flags := []string{"--haproxy-dir=" + r.haproxyDir, "--haproxy-master=unix:" + filepath.Join(shared, "run", "master.sock")}
	for i, a := range r.args {
		if strings.HasPrefix(a, "--haproxy=") {
			r.args[i] = flags[0]
		}
	}
	r.args = append(r.args, flags[1])
	if out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "routerd"), append([]string{"prepare"}, flags...)...).CombinedOutput(); err != nil {
		t.Fatalf("routerd prepare: %v\n%s", err, out)
	}
}

// startHAProxy starts HAProxy's container. Its master is the first process there is, and the others end with it.
func (r *router) startHAProxy() *process {
	r.f.t.Helper()
	return startIn(r.f.t, filepath.Join(r.f.dir, r.name+"-haproxy.log"), "haproxy", func(cmd *exec.Cmd) {
		cmd.Path, cmd.Args[0] = r.f.haproxy, r.f.haproxy // by which it runs itself again at each reload
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWPID, Setsid: true, Pdeathsig: syscall.SIGKILL,
			Credential: &syscall.Credential{Uid: sidecarUser, Gid: sidecarUser, Groups: []uint32{sidecarGroup}},
		}
	}, "-W", "-S", "unix@run/master.sock,mode,660", "-C", r.haproxyDir, "-f", "haproxy.cfg")
}

// A router whose HAProxy is elsewhere waits for it, serves at once what is on disk when both were gone, and begins anew
// when HAProxy is of another release.
func TestSidecarReplaced(t *testing.T) {
	f := newFleet(t)
	f.sidecar = true
	host, port := backend(t, "a")
	f.write("a.yaml", service("a", port, host)+route("a", "a.example.com", "a"))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.separate()
	r.start()
	eventually(t, "routerd waits", func() error { return r.logged("waiting for HAProxy") })
	f.haproxy = haproxytest.Binaries(t)[len(haproxytest.Binaries(t))-1]
	container := r.startHAProxy()
	r.ready()
	eventually(t, "the Route is served", func() error { return answers(r.http, "a.example.com", "/", "a") })
	f.converged(f.operator(), "router-a")

	if other := haproxytest.Binary(t); other != f.haproxy { // there may be only one
		container.kill()
		f.haproxy = other
		container = r.startHAProxy()
		eventually(t, "routerd ends", func() error {
			select {
			case <-r.done:
				return nil
			default:
				return errors.New("it runs")
			}
		})
		if log, err := os.ReadFile(r.log); err != nil || !strings.Contains(string(log), "HAProxy is of another release now") {
			t.Errorf("it does not say why: %v", err)
		}
		r.start()
		r.ready()
		eventually(t, "the other release serves the Route", func() error { return answers(r.http, "a.example.com", "/", "a") })
	}

	// In peace the files are what is in force: HAProxy serves by itself.
	r.terminate()
	container.kill()
	r.startHAProxy()
	r.ready()
	if err := answers(r.http, "a.example.com", "/", "a"); err != nil {
		t.Error(err)
	}
	if master, workers := r.haproxyPIDs(); master == 0 || len(workers) != 1 {
		t.Error(fmt.Errorf("master %d, workers %v", master, workers))
	}
}

// Where routerd is root HAProxy becomes who it is told to, and answers for the metrics all the same.
func TestHAProxyUser(t *testing.T) {
	f := newFleet(t)
	f.write("a.yaml", service("a", 8080, "10.65.0.1")+route("a", "a.example.com", "a"))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start(fmt.Sprintf("--haproxy-user=%d:%d", sidecarUser, sidecarGroup))
	r.ready()
	_, workers := r.haproxyPIDs()
	if len(workers) != 1 {
		t.Fatalf("workers: %v", workers)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", workers[0]))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("\nUid:\t%d\t", sidecarUser), fmt.Sprintf("\nGid:\t%d\t", sidecarGroup)} {
		if !strings.Contains(string(status), want) {
			t.Errorf("the worker is not %q:\n%s", want, status)
		}
	}
	if code, _, err := get(r.stats, "localhost", "/metrics"); err != nil || code != 200 {
		t.Errorf("/metrics: %d, %v", code, err)
	}
}
