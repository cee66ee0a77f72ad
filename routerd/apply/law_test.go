package apply_test

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// Whatever endpoints came and went at run time, HAProxy has in the end what it has when it starts from the
// files.
func TestSameAfterRestart(t *testing.T) { haproxytest.Each(t, sameAfterRestartStory) }

func sameAfterRestartStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	r := w.router(options{})
	var pool []*tsujiv1.Endpoint
	for range 6 {
		pool = append(pool, serve(t, "x"))
	}
	random := rand.New(rand.NewPCG(1, 2))
	routes := []*tsujiv1.Resource{route("a", service("a", 10), service("b", 3)), route("b"), route("c", service("c", 1), service("a", 200))}
	change := func() []*tsujiv1.Resource {
		list := routes
		for _, name := range []string{"a", "b", "c"} {
			var some []*tsujiv1.Endpoint
			for _, e := range pool {
				if random.IntN(3) == 0 {
					some = append(some, e)
				}
			}
			list = append(list, endpoints(name, some...))
		}
		return list
	}
	r.put(change()...)
	for range 50 {
		r.put(change()...)
	}
	if n := r.reloads(); n != 0 && r.can.DynamicServers {
		t.Errorf("%v reloads", n)
	}
	state := func() map[string]haproxy.ServerState {
		rt, err := r.process.Connect(t.Context())
		must(t, err)
		defer rt.Close()
		all, err := rt.ServersState(t.Context())
		must(t, err)
		m := map[string]haproxy.ServerState{}
		for _, s := range all {
			if s.State() != haproxy.Maint {
				m[s.Backend+"/"+s.Name] = s
			}
		}
		return m
	}
	atRunTime, before := state(), r.pids()
	r.process.Kill()
	eventually(t, "HAProxy is back", func() bool {
		p, err := r.process.Processes(t.Context())
		return err == nil && p.Master != before.Master && testutil.ToFloat64(r.metrics.Applies.WithLabelValues("start", "ok")) == 2
	})
	if d := cmp.Diff(atRunTime, state(), cmp.Comparer(func(x, y haproxy.ServerState) bool { return x == y })); d != "" {
		t.Errorf("at run time (-) and after a start (+):\n%s", d)
	}
}
