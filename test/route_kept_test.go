package test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// shopSecret is a Secret of the shop; of an empty key there is none.
func shopSecret(name, kind string, cert, key []byte) string {
	data := pemField("tls.crt", cert)
	if len(key) > 0 {
		data += pemField("tls.key", key)
	}
	return "apiVersion: v1\nkind: Secret\ntype: " + kind + "\nmetadata: {name: " + name + ", namespace: shop}\nstringData:\n" + indent(data, "  ") + "---\n"
}

// renewals issues the certificates of a host again and again, and knows all that it issued.
type renewals struct {
	site *authority.Authority
	host string
	all  []*x509.Certificate
}

func (r *renewals) next(t testing.TB) (cert, key []byte) {
	t.Helper()
	cert, key, err := r.site.Issue(authority.Options{DNSNames: []string{r.host}})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	r.all = append(r.all, pair.Leaf)
	return cert, key
}

// stays is nil when the Route of a host is served, and told to use so many things as they were last good.
func stays(t testing.TB, op *grpc.ClientConn, host string, things int) error {
	t.Helper()
	l, err := tsujiv1.NewRouteServiceClient(op).ListRoutes(t.Context(), &tsujiv1.ListRoutesRequest{})
	if err != nil {
		return err
	}
	for _, v := range l.GetRoutes() {
		if v.GetHost() != host {
			continue
		}
		told := 0
		for _, w := range v.GetWarnings() {
			if strings.Contains(w, "stays in use") && strings.Contains(w, "(since 20") {
				told++
			}
		}
		if v.GetAdmitted() && len(v.GetLastGood()) == things && told == things {
			return nil
		}
		return fmt.Errorf("%w: %v", errNotYet, v)
	}
	return fmt.Errorf("%w: there is no verdict on %s", errNotYet, host)
}

// The Secrets of a Route and of an Ingress, with the CA of its endpoints, are deleted and made again, as renewals do: with
// some time in between, and at once, under load. No request fails, each handshake is with a certificate of the host's own,
// and there is no reload. Meanwhile it is told, a router that starts then serves the same, and endpoints go on being verified.
// Both sources are asked, and each release of HAProxy.
func TestRoutesRenewedByDeletion(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, binary string) {
		f := newFleet(t)
		f.haproxy = binary
		routesRenewedByDeletion(t, f)
	})
	t.Run("kubernetes", func(t *testing.T) {
		f := newFleet(t)
		f.source = newCluster(t)
		routesRenewedByDeletion(t, f)
	})
}

func routesRenewedByDeletion(t *testing.T, f *fleet) {
	site, err := authority.NewAuthority("sites")
	if err != nil {
		t.Fatal(err)
	}
	pods := [2]*authority.Authority{}
	for i := range pods {
		if pods[i], err = authority.NewAuthority(fmt.Sprint("pods", i)); err != nil {
			t.Fatal(err)
		}
	}
	pod := func(by *authority.Authority, name string) string {
		t.Helper()
		cert, key, err := by.Issue(authority.Options{DNSNames: []string{"secure.shop.svc"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
		if err != nil {
			t.Fatal(err)
		}
		ip, port := tlsBackend(t, name, cert, key)
		return service("secure", port, ip)
	}
	hosts := []*renewals{{site: site, host: "route.example.com"}, {site: site, host: "ingress.example.com"}}
	secrets := func() {
		t.Helper()
		cert, key := hosts[0].next(t)
		other, otherKey := hosts[1].next(t)
		f.write("secrets.yaml", shopSecret("site", "kubernetes.io/tls", cert, key)+shopSecret("front", "kubernetes.io/tls", other, otherKey)+
			shopSecret("pods", "Opaque", append(pods[0].CertPEM(), pods[1].CertPEM()...), nil))
	}
	ip, port := backend(t, "plain")
	f.write("web.yaml", service("web", port, ip))
	f.write("secure.yaml", pod(pods[0], "first"))
	secrets()
	edge := func(host string) string {
		return route("secure", host, "web", "tls: {termination: edge, externalCertificate: {name: site}}")
	}
	f.write("route.yaml", edge(hosts[0].host))
	f.write("ingress.yaml", ingressClass+strings.Replace(ingress("secure", hosts[1].host, "secure", "tls: [{hosts: ["+hosts[1].host+"], secretName: front}]"),
		"namespace: shop}", "namespace: shop, annotations: {route.openshift.io/termination: reencrypt, route.openshift.io/destination-ca-certificate-secret: pods}}", 1))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()
	op := f.operator()
	f.converged(op, "router-a")
	served := func(r *router, name string) {
		t.Helper()
		eventually(t, "the Route is served", func() error { return newSecureClient(r).answers(t, hosts[0].host, "plain") })
		eventually(t, "the Ingress is served", func() error { return newSecureClient(r).answers(t, hosts[1].host, name) })
	}
	served(r, "first")
	more, end := handshakes(t, r, hosts)
	told := func(certificates, cas int) {
		t.Helper()
		eventually(t, "the Route's owner is told", func() error { return stays(t, op, hosts[0].host, certificates) })
		eventually(t, "the Ingress's owner is told", func() error { return stays(t, op, hosts[1].host, certificates+cas) })
	}
	f.remove("secrets.yaml")
	told(1, 1)
	f.write("secure.yaml", pod(pods[1], "second"))
	served(r, "second")
	f.converged(op, "router-a") // before 3.0 an endpoint that moves is a reload
	reloads := reloadsOf(t, r)
	late := f.newRouter("tok05", "router-b")
	late.start()
	late.ready()
	served(late, "second")
	more(loadLeast / 4)
	status, err := tsujiv1.NewStatusServiceClient(op).GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
	if err != nil || status.GetRoutesLastGood() != 2 || status.GetRoutesRefused() != 0 {
		t.Errorf("status %v %v", status, err)
	}
	secrets()
	told(0, 0)
	for range 10 {
		f.remove("secrets.yaml")
		secrets()
		more(1)
	}
	told(0, 0)
	for i, h := range hosts {
		newest := h.all[len(h.all)-1]
		eventually(t, "the newest certificate is served", func() error {
			once := newSecureClient(r)
			err := once.answers(t, h.host, []string{"plain", "second"}[i])
			if _, others := once.others(newest); err == nil && others > 0 {
				err = errNotYet
			}
			return err
		})
	}
	more(loadLeast / 4)
	end()
	if n := reloadsOf(t, r) - reloads; n > 0 {
		t.Errorf("%v reloads", n)
	}

	f.remove("secrets.yaml")
	told(1, 1)
	impostor, err := authority.NewAuthority("impostor")
	if err != nil {
		t.Fatal(err)
	}
	f.write("secure.yaml", pod(impostor, "impostor"))
	eventually(t, "an endpoint with a certificate of another CA gets no request", func() error {
		code, body, err := newSecureClient(r).get(t.Context(), hosts[1].host)
		if strings.HasPrefix(body, "impostor") {
			t.Fatalf("the endpoint is not verified: %d %q", code, body)
		}
		if err == nil && code != 503 {
			err = errNotYet
		}
		return err
	})
	missing := func(secrets ...string) error {
		l, err := tsujiv1.NewRouteServiceClient(op).ListRoutes(t.Context(), &tsujiv1.ListRoutesRequest{RefusedOnly: true})
		if err != nil {
			return err
		}
		var got []string
		for _, v := range l.GetRoutes() {
			got = append(got, v.GetMissingSecret())
		}
		if !slices.Equal(got, secrets) {
			return fmt.Errorf("%w: %v", errNotYet, l)
		}
		return nil
	}
	f.write("route.yaml", edge("other.example.com"))
	eventually(t, "for another host the certificate is not used", func() error { return missing("site") })
	f.controlPlane().kill()
	f.startControlPlane()
	eventually(t, "a control plane that starts has nothing of what was good, and says so",
		func() error { return missing("site", "pods") })
}

// handshakes has clients make connections to hosts all the time. more waits until there were so many more for each host. end
// ends that; each request must have been answered, and each handshake have been with a certificate that was issued for the
// host.
func handshakes(t *testing.T, r *router, hosts []*renewals) (more func(int), end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error // guarded by mu
	clients := make([]*secureClient, len(hosts))
	for i, h := range hosts {
		clients[i] = newSecureClient(r)
		for range 2 {
			wg.Go(func() {
				for ctx.Err() == nil {
					if err := clients[i].answersBy(ctx, h.host, ""); err != nil && ctx.Err() == nil {
						mu.Lock()
						failed = errors.Join(failed, err)
						mu.Unlock()
						return
					}
					select {
					case <-ctx.Done():
					case <-time.After(2 * time.Millisecond): // the load's pace
					}
				}
			})
		}
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	more = func(n int) {
		t.Helper()
		for _, c := range clients {
			before, _ := c.others()
			eventually(t, "there are more handshakes", func() error {
				if now, _ := c.others(); now < before+n {
					return fmt.Errorf("%w: %d", errNotYet, now-before)
				}
				return nil
			})
		}
	}
	return more, func() {
		t.Helper()
		cancel()
		wg.Wait()
		if failed != nil {
			t.Errorf("requests failed: %v", failed)
		}
		for i, h := range hosts {
			all, others := clients[i].others(h.all...)
			if others > 0 {
				t.Errorf("%s: %d of %d handshakes were with another certificate", h.host, others, all)
			}
			t.Logf("%s: %d handshakes, %d certificates", h.host, all, len(h.all))
		}
	}
}
