package test

import (
	"fmt"
	"strings"
	"testing"
)

// What HAProxy counted goes on across a reload though nobody has read it before, and /metrics tells of the reload as
// OpenShift's router does.
func TestMetricsOfReloads(t *testing.T) {
	f := newFleet(t)
	ip, port := backend(t, "pod")
	f.write("web.yaml", service("web", port, ip)+route("hello", "hello.example.com", "web"))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()
	f.converged(f.operator(), "router-a")
	for range 7 {
		if err := answers(r.http, "hello.example.com", "/", "pod"); err != nil {
			t.Fatal(err)
		}
	}

	before := servedVersion(t, r)
	f.write("settings.yaml", `apiVersion: operator.openshift.io/v1
kind: IngressController
metadata: {name: default, namespace: openshift-ingress-operator}
spec:
  httpHeaders: {actions: {response: [{name: X-New, action: {type: Set, set: {value: "1"}}}]}}
`)
	eventually(t, "the settings are in force", func() error {
		if now := servedVersion(t, r); now == before {
			return fmt.Errorf("the version is %s", now)
		}
		return nil
	})
	eventually(t, "the new worker is read", func() error {
		_, body, err := get(r.stats, r.stats, "/metrics")
		if err != nil {
			return err
		}
		// Of the second reading: the first was made before the reload.
		for _, line := range []string{
			"haproxy_exporter_total_scrapes 2",
			`haproxy_backend_http_responses_total{backend="http",namespace="shop",route="hello",code="2xx"} 7`,
			"template_router_reload_seconds_count 2", // with the start
			"template_router_reload_failure 0",
			"template_router_write_config_seconds_count ",
		} {
			if !strings.Contains(body, "\n"+line) {
				return fmt.Errorf("there is no %q in\n%s", line, body)
			}
		}
		if strings.Contains(body, "\ntemplate_router_write_config_seconds_count 0\n") {
			return fmt.Errorf("no file was written: %s", body)
		}
		return nil
	})
}

// No response is counted twice or lost, whatever is replaced between two readings: HAProxy's worker, routerd, or both, one
// right after the other.
func TestCountersGoOn(t *testing.T) {
	f := newFleet(t)
	ip, port := backend(t, "pod")
	f.write("web.yaml", service("web", port, ip)+route("hello", "hello.example.com", "web"))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start()
	r.ready()
	f.converged(f.operator(), "router-a")
	asked := 0
	ask := func(n int) {
		t.Helper()
		for range n {
			if err := answers(r.http, "hello.example.com", "/", "pod"); err != nil {
				t.Fatal(err)
			}
		}
		asked += n
	}
	reload := func(value int) {
		t.Helper()
		_, before := r.haproxyPIDs()
		f.write("settings.yaml", fmt.Sprintf(`apiVersion: operator.openshift.io/v1
kind: IngressController
metadata: {name: default, namespace: openshift-ingress-operator}
spec:
  httpHeaders: {actions: {response: [{name: X-New, action: {type: Set, set: {value: "%d"}}}]}}
`, value))
		eventually(t, "another worker serves", func() error {
			_, now := r.haproxyPIDs()
			if len(now) != 1 || now[0] == before[0] {
				return fmt.Errorf("workers %v, before %v", now, before)
			}
			return nil
		})
		f.converged(f.operator(), "router-a")
	}
	restart := func() {
		t.Helper()
		r.kill()
		ask(3) // meanwhile
		r.start()
	}
	counted := func(when string) {
		t.Helper()
		want := fmt.Sprintf(`haproxy_backend_http_responses_total{backend="http",namespace="shop",route="hello",code="2xx"} %d`, asked)
		eventually(t, "all are counted, "+when, func() error {
			_, body, err := get(r.admin, r.admin, "/metrics")
			if err == nil && !strings.Contains(body, "\n"+want+"\n") {
				_, have, _ := strings.Cut(body, want[:strings.LastIndexByte(want, ' ')])
				err = fmt.Errorf("want %s, have %.10q", want, have)
			}
			return err
		})
	}
	ask(7)
	restart()
	counted("with another routerd")
	reload(1)
	ask(5)
	counted("with another worker, when that is read")
	restart()
	counted("with another routerd, after a reading of the other worker")
	ask(2)
	reload(2)
	restart()
	counted("with both, and no reading between")
	restart()
	restart()
	counted("with another routerd, twice and no reading between")
}

// servedVersion is what the router's HAProxy says that it serves.
func servedVersion(t *testing.T, r *router) string {
	t.Helper()
	_, body, err := get(r.stats, r.stats, "/_tsuji/version")
	if err != nil {
		t.Fatal(err)
	}
	return body
}
