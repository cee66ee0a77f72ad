package test

import (
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/identity/authority"
	"github.com/tsuji-dev/tsuji/test/podtest"
)

// patient is a Route with three endpoints, of which the first dies.
type patient struct {
	name, scheme string
	pods         []*podtest.Pod
	die          func(*podtest.Pod)
	load         *podtest.Load
}

// newPatient starts the endpoints, and returns the manifests. They have a port in common, and the Service gives Pods names.
func newPatient(t *testing.T, name string, network int, config *tls.Config, spec ...string) (*patient, string) {
	t.Helper()
	p := &patient{name: name}
	var addresses []string
	for i, port := 0, uint16(0); i < 3; i++ {
		addresses = append(addresses, fmt.Sprintf("10.66.%d.%d", network, i+1))
		pod := podtest.New(t, fmt.Sprintf("%s-%d", name, i), fmt.Sprintf("%s:%d", addresses[i], port), config)
		port = pod.Address.Port()
		p.pods = append(p.pods, pod)
	}
	return p, service(name, int(p.pods[0].Address.Port()), addresses...) +
		annotatedRoute(name, name+".example.com", name, "haproxy.router.openshift.io/balance: roundrobin", spec...)
}

// used waits until endpoints have answered some more requests.
func used(t *testing.T, what string, pods ...*podtest.Pod) {
	t.Helper()
	for _, p := range pods {
		want := p.Requests.Load() + 10
		podtest.Eventually(t, what+": "+p.Name, func() bool { return p.Requests.Load() >= want })
	}
}

// Endpoints of Routes of three terminations die under load, by refusing connections and by not being heard of any more: no
// request fails, and within 5 seconds they are left; log and metrics tell it. A routerd that was killed and started again
// leaves them again. They answer again, and are used again.
func TestDeadEndpoints(t *testing.T) {
	f := newFleet(t)
	r := f.newRouter("tok04", "router-a")
	site, err := authority.NewAuthority("site")
	if err != nil {
		t.Fatal(err)
	}
	pem, key, err := site.Issue(authority.Options{DNSNames: []string{"pod"}})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(pem, key)
	if err != nil {
		t.Fatal(err)
	}
	own := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}

	var all []*patient
	var manifests string
	for i, x := range []struct {
		name, scheme string
		config       *tls.Config
		spec         []string
		die          func(*podtest.Pod)
	}{
		{"http-refuses", "http", nil, nil, (*podtest.Pod).Refuse},
		{"http-vanishes", "http", nil, nil, (*podtest.Pod).Vanish},
		{"edge-refuses", "https", nil, []string{"tls: {termination: edge}"}, (*podtest.Pod).Refuse},
		{"edge-vanishes", "https", nil, []string{"tls: {termination: edge}"}, (*podtest.Pod).Vanish},
		{"pass-refuses", "https", own, []string{"tls: {termination: passthrough}"}, (*podtest.Pod).Refuse},
		{"pass-vanishes", "https", own, []string{"tls: {termination: passthrough}"}, (*podtest.Pod).Vanish},
	} {
		p, text := newPatient(t, x.name, i, x.config, x.spec...)
		p.scheme, p.die = x.scheme, x.die
		manifests += text
		all = append(all, p)
	}
	f.write("all.yaml", manifests)
	f.startControlPlane()
	r.start()
	r.ready()
	f.converged(f.operator(), "router-a")
	for _, p := range all {
		address := map[string]string{"http": r.http, "https": r.https}[p.scheme]
		p.load = podtest.NewLoad(t, p.scheme+"://"+p.name+".example.com/", address, 2)
	}
	for _, p := range all {
		used(t, "before", p.pods...)
		p.load.MustServe(t, p.name+", before")
	}

	for _, p := range all {
		promise := podtest.Begin(t)
		p.die(p.pods[0])
		podtest.Eventually(t, p.name+" is left", func() bool {
			return r.logged("endpoint does not answer and is out of service", "route=shop/"+p.name, "pod="+p.pods[0].Name) == nil
		})
		t.Logf("%s: left after %v", p.name, promise.Within(5*time.Second, p.name+": to leave the dead endpoint"))
	}
	left := func(when string) {
		t.Helper()
		podtest.Eventually(t, "the metrics tell that they are left", func() bool {
			return metric(t, r, "tsuji_apply_suspended_servers") == "6" && metric(t, r, "tsuji_health_dead_servers") == "6"
		})
		for _, p := range all {
			used(t, when, p.pods[1:]...)
			p.load.MustServe(t, p.name+", "+when)
		}
	}
	left("left")

	r.kill()
	r.start() // in whose eyes everything is in service, at first
	left("left again")

	for _, p := range all {
		p.pods[0].Return()
	}
	for _, p := range all {
		used(t, "again", p.pods[0])
		eventually(t, "the log tells it", func() error {
			return r.logged("endpoint is in service again", "route=shop/"+p.name, "pod="+p.pods[0].Name)
		})
		p.load.Stop()
		p.load.MustServe(t, p.name+", again")
	}
	podtest.Eventually(t, "the metrics tell that none is out of service", func() bool { return metric(t, r, "tsuji_apply_suspended_servers") == "0" })
}

// metric returns what routerd says of one of its own metrics without labels.
func metric(t *testing.T, r *router, name string) string {
	t.Helper()
	_, text, err := get(r.admin, r.admin, "/metrics")
	if err != nil {
		return "" // while it starts
	}
	_, value, _ := strings.Cut(text, "\n"+name+" ")
	value, _, _ = strings.Cut(value, "\n")
	return value
}
