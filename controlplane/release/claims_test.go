package release_test

import (
	"fmt"
	"testing"
	"time"

	operatorv1 "github.com/openshift/api/operator/v1"
	routev1 "github.com/openshift/api/route/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	source "github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// Two Routes that cannot stand side by side are so here as in compile: of any set of Routes the youngest is admitted
// by compile if, and only if, it fits beside the others here.
func TestClaimsAreThoseOfCompile(t *testing.T) {
	t.Parallel()
	fitted := map[bool]int{}
	rapid.Check(t, func(t *rapid.T) {
		ic := &operatorv1.IngressController{ObjectMeta: metav1.ObjectMeta{Namespace: "openshift-ingress-operator", Name: "default"}}
		ic.Spec.RouteAdmission = &operatorv1.RouteAdmissionPolicy{WildcardPolicy: operatorv1.WildcardPolicyAllowed}
		if rapid.Bool().Draw(t, "shared") {
			ic.Spec.RouteAdmission.NamespaceOwnership = operatorv1.InterNamespaceAllowedOwnershipCheck
		}
		beside := []source.Change{{Key: source.Key{Kind: source.IngressController, Namespace: ic.Namespace, Name: ic.Name}, Object: ic}}
		for i := range rapid.IntRange(0, 6).Draw(t, "others") {
			beside = append(beside, aRoute(t, i))
		}
		youngest := aRoute(t, 100)
		c := compile.New(compile.Config{})
		before := c.Apply(beside)
		after := c.Apply([]source.Change{youngest})
		_, admitted := after.Config.Get(tsujiv1.RouteName(youngest.Key.Namespace, youngest.Key.Name))
		alone := compile.New(compile.Config{}).Apply([]source.Change{beside[0], youngest})
		item, ok := alone.Config.Get(tsujiv1.RouteName(youngest.Key.Namespace, youngest.Key.Name))
		if !ok {
			t.Fatalf("%v is not admitted even alone", youngest.Object)
		}
		if got := release.Fits(after.SharedHosts, before.Config, item); got != admitted {
			t.Errorf("it fits: %v, it is admitted: %v (%v)", got, admitted, after.Verdicts)
		}
		fitted[admitted]++
	})
	if fitted[true] == 0 || fitted[false] == 0 {
		t.Errorf("%v", fitted)
	}
}

// aRoute draws one of a small world; age is when it was made.
func aRoute(t *rapid.T, age int) source.Change {
	r := &routev1.Route{ObjectMeta: metav1.ObjectMeta{
		Namespace:         rapid.SampledFrom([]string{"a", "b"}).Draw(t, "namespace"),
		Name:              fmt.Sprintf("r%d", age),
		CreationTimestamp: metav1.NewTime(start.Add(time.Duration(age) * time.Second)),
	}}
	r.Spec.Host = rapid.SampledFrom([]string{"x.example.com", "y.example.com", "x.other.com"}).Draw(t, "host")
	r.Spec.To = routev1.RouteTargetReference{Kind: "Service", Name: "web"}
	if rapid.IntRange(0, 3).Draw(t, "wildcard") == 0 {
		r.Spec.WildcardPolicy = routev1.WildcardPolicySubdomain
	}
	switch rapid.IntRange(0, 3).Draw(t, "termination") {
	case 0:
		r.Spec.TLS = &routev1.TLSConfig{Termination: routev1.TLSTerminationPassthrough}
		return source.Change{Key: source.Key{Kind: source.Route, Namespace: r.Namespace, Name: r.Name}, Object: r}
	case 1:
		r.Spec.TLS = &routev1.TLSConfig{Termination: routev1.TLSTerminationEdge}
	}
	r.Spec.Path = rapid.SampledFrom([]string{"", "/p", "/q"}).Draw(t, "path")
	return source.Change{Key: source.Key{Kind: source.Route, Namespace: r.Namespace, Name: r.Name}, Object: r}
}
