package compile

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// reasonIncomplete is the reason of the event with which OpenShift tells that of a rule of an Ingress no
// Route can be made.
const reasonIncomplete = "IncompleteIngressToRouteRules"

// rule is a rule of an Ingress: what the Route that is made of it does not say.
type rule struct {
	ingress     string    // its name; its namespace is the Route's
	field       string    // of the Ingress
	exact       bool      // whether the path is served alone, without what is below it
	secretField string    // that names the Secret with the certificate
	uid         types.UID // the Ingress's

	destination      string // the Secret whose certificate endpoints are verified with; empty: none is named
	destinationFault string // why it cannot be used; empty: the Route has its text

	setBy []string // annotations and fields that set options of the Route, beside those of any Route

	incomplete string   // why no Route can be made of it: it claims no host
	noClass    bool     // that is for want of an IngressClass
	faults     []string // why the Route that is made of it cannot be served: it keeps its host
	missing    string   // the Secret that is not there, which destinationFault tells
	warnings   []string
}

// source names the rule; nil: the Route is an object of its own.
func (r *rule) source() *tsujiv1.RouteSource {
	if r == nil {
		return nil
	}
	return &tsujiv1.RouteSource{Kind: string(cluster.Ingress), Name: printable(r.ingress), Field: r.field}
}

// hostBy returns what the host is by, as it is named in the Ingress.
func (r *rule) hostBy(ofRoute string) string {
	if ofRoute != "spec.host" {
		return ofRoute
	}
	of, _, _ := strings.Cut(r.field, ".http.")
	return of + ".host"
}

// made is a Route that was made of a rule. For a rule that is incomplete it has what it asks for, as far as
// that is known.
type made struct {
	id     id
	object *routev1.Route
	rule   *rule
}

// ingresses translates Ingresses to Routes, each by itself. A Route that is made has its name by what the
// rule asks for, so it is the same on every replica and wherever the rule stands. What takes its name is
// served in its place: an object of that name, or else what another Ingress makes, the first by name.
type ingresses struct {
	known     *cluster.Ingresses
	ports     map[id][]corev1.ServicePort // of every Service
	byService map[id]map[id]struct{}      // those that are ours by a Service they refer to, existing or not
	bySecret  map[id]map[id]struct{}      // and by a Secret that goes into their Routes
	of        map[id]translated
	byRoute   map[id]map[id]made // what is made: by the Route, then the Ingress
}

// translated is what an Ingress was translated to, and what that depends on beside the Ingress.
type translated struct {
	routes            []made
	services, secrets []id
}

func newIngresses() ingresses {
	return ingresses{
		known: cluster.NewIngresses(), ports: map[id][]corev1.ServicePort{}, byService: map[id]map[id]struct{}{},
		bySecret: map[id]map[id]struct{}{}, of: map[id]translated{}, byRoute: map[id]map[id]made{},
	}
}

// put takes an object, nil if it is gone, and marks the Ingresses to translate again.
func (s *ingresses) put(ch cluster.Change, d *dirty) {
	k := id{Namespace: ch.Key.Namespace, Name: ch.Key.Name}
	for _, i := range s.known.Put(ch.Key, ch.Object) {
		d.ingresses[i] = struct{}{}
	}
	switch ch.Key.Kind {
	case cluster.Service:
		old, was := s.ports[k]
		obj, is := ch.Object.(*corev1.Service)
		if !is {
			delete(s.ports, k)
		} else {
			s.ports[k] = obj.Spec.Ports
		}
		if was != is || is && !slices.EqualFunc(old, obj.Spec.Ports, func(a, b corev1.ServicePort) bool { return a.Name == b.Name && a.Port == b.Port }) {
			maps.Copy(d.ingresses, s.byService[k])
		}
	case cluster.Secret:
		maps.Copy(d.ingresses, s.bySecret[k])
	default: // nothing else goes into a translation
	}
}

// made returns the Route of that name that is made of an Ingress; the zero one if none is.
func (s *ingresses) made(route id) made {
	var first *id
	for i := range s.byRoute[route] {
		if first == nil || compareID(i, *first) < 0 {
			first = &i
		}
	}
	if first == nil {
		return made{}
	}
	return s.byRoute[route][*first]
}

// set makes next what an Ingress is translated to, and returns the Routes that may be others.
func (s *ingresses) set(ingress id, next translated) map[id]struct{} {
	touched := map[id]struct{}{}
	old := s.of[ingress]
	for _, m := range old.routes {
		touched[m.id] = struct{}{}
		unlink(s.byRoute, m.id, ingress)
	}
	for _, k := range old.services {
		unlink(s.byService, k, ingress)
	}
	for _, k := range old.secrets {
		unlink(s.bySecret, k, ingress)
	}
	delete(s.of, ingress)
	if len(next.routes) == 0 {
		return touched
	}
	s.of[ingress] = next
	for _, m := range next.routes {
		touched[m.id] = struct{}{}
		link(s.byRoute, m.id, ingress, m)
	}
	for _, k := range next.services {
		link(s.byService, k, ingress, struct{}{})
	}
	for _, k := range next.secrets {
		link(s.bySecret, k, ingress, struct{}{})
	}
	return touched
}

// putRoute takes a Route object, nil if it is gone: then what is made of an Ingress comes in its place.
func (c *Compiler) putRoute(k id, obj *routev1.Route, d *dirty) {
	m := made{object: obj}
	if obj == nil {
		m = c.ingresses.made(k)
	}
	c.place(k, m, d)
}

func (c *Compiler) place(k id, m made, d *dirty) {
	if r := c.objects.putRoute(k, m.object); r != nil {
		r.rule = m.rule
		d.standing[k] = r
	}
}

// translate translates the Ingresses that are to be translated again.
func (c *Compiler) translate(d *dirty) {
	for ingress := range d.ingresses {
		var next translated
		if obj := c.ingresses.known.Ours(ingress); obj != nil {
			next = c.translateIngress(obj)
		} else if obj, class := c.ingresses.known.WithoutClass(ingress); obj != nil {
			next = c.withoutClass(obj, class)
		}
		for k := range c.ingresses.set(ingress, next) {
			r := c.objects.routes[k]
			if r != nil && r.object != nil && r.rule == nil {
				continue // an object of its own
			}
			m := c.ingresses.made(k)
			if r != nil && r.object != nil && equality.Semantic.DeepEqual(r.object, m.object) && reflect.DeepEqual(r.rule, m.rule) {
				continue
			}
			c.place(k, m, d)
		}
	}
}

// ReasonNoIngressClass is why an Ingress is not served whose class is nobody's, since there is no such class.
const ReasonNoIngressClass = "IngressClassNotFound"

// withoutClass makes of an Ingress whose class does not exist what tells so: its rules claim nothing.
func (c *Compiler) withoutClass(obj *networkingv1.Ingress, class string) translated {
	t := newTranslation(c, obj)
	t.rules()
	why := fmt.Sprintf("spec.ingressClassName: Not found: %s: there is no such IngressClass, so that nobody serves this Ingress", quoted(class))
	for i := range t.out.routes {
		m := &t.out.routes[i]
		asked := m.object.Spec
		m.object.Spec = routev1.RouteSpec{Host: asked.Host, Path: asked.Path, WildcardPolicy: asked.WildcardPolicy}
		if asked.TLS != nil {
			m.object.Spec.TLS = &routev1.TLSConfig{Termination: asked.TLS.Termination}
		}
		m.rule = &rule{ingress: obj.Name, field: m.rule.field, exact: m.rule.exact, noClass: true, incomplete: why}
	}
	return translated{routes: t.out.routes} // which depend on no Service and no Secret
}

// translateIngress makes Routes of an Ingress.
func (c *Compiler) translateIngress(obj *networkingv1.Ingress) translated {
	t := newTranslation(c, obj)
	t.rules()
	t.warn()
	return t.out
}
