package kube

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/test/kubetest"
	"github.com/tsuji-dev/tsuji/test/sourcetest"
)

// relay is a wire to an API server that can be cut.
type relay struct {
	config *rest.Config
	to     string
	mu     sync.Mutex
	conns  map[net.Conn]bool
	down   bool // nobody gets a connection
}

func newRelay(t testing.TB, c *rest.Config) *relay {
	t.Helper()
	u, err := url.Parse(c.Host)
	must(t, err)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	r := &relay{config: rest.CopyConfig(c), to: u.Host, conns: map[net.Conn]bool{}}
	r.config.Host = "https://" + l.Addr().String()
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { r.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.cut()
		work.Wait()
	})
	return r
}

func (r *relay) serve(a net.Conn) {
	b, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", r.to)
	if err != nil {
		a.Close()
		return
	}
	r.mu.Lock()
	r.conns[a], r.conns[b] = true, true
	down := r.down
	r.mu.Unlock()
	if down {
		a.Close()
	}
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		go func() {
			_, _ = io.Copy(pair[0], pair[1]) // until it is cut
			pair[0].Close()
			done <- struct{}{}
		}()
	}
	<-done
	<-done
	a.Close()
	b.Close()
	r.mu.Lock()
	delete(r.conns, a)
	delete(r.conns, b)
	r.mu.Unlock()
}

// cut ends all connections. Who dials again gets one.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.Close()
	}
}

// block cuts the wire until it is unblocked.
func (r *relay) block(down bool) {
	r.mu.Lock()
	r.down = down
	r.mu.Unlock()
	r.cut()
}

// world changes objects of some kinds in a namespace, at random.
type world struct {
	a   *api
	ns  string
	rnd *rand.Rand
	n   int
}

func newWorld(a *api, ns string, seed uint64) *world {
	a.apply(aNamespace(ns))
	return &world{a: a, ns: ns, rnd: rand.New(rand.NewPCG(seed, 1))}
}

// step creates, changes or deletes an object.
func (w *world) step() {
	w.n++
	i := w.rnd.IntN(5)
	name := fmt.Sprintf("o-%d", i)
	kinds := []struct{ apiVersion, kind, manifest string }{
		{"v1", "Service", aService(w.ns, name, 80+w.rnd.IntN(3))},
		{"discovery.k8s.io/v1", "EndpointSlice", aSlice(w.ns, name, fmt.Sprintf("10.1.1.%d", 1+w.rnd.IntN(9)), cmp.Or([]string{"", fmt.Sprintf(", nodeName: %s-node-%d", w.ns, w.rnd.IntN(2))}[w.rnd.IntN(2)]))},
		{"route.openshift.io/v1", "Route", aRoute(w.ns, name, fmt.Sprint(w.n), []string{"", fmt.Sprintf(external, fmt.Sprintf("o-%d", w.rnd.IntN(5)))}[w.rnd.IntN(2)])},
		{"v1", "Secret", aSecret(w.ns, name, fmt.Sprint(w.n))},
		{"v1", "Node", fmt.Sprintf("{apiVersion: v1, kind: Node, metadata: {name: %s-node-%d, labels: {topology.kubernetes.io/zone: z%d}}}", w.ns, i%2, w.rnd.IntN(3))},
	}
	k := kinds[w.rnd.IntN(len(kinds))]
	if w.rnd.IntN(3) > 0 {
		w.a.apply(k.manifest)
		return
	}
	ns := w.ns
	if k.kind == "Node" {
		ns, name = "", fmt.Sprintf("%s-node-%d", w.ns, i%2)
	}
	_ = w.a.resource(k.apiVersion, k.kind, ns).Delete(context.Background(), name, metav1.DeleteOptions{}) // if it is there
}

// list returns what a source should have of the namespace, read with a client of its own.
func (w *world) list() map[cluster.Key]metav1.Object {
	w.a.t.Helper()
	out := map[cluster.Key]metav1.Object{}
	read := func(apiVersion, kind string, empty func() metav1.Object) {
		ns := w.ns
		if kind == "Node" {
			ns = ""
		}
		l, err := w.a.resource(apiVersion, kind, ns).List(context.Background(), metav1.ListOptions{})
		must(w.a.t, err)
		for _, u := range l.Items {
			o := empty()
			must(w.a.t, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, o))
			strip(o)
			out[cluster.Key{Kind: cluster.Kind(kind), Namespace: u.GetNamespace(), Name: u.GetName()}] = o
		}
	}
	read("v1", "Service", func() metav1.Object { return &corev1.Service{} })
	read("discovery.k8s.io/v1", "EndpointSlice", func() metav1.Object { return &discoveryv1.EndpointSlice{} })
	read("route.openshift.io/v1", "Route", func() metav1.Object { return &routev1.Route{} })
	read("v1", "Secret", func() metav1.Object { return &corev1.Secret{} })
	read("v1", "Node", func() metav1.Object { return &corev1.Node{} })
	referred := map[cluster.Key]bool{}
	for _, o := range out {
		for _, k := range references(o) {
			referred[k] = true
		}
		s, ok := o.(*discoveryv1.EndpointSlice)
		if !ok || s.Endpoints[0].NodeName == nil {
			continue
		}
		if n := out[cluster.Key{Kind: "Node", Namespace: "", Name: *s.Endpoints[0].NodeName}]; n != nil {
			s.Endpoints[0].Zone = new(n.GetLabels()[corev1.LabelTopologyZone])
		}
	}
	for key, o := range out {
		if key.Kind == "Node" || key.Kind == cluster.Secret && !referred[key] {
			delete(out, key)
			continue
		}
		o.SetResourceVersion("")
		if t, ok := o.(runtime.Object); ok {
			t.GetObjectKind().SetGroupVersionKind(key.Kind.GroupVersionKind())
		}
	}
	return out
}

// difference tells how what a mirror has of the namespace differs from want.
func (w *world) difference(m *sourcetest.Mirror, want map[cluster.Key]metav1.Object) string {
	have := map[cluster.Key]metav1.Object{}
	for key, o := range m.Objects {
		if key.Namespace != w.ns {
			continue
		}
		if t, ok := o.(runtime.Object); ok {
			if o, ok = t.DeepCopyObject().(metav1.Object); ok {
				o.SetResourceVersion("")
				have[key] = o
			}
		}
	}
	return gocmp.Diff(want, have)
}

// converge waits until a mirror has what there is.
func (w *world) converge(m *sourcetest.Mirror, k *Source, what string) {
	w.a.t.Helper()
	want := w.list()
	deadline := time.Now().Add(time.Minute)
	for {
		changed := k.Changed()
		m.Until(w.a.t, k, what, m.Synchronized)
		d := w.difference(m, want)
		if d == "" {
			return
		}
		select {
		case <-changed:
		case <-time.After(time.Until(deadline)):
			w.a.t.Fatalf("%s: want and have differ:\n%s\nfaults %v", what, d, m.Faults)
		}
	}
}

// Whatever happens to objects, what was handed out in all is what there is: a law. It is one too where the
// API server cannot stream what there is, and is asked for lists, and where the wire is cut now and then.
func TestRandom(t *testing.T) {
	t.Parallel()
	a, _ := sharedServer(t)
	w := newWorld(a, "random", 1)
	for range 20 {
		w.step()
	}
	k := following(t, Config{REST: a.server.Config()})
	line := newRelay(t, intercept(a.server.Config(), func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		if r.URL.Query().Has("sendInitialEvents") {
			return &http.Response{StatusCode: http.StatusUnprocessableEntity, Request: r, Body: http.NoBody, Header: http.Header{}}, nil
		}
		return next.RoundTrip(r)
	}))
	listing := following(t, Config{REST: line.config})
	var m, m2 sourcetest.Mirror
	for round := range 10 {
		for range w.rnd.IntN(25) {
			w.step()
		}
		w.converge(&m, k, "after random changes")
		w.converge(&m2, listing, "after random changes, with lists")
		if round%3 == 2 {
			line.cut()
		}
	}
}

// Connections are cut every fraction of a second while objects change: nothing is lost, and there is quiet after.
func TestCutWatches(t *testing.T) {
	t.Parallel()
	a, _ := sharedServer(t)
	w := newWorld(a, "cut", 2)
	line := newRelay(t, a.server.Config())
	k := following(t, Config{REST: line.config})
	var m sourcetest.Mirror
	m.Until(t, k, "synced", m.Synchronized)
	stop := make(chan struct{})
	var cutting sync.WaitGroup
	cutting.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(300 * time.Millisecond):
				line.cut()
			}
		}
	})
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); {
		w.step()
		m.Until(t, k, "anything", m.Synchronized)
	}
	close(stop)
	cutting.Wait()
	w.converge(&m, k, "after the cuts")
	m.Until(t, k, "no fault of the API server", func() bool { return m.FaultAt(apiServer) == "" })
}

// The API server ends and comes back: with its data, nothing changed; with that of a backup, all is read
// again; without, the other storage is told, and handed out whole when it was read, with another epoch. Without the API of Routes, it is waited for.
func TestOutages(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "tj")
	must(t, err)
	defer os.RemoveAll(dir)
	s, err := kubetest.Start(t.Context(), kubetest.Config{Dir: dir + "/k"})
	must(t, err)
	defer s.Stop()
	a := newAPI(t, s)
	w := newWorld(a, "outage", 3)
	for range 60 {
		w.step()
	}
	a.apply(aRoute("outage", "stays", "", fmt.Sprintf(external, "s")) + "\n---\n" + aSecret("outage", "s", "1"))
	var log bytes.Buffer
	line := newRelay(t, s.Config())
	k := following(t, Config{REST: line.config, Log: slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) { return log.Write(p) }), nil))},
		func(k *Source) { k.timing.unreachable = 100 * time.Millisecond })
	var m sourcetest.Mirror
	w.converge(&m, k, "first")

	// With its data. Watches go on where they ended, or are told 410 Gone: that this is so is looked at.
	k.mu.Lock()
	old := k.current.reached[cluster.ZoneKind]
	k.mu.Unlock()
	came := maps.Clone(m.Came)
	was := maps.Clone(m.Objects)
	epoch := m.Last.Observed.GetEpoch()
	must(t, s.Kill())
	m.Until(t, k, "unreachable", func() bool { return m.FaultAt(apiServer) != "" })
	if f := m.FaultAt(apiServer); !strings.Contains(f, "cannot be reached") || !strings.Contains(f, "stays in force") {
		t.Errorf("fault: %s", f)
	}
	must(t, os.CopyFS(dir+"/backup", os.DirFS(dir+"/k/etcd")))
	must(t, s.Restart(t.Context(), false))
	stream, err := a.resource("tsuji.dev/v1alpha1", "Zone", "").Watch(t.Context(), metav1.ListOptions{ResourceVersion: fmt.Sprint(old - 1)}) // of old itself it may know, by a bookmark
	must(t, err)
	if e := <-stream.ResultChan(); !apierrors.IsResourceExpired(apierrors.FromObject(e.Object)) {
		t.Errorf("the revision of before is not gone: %v", e)
	}
	stream.Stop()
	m.Until(t, k, "back", func() bool { return m.FaultAt(apiServer) == "" })
	a.apply(aRoute("outage", "after", "", ""))
	w.converge(&m, k, "after a restart")
	came[cluster.Key{Kind: cluster.Route, Namespace: "outage", Name: "after"}]++
	if d := gocmp.Diff(came, m.Came); d != "" || m.Last.Observed.GetEpoch() != epoch {
		t.Errorf("after a restart more or less came than what was new:\n%s\n%s", d, gocmp.Diff(was, m.Objects))
	}

	// With the data of then.
	for range 60 {
		w.step()
	}
	w.converge(&m, k, "before the restoration")
	before := m.Last
	must(t, s.Kill())
	must(t, os.RemoveAll(dir+"/k/etcd"))
	must(t, os.CopyFS(dir+"/k/etcd", os.DirFS(dir+"/backup")))
	must(t, s.Restart(t.Context(), false))
	m.Last = cluster.Batch{}
	m.Until(t, k, "restored", func() bool {
		restored := m.Last.Revision < before.Revision
		if !restored {
			m.Last = cluster.Batch{} // revisions will be those of then
		}
		return restored && strings.Contains(m.FaultAt(apiServer), "restored to an earlier state")
	})
	w.converge(&m, k, "after the restoration")
	a.apply(aRoute("outage", "after", "", ""))
	w.converge(&m, k, "after the restoration")

	// Without, and without the API of Routes.
	n := len(m.Objects)
	line.block(true)
	must(t, s.Restart(t.Context(), true))
	crds := a.resource("apiextensions.k8s.io/v1", "CustomResourceDefinition", "")
	crd, err := crds.Get(t.Context(), "routes.route.openshift.io", metav1.GetOptions{})
	must(t, err)
	a.remove("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", crd.GetName())
	a.gone("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", crd.GetName())
	a.apply(aNamespace("outage") + "\n---\n" + aService("outage", "new", 80))
	line.block(false)
	m.Until(t, k, "no Routes any more", func() bool {
		return strings.Contains(m.FaultAt(apiServer), "storage was replaced") && strings.Contains(m.FaultAt("Route"), "this cluster has no routes.route.openshift.io")
	})
	if len(m.Objects) != n || m.Last.Observed.GetEpoch() != epoch {
		t.Errorf("%d objects and epoch %s before the new storage was read; had %d", len(m.Objects), m.Last.Observed.GetEpoch(), n)
	}
	fresh := following(t, Config{REST: s.Config()})
	var m2 sourcetest.Mirror
	m2.Until(t, fresh, "no Routes", func() bool { return strings.Contains(m2.FaultAt("Route"), "nothing is served before") })
	crd.SetResourceVersion("")
	crd.SetUID("")
	_, err = crds.Create(t.Context(), crd, metav1.CreateOptions{})
	must(t, err)
	m2.Until(t, fresh, "the Routes came", m2.Synchronized)
	m.Until(t, k, "the new storage", func() bool { // in one batch
		if m.Last.Observed.GetEpoch() == epoch && len(m.Objects) != n {
			t.Errorf("%d objects of before, of %d", len(m.Objects), n)
		}
		return m.Last.Observed.GetEpoch() != epoch
	})
	for key := range m.Objects {
		if key.Kind == cluster.Route {
			t.Errorf("%s is still there", key)
		}
	}
	if get[*corev1.Service](&m, cluster.Service, "outage", "new") == nil {
		t.Errorf("what is new did not come in the batch of the new epoch: %v", m.Objects)
	}
	if !strings.Contains(m.FaultAt(apiServer), "storage was replaced") {
		t.Errorf("faults: %v", m.Faults)
	}
	a.apply(aRoute("outage", "again", "", ""))
	w.converge(&m, k, "after the new storage")
}

// gone waits until an object that is being deleted is.
func (a *api) gone(apiVersion, kind, namespace, name string) {
	a.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		_, err := a.resource(apiVersion, kind, namespace).Get(context.Background(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return
		}
		must(a.t, err)
	}
	a.t.Fatalf("%s %s is still there", kind, name)
}
