package health_test

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/types/known/durationpb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
	"github.com/tsuji-dev/tsuji/test/podtest"
)

// theRoute returns route ns/a with pods as its endpoints.
func theRoute(t tsujiv1.Termination, pods ...*pod) (route, endpoints *tsujiv1.Resource) {
	name := tsujiv1.EndpointsName("ns", "a", "http")
	route = &tsujiv1.Resource{Name: tsujiv1.RouteName("ns", "a"), Kind: &tsujiv1.Resource_Route{Route: &tsujiv1.Route{
		Namespace: "ns", Name: "a", Host: "a.test", Path: "/", Termination: t, Balance: tsujiv1.Balance_BALANCE_ROUND_ROBIN,
		Backends: []*tsujiv1.BackendRef{{Endpoints: name, Service: "a", Weight: 1}},
	}}}
	if t != tsujiv1.Termination_TERMINATION_PASSTHROUGH {
		route.GetRoute().Cookie = &tsujiv1.Cookie{Name: "sticky"}
	}
	list := &tsujiv1.Endpoints{Namespace: "ns", Service: "a", Port: "http"}
	for _, p := range pods {
		list.Endpoints = append(list.Endpoints, p.endpoint())
	}
	return route, &tsujiv1.Resource{Name: name, Kind: &tsujiv1.Resource_Endpoints{Endpoints: list}}
}

// settings returns Settings with a buffer of so many bytes and a time to connect; zero: the default.
func settings(header uint32, connect time.Duration) *tsujiv1.Resource {
	s := &tsujiv1.Settings{Tuning: &tsujiv1.Tuning{HeaderBufferBytes: header}}
	if connect > 0 {
		s.Timeouts = &tsujiv1.Timeouts{Connect: durationpb.New(connect)}
	}
	return &tsujiv1.Resource{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: s}}
}

// serverTLS is what a pod needs to speak TLS.
func serverTLS(t *testing.T) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(issue(t))
	must(t, err)
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
}

// A Route's terminations, and what its pods need for them.
func terminations(t *testing.T) map[tsujiv1.Termination]*tls.Config {
	return map[tsujiv1.Termination]*tls.Config{
		tsujiv1.Termination_TERMINATION_INSECURE: nil, tsujiv1.Termination_TERMINATION_PASSTHROUGH: serverTLS(t),
	}
}

// backendOf returns the name of route ns/a's backend.
func backendOf(t tsujiv1.Termination) string {
	return map[tsujiv1.Termination]string{
		tsujiv1.Termination_TERMINATION_INSECURE: "be_http:ns:a", tsujiv1.Termination_TERMINATION_PASSTHROUGH: "be_tcp:ns:a",
		tsujiv1.Termination_TERMINATION_REENCRYPT: "be_secure:ns:a",
	}[t]
}

// three starts three pods of the route.
func three(t *testing.T, termination tsujiv1.Termination, config *tls.Config) (pods [3]*pod) {
	for i, name := range []string{"one", "two", "three"} {
		pods[i] = newPod(t, name, backendOf(termination), config)
	}
	return pods
}

// used waits until each pod has answered some more requests.
func used(t *testing.T, what string, n int64, pods ...*pod) time.Duration {
	t.Helper()
	before := make([]int64, len(pods))
	for i, p := range pods {
		before[i] = p.Requests.Load()
	}
	return podtest.Eventually(t, what, func() bool {
		for i, p := range pods {
			if p.Requests.Load() < before[i]+n {
				return false
			}
		}
		return true
	})
}

// One of three endpoints dies under load: no request fails, and within 5 seconds none tries it any more. It comes
// back, and is used again. Whether it refuses connections or is not heard of any more, and whether the router
// reads requests or passes connections through; also when connecting may take very long.
func TestDeadEndpoint(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, binary string) {
		for termination, config := range terminations(t) {
			for how, die := range map[string]func(*pod){"refuses": func(p *pod) { p.Refuse() }, "vanishes": func(p *pod) { p.Vanish() }} {
				t.Run(backendOf(termination)+"/"+how, func(t *testing.T) {
					t.Parallel()
					deadEndpointStory(t, binary, termination, config, 0, die)
				})
			}
			t.Run(backendOf(termination)+"/vanishes, a minute to connect", func(t *testing.T) {
				t.Parallel()
				deadEndpointStory(t, binary, termination, config, time.Minute, func(p *pod) { p.Vanish() })
			})
		}
	})
}

func deadEndpointStory(t *testing.T, binary string, termination tsujiv1.Termination, config *tls.Config, connect time.Duration, die func(*pod)) {
	r := newRouter(t, binary)
	pods := three(t, termination, config)
	one, two := pods[0], pods[1]
	route, endpoints := theRoute(termination, pods[:]...)
	r.put(route, endpoints, settings(0, connect))
	l := r.load(t, termination, 6)
	used(t, "all are used", 20, pods[:]...)
	l.MustServe(t, "all are alive")

	promise := podtest.Begin(t)
	die(one)
	podtest.Eventually(t, "the dead endpoint is suspended", func() bool { return r.suspended(one) })
	t.Logf("suspended after %v", promise.Within(5*time.Second, "to leave the dead endpoint"))
	r.settled(one) // requests that met it before are on their way for the time of a try
	l.MustServe(t, "while it was found")
	before := r.stats(one)
	used(t, "many more requests", 100, two)
	if now := r.stats(one); now.Econ != before.Econ || now.Retried != before.Retried || now.Status != "MAINT" {
		t.Errorf("it is still tried: %+v became %+v", before, now)
	}
	l.MustServe(t, "without it")

	r.put(route, endpoints, settings(40_000, connect)) // a reload, which forgets
	d := podtest.Eventually(t, "it is suspended again after a reload", func() bool { return r.suspended(one) && r.stats(one).Status == "MAINT" })
	t.Logf("suspended again after %v", d)
	r.settled(one)
	l.MustServe(t, "reload")

	promise = podtest.Begin(t)
	one.Return()
	used(t, "it is back", 6, one)
	t.Logf("back after %v", promise.Within(6*time.Second, "to take it back"))
	if !r.suspended() {
		t.Errorf("it is back, but suspended are %v", r.Suspended())
	}
	l.Stop()
	l.MustServe(t, "back")
}

// All endpoints die: requests fail, and all stay in service, so that the first that comes back answers at once. Then
// the others leave, and come back when they answer. So it is also where no request had been answered by
// another endpoint, so that all tries of each have failed.
func TestAllDead(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, binary string) {
		for termination, config := range terminations(t) {
			for how, die := range map[string]func(*pod){"refuse": func(p *pod) { p.Refuse() }, "vanish": func(p *pod) { p.Vanish() }} {
				t.Run(backendOf(termination)+"/"+how, func(t *testing.T) {
					t.Parallel()
					allDeadStory(t, binary, termination, config, die)
				})
			}
		}
	})
}

func allDeadStory(t *testing.T, binary string, termination tsujiv1.Termination, config *tls.Config, die func(*pod)) {
	r := newRouter(t, binary)
	pods := three(t, termination, config)
	one, two, three := pods[0], pods[1], pods[2]
	route, endpoints := theRoute(termination, pods[:]...)
	r.put(route, endpoints)
	for _, p := range pods { // before there is any request
		die(p)
	}
	l := r.load(t, termination, 6)
	podtest.Eventually(t, "all are known to be dead, and none is suspended", func() bool {
		return testutil.ToFloat64(r.metrics.Dead) == 3 && r.suspended()
	})
	podtest.Eventually(t, "requests fail", func() bool { return len(l.Answers().Failed) > 0 })
	promise := podtest.Begin(t)
	two.Return()
	used(t, "the first is used", 10, two)
	t.Logf("used after %v", promise.Within(4*time.Second, "to use the first that came back"))
	podtest.Eventually(t, "the others are suspended", func() bool { return r.suspended(sorted(one, three)...) })
	r.settled(one, three)
	l.Over(t) // HAProxy may still have tried again for some
	one.Return()
	three.Return()
	used(t, "all are used", 10, one, three)
	if !r.suspended() {
		t.Errorf("all are back, but suspended are %v", r.Suspended())
	}
	l.Stop()
	l.MustServe(t, "all are back")
}

// sorted puts two pods in the order of their servers' names.
func sorted(x, y *pod) []*pod {
	if x.server() < y.server() {
		return []*pod{x, y}
	}
	return []*pod{y, x}
}

// A Route that asks for an interval gets HAProxy's own check, which leaves a dead endpoint without any help.
func TestInterval(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, binary string) {
		t.Parallel()
		r := newRouter(t, binary)
		// Over TLS, since Linux accepts no connection that is checked without a word.
		config := serverTLS(t)
		one, two := newPod(t, "one", backendOf(tsujiv1.Termination_TERMINATION_REENCRYPT), config), newPod(t, "two", backendOf(tsujiv1.Termination_TERMINATION_REENCRYPT), config)
		route, endpoints := theRoute(tsujiv1.Termination_TERMINATION_REENCRYPT, one, two)
		const interval = 400 * time.Millisecond
		route.GetRoute().HealthCheckInterval = durationpb.New(interval)
		r.put(route, endpoints)
		promise := podtest.Begin(t)
		const checks = 6
		for range checks + 1 { // the first comes at a time of its own
			select {
			case <-one.Accepted:
			case <-time.After(time.Minute):
				t.Fatal("it is not checked")
			}
		}
		if took := promise.Within(checks*interval*5/4+interval, "to check it"); took < checks*interval*9/10 {
			t.Errorf("%d checks in %v, want one every %v", checks, took, interval)
		}
		if one.Requests.Load() != 0 {
			t.Error("a check is a request")
		}
		l := r.load(t, tsujiv1.Termination_TERMINATION_REENCRYPT, 4)
		used(t, "both are used", 10, one, two)
		l.MustServe(t, "both are alive")
		one.Refuse()
		podtest.Eventually(t, "HAProxy has found it", func() bool { return r.stats(one).Status == "DOWN" })
		l.Stop()
		l.MustServe(t, "one is dead")
		if !r.suspended() || testutil.ToFloat64(r.metrics.Suspected) != 0 {
			t.Errorf("suspended are %v, suspected %v", r.Suspended(), testutil.ToFloat64(r.metrics.Suspected))
		}
	})
}
