package test

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"google.golang.org/grpc"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/kubetest"
)

// guarded is how many Routes these stories have.
const guarded = 60

// guardedRoutes is one more, which stays, and those from a number on.
func guardedRoutes(from int) string {
	var b strings.Builder
	b.WriteString(route("keep", "keep.example.com", "web"))
	for i := from; i < guarded; i++ {
		b.WriteString(route(fmt.Sprintf("r%02d", i), fmt.Sprintf("r%02d.example.com", i), "web"))
	}
	return b.String()
}

// startGuarded starts a control plane with the Routes, and a router that serves them.
func startGuarded(t *testing.T, f *fleet) *router {
	t.Helper()
	ip, port := backend(t, "pod")
	f.write("web.yaml", service("web", port, ip))
	f.write("routes.yaml", guardedRoutes(0))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()
	return r
}

// allAnswer waits until every one of the Routes gives an answer of a Pod, or, if they are to be gone, none does.
func allAnswer(t *testing.T, r *router, gone bool) {
	t.Helper()
	for i := range guarded {
		host := fmt.Sprintf("r%02d.example.com", i)
		eventually(t, host+" answers as it should", func() error {
			code, body, err := get(r.http, host, "/")
			if err == nil && (code == 503) != gone {
				err = fmt.Errorf("%d %q", code, body)
			}
			return err
		})
	}
}

// told asks the control plane how many Routes there are, and what it tells of.
func told(t *testing.T, op *grpc.ClientConn) (admitted uint32, faults string, err error) {
	s, err := tsujiv1.NewStatusServiceClient(op).GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
	return s.GetRoutesAdmitted(), fmt.Sprint(s.GetFaults()), err
}

// All Routes are deleted, a few at a time: they are served on, and new ones are served as ever, until they are let go.
func TestRoutesThatGoTogetherAreHeld(t *testing.T) {
	onBoth(t, routesThatGoTogetherAreHeld)
}

func routesThatGoTogetherAreHeld(t *testing.T, f *fleet) {
	r := startGuarded(t, f)
	op := f.operator()
	controller := func(annotations string) string {
		return "apiVersion: operator.openshift.io/v1\nkind: IngressController\nmetadata:\n  name: default\n  namespace: openshift-ingress-operator\n  annotations: {" + annotations + "}\nspec: {}\n"
	}
	f.write("controller.yaml", controller(""))
	for gone := 6; gone <= guarded; gone += 6 {
		f.write("routes.yaml", guardedRoutes(gone))
		eventually(t, "the control plane follows", func() error {
			if n, _, err := told(t, op); err != nil || int(n) != guarded-gone+1 {
				return fmt.Errorf("%d Routes are admitted (%w)", n, err)
			}
			return nil
		})
	}
	eventually(t, "the removal is held, and told", func() error {
		if _, faults, err := told(t, op); err != nil || !strings.Contains(faults, "60 of 61 routes went within 10m0s, from 1 of 1 namespaces") {
			return fmt.Errorf("%s (%w)", faults, err)
		}
		return nil
	})
	allAnswer(t, r, false)
	f.write("more.yaml", route("more", "more.example.com", "web"))
	eventually(t, "a new Route is served", func() error { return answers(r.http, "more.example.com", "/", "pod") })
	allAnswer(t, r, false)

	f.write("controller.yaml", controller("tsuji.dev/allow-route-drop: "+`"`+time.Now().UTC().Format(time.RFC3339)+`"`))
	allAnswer(t, r, true)
	for _, host := range []string{"keep.example.com", "more.example.com"} {
		if err := answers(r.http, host, "/", "pod"); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "nothing is told", func() error {
		if _, faults, err := told(t, op); err != nil || faults != "[]" {
			return fmt.Errorf("%s (%w)", faults, err)
		}
		return nil
	})
}

// The definition of Route is deleted, with all Routes: every one of them is served on.
func TestDefinitionOfRouteIsDeleted(t *testing.T) {
	server, err := kubetest.Start(t.Context(), kubetest.Config{Dir: filepath.Join(t.TempDir(), "kube"), Log: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	f := newFleet(t)
	c := clusterOf(t, server)
	f.source = c
	r := startGuarded(t, f)
	op := f.operator()
	definitions := c.client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	if err := definitions.Delete(t.Context(), "routes.route.openshift.io", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all Routes are gone", func() error {
		if n, faults, err := told(t, op); err != nil || n != 0 || !strings.Contains(faults, "61 of 61 routes went") {
			return fmt.Errorf("%d are admitted, %s (%w)", n, faults, err)
		}
		return nil
	})
	allAnswer(t, r, false)
	if err := answers(r.http, "keep.example.com", "/", "pod"); err != nil {
		t.Error(err)
	}
}
