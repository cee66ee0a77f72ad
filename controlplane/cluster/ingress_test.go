package cluster

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	routev1 "github.com/openshift/api/route/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

func anIngress(class string) *networkingv1.Ingress {
	i := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "i"}}
	if class != "" {
		i.Spec.IngressClassName = &class
	}
	return i
}

func anIngressClass(name, controller string, age int, isDefault bool) *networkingv1.IngressClass {
	c := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.IngressClassSpec{Controller: controller}}
	if age > 0 {
		c.CreationTimestamp = metav1.NewTime(time.Unix(int64(age), 0))
	}
	if isDefault {
		c.Annotations = map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}
	}
	return c
}

// Which Ingress is ours: by the class it names, in either way; by the default class; by there being no other's.
func TestIngressesOurs(t *testing.T) {
	t.Parallel()
	const other = "example.com/other"
	annotated := anIngress("")
	annotated.Annotations = map[string]string{IngressClassAnnotation: "c"}
	annotatedFirst := anIngress("other")
	annotatedFirst.Annotations = map[string]string{IngressClassAnnotation: "c"}
	type classes = []*networkingv1.IngressClass
	for _, c := range []struct {
		what    string
		ingress *networkingv1.Ingress
		classes classes
		want    bool
	}{
		{"its class is ours", anIngress("c"), classes{anIngressClass("c", IngressClassController, 1, false)}, true},
		{"its class is OpenShift's", anIngress("c"), classes{anIngressClass("c", "openshift.io/ingress-to-route", 1, false)}, true},
		{"its class is another's", anIngress("c"), classes{anIngressClass("c", other, 1, false)}, false},
		{"its class does not exist", anIngress("c"), nil, false},
		{"its annotation names ours", annotated, classes{anIngressClass("c", IngressClassController, 1, false)}, true},
		{"its annotation names another's", annotated, classes{anIngressClass("c", other, 1, false)}, false},
		{"its annotation comes first", annotatedFirst, classes{anIngressClass("c", IngressClassController, 1, false), anIngressClass("other", other, 1, false)}, true},
		{"no class, and there is none", anIngress(""), nil, true},
		{"no class, and all are ours", anIngress(""), classes{anIngressClass("c", IngressClassController, 1, false)}, true},
		{"no class, and one is another's", anIngress(""), classes{anIngressClass("c", IngressClassController, 1, false), anIngressClass("d", other, 1, false)}, false},
		{"no class, and the default is ours", anIngress(""), classes{anIngressClass("c", IngressClassController, 1, true), anIngressClass("d", other, 1, false)}, true},
		{"no class, and the default is another's", anIngress(""), classes{anIngressClass("c", IngressClassController, 1, false), anIngressClass("d", other, 1, true)}, false},
		{"no class, and the newest default is ours", anIngress(""), classes{anIngressClass("c", IngressClassController, 2, true), anIngressClass("d", other, 1, true)}, true},
		{"no class, and of two defaults ours is first by name", anIngress(""), classes{anIngressClass("c", IngressClassController, 1, true), anIngressClass("d", other, 1, true)}, true},
	} {
		s := NewIngresses()
		for _, class := range c.classes {
			s.Put(Key{Kind: IngressClass, Name: class.Name}, class)
		}
		n := name{Namespace: "ns", Name: "i"}
		s.Put(Key{Ingress, "ns", "i"}, c.ingress)
		if got := s.Ours(n) != nil; got != c.want {
			t.Errorf("%s: ours %t", c.what, got)
		}
		s.Put(Key{Route, "ns", "i-abcde"}, routeOf("Ingress", "networking.k8s.io/v1", true))
		if s.Ours(n) != nil {
			t.Errorf("%s: ours although the cluster makes Routes of it", c.what)
		}
		s.Put(Key{Route, "ns", "i-abcde"}, routeOf("Ingress", "networking.k8s.io/v1", false)) // orphaned
		if got := s.Ours(n) != nil; got != c.want {
			t.Errorf("%s: ours %t when its Route is an orphan", c.what, got)
		}
	}
}

func routeOf(kind, apiVersion string, controller bool) *routev1.Route {
	r := &routev1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "i-abcde"}}
	r.OwnerReferences = []metav1.OwnerReference{{Kind: "Other", Name: "i"}, {Kind: kind, APIVersion: apiVersion, Name: "i", Controller: &controller}}
	return r
}

// What Put does not name is ours or not as it was; the answers do not depend on the order.
func TestIngressesTouched(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := NewIngresses()
		all := map[Key]metav1.Object{}
		answers := map[name]*networkingv1.Ingress{}
		for step := range rapid.IntRange(1, 30).Draw(t, "steps") {
			key, obj := drawIngressObject(t, step)
			if rapid.IntRange(0, 3).Draw(t, "gone") == 0 {
				obj = nil
				delete(all, key)
			} else {
				all[key] = obj
			}
			for _, n := range s.Put(key, obj) {
				answers[n] = s.Ours(n)
			}
			for n, was := range answers {
				if now := s.Ours(n); now != was {
					t.Fatalf("%v: not told that it is another", n)
				}
			}
		}
		fresh := NewIngresses()
		keys := slices.SortedFunc(maps.Keys(all), Key.Compare)
		rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0)).Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		for _, key := range keys {
			fresh.Put(key, all[key])
		}
		for n := range answers {
			if fresh.Ours(n) != s.Ours(n) {
				t.Errorf("%v depends on the order", n)
			}
		}
		if fresh.HaveClass() != s.HaveClass() {
			t.Error("HaveClass depends on the order")
		}
	})
}

func drawIngressObject(t *rapid.T, step int) (Key, metav1.Object) {
	n := fmt.Sprint(rapid.IntRange(1, 3).Draw(t, "name"))
	switch rapid.IntRange(0, 2).Draw(t, "kind") {
	case 0:
		i := anIngress(rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "class"))
		i.Name, i.ResourceVersion = n, fmt.Sprint(step)
		return Key{Ingress, "ns", n}, i
	case 1:
		return Key{Kind: IngressClass, Name: n}, anIngressClass(n, rapid.SampledFrom([]string{IngressClassController, "example.com/other"}).Draw(t, "controller"),
			rapid.IntRange(0, 2).Draw(t, "age"), rapid.Bool().Draw(t, "default"))
	default:
		r := routeOf("Ingress", "networking.k8s.io/v1", rapid.Bool().Draw(t, "controller"))
		r.Name, r.OwnerReferences[1].Name = n, fmt.Sprint(rapid.IntRange(1, 3).Draw(t, "of"))
		return Key{Route, "ns", n}, r
	}
}
