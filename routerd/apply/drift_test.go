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
	for ended := false; !ended; {
		var err error
		ended, err = r.DriftTurn(t.Context())
		must(t, err)
	}
	if strings.Contains(w.ask("show ssl cert"), "ns_route_b") {
		t.Error("the certificate is back")
	}
	if n := testutil.ToFloat64(r.metrics.Repairs.WithLabelValues("certificate")); n != 0 {
		t.Errorf("%v repairs", n)
	}
}
