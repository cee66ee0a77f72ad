package render_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// Servers are checked as far as an eighth of the file descriptors goes. A namespace that asks for less than its share has all;
// of one that asks for more, routes are left out by name. Connections have the same whatever routes ask for.
func TestChecks(t *testing.T) {
	t.Parallel()
	checked := func(namespace, name string, servers int) []*tsujiv1.Resource {
		r := simple(name, name+"."+namespace+".example", "/", insecure, unset)
		r.Namespace = namespace
		r.HealthCheckInterval = durationpb.New(5e9)
		r.Backends = []*tsujiv1.BackendRef{backend(namespace, name, 1)}
		list := make([]*tsujiv1.Endpoint, servers)
		for i := range list {
			list[i] = endpoint(fmt.Sprintf("10.0.%d.%d", i/250, i%250), 80)
		}
		return []*tsujiv1.Resource{routeOf(r), endpointsOf(namespace, name, list...)}
	}
	o := options()
	o.FileDescriptors = 1024 + 8*100
	r := renderer(t, o)
	for _, c := range []struct {
		what    string
		put     []*tsujiv1.Resource
		removed string
		changed string // backends, besides that of the route that is put
		checks  string // wanted, checked, and what is left out
	}{
		{what: "a few", put: checked("small", "a", 10), checks: "10 10 []"},
		{what: "as many as there is room for", put: checked("large", "a", 90), checks: "100 100 []"},
		{what: "one too many", put: checked("small", "b", 1), changed: "be_http:large:a", checks: "101 11 [route/large/a]"},
		{what: "another that does not fit", put: checked("large", "b", 65), checks: "166 11 [route/large/a route/large/b]"},
		{what: "one that does", put: checked("large", "c", 60), checks: "226 71 [route/large/a route/large/b]"},
		{what: "another one of few changes nothing", put: checked("small", "c", 3), checks: "229 74 [route/large/a route/large/b]"},
		{what: "a third namespace has its share", put: checked("third", "a", 32), checks: "261 46 [route/large/a route/large/b route/large/c]", changed: "be_http:large:c"},
		{what: "what asks for too much goes", removed: "route/large/a", checks: "171 46 [route/large/b route/large/c]"},
		{what: "and the rest of it", removed: "route/large/b", checks: "106 46 [route/large/c]"},
		{what: "what is left fits again", removed: "route/small/a", changed: "be_http:large:c", checks: "96 96 []"},
	} {
		d := delta(t, c.put...)
		if c.removed != "" {
			d.Removed = []string{c.removed}
		}
		change, err := r.Apply(d)
		if err != nil {
			t.Fatal(err)
		}
		var others []string
		own := strings.Split(c.removed+"/", "/")
		if len(c.put) > 0 {
			own = strings.Split(c.put[0].GetName(), "/")
		}
		for _, b := range change.Backends {
			if b.Name != "be_http:"+own[1]+":"+own[2] {
				others = append(others, b.Name)
			}
		}
		wanted, now, left := r.Checks()
		if got := fmt.Sprint(wanted, now, left); got != c.checks || len(change.Reload) > 0 {
			t.Errorf("%s: %s, want %s; %q", c.what, got, c.checks, change.Reload)
		}
		if got := strings.Join(others, " "); got != c.changed {
			t.Errorf("%s: changes %q of others, want %q", c.what, got, c.changed)
		}
		if config := filesOf(r)["haproxy.cfg"]; strings.Count(config, " check inter ") != now || !strings.Contains(config, "\n  maxconn 350\n") {
			t.Errorf("%s: haproxy.cfg checks %d servers, want %d, or has another maxconn", c.what, strings.Count(config, " check inter "), now)
		}
	}
}
