package compile_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	operatorv1 "github.com/openshift/api/operator/v1"
	routev1 "github.com/openshift/api/route/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// What is left for later is new Routes and what they refer to, and nothing else: all that there is is as if nothing was
// left; no host that was served is without a Route if there is one for it; and nothing is left for ever.
func TestWhatIsLeftForLater(t *testing.T) {
	t.Parallel()
	u := newUniverse(t)
	left := 0
	rapid.Check(t, func(t *rapid.T) {
		w, all := newWorld(), newWorld()
		w.compiler = compile.New(compile.Config{Most: rapid.IntRange(1, 2).Draw(t, "most")})
		w.apply()
		all.apply()
		for range rapid.IntRange(1, 15).Draw(t, "steps") {
			before := servedHosts(t, w.last.Config)
			var changes []cluster.Change
			for range rapid.IntRange(0, 6).Draw(t, "changes") {
				changes = append(changes, u.change(t))
			}
			w.apply(changes...)
			all.apply(changes...)
			if w.last.Later > 0 {
				left++
			}
			for _, s := range [][2]snapshot.Set{{w.last.Config, all.last.Config}, {w.last.Facts, all.last.Facts}} {
				for i := range s[0].All() {
					if o, ok := s[1].Get(i.Name()); !ok || o.Digest() != i.Digest() {
						t.Fatalf("%s is not as it is where nothing is left for later", i.Name())
					}
				}
			}
			now, should := servedHosts(t, w.last.Config), servedHosts(t, all.last.Config)
			for host := range before {
				if should.answer(host) && !now.answer(host) {
					t.Fatalf("%s was served, and is not while a Route for it waits", host)
				}
			}
			checkReferences(t, w.last)
		}
		for n := 0; w.last.Later > 0; n++ {
			if w.apply(); n > 100 {
				t.Fatalf("%d Routes wait for ever", w.last.Later)
			}
		}
	})
	if left == 0 {
		t.Error("nothing was ever left for later")
	}
}

// hosts are those that some Route is for; wildcards begin with "*.".
type hosts map[string]bool

func (h hosts) answer(host string) bool {
	_, parent, _ := strings.Cut(host, ".")
	return h[host] || h["*."+parent]
}

func servedHosts(t *rapid.T, config snapshot.Set) hosts {
	t.Helper()
	hosts := hosts{}
	for i := range config.All() {
		res, err := tsujiv1.Decode(i)
		if err != nil {
			t.Fatal(err)
		}
		r := res.GetRoute()
		if r == nil {
			continue
		}
		host := r.GetHost()
		if r.GetWildcard() {
			_, parent, _ := strings.Cut(host, ".")
			host = "*." + parent
		}
		hosts[host] = true
	}
	return hosts
}

// What routers refuse does not end because the Route that needs it is new again and others come first.
func TestHoldsDoNotEndMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.compiler = compile.New(compile.Config{Most: 1})
	w.apply()
	var changes []cluster.Change
	for n := range 10 {
		changes = append(changes, newRoute("tenant", n))
	}
	changes[9] = newRoute("tenant", 9, func(s *routev1.RouteSpec) { s.To.Name = "held" })
	last := tsujiv1.EndpointsName("tenant", "held", tsujiv1.AnyPort)
	refused := compile.Hold{Any: true, Told: &tsujiv1.Quarantine{Message: "no"}}
	w.compiler.Hold(compile.Holds{Resources: map[string]compile.Hold{last: refused}})
	w.apply(changes...)
	if w.last.Later == 0 || slices.Contains(w.last.Ended, last) {
		t.Errorf("%d Routes wait, and what ended is %q", w.last.Later, w.last.Ended)
	}
	if w.drain(); len(w.last.Ended) > 0 {
		t.Errorf("%q ended", w.last.Ended)
	}
	w.apply(cluster.Change{Key: changes[9].Key})
	if !slices.Contains(w.last.Ended, last) {
		t.Errorf("what nobody needs any more is not told: %q", w.last.Ended)
	}
}

// A Route that answers for a host in place of one that goes comes as that one goes, a wildcard in place of a host and a
// host in place of a wildcard included.
func TestHostsAreNotLeftForLater(t *testing.T) {
	t.Parallel()
	at := func(host string) func(*routev1.RouteSpec) {
		return func(s *routev1.RouteSpec) { s.Host = host }
	}
	single, other := newRoute("tenant", 1, at("a.x.test")), newRoute("other", 3, at("a.x.test"))
	wildcard := newRoute("tenant", 2, at("b.x.test"), func(s *routev1.RouteSpec) {
		s.WildcardPolicy = routev1.WildcardPolicySubdomain
	})
	for _, c := range []struct{ from, to cluster.Change }{
		{single, wildcard}, {wildcard, single}, {single, other}, {wildcard, other},
	} {
		w := newWorld()
		w.compiler = compile.New(compile.Config{Most: 1})
		ic := &operatorv1.IngressController{}
		ic.Namespace, ic.Name = "openshift-ingress-operator", "default"
		ic.Spec.RouteAdmission = &operatorv1.RouteAdmissionPolicy{WildcardPolicy: operatorv1.WildcardPolicyAllowed}
		w.apply(put(ic), c.from)
		changes := []cluster.Change{{Key: c.from.Key}, c.to}
		for n := range 10 {
			changes = append(changes, newRoute(fmt.Sprint("aaa", n), n))
		}
		w.apply(changes...)
		if _, ok := w.last.Config.Get(tsujiv1.RouteName(c.to.Key.Namespace, c.to.Key.Name)); !ok || w.last.Later == 0 {
			t.Errorf("%v goes, and %v waits, of %d", c.from.Key, c.to.Key, w.last.Later)
		}
	}
}

func newRoute(namespace string, n int, edits ...func(*routev1.RouteSpec)) cluster.Change {
	o := &routev1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprint("r", n)}}
	o.Spec.Host = fmt.Sprintf("r%d.%s.example.com", n, namespace)
	o.Spec.To = routev1.RouteTargetReference{Kind: "Service", Name: "web"}
	for _, edit := range edits {
		edit(&o.Spec)
	}
	return put(o)
}

// One tenant makes thousands of Routes: others' are looked at first, in the same Apply and in those that follow, and
// what was made first of the tenant's comes first. Who makes few waits for nobody.
func TestNewRoutesTakeTurns(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.compiler = compile.New(compile.Config{Most: 100})
	w.apply()
	var changes []cluster.Change
	for n := range 1000 {
		changes = append(changes, newRoute("tenant", n))
	}
	for n := range 60 {
		changes = append(changes, newRoute("victim", n))
	}
	served := func(namespace string, n int) bool {
		_, ok := w.last.Config.Get(tsujiv1.RouteName(namespace, fmt.Sprint("r", n)))
		return ok
	}
	w.apply(changes...)
	if !served("victim", 0) || w.last.Later != 1060-100 {
		t.Errorf("of the first 1,060 Routes %d wait", w.last.Later)
	}
	applies := 1
	for ; w.last.Later > 0; applies++ {
		w.apply(newRoute("late", applies))
		if !served("late", applies) || !served("victim", 59) {
			t.Fatalf("after %d turns others' Routes wait", applies)
		}
	}
	if applies < 10 || applies > 13 {
		t.Errorf("it took %d turns", applies)
	}
}

// However many new Routes others have in each Apply, of which each costs more than a share, nobody waits for ever.
func TestNewRoutesOfNobodyWaitForEver(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.compiler = compile.New(compile.Config{Most: 20})
	var changes []cluster.Change
	for i := range 6 {
		changes = append(changes, put(slice(fmt.Sprint("busy", i), 80)))
	}
	w.apply(changes...)
	changes = nil
	for n := range 30 {
		changes = append(changes, newRoute("victim", n))
	}
	for n := 0; ; n++ {
		for i := range 6 {
			changes = append(changes, newRoute(fmt.Sprint("busy", i), n))
		}
		w.apply(changes...)
		changes = nil
		if _, ok := w.last.Config.Get("route/victim/r29"); ok {
			return
		}
		if n == 100 {
			t.Fatalf("the victim's last Route waits, with %d others", w.last.Later)
		}
	}
}

// slice has so many endpoints of the Service of newRoute.
func slice(namespace string, endpoints int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	s.Namespace, s.Name, s.Labels = namespace, "web", map[string]string{discoveryv1.LabelServiceName: "web"}
	for i := range endpoints {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.0.%d.%d", i>>8, i&255)}})
	}
	return s
}
