package apply_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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

// What somebody changes in HAProxy by hand is found, put right by commands, and counted: HAProxy has again what it had.
func TestDrift(t *testing.T) { haproxytest.Each(t, driftStory) }

func driftStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	one, two := serve(t, "one"), serve(t, "two")
	b := edge("b")
	b.GetRoute().Hsts = "max-age=5"
	b.GetRoute().RestrictSources, b.GetRoute().AllowedSources = true, []string{"127.0.0.1", "10.0.0.0/9"}
	b.GetRoute().RateLimit = &tsujiv1.RateLimit{RequestsPer_10S: 1000}
	b.GetRoute().RequestHeaders = []*tsujiv1.HeaderAction{header("X-Set", "a")}
	b.GetRoute().ResponseHeaders = []*tsujiv1.HeaderAction{header("X-Said", "b"), header("X-Gone", "")}
	checked, elsewhere := serve(t, "checked"), serve(t, "moved")
	often := route("often")
	often.GetRoute().HealthCheckInterval = durationpb.New(100 * time.Millisecond)
	redirected := edge("c")
	redirected.GetRoute().InsecurePolicy = tsujiv1.InsecurePolicy_INSECURE_POLICY_REDIRECT
	redirected.GetRoute().Certificate = ""
	certB, serialB := certificate("b", false)
	ca, err := authority.NewAuthority("ca")
	must(t, err)
	secure := route("s")
	secure.GetRoute().Termination = tsujiv1.Termination_TERMINATION_REENCRYPT
	bundle := &tsujiv1.Resource{Name: tsujiv1.CertificateName("ns", tsujiv1.FromRoute, "ca"), Kind: &tsujiv1.Resource_Certificate{
		Certificate: &tsujiv1.Certificate{CaBundlePem: ca.CertPEM()},
	}}
	secure.GetRoute().DestinationTls = &tsujiv1.DestinationTLS{Verify: true, Ca: bundle.GetName()}
	r.put(balanced(route("a"), tsujiv1.Balance_BALANCE_ROUND_ROBIN), endpoints("a", one, two), b, certB, endpoints("b", serve(t, "b")), redirected, endpoints("c", serve(t, "c")), secure, bundle, endpoints("s", serve(t, "s")),
		route("moved"), endpoints("moved", elsewhere), often, endpoints("often", checked, serve(t, "checked")))
	eventually(t, "what was there before is gone", func() bool { return r.leaving("servers")+r.leaving("backends")+r.leaving("certificates") == 0 })

	server := fmt.Sprintf("be_http:ns:a/pod:%s:a:http:%s:%d", one.GetTargetName(), one.GetAddress(), one.GetPort())
	find := func(list, part string) string {
		for line := range strings.Lines(w.ask(list)) {
			if name, _, _ := strings.Cut(strings.TrimSpace(line), " "); strings.Contains(name, part) {
				return name
			}
		}
		t.Fatalf("%s: no %s: %s", list, part, w.ask(list))
		return ""
	}
	certFile, caFile := find("show ssl cert", "certs/ns"), find("show ssl ca-file", "ca/")
	chain, key, _ := issue("b.test")
	otherPair := string(chain) + string(bytes.TrimSpace(key))
	otherCA, err := authority.NewAuthority("other")
	must(t, err)
	config, err := os.ReadFile(filepath.Join(w.dir, "haproxy.cfg"))
	must(t, err)
	profile := string(regexp.MustCompile(`(?m)^backend be_http:ns:a from (\S+)`).FindSubmatch(config)[1])
	allow := regexp.MustCompile(`(be_edge_http:ns:b\|\S+) 1`).FindStringSubmatch(w.ask("show map maps/allow.map"))[1]
	unpublish := []string{"unpublish backend be_http:ns:a"}
	remove := append(slices.Clone(unpublish),
		"set server "+server+" state maint", "wait 2s srv-removable "+server, "del server "+server,
		"set server "+strings.ReplaceAll(server, fmt.Sprint(one.GetPort()), fmt.Sprint(two.GetPort()))+" state maint",
		"wait 2s srv-removable "+strings.ReplaceAll(server, fmt.Sprint(one.GetPort()), fmt.Sprint(two.GetPort())),
		"del server "+strings.ReplaceAll(server, fmt.Sprint(one.GetPort()), fmt.Sprint(two.GetPort())),
		"wait 2s be-removable be_http:ns:a", "del backend be_http:ns:a")
	state := func() map[string][]string {
		s := w.state(false)
		for i, line := range s["servers"] { // a check that is in progress is one that is enabled
			f := strings.Fields(line)
			check, err := strconv.Atoi(f[len(f)-2])
			must(t, err)
			f[len(f)-2] = strconv.Itoa(check &^ 1)
			s["servers"][i] = strings.Join(f, " ")
		}
		return s
	}
	before, diff := state(), ""
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(diff)
		}
	})
	for _, s := range []struct {
		kind     string
		least    int // minor of HAProxy 3 that the commands need
		commands []string
		reload   bool // where backends are not added at run time
	}{
		// Maps.
		{"entry", -1, []string{"del map maps/http.map a.test/"}, false},
		{"entry", -1, []string{"set map maps/http.map a.test/ be_http:ns:s"}, false},
		{"entry", -1, []string{"set map maps/http.map c.test/ none"}, false},
		{"entry", -1, []string{"clear map maps/https.map"}, false},
		{"entry", -1, []string{"add map maps/http.map more.test/ be_http:ns:a"}, false},
		{"entry", -1, []string{"add map maps/http.map a.test/ none"}, false},
		{"entry", -1, []string{"add map maps/http.map a.test/ none", "del map maps/http.map b.test/"}, false},
		{"entry", -1, []string{"add map maps/http_wildcard.map test/ be_http:ns:a|none"}, false},
		{"entry", -1, []string{"del map maps/options.map be_edge_http:ns:b"}, false},
		{"entry", -1, []string{"set map maps/hsts.map be_edge_http:ns:b max-age=6"}, false},
		{"entry", -1, []string{"del map maps/allow.map " + allow}, false},
		{"entry", -1, []string{"add map maps/allow.map be_edge_http:ns:b| 1"}, false},
		{"entry", -1, []string{"set map maps/limits.map be_edge_http:ns:b 1|1|1"}, false},
		{"entry", 4, []string{"set map maps/request_set.map be_edge_http:ns:b AAA="}, false},
		{"entry", 4, []string{"del map maps/response_set.map be_edge_http:ns:b"}, false},
		{"entry", 4, []string{"clear map maps/response_del.map"}, false},
		{"entry", -1, []string{"set map maps/ready.map ready 0"}, false},
		{"entry", -1, []string{"add map maps/stamp.map be:be_http:ns:a be_http:ns:a:2"}, false},

		// Servers.
		{"server", -1, []string{"set server " + server + " state maint"}, false},
		{"server", -1, []string{"set server " + server + " state drain"}, false},
		{"server", -1, []string{"set server " + server + " weight 7"}, false},
		{"server", -1, []string{"disable health " + fmt.Sprintf("be_http:ns:often/pod:%s:often:http:%s:%d", checked.GetTargetName(), checked.GetAddress(), checked.GetPort())}, false},
		{"server", -1, []string{"set server " + server + " health down"}, false},
		{"server", 0, []string{"set server " + server + " state maint", "del server " + server}, false},
		{"server", 0, []string{"add server be_http:ns:a/more 127.0.0.1:1", "enable server be_http:ns:a/more"}, false},
		{"server or backend", -1, []string{fmt.Sprintf("set server be_http:ns:moved/pod:%s:moved:http:%s:%d addr 127.0.0.1 port 1", elsewhere.GetTargetName(), elsewhere.GetAddress(), elsewhere.GetPort())}, false},

		// Backends.
		{"backend", 4, unpublish, false},
		{"backend", 4, remove, false},
		{"backend", 4, append(slices.Clone(remove), "del map maps/http.map a.test/"), false},
		{"backend", 4, []string{"add backend be_http:ns:nobody from " + profile, "publish backend be_http:ns:nobody"}, false},
		{"frontend", -1, []string{"disable frontend public"}, false},

		// TLS.
		{"certificate", -1, []string{"set ssl cert " + certFile + " <<\n" + otherPair + "\n", "commit ssl cert " + certFile}, false},
		{"certificate", -1, []string{"set ssl cert certs/_default.pem <<\n" + otherPair + "\n", "commit ssl cert certs/_default.pem"}, false},
		{"certificate", -1, []string{"del ssl crt-list crt-list.txt " + certFile, "del ssl cert " + certFile}, false},
		{"certificate", -1, []string{"new ssl cert certs/more.pem", "set ssl cert certs/more.pem <<\n" + otherPair + "\n", "commit ssl cert certs/more.pem"}, false},
		{"line", -1, []string{"del ssl crt-list crt-list.txt " + certFile}, false},
		{"line", -1, []string{"add ssl crt-list crt-list.txt <<\ncerts/_default.pem more.test\n"}, false},
		{"line", -1, []string{"del ssl crt-list crt-list.txt " + certFile, "add ssl crt-list crt-list.txt <<\n" + certFile + " [alpn h2] b.test\n"}, false},
		{"ca", -1, []string{"set ssl ca-file " + caFile + " <<\n" + strings.TrimSpace(string(otherCA.CertPEM())) + "\n", "commit ssl ca-file " + caFile}, true},
	} {
		if !haproxytest.AtLeast(t, binary, 3, s.least) && s.least >= 0 {
			continue
		}
		what := strings.Join(s.commands, "; ")
		if len(what) > 200 {
			what = what[:200]
		}
		t.Logf("by hand: %s", what)
		repairs := func() (n float64) {
			for kind := range strings.SplitSeq(s.kind, " or ") {
				n += testutil.ToFloat64(r.metrics.Repairs.WithLabelValues(kind))
			}
			return n
		}
		was, reloads := repairs(), r.reloads()
		for _, c := range s.commands {
			w.ask(c)
		}
		if s.reload && !r.can.DynamicBackends {
			eventually(t, what+" is undone by a reload", func() bool { r.HurryDrift(); return r.reloads() == reloads+1 })
			if repairs() == was {
				t.Errorf("%s is not counted", what)
			}
			continue
		}
		eventually(t, what+" is counted", func() bool { r.HurryDrift(); return repairs() > was })
		eventually(t, what+" is put right", func() bool {
			diff = cmp.Diff(before, state())
			return diff == "" || r.reloads() != reloads
		})
		if got := w.count("a.test", 10); got["one"]+got["two"] != 10 || got["one"] == 0 {
			t.Errorf("%s: %v", what, got)
		}
		if got := w.get("moved.test"); got != "moved" {
			t.Errorf("%s: %s", what, got)
		}
		if s := w.certificate("b.test"); s != serialB {
			t.Errorf("%s: certificate %s", what, s)
		}
		if n := r.reloads() - reloads; n != 0 {
			t.Fatalf("%s: %v reloads", what, n)
		}
	}
}

// What leaves while a round is under way is not brought back by it.
func TestDriftAndChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, haproxytest.Binary(t))
	r := w.router(options{idle: true})
	cert, _ := certificate("b", false)
	ends := endpoints("b", serve(t, "b"))
	r.put(edge("b"), cert, ends, route("a"))
	r.BeginDrift()
	r.put(cert, ends, route("a")) // the Secret stays
	w.ask("del ssl cert certs/ns_route_b.pem")
	r.driftRounds(1)
	if strings.Contains(w.ask("show ssl cert"), "ns_route_b") {
		t.Error("the certificate is back")
	}
	if n := testutil.ToFloat64(r.metrics.Repairs.WithLabelValues("certificate")); n != 0 {
		t.Errorf("%v repairs", n)
	}
}

// Backends that were closed when the proxies were listed, and are open when that is looked at, are no reason to reload: so it
// is when many Routes go and come back. Many that are closed still are one.
func TestClosedMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, haproxytest.Binary(t))
	r := w.router(options{idle: true})
	r.ReloadCosts(time.Hour)
	var resources []*tsujiv1.Resource
	for i := range 40 {
		resources = append(resources, route(fmt.Sprint("r", i), service("s", 1)))
	}
	r.put(append(resources, endpoints("s", serve(t, "s")))...)
	all := func(command string) {
		for i := range 40 {
			w.ask(fmt.Sprint(command, " backend be_http:ns:r", i))
		}
	}
	all("unpublish")
	r.driftRounds(1)
	all("publish")
	r.driftRounds(1)
	if n := testutil.ToFloat64(r.metrics.Repairs.WithLabelValues("frontend")) + testutil.ToFloat64(r.metrics.Repairs.WithLabelValues("backend")); n != 0 {
		t.Errorf("%v repairs of what is open", n)
	}
	all("unpublish")
	r.driftRounds(1)
	if _, err := r.DriftTurn(t.Context()); err == nil || !strings.Contains(err.Error(), "reload") {
		t.Errorf("all are closed: %v", err)
	}
}

// Nothing differs where nobody has changed anything: whatever is in names, paths and values, after a start and after
// changes.
func TestNoDrift(t *testing.T) { haproxytest.Each(t, noDriftStory) }

func noDriftStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{idle: true})
	r.ReloadCosts(time.Hour)
	long := strings.Repeat("a.b-", 60) + "z" // 241 characters
	var resources []*tsujiv1.Resource
	add := func(name string, change func(*tsujiv1.Route)) {
		e := edge(name)
		e.GetRoute().Host = fmt.Sprintf("h%d.test", len(resources))
		change(e.GetRoute())
		cert, _ := certificate(name, false)
		ends := endpoints("s", serve(t, "s"), serve(t, "s"))
		ends.GetEndpoints().Service = name
		ends.Name = tsujiv1.EndpointsName("ns", name, "http")
		resources = append(resources, e, cert, ends)
	}
	add("plain", func(*tsujiv1.Route) {})
	add("path", func(r *tsujiv1.Route) { r.Path = `/a;b\c"d',e=f|g%20(h)[i]{j}~!$&*+@:<>^` })
	add("slash", func(r *tsujiv1.Route) { r.Path = "/a//b/" })
	add("quote", func(r *tsujiv1.Route) { r.Path = `/",value="x",type="str"` })
	add("wild", func(r *tsujiv1.Route) { r.Wildcard, r.Host = true, "w.wild.test" })
	add("unknown", func(r *tsujiv1.Route) { r.Backends = nil })
	add("zero", func(r *tsujiv1.Route) { r.Backends[0].Weight = 0 })
	add(long, func(r *tsujiv1.Route) {
		r.Host = "long.test"
		r.Backends = []*tsujiv1.BackendRef{service("plain", 1)}
		r.Cookie = &tsujiv1.Cookie{Name: "c_-9", Secure: true, SameSite: "None"}
		r.Hsts = "max-age=1;includeSubDomains;preload"
		r.Rewrite = &tsujiv1.PathRewrite{Target: `/x;y\z"`}
		r.Timeouts = &tsujiv1.RouteTimeouts{Server: durationpb.New(time.Second), Tunnel: durationpb.New(time.Hour)}
		r.RequestHeaders = []*tsujiv1.HeaderAction{header("X-Set", strings.Repeat(`a "b; c\`, 60))}
	})
	clean := func(when string) {
		t.Helper()
		r.driftRounds(2)
		for _, kind := range []string{"entry", "backend", "server", "certificate", "ca", "line", "frontend"} {
			if n := testutil.ToFloat64(r.metrics.Repairs.WithLabelValues(kind)); n != 0 {
				t.Errorf("%s: %v repairs of kind %s", when, n, kind)
			}
		}
	}
	bring := func(list ...*tsujiv1.Resource) {
		t.Helper()
		next := w.snapshot(list...)
		if refusal := r.try(next); refusal != nil {
			t.Fatal(refusal)
		}
	}
	bring(resources[:3]...)
	clean("one route")
	bring(resources...)
	clean("all of them, by commands where that can be")
	bring(resources[3:]...)
	bring(resources...)
	clean("one went and came back")
	must(t, r.Ready(t.Context(), false))
	clean("not ready")
}

// A server that was moved by hand, and used there, gets no request any more on the connections that it had there.
func TestMovedServer(t *testing.T) { haproxytest.Each(t, movedServerStory) }

func movedServerStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	right, wrong := serve(t, "right"), serve(t, "wrong")
	r.put(route("a"), endpoints("a", right))
	repairs := func() float64 {
		return testutil.ToFloat64(r.metrics.Repairs.WithLabelValues("server")) + testutil.ToFloat64(r.metrics.Repairs.WithLabelValues("backend"))
	}
	for range 3 {
		was := repairs()
		name := w.backends()
		w.ask(fmt.Sprintf("set server %s/pod:%s:a:http:%s:%d addr 127.0.0.1 port %d", name[len(name)-1], right.GetTargetName(), right.GetAddress(), right.GetPort(), wrong.GetPort()))
		for range 20 {
			w.get("a.test")
		}
		eventually(t, "it is moved back", func() bool { r.HurryDrift(); return repairs() > was })
		eventually(t, "what had it before is deleted", func() bool { return r.leaving("backends") == 0 })
		if got := w.count("a.test", 50); got["right"] != 50 {
			t.Errorf("then: %v", got)
		}
	}
}

// A server that is suspended stays so when something is swept away that somebody has left in HAProxy.
func TestSweepLeavesSuspended(t *testing.T) {
	t.Parallel()
	w := newWorld(t, haproxytest.Binary(t))
	r := w.router(options{})
	one, two := serve(t, "one"), serve(t, "two")
	chain, key, _ := issue("more.test")
	r.put(balanced(route("a"), tsujiv1.Balance_BALANCE_ROUND_ROBIN), endpoints("a", one, two))
	must(t, r.Suspend(t.Context(), "be_http:ns:a", fmt.Sprintf("pod:%s:a:http:%s:%d", one.GetTargetName(), one.GetAddress(), one.GetPort())))
	w.ask("new ssl cert certs/more.pem")
	w.ask("set ssl cert certs/more.pem <<\n" + string(chain) + string(bytes.TrimSpace(key)) + "\n")
	w.ask("commit ssl cert certs/more.pem")
	eventually(t, "it is gone", func() bool {
		r.HurryDrift()
		return !strings.Contains(w.ask("show ssl cert"), "certs/more.pem")
	})
	if got := w.count("a.test", 10); got["two"] != 10 {
		t.Errorf("%v", got)
	}
	if n := testutil.ToFloat64(r.metrics.Repairs.WithLabelValues("server")); n != 0 {
		t.Errorf("%v servers repaired", n)
	}
}

// driftRounds has the check for drift go round so often.
func (r *router) driftRounds(n int) {
	r.w.t.Helper()
	for n > 0 {
		ended, err := r.DriftTurn(r.w.t.Context())
		must(r.w.t, err)
		if ended {
			n--
		}
	}
}
