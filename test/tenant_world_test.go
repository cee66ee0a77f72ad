package test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
	"github.com/tsuji-dev/tsuji/test/netnstest"
	"github.com/tsuji-dev/tsuji/test/podtest"
)

// tenants is a fleet with three kinds of people: a hostile tenant, who writes what he likes into a namespace of his own; a victim,
// who adds hosts in another one and waits until they are served; and a neighbour, whose websockets, TLS tunnel and endless
// answer are held open all the time. All but the hostile one are as good as gold.
type tenants struct {
	t       *testing.T
	f       *fleet
	r       *router
	op      *grpc.ClientConn
	ca      *authority.Authority
	pods    *pods
	pod     *pod // the victim's, and the hostile tenant's
	traffic *traffic

	hosts      int             // that the victim adds during each deed
	patient    time.Duration   // by how much longer a host may take than slowest: before HAProxy 3.4 it waits for a reload, and reloads have a pace
	made       int             // hosts of the victim
	quiet      []time.Duration // until the victim's hosts were served while the tenant did nothing
	took       []time.Duration // the same while the fuzzer goes on
	fresh      int             // routers that were started with nothing in their store
	controller string          // the IngressController's file, as it was at first
	files      []string        // of the tenant's, as they are now
}

const (
	hostileNamespace = "hostile"
	victimNamespace  = "victim"
)

// newTenants makes the world over a fleet, and starts it. change is the last word on how the router is run.
func newTenants(t *testing.T, f *fleet, change func(cmd *exec.Cmd)) *tenants {
	t.Helper()
	w, quiet := &tenants{t: t, f: f, hosts: 2}, 10
	if long() { // for a p99 that is one
		w.hosts, quiet = 20, 100
	}
	if !haproxytest.AtLeast(t, f.haproxy, 3, 4) {
		w.patient, w.hosts, quiet = 15*time.Second, 1, 2
	}
	var err error
	if w.ca, err = authority.NewAuthority("site"); err != nil {
		t.Fatal(err)
	}
	cert, key, err := w.ca.Issue(authority.Options{DNSNames: []string{"*" + domain, "*.shop.svc", "*.hostile" + domain}})
	if err != nil {
		t.Fatal(err)
	}
	w.pods = newPods(t, cert, key)
	w.pod = w.pods.start("common")
	c := &churn{t: t, f: f, ca: w.ca, pods: w.pods, watched: map[string]*site{}}
	if k, ok := f.source.(*cluster); ok {
		for _, name := range []string{hostileNamespace, victimNamespace} {
			k.apply(&object{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}}})
		}
	}
	w.controller = c.settings()
	for name, termination := range map[string]string{"socket": "", "socket-edge": "edge", "tunnel": "passthrough"} {
		s := &site{name: name, termination: termination, pods: []*pod{w.pods.start(name)}}
		if termination == "edge" {
			c.renew(s)
		}
		c.put(s)
	}
	f.write("endless.yaml", service("endless", endless(t), netnstest.PodAddress)+route("endless", "endless"+domain, "endless"))
	f.write("victim-web.yaml", in(victimNamespace, podService("web", []*pod{w.pod}, nil)))
	f.write("hostile-web.yaml", in(hostileNamespace, podService("web", []*pod{w.pod}, nil)))
	f.startControlPlane()
	w.r = f.newRouter("tok04", "router-a")
	if change == nil {
		change = func(*exec.Cmd) {}
	}
	w.r.startIn(change)
	w.r.ready()
	w.op = f.operator()
	f.converged(w.op, "router-a")

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.ca.CertPEM())
	w.traffic = newTraffic(t, w.r, roots)
	w.traffic.websocket(every, "http", target{host: "socket" + domain, path: "/"})
	w.traffic.websocket(every, "https", target{host: "socket-edge" + domain, path: "/"})
	w.traffic.websocket(every, "https", target{host: "tunnel" + domain, path: "/"})
	w.traffic.endless(target{host: "endless" + domain, path: "/"})
	w.quiet = w.victimAdds(t, quiet)
	return w
}

// endless starts a server whose answer goes on until its client leaves: a line every now and then. It returns its port.
func endless(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", netnstest.PodAddress+":0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for n := 0; r.Context().Err() == nil; n++ {
			if _, err := fmt.Fprintf(w, "line %d\n", n); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(every):
			}
		}
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	a, _ := l.Addr().(*net.TCPAddr)
	return a.Port
}

// endless reads an answer that never ends; it is never to be cut.
func (l *traffic) endless(w target) {
	const kind = "endless answer"
	c, err := l.dial(l.ctx, "http", w.host, false)
	if err == nil {
		_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", w.path, w.host)
	}
	var lines *bufio.Reader
	if err == nil {
		var resp *http.Response
		if resp, err = http.ReadResponse(c.in, nil); err == nil {
			lines = bufio.NewReader(resp.Body)
		}
	}
	fail := func(err error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.ctx.Err() == nil {
			l.failed = append(l.failed, failure{time.Now(), kind, w.host, err})
		}
	}
	if err != nil {
		fail(err)
		return
	}
	l.clients.Go(func() {
		<-l.ctx.Done()
		_ = c.Close()
	})
	l.clients.Go(func() {
		for n := 0; l.ctx.Err() == nil; n++ {
			_ = c.SetDeadline(time.Now().Add(patience))
			if _, err := lines.ReadString('\n'); err != nil {
				fail(fmt.Errorf("%w after %d lines: %w", errCut, n, err))
				return
			}
			l.mu.Lock()
			l.sent[kind]++
			l.mu.Unlock()
		}
	})
}

// write writes a manifest of the tenant's.
func (w *tenants) write(name, manifest string) {
	w.t.Helper()
	name = "hostile-" + name + ".yaml"
	if !slices.Contains(w.files, name) {
		w.files = append(w.files, name)
	}
	w.f.write(name, manifest)
}

// remove removes one again.
func (w *tenants) remove(name string) {
	w.t.Helper()
	name = "hostile-" + name + ".yaml"
	w.files = slices.DeleteFunc(w.files, func(f string) bool { return f == name })
	w.f.remove(name)
}

// clear removes all of them.
func (w *tenants) clear() {
	w.t.Helper()
	for _, name := range w.files {
		w.f.remove(name)
	}
	w.files = nil
}

// route is a Route of the tenant's to his Service.
func (w *tenants) route(name, annotation string, more ...string) string {
	return in(hostileNamespace, annotatedRoute(name, name+".hostile"+domain, "web", annotation, more...))
}

// slowest is how long a victim's host may take while a tenant does what he likes. It is more than twice what is promised, for
// what another's reload may take on a machine that has much else to do; what this process is kept waiting comes on top.
const slowest = 5 * time.Second

// victimAdds adds hosts of the victim's, one after the other, and returns how long each took until it was served.
func (w *tenants) victimAdds(t testing.TB, hosts int) []time.Duration {
	t.Helper()
	var took []time.Duration
	for range hosts {
		host, name := w.nextHost()
		p := podtest.Begin(t)
		w.f.write(name+".yaml", in(victimNamespace, route(name, host, "web")))
		deadline := time.Now().Add(patience)
		for {
			err := answers(w.r.http, host, "/", w.pod.name)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the victim's host is not served after %v: %v; %s", patience, err, w.state())
			}
			time.Sleep(2 * time.Millisecond) // between two looks
		}
		took = append(took, p.Within(w.patient+slowest, "the victim's host "+host+" is served"))
	}
	return took
}

// nextHost names the victim's next host, and takes the one away that is the twentieth before it.
func (w *tenants) nextHost() (host, name string) {
	w.made++
	if w.made > 20 {
		w.f.remove(fmt.Sprintf("v%d.yaml", w.made-20))
	}
	name = fmt.Sprintf("v%d", w.made)
	return name + ".victim" + domain, name
}

// lastHost is the victim's newest one.
func (w *tenants) lastHost() string { return fmt.Sprintf("v%d.victim%s", w.made, domain) }

// counted are a router's reloads and repairs.
type counted struct{ reloads, repairs float64 }

func (w *tenants) counted(t *testing.T) counted {
	t.Helper()
	return counted{reloads: reloadsOf(t, w.r), repairs: w.sum(t, w.r, "tsuji_apply_repairs_total")}
}

// sum is a metric of a router's over all labels.
func (w *tenants) sum(t testing.TB, r *router, name string) float64 {
	t.Helper()
	code, body, err := get(r.admin, r.admin, "/metrics")
	if err != nil || code != http.StatusOK {
		t.Fatalf("metrics: %d %v", code, err)
	}
	var sum float64
	for line := range strings.Lines(body) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if at := strings.LastIndex(line, "} "); at > 0 {
			series, value = line[:at], strings.TrimSpace(line[at+2:])
		}
		if n, _, _ := strings.Cut(series, "{"); n == name {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += v
		}
	}
	return sum
}

// state tells what the router has and what it refused.
func (w *tenants) state() string {
	r := w.f.routers(w.op)["router-a"]
	return fmt.Sprintf("connected %t, serves %s, should serve %s, refusal %v", r.GetConnected(), r.GetAckedVersion(), r.GetTargetVersion(), r.GetRefusal())
}

// startEmpty starts a router that has nothing in its store, has it serve the victim, and ends it.
func (w *tenants) startEmpty(t *testing.T) {
	t.Helper()
	w.fresh++
	r := w.f.newRouter("tok05", fmt.Sprintf("empty-%d", w.fresh))
	r.start()
	defer r.terminate()
	deadline := time.Now().Add(patience)
	for {
		err := answers(r.http, w.lastHost(), "/", w.pod.name)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("a router with an empty store does not serve the victim: %v; refusal %v", err, w.f.routers(w.op)[r.name].GetRefusal())
		}
		time.Sleep(20 * time.Millisecond) // between two looks
	}
}

// verdicts are those on the tenant's Routes, by name.
func (w *tenants) verdicts(t testing.TB) map[string]*tsujiv1.RouteVerdict {
	t.Helper()
	out := map[string]*tsujiv1.RouteVerdict{}
	for token := ""; ; {
		page, err := tsujiv1.NewRouteServiceClient(w.op).ListRoutes(t.Context(), &tsujiv1.ListRoutesRequest{Namespace: hostileNamespace, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range page.GetRoutes() {
			out[v.GetName()] = v
		}
		if token = page.GetNextPageToken(); token == "" {
			return out
		}
	}
}

// words are all that a verdict tells its Route's owner; empty: that all is well.
func words(v *tsujiv1.RouteVerdict) string {
	var out []string
	if !v.GetAdmitted() {
		out = append(out, v.GetReason()+": "+v.GetMessage())
	}
	out = append(out, v.GetWarnings()...)
	for _, q := range v.GetQuarantines() {
		out = append(out, q.GetResource()+": "+q.GetMessage())
	}
	return strings.Join(out, "; ")
}

// neighbour fails the test if a connection of the neighbour's was cut, once for each.
func (w *tenants) neighbour(t *testing.T) {
	t.Helper()
	w.traffic.mu.Lock()
	defer w.traffic.mu.Unlock()
	for _, f := range w.traffic.failed {
		t.Errorf("the neighbour's %s to %s: %v", f.client, f.host, f.err)
	}
	w.traffic.failed = nil
}

// leafOf returns the certificate that a router shows for a host.
func leafOf(r *router, host string) (*x509.Certificate, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", r.https, &tls.Config{ServerName: host, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0], nil
}

// summary is the median and the largest of some durations.
func summary(took []time.Duration) string {
	if len(took) == 0 {
		return "none"
	}
	s := slices.Sorted(slices.Values(took))
	return fmt.Sprintf("p50 %v, p99 %v, most %v of %d", s[len(s)/2].Round(time.Millisecond), s[len(s)*99/100].Round(time.Millisecond), s[len(s)-1].Round(time.Millisecond), len(s))
}
