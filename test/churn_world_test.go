package test

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/tsuji-dev/tsuji/identity/authority"
)

// site is a Route with its Service and their Pods, as the next manifest will say.
type site struct {
	name        string
	termination string // as in the manifest; empty: none
	own         bool   // it has a certificate of its own
	cert, key   []byte
	secret      bool // the certificate is in a Secret
	annotations map[string]string
	more        []string // of the Route's spec
	extra       string   // further objects
	path        string
	pods        []*pod
	leaving     []*pod       // terminating, serving
	under       string       // whose host it has; empty: its own
	busy        atomic.Int32 // changes that are not known to be in force
}

const domain = ".example.com"

func (s *site) host() string { return cmp.Or(s.under, s.name) + domain }

func (s *site) scheme() string {
	if s.termination == "" {
		return "http"
	}
	return "https"
}

// manifest is everything of the site's.
func (s *site) manifest(ca []byte) string {
	var tlsSpec string
	if s.termination != "" {
		tlsSpec = "tls:\n  termination: " + s.termination + "\n"
		switch {
		case s.own && s.secret:
			tlsSpec += "  externalCertificate: {name: " + s.name + "}\n"
		case s.own:
			tlsSpec += indent(pemField("certificate", s.cert)+pemField("key", s.key), "  ")
		}
		if s.termination == "reencrypt" {
			tlsSpec += indent(pemField("destinationCACertificate", ca), "  ")
		}
	}
	var annotations []string
	for k, v := range s.annotations {
		annotations = append(annotations, fmt.Sprintf("%s: %q", k, v))
	}
	slices.Sort(annotations)
	spec := slices.Clone(s.more)
	if s.path != "" {
		spec = append(spec, "path: "+s.path)
	}
	if tlsSpec != "" {
		spec = append(spec, tlsSpec)
	}
	out := podService(s.name, s.pods, s.leaving) + annotatedRoute(s.name, s.host(), s.name, strings.Join(annotations, "\n    "), spec...) + s.extra
	if s.own && s.secret {
		out += "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: " + s.name + ", namespace: shop}\nstringData:\n" +
			indent(pemField("tls.crt", s.cert)+pemField("tls.key", s.key), "  ") + "---\n"
	}
	return out
}

// podService is a Service with its EndpointSlice, whose endpoints are ready, or terminating but serving still.
func podService(name string, ready, leaving []*pod) string {
	var b strings.Builder
	b.WriteString(strings.TrimSuffix(service(name, podPort), "endpoints: []\n---\n"))
	b.WriteString("endpoints:\n")
	for _, p := range ready {
		fmt.Fprintf(&b, "  - {addresses: [%q], conditions: {ready: true, serving: true}, targetRef: {kind: Pod, name: %s, namespace: shop}}\n", p.address, p.name)
	}
	for _, p := range leaving {
		fmt.Fprintf(&b, "  - {addresses: [%q], conditions: {ready: false, serving: true, terminating: true}, targetRef: {kind: Pod, name: %s, namespace: shop}}\n", p.address, p.name)
	}
	return b.String() + "---\n"
}

// renew gives the site another certificate of its own.
func (c *churn) renew(s *site) {
	c.t.Helper()
	cert, key, err := c.ca.Issue(authority.Options{DNSNames: []string{s.host()}})
	if err != nil {
		c.t.Fatal(err)
	}
	s.own, s.cert, s.key = true, cert, key
}

// isLeaf tells whether the leaf is of the chain.
func isLeaf(certPEM, keyPEM []byte, leaf *x509.Certificate) bool {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	return err == nil && leaf != nil && bytes.Equal(pair.Certificate[0], leaf.Raw)
}

// extras are how the routes that come and go, and those in the background, differ: each fifth one is alike.
var extras = []struct {
	termination string
	own         bool
}{{"", false}, {"edge", true}, {"edge", false}, {"reencrypt", true}, {"passthrough", false}}

func (c *churn) newExtra(prefix string, n int) *site {
	c.t.Helper()
	like := extras[n%len(extras)]
	s := &site{name: fmt.Sprintf("%s%05d", prefix, n), termination: like.termination, annotations: map[string]string{}, pods: []*pod{c.common[n%len(c.common)]}}
	if like.own {
		c.renew(s)
	}
	return s
}

// background fills the source with routes that nobody changes, of which one in ten of those with TLS has a certificate.
func (c *churn) background(n int) {
	c.t.Helper()
	const perFile = 100
	var b strings.Builder
	for i := range n {
		s := &site{name: fmt.Sprintf("bg%05d", i), termination: extras[i%len(extras)].termination, pods: c.common}
		if i%25 == 1 || i%25 == 3 {
			c.renew(s)
		}
		b.WriteString(s.manifest(c.ca.CertPEM()))
		if i%perFile == perFile-1 || i == n-1 {
			c.f.write(fmt.Sprintf("bg%05d.yaml", i/perFile), b.String())
			b.Reset()
		}
	}
}

// settings turn HTTP/2 on, for routes that have a certificate of their own, and give the others one. It returns what it wrote as controller.yaml.
func (c *churn) settings() string {
	c.t.Helper()
	const namespace = "openshift-ingress"
	if k, ok := c.f.source.(*cluster); ok {
		k.apply(&object{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": namespace}}})
	}
	cert, key, err := c.ca.Issue(authority.Options{DNSNames: []string{"*" + domain}})
	if err != nil {
		c.t.Fatal(err)
	}
	text := `apiVersion: operator.openshift.io/v1
kind: IngressController
metadata:
  name: default
  namespace: openshift-ingress-operator
  annotations: {ingress.operator.openshift.io/default-enable-http2: "true"}
spec:
  defaultCertificate: {name: site}
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata: {name: site, namespace: ` + namespace + `}
stringData:
` + indent(pemField("tls.crt", cert)+pemField("tls.key", key), "  ")
	c.f.write("controller.yaml", text)
	return text
}

// watch makes the routes that clients ask all the time. Each is changed in a way that its name tells.
func (c *churn) watch() {
	c.t.Helper()
	add := func(name, termination string, pods int, annotations map[string]string, more ...string) *site {
		s := &site{name: name, termination: termination, annotations: annotations, more: more}
		if termination == "edge" || termination == "reencrypt" {
			c.renew(s)
		}
		for range pods {
			s.pods = append(s.pods, c.pods.start(name))
		}
		if annotations == nil {
			s.annotations = map[string]string{}
		}
		c.watched[name] = s
		return s
	}
	add("plain", "", 2, nil)
	add("edge", "edge", 1, nil)
	add("secure", "reencrypt", 2, nil)
	add("pass", "passthrough", 2, nil)
	add("external", "edge", 1, nil).secret = true
	add("sticky", "", 2, map[string]string{"router.openshift.io/cookie_name": "first"})
	add("balance", "", 2, map[string]string{"haproxy.router.openshift.io/balance": "roundrobin"})
	add("hsts", "edge", 1, map[string]string{hstsAnnotation: "max-age=1000"})
	add("timeout", "", 1, map[string]string{"haproxy.router.openshift.io/timeout": "20s"})
	add("limit", "edge", 1, map[string]string{
		"haproxy.router.openshift.io/rate-limit-connections": "true", "haproxy.router.openshift.io/rate-limit-connections.rate-http": "90000",
	})
	add("allow", "", 1, map[string]string{"haproxy.router.openshift.io/ip_allowlist": "127.0.0.0/8"})
	add("rewrite", "", 1, map[string]string{"haproxy.router.openshift.io/rewrite-target": "/"}).path = "/app"
	add("headers", "", 1, nil, headerAction("one"))
	add("switch", "edge", 1, nil)
	add("paths", "", 1, nil)
	add("socket", "", 1, nil)
	add("socket-edge", "edge", 1, nil)
	add("weights", "", 1, nil, alternate(50))
	c.other = c.pods.start("weights-other")
	c.watched["weights"].extra = podService("weights-other", []*pod{c.other}, nil)
	for _, s := range c.watched {
		c.put(s)
	}
}

const hstsAnnotation = "haproxy.router.openshift.io/hsts_header"

func headerAction(value string) string {
	return "httpHeaders: {actions: {response: [{name: X-Churn, action: {type: Set, set: {value: " + value + "}}}]}}"
}

func alternate(weight int) string {
	return fmt.Sprintf("alternateBackends: [{kind: Service, name: weights-other, weight: %d}]", weight)
}

// options turn an option of a watched route to and fro; live tells when the new value is in force, where a client can see it.
func (c *churn) option(name string, turn int) (live func(answer) error) {
	s := c.watched[name]
	pick := func(of ...string) string { return of[turn%len(of)] }
	set := func(annotation string, of ...string) { s.annotations[annotation] = pick(of...) }
	switch name {
	case "sticky":
		set("router.openshift.io/cookie_name", "second", "first")
		want := pick("second", "first")
		return seen(func(a answer) string {
			n, _, _ := strings.Cut(a.header.Get("Set-Cookie"), "=")
			return n
		}, want)
	case "balance":
		set("haproxy.router.openshift.io/balance", "leastconn", "source", "random", "roundrobin")
	case "hsts":
		set(hstsAnnotation, hsts[1:]...)
		return seen(func(a answer) string { return a.header.Get("Strict-Transport-Security") }, s.annotations[hstsAnnotation])
	case "timeout":
		set("haproxy.router.openshift.io/timeout", "21s", "22s", "20s")
	case "limit":
		set("haproxy.router.openshift.io/rate-limit-connections.rate-http", "80000", "90000")
	case "allow":
		set("haproxy.router.openshift.io/ip_allowlist", "127.0.0.0/8 192.168.7.0/24", "127.0.0.1", "127.0.0.0/8")
	case "rewrite":
		set("haproxy.router.openshift.io/rewrite-target", "/new", "/")
		return seen(func(a answer) string { return a.path }, pick("/new/x", "/x"))
	case "headers":
		value := pick("two", "one")
		s.more = []string{headerAction(value)}
		return seen(func(a answer) string { return a.header.Get("X-Churn") }, value)
	case "weights":
		s.more = []string{alternate([]int{0, 200, 100}[turn%3])}
	}
	return nil
}

// hsts are the values that the route named so has in turn, the first one first.
var hsts = []string{"max-age=1000", "max-age=2000;includeSubDomains", "max-age=1000"}

func seen(what func(answer) string, want string) func(answer) error {
	return func(a answer) error {
		if got := what(a); got != want {
			return fmt.Errorf("%q, want %q", got, want)
		}
		return nil
	}
}

// load starts the clients of the watched routes: some 300 requests a second.
func (c *churn) load(l *traffic) {
	at := func(name string) target {
		w := target{host: name + domain, path: "/"}
		oneOf := func(what func(answer) string, of ...string) {
			w.judge = func(a answer) error {
				if got := what(a); !slices.Contains(of, got) {
					return fmt.Errorf("%q is none of %q", got, of)
				}
				return nil
			}
		}
		switch name {
		case "hsts":
			oneOf(func(a answer) string { return a.header.Get("Strict-Transport-Security") }, hsts...)
		case "headers":
			oneOf(func(a answer) string { return a.header.Get("X-Churn") }, "one", "two")
		case "rewrite":
			w.path = "/app/x"
			oneOf(func(a answer) string { return a.path }, "/x", "/new/x")
		default:
			w.judge = func(a answer) error {
				if !strings.HasPrefix(a.pod, name+"-") {
					return errors.New("answered by Pod " + a.pod)
				}
				return nil
			}
		}
		return w
	}
	for name, s := range c.watched {
		l.keepAlive(every/2, s.scheme(), at(name))
	}
	for _, name := range []string{"plain", "sticky", "timeout", "allow", "weights", "paths", "balance", "rewrite"} {
		l.fresh(every, "http", at(name))
	}
	for _, name := range []string{"edge", "secure", "pass", "external", "switch", "limit"} {
		l.fresh(2*every, "https", at(name))
	}
	for _, name := range []string{"edge", "secure", "external", "hsts", "limit", "switch"} {
		l.multiplexed(every, at(name))
	}
	l.websocket(every, "http", at("socket"))
	l.websocket(every, "https", at("socket-edge"))
}

// gone is nil when nobody serves the host and path.
func gone(a answer) error {
	if a.code != http.StatusServiceUnavailable {
		return fmt.Errorf("%d", a.code)
	}
	return nil
}
