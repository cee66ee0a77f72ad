package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/tsuji-dev/tsuji/identity"
	"github.com/tsuji-dev/tsuji/identity/authority"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
	"github.com/tsuji-dev/tsuji/test/kubetest"
	"github.com/tsuji-dev/tsuji/test/netnstest"
)

// A user is who a Pod runs as.
type user struct{ uid, gid, fsGroup int }

// The control plane and a router run as their Deployments say: a process for each container, its arguments, user, ports,
// probes and mounts, Secrets as a kubelet writes them, volumes that the kubelet made, nothing else that can be written, and
// no capabilities. The certificates are those of docs/install.md. Who took HAProxy over would find nothing of routerd's. Then
// the control plane goes, each of the router's containers is restarted, and it serves again.
func testPods(t *testing.T, server *kubetest.Server) {
	answerHello(t, netnstest.PodAddress+":8888")
	kubectl(t, server, hello, "apply", "--server-side", "-f", "-")
	certificatesByHand(t, server)
	t.Run("as they are", func(t *testing.T) {
		b := build(t, manifests+"/install")
		s := b.deployments["router-tok04"].Spec.Template.Spec.SecurityContext
		testPodsAs(t, server, b, user{int(*s.RunAsUser), int(*s.RunAsGroup), int(*s.FSGroup)})
	})
	t.Run("on OpenShift", func(t *testing.T) {
		servingCertificate(t, server)
		dir := edited(t, map[string]string{"it/kustomization.yaml": "resources: [../install]\ncomponents: [../components/openshift, ../components/service-ca]\n"})
		testPodsAs(t, server, build(t, dir+"/it"), user{1000650000, 0, 1000650000})
	})
}

func testPodsAs(t *testing.T, server *kubetest.Server, b built, as user) {
	runs := exec.CommandContext(t.Context(), "setpriv", "--reuid="+fmt.Sprint(as.uid), "--regid="+fmt.Sprint(as.gid),
		"--clear-groups", haproxytest.Binary(t), "-v")
	if out, err := runs.CombinedOutput(); err != nil {
		t.Skipf("user %d cannot run HAProxy; is a folder above it closed to others? %v\n%s", as.uid, err, out)
	}
	control := newPod(t, server, b.deployments["controlplane"], as)
	kubeconfig, err := server.KubeconfigFor(namespace, control.spec.ServiceAccountName)
	if err != nil {
		t.Fatal(err)
	}
	control.file("kubeconfig", kubeconfig)
	control.start("controlplane", "--kubeconfig=/mnt/kubeconfig") // where a Pod has a mounted token
	control.ready()

	router := newPod(t, server, b.deployments["router-tok04"], as)
	prepare := router.start("prepare")
	if err := prepare.Wait(); err != nil {
		t.Fatalf("prepare: %v", err)
	}
	haproxy := router.start("haproxy")
	routerd := router.start("routerd", "--shutdown-delay=0s")
	router.ready()
	serves(t)
	router.recorded()
	router.apart()

	// Each is restarted alone, without a control plane.
	stop(t, control.cmds["controlplane"], syscall.SIGKILL)
	stop(t, routerd, syscall.SIGKILL)
	if err := askRoute(t); err != nil {
		t.Errorf("without routerd: %v", err)
	}
	routerd = router.start("routerd", "--shutdown-delay=0s")
	router.ready()
	stop(t, haproxy, syscall.SIGKILL)
	haproxy = router.start("haproxy")
	router.ready()
	serves(t)

	// So it ends: routerd has readiness fail, and leaves the rest to who ends HAProxy when routerd has ended.
	stop(t, routerd, syscall.SIGTERM)
	if routerd.ProcessState.ExitCode() != 0 {
		t.Errorf("routerd ends: %v", routerd.ProcessState)
	}
	if err := router.probe("haproxy", "readiness"); err == nil {
		t.Error("a router that ends is ready")
	}
	if err := askRoute(t); err != nil {
		t.Errorf("it ends, and does not serve its last clients: %v", err)
	}
	stop(t, haproxy, syscall.SIGUSR1) // as its image has it
}

// recorded checks that what the router keeps is its own.
func (p *pod) recorded() {
	t := p.t
	t.Helper()
	state := filepath.Join(p.dir, "state", "state")
	i, err := os.Stat(state)
	if err != nil {
		t.Fatal(err)
	}
	if owner, ok := i.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != p.as.uid || i.Mode().Perm() != 0o700 {
		t.Errorf("the state directory is user %d's, with mode %v", owner.Uid, i.Mode())
	}
	eventually(t, "what is in force is recorded", func() error {
		var size int64
		for _, name := range []string{"checkpoint", "journal"} {
			if i, err := os.Stat(filepath.Join(state, name)); err == nil {
				size += i.Size()
			}
		}
		if size < 1000 { // what has no resources is smaller
			return fmt.Errorf("%d bytes are", size)
		}
		return nil
	})
}

// apart tries what somebody could who took HAProxy over: everything that its container can see is looked at by its user.
func (p *pod) apart() {
	t := p.t
	t.Helper()
	look := func(container, script string) string {
		t.Helper()
		cmd := p.command(container, "bash", "-c", script)
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	const keys = `find /mnt -name tls.key -readable; find /mnt -name checkpoint; find /mnt -name journal`
	if got := look("routerd", keys); strings.Count(got, "\n") < 1 || !strings.Contains(got, "tls.key") {
		t.Errorf("routerd itself does not find its key and its record, so that this shows nothing: %q", got)
	}
	if got := look("haproxy", keys); got != "" {
		t.Errorf("HAProxy can reach %s", got)
	}
	// The user alone, whatever it sees: the record is closed to it.
	if p.as != p.user("haproxy") {
		cmd := p.commandAs("routerd", p.user("haproxy"), "bash", "-c", "cat /mnt/var/lib/tsuji/state/* 2>&1")
		if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), "Permission denied") && !strings.Contains(string(out), "No such file") {
			t.Errorf("HAProxy's user reads what routerd keeps: %.100q", out)
		}
	}
	// It reads what it has to, and writes nothing but sockets.
	const writes = `cd /mnt/var/lib/tsuji-haproxy/files; [ -r haproxy.cfg ] && echo reads
for f in haproxy.cfg maps certs metrics.sock; do mv $f $f.old 2>/dev/null && echo "moves $f"; done
{ echo >>haproxy.cfg; } 2>/dev/null && echo "changes haproxy.cfg"; ln -s /mnt/x maps/x 2>/dev/null && echo "adds to maps"
find /mnt -writable ! -type s ! -type l`
	got := strings.Fields(look("haproxy", writes))
	if len(got) == 0 || got[0] != "reads" {
		t.Errorf("HAProxy's user cannot read its configuration: %q", got)
	}
	for _, what := range got[min(1, len(got)):] {
		if what != "/mnt/var/lib/tsuji-sockets" && what != "/mnt/var/lib/tsuji-sockets/run" {
			t.Errorf("HAProxy's user writes: %q", got)
			break
		}
	}
	// Of routerd's sockets it finds that of the metrics, and of processes only its own.
	for _, s := range strings.Fields(look("haproxy", "find /mnt -type s")) {
		if dir := filepath.Dir(s); dir != "/mnt/var/lib/tsuji-sockets/run" && s != "/mnt/var/lib/tsuji-haproxy/files/metrics.sock" {
			t.Errorf("HAProxy finds the socket %s", s)
		}
	}
	if got := look("haproxy", "cat /proc/[0-9]*/comm"); strings.Contains(got, "routerd") || strings.Contains(got, "program") {
		t.Errorf("HAProxy sees the processes %q", got)
	}
}

const hello = `
apiVersion: v1
kind: Service
metadata: {name: hello, namespace: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: hello-1, namespace: shop, labels: {kubernetes.io/service-name: hello}}
addressType: IPv4
ports: [{port: 8888}]
endpoints: [{addresses: [10.64.0.1], conditions: {ready: true}}]
---
apiVersion: route.openshift.io/v1
kind: Route
metadata: {name: hello, namespace: shop}
spec: {host: hello.example.com, to: {kind: Service, name: hello}}
`

// answerHello is what the Route leads to.
func answerHello(t *testing.T, address string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

// serves waits until the router serves the Route.
func serves(t *testing.T) {
	t.Helper()
	eventually(t, "the router serves the Route", func() error { return askRoute(t) })
}

// askRoute asks the router for the Route.
func askRoute(t *testing.T) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:8080/", nil)
	if err != nil {
		return err
	}
	req.Host = "hello.example.com"
	return ask(req, "hello")
}

func ask(req *http.Request, want string) error {
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || !strings.HasPrefix(string(body), want)) {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return err
}

// certificatesByHand makes the Secrets as docs/install.md says, and checks that they are identities.
func certificatesByHand(t *testing.T, server *kubetest.Server) {
	t.Helper()
	shell(t, server, t.TempDir(), "certificates")
	for secret, want := range map[string]string{
		"controlplane-tls": "spiffe://tsuji.local/controlplane/controlplane", "operator-tls": "spiffe://tsuji.local/operator/admin",
		"router-tok04-tls": "spiffe://tsuji.local/ingress/default/zone/tok04", "router-tok05-tls": "spiffe://tsuji.local/ingress/default/zone/tok05",
	} {
		files := t.TempDir()
		for name, content := range get[corev1.Secret](t, server, "secret", namespace, secret).Data {
			if err := os.WriteFile(filepath.Join(files, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		k, err := identity.Load(identity.Files{Cert: files + "/tls.crt", Key: files + "/tls.key", CA: files + "/ca.crt"}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if id, err := identity.FromCertificate(k.Certificate(), "tsuji.local"); err != nil || id.String() != want {
			t.Errorf("%s is of %s, %v: want %s", secret, id, err, want)
		}
	}
	dir := t.TempDir()
	shell(t, server, dir, "operator")
	if _, err := identity.Load(identity.Files{Cert: dir + "/tls.crt", Key: dir + "/tls.key", CA: dir + "/ca.crt"}, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
}

// servingCertificate makes what OpenShift's service CA would.
func servingCertificate(t *testing.T, server *kubetest.Server) {
	t.Helper()
	ca, err := authority.NewAuthority("service CA")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue(authority.Options{DNSNames: []string{"controlplane.tsuji.svc"}})
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, server, secret(namespace, "controlplane-serving", cert, key), "apply", "--server-side", "-f", "-")
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/service-ca.crt", ca.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, server, "", "create", "configmap", "controlplane-serving", "-n", namespace, "--from-file="+dir+"/service-ca.crt")
}

// pod is what stands in the place of a Pod: a directory with its volumes, and a process for each container, to which its
// mounts are below /mnt.
type pod struct {
	t       *testing.T
	name    string
	dir     string
	as      user
	spec    corev1.PodSpec
	haproxy string
	cmds    map[string]*exec.Cmd // by container, the last
}

// newPod makes what a kubelet makes before it starts a Pod of the Deployment.
func newPod(t *testing.T, server *kubetest.Server, deployment *appsv1.Deployment, as user) *pod {
	t.Helper()
	dir, err := os.MkdirTemp("", "tjpod")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &pod{t: t, name: deployment.Name, dir: dir, as: as, spec: deployment.Spec.Template.Spec, haproxy: haproxytest.Binary(t), cmds: map[string]*exec.Cmd{}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Chmod(dir, 0o755))
	for _, v := range p.spec.Volumes {
		path := filepath.Join(dir, v.Name)
		must(os.Mkdir(path, 0o755))
		if v.EmptyDir != nil {
			must(os.Chown(path, 0, as.fsGroup))
			must(os.Chmod(path, 0o777|fs.ModeSetgid))
			continue
		}
		if v.ConfigMap != nil {
			for name, content := range get[corev1.ConfigMap](t, server, "configmap", namespace, v.ConfigMap.Name).Data {
				must(os.WriteFile(filepath.Join(path, name), []byte(content), 0o644))
			}
			continue
		}
		for name, content := range get[corev1.Secret](t, server, "secret", namespace, v.Secret.SecretName).Data {
			mode := fs.FileMode(*v.Secret.DefaultMode) | 0o440
			must(os.WriteFile(filepath.Join(path, name), content, mode))
			must(os.Chown(filepath.Join(path, name), 0, as.fsGroup))
			must(os.Chmod(filepath.Join(path, name), mode))
		}
	}
	program, err := os.ReadFile(filepath.Join(bin, p.spec.Containers[0].Name))
	must(err)
	must(os.WriteFile(filepath.Join(dir, "program"), program, 0o755))
	return p
}

// file gives the Pod a file that only it can read.
func (p *pod) file(name, from string) {
	p.t.Helper()
	content, err := os.ReadFile(from)
	path := filepath.Join(p.dir, name)
	if err := errors.Join(err, os.WriteFile(path, content, 0o400), os.Chown(path, p.as.uid, p.as.gid)); err != nil {
		p.t.Fatal(err)
	}
}

// sandbox makes a container's /mnt of what it is given, triples of source, target and mode up to "--", hides the Pod's
// directory $1, makes what anybody may write read-only, and runs the rest as its user, $2 to $4, without capabilities. It is
// the first process that there is.
const sandbox = `
dir=$1 uid=$2 gid=$3 group=$4; shift 4
mount -t proc proc /proc
mount -t tmpfs -o mode=755 mnt /mnt
while [ "$1" != -- ]; do
  mkdir -p "$(dirname "/mnt$2")"
  if [ -d "$1" ]; then mkdir -p "/mnt$2"; else touch "/mnt$2"; fi
  mount --bind "$1" "/mnt$2"
  [ "$3" = rw ] || mount -o remount,bind,ro "/mnt$2"
  shift 3
done
mount -o remount,ro /mnt
for d in /tmp /var/tmp /dev/shm; do mount --bind $d $d; mount -o remount,bind,ro $d; done
mount -t tmpfs -o mode=755,ro hidden "$dir"
cd /
exec setpriv --reuid="$uid" --regid="$gid" --groups="$group" --no-new-privs --bounding-set=-all --inh-caps=-all --pdeathsig=KILL "$@"`

func (p *pod) container(name string) corev1.Container {
	p.t.Helper()
	for _, c := range slices.Concat(p.spec.InitContainers, p.spec.Containers) {
		if c.Name == name {
			return c
		}
	}
	p.t.Fatalf("%s has no container %s", p.name, name)
	return corev1.Container{}
}

// user returns who a container is.
func (p *pod) user(container string) user {
	as := p.as
	if s := p.container(container).SecurityContext; s.RunAsUser != nil {
		as.uid, as.gid = int(*s.RunAsUser), int(*s.RunAsGroup)
	}
	return as
}

// command runs something in a container.
func (p *pod) command(container string, args ...string) *exec.Cmd {
	p.t.Helper()
	return p.commandAs(container, p.user(container), args...)
}

func (p *pod) commandAs(container string, as user, args ...string) *exec.Cmd {
	p.t.Helper()
	c := p.container(container)
	all := []string{
		"--mount", "--propagation=private", "--", "bash", "-euc", sandbox, "sandbox", p.dir, fmt.Sprint(as.uid), fmt.Sprint(as.gid), fmt.Sprint(as.fsGroup),
		filepath.Join(p.dir, "program"), "/program", "ro",
	}
	if _, err := os.Stat(filepath.Join(p.dir, "kubeconfig")); err == nil {
		all = append(all, filepath.Join(p.dir, "kubeconfig"), "/kubeconfig", "ro")
	}
	for _, m := range c.VolumeMounts {
		all = append(all, filepath.Join(p.dir, m.Name), m.MountPath, map[bool]string{true: "ro", false: "rw"}[m.ReadOnly])
	}
	cmd := exec.Command("unshare", append(append(all, "--"), args...)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// start starts a container with its arguments, and more, which win. Paths of volumes become those that they have here.
func (p *pod) start(container string, more ...string) *exec.Cmd {
	p.t.Helper()
	c := p.container(container)
	args := []string{"/mnt/program"}
	if len(c.Command) == 1 && c.Command[0] == "haproxy" {
		args[0] = p.haproxy
	}
	for _, a := range c.Args {
		for _, m := range c.VolumeMounts {
			if i := strings.Index(a, m.MountPath); i == 0 || i > 0 && strings.ContainsAny(a[i-1:i], "=:") {
				a = a[:i] + "/mnt" + a[i:]
				break
			}
		}
		args = append(args, strings.Replace(a, "=controlplane:", "=127.0.0.1:", 1)) // there is no DNS
	}
	cmd := p.command(container, append(args, more...)...)
	log, err := os.OpenFile(p.dir+"."+container+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	for _, e := range c.Env {
		value := e.Value
		if e.ValueFrom != nil {
			value = p.name + "-0" // metadata.name
		}
		cmd.Env = append(cmd.Env, e.Name+"="+value)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, err := os.ReadFile(log.Name()); err == nil && p.t.Failed() {
			p.t.Logf("the log of %s, %s:\n%s", p.name, container, text)
		}
		_ = os.Remove(log.Name())
	})
	p.cmds[container] = cmd
	return cmd
}

func stop(t *testing.T, cmd *exec.Cmd, s os.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

// ready waits until every probe of every container succeeds.
func (p *pod) ready() {
	p.t.Helper()
	for _, c := range containers(p.spec) {
		for _, kind := range []string{"startup", "liveness", "readiness"} {
			eventually(p.t, p.name+": "+c.Name+" passes its probe of "+kind, func() error { return p.probe(c.Name, kind) })
		}
	}
}

// probe asks what a kubelet would.
func (p *pod) probe(container, kind string) error {
	p.t.Helper()
	c := p.container(container)
	probe := map[string]*corev1.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe}[kind]
	if probe == nil {
		return nil
	}
	var port int32
	for _, named := range c.Ports {
		if named.Name == probe.HTTPGet.Port.StrVal {
			port = named.ContainerPort
		}
	}
	url := fmt.Sprintf("http://10.64.0.1:%d%s", port, probe.HTTPGet.Path) // from outside, as the kubelet does
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	return ask(req, "")
}

// Every program takes the arguments of every form of its Deployment: what stops it here is that there is no cluster, and no
// directory for HAProxy.
func TestArgumentsAreTaken(t *testing.T) {
	for name, b := range everything(t) {
		for deployment, d := range b.deployments {
			c := d.Spec.Template.Spec.Containers[0]
			args := append([]string{}, c.Args...)
			want := "find the API server without a kubeconfig"
			if c.Name == "routerd" {
				args, want = append(args, "--state-dir="+t.TempDir()+"/state", "--haproxy-dir=/dev/null/files"), "/dev/null"
			}
			cmd := exec.CommandContext(t.Context(), filepath.Join(bin, c.Name), args...)
			for _, e := range c.Env {
				cmd.Env = append(cmd.Env, e.Name+"="+e.Value)
			}
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), want) {
				t.Errorf("%s: Deployment %s: %v\n%s", name, deployment, err, out)
			}
		}
	}
}
