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

// The control plane and a router run as their Deployments say: their arguments, users, ports and
// probes, Secrets as a kubelet writes them, a state directory that the kubelet made, nothing else that can be written, and
// no capabilities. The certificates are those of docs/install.md. Then the control plane goes, the router's container is
// restarted, and it serves again.
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
	haproxy := exec.CommandContext(t.Context(), "setpriv", "--reuid="+fmt.Sprint(as.uid), "--regid="+fmt.Sprint(as.gid), "--clear-groups", haproxytest.Binary(t), "-v")
	if out, err := haproxy.CombinedOutput(); err != nil {
		t.Skipf("user %d cannot run HAProxy; is a folder above it closed to others? %v\n%s", as.uid, err, out)
	}
	control := newPod(t, server, b.deployments["controlplane"], as)
	kubeconfig, err := server.KubeconfigFor(namespace, control.spec.ServiceAccountName)
	if err != nil {
		t.Fatal(err)
	}
	control.file("kubeconfig", kubeconfig)
	control.start("--kubeconfig=/mnt/kubeconfig") // where a Pod has a mounted token
	control.ready()

	router := newPod(t, server, b.deployments["router-tok04"], as)
	router.start("--haproxy="+router.haproxy, "--haproxy-tied") // so that a test leaves nothing behind
	router.ready()
	serves(t)

	// What the router keeps is its own.
	state := filepath.Join(router.dir, "state", "state")
	i, err := os.Stat(state)
	if err != nil {
		t.Fatal(err)
	}
	if owner, ok := i.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != as.uid || i.Mode().Perm() != 0o700 {
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
	control.stop(syscall.SIGKILL)
	router.stop(syscall.SIGKILL)
	eventually(t, "the router is gone", func() error {
		l, err := net.Listen("tcp", ":8080")
		if err != nil {
			return err
		}
		return l.Close()
	})
	router.start("--haproxy="+router.haproxy, "--haproxy-tied")
	router.ready()
	serves(t)
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

// serves asks the router for the Route.
func serves(t *testing.T) {
	t.Helper()
	eventually(t, "the router serves the Route", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:8080/", nil)
		if err != nil {
			return err
		}
		req.Host = "hello.example.com"
		return ask(req, "hello")
	})
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

// pod is a process in the place of a Pod. Its directory is /mnt to it.
type pod struct {
	t       *testing.T
	name    string
	dir     string
	as      user
	spec    corev1.PodSpec
	haproxy string
	cmd     *exec.Cmd
}

// newPod makes what a kubelet makes before it starts a Pod of the Deployment.
func newPod(t *testing.T, server *kubetest.Server, deployment *appsv1.Deployment, as user) *pod {
	t.Helper()
	dir, err := os.MkdirTemp("", "tjpod")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &pod{t: t, name: deployment.Name, dir: dir, as: as, spec: deployment.Spec.Template.Spec, haproxy: haproxytest.Binary(t)}
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

// sandbox makes $1 the Pod's /mnt, and what anybody may write read-only, and runs the rest as its user without
// capabilities.
const sandbox = `
mount --bind "$1" /mnt
for dir in /tmp /var/tmp /dev/shm; do mount --bind $dir $dir; mount -o remount,bind,ro $dir; done
cd /
exec setpriv --reuid="$2" --regid="$3" --groups="$4" --no-new-privs --bounding-set=-all --inh-caps=-all --pdeathsig=KILL -- "${@:5}"`

// start starts the container with its arguments, and more, which win. Paths of volumes become those that they have here.
func (p *pod) start(more ...string) {
	p.t.Helper()
	c := p.spec.Containers[0]
	args := []string{
		"--mount", "--propagation=private", "--", "bash", "-euc", sandbox, "sandbox", p.dir,
		fmt.Sprint(p.as.uid), fmt.Sprint(p.as.gid), fmt.Sprint(p.as.fsGroup), "/mnt/program",
	}
	for _, a := range c.Args {
		for _, m := range c.VolumeMounts {
			a = strings.Replace(a, "="+m.MountPath, "=/mnt/"+m.Name, 1)
		}
		args = append(args, strings.Replace(a, "=controlplane:", "=127.0.0.1:", 1)) // there is no DNS
	}
	log, err := os.OpenFile(p.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.Command("unshare", append(args, more...)...)
	p.cmd.Env = []string{"PATH=/usr/bin:/bin"}
	for _, e := range c.Env {
		value := e.Value
		if e.ValueFrom != nil {
			value = p.name + "-0" // metadata.name
		}
		p.cmd.Env = append(p.cmd.Env, e.Name+"="+value)
	}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	cmd := p.cmd
	p.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, err := os.ReadFile(log.Name()); err == nil && p.t.Failed() {
			p.t.Logf("the log of %s:\n%s", p.name, text)
		}
		_ = os.Remove(log.Name())
	})
}

func (p *pod) stop(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
	_ = p.cmd.Wait()
}

// ready waits until every probe of the container succeeds.
func (p *pod) ready() {
	p.t.Helper()
	c := p.spec.Containers[0]
	for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		if probe == nil {
			continue
		}
		var port int32
		for _, named := range c.Ports {
			if named.Name == probe.HTTPGet.Port.StrVal {
				port = named.ContainerPort
			}
		}
		url := fmt.Sprintf("http://10.64.0.1:%d%s", port, probe.HTTPGet.Path) // from outside, as the kubelet does
		eventually(p.t, p.name+": "+url, func() error {
			ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return err
			}
			return ask(req, "")
		})
	}
}

// Every program takes the arguments of every form of its Deployment: what stops it here is that there is no cluster, and no
// HAProxy.
func TestArgumentsAreTaken(t *testing.T) {
	for name, b := range everything(t) {
		for deployment, d := range b.deployments {
			c := d.Spec.Template.Spec.Containers[0]
			args := append([]string{}, c.Args...)
			want := "find the API server without a kubeconfig"
			if c.Name == "routerd" {
				args, want = append(args, "--state-dir="+t.TempDir()+"/state", "--haproxy=/nowhere/haproxy"), "/nowhere/haproxy"
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
