package test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// odd makes odd objects of every kind, as a seed has it.
type odd struct {
	*rand.Rand
	t    testing.TB
	mint *mint
	keys []string // of the odd public keys: certificates with them
}

// A writing is one thing that is written; an empty manifest removes what was.
type writing struct{ name, manifest string }

// oddMaterial is what takes long to make, and is the same for all seeds.
func oddMaterial(t testing.TB) (*mint, []string) {
	t.Helper()
	m := newMint(t)
	var keys []string
	all := oddKeys(t)
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for k := range all {
			if !yield(k) {
				return
			}
		}
	}) {
		keys = append(keys, string(m.withKey(all[name])))
	}
	return m, keys
}

// steps are what a tenant does, one after the other.
func (o *odd) steps() []writing {
	var out []writing
	for range 1 + o.IntN(4) {
		name := fmt.Sprintf("fuzz%d", o.IntN(3))
		switch o.IntN(12) {
		case 0, 1, 2:
			out = append(out, writing{name, o.list(o.times(4, o.certified))})
		case 3, 4, 5:
			out = append(out, writing{name, o.list(o.times(6, o.route))})
		case 6, 7:
			out = append(out, writing{name, o.list(o.times(3, o.endpoints))})
		case 8:
			out = append(out, writing{name, o.list(o.times(5, o.other))})
		case 9:
			out = append(out, writing{name, o.list(o.times(2, o.controller))})
		case 10:
			many := o.many()
			out = append(out, writing{name, many}, writing{name, ""})
			if o.IntN(2) == 0 {
				out = append(out, writing{name, many})
			}
		default: // one object, edited again and again
			r := o.route()
			for range 2 + o.IntN(8) {
				o.annotate(r)
				out = append(out, writing{name, o.list([]any{r})})
			}
		}
		if o.IntN(3) == 0 {
			out = append(out, writing{name, ""})
		}
	}
	return out
}

func (o *odd) times(most int, one func() map[string]any) []any {
	var out []any
	for range 1 + o.IntN(most) {
		out = append(out, one())
	}
	return out
}

// list writes objects down; JSON is YAML.
func (o *odd) list(objects []any) string {
	var b strings.Builder
	for _, obj := range objects {
		text, err := json.Marshal(obj)
		if err != nil {
			o.t.Fatal(err)
		}
		b.Write(text)
		b.WriteString("\n---\n")
	}
	return b.String()
}

func pick[E any](o *odd, of ...E) E { return of[o.IntN(len(of))] }

// text is a text that somebody may think of.
func (o *odd) text() string {
	switch o.IntN(4) {
	case 0:
		return strings.Repeat(pick(o, "a", "é", "\x01", "%", "\\", " ", "9", "a.", "\u202e"), 1<<o.IntN(15))
	case 1:
		return pick(o, "", " ", "\n", "\x00", "0", "-1", "1us", "24d", "99999999999999999999", "1e9", "true", "%[env(HOME)]", "'\"\\#;$HOME %%", "a\r\nb: c", "<<\nshow info", "*", "::", "0.0.0.0/0", "{{.}}", "../../etc/passwd", "日本")
	default:
		var b strings.Builder
		for range o.IntN(40) {
			b.WriteRune(rune(pick(o, 32+o.IntN(95), o.IntN(32), o.IntN(0xd7ff))))
		}
		return b.String()
	}
}

// label is mostly a name that an object may have.
func (o *odd) label() string {
	if o.IntN(10) == 0 {
		return o.text()
	}
	return fmt.Sprintf("%s%d", pick(o, "odd", "web", "a", strings.Repeat("l", 40)), o.IntN(20))
}

func (o *odd) meta(name string) map[string]any {
	m := map[string]any{"name": name, "namespace": hostileNamespace}
	if o.IntN(3) > 0 {
		m["creationTimestamp"] = fmt.Sprintf("2026-0%d-01T00:00:00Z", 2+o.IntN(7)) // later than everybody else's
	}
	return m
}

func (o *odd) object(apiVersion, kind, name string) map[string]any {
	return map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": o.meta(name)}
}

// annotations that Routes have.
var oddAnnotations = []string{
	"timeout", "timeout-tunnel", "balance", "ip_allowlist", "ip_whitelist", "rewrite-target", "hsts_header", "disable_cookies", "rate-limit-connections",
	"rate-limit-connections.concurrent-tcp", "rate-limit-connections.rate-http", "rate-limit-connections.rate-tcp", "pod-concurrent-connections", "set-forwarded-headers",
	"router.openshift.io/cookie_name", "router.openshift.io/cookie-same-site", checkInterval, "tsuji.dev/nothing",
}

// annotate gives a Route an annotation more.
func (o *odd) annotate(route map[string]any) {
	m, _ := route["metadata"].(map[string]any)
	a, _ := m["annotations"].(map[string]any)
	if a == nil {
		a = map[string]any{}
		m["annotations"] = a
	}
	name := pick(o, oddAnnotations...)
	if !strings.Contains(name, "/") {
		name = "haproxy.router.openshift.io/" + name
	}
	a[name] = pick(o, o.text(), fmt.Sprint(o.IntN(1<<20)), fmt.Sprintf("%d%s", o.IntN(10000), pick(o, "us", "ms", "s", "m", "h", "d")),
		pick(o, "true", "false", "roundrobin", "leastconn", "source", "random", "append", "replace", "never", "if-none", "Lax", "Strict", "None"),
		"max-age="+fmt.Sprint(o.IntN(1<<30)), fmt.Sprintf("10.%d.0.0/%d 2001:db8::/%d", o.IntN(300), o.IntN(40), o.IntN(140)))
}

func (o *odd) host() string {
	return pick(o, o.label()+".hostile"+domain, o.label()+".hostile"+domain, fmt.Sprintf("v%d.victim%s", o.IntN(500), domain), "*.victim"+domain, "socket"+domain, "tunnel"+domain,
		domain[1:], strings.Repeat("h", 63)+domain, strings.ToUpper("odd.hostile"+domain), "odd.hostile"+domain+".", o.text(), "")
}

func (o *odd) route() map[string]any {
	r := o.object("route.openshift.io/v1", "Route", o.label())
	spec := map[string]any{"host": o.host(), "to": map[string]any{"kind": "Service", "name": pick(o, "web", "web", o.label()), "weight": pick(o, 100, 0, 256, -1, o.IntN(1000))}}
	if o.IntN(3) == 0 {
		spec["path"] = pick(o, "/", "/"+o.text(), o.text(), "/a/../b", "/"+strings.Repeat("p/", 1<<o.IntN(12)))
	}
	if o.IntN(4) == 0 {
		spec["port"] = map[string]any{"targetPort": pick[any](o, "web", 8080, 0, 70000, o.text())}
	}
	if o.IntN(6) == 0 {
		spec["wildcardPolicy"] = pick(o, "Subdomain", "None", o.text())
	}
	if o.IntN(5) == 0 {
		var more []any
		for range o.IntN(6) {
			more = append(more, map[string]any{"kind": "Service", "name": o.label(), "weight": o.IntN(300)})
		}
		spec["alternateBackends"] = more
	}
	if o.IntN(4) == 0 {
		action := func() any {
			return map[string]any{"name": pick(o, "X-Odd", "Host", "Cookie", "X-Forwarded-For", o.text()), "action": map[string]any{
				"type": pick(o, "Set", "Delete"), "set": map[string]any{"value": pick(o, o.text(), "%[req.hdr(host),lower]", "%[ssl_c_der,base64]", "%[req.body]")},
			}}
		}
		spec["httpHeaders"] = map[string]any{"actions": map[string]any{"request": []any{action()}, "response": []any{action()}}}
	}
	switch o.IntN(4) {
	case 0:
		spec["tls"] = map[string]any{"termination": pick(o, "edge", "passthrough", "reencrypt", o.text()), "insecureEdgeTerminationPolicy": pick(o, "Allow", "Redirect", "None", "")}
	case 1:
		spec["tls"] = map[string]any{"termination": "edge", "externalCertificate": map[string]any{"name": o.label()}}
	}
	r["spec"] = spec
	for range o.IntN(4) {
		o.annotate(r)
	}
	return r
}

// chain is a certificate with its key, and what goes with them, of some oddness.
func (o *odd) chain() (cert, key, ca string) {
	p := o.mint.named("odd.hostile" + domain)
	switch o.IntN(5) {
	case 0:
		p = o.mint.named(names(1+o.IntN(1<<o.IntN(11)), 20+o.IntN(150), "hostile"+domain)...)
	case 1:
		if name := o.text(); isASCII(name) {
			p = o.mint.named(name)
		}
	}
	cert, key = string(p.cert), string(p.key)
	further := func() string {
		switch o.IntN(6) {
		case 0:
			return string(mutated(o.t, o.Rand, o.mint.named("odd.hostile"+domain).cert))
		case 1:
			return pick(o, o.keys...)
		case 2:
			return string(o.mint.bulk(1 << o.IntN(18)))
		case 3:
			return string(pemOf(pick(o, "CERTIFICATE", "PRIVATE KEY", "X509 CRL", "DH PARAMETERS", "EC PARAMETERS", o.text()), []byte(o.text())))
		case 4:
			return string(o.mint.signedBy(1, 2, 840, 113549, 1, 1, o.IntN(20)))
		}
		return string(o.mint.named("odd.hostile" + domain).cert)
	}
	for range o.IntN(4) {
		cert += further()
	}
	if o.IntN(8) == 0 {
		cert = string(mutated(o.t, o.Rand, p.cert))
	}
	if o.IntN(10) == 0 {
		key = pick(o, o.text(), cert, key[:o.IntN(len(key))], string(o.mint.named("x").key))
	}
	if o.IntN(10) == 0 {
		cert = o.text() + cert
	}
	for range 1 + o.IntN(3) {
		ca += further()
	}
	return cert, key, ca
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > 127 })
}

// certified is a Route with a certificate of its own, or the Secret that has one.
func (o *odd) certified() map[string]any {
	cert, key, ca := o.chain()
	if o.IntN(4) == 0 {
		s := o.object("v1", "Secret", o.label())
		s["type"] = pick(o, "kubernetes.io/tls", "Opaque", o.text())
		s["stringData"] = map[string]any{"tls.crt": cert, "tls.key": key, "ca.crt": ca}
		return s
	}
	r := o.object("route.openshift.io/v1", "Route", o.label())
	tls := map[string]any{"termination": "edge", "insecureEdgeTerminationPolicy": "Allow", "certificate": cert, "key": key}
	switch o.IntN(3) {
	case 0:
		tls["caCertificate"] = ca
	case 1:
		tls["termination"], tls["destinationCACertificate"] = "reencrypt", ca
	}
	r["spec"] = map[string]any{"host": o.host(), "to": map[string]any{"kind": "Service", "name": "web"}, "tls": tls}
	return r
}

func (o *odd) endpoints() map[string]any {
	s := o.object("discovery.k8s.io/v1", "EndpointSlice", o.label())
	m, _ := s["metadata"].(map[string]any)
	m["labels"] = map[string]any{"kubernetes.io/service-name": pick(o, "web", "odd1", "odd2", o.label())}
	s["addressType"] = pick(o, "IPv4", "IPv4", "IPv6", "FQDN", o.text())
	s["ports"] = []any{map[string]any{"name": pick(o, "web", "", o.text()), "port": pick(o, 8080, 0, 65535, 70000, -1), "protocol": pick(o, "TCP", "UDP", "SCTP")}}
	address := func() string {
		return pick(o, fmt.Sprintf("10.110.%d.%d", o.IntN(256), o.IntN(256)), fmt.Sprintf("10.110.%d.%d", o.IntN(256), o.IntN(256)), fmt.Sprintf("fd00:64::%x", o.IntN(1<<16)),
			"0.0.0.0", "255.255.255.255", "224.0.0.1", "169.254.169.254", "::", "fe80::1", "::ffff:10.1.2.3", "example.com", o.text())
	}
	var all []any
	long := strings.Repeat("n", o.IntN(250))
	for i := range o.IntN(1 << o.IntN(11)) {
		e := map[string]any{"addresses": []any{address()}, "conditions": map[string]any{"ready": o.IntN(4) > 0, "serving": o.IntN(2) == 0, "terminating": o.IntN(4) == 0}}
		if o.IntN(3) == 0 {
			e["addresses"] = []any{address(), address(), address()}
		}
		if o.IntN(2) == 0 {
			e["targetRef"] = map[string]any{"kind": "Pod", "name": fmt.Sprint("p", i, long), "namespace": hostileNamespace}
			e["nodeName"], e["zone"] = "n"+long, pick(o, "tok04", "tok05", long)
		}
		all = append(all, e)
	}
	s["endpoints"] = all
	return s
}

// other is an object of another kind.
func (o *odd) other() map[string]any {
	switch o.IntN(4) {
	case 0:
		s := o.object("v1", "Service", pick(o, "odd1", "odd2", o.label()))
		s["spec"] = map[string]any{
			"type": pick(o, "ClusterIP", "ExternalName", o.text()), "externalName": o.text(), "clusterIP": pick(o, "None", "", o.text()),
			"ports": []any{map[string]any{"name": pick(o, "web", o.text()), "port": o.IntN(70000), "targetPort": pick[any](o, 8080, "web", o.text())}},
		}
		return s
	case 1:
		c := o.object("v1", "ConfigMap", o.label())
		c["data"] = map[string]any{o.label(): o.text(), "service-ca.crt": o.text()}
		return c
	case 2:
		n := o.object("v1", "Namespace", hostileNamespace)
		delete(n["metadata"].(map[string]any), "namespace")                                                             //nolint:errcheck // made so
		n["metadata"].(map[string]any)["labels"] = map[string]any{o.label(): o.label()}                                 //nolint:errcheck // made so
		n["metadata"].(map[string]any)["annotations"] = map[string]any{"haproxy.router.openshift.io/timeout": o.text()} //nolint:errcheck // made so
		return n
	}
	i := o.object("networking.k8s.io/v1", "Ingress", o.label())
	i["spec"] = map[string]any{
		"ingressClassName": pick(o, "openshift-default", "tsuji", o.label()), "tls": []any{map[string]any{"hosts": []any{o.host()}, "secretName": o.label()}},
		"rules": []any{map[string]any{"host": o.host(), "http": map[string]any{"paths": []any{map[string]any{
			"path": "/" + o.text(), "pathType": pick(o, "Prefix", "Exact", "ImplementationSpecific"),
			"backend": map[string]any{"service": map[string]any{"name": "web", "port": map[string]any{"number": 80}}},
		}}}}},
	}
	return i
}

// controller is an administrator's IngressController of other routers.
func (o *odd) controller() map[string]any {
	c := o.object("operator.openshift.io/v1", "IngressController", pick(o, "other", "third"))
	c["metadata"].(map[string]any)["namespace"] = "openshift-ingress-operator" //nolint:errcheck // made so
	c["spec"] = map[string]any{
		"domain": o.text(), "routeSelector": map[string]any{"matchLabels": map[string]any{o.label(): o.label()}},
		"defaultCertificate": map[string]any{"name": o.label()}, "httpErrorCodePages": map[string]any{"name": o.label()},
		"clientTLS":          map[string]any{"clientCertificatePolicy": pick(o, "Required", "Optional", ""), "clientCA": map[string]any{"name": o.label()}, "allowedSubjectPatterns": []any{o.text()}},
		"tuningOptions":      map[string]any{"headerBufferBytes": o.IntN(1 << 20), "maxConnections": o.IntN(3_000_000) - 1, "clientTimeout": o.text(), "threadCount": o.IntN(100)},
		"tlsSecurityProfile": map[string]any{"type": pick(o, "Old", "Intermediate", "Modern", "Custom"), "custom": map[string]any{"ciphers": []any{o.text()}, "minTLSVersion": pick(o, "VersionTLS13", o.text())}},
	}
	return c
}

// many are Routes in numbers.
func (o *odd) many() string {
	n := 1 << (4 + o.IntN(6))
	all := make([]any, n)
	like := o.route()
	host, spec := o.label(), like["spec"].(map[string]any) //nolint:errcheck // made so
	for i := range n {
		r := o.object("route.openshift.io/v1", "Route", fmt.Sprintf("many%d", i))
		r["metadata"].(map[string]any)["annotations"] = like["metadata"].(map[string]any)["annotations"] //nolint:errcheck // made so
		s := map[string]any{}
		for k, v := range spec {
			s[k] = v
		}
		s["host"] = fmt.Sprintf("m%d.%s.hostile%s", i, host, domain)
		r["spec"] = s
		all[i] = r
	}
	return o.list(all)
}
