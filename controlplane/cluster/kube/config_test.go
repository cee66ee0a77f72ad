package kube

import (
	"testing"

	configv1 "github.com/openshift/api/config/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/test/sourcetest"
)

// The cluster's configuration of ingress is another kind than the Ingresses, though both are called so. It is followed
// where there is an IngressController, and what is not used of it is no change.
func TestIngressConfig(t *testing.T) {
	t.Parallel()
	a, config := sharedServer(t)
	object := func(label, pattern string) string {
		return "{apiVersion: config.openshift.io/v1, kind: Ingress, metadata: {name: cluster, labels: {a: " + label + "}}, spec: {domain: a.example.com, requiredHSTSPolicies: [{domainPatterns: [" + pattern + "], maxAge: {}}]}}"
	}
	a.apply("{apiVersion: operator.openshift.io/v1, kind: IngressController, metadata: {name: configured, namespace: openshift-ingress-operator}, spec: {}}\n---\n" + object("a", "one.example.com"))
	k := following(t, Config{REST: config}, impatient)
	var m sourcetest.Mirror
	key := cluster.Key{Kind: cluster.IngressConfig, Namespace: "", Name: "cluster"}
	pattern := func() string {
		if c := get[*configv1.Ingress](&m, cluster.IngressConfig, "", "cluster"); c != nil {
			return c.Spec.RequiredHSTSPolicies[0].DomainPatterns[0]
		}
		return ""
	}
	m.Until(t, k, "synced", m.Synchronized)
	if pattern() != "one.example.com" || get[*configv1.Ingress](&m, cluster.IngressConfig, "", "cluster").Spec.Domain != "" {
		t.Fatalf("synced with %v", m.Objects[key])
	}
	came := m.Came[key]
	a.apply(object("b", "one.example.com"))
	a.apply(object("b", "two.example.com"))
	m.Until(t, k, "changed", func() bool { return pattern() == "two.example.com" })
	if m.Came[key] != came+1 {
		t.Errorf("it came %d times more, want once", m.Came[key]-came)
	}
	a.remove("config.openshift.io/v1", "Ingress", "", "cluster")
	m.Until(t, k, "gone", func() bool { return pattern() == "" })
}
