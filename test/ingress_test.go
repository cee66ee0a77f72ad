package test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/kubetest"
)

// ingressClass is one of ours.
const ingressClass = "{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: tsuji}, spec: {controller: tsuji.dev/ingress}}\n---\n"

// ingress is an Ingress of our class with one rule; more is indented into its spec as it is.
func ingress(name, host, service string, more ...string) string {
	out := fmt.Sprintf(`apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: %s, namespace: shop}
spec:
  ingressClassName: tsuji
  rules:
    - {host: %s, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: %s, port: {number: 80}}}}]}}
`, name, host, service)
	for _, m := range more {
		out += indent(m, "  ")
	}
	return out + "---\n"
}

// newClusterWithoutRoutes returns an API server of the story's own as a source, which has no Routes, and what gives
// them back.
func newClusterWithoutRoutes(t *testing.T, f *fleet) (c *cluster, restore func()) {
	t.Helper()
	server, err := kubetest.Start(context.WithoutCancel(t.Context()), kubetest.Config{Dir: filepath.Join(f.dir, "kube"), Log: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	client, err := dynamic.NewForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	c = &cluster{t: t, server: server, client: client, objects: map[string][]*object{}, kubeconfig: server.Kubeconfig()}
	for _, name := range []string{"shop", "openshift-ingress-operator"} {
		c.apply(&object{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}}})
	}
	definitions := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	const name = "routes.route.openshift.io"
	definition, err := definitions.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := definitions.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there are no Routes", func() error {
		_, err := client.Resource(resources["Route"]).List(t.Context(), metav1.ListOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("%w: %w", errNotYet, err)
		}
		return nil
	})
	return c, func() {
		definition.SetResourceVersion("")
		definition.SetUID("")
		if _, err := definitions.Create(t.Context(), definition, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "there are Routes", func() error {
			_, err := client.Resource(resources["Route"]).List(t.Context(), metav1.ListOptions{})
			return err
		})
	}
}

// A cluster without Routes: the control plane waits until there is an IngressClass of ours, and says so. Then Ingresses
// are answered, over HTTP and HTTPS; a renewed Secret is served without a reload; of two Ingresses that claim a host the
// older has it, and the other when that is gone. When the cluster gets Routes they are served, too.
func TestIngress(t *testing.T) {
	f := newFleet(t)
	c, restore := newClusterWithoutRoutes(t, f)
	f.source = c
	ip, port := backend(t, "first")
	_, rivalPort := backend(t, "rival")
	f.startReplica(f.controlPlane())
	op := f.operator()
	eventually(t, "it is told that there are no Routes, and what to do", func() error {
		s, err := tsujiv1.NewStatusServiceClient(op).GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		for _, fault := range s.GetFaults() {
			if strings.Contains(fault.GetMessage(), "routes.route.openshift.io") && strings.Contains(fault.GetRemedy(), "tsuji.dev/ingress") && !s.GetSynced() {
				return nil
			}
		}
		return fmt.Errorf("synced %t, faults %v", s.GetSynced(), s.GetFaults())
	})
	site, err := authority.NewAuthority("sites")
	if err != nil {
		t.Fatal(err)
	}
	f.write("secret.yaml", siteSecret(t, site, "secure.example.com"))
	f.write("web.yaml", service("web", port, ip)+service("rival", rivalPort, ip))
	created := time.Now()
	f.write("ingresses.yaml", ingress("hello", "hello.example.com", "web")+
		ingress("secure", "secure.example.com", "web", "tls: [{hosts: [secure.example.com], secretName: site}]"))
	f.write("class.yaml", ingressClass)
	f.readyReplica(f.controlPlane())
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()
	eventually(t, "an Ingress is answered", func() error { return answers(r.http, "hello.example.com", "/x", "first hello.example.com /x") })

	var first []byte
	eventually(t, "an Ingress is answered over HTTPS, with its Secret's certificate", func() error {
		leaf, err := secureIngress(r, site, "first secure.example.com /y")
		if err == nil {
			first = leaf.Raw
		}
		return err
	})
	if code, _, err := get(r.http, "secure.example.com", "/"); err != nil || code != http.StatusFound {
		t.Errorf("over plain HTTP: %d %v, want a redirect", code, err)
	}
	f.converged(op, "router-a")
	_, workers := r.haproxyPIDs()
	f.write("secret.yaml", siteSecret(t, site, "secure.example.com"))
	eventually(t, "the renewed certificate is served", func() error {
		leaf, err := secureIngress(r, site, "first secure.example.com /y")
		if err == nil && bytes.Equal(leaf.Raw, first) {
			return errNotYet
		}
		return err
	})
	if _, now := r.haproxyPIDs(); fmt.Sprint(now) != fmt.Sprint(workers) {
		t.Errorf("a renewed Secret took HAProxy from workers %v to %v, want no reload", workers, now)
	}

	eventually(t, "it is another second: creationTimestamp knows no less", func() error {
		if time.Since(created) < 2*time.Second {
			return errNotYet
		}
		return nil
	})
	f.write("rival.yaml", ingress("rival", "hello.example.com", "rival"))
	refused := func() (*tsujiv1.RouteVerdict, error) {
		l, err := tsujiv1.NewRouteServiceClient(op).ListRoutes(t.Context(), &tsujiv1.ListRoutesRequest{RefusedOnly: true})
		if err != nil || len(l.GetRoutes()) != 1 {
			return nil, errors.Join(err, fmt.Errorf("refused: %v", l.GetRoutes()))
		}
		return l.GetRoutes()[0], nil
	}
	eventually(t, "the younger one is refused, by the name of the Ingress", func() error {
		v, err := refused()
		if err == nil && (v.GetReason() != "HostAlreadyClaimed" || v.GetSource().GetKind() != "Ingress" || v.GetSource().GetName() != "rival" || v.GetSource().GetField() != "spec.rules[0].http.paths[0]") {
			err = fmt.Errorf("%v", v)
		}
		return err
	})
	if err := answers(r.http, "hello.example.com", "/", "first"); err != nil {
		t.Error(err)
	}
	f.write("ingresses.yaml", ingress("secure", "secure.example.com", "web", "tls: [{hosts: [secure.example.com], secretName: site}]"))
	eventually(t, "the host is the other's when the older one is gone", func() error { return answers(r.http, "hello.example.com", "/", "rival") })
	f.remove("rival.yaml")
	eventually(t, "nobody answers when both are gone", func() error {
		code, _, err := get(r.http, "hello.example.com", "/")
		if err == nil && code != http.StatusServiceUnavailable {
			err = fmt.Errorf("%w: %d", errNotYet, code)
		}
		return err
	})

	restore()
	f.write("route.yaml", route("late", "late.example.com", "web"))
	eventually(t, "a Route is served when there are such", func() error { return answers(r.http, "late.example.com", "/", "first") })
	if _, err := secureIngress(r, site, "first"); err != nil {
		t.Errorf("an Ingress beside Routes: %v", err)
	}
}

// The IngressClass of the older of two Ingresses that claim a host comes and goes, under load: each request is answered by
// one of them. The younger has the host until the older can be served with its certificate.
func TestIngressClassComesBack(t *testing.T) {
	f := newFleet(t)
	f.source = newCluster(t)
	site, err := authority.NewAuthority("sites")
	if err != nil {
		t.Fatal(err)
	}
	ip, port := backend(t, "older")
	rival, rivalPort := backend(t, "younger")
	class := strings.Replace(ingressClass, "name: tsuji}", "name: returning}", 1)
	f.write("class.yaml", ingressClass)
	f.write("web.yaml", service("web", port, ip)+service("rival", rivalPort, rival))
	f.write("secrets.yaml", siteSecret(t, site, "secure.example.com")+"---\n"+strings.Replace(siteSecret(t, site, "secure.example.com"), "name: site,", "name: other,", 1))
	created := time.Now()
	f.write("older.yaml", strings.Replace(ingress("older", "secure.example.com", "web", "tls: [{hosts: [secure.example.com], secretName: site}]"), "ingressClassName: tsuji", "ingressClassName: returning", 1))
	eventually(t, "it is another second: creationTimestamp knows no less", func() error {
		if time.Since(created) < 2*time.Second {
			return errNotYet
		}
		return nil
	})
	f.write("younger.yaml", ingress("younger", "secure.example.com", "rival", "tls: [{hosts: [secure.example.com], secretName: other}]"))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()
	answered := func(by string) func() error {
		return func() error { _, err := secureIngress(r, site, by+" secure.example.com"); return err }
	}
	eventually(t, "the younger is answered", answered("younger"))

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var asked, failed int
	var first error
	wg.Go(func() {
		for ; ctx.Err() == nil; asked++ {
			if _, err := secureIngress(r, site, ""); err != nil {
				failed++
				first = cmp.Or(first, err)
			}
		}
	})
	for range 10 {
		f.write("returning.yaml", class)
		eventually(t, "the older is answered", answered("older"))
		f.remove("returning.yaml")
		eventually(t, "the younger is answered", answered("younger"))
	}
	cancel()
	wg.Wait()
	if failed > 0 || asked < 20 {
		t.Errorf("%d of %d requests failed: %v", failed, asked, first)
	}
}

// An Ingress in a directory is served as in a cluster.
func TestIngressInDirectory(t *testing.T) {
	f := newFleet(t)
	ip, port := backend(t, "first")
	f.write("web.yaml", service("web", port, ip)+ingressClass+ingress("hello", "hello.example.com", "web"))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()
	eventually(t, "it is answered", func() error { return answers(r.http, "hello.example.com", "/x", "first hello.example.com /x") })
}

// siteSecret is the Secret "site" with a new certificate.
func siteSecret(t *testing.T, site *authority.Authority, host string) string {
	t.Helper()
	cert, key, err := site.Issue(authority.Options{DNSNames: []string{host}})
	if err != nil {
		t.Fatal(err)
	}
	return "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: site, namespace: shop}\nstringData:\n" +
		indent(pemField("tls.crt", cert)+pemField("tls.key", key), "  ")
}

// secureIngress asks for https://secure.example.com/y, and returns the certificate that it was answered with.
func secureIngress(r *router, site *authority.Authority, begin string) (*x509.Certificate, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(site.CertPEM())
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
	req, err := http.NewRequest(http.MethodGet, "https://secure.example.com/y", nil)
	if err != nil {
		return nil, err
	}
	code, body, err := do(&http.Client{Transport: tr, Timeout: patience}, req)
	if err == nil && (code != http.StatusOK || !strings.HasPrefix(body, begin)) {
		err = fmt.Errorf("%d %q", code, body)
	}
	return leaf, err
}
