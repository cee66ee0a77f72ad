package apply_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/types/known/durationpb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// Where a namespace's Routes come to ask for too many health checks, HAProxy makes them less often, 3.4 without a
// reload, and the metric tells.
func TestSlowedChecks(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, binary string) {
		t.Parallel()
		w := newWorld(t, binary)
		r := w.router(options{})
		list := []*tsujiv1.Endpoint{serve(t, "a")}
		for i := range 59 {
			list = append(list, &tsujiv1.Endpoint{
				Address: fmt.Sprintf("127.1.0.%d", i+1), Port: 9, PortName: "http", Ready: true, Serving: true,
				TargetKind: "Pod", TargetName: fmt.Sprint("pod-", i),
			})
		}
		often := route("a")
		often.GetRoute().HealthCheckInterval = durationpb.New(100 * time.Millisecond)
		r.put(often, endpoints("a", list[:51]...))
		before := r.reloads()
		for _, c := range []struct {
			endpoints int
			slowed    float64
		}{{51, 0}, {52, 52}, {60, 60}, {51, 0}} {
			r.put(often, endpoints("a", list[:c.endpoints]...))
			if n := testutil.ToFloat64(r.metrics.Checks.WithLabelValues("slowed")); n != c.slowed {
				t.Errorf("of %d endpoints %v are told to be checked less often, want %v", c.endpoints, n, c.slowed)
			}
			eventually(t, "checks leave the one that lives", func() bool { return w.get("a.test") == "a" })
		}
		if n := r.reloads() - before; n != 0 && haproxytest.AtLeast(t, binary, 3, 4) {
			t.Errorf("%v reloads", n)
		}
	})
}
