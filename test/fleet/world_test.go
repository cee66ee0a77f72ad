package fleet_test

import (
	"fmt"
	"math/rand/v2"
	"time"

	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

const (
	namespaceRoutes = 20 // Routes of a namespace
	certificateEach = 10 // one of so many Routes has a certificate of its own
	passthrough     = 5  // the last digit of those Routes' numbers
	generations     = 2  // certificates of a Route that takes them in turns
)

// pair is a certificate with its key, PEM. They are made once for all servers of a run, which would not have the same
// digests otherwise.
type pair struct{ Certificate, Key string }

// pairsFor is how many a world of so many Routes needs.
func pairsFor(routes int) int { return (routes + certificateEach - 1) / certificateEach * generations }

// hostOf is the host of a Route.
func hostOf(i int) string { return fmt.Sprintf("r%d.apps.example.com", i) }

// world is a synthetic cluster and what happens in it: a function of the seed, the number of Routes and the pairs.
type world struct {
	rng    *rand.Rand
	pairs  []pair
	routes []*routev1.Route
	slices []*discoveryv1.EndpointSlice
	pods   uint32 // how many there ever were, each with an address of its own
}

func newWorld(seed uint64, routes int, pairs []pair) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 0)), pairs: pairs}
	for i := range routes {
		w.slices = append(w.slices, w.slice(i))
		w.routes = append(w.routes, w.route(i))
	}
	return w
}

func meta(i int) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: fmt.Sprintf("team-%d", i/namespaceRoutes), Name: fmt.Sprintf("r%d", i),
		CreationTimestamp: metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)),
	}
}

// slice has two Pods mostly, and up to a hundred.
func (w *world) slice(i int) *discoveryv1.EndpointSlice {
	pods := 2
	switch n := w.rng.IntN(100); {
	case n == 0:
		pods = 100
	case n < 5:
		pods = 20
	case n < 20:
		pods = 5
	}
	name, port := "web", int32(8080)
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: meta(i), AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
	}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: s.Name}
	for range pods {
		s.Endpoints = append(s.Endpoints, w.pod())
	}
	return s
}

func (w *world) pod() discoveryv1.Endpoint {
	w.pods++
	ready := true
	return discoveryv1.Endpoint{
		Addresses:  []string{fmt.Sprintf("10.%d.%d.%d", 1+w.pods>>16, w.pods>>8&255, w.pods&255)},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Name: fmt.Sprintf("pod-%d", w.pods)},
	}
}

// route has TLS in six of ten, a certificate in one of them, annotations in some, and a long list of networks in a few.
func (w *world) route(i int) *routev1.Route {
	r := &routev1.Route{ObjectMeta: meta(i)}
	r.Annotations = map[string]string{}
	r.Spec.Host, r.Spec.WildcardPolicy = hostOf(i), routev1.WildcardPolicyNone
	r.Spec.To = routev1.RouteTargetReference{Kind: "Service", Name: r.Name}
	switch i % 10 {
	case 0:
		r.Spec.TLS = &routev1.TLSConfig{Termination: routev1.TLSTerminationEdge}
		w.certify(r, i, 0)
	case 1, 2, 3, 4:
		r.Spec.TLS = &routev1.TLSConfig{
			Termination: routev1.TLSTerminationEdge, InsecureEdgeTerminationPolicy: routev1.InsecureEdgeTerminationPolicyRedirect,
		}
	case passthrough:
		r.Spec.TLS = &routev1.TLSConfig{Termination: routev1.TLSTerminationPassthrough}
	}
	if w.rng.IntN(4) == 0 {
		r.Annotations["haproxy.router.openshift.io/timeout"] = "30s"
	}
	if w.rng.IntN(7) == 0 {
		r.Annotations["haproxy.router.openshift.io/balance"] = "roundrobin"
	}
	if w.rng.IntN(25) == 0 {
		list := ""
		for n := range 20 {
			list += fmt.Sprintf("192.0.2.%d/32 ", n)
		}
		r.Annotations["haproxy.router.openshift.io/ip_allowlist"] = list
	}
	return r
}

func (w *world) certify(r *routev1.Route, i, generation int) {
	p := w.pairs[i/certificateEach*generations+generation%generations]
	r.Spec.TLS.Certificate, r.Spec.TLS.Key = p.Certificate, p.Key
}

// all is what there is.
func (w *world) all() []cluster.Change {
	var changes []cluster.Change
	for i, r := range w.routes {
		m := meta(i)
		service := &corev1.Service{ObjectMeta: m, Spec: corev1.ServiceSpec{
			Ports: []corev1.ServicePort{{Name: "web", Port: 80}},
		}}
		changes = append(changes, changeOf(cluster.Service, service), changeOf(cluster.EndpointSlice, w.slices[i]),
			changeOf(cluster.Route, r))
	}
	return changes
}

func changeOf(kind cluster.Kind, o metav1.Object) cluster.Change {
	return cluster.Change{Key: cluster.Key{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}, Object: o}
}

// change makes the next change: a Pod in another's place in 95 of a hundred, a Route's option in 4, a renewed
// certificate in 1.
func (w *world) change() cluster.Change {
	i := w.rng.IntN(len(w.routes))
	switch n := w.rng.IntN(100); {
	case n == 0:
		i -= i % certificateEach
		r := w.routes[i].DeepCopy()
		generation := 0
		if r.Spec.TLS.Key == w.pairs[i/certificateEach*generations].Key {
			generation = 1
		}
		w.certify(r, i, generation)
		w.routes[i] = r
		return changeOf(cluster.Route, r)
	case n < 5:
		return w.changeRoute(i)
	default:
		s := w.slices[i].DeepCopy()
		s.Endpoints[w.rng.IntN(len(s.Endpoints))] = w.pod()
		w.slices[i] = s
		return changeOf(cluster.EndpointSlice, s)
	}
}

// changeRoute gives a Route a timeout that it did not have. The timeouts of passthrough Routes are rounded up, so that
// this might change nothing: the Route before has the change.
func (w *world) changeRoute(i int) cluster.Change {
	if i%10 == passthrough {
		i--
	}
	const annotation = "haproxy.router.openshift.io/timeout"
	r := w.routes[i].DeepCopy()
	seconds := 31
	if r.Annotations[annotation] == "31s" {
		seconds = 32
	}
	r.Annotations[annotation] = fmt.Sprintf("%ds", seconds)
	w.routes[i] = r
	return changeOf(cluster.Route, r)
}
