package test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// ingressController is the default one.
func ingressController(spec string) string {
	return "apiVersion: operator.openshift.io/v1\nkind: IngressController\nmetadata: {name: default, namespace: openshift-ingress-operator}\nspec: {" + spec + "}\n---\n"
}

// configMap is one in openshift-config with one key.
func configMap(name, key string, value []byte) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", namespace: openshift-config}\ndata:\n" + indent(pemField(key, value), "  ") + "---\n"
}

// faulty is nil when one of the source's faults has all the words; without words, when there is none.
func faulty(t testing.TB, op *grpc.ClientConn, words ...string) error {
	t.Helper()
	s, err := tsujiv1.NewStatusServiceClient(op).GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
	if err != nil {
		return err
	}
	if len(words) == 0 && len(s.GetFaults()) == 0 {
		return nil
	}
	for _, f := range s.GetFaults() {
		found := len(words) > 0
		for _, w := range words {
			found = found && strings.Contains(f.GetPlace()+": "+f.GetMessage()+": "+f.GetRemedy(), w)
		}
		if found {
			return nil
		}
	}
	return fmt.Errorf("faults %v, want one with %q", s.GetFaults(), words)
}

// secureClient asks a router over TLS, each time on a connection of its own, and notes the certificates that it sees.
type secureClient struct {
	http *http.Client

	mu   sync.Mutex
	seen map[[sha256.Size]byte]int // guarded by mu; handshakes by the digest of the leaf
}

func newSecureClient(r *router, own ...tls.Certificate) *secureClient {
	c := &secureClient{seen: map[[sha256.Size]byte]int{}}
	c.http = &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, r.https)
		},
		TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, Certificates: own,
			VerifyConnection: func(s tls.ConnectionState) error {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.seen[sha256.Sum256(s.PeerCertificates[0].Raw)]++
				return nil
			},
		},
	}}
	return c
}

// answers is nil when a host answers 200, and begins so.
func (c *secureClient) answers(t testing.TB, host, begin string) error {
	t.Helper()
	return c.answersBy(t.Context(), host, begin)
}

func (c *secureClient) answersBy(ctx context.Context, host, begin string) error {
	code, body, err := c.get(ctx, host)
	if err == nil && (code != http.StatusOK || !strings.HasPrefix(body, begin)) {
		err = fmt.Errorf("https://%s/: %d %q, want %q", host, code, body, begin)
	}
	return err
}

func (c *secureClient) get(ctx context.Context, host string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/", http.NoBody)
	if err != nil {
		return 0, "", err
	}
	return do(c.http, req)
}

// others returns how many handshakes there were, and how many with another certificate than these.
func (c *secureClient) others(leaves ...*x509.Certificate) (all, others int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for digest, n := range c.seen {
		all += n
		known := false
		for _, l := range leaves {
			known = known || digest == sha256.Sum256(l.Raw)
		}
		if !known {
			others += n
		}
	}
	return all, others
}

// The Secret of the default certificate is deleted, comes with a key that is not its own, and comes renewed, while clients
// make connections all the time: none sees another certificate than the old one and the new one, and no request fails. The
// fault is told while it lasts, and an endpoint that moves then is served at once.
func TestDefaultCertificateRenewedByDeletion(t *testing.T) {
	onBoth(t, defaultCertificateRenewedByDeletion)
}

func defaultCertificateRenewedByDeletion(t *testing.T, f *fleet) {
	site, err := authority.NewAuthority("sites")
	if err != nil {
		t.Fatal(err)
	}
	issue := func() (cert, key []byte, leaf *x509.Certificate) {
		t.Helper()
		cert, key, err := site.Issue(authority.Options{DNSNames: []string{"*.example.com"}})
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key, pair.Leaf
	}
	secret := func(cert, key []byte) string {
		return "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: front, namespace: openshift-ingress}\nstringData:\n" +
			indent(pemField("tls.crt", cert)+pemField("tls.key", key), "  ")
	}
	var backends [3]func()
	for i, name := range []string{"first", "second", "third"} {
		ip, port := backend(t, name)
		backends[i] = func() { f.write("web.yaml", service("web", port, ip)) }
	}
	cert, key, before := issue()
	f.write("secret.yaml", secret(cert, key))
	backends[0]()
	f.write("route.yaml", route("secure", "secure.example.com", "web", "tls: {termination: edge}"))
	f.write("controller.yaml", ingressController("defaultCertificate: {name: front}"))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()
	op := f.operator()
	f.converged(op, "router-a")
	eventually(t, "it is served", func() error { return newSecureClient(r).answers(t, "secure.example.com", "first") })

	c := newSecureClient(r)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	failed := make(chan error, 4)
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := c.answersBy(ctx, "secure.example.com", ""); err != nil && ctx.Err() == nil {
					failed <- err
					return
				}
				select {
				case <-ctx.Done():
				case <-time.After(2 * time.Millisecond): // the load's pace
				}
			}
		})
	}
	defer wg.Wait()
	defer cancel()
	f.remove("secret.yaml")
	eventually(t, "it is told that the Secret is gone", func() error {
		return faulty(t, op, "spec.defaultCertificate.name", "there is no such Secret", "stays in use", "put a Secret")
	})
	backends[1]()
	eventually(t, "an endpoint that moved is served", func() error { return c.answers(t, "secure.example.com", "second") })
	_, wrong, _ := issue()
	renewed, renewedKey, after := issue()
	f.write("secret.yaml", secret(renewed, wrong))
	eventually(t, "it is told that the key is another's", func() error {
		return faulty(t, op, "spec.defaultCertificate.name", "private key does not match public key", "stays in use")
	})
	backends[2]()
	eventually(t, "an endpoint that moved is served", func() error { return c.answers(t, "secure.example.com", "third") })
	late := f.newRouter("tok05", "router-b")
	late.start()
	late.ready()
	latecomer := newSecureClient(late)
	eventually(t, "a router that starts now serves", func() error { return latecomer.answers(t, "secure.example.com", "third") })
	if all, others := latecomer.others(before); all == 0 || others > 0 {
		t.Errorf("on the router that started late %d of %d handshakes were with another certificate", others, all)
	}
	if all, others := c.others(before); others > 0 || all < loadLeast {
		t.Errorf("%d of %d handshakes were with another certificate while the Secret was at fault", others, all)
	}
	f.write("secret.yaml", secret(renewed, renewedKey))
	eventually(t, "the renewed certificate is served", func() error {
		once := newSecureClient(r)
		err := once.answers(t, "secure.example.com", "third")
		if _, others := once.others(after); err == nil && others > 0 {
			err = errNotYet
		}
		return err
	})
	eventually(t, "nothing is at fault", func() error { return faulty(t, op) })
	f.converged(op, "router-a", "router-b")
	cancel()
	wg.Wait()
	select {
	case err := <-failed:
		t.Errorf("a request failed: %v", err)
	default:
	}
	all, others := c.others(before, after)
	if others > 0 {
		t.Errorf("%d of %d handshakes were with another certificate than the old and the new one", others, all)
	}
	t.Logf("%d handshakes", all)
}

// Clients must have certificates, of a CA that is not there yet: a router that starts with nothing serves all else, and
// follows. When the CA comes, those get in that have a certificate of it. When it goes, they still do and others do not, on a
// router that starts then, too; and all that changes is served meanwhile.
func TestClientCAGone(t *testing.T) { onBoth(t, clientCAGone) }

func clientCAGone(t *testing.T, f *fleet) {
	clients, err := authority.NewAuthority("clients")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := clients.Issue(authority.Options{DNSNames: []string{"ann"}})
	if err != nil {
		t.Fatal(err)
	}
	ann, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	move := func(name string) {
		ip, port := backend(t, name)
		f.write("web.yaml", service("web", port, ip))
	}
	move("first")
	f.write("route.yaml", route("plain", "plain.example.com", "web")+route("secure", "secure.example.com", "web", "tls: {termination: edge}"))
	f.write("controller.yaml", ingressController("clientTLS: {clientCertificatePolicy: Required, clientCA: {name: clients}}"))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()
	op := f.operator()
	place := "IngressController openshift-ingress-operator/default: spec.clientTLS.clientCA.name"
	eventually(t, "the CA is told to be missing", func() error { return faulty(t, op, place, "answered with 503", "ca-bundle.pem") })
	eventually(t, "plain HTTP is served", func() error { return answers(r.http, "plain.example.com", "/", "first") })
	f.converged(op, "router-a")
	for _, own := range [][]tls.Certificate{nil, {ann}} {
		if code, body, err := newSecureClient(r, own...).get(t.Context(), "secure.example.com"); err != nil || code != http.StatusServiceUnavailable {
			t.Errorf("with %d certificates, before there is a CA: %d %q %v, want 503", len(own), code, body, err)
		}
	}
	move("second")
	eventually(t, "an endpoint that moved is served", func() error { return answers(r.http, "plain.example.com", "/", "second") })

	served := func(r *router, name string) {
		t.Helper()
		eventually(t, "who has a certificate is served", func() error { return newSecureClient(r, ann).answers(t, "secure.example.com", name) })
		if code, body, err := newSecureClient(r).get(t.Context(), "secure.example.com"); err == nil {
			t.Errorf("who has none is answered: %d %q", code, body)
		}
	}
	f.write("clients.yaml", configMap("clients", "ca-bundle.pem", clients.CertPEM()))
	served(r, "second")
	eventually(t, "nothing is at fault", func() error { return faulty(t, op) })
	f.converged(op, "router-a")
	reloads := reloadsOf(t, r)
	f.remove("clients.yaml")
	eventually(t, "the CA is told to be gone", func() error { return faulty(t, op, place, "stays in use") })
	move("third")
	served(r, "third")
	f.write("clients.yaml", configMap("clients", "ca-bundle.pem", []byte("nothing\n")))
	eventually(t, "the CA is told to be none", func() error { return faulty(t, op, place, "there is no certificate in it", "stays in use") })
	f.write("late.yaml", route("late", "late.example.com", "web"))
	eventually(t, "a Route that came is served", func() error { return answers(r.http, "late.example.com", "/", "third") })
	served(r, "third")
	if n := reloadsOf(t, r) - reloads; n > 0 {
		t.Errorf("%v reloads while the CA was gone", n)
	}
	late := f.newRouter("tok05", "router-b")
	late.start()
	late.ready()
	served(late, "third")
	f.converged(op, "router-a", "router-b")
}
