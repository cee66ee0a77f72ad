package apply_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/types/known/durationpb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// However many servers one namespace wants to have checked, HAProxy starts with as many connections as before, needs no more
// file descriptors than there are, and goes on checking what others want.
func TestChecksFitTheDescriptors(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, binary string) {
		t.Parallel()
		w := newWorld(t, binary)
		const descriptors = 8192
		r := w.router(options{render: func(o *render.Options) { o.FileDescriptors = descriptors }})
		a := serve(t, "a")
		checked := func(namespace, name, service string) *tsujiv1.Resource {
			res := route(name)
			res.Name = tsujiv1.RouteName(namespace, name)
			res.GetRoute().Namespace = namespace
			res.GetRoute().HealthCheckInterval = durationpb.New(time.Hour)
			res.GetRoute().Backends = []*tsujiv1.BackendRef{{Endpoints: tsujiv1.EndpointsName("ns", service, "http"), Service: service, Weight: 1}}
			return res
		}
		resources := []*tsujiv1.Resource{checked("other", "victim", "victim"), endpoints("victim", a)}
		r.put(resources...)
		connections := w.info("Maxconn")
		many := []*tsujiv1.Endpoint{a}
		for i := range 999 {
			many = append(many, &tsujiv1.Endpoint{
				Address: fmt.Sprintf("127.1.%d.%d", i/250, i%250+1), Port: 9, PortName: "http", Ready: true, Serving: true, TargetKind: "Pod", TargetName: fmt.Sprint("pod-", i),
			})
		}
		resources = append(resources, endpoints("many", many...))
		for i := range 8 {
			resources = append(resources, checked("ns", fmt.Sprint("r", i), "many"))
		}
		s := r.put(resources...)

		fresh := newWorld(t, binary)
		again := fresh.router(options{render: func(o *render.Options) { o.FileDescriptors = descriptors }, idle: true})
		must(t, again.Start(t.Context(), s))
		if n := fresh.info("Maxsock"); n > descriptors {
			t.Errorf("HAProxy wants %d file descriptors, and has %d", n, descriptors)
		}
		if n := fresh.info("Maxconn"); n != connections || n < 3000 {
			t.Errorf("%d connections, and %d before", n, connections)
		}
		if fresh.get("victim.test") != "a" || w.get("victim.test") != "a" {
			t.Error("the victim is not served")
		}
		for state, want := range map[string]float64{"wanted": 8001, "in_force": 1} {
			if n := testutil.ToFloat64(again.metrics.Checks.WithLabelValues(state)); n != want {
				t.Errorf("%v checked servers are %s, want %v", n, state, want)
			}
		}
		for state, want := range map[string]float64{"wanted": 50_000, "in_force": float64(connections)} {
			if n := testutil.ToFloat64(again.metrics.Connections.WithLabelValues(state)); n != want {
				t.Errorf("%v connections are %s, want %v", n, state, want)
			}
		}
	})
}

// info returns a number of HAProxy's "show info".
func (w *world) info(name string) int {
	w.t.Helper()
	for line := range strings.Lines(w.ask("show info")) {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			n, err := strconv.Atoi(strings.TrimSpace(value))
			must(w.t, err)
			return n
		}
	}
	w.t.Fatalf("show info has no %s", name)
	return 0
}
