// Package kubetest runs a Kubernetes API server for tests: kube-apiserver and etcd as they are released, with the
// resources that Tsuji reads.
//
// It guarantees that when Start or Restart returns, the API server is ready and serves Routes, IngressControllers and
// what deploy/kustomize/crd defines; that addresses, certificates and kubeconfig files outlive Kill and Restart; that
// nothing else on this machine gets the server's ports meanwhile; and that no process outlives Stop or the process
// that called Start, however that one ends. It works without any network but loopback.
//
// Do not assume a cluster: there are no nodes, and no controllers. Nothing makes Pods, EndpointSlices, Secrets for
// service accounts or the objects of a new namespace, nothing is garbage-collected, and a deleted namespace stays.
// Endpoints on loopback addresses are refused, as everywhere. A start takes 5 to 10 seconds and 350 MB: share one
// server among the tests of a package, each with objects of its own.
//
// The binaries are those that `make tools` builds from test/kubeapi; KUBE_APISERVER, ETCD and KUBECTL in the
// environment name others.
package kubetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// patience bounds a start. It is long because machines are noisy: a start that works takes seconds.
const patience = 2 * time.Minute

// Config is what a server needs.
type Config struct {
	// Dir is where the server keeps everything: data, keys, kubeconfig files, and its logs etcd.log and
	// kube-apiserver.log. It is made if it does not exist, must be empty otherwise, and is left behind by Stop.
	Dir string
	// Log is told in lines what happens to the server; nil for nobody.
	Log io.Writer
}

// Server is an API server and its store. Its methods may be called from several goroutines.
type Server struct {
	dir     string
	crds    []crd
	ports   ports
	etcd    program
	api     program
	admin   *rest.Config // without the CA until the API server has made its certificate
	logLock sync.Mutex
	log     io.Writer

	lock      sync.Mutex // held while processes start and end; guards what follows
	processes []*process // in the order in which they started
	stopped   bool
}

// Start starts a server and waits until it is ready. The context bounds the wait, not the server's life.
func Start(ctx context.Context, c Config) (*Server, error) {
	s, err := prepare(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("prepare an API server in %s: %w", c.Dir, err)
	}
	if err := s.Restart(ctx, false); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// prepare does all that happens once and needs no process.
func prepare(ctx context.Context, c Config) (*Server, error) {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, err
	}
	if c.Dir == "" {
		return nil, errors.New("no directory is given")
	}
	etcd, err := binary("ETCD", "etcd")
	if err != nil {
		return nil, err
	}
	api, err := binary("KUBE_APISERVER", "kube-apiserver")
	if err != nil {
		return nil, err
	}
	crds, err := readCRDs(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if is, err := os.ReadDir(dir); err != nil {
		return nil, err
	} else if len(is) > 0 {
		return nil, errors.New("the directory is not empty")
	}
	token, err := writeSecrets(dir)
	if err != nil {
		return nil, err
	}
	p, err := reserve()
	if err != nil {
		return nil, fmt.Errorf("reserve ports on loopback: %w", err)
	}
	s := &Server{dir: dir, crds: crds, ports: p, log: c.Log}
	if s.log == nil {
		s.log = io.Discard
	}
	s.admin = &rest.Config{
		Host:        fmt.Sprintf("https://127.0.0.1:%d", p.api.number),
		BearerToken: token,
		QPS:         -1, // tests wait for the server, not for themselves
	}
	store := fmt.Sprintf("http://127.0.0.1:%d", p.client.number)
	peer := fmt.Sprintf("http://127.0.0.1:%d", p.peer.number)
	s.etcd = program{name: "etcd", path: etcd, log: filepath.Join(dir, "etcd.log"), args: []string{
		"--name=kubetest",
		"--data-dir=" + s.data(),
		"--listen-client-urls=" + store, "--advertise-client-urls=" + store,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=kubetest=" + peer,
		"--heartbeat-interval=20", "--election-timeout=100", // it elects only itself
		"--unsafe-no-fsync", // the data outlives the process, and need not outlive the machine
		"--socket-reuse-port",
		"--log-level=warn",
	}}
	s.api = program{name: "kube-apiserver", path: api, log: filepath.Join(dir, "kube-apiserver.log"), args: []string{
		"--etcd-servers=" + store,
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", p.api.number), "--permit-port-sharing",
		"--advertise-address=192.0.2.1", // loopback is refused; that of documentation is never dialled
		"--endpoint-reconciler-type=none",
		"--cert-dir=" + dir, // where it makes apiserver.crt, unless it is there
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + s.path(accountKey), "--service-account-signing-key-file=" + s.path(accountKey),
		"--token-auth-file=" + s.path(tokens),
		"--authorization-mode=RBAC",
		"--service-cluster-ip-range=10.32.0.0/16",
		"--disable-admission-plugins=ServiceAccount", // it would wait for a controller to make default accounts
	}}
	return s, nil
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }
func (s *Server) data() string            { return s.path("etcd") }

// Config returns how to connect as cluster administrator.
func (s *Server) Config() *rest.Config { return rest.CopyConfig(s.admin) }

// Kubeconfig returns the path of a kubeconfig file for the cluster administrator.
func (s *Server) Kubeconfig() string { return s.path("admin.kubeconfig") }

// Kill ends both processes at once, as a power cut would. What was written stays, and clients are refused until
// Restart. Killing what does not run is no error.
func (s *Server) Kill() error {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.kill()
}

func (s *Server) kill() error {
	if len(s.processes) == 0 {
		return nil
	}
	var errs []error
	for len(s.processes) > 0 { // the API server first: it should not complain of a store that is gone
		last := len(s.processes) - 1
		errs = append(errs, s.processes[last].kill())
		s.processes = s.processes[:last]
	}
	s.printf("killed")
	return errors.Join(errs...)
}

// Restart starts the server again under its old address, after killing it if it runs, and waits until it is ready.
// With wipe it has forgotten every object, and counts revisions from the beginning.
func (s *Server) Restart(ctx context.Context, wipe bool) error {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.stopped {
		return errors.New("start the API server: it was stopped for good")
	}
	if err := s.kill(); err != nil {
		return fmt.Errorf("kill the API server: %w", err)
	}
	if wipe {
		if err := os.RemoveAll(s.data()); err != nil {
			return fmt.Errorf("forget the API server's objects: %w", err)
		}
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it took longer than %v", patience))
	defer cancel()
	if err := s.start(ctx); err != nil {
		return errors.Join(err, s.kill())
	}
	s.printf("ready on %s after %v", s.admin.Host, time.Since(begin).Round(time.Millisecond))
	return nil
}

// start starts both processes, and returns when all resources are served.
func (s *Server) start(ctx context.Context) error {
	health := fmt.Sprintf("http://127.0.0.1:%d/health", s.ports.client.number)
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if err := s.launch(ctx, s.etcd, func() error { return get(ctx, plain, health) }); err != nil {
		return err
	}
	var client *http.Client
	if err := s.launch(ctx, s.api, func() (err error) {
		if client == nil { // the first time there is no certificate to trust until the server has made it
			if err := s.trust(); err != nil {
				return err
			}
			if client, err = rest.HTTPClientFor(s.Config()); err != nil {
				return err
			}
		}
		return get(ctx, client, s.admin.Host+"/readyz")
	}); err != nil {
		return err
	}
	if err := s.serveAll(ctx); err != nil {
		return fmt.Errorf("set up the API server: %w\n%s", err, tail(s.api.log))
	}
	return nil
}

// serveAll installs the resources, and returns when they are there, and Services can be made in the namespace "default".
func (s *Server) serveAll(ctx context.Context) error {
	client, err := dynamic.NewForConfig(s.admin)
	if err != nil {
		return err
	}
	if err := install(ctx, client, s.crds); err != nil {
		return err
	}
	return until(ctx, nil, func() error {
		// The API server makes this one itself, after its first namespaces and its range of addresses.
		_, err := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "services"}).
			Namespace("default").Get(ctx, "kubernetes", metav1.GetOptions{})
		return err
	})
}

// launch starts a program, and returns when it is ready, or has ended.
func (s *Server) launch(ctx context.Context, p program, ready func() error) error {
	process, err := p.start(func(err error) { s.printf("%s ended by itself: %v", p.name, err) })
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	s.processes = append(s.processes, process)
	if err := until(ctx, process.done, ready); err != nil {
		return fmt.Errorf("wait for %s to be ready: %w\n%s", p.name, err, tail(p.log))
	}
	return nil
}

// Stop kills the server and gives its ports back. Stopping twice is no error; nothing starts it again.
func (s *Server) Stop() {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.stopped {
		return
	}
	s.stopped = true
	if err := s.kill(); err != nil {
		s.printf("stop: %v", err)
	}
	s.ports.release()
}

func (s *Server) printf(format string, args ...any) {
	s.logLock.Lock()
	defer s.logLock.Unlock()
	fmt.Fprintf(s.log, "kubetest: "+format+"\n", args...)
}
