package health_test

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/types/known/durationpb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
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

func settings(header uint32) *tsujiv1.Resource {
	return &tsujiv1.Resource{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{
		Tuning: &tsujiv1.Tuning{HeaderBufferBytes: header},
	}}}
}

// serverTLS is what a pod needs to speak TLS.
func serverTLS(t *testing.T) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(issue(t))
	must(t, err)
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
}

// supported tells whether the release says which backends have trouble.
func supported(t *testing.T, binary string) bool { return haproxytest.AtLeast(t, binary, 3, 0) }

// One of three endpoints dies under load: no request fails, and within 5 seconds none tries it any more. It comes
// back, and is used again. Whether it refuses connections or is not heard of any more, and whether the router
// reads requests or passes connections through.
func TestDeadEndpoint(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, binary string) {
		if !supported(t, binary) {
			t.Skip("this release does not say which backends have trouble")
		}
		for mode, config := range map[string]*tls.Config{"http": nil, "passthrough": serverTLS(t)} {
			for how, die := range map[string]func(*pod){"refuses": (*pod).refuse, "vanishes": (*pod).vanish} {
				t.Run(mode+"/"+how, func(t *testing.T) { t.Parallel(); deadEndpointStory(t, binary, config, die) })
			}
		}
	})
}

func deadEndpointStory(t *testing.T, binary string, config *tls.Config, die func(*pod)) {
	r := newRouter(t, binary)
	termination, backend, url := tsujiv1.Termination_TERMINATION_INSECURE, "be_http:ns:a", "http://a.test/"
	if config != nil {
		termination, backend, url = tsujiv1.Termination_TERMINATION_PASSTHROUGH, "be_tcp:ns:a", "https://a.test/"
	}
	one, two, three := newPod(t, "one", backend, config), newPod(t, "two", backend, config), newPod(t, "three", backend, config)
	route, endpoints := theRoute(termination, one, two, three)
	r.put(route, endpoints)
	l := r.load(url, 6)
	eventually(t, "all are used", func() bool { return one.requests.Load() > 20 && two.requests.Load() > 20 && three.requests.Load() > 20 })
	none := func(when string) {
		t.Helper()
		n, failed, slowest, served := l.answers()
		if len(failed) > 0 || n == 0 {
			t.Errorf("%s: %d of %d requests failed, the first: %q", when, len(failed), n, append(failed, "")[0])
		}
		t.Logf("%s: %d requests, the slowest %v, %v", when, n, slowest, served)
	}
	none("all are alive")

	die(one)
	d := eventually(t, "the dead endpoint is suspended", func() bool { return r.suspended(one) })
	if d > 5*time.Second {
		t.Errorf("suspended after %v", d)
	}
	t.Logf("suspended after %v", d)
	// Requests that met it before are still on their way: the time of a try.
	time.Sleep(1500 * time.Millisecond)
	none("while it was found")
	before := r.stats(one)
	requests := two.requests.Load()
	eventually(t, "many more requests", func() bool { return two.requests.Load() > requests+100 })
	if now := r.stats(one); now.Econ != before.Econ || now.Retried != before.Retried || now.Status != "MAINT" {
		t.Errorf("it is still tried: %+v became %+v", before, now)
	}
	if n, failed, slowest, _ := l.answers(); len(failed) > 0 || slowest > time.Second {
		t.Errorf("without it: %d of %d failed, the slowest took %v", len(failed), n, slowest)
	}

	r.put(route, endpoints, settings(40_000)) // a reload, which forgets
	d = eventually(t, "it is suspended again after a reload", func() bool { return r.suspended(one) && r.stats(one).Status == "MAINT" })
	t.Logf("suspended again after %v", d)
	time.Sleep(1500 * time.Millisecond)
	none("reload")

	requests = one.requests.Load()
	one.comeBack()
	d = eventually(t, "it is back", func() bool { return one.requests.Load() > requests+5 })
	if !r.suspended() || d > 6*time.Second {
		t.Errorf("back after %v; suspended are %v", d, r.Suspended())
	}
	t.Logf("back after %v", d)
	l.stop()
	none("back")
}

// All endpoints die: requests fail, and all stay in service, so that the first that comes back answers at once. Then
// the others leave, and come back when they answer.
func TestAllDead(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, binary string) {
		t.Parallel()
		if !supported(t, binary) {
			t.Skip("this release does not say which backends have trouble")
		}
		r := newRouter(t, binary)
		const backend = "be_http:ns:a"
		one, two, three := newPod(t, "one", backend, nil), newPod(t, "two", backend, nil), newPod(t, "three", backend, nil)
		route, endpoints := theRoute(tsujiv1.Termination_TERMINATION_INSECURE, one, two, three)
		r.put(route, endpoints)
		l := r.load("http://a.test/", 6)
		eventually(t, "all are used", func() bool { return one.requests.Load() > 20 && two.requests.Load() > 20 && three.requests.Load() > 20 })
		for _, p := range []*pod{one, two, three} {
			p.refuse()
		}
		eventually(t, "all are known to be dead, and none is suspended", func() bool {
			return testutil.ToFloat64(r.metrics.Dead) == 3 && r.suspended()
		})
		l.answers()
		eventually(t, "requests fail", func() bool { _, failed, _, _ := l.answers(); return len(failed) > 0 })
		var before [3]int64
		for i, p := range []*pod{one, two, three} {
			before[i] = p.requests.Load()
		}
		two.comeBack()
		d := eventually(t, "the first is used", func() bool { return two.requests.Load() > before[1]+10 })
		t.Logf("used after %v", d)
		if d > 3*time.Second {
			t.Errorf("the first that came back was used after %v", d)
		}
		eventually(t, "the others are suspended", func() bool { return r.suspended(sorted(one, three)...) })
		l.answers()
		one.comeBack()
		three.comeBack()
		eventually(t, "all are in service", func() bool {
			return r.suspended() && one.requests.Load() > before[0]+10 && three.requests.Load() > before[2]+10
		})
		l.stop()
		if n, failed, slowest, served := l.answers(); len(failed) > 0 {
			t.Errorf("%d of %d failed, %q; the slowest took %v; %v", len(failed), n, failed[0], slowest, served)
		}
	})
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
		one, two := newPod(t, "one", "be_secure:ns:a", config), newPod(t, "two", "be_secure:ns:a", config)
		route, endpoints := theRoute(tsujiv1.Termination_TERMINATION_REENCRYPT, one, two)
		const interval = 400 * time.Millisecond
		route.GetRoute().HealthCheckInterval = durationpb.New(interval)
		r.put(route, endpoints)
		var times []time.Time
		for len(times) < 6 {
			select {
			case at := <-one.accepted:
				times = append(times, at)
			case <-time.After(10 * time.Second):
				t.Fatalf("checked %d times", len(times))
			}
		}
		times = times[1:] // the first comes at a time of its own
		if mean := times[len(times)-1].Sub(times[0]) / time.Duration(len(times)-1); mean < interval*9/10 || mean > interval*5/4 {
			t.Errorf("checked every %v", mean)
		}
		if one.requests.Load() != 0 {
			t.Error("a check is a request")
		}
		l := r.load("https://a.test/", 4)
		eventually(t, "both are used", func() bool { return one.requests.Load() > 10 && two.requests.Load() > 10 })
		if _, failed, _, _ := l.answers(); len(failed) > 0 {
			t.Errorf("failed: %q", failed)
		}
		one.refuse()
		eventually(t, "HAProxy has found it", func() bool { return r.stats(one).Status == "DOWN" })
		l.stop()
		if _, failed, _, _ := l.answers(); len(failed) > 0 || !r.suspended() || testutil.ToFloat64(r.metrics.Suspected) != 0 {
			t.Errorf("failed: %q; suspended are %v, suspected %v", failed, r.Suspended(), testutil.ToFloat64(r.metrics.Suspected))
		}
	})
}
