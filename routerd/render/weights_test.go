package render_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

func sortStrings(s []string) []string {
	slices.Sort(s)
	return s
}

// Weights of servers are those of OpenShift's router.
func TestWeights(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what        string
		weights     []uint32
		endpoints   []int
		draining    []int // of the endpoints
		want        string
		passthrough bool
	}{
		{what: "one service", weights: []uint32{100}, endpoints: []int{2}, want: "1 1"},
		{what: "one that takes nothing", weights: []uint32{0}, endpoints: []int{2}, want: "0 0"},
		{what: "upstream's example", weights: []uint32{100, 50}, endpoints: []int{2, 3}, want: "256 256 85 85 85"},
		{what: "one of two has endpoints", weights: []uint32{100, 50}, endpoints: []int{0, 2}, want: "1 1"},
		{what: "one of two takes traffic", weights: []uint32{100, 0}, endpoints: []int{1, 1}, want: "1 0"},
		{what: "none takes traffic", weights: []uint32{0, 0}, endpoints: []int{1, 1}, want: "0 0"},
		{what: "a small share is not none", weights: []uint32{256, 1}, endpoints: []int{1, 3}, want: "256 1 1 1"},
		{what: "cut off, not rounded", weights: []uint32{3, 2}, endpoints: []int{1, 1}, want: "256 170"},
		{what: "what drains does not count", weights: []uint32{100, 50}, endpoints: []int{3, 1}, draining: []int{1, 0}, want: "256 256 0 256"},
		{what: "passthrough leaves out weight 0", weights: []uint32{100, 0}, endpoints: []int{1, 2}, want: "1", passthrough: true},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			route := simple("r", "a.example", "/", insecure, unset)
			if c.passthrough {
				route.Termination = passthrough
			}
			route.Backends = nil
			var resources []*tsujiv1.Resource
			for i, w := range c.weights {
				service := fmt.Sprintf("s%d", i)
				route.Backends = append(route.Backends, backend("ns", service, w))
				var list []*tsujiv1.Endpoint
				for n := range c.endpoints[i] {
					e := endpoint(fmt.Sprintf("10.%d.0.%d", i, n), 80)
					if len(c.draining) > 0 && n >= c.endpoints[i]-c.draining[i] {
						e.Ready, e.Terminating = false, true
					}
					list = append(list, e)
				}
				resources = append(resources, endpointsOf("ns", service, list...))
			}
			r := renderer(t, options())
			apply(t, r, append(resources, routeOf(route))...)
			var got []string
			for line := range strings.Lines(filesOf(r)["haproxy.cfg"]) {
				if f := strings.Fields(line); len(f) > 2 && f[0] == "server" && slices.Contains(f, "weight") {
					got = append(got, f[slices.Index(f, "weight")+1])
				}
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("weights %v over %v endpoints: %v, want %s", c.weights, c.endpoints, got, c.want)
			}
		})
	}
}
