package apply_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// Routes that all go and come back at once, by commands, while the janitor and the check for drift are at work, never look
// like drift: nothing is repaired, and nothing reloaded. TSUJI_LONG=1 does it with 5,000.
func TestManyComeAndGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, haproxytest.Binary(t))
	n := 1000
	if os.Getenv("TSUJI_LONG") != "" {
		n = 5000
	}
	r := w.router(options{})
	chain, key, _ := issue("any.test")
	ends := endpoints("s", serve(t, "s"), serve(t, "s"))
	stay := []*tsujiv1.Resource{route("stays"), endpoints("stays", serve(t, "stays")), ends}
	resources := stay
	for i := range n {
		e := edge(fmt.Sprint("r", i))
		e.GetRoute().Backends = []*tsujiv1.BackendRef{service("s", 1)}
		e.GetRoute().Hsts = "max-age=5"
		resources = append(resources, e, &tsujiv1.Resource{Name: e.GetRoute().GetCertificate(), Kind: &tsujiv1.Resource_Certificate{
			Certificate: &tsujiv1.Certificate{ChainPem: chain, PrivateKey: &tsujiv1.PrivateKey{Pem: key}},
		}})
	}
	clean := func(when string) {
		t.Helper()
		for _, kind := range []string{"entry", "backend", "server", "certificate", "ca", "line", "frontend"} {
			if n := testutil.ToFloat64(r.metrics.Repairs.WithLabelValues(kind)) + testutil.ToFloat64(r.metrics.Unrepaired.WithLabelValues(kind)); n != 0 {
				t.Fatalf("%s: %v repairs of kind %s", when, n, kind)
			}
		}
		if n := r.reloads(); n != 0 {
			t.Fatalf("%s: %v reloads", when, n)
		}
	}
	r.put(stay...)
	for round := range 3 {
		r.ReloadCosts(time.Hour)
		r.put(resources...)
		r.HurryDrift()
		if round == 1 { // in the middle of a round, and of the janitor's work
			eventually(t, "the janitor has begun", func() bool { r.HurryDrift(); return r.leaving("backends") < float64(n) })
		} else {
			r.driftRounds(1)
		}
		clean(fmt.Sprint("they are there, round ", round))
		r.put(stay...)
		r.HurryDrift()
		clean(fmt.Sprint("they have gone, round ", round))
	}
	eventually(t, "nothing is left", func() bool {
		r.TryDeletions(t.Context())
		return r.leaving("backends")+r.leaving("certificates") == 0
	})
	r.driftRounds(1)
	clean("in the end")
	if got := w.get("stays.test"); got != "stays" {
		t.Error(got)
	}
}
