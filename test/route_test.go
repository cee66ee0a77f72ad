// Package test holds the stories of the whole system: the real binaries as processes of their own, real HAProxy,
// real requests.
package test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// One Route goes from its manifest to traffic in two zones, and its version comes back as an ack from each. Its
// endpoint moves, another Route comes and goes, and both zones follow.
func TestOneRouteThereAndBack(t *testing.T) {
	onBoth(t, oneRouteThereAndBack)
}

func oneRouteThereAndBack(t *testing.T, f *fleet) {
	ip, port := backend(t, "first")
	_, port2 := backend(t, "second")
	f.write("web.yaml", service("web", port, ip)+route("hello", "hello.example.com", "web"))
	f.startControlPlane()
	tok04, tok05 := f.newRouter("tok04", "router-a"), f.newRouter("tok05", "router-b")
	both := []*router{tok04, tok05}
	for _, r := range both {
		r.start()
	}
	for _, r := range both {
		r.ready()
		if err := answers(r.http, "hello.example.com", "/x", "first hello.example.com /x"); err != nil {
			t.Error(err)
		}
	}
	op := f.operator()
	f.converged(op, "router-a", "router-b")
	before := f.routers(op)
	if a, b := before["router-a"], before["router-b"]; digests(a.GetAckedVersion()) != digests(b.GetAckedVersion()) || a.GetZone() != "tok04" || b.GetZone() != "tok05" {
		t.Errorf("two zones of one content ack\n%v\n%v", a, b)
	}

	// The endpoint moves: both zones follow, without a new worker, and are sent that one resource.
	_, workers := tok04.haproxyPIDs()
	f.write("web.yaml", service("web", port2, ip)+route("hello", "hello.example.com", "web"))
	for _, r := range both {
		eventually(t, r.name+" uses the new endpoint", func() error { return answers(r.http, "hello.example.com", "/", "second") })
	}
	f.converged(op, "router-a", "router-b")
	if _, now := tok04.haproxyPIDs(); fmt.Sprint(now) != fmt.Sprint(workers) {
		t.Errorf("a moved endpoint took HAProxy from workers %v to %v, want no reload", workers, now)
	}
	for name, r := range f.routers(op) {
		if sent := r.GetResourcesSent() - before[name].GetResourcesSent(); sent != 1 {
			t.Errorf("%s was sent %d resources for one moved endpoint, want 1", name, sent)
		}
	}

	// A new Route in a file of its own.
	f.write("more.yaml", route("more", "more.example.com", "web"))
	for _, r := range both {
		eventually(t, r.name+" serves the new route", func() error { return answers(r.http, "more.example.com", "/", "second") })
	}

	// It goes.
	f.remove("more.yaml")
	for _, r := range both {
		eventually(t, r.name+" no longer serves the removed route", func() error {
			code, _, err := get(r.http, "more.example.com", "/")
			if err == nil && code != 503 {
				err = fmt.Errorf("%d", code)
			}
			return err
		})
	}

	// A graceful stop ends HAProxy too.
	tok04.terminate()
	if master, workers := tok04.haproxyPIDs(); master != 0 || len(workers) > 0 {
		t.Errorf("after a graceful stop HAProxy is still there: master %d, workers %v", master, workers)
	}
}

// A wrong edit of a file is named by file, line and remedy, in the log and by the status service; everything else stays
// in force, and so does what that file last said. When it is mended, the fault is gone.
func TestWrongEditIsNamed(t *testing.T) {
	f := newFleet(t)
	ip, port := backend(t, "pod")
	f.write("web.yaml", service("web", port, ip)+route("hello", "hello.example.com", "web"))
	f.write("more.yaml", route("more", "more.example.com", "web"))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()
	op := f.operator()
	f.converged(op, "router-a")

	f.write("more.yaml", "apiVersion: route.openshift.io/v1\nkind: Route\nmetadata:\n  name: more\n\tnamespace: shop\n")
	status := tsujiv1.NewStatusServiceClient(op)
	eventually(t, "the wrong file is named", func() error {
		s, err := status.GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		for _, fault := range s.GetFaults() {
			if fault.GetPlace() == "more.yaml" && fault.GetLine() == 5 && fault.GetRemedy() != "" {
				return nil
			}
		}
		return fmt.Errorf("faults: %v", s.GetFaults())
	})
	if err := f.controlPlane().logged("more.yaml"); err != nil {
		t.Error(err)
	}
	for _, host := range []string{"hello.example.com", "more.example.com"} {
		if err := answers(r.http, host, "/", "pod"); err != nil {
			t.Errorf("after a wrong edit: %v", err)
		}
	}
	f.write("more.yaml", route("more", "mended.example.com", "web"))
	eventually(t, "the mended file is served", func() error { return answers(r.http, "mended.example.com", "/", "pod") })
	if s, err := status.GetStatus(t.Context(), &tsujiv1.GetStatusRequest{}); err != nil || len(s.GetFaults()) > 0 {
		t.Errorf("after the file was mended: %v, faults %v", err, s.GetFaults())
	}
}

// The four terminations answer on both ports as their policies say, each TLS host with its own certificate.
func TestTerminations(t *testing.T) {
	onBoth(t, terminations)
}

func terminations(t *testing.T, f *fleet) {
	ip, port := backend(t, "plain")
	site, err := authority.NewAuthority("site")
	if err != nil {
		t.Fatal(err)
	}
	issue := func(host string) (cert, key []byte) {
		cert, key, err := site.Issue(authority.Options{DNSNames: []string{host}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	edgeCert, edgeKey := issue("edge.example.com")
	reCert, reKey := issue("reencrypt.example.com")
	secretCert, secretKey := issue("external.example.com")
	podCert, podKey := issue("secure.shop.svc")
	passCert, passKey := issue("passthrough.example.com")
	_, podPort := tlsBackend(t, "pod-tls", podCert, podKey)
	_, passPort := tlsBackend(t, "own-tls", passCert, passKey)

	f.write("services.yaml", service("plain", port, ip)+service("secure", podPort, ip)+service("own", passPort, ip))
	f.write("routes.yaml",
		route("insecure", "insecure.example.com", "plain")+
			route("edge", "edge.example.com", "plain", "tls:\n  termination: edge\n  insecureEdgeTerminationPolicy: Redirect\n"+
				indent(pemField("certificate", edgeCert)+pemField("key", edgeKey), "  "))+
			route("edge-allow", "edge.example.com", "plain", "path: /open", "tls: {termination: edge, insecureEdgeTerminationPolicy: Allow}")+
			route("reencrypt", "reencrypt.example.com", "secure", "tls:\n  termination: reencrypt\n"+
				indent(pemField("certificate", reCert)+pemField("key", reKey)+pemField("destinationCACertificate", site.CertPEM()), "  "))+
			route("passthrough", "passthrough.example.com", "own", "tls: {termination: passthrough, insecureEdgeTerminationPolicy: Redirect}")+
			route("external", "external.example.com", "plain", "tls: {termination: edge, externalCertificate: {name: site}}"))
	secret := func(cert, key []byte) string {
		return "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: site, namespace: shop}\nstringData:\n" +
			indent(pemField("tls.crt", cert)+pemField("tls.key", key), "  ")
	}
	f.write("secret.yaml", secret(secretCert, secretKey))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(site.CertPEM())
	secure := func(host, path string) (int, string, *x509.Certificate, error) {
		var leaf *x509.Certificate
		tr := &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, r.https)
			},
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, VerifyConnection: func(s tls.ConnectionState) error {
				leaf = s.PeerCertificates[0]
				return nil
			}},
		}
		req, err := http.NewRequest(http.MethodGet, "https://"+host+path, nil)
		if err != nil {
			return 0, "", nil, err
		}
		code, body, err := do(&http.Client{Transport: tr, Timeout: patience, CheckRedirect: client.CheckRedirect}, req)
		return code, body, leaf, err
	}
	for _, want := range []struct{ host, path, body string }{
		{"edge.example.com", "/a", "plain edge.example.com /a"},
		{"edge.example.com", "/open/a", "plain edge.example.com /open/a"},
		{"reencrypt.example.com", "/b", "pod-tls reencrypt.example.com /b"},
		{"passthrough.example.com", "/c", "own-tls passthrough.example.com /c"},
		{"external.example.com", "/d", "plain external.example.com /d"},
	} {
		code, body, leaf, err := secure(want.host, want.path)
		if err != nil || code != 200 || !strings.HasPrefix(body, want.body) {
			t.Errorf("https://%s%s: %d %q %v, want %q", want.host, want.path, code, body, err, want.body)
		} else if err := leaf.VerifyHostname(want.host); err != nil {
			t.Errorf("https://%s shows another's certificate: %v", want.host, err)
		}
	}
	for _, want := range []struct {
		host, path string
		code       int
	}{
		{"insecure.example.com", "/", 200},
		{"edge.example.com", "/", 302},
		{"edge.example.com", "/open", 200},
		{"edge.example.com", "/opening", 302},
		{"reencrypt.example.com", "/", 503},
		{"passthrough.example.com", "/", 302},
		{"external.example.com", "/", 503},
		{"nobody.example.com", "/", 503},
	} {
		if code, body, err := get(r.http, want.host, want.path); err != nil || code != want.code {
			t.Errorf("http://%s%s: %d %q %v, want %d", want.host, want.path, code, body, err, want.code)
		}
	}

	// A renewed certificate is served without a reload.
	_, workers := r.haproxyPIDs()
	renewedCert, renewedKey := issue("external.example.com")
	f.write("secret.yaml", secret(renewedCert, renewedKey))
	renewed, err := tls.X509KeyPair(renewedCert, renewedKey)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the renewed certificate is served", func() error {
		_, _, leaf, err := secure("external.example.com", "/")
		if err == nil && !bytes.Equal(leaf.Raw, renewed.Certificate[0]) {
			err = errNotYet
		}
		return err
	})
	if _, now := r.haproxyPIDs(); fmt.Sprint(now) != fmt.Sprint(workers) {
		t.Errorf("a renewed certificate took HAProxy from workers %v to %v, want no reload", workers, now)
	}
}

// Three Routes that cannot be served are refused by verdict, each alone, among a hundred that stay served.
func TestBadRoutesHarmNobody(t *testing.T) {
	onBoth(t, badRoutesHarmNobody)
}

func badRoutesHarmNobody(t *testing.T, f *fleet) {
	ip, port := backend(t, "good")
	var all strings.Builder
	all.WriteString(service("web", port, ip))
	for i := range 100 {
		all.WriteString(route(fmt.Sprintf("good-%03d", i), fmt.Sprintf("good-%03d.example.com", i), "web"))
	}
	f.write("good.yaml", all.String())
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()
	op := f.operator()
	f.converged(op, "router-a")

	_, key, err := f.ca.Issue(authority.Options{DNSNames: []string{"other.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := f.ca.Issue(authority.Options{DNSNames: []string{"bad.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	f.write("bad.yaml",
		route("bad-certificate", "bad-certificate.example.com", "web", "tls:\n  termination: edge\n"+indent(pemField("certificate", cert)+pemField("key", key), "  "))+
			route("bad-path", "bad-path.example.com", "web", `path: "/a b\" use_backend x"`)+
			annotatedRoute("bad-option", "bad-option.example.com", "web", `haproxy.router.openshift.io/hsts_header: "max-age=1;\nincludeSubDomains"`, "tls: {termination: edge}")+
			route("late", "late.example.com", "web"))
	eventually(t, "the good one that came with the bad ones is served", func() error { return answers(r.http, "late.example.com", "/", "good") })
	refused, err := tsujiv1.NewRouteServiceClient(op).ListRoutes(t.Context(), &tsujiv1.ListRoutesRequest{RefusedOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"bad-certificate": true, "bad-path": true, "bad-option": true}
	for _, v := range refused.GetRoutes() {
		if !want[v.GetName()] {
			t.Errorf("%s is refused too: %s %s", v.GetName(), v.GetReason(), v.GetMessage())
		}
		if v.GetReason() == "" || v.GetMessage() == "" {
			t.Errorf("%s is refused without telling why: %v", v.GetName(), v)
		}
		if code, body, err := get(r.http, v.GetHost(), "/"); err != nil || code != 503 {
			t.Errorf("%s is refused, but answers %d %q %v", v.GetName(), code, body, err)
		}
		delete(want, v.GetName())
	}
	if len(want) > 0 {
		t.Errorf("not refused: %v", want)
	}
	for i := range 100 {
		if err := answers(r.http, fmt.Sprintf("good-%03d.example.com", i), "/", "good"); err != nil {
			t.Error(err)
		}
	}
}

// What is wrong with an IngressController is told, and the rest of it is in force.
func TestWrongIngressControllerIsTold(t *testing.T) {
	f := newFleet(t) // an API server refuses such an object
	ip, port := backend(t, "pod")
	f.write("web.yaml", service("web", port, ip)+route("hello", "hello.example.com", "web"))
	f.write("controller.yaml", `apiVersion: operator.openshift.io/v1
kind: IngressController
metadata: {name: default, namespace: openshift-ingress-operator}
spec:
  httpHeaders:
    actions:
      response:
        - {name: X-Served-By, action: {type: Set, set: {value: tsuji}}}
        - {name: "X Bad", action: {type: Set, set: {value: x}}}
`)
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()
	s, err := tsujiv1.NewStatusServiceClient(f.operator()).GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.GetFaults()) != 1 || !strings.Contains(s.GetFaults()[0].GetPlace()+s.GetFaults()[0].GetMessage(), "X Bad") {
		t.Errorf("faults %v, want one that names X Bad", s.GetFaults())
	}
	req, err := http.NewRequest(http.MethodGet, "http://"+r.http+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "hello.example.com"
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Served-By") != "tsuji" {
		t.Errorf("%d, X-Served-By %q, want 200 and the header that is right", resp.StatusCode, resp.Header.Get("X-Served-By"))
	}
}
