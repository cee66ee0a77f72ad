package render_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// checkedRoute is a Route of which so many servers are checked so often, with its endpoints.
func checkedRoute(namespace, name string, servers int, interval time.Duration) []*tsujiv1.Resource {
	r := simple(name, name+"."+namespace+".example", "/", insecure, unset)
	r.Namespace = namespace
	r.HealthCheckInterval = durationpb.New(interval)
	r.Backends = []*tsujiv1.BackendRef{backend(namespace, name, 1)}
	list := make([]*tsujiv1.Endpoint, servers)
	for i := range list {
		list[i] = endpoint(fmt.Sprintf("10.0.%d.%d", i/250, i%250), 80)
	}
	return []*tsujiv1.Resource{routeOf(r), endpointsOf(namespace, name, list...)}
}

// intervals returns how often the servers of each backend are checked, and how many checks of a namespace that makes in
// a second.
func intervals(t *testing.T, r *render.Renderer, namespace string) (intervals map[string]string, perSecond float64) {
	t.Helper()
	intervals = map[string]string{}
	backend := ""
	for line := range strings.Lines(filesOf(r)["haproxy.cfg"]) {
		words := strings.Fields(line)
		if len(words) > 1 && words[0] == "backend" {
			backend = strings.TrimPrefix(words[1], "be_http:")
		}
		i := slices.Index(words, "inter")
		if i < 0 || words[0] != "server" {
			continue
		}
		d, err := time.ParseDuration(words[i+1])
		if err != nil {
			t.Fatal(err)
		}
		intervals[backend] = d.String()
		if strings.HasPrefix(backend, namespace+":") {
			perSecond += float64(time.Second) / float64(d)
		}
	}
	return intervals, perSecond
}

// A namespace's Routes cause 640 health checks a second at most, and one of them 512: beyond that the intervals are
// doubled of those that ask for most. The others keep theirs, and so do other namespaces; one more endpoint changes no
// other.
func TestCheckRate(t *testing.T) {
	t.Parallel()
	r := renderer(t, options())
	for _, c := range []struct {
		what    string
		put     []*tsujiv1.Resource
		removed string
		changed string // backends, besides that of the route that is put
		want    string // intervals in ns
		slowed  int
	}{
		{what: "few", put: checkedRoute("ns", "few", 10, 5*time.Second), want: "few 5s"},
		{what: "as many as may be", put: checkedRoute("ns", "many", 500, time.Second), want: "few 5s, many 1s"},
		{what: "more", put: checkedRoute("ns", "many", 600, time.Second), want: "few 5s, many 2s", slowed: 600},
		{what: "another one", put: checkedRoute("ns", "many", 601, time.Second), want: "few 5s, many 2s", slowed: 601},
		{
			what: "as many as there can be", put: checkedRoute("ns", "many", 5000, time.Second),
			want: "few 5s, many 16s", slowed: 5000,
		},
		{
			what: "as many again", put: checkedRoute("ns", "most", 5000, 2*time.Second), changed: "be_http:ns:many",
			want: "few 5s, many 32s, most 32s", slowed: 10000,
		},
		{
			what: "and again", put: checkedRoute("ns", "too", 5000, time.Hour),
			want: "few 5s, many 32s, most 32s, too 1h0m0s", slowed: 10000,
		},
		{
			what: "a third", put: checkedRoute("ns", "too", 5000, time.Second), changed: "be_http:ns:many",
			want: "few 5s, many 1m4s, most 32s, too 1m4s", slowed: 15000,
		},
		{
			what: "another namespace", put: checkedRoute("other", "many", 500, time.Second),
			want: "few 5s, many 1m4s, most 32s, too 1m4s", slowed: 15000,
		},
		{
			what: "one goes", removed: "route/ns/many", changed: "be_http:ns:too",
			want: "few 5s, most 32s, too 32s", slowed: 10000,
		},
		{
			what: "another goes", removed: "route/ns/too", changed: "be_http:ns:most", want: "few 5s, most 16s", slowed: 5000,
		},
		{what: "the last one", removed: "route/ns/most", want: "few 5s"},
	} {
		d := delta(t, c.put...)
		own := strings.Split(c.removed+"//", "/")
		if c.removed != "" {
			d.Removed = []string{c.removed}
		} else {
			own = strings.Split(c.put[0].GetName(), "/")
		}
		change, err := r.Apply(d)
		if err != nil {
			t.Fatal(err)
		}
		var others []string
		for _, b := range change.Backends {
			if b.Name != "be_http:"+own[1]+":"+own[2] {
				others = append(others, b.Name)
			}
		}
		if got := strings.Join(others, " "); got != c.changed || len(change.Reload) > 0 {
			t.Errorf("%s: changes %q of others, want %q, and reloads for %q", c.what, got, c.changed, change.Reload)
		}
		have, perSecond := intervals(t, r, "ns")
		var got []string
		for _, name := range []string{"few", "many", "most", "too"} {
			if d, ok := have["ns:"+name]; ok {
				got = append(got, name+" "+d)
			}
		}
		if strings.Join(got, ", ") != c.want || perSecond > 640 {
			t.Errorf("%s: %q, want %s; %g checks a second", c.what, got, c.want, perSecond)
		}
		if d, ok := have["other:many"]; ok && d != "1s" {
			t.Errorf("%s: another namespace has %s", c.what, d)
		}
		if n, _ := r.SlowedChecks(); n != c.slowed {
			t.Errorf("%s: of %d servers it is told that they are checked less often, want %d", c.what, n, c.slowed)
		}
	}
}

// Many Routes of few endpoints cause no more checks than few of many do.
func TestCheckRateOfManyRoutes(t *testing.T) {
	t.Parallel()
	r := renderer(t, options())
	var all []*tsujiv1.Resource
	for i := range 3000 {
		all = append(all, checkedRoute("ns", fmt.Sprintf("r%d", i), 1+i%2, time.Second)...)
	}
	if _, err := r.Apply(delta(t, all...)); err != nil {
		t.Fatal(err)
	}
	if _, n := intervals(t, r, "ns"); n > 640 || n < 160 {
		t.Errorf("%g checks a second", n)
	}
}

// A Route that comes or goes changes how often the servers of a few others are checked, however many there are that are
// checked less often than they ask for: a tenant cannot have all of its servers made again by a small change.
func TestCheckRateChangesLittle(t *testing.T) {
	t.Parallel()
	r := renderer(t, options())
	const large = 64
	var all []*tsujiv1.Resource
	for i := range large {
		all = append(all, checkedRoute("ns", fmt.Sprintf("large-%02d", i), 20, time.Second)...)
	}
	if _, err := r.Apply(delta(t, all...)); err != nil {
		t.Fatal(err)
	}
	shares := map[string]int{}
	changed := 0
	expectFew := func(what string, d snapshot.Delta) {
		t.Helper()
		change, err := r.Apply(d)
		if err != nil {
			t.Fatal(err)
		}
		others := 0
		for _, b := range change.Backends {
			if strings.HasPrefix(b.Name, "be_http:ns:large-") {
				others++
			}
		}
		if changed += others; others > 2 {
			t.Errorf("%s: the servers of %d other Routes are made again", what, others)
		}
	}
	for i := range 60 {
		expectFew(fmt.Sprint("one comes, ", i), delta(t, checkedRoute("ns", fmt.Sprint("r", i), 10, time.Second)...))
		have, perSecond := intervals(t, r, "ns")
		if perSecond > 640 || perSecond < 320 {
			t.Errorf("%d more: %g checks a second", i, perSecond)
		}
		shares[have["ns:large-63"]]++
	}
	for i := range 60 {
		expectFew(fmt.Sprint("one goes, ", i), snapshot.Delta{Removed: []string{tsujiv1.RouteName("ns", fmt.Sprint("r", i))}})
	}
	if len(shares) < 2 || changed < 2*large/2 {
		t.Errorf("intervals %v, and %d changes: no share was crossed", shares, changed)
	}
}
