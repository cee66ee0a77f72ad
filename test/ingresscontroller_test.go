package test

import (
	"fmt"
	"strings"
	"testing"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// An IngressController that is deleted goes on as it was: what it closed stays closed, and Routes and endpoints are
// followed. When it is created again what it then says counts.
func TestDeletedIngressControllerClosesOn(t *testing.T) {
	onBoth(t, deletedIngressControllerClosesOn)
}

func deletedIngressControllerClosesOn(t *testing.T, f *fleet) {
	controller := func(denied string) string {
		return "apiVersion: operator.openshift.io/v1\nkind: IngressController\nmetadata:\n  name: default\n  namespace: openshift-ingress-operator\n" +
			"  annotations: {tsuji.dev/denied-domains: " + denied + "}\nspec: {}\n"
	}
	ip, port := backend(t, "first")
	_, port2 := backend(t, "second")
	f.write("controller.yaml", controller("closed.example.com"))
	f.write("web.yaml", service("web", port, ip)+route("open", "open.example.com", "web")+route("closed", "closed.example.com", "web"))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()
	closed := func() {
		t.Helper()
		if code, _, err := get(r.http, "closed.example.com", "/"); err != nil || code != 503 {
			t.Errorf("a host that the IngressController denies answers %d (%v), want 503", code, err)
		}
	}
	closed()

	f.remove("controller.yaml")
	status := tsujiv1.NewStatusServiceClient(f.operator())
	told := func(faults int, words string) {
		t.Helper()
		eventually(t, "status tells "+words, func() error {
			s, err := status.GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
			if err == nil && (len(s.GetFaults()) != faults || !strings.Contains(fmt.Sprint(s.GetFaults()), words)) {
				err = fmt.Errorf("faults: %v", s.GetFaults())
			}
			return err
		})
	}
	told(1, "it was deleted")
	f.write("web.yaml", service("web", port2, ip)+route("open", "open.example.com", "web")+route("closed", "closed.example.com", "web"))
	eventually(t, "the endpoint that moved is used", func() error { return answers(r.http, "open.example.com", "/", "second") })
	f.write("more.yaml", route("more", "more.example.com", "web"))
	eventually(t, "a new Route is served", func() error { return answers(r.http, "more.example.com", "/", "second") })
	closed()

	f.write("controller.yaml", controller("open.example.com"))
	eventually(t, "the new one counts", func() error { return answers(r.http, "closed.example.com", "/", "second") })
	told(0, "")
}

// A router of an IngressController that there is not is sent nothing, and told of; when it comes it is served.
func TestRouterOfNoIngressController(t *testing.T) {
	f := newFleet(t)
	ip, port := backend(t, "pod")
	f.write("web.yaml", service("web", port, ip)+route("hello", "hello.example.com", "web"))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	files := f.issue("spiffe://tsuji.local/ingress/internal/zone/tok04/router/router-a")
	r.start("--ingress-controller=internal", "--tls-cert="+files.Cert, "--tls-key="+files.Key)
	status := tsujiv1.NewStatusServiceClient(f.operator())
	eventually(t, "status tells of it", func() error {
		s, err := status.GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
		if err == nil && (len(s.GetFaults()) != 1 || s.GetFaults()[0].GetPlace() != "IngressController internal") {
			err = fmt.Errorf("faults: %v", s.GetFaults())
		}
		return err
	})
	if err := f.controlPlane().logged("a router waits", "ingress_controller=internal"); err != nil {
		t.Error(err)
	}
	if sent := f.routers(f.operator())["router-a"].GetResponsesSent(); sent != 0 {
		t.Errorf("it was sent %d responses", sent)
	}
	f.write("internal.yaml", "apiVersion: operator.openshift.io/v1\nkind: IngressController\nmetadata: {name: internal, namespace: openshift-ingress-operator}\nspec: {}\n")
	r.ready()
	if err := answers(r.http, "hello.example.com", "/", "pod"); err != nil {
		t.Error(err)
	}
}
