package apply_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// Whatever routes, options, endpoints and certificates come, change, go and come back, several at a time: HAProxy has, and
// answers, what one has and answers that was started from the files of the same snapshot. TSUJI_LONG=1 tries more.
func TestSameAsStarted(t *testing.T) {
	binary := haproxytest.Binary(t)
	sequences := 3
	if os.Getenv("TSUJI_LONG") != "" {
		sequences = 60
	}
	for seed := range sequences {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			if seed < 3 {
				t.Parallel()
			}
			c := newCluster(t, uint64(seed))
			w := newWorld(t, binary)
			r := w.router(options{})
			defer func() {
				if t.Failed() {
					t.Log(r.leaving("servers"), r.leaving("backends"), r.leaving("certificates"), "leaving;", w.backends())
				}
			}()
			r.put(c.resources()...)
			for range 4 {
				for range 6 {
					c.change()
					r.put(c.resources()...)
				}
				c.compare(r)
			}
			eventually(t, "what has left is deleted", func() bool {
				return !r.can.DynamicBackends || r.leaving("servers")+r.leaving("backends")+r.leaving("certificates") == 0
			})
			c.compare(r)
			for _, kind := range []string{"entry", "backend", "server", "certificate", "ca", "line", "frontend"} {
				if n := testutil.ToFloat64(r.metrics.Repairs.WithLabelValues(kind)); n != 0 {
					t.Errorf("%v repairs of kind %s", n, kind)
				}
			}
			for _, why := range []string{"failure", "mend", "release"} {
				if why == "release" && !r.can.DynamicBackends {
					continue
				}
				if n := testutil.ToFloat64(r.metrics.Reloads.WithLabelValues(why)); n != 0 {
					t.Errorf("%v reloads because of %s", n, why)
				}
			}
		})
	}
}

// cluster is a random set of resources that change.
type cluster struct {
	t      *testing.T
	random *rand.Rand
	plain  []*tsujiv1.Endpoint // servers of plain HTTP
	secure []*tsujiv1.Endpoint // of HTTP over TLS

	routes map[string]*tsujiv1.Resource
	pods   map[string]*tsujiv1.Resource
	certs  map[string]*tsujiv1.Resource
	spare  map[string][]*tsujiv1.Resource // certificates, by route
	cas    []*tsujiv1.Resource            // bundles; the first is the right one
	ca     int                            // the one that is in use
}

const clusterRoutes = 8

func newCluster(t *testing.T, seed uint64) *cluster {
	c := &cluster{
		t: t, random: rand.New(rand.NewPCG(seed, 7)),
		routes: map[string]*tsujiv1.Resource{}, pods: map[string]*tsujiv1.Resource{}, certs: map[string]*tsujiv1.Resource{}, spare: map[string][]*tsujiv1.Resource{},
	}
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "own", Value: "1"})
		w.Header().Set("X-Gone", "no")
		fmt.Fprintln(w, r.URL.Path, r.Header["Cookie"])
		for _, k := range slices.Sorted(maps.Keys(r.Header)) {
			if strings.HasPrefix(k, "X-") || k == "Forwarded" {
				fmt.Fprintln(w, k, r.Header[k])
			}
		}
	})
	right, err := authority.NewAuthority("right")
	must(t, err)
	wrong, err := authority.NewAuthority("wrong")
	must(t, err)
	for range 4 {
		c.plain = append(c.plain, serveHandler(t, answer))
		s := httptest.NewUnstartedServer(answer)
		startTLS(t, s, right, "secure")
		c.secure = append(c.secure, endpoint(t, s))
	}
	for _, a := range []*authority.Authority{right, wrong} {
		c.cas = append(c.cas, &tsujiv1.Resource{Name: tsujiv1.CertificateName("ns", tsujiv1.FromRoute, "ca"), Kind: &tsujiv1.Resource_Certificate{
			Certificate: &tsujiv1.Certificate{CaBundlePem: a.CertPEM()},
		}})
	}
	for i := range clusterRoutes {
		name := fmt.Sprint("r", i)
		for range 3 {
			cert, _ := certificate(name, false)
			c.spare[name] = append(c.spare[name], cert)
		}
	}
	c.movePods()
	return c
}

func (c *cluster) resources() []*tsujiv1.Resource {
	list := []*tsujiv1.Resource{c.cas[c.ca]}
	for _, m := range []map[string]*tsujiv1.Resource{c.routes, c.pods, c.certs} {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			list = append(list, m[k])
		}
	}
	return list
}

// one tells whether something happens that happens once in n times.
func (c *cluster) one(n int) bool { return c.random.IntN(n) == 0 }

// change changes one or several things.
func (c *cluster) change() {
	for range 1 + c.random.IntN(4) {
		name := fmt.Sprint("r", c.random.IntN(clusterRoutes))
		switch c.random.IntN(10) {
		case 0, 1:
			delete(c.routes, name)
		case 2, 3, 4, 5, 6:
			c.routes[name] = c.route(name)
		case 7:
			c.movePods()
		case 8:
			c.certs[name] = c.spare[name][c.random.IntN(3)]
			if c.one(4) {
				delete(c.certs, name)
			}
		case 9:
			c.ca = c.random.IntN(2)
		}
	}
}

func (c *cluster) movePods() {
	for _, service := range []string{"plain", "other", "secure"} {
		pool := c.plain
		if service == "secure" {
			pool = c.secure
		}
		var some []*tsujiv1.Endpoint
		for _, e := range pool {
			if c.one(2) {
				some = append(some, e)
			}
		}
		c.pods[service] = endpoints(service, some...)
	}
}

// route makes a route with random options.
func (c *cluster) route(name string) *tsujiv1.Resource {
	services := []*tsujiv1.BackendRef{service("plain", uint32(c.random.IntN(3))+1)}
	res := route(name, services...)
	r := res.GetRoute()
	if c.one(3) {
		r.Backends = append(r.GetBackends(), service("other", uint32(c.random.IntN(3))))
	}
	r.Termination = tsujiv1.Termination(1 + c.random.IntN(4))
	r.InsecurePolicy = tsujiv1.InsecurePolicy(1 + c.random.IntN(3))
	r.RedirectCode = 302
	if c.one(4) {
		r.Path = "/x"
	}
	if name == "r7" { // the other's host, with a certificate of its own
		r.Host, r.Path = "r6.test", "/x"
		if r.GetTermination() == tsujiv1.Termination_TERMINATION_PASSTHROUGH {
			r.Termination = tsujiv1.Termination_TERMINATION_EDGE
		}
	}
	switch r.GetTermination() {
	case tsujiv1.Termination_TERMINATION_PASSTHROUGH:
		r.Backends = []*tsujiv1.BackendRef{service("secure", 1)}
		r.Path = "/"
		if r.GetInsecurePolicy() == tsujiv1.InsecurePolicy_INSECURE_POLICY_ALLOW {
			r.InsecurePolicy = tsujiv1.InsecurePolicy_INSECURE_POLICY_NONE
		}
		if c.one(3) {
			r.RestrictSources, r.AllowedSources = true, []string{"127.0.0.0/8"}
		}
		return res
	case tsujiv1.Termination_TERMINATION_REENCRYPT:
		r.Backends = []*tsujiv1.BackendRef{service("secure", 1)}
		r.DestinationTls = &tsujiv1.DestinationTLS{}
		if c.one(2) {
			r.DestinationTls = &tsujiv1.DestinationTLS{Verify: true, Ca: c.cas[0].GetName(), VerifyServiceHost: true}
		}
	case tsujiv1.Termination_TERMINATION_INSECURE:
		r.InsecurePolicy = 0
	}
	if r.GetTermination() != tsujiv1.Termination_TERMINATION_INSECURE && c.one(2) {
		r.Certificate = tsujiv1.CertificateName("ns", tsujiv1.FromRoute, name)
		c.certs[name] = c.spare[name][c.random.IntN(3)]
	}
	r.Balance = tsujiv1.Balance(1 + c.random.IntN(4))
	if c.one(2) {
		r.Cookie = &tsujiv1.Cookie{Name: fmt.Sprint("cookie", c.random.IntN(2)), Secure: c.one(2)}
	}
	for _, option := range []func(){
		func() {
			r.Timeouts = &tsujiv1.RouteTimeouts{Server: durationpb.New(time.Duration(5+c.random.IntN(3)) * time.Second)}
		},
		func() {
			r.Timeouts = &tsujiv1.RouteTimeouts{Tunnel: durationpb.New(time.Duration(5+c.random.IntN(3)) * time.Second)}
		},
		func() { r.Hsts = fmt.Sprint("max-age=", c.random.IntN(3)) },
		func() { r.RestrictSources, r.AllowedSources = true, []string{"127.0.0.0/9", "::1"} },
		func() { r.RestrictSources, r.AllowedSources = true, []string{"10.1.2.3"} },
		func() { r.RateLimit = &tsujiv1.RateLimit{RequestsPer_10S: 1000, ConcurrentConnections: 500} },
		func() { r.Rewrite = &tsujiv1.PathRewrite{Target: fmt.Sprint("/new", c.random.IntN(2))} },
		func() { r.Forwarded = tsujiv1.ForwardedPolicy(1 + c.random.IntN(4)) },
		func() {
			r.RequestHeaders = []*tsujiv1.HeaderAction{header("X-Set", fmt.Sprint("a b;", c.random.IntN(2)))}
		},
		func() { r.ResponseHeaders = []*tsujiv1.HeaderAction{header("X-Gone", ""), header("X-Said", "so")} },
		func() { r.MaxConnectionsPerEndpoint = 100 },
	} {
		if c.one(6) {
			option()
		}
	}
	return res
}

// header sets a header, or with no value deletes it.
func header(name, value string) *tsujiv1.HeaderAction {
	h := &tsujiv1.HeaderAction{Name: name}
	if value != "" {
		h.Value = []*tsujiv1.HeaderValuePart{{Part: &tsujiv1.HeaderValuePart_Literal{Literal: value}}}
	}
	return h
}

// compare starts another HAProxy with what is in force, and compares what both have and answer.
func (c *cluster) compare(r *router) {
	c.t.Helper()
	s, _ := r.InForce()
	w := newWorld(c.t, r.w.binary)
	fresh := w.router(options{idle: true})
	must(c.t, fresh.Start(c.t.Context(), s))
	defer func() {
		fresh.die()
		fresh.process.Kill()
	}()
	leaving := r.leaving("servers")+r.leaving("backends")+r.leaving("certificates") > 0
	if d := cmp.Diff(w.state(leaving), r.w.state(leaving)); d != "" {
		c.t.Errorf("%s: started (-) and changed at run time (+):\n%s", s.Version().Short(), d)
	}
	for i := range clusterRoutes {
		host := fmt.Sprintf("r%d.test", i)
		if d := cmp.Diff(w.probe(host), r.w.probe(host)); d != "" {
			c.t.Errorf("%s: %s: started (-) and changed at run time (+):\n%s", s.Version().Short(), host, d)
		}
	}
	if c.t.Failed() {
		c.t.FailNow()
	}
}

var (
	successor  = regexp.MustCompile(`(be_[a-z_]+:[a-z0-9-]+:[a-z0-9.-]+):[0-9]+`)
	crtNumbers = regexp.MustCompile(`(?m)^(\S+):[0-9]+`)
)

// state is what HAProxy says that it has, as text by what was asked. With leaving, what is leaving is left out.
func (w *world) state(leaving bool) map[string][]string {
	w.t.Helper()
	state := map[string][]string{}
	lines := func(text string) []string {
		var list []string
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				list = append(list, line)
			}
		}
		return list
	}
	routed := map[string]bool{} // backends that a map names
	for _, line := range lines(w.ask("show map")) {
		_, file, _ := strings.Cut(line, "(")
		file, _, _ = strings.Cut(file, ")")
		if file == "maps/stamp.map" || file == "maps/suspects.map" || !strings.HasPrefix(file, "maps/") {
			continue
		}
		for _, e := range lines(w.ask("show map " + file)) {
			_, e, _ = strings.Cut(e, " ") // the reference
			_, value, _ := strings.Cut(e, " ")
			for name := range strings.SplitSeq(value, "|") {
				routed[name] = true
			}
			state[file] = append(state[file], successor.ReplaceAllString(e, "$1"))
		}
	}
	for _, name := range w.backends() {
		if !leaving || routed[name] {
			state["backends"] = append(state["backends"], successor.ReplaceAllString(name, "$1"))
		}
	}
	for _, line := range lines(w.ask("show servers state"))[1:] {
		f := strings.Fields(line)
		if strings.Count(f[1], ":") < 2 || leaving && (!routed[f[1]] || f[6] != "0") {
			continue // the program's own: one that knows passthrough goes on knowing it
		}
		// backend, name, name, id, address, state, weight, check, port
		state["servers"] = append(state["servers"], strings.Join([]string{successor.ReplaceAllString(f[1], "$1"), f[3], f[2], f[4], f[5], f[6], f[7], f[13], f[18]}, " "))
	}
	state["crt-list"] = lines(crtNumbers.ReplaceAllString(w.ask("show ssl crt-list -n crt-list.txt"), "$1"))
	for _, kind := range []string{"cert", "ca-file"} {
		for _, file := range lines(w.ask("show ssl " + kind)) {
			file, _, _ = strings.Cut(file, " ")
			if strings.HasPrefix(file, "*") || strings.HasPrefix(file, "@") {
				continue
			}
			text := w.ask("show ssl " + kind + " " + file)
			if leaving && strings.Contains(text, "Status: Unused") {
				continue
			}
			var prints []string
			for _, line := range lines(text) {
				if sum, ok := strings.CutPrefix(line, "SHA1 FingerPrint: "); ok {
					prints = append(prints, sum)
				}
			}
			slices.Sort(prints)
			if kind == "ca-file" && leaving {
				continue // one that a server which leaves still uses cannot be told from others
			}
			state[kind] = append(state[kind], fmt.Sprint(file, prints))
		}
	}
	for _, list := range state {
		slices.Sort(list)
	}
	return state
}

var variable = regexp.MustCompile(`=[0-9a-f]{32}`)

// probe asks for a host in several ways, and returns what came, without what differs each time.
func (w *world) probe(host string) []string {
	w.t.Helper()
	var got []string
	_, httpPort, _ := net.SplitHostPort(w.http)
	_, httpsPort, _ := net.SplitHostPort(w.https)
	same := strings.NewReplacer(httpPort, "PORT", httpsPort, "PORTS")
	for _, scheme := range []string{"http", "https"} {
		address := w.http
		if scheme == "https" {
			address = w.https
		}
		transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{ServerName: host, InsecureSkipVerify: true}}
		client := &http.Client{Transport: transport, Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		for _, path := range []string{"/", "/x/y"} {
			req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, scheme+"://"+address+path, nil)
			must(w.t, err)
			req.Host = host
			req.Header.Set("Forwarded", "for=1.2.3.4")
			req.Header.Set("Cookie", "a=b; cookie0=xyz; c=d")
			res, err := client.Do(req)
			if err != nil {
				got = append(got, scheme+path+" "+regexp.MustCompile(`.*: `).ReplaceAllString(err.Error(), ""))
				continue
			}
			body, err := io.ReadAll(res.Body)
			must(w.t, err)
			res.Body.Close()
			text := fmt.Sprintln(scheme, path, res.StatusCode, res.Header["Location"], res.Header["Strict-Transport-Security"], res.Header["Set-Cookie"], res.Header["X-Gone"], res.Header["X-Said"])
			text = variable.ReplaceAllString(same.Replace(text+string(body)), "=SERVER")
			if res.TLS != nil {
				text += fmt.Sprintln(res.TLS.PeerCertificates[0].SerialNumber)
			}
			got = append(got, text)
		}
	}
	return got
}
