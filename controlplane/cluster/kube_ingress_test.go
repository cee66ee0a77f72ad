package cluster

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// The Secrets of Ingresses that are ours are read, and those of others never asked for. A class that is made, and
// one that is no more, are followed. An Ingress comes with its Secret.
func TestKubeIngressSecrets(t *testing.T) {
	t.Parallel()
	a, config := sharedServer(t)
	const ns, class = "ingresses", "{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: %s}, spec: {controller: %s}}"
	ingress := func(name, class, secret string) string {
		return fmt.Sprintf(`{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: %s, namespace: %s}, spec: {ingressClassName: %s,
  tls: [{hosts: [a.example.com], secretName: %s}], defaultBackend: {service: {name: app, port: {number: 80}}}}}`, name, ns, class, secret)
	}
	a.apply(aNamespace(ns))
	a.allow(config, ns, "one", "two")
	a.apply(aSecret(ns, "one", "1") + "\n---\n" + aSecret(ns, "two", "2") + "\n---\n" +
		fmt.Sprintf(class, "of-another", "example.com/other") + "\n---\n" + fmt.Sprintf(class, "of-ours", IngressClassController) + "\n---\n" +
		ingress("ours", "of-ours", "one") + "\n---\n" + ingress("other", "of-another", "others") + "\n---\n" + ingress("later", "of-later", "two"))
	k := following(t, KubeConfig{REST: config}, impatient)
	var m mirror
	secret := func(name string) *corev1.Secret { return get[*corev1.Secret](&m, Secret, ns, name) }
	m.until(t, k, "synced", m.synchronized)
	if secret("one") == nil || secret("two") != nil || get[*networkingv1.Ingress](&m, Ingress, ns, "other") == nil {
		t.Fatalf("synced with %v", m.objects)
	}
	a.apply(fmt.Sprintf(class, "of-later", OpenShiftIngressClassController))
	m.until(t, k, "a class came, and the Secret with it", func() bool { return secret("two") != nil })
	a.apply(ingress("ours", "of-ours", "two"))
	m.until(t, k, "turned to another Secret", func() bool { return secret("one") == nil })
	a.remove("networking.k8s.io/v1", "IngressClass", "", "of-later")
	a.remove("networking.k8s.io/v1", "IngressClass", "", "of-ours")
	m.until(t, k, "the classes are gone, and the Secret with them", func() bool { return secret("two") == nil })
	for _, name := range []string{"others", "one", "two"} {
		if f := m.faultAt("Secret " + ns + "/" + name); f != "" {
			t.Errorf("fault: %s", f)
		}
	}
}
