package cluster

import (
	"testing"

	configv1 "github.com/openshift/api/config/v1"
)

// The cluster's configuration of ingress is another kind than the Ingresses, though both are called so. It is followed
// where there is an IngressController, and what is not used of it is no change.
func TestKubeIngressConfig(t *testing.T) {
	t.Parallel()
	a, config := sharedServer(t)
	object := func(label, pattern string) string {
		return "{apiVersion: config.openshift.io/v1, kind: Ingress, metadata: {name: cluster, labels: {a: " + label + "}}, spec: {domain: a.example.com, requiredHSTSPolicies: [{domainPatterns: [" + pattern + "], maxAge: {}}]}}"
	}
	a.apply("{apiVersion: operator.openshift.io/v1, kind: IngressController, metadata: {name: configured, namespace: openshift-ingress-operator}, spec: {}}\n---\n" + object("a", "one.example.com"))
	k := following(t, KubeConfig{REST: config}, impatient)
	var m mirror
	key := Key{IngressConfig, "", "cluster"}
	pattern := func() string {
		if c := get[*configv1.Ingress](&m, IngressConfig, "", "cluster"); c != nil {
			return c.Spec.RequiredHSTSPolicies[0].DomainPatterns[0]
		}
		return ""
	}
	m.until(t, k, "synced", m.synchronized)
	if pattern() != "one.example.com" || get[*configv1.Ingress](&m, IngressConfig, "", "cluster").Spec.Domain != "" {
		t.Fatalf("synced with %v", m.objects[key])
	}
	came := m.came[key]
	a.apply(object("b", "one.example.com"))
	a.apply(object("b", "two.example.com"))
	m.until(t, k, "changed", func() bool { return pattern() == "two.example.com" })
	if m.came[key] != came+1 {
		t.Errorf("it came %d times more, want once", m.came[key]-came)
	}
	a.remove("config.openshift.io/v1", "Ingress", "", "cluster")
	m.until(t, k, "gone", func() bool { return pattern() == "" })
}
