package explain_test

import (
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/explain"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// A Route that render does not take is named where it could answer, and is nothing to the requests of other hosts.
func TestFaultyRoute(t *testing.T) {
	route := func(name, host string) *tsujiv1.Resource {
		return &tsujiv1.Resource{Name: tsujiv1.RouteName("ns", name), Kind: &tsujiv1.Resource_Route{Route: &tsujiv1.Route{
			Namespace: "ns", Name: name, Host: host, Path: "/", Termination: tsujiv1.Termination_TERMINATION_INSECURE,
		}}}
	}
	faulty := route("faulty", "faulty.other.example")
	faulty.GetRoute().Termination = 99 // of a later release
	in := explain.Input{
		IngressController: "default",
		Routes:            []*tsujiv1.Resource{route("good", "a.shop.example"), faulty},
		Resource:          func(string) (*tsujiv1.Resource, error) { return nil, nil }, //nolint:nilnil // it is not there
		Object:            func(_, _ string) explain.Object { return explain.Object{} },
	}
	x, err := explain.Explain(explain.Request{Host: "a.shop.example", Path: "/x"}, in)
	if err != nil || x.HTTP.Route != "ns/good" || x.HTTP.Status != 503 || len(x.Routes) != 1 {
		t.Errorf("%+v, %v: want the Route ns/good, which has no endpoint", x, err)
	}
	x, err = explain.Explain(explain.Request{Host: "b.other.example", Path: "/"}, in)
	if err == nil || !strings.Contains(err.Error(), "route/ns/faulty") {
		t.Errorf("%+v, %v: want an error that names the Route", x, err)
	}
}
