package test

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// misdeeds are what was found to harm others, each with what else was thought of.
func misdeeds() []misdeed {
	return []misdeed{
		{"A", "certificates that OpenSSL does not take", 0, oddChains, nil},
		{"B", "large EndpointSlices", 3, largeSlices, nil},
		{"C", "certificates beyond a buffer", 0, longNames, nil},
		{"D", "names with line breaks", 0, brokenNames, nil},
		{"E", "large chains that change", 1, largeChains, nil},
		{"F", "many paths of one host", 3, manyPaths, nil},
		{"H", "most of his Routes go", 3, manyGo, nil},
		{"I", "checks without a pause", 2, fastChecks, nil},
		{"L", "cookies said twice", 0, doubleCookies, nil},
		{"M", "a profile with every edit", 8, manyProfiles, nil},
		{"O", "files of every kind", 0, oddFiles, nil},
	}
}

// edge is an edge Route of the tenant's with a certificate, that lets plain HTTP in.
func (w *tenants) edge(name string, p pair, more ...string) string {
	spec := "tls:\n  termination: edge\n  insecureEdgeTerminationPolicy: Allow\n" + indent(pemField("certificate", p.cert)+pemField("key", p.key), "  ")
	for _, m := range more {
		spec += indent(m, "  ")
	}
	return w.route(name, "", spec)
}

// reencrypt is a Route of the tenant's that verifies its endpoints with CA certificates.
func (w *tenants) reencrypt(name string, ca []byte) string {
	return w.route(name, "", "tls:\n  termination: reencrypt\n"+indent(pemField("destinationCACertificate", ca), "  "))
}

func oddChains(w *tenants) []deed {
	m := newMint(w.t)
	keys := oddKeys(w.t)
	var out []deed
	add := func(what, manifest string) {
		name := fmt.Sprintf("odd%d", len(out))
		if strings.Contains(manifest, "reencrypt") { // which answers 503 if it does not trust the Pod
			name = "re-" + name
		}
		out = append(out, deed{what: what, do: func(w *tenants) { w.write(name, strings.ReplaceAll(manifest, "NAME", name)) }})
	}
	for _, what := range slices.Sorted(func(yield func(string) bool) {
		for k := range keys {
			if !yield(k) {
				return
			}
		}
	}) {
		odd := m.withKey(keys[what])
		good := m.named("odd.hostile" + domain)
		add("a further certificate with a key of "+what, w.edge("NAME", pair{slices.Concat(good.cert, odd), good.key}))
		switch what {
		case "DSA-1024", "an unknown algorithm", "X25519", "RSA-512", "secp112r1":
			add("a caCertificate with a key of "+what, w.edge("NAME", good, pemField("caCertificate", odd)))
			add("a destinationCACertificate with a key of "+what, w.reencrypt("NAME", slices.Concat(w.ca.CertPEM(), odd)))
			add("a leaf with a key of "+what, w.edge("NAME", pair{odd, good.key}))
		}
	}
	for what, cert := range map[string][]byte{
		"MD5": m.signedBy(1, 2, 840, 113549, 1, 1, 4), "MD2": m.signedBy(1, 2, 840, 113549, 1, 1, 2), "an unknown algorithm": m.signedBy(1, 2, 3, 4),
	} {
		good := m.named("odd.hostile" + domain)
		add("a further certificate signed by "+what, w.edge("NAME", pair{slices.Concat(good.cert, cert), good.key}))
	}
	good := m.named("odd.hostile" + domain)
	add("a key among the certificates", w.edge("NAME", pair{slices.Concat(good.cert, good.key), good.key}))
	add("a certificate among the key", w.edge("NAME", pair{good.cert, slices.Concat(good.key, good.cert)}))
	add("a revocation list among the certificates", w.edge("NAME", pair{slices.Concat(good.cert, pemOf("X509 CRL", []byte("no list"))), good.key}))
	return out
}

func longNames(w *tenants) []deed {
	m := newMint(w.t)
	at := "odd.hostile" + domain
	var out []deed
	add := func(what string, p pair) {
		name := fmt.Sprintf("odd%d", len(out))
		out = append(out, deed{what: what, do: func(w *tenants) { w.write(name, w.edge(name, p)) }})
	}
	add("1,200 names of 22 characters", m.named(names(1200, 22, "example.com")...))
	add("100 names of 200 characters", m.named(names(100, 200, at)...))
	add("600 names of 60 characters", m.named(names(600, 60, at)...))
	add("a common name of 10,000 characters", m.issue(func(c *x509.Certificate) { c.Subject.CommonName = strings.Repeat("c", 10_000) }))
	add("1,000 organizations", m.issue(func(c *x509.Certificate) { c.Subject.Organization = names(1000, 30, "o") }))
	p := m.named(at)
	many := slices.Clone(p.cert)
	for range 20 {
		many = append(many, m.named(names(100, 60, at)...).cert...)
	}
	add("a chain of twenty with a hundred names each", pair{many, p.key})
	ca := m.issue(func(c *x509.Certificate) { c.IsCA, c.DNSNames = true, names(1200, 22, "example.com") })
	out = append(out, deed{what: "a destination CA with 1,200 names", do: func(w *tenants) {
		w.write("long-ca", w.reencrypt("long-ca", slices.Concat(w.ca.CertPEM(), ca.cert)))
	}})
	return out
}

func brokenNames(w *tenants) []deed {
	m := newMint(w.t)
	var out []deed
	for _, name := range []string{"x\nSerial: 1", "a\n> b", "a\n\n> \nb", "\n\nfilename: other.pem", "\x00\x01\x1b[2J", "a\r\n\r\nStatus: Unused", "*.\n.example.com"} {
		for _, cn := range []bool{true, false} {
			p := m.issue(func(c *x509.Certificate) {
				if cn {
					c.Subject.CommonName = name
				} else {
					c.DNSNames = []string{name}
				}
			})
			at := fmt.Sprintf("odd%d", len(out))
			out = append(out, deed{what: fmt.Sprintf("%q, as a common name %t", name, cn), do: func(w *tenants) { w.write(at, w.edge(at, p)) }})
		}
	}
	ca := m.issue(func(c *x509.Certificate) { c.IsCA, c.Subject.CommonName = true, "x\nSHA1 FingerPrint: 00" })
	out = append(out, deed{what: "a destination CA's name", do: func(w *tenants) {
		w.write("broken-ca", w.reencrypt("broken-ca", slices.Concat(w.ca.CertPEM(), ca.cert)))
	}})
	return out
}

func largeChains(w *tenants) []deed {
	m := newMint(w.t)
	var out []deed
	for _, kilobytes := range []int{20, 79, 159, 400, 511, 700} {
		out = append(out, deed{what: fmt.Sprintf("%d kB, twice", kilobytes), do: func(w *tenants) {
			for range 2 {
				p := m.named("odd.hostile" + domain)
				chain := slices.Clone(p.cert)
				for len(chain) < kilobytes<<10 {
					chain = append(chain, m.bulk(min(20<<10, kilobytes<<10-len(chain)))...)
				}
				w.write("odd-chain", w.edge("odd-chain", pair{chain, p.key}))
				w.victimAdds(w.t, 1)
			}
		}})
	}
	return out
}

// slice is an EndpointSlice of the tenant's with so many endpoints of so many addresses, whose names have a length.
func largeSlice(service, name string, endpoints, addresses, length int, more string) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: %s, namespace: %s, labels: {kubernetes.io/service-name: %s}}\n", name, hostileNamespace, service)
	b.WriteString("addressType: IPv4\nports: [{name: web, port: 8080, protocol: TCP}]\nendpoints:\n")
	n := 0
	for e := range endpoints {
		b.WriteString("- {addresses: [")
		for range addresses {
			fmt.Fprintf(&b, "10.%d.%d.%d,", 101+n>>16, n>>8&255, n&255)
			n++
		}
		fmt.Fprintf(&b, "], conditions: {ready: true}, nodeName: n%s, targetRef: {kind: Pod, name: p%d%s, namespace: %s}%s}\n",
			strings.Repeat("o", max(0, length-1)), e, strings.Repeat("p", max(0, length-6)), hostileNamespace, more)
	}
	return b.String() + "---\n"
}

// largeService is a Service of the tenant's with a Route and slices.
func (w *tenants) largeService(name, annotation string, slices, endpoints, addresses, length int) string {
	text := fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: %s}\nspec: {ports: [{name: web, port: 80, targetPort: 8080}]}\n---\n", name, hostileNamespace)
	for i := range slices {
		text += largeSlice(name, fmt.Sprintf("%s-%d", name, i), endpoints, addresses, length, "")
	}
	return text + strings.Replace(w.route(name, annotation), "name: web}", "name: "+name+"}", 1)
}

func manyPaths(w *tenants) []deed {
	sizes := []int{500, 1000, 2000, 1000, 10}
	if long() {
		sizes = []int{5000, 10_000, 20_000, 5000, 10}
	}
	var out []deed
	for _, n := range sizes {
		out = append(out, deed{what: fmt.Sprint(n), do: func(w *tenants) {
			var b strings.Builder
			for i := range n {
				b.WriteString(strings.Replace(w.route(fmt.Sprintf("path%d", i), "", fmt.Sprintf("path: /p/%d", i)), fmt.Sprintf("host: path%d.", i), "host: path.", 1))
			}
			w.write("paths", b.String())
		}})
	}
	on := sizes[0]
	out = append(out, deed{what: fmt.Sprint("hosts, ", on, " that come and go"), do: func(w *tenants) {
		var b strings.Builder
		for i := range on {
			b.WriteString(w.route(fmt.Sprintf("host%d", i), ""))
		}
		for range 4 {
			w.write("paths", b.String())
			w.victimAdds(w.t, 1)
			w.write("paths", "")
			w.victimAdds(w.t, 1)
		}
	}})
	return append(out, deed{what: "each below the one before", do: func(w *tenants) {
		var b strings.Builder
		path := ""
		for i := range 300 {
			path += "/p"
			b.WriteString(strings.Replace(w.route(fmt.Sprintf("path%d", i), "", "path: "+path), fmt.Sprintf("host: path%d.", i), "host: path.", 1))
		}
		w.write("paths", b.String())
	}})
}

func manyGo(w *tenants) []deed {
	some := func(from, to int) func(w *tenants) {
		return func(w *tenants) {
			var b strings.Builder
			for i := from; i < to; i++ {
				b.WriteString(w.route(fmt.Sprintf("odd%d", i), ""))
			}
			w.write("many", b.String())
		}
	}
	both := func(a, b func(w *tenants)) func(w *tenants) {
		return func(w *tenants) {
			a(w)
			w.victimAdds(w.t, 1)
			b(w)
		}
	}
	out := []deed{
		{what: "58 of 60", do: both(some(0, 60), some(58, 60))},
		{what: "all of them", do: both(some(0, 60), some(0, 1))},
		{what: "all are others", do: both(some(0, 60), some(100, 160))},
		{what: "in two steps", do: both(both(some(0, 60), some(29, 60)), some(58, 60))},
		{what: "of 300 nearly all, and again", do: both(both(some(0, 300), some(0, 2)), both(some(0, 300), some(0, 1)))},
		{what: "all are refused", do: both(some(0, 60), func(w *tenants) {
			var b strings.Builder
			for i := range 60 {
				b.WriteString(w.route(fmt.Sprintf("odd%d", i), "", "tls: {termination: sideways}"))
			}
			w.write("many", b.String())
		})},
	}
	for i := range out { // what is gone is not served, though much else goes on
		do := out[i].do
		out[i].do = func(w *tenants) {
			do(w)
			w.victimAdds(w.t, 1)
			eventually(w.t, "what is gone is not served", func() error {
				v := w.verdicts(w.t)
				if v["odd7"].GetAdmitted() {
					return nil
				}
				if code, _, err := get(w.r.http, "odd7.hostile"+domain, "/"); err != nil || code == 200 {
					return fmt.Errorf("odd7 answers %d: %w", code, cmp.Or(err, errNotYet))
				}
				return nil
			})
		}
	}
	return out
}

const checkInterval = "router.openshift.io/haproxy.health.check.interval"

// fastChecks count the connections that checks make: an endpoint may be asked once a second, and once when it comes.
func fastChecks(w *tenants) []deed {
	const endpoints, port = 500, "8089"
	l, err := net.Listen("tcp4", "0.0.0.0:"+port)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = l.Close() })
	var checks atomic.Int64
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			checks.Add(1)
			_ = c.Close()
		}
	}()
	var out []deed
	for _, interval := range []string{"1us", "10us", "1ms", "999ms", "0s", "24d", "99999999999d", "-1s", "1"} {
		d := deed{what: interval, do: func(w *tenants) {
			before, began := checks.Load(), time.Now()
			w.write("checked", strings.ReplaceAll(w.largeService("checked", checkInterval+": "+interval, 1, endpoints, 1, 20), "8080", port))
			w.victimAdds(w.t, 5)
			if n, most := checks.Load()-before, 2*endpoints*(2+int64(time.Since(began)/time.Second)); n > most {
				w.t.Errorf("%d checks of %d endpoints in %v, want %d at most", n, endpoints, time.Since(began), most)
			}
		}}
		if strings.HasSuffix(interval, "us") {
			d.told = "is too often"
		}
		out = append(out, d)
	}
	return out
}

// manyChecks are more endpoints with checks than there are files for.
func manyChecks(w *tenants) []deed {
	many := func(services, endpoints int, annotation string) func(w *tenants) {
		return func(w *tenants) {
			var b strings.Builder
			for i := range services {
				b.WriteString(w.largeService(fmt.Sprintf("checked%d", i), annotation, 1, endpoints, 1, 20))
			}
			w.write("checked", b.String())
		}
	}
	return []deed{
		{what: "8 Routes of 1,000 endpoints", do: many(8, 1000, checkInterval+": 10s")},
		{what: "16 of 500", do: many(16, 500, checkInterval+": 10s")},
		{what: "4 of 1,000", do: many(4, 1000, checkInterval+": 10s")},
		{what: "8 of 1,000 without checks", do: many(8, 1000, "")},
		{what: "8 of 1,000 with connections bounded", do: many(8, 1000, `haproxy.router.openshift.io/pod-concurrent-connections: "100000"`)},
	}
}

func oddFiles(w *tenants) []deed {
	dir, ok := w.f.source.(*directory)
	if !ok {
		return nil
	}
	var out []deed
	add := func(what, told string, put func(at string) error) {
		name := fmt.Sprintf("odd-file-%d", len(out))
		w.t.Cleanup(func() { _ = os.RemoveAll(filepath.Join(dir.path, name)) })
		out = append(out, deed{what: what, told: told, do: func(w *tenants) {
			at := filepath.Join(dir.path, name)
			if err := os.Mkdir(at, 0o700); err != nil {
				w.t.Fatal(err)
			}
			if err := put(at); err != nil {
				w.t.Fatal(err)
			}
		}})
	}
	add("links that lead to links", "", func(at string) error {
		for i := range 40 {
			if err := os.Mkdir(filepath.Join(at, fmt.Sprint("d", i)), 0o700); err != nil {
				return err
			}
			for _, link := range []string{"a", "b"} {
				if err := os.Symlink(fmt.Sprint("../d", (i+1)%40), filepath.Join(at, fmt.Sprint("d", i), link)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	add("links that lead away", "leads out of the directory", func(at string) error { return os.Symlink("/etc", filepath.Join(at, "etc")) })
	add("a pipe that nobody writes to", "no ordinary file", func(at string) error { return unix.Mkfifo(filepath.Join(at, "p.yaml"), 0o600) })
	add("a file of 300 MiB", "larger than 256 MiB", func(at string) error {
		if err := os.WriteFile(filepath.Join(at, "l.yaml"), nil, 0o600); err != nil {
			return err
		}
		return os.Truncate(filepath.Join(at, "l.yaml"), 300<<20)
	})
	add("a name that a terminal obeys", `\x1b[2J\xff.yaml`, func(at string) error {
		return os.WriteFile(filepath.Join(at, "\x1b[2J\xff.yaml"), []byte("kind: ["), 0o600)
	})
	add("directories that are deep", "more than 32 directories deep", func(at string) error {
		return os.MkdirAll(filepath.Join(at, strings.Repeat("d/", 60)), 0o700)
	})
	add("a link to itself", "too many levels", func(at string) error { return os.Symlink("l.yaml", filepath.Join(at, "l.yaml")) })
	return out
}

// faults are what is wrong in the source.
func (w *tenants) faults(t *testing.T) []string {
	t.Helper()
	s, err := tsujiv1.NewStatusServiceClient(w.op).GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range s.GetFaults() {
		out = append(out, f.GetPlace()+": "+f.GetMessage())
	}
	return out
}
