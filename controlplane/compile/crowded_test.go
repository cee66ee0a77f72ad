package compile_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	routev1 "github.com/openshift/api/route/v1"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// sliceOf is a slice of a Service that has endpoints with names of so many characters, and addresses that no other
// slice has. Every other one is not ready, and serves on.
func sliceOf(service string, number, endpoints, addresses, ports, name int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns1", Name: fmt.Sprintf("%s-%d", service, number), Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for p := range ports {
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: new(fmt.Sprintf("p%d", p)), Port: new(int32(8080 + p))})
	}
	for i := range endpoints {
		long := strings.Repeat("n", max(1, name-8)) + fmt.Sprintf("%04d", i)
		e := discoveryv1.Endpoint{
			NodeName: new(long), Zone: new("tok04"), TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: long},
			Conditions: discoveryv1.EndpointConditions{Ready: new(i%2 == 0), Serving: new(true)},
		}
		for a := range addresses {
			n := (number*endpoints+i)*addresses + a
			e.Addresses = append(e.Addresses, fmt.Sprintf("10.%d.%d.%d", n>>16&255, n>>8&255, n&255))
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func routeTo(name, service string) *routev1.Route {
	r := &routev1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: name}}
	r.Spec.Host, r.Spec.To.Name = name+".example.com", service
	return r
}

func (w *world) endpoints(t *testing.T, service string) []*tsujiv1.Endpoint {
	t.Helper()
	item, ok := w.last.Facts.Get(tsujiv1.EndpointsName("ns1", service, tsujiv1.AnyPort))
	if !ok {
		t.Fatal("no endpoints")
	}
	checkSize(t, item.Name(), item.Encoded())
	res, err := tsujiv1.Decode(item)
	if err != nil {
		t.Fatal(err)
	}
	return res.GetEndpoints().GetEndpoints()
}

func (w *world) warned(t *testing.T, name string) bool {
	t.Helper()
	for k, v := range w.verdicts {
		if k.Name == name {
			return slices.ContainsFunc(v.GetWarnings(), func(w string) bool {
				return strings.Contains(w, "has more than 5000 endpoints, or 640 kB of them: the others get no requests")
			})
		}
	}
	t.Fatalf("no verdict on %s", name)
	return false
}

// Of a Service with more endpoints than fit, the ready ones travel first, the same ones whatever came before, and the
// Routes that lead to it are told: those that were there, and those that come. A Service beside it has all of its own.
func TestCrowdedService(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.apply(put(routeTo("before", "crowd")), put(routeTo("beside", "few")), put(sliceOf("few", 0, 10, 1, 1, 10)))
	for i := range 5 {
		w.apply(put(sliceOf("crowd", i, 1000, 1, 1, 10)))
	}
	if n := len(w.endpoints(t, "crowd")); n != 5000 || w.warned(t, "before") {
		t.Errorf("%d endpoints, warned %t; want all 5000", n, w.warned(t, "before"))
	}
	w.apply(put(sliceOf("crowd", 5, 1000, 1, 1, 10)), put(routeTo("after", "crowd")))
	ends := w.endpoints(t, "crowd")
	ready := 0
	for _, e := range ends {
		if e.GetReady() {
			ready++
		}
	}
	if len(ends) != 5000 || ready != 3000 || !w.warned(t, "before") || !w.warned(t, "after") || w.warned(t, "beside") {
		t.Errorf("%d endpoints, %d ready; warned %t %t %t; want 5000, all 3000 that are ready, and two warnings",
			len(ends), ready, w.warned(t, "before"), w.warned(t, "after"), w.warned(t, "beside"))
	}
	if !slices.IsSortedFunc(ends, func(a, b *tsujiv1.Endpoint) int {
		return strings.Compare(padded(a.GetAddress()), padded(b.GetAddress()))
	}) {
		t.Error("they are not sorted by address")
	}
	fresh := newWorld()
	fresh.apply()
	for _, o := range slices.Backward(slices.Collect(maps.Values(w.objects))) {
		fresh.apply(put(o))
	}
	if fresh.last.Facts.Digest() != w.last.Facts.Digest() {
		t.Error("others travel when the objects come in another order")
	}
	for k, v := range fresh.verdicts {
		if !proto.Equal(v, w.verdicts[k]) {
			t.Errorf("%v, and when the objects come in another order %v", w.verdicts[k], v)
		}
	}
	w.apply(gone(sliceOf("crowd", 0, 0, 0, 0, 0)))
	if n := len(w.endpoints(t, "crowd")); n != 5000 || w.warned(t, "before") || w.warned(t, "after") {
		t.Errorf("%d endpoints, warned %t; want all 5000", n, w.warned(t, "before"))
	}
}

// The more Routes lead to a Service, the fewer of its endpoints travel, since each is a server for each Route. It is a
// matter of how many there are, and of nothing that was before.
func TestManyRoutesToOneService(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.apply(put(routeTo("r0", "crowd")), put(sliceOf("crowd", 0, 1000, 1, 1, 10)), put(sliceOf("crowd", 1, 1000, 1, 1, 10)), put(sliceOf("crowd", 2, 1000, 1, 1, 10)))
	told := func(name string) string {
		for k, v := range w.verdicts {
			if k.Name == name {
				return strings.Join(v.GetWarnings(), "\n")
			}
		}
		return ""
	}
	have := 1
	for _, c := range []struct{ routes, want int }{
		{16, 3000}, {17, 2500}, {20, 2500}, {21, 1250}, {320, 156}, {41, 625}, {17, 2500}, {16, 3000},
	} {
		for ; have < c.routes; have++ {
			w.apply(put(routeTo(fmt.Sprintf("r%d", have), "crowd")))
		}
		for ; have > c.routes; have-- {
			w.apply(gone(routeTo(fmt.Sprintf("r%d", have-1), "crowd")))
		}
		if n := len(w.endpoints(t, "crowd")); n != c.want || n*c.routes > 50_000 {
			t.Errorf("of %d Routes: %d endpoints, want %d", c.routes, n, c.want)
		}
		text := fmt.Sprintf("has more than %d endpoints, and those of this namespace are more than 50000", c.want)
		for _, name := range []string{"r0", fmt.Sprintf("r%d", c.routes-1)} {
			if got := strings.Contains(told(name), text); got != (c.want < 3000) {
				t.Errorf("of %d Routes %s is told %q", c.routes, name, told(name))
			}
		}
		fresh := newWorld()
		for _, o := range slices.Collect(maps.Values(w.objects)) {
			fresh.apply(put(o))
		}
		if fresh.last.Facts.Digest() != w.last.Facts.Digest() || fresh.last.Config.Digest() != w.last.Config.Digest() {
			t.Errorf("of %d Routes: what is compiled depends on what was before", c.routes)
		}
		for k, v := range fresh.verdicts {
			if !proto.Equal(v, w.verdicts[k]) {
				t.Errorf("of %d Routes: %v, and from nothing %v", c.routes, w.verdicts[k], v)
			}
		}
	}
}

func padded(address string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(address, ".") {
		fmt.Fprintf(&b, "%4s", part)
	}
	return b.String()
}

// However large the slices are that somebody writes, what travels is small, and its Route is served and told.
func TestLargestSlices(t *testing.T) {
	t.Parallel()
	for name, s := range map[string][]*discoveryv1.EndpointSlice{
		"many addresses, long names": {sliceOf("large", 0, 1000, 40, 1, 240)},
		"few addresses, long names":  {sliceOf("large", 0, 1000, 1, 1, 250), sliceOf("large", 1, 1000, 1, 1, 250)},
		"all that the API allows":    {sliceOf("large", 0, 1000, 100, 100, 10)},
	} {
		w := newWorld()
		w.apply(put(routeTo("r", "large")))
		for _, one := range s {
			w.apply(put(one))
		}
		if n := len(w.endpoints(t, "large")); n < 500 || n > 5000 || !w.warned(t, "r") {
			t.Errorf("%s: %d endpoints, warned %t", name, n, w.warned(t, "r"))
		}
	}
}

// What is told of a Route is short, however much is wrong with it.
func TestManyWarnings(t *testing.T) {
	t.Parallel()
	r := routeTo("r", "web")
	r.Annotations = map[string]string{"haproxy.router.openshift.io/ip_allowlist": strings.Repeat("x ", 100_000)}
	for i := range 1000 {
		r.Annotations[fmt.Sprintf("haproxy.router.openshift.io/unknown-%d", i)] = ""
	}
	w := newWorld()
	w.apply(put(r))
	if list := w.last.Verdicts[0].GetWarnings(); len(list) != 33 || list[32] != "and 100970 more warnings" {
		t.Errorf("%d warnings, the last %q", len(list), list[len(list)-1])
	}
}

// Lists of a Route that are far too long refuse it; as long as they may be they fit into a small resource.
func TestBoundsOfLists(t *testing.T) {
	t.Parallel()
	networks := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "10.%d.%d.%d ", i>>16&255, i>>8&255, i&255)
		}
		return b.String()
	}
	for _, c := range []struct {
		networks, headers, size int
		want                    string
	}{
		{networks: 16384},
		{networks: 16385, want: "metadata.annotations[haproxy.router.openshift.io/ip_allowlist]: Too many: 16385: must have at most 16384 networks"},
		{headers: 2, size: 16384},
		{headers: 20, size: 1600},
		{headers: 20, size: 1700, want: "spec.httpHeaders.actions.request[19].action.set.value: Too long: all values of the list together may have no more than 32768 bytes"},
	} {
		r := routeTo("r", "web")
		r.Annotations = map[string]string{"haproxy.router.openshift.io/ip_allowlist": networks(c.networks)}
		r.Spec.HTTPHeaders = &routev1.RouteHTTPHeaders{}
		for i := range c.headers {
			a := routev1.RouteHTTPHeader{Name: fmt.Sprintf("X-%d", i), Action: routev1.RouteHTTPHeaderActionUnion{
				Type: routev1.Set, Set: &routev1.RouteSetHTTPHeader{Value: strings.Repeat("%[req.hdr(a),lower]", c.size)[:c.size/19*19]},
			}}
			r.Spec.HTTPHeaders.Actions.Request = append(r.Spec.HTTPHeaders.Actions.Request, a)
		}
		w := newWorld()
		w.apply(put(r))
		v := w.last.Verdicts[0]
		if v.GetAdmitted() != (c.want == "") || !strings.Contains(v.GetMessage(), c.want) {
			t.Errorf("%+v: admitted %t: %s", c, v.GetAdmitted(), v.GetMessage())
		}
		checkSizes(t, w.last)
	}
}

// Endpoints are checked once a second at most, as OpenShift's operator has it for an IngressController.
func TestCheckInterval(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{"1us": "1s", "999ms": "1s", "1": "1s", "1s": "", "1001": "", "5m": ""} {
		r := routeTo("r", "web")
		r.Annotations = map[string]string{"router.openshift.io/haproxy.health.check.interval": value}
		w := newWorld()
		w.apply(put(r))
		item, _ := w.last.Config.Get(tsujiv1.RouteName("ns1", "r"))
		res, err := tsujiv1.Decode(item)
		if err != nil {
			t.Fatal(err)
		}
		told := slices.ContainsFunc(w.last.Verdicts[0].GetWarnings(), func(w string) bool { return strings.Contains(w, "is too often: 1s is used") })
		if d := res.GetRoute().GetHealthCheckInterval().AsDuration(); d < time.Second || told != (want != "") || told && d != time.Second {
			t.Errorf("%s became %s, told %t", value, d, told)
		}
	}
}
