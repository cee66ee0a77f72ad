package apply_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// What somebody changes in HAProxy by hand is found and put right: without a reload where it belongs to a backend.
func TestDrift(t *testing.T) { haproxytest.Each(t, driftStory) }

func driftStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	one, two := serve(t, "one"), serve(t, "two")
	ends := endpoints("a", one, two)
	hsts := edge("b")
	hsts.GetRoute().Hsts = "max-age=5"
	cert, _ := certificate("b", false)
	a := balanced(route("a"), tsujiv1.Balance_BALANCE_ROUND_ROBIN) // so that ten requests see both
	r.put(a, ends, hsts, cert, endpoints("b", serve(t, "b")))
	server := fmt.Sprintf("be_http:ns:a/pod:%s:a:http:%s:%d", one.GetTargetName(), one.GetAddress(), one.GetPort())
	mended := func() float64 { return testutil.ToFloat64(r.metrics.Applies.WithLabelValues("reload", "ok")) }
	for _, s := range []struct {
		kind, command string
		backends      bool // needs HAProxy to add backends, else there is a reload
	}{
		{"entry", "del map maps/http.map a.test/", false},
		{"entry", "set map maps/http.map a.test/ be_http:ns:b", false},
		{"entry", "del map maps/options.map be_edge_http:ns:b", false},
		{"server", "set server " + server + " state maint", false},
		{"server", "set server " + server + " state drain", false},
		{"server", "set server " + server + " weight 7", false},
		{"backend", "set server " + server + " addr 127.0.0.1 port 1", true},
	} {
		repairs, reloads, mends := r.metrics.Repairs.WithLabelValues(s.kind), r.reloads(), mended()
		before := testutil.ToFloat64(repairs)
		if answer := w.ask(s.command); answer != "" && s.kind != "backend" {
			t.Errorf("%s: %s", s.command, answer)
		}
		if s.backends && !r.can.DynamicBackends {
			eventually(t, s.command+" is undone by a reload", func() bool { return mended() == mends+1 })
			continue
		}
		eventually(t, s.command+" is put right", func() bool { return testutil.ToFloat64(repairs) == before+1 })
		if got := w.count("a.test", 10); got["one"]+got["two"] != 10 || got["one"] == 0 {
			t.Errorf("%s: %v", s.command, got)
		}
		if n := r.reloads() - reloads; n != 0 {
			t.Errorf("%s: %v reloads", s.command, n)
		}
	}
	if r.can.DynamicBackends {
		config, err := os.ReadFile(filepath.Join(w.dir, "haproxy.cfg"))
		must(t, err)
		profile := regexp.MustCompile(`(?m)^backend be_http:ns:a from (\S+)`).FindSubmatch(config)[1]
		w.ask("add backend be_http:ns:nobody from " + string(profile))
		eventually(t, "a backend that no route has is deleted", func() bool {
			return !slices.Contains(w.backends(), "be_http:ns:nobody") && len(w.backends()) == 2
		})
	}
	mends := mended()
	w.ask("add map maps/http.map more.test/ be_http:ns:a")
	eventually(t, "an entry that belongs to no backend is undone by a reload", func() bool { return mended() == mends+1 })
	eventually(t, "and gone", func() bool { s, err := w.tryGet("more.test"); return err == nil && s == "503" })
	if got := w.get("a.test"); got != "one" && got != "two" {
		t.Errorf("in the end: %s", got)
	}
}
