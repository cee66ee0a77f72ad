package apply_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// Changes that follow each other faster than what they leave behind can drain, while a websocket is held open whose route
// comes and goes: none costs a reload or fails on its way, what waits for its last connection does not become more and more, and in
// the end HAProxy has what one has that was started from the files.
func TestRapid(t *testing.T) {
	binary := haproxytest.Binary(t)
	if !haproxytest.AtLeast(t, binary, 3, 4) {
		return // most of it is a reload there
	}
	a, b := endpoints("a", serve(t, "one")), endpoints("a", serve(t, "two"))
	cert, _ := certificate("a", false)
	renewed, _ := certificate("a", false)
	secure, ca, otherCA := reencrypted(t, "s")
	shared := edge("b")
	shared.GetRoute().Certificate = cert.GetName()
	many := make([]*tsujiv1.Endpoint, 500)
	for i := range many {
		many[i] = &tsujiv1.Endpoint{Address: fmt.Sprintf("127.1.%d.%d", i/250, i%250+1), Port: 8080, PortName: "http", Ready: true, Serving: true, TargetKind: "Pod", TargetName: fmt.Sprint("pod-", i)}
	}
	zero := route("a", service("a", 0), service("b", 1))
	type resources = []*tsujiv1.Resource
	for name, s := range map[string]struct {
		times int
		steps []resources
	}{
		"a route comes and goes":                   {100, []resources{{route("a"), a}, {a}}},
		"its endpoints come and go":                {100, []resources{{route("a"), a}, {route("a"), b}, {route("a")}}},
		"its termination changes":                  {60, []resources{{route("a"), a}, {edge("a"), a, cert}}},
		"its balance changes":                      {60, []resources{{route("a"), a}, {balanced(route("a"), tsujiv1.Balance_BALANCE_SOURCE), a}, {balanced(route("a"), tsujiv1.Balance_BALANCE_LEAST_CONNECTIONS), a}}},
		"a certificate is renewed, the route gone": {30, []resources{{edge("a"), a, cert}, {a, renewed}, {edge("a"), a, renewed}, {a, cert}}},
		"a certificate comes and goes":             {60, []resources{{edge("a"), a, cert}, {edge("a"), a}, {edge("a"), a, renewed}, {edge("a"), a}}},
		"two hosts with one certificate":           {30, []resources{{edge("a"), shared, a, cert}, {edge("a"), a, cert}, {shared, a, cert}, {edge("a"), shared, a, renewed}, {a}}},
		"a CA changes":                             {30, []resources{append(secure, ca), append(secure, otherCA)}},
		"weights become 0 and more":                {60, []resources{{route("a"), a}, {zero, a}, {route("a"), a}, {route("a", service("a", 256), service("b", 0)), a}}},
		"five hundred endpoints":                   {4, []resources{{route("a"), endpoints("a", many...)}, {route("a"), endpoints("a", many[:250]...)}, {route("a"), a}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, binary)
			r := w.router(options{})
			ws := endpoints("ws", serveEcho(t))
			r.put(s.steps[0]...)
			r.put(append(s.steps[0], route("ws"), ws)...)
			talk := w.websocket("ws.test")
			talk("hello")
			r.ReloadCosts(time.Hour)
			most := 0.0
			for i := range s.times {
				for _, step := range s.steps {
					var rest []*tsujiv1.Resource
					if i%2 == 0 {
						rest = []*tsujiv1.Resource{route("ws"), ws}
					}
					r.put(append(append([]*tsujiv1.Resource(nil), step...), rest...)...)
					most = max(most, r.leaving("backends"))
				}
			}
			last := r.put(s.steps[0]...)
			talk("still here")
			for _, why := range []string{"failure", "mend", "release", "cheaper"} {
				if n := testutil.ToFloat64(r.metrics.Reloads.WithLabelValues(why)); n != 0 {
					t.Errorf("%v reloads because of %s", n, why)
				}
			}
			if most > 8 {
				t.Errorf("%v backends were leaving at a time", most)
			}
			talk("")
			eventually(t, "what has left is deleted", func() bool { return r.leaving("servers")+r.leaving("backends")+r.leaving("certificates") == 0 })
			fresh := newWorld(t, binary)
			f := fresh.router(options{idle: true})
			must(t, f.Start(t.Context(), last))
			if d := cmp.Diff(fresh.state(false), w.state(false)); d != "" {
				t.Errorf("started (-) and changed at run time (+):\n%s", d)
			}
		})
	}
}
