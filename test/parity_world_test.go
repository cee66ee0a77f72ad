package test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// parityWorld is a control plane over a directory, a router with HAProxy, and endpoints that tell what they saw.
type parityWorld struct {
	t        testing.TB
	f        *fleet
	r        *router
	http6    string               // beside r.http, on ::1
	proxied  string               // what each connection begins with, before anything else
	site     *authority.Authority // of hosts' certificates, and of those that Routes verify endpoints with
	service  *authority.Authority // the cluster's own, of Services
	clients  *authority.Authority
	echo     *echoes
	syslog   *syslog
	web, raw int // ports on which endpoints answer, at every address
	nobody   int // the status for a host that nobody has
	verdicts map[string]*tsujiv1.RouteVerdict
}

func newParityWorld(t testing.TB, binary string) *parityWorld {
	t.Helper()
	// Every address of this prefix is local too, once it is.
	_ = exec.Command("ip", "-6", "route", "add", "local", "fd00:64::/64", "dev", "lo").Run()
	w := &parityWorld{t: t, f: newFleet(t), echo: newEcho(), syslog: newSyslog(t), nobody: http.StatusServiceUnavailable, verdicts: map[string]*tsujiv1.RouteVerdict{}}
	w.f.haproxy = binary
	for _, ca := range []struct {
		to   **authority.Authority
		name string
	}{{&w.site, "site"}, {&w.service, "service CA"}, {&w.clients, "clients"}} {
		a, err := authority.NewAuthority(ca.name)
		if err != nil {
			t.Fatal(err)
		}
		*ca.to = a
	}
	w.web, w.raw = w.echo.serve(t, nil), serveRaw(t)
	return w
}

// start writes what is none of the rows', and starts everything.
func (w *parityWorld) start(under string) {
	w.t.Helper()
	if s := paritySettings(w)[under]; s != "" {
		w.f.write("settings.yaml", s)
	}
	if under == underSettings {
		w.nobody = http.StatusNotFound // by its error page
	}
	if under == underClients {
		w.proxied = "PROXY TCP4 192.0.2.7 192.0.2.1 4321 8080\r\n"
	}
	c := w.f.controlPlane()
	c.grpc, c.admin = haproxytest.FreeAddress(w.t), haproxytest.FreeAddress(w.t) // anew: endpoints were given ports since
	w.f.startControlPlane()
	w.r = w.f.newRouter("tok04", "router-a")
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.http6 = l.Addr().String()
	_ = l.Close()
	w.r.start("--http="+w.http6, "--metrics-server-threshold=10000")
	w.r.ready()
}

// settle waits until what was written is in force, by a Route of its own that is written after it.
func (w *parityWorld) settle(sentinel string) {
	w.t.Helper()
	w.f.write("settle.yaml", "apiVersion: route.openshift.io/v1\nkind: Route\nmetadata: {name: "+sentinel+", namespace: settle}\nspec: {host: "+sentinel+".settle.example.com, to: {kind: Service, name: none}}\n")
	op := w.f.operator()
	eventually(w.t, "the control plane read what was written", func() error {
		page, err := tsujiv1.NewRouteServiceClient(op).ListRoutes(w.t.Context(), &tsujiv1.ListRoutesRequest{Namespace: "settle"})
		if err == nil && (len(page.GetRoutes()) != 1 || page.GetRoutes()[0].GetName() != sentinel) {
			err = errNotYet
		}
		return err
	})
	w.f.converged(op, "router-a")
}

// judged reads the verdicts, and wants nothing else to be wrong.
func (w *parityWorld) judged() {
	w.t.Helper()
	op := w.f.operator()
	for token := ""; ; {
		page, err := tsujiv1.NewRouteServiceClient(op).ListRoutes(w.t.Context(), &tsujiv1.ListRoutesRequest{PageToken: token})
		if err != nil {
			w.t.Fatal(err)
		}
		for _, v := range page.GetRoutes() {
			w.verdicts[v.GetNamespace()+"/"+v.GetName()] = v
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	s, err := tsujiv1.NewStatusServiceClient(op).GetStatus(w.t.Context(), &tsujiv1.GetStatusRequest{})
	if err != nil || len(s.GetFaults()) > 0 {
		w.t.Fatalf("status: %v, %v", s.GetFaults(), err)
	}
}

// metrics returns the samples of the router's /metrics by name and labels.
func (w *parityWorld) metrics(t testing.TB) map[string]string {
	t.Helper()
	code, body, err := get(w.r.admin, w.r.admin, "/metrics")
	if err != nil || code != 200 {
		t.Fatalf("metrics: %d %v", code, err)
	}
	samples := map[string]string{}
	for line := range strings.Lines(body) {
		if at := strings.LastIndexByte(line, ' '); at > 0 && line[0] != '#' {
			samples[line[:at]] = strings.TrimSpace(line[at:])
		}
	}
	return samples
}

// parity is the objects of one row, and what it asks.
type parity struct {
	w         *parityWorld
	ns        string
	number    int // of the row; its Pods have addresses of their own
	pods      int
	manifests strings.Builder
	before    strings.Builder // the same, with Routes that have no annotations
}

func parityNamespace(row string) string {
	return strings.ToLower(strings.NewReplacer(".", "-", "_", "-").Replace(row))
}

// yamlText writes a text as YAML has it on one line.
func yamlText(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string is always encoded
	}
	return string(b)
}

// add writes an object; its namespace is put where there is a $NS.
func (p *parity) add(manifest string) {
	p.write(&p.manifests, manifest)
	p.write(&p.before, manifest)
}

func (p *parity) write(to *strings.Builder, manifest string) {
	to.WriteString(strings.TrimSpace(strings.ReplaceAll(manifest, "$NS", p.ns)) + "\n---\n")
}

// object writes an object of the row's namespace; what follows its metadata is YAML.
func (p *parity) object(version, kind, name, rest string) {
	p.add(fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s, namespace: $NS}\n%s", version, kind, name, rest))
}

// service writes a Service with so many Pods that answer on a port.
func (p *parity) service(name string, port, pods int) {
	var b strings.Builder
	for range pods {
		p.pods++
		fmt.Fprintf(&b, "  - {addresses: [%s], conditions: {ready: true}, targetRef: {kind: Pod, name: %s-%d, namespace: $NS}}\n", p.pod(p.pods), name, p.pods)
	}
	p.slice(name, "ports: [{name: http, port: "+fmt.Sprint(port)+", protocol: TCP}]\nendpoints:\n"+b.String())
}

// slice writes a Service, and an EndpointSlice of IPv4 for it.
func (p *parity) slice(name, rest string) {
	p.object("v1", "Service", name, "spec: {ports: [{name: http, port: 80}]}")
	p.add("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: " + name + "-1, namespace: $NS, labels: {kubernetes.io/service-name: " + name + "}}\naddressType: IPv4\n" + rest)
}

// pod returns the address of the row's Pod with a number.
func (p *parity) pod(n int) string { return fmt.Sprintf("10.64.%d.%d", p.number, n) }

// web writes the Service web, with so many Pods.
func (p *parity) web(pods int) { p.service("web", p.w.web, pods) }

// host returns the host that a Route has if it names none.
func (p *parity) host(route string) string { return route + "." + p.ns + ".example.com" }

// route writes a Route and returns its host. The spec is YAML's flow; annotations are pairs of name and value, where
// haproxy.router.openshift.io/ may be left out.
func (p *parity) route(name, spec string, annotations ...string) string {
	var b strings.Builder
	for i := 0; i < len(annotations); i += 2 {
		prefix := "haproxy.router.openshift.io/"
		if strings.Contains(annotations[i], "/") {
			prefix = ""
		}
		fmt.Fprintf(&b, "%s%s: %s, ", prefix, annotations[i], yamlText(annotations[i+1]))
	}
	if !strings.HasPrefix(spec, "host:") {
		spec = "host: " + p.host(name) + ", " + spec
	}
	if !strings.Contains(spec, "to:") {
		spec += ", to: {kind: Service, name: web}"
	}
	for to, annotations := range map[*strings.Builder]string{&p.manifests: b.String(), &p.before: ""} {
		p.write(to, "apiVersion: route.openshift.io/v1\nkind: Route\nmetadata: {name: "+yamlText(name)+", namespace: $NS, creationTimestamp: 2026-01-01T00:00:00Z, annotations: {"+annotations+"}}\nspec: {"+spec+"}")
	}
	return p.host(name)
}

// issue makes a certificate for hosts.
func (p *parity) issue(ca *authority.Authority, hosts ...string) (cert, key []byte) {
	p.w.t.Helper()
	cert, key, err := ca.Issue(authority.Options{DNSNames: hosts})
	if err != nil {
		p.w.t.Fatal(err)
	}
	return cert, key
}

// pair is the same as fields of a Route's tls.
func (p *parity) pair(hosts ...string) string {
	cert, key := p.issue(p.w.site, hosts...)
	return "certificate: " + yamlText(string(cert)) + ", key: " + yamlText(string(key))
}

// client is a client's certificate.
func (p *parity) client(name string) tls.Certificate {
	p.w.t.Helper()
	cert, err := tls.X509KeyPair(p.issue(p.w.clients, name))
	if err != nil {
		p.w.t.Fatal(err)
	}
	return cert
}

// secure serves endpoints with a certificate for hosts, and returns their port.
func (p *parity) secure(ca *authority.Authority, hosts ...string) int {
	p.w.t.Helper()
	return p.w.echo.serve(p.w.t, p.tls(ca, hosts...))
}

// secureHTTP1 is the same without HTTP/2.
func (p *parity) secureHTTP1(ca *authority.Authority, hosts ...string) int {
	p.w.t.Helper()
	config := p.tls(ca, hosts...)
	config.NextProtos = []string{"http/1.1"}
	return p.w.echo.serve(p.w.t, config)
}

func (p *parity) tls(ca *authority.Authority, hosts ...string) *tls.Config {
	p.w.t.Helper()
	cert, err := tls.X509KeyPair(p.issue(ca, hosts...))
	if err != nil {
		p.w.t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
}

// verdict returns what became of a Route of the row.
func (p *parity) verdict(t *testing.T, name string) *tsujiv1.RouteVerdict {
	t.Helper()
	v := p.w.verdicts[p.ns+"/"+name]
	if v == nil {
		t.Fatalf("there is no verdict on %s/%s", p.ns, name)
	}
	return v
}

// refused wants a Route refused, and its host without an answer unless another Route has it.
func (p *parity) refused(t *testing.T, name, reason, message string) {
	t.Helper()
	v := p.verdict(t, name)
	if v.GetAdmitted() || v.GetReason() != reason || !strings.Contains(v.GetMessage(), message) {
		t.Errorf("%s: admitted %v, %s: %s; want %s: …%s…", name, v.GetAdmitted(), v.GetReason(), v.GetMessage(), reason, message)
	}
	if strings.HasPrefix(v.GetHost(), name+".") {
		p.w.wants(t, "http://"+v.GetHost()+"/", p.w.nobody)
	}
}

// warned wants a Route admitted with a warning; an empty one: with none.
func (p *parity) warned(t *testing.T, name, warning string) {
	t.Helper()
	v := p.verdict(t, name)
	found := warning == "" && len(v.GetWarnings()) == 0
	for _, have := range v.GetWarnings() {
		found = found || warning != "" && strings.Contains(have, warning)
	}
	if !v.GetAdmitted() || !found {
		t.Errorf("%s: %v, want it admitted with the warning %q", name, v, warning)
	}
}

// roots are those of the certificates of hosts.
func (w *parityWorld) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.site.CertPEM())
	return pool
}
