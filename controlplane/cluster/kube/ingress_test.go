package kube

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/test/sourcetest"
)

// The Secrets of Ingresses that are ours are read, and those of others never asked for. A class that is made, and
// one that is no more, are followed. An Ingress comes with its Secret.
func TestIngressSecrets(t *testing.T) {
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
		fmt.Sprintf(class, "of-another", "example.com/other") + "\n---\n" + fmt.Sprintf(class, "of-ours", cluster.IngressClassController) + "\n---\n" +
		ingress("ours", "of-ours", "one") + "\n---\n" + ingress("other", "of-another", "others") + "\n---\n" + ingress("later", "of-later", "two"))
	k := following(t, Config{REST: config}, impatient)
	var m sourcetest.Mirror
	secret := func(name string) *corev1.Secret { return get[*corev1.Secret](&m, cluster.Secret, ns, name) }
	m.Until(t, k, "synced", m.Synchronized)
	if secret("one") == nil || secret("two") != nil || get[*networkingv1.Ingress](&m, cluster.Ingress, ns, "other") == nil {
		t.Fatalf("synced with %v", m.Objects)
	}
	a.apply(fmt.Sprintf(class, "of-later", cluster.OpenShiftIngressClassController))
	m.Until(t, k, "a class came, and the Secret with it", func() bool { return secret("two") != nil })
	a.apply(ingress("ours", "of-ours", "two"))
	m.Until(t, k, "turned to another Secret", func() bool { return secret("one") == nil })
	a.remove("networking.k8s.io/v1", "IngressClass", "", "of-later")
	a.remove("networking.k8s.io/v1", "IngressClass", "", "of-ours")
	m.Until(t, k, "the classes are gone, and the Secret with them", func() bool { return secret("two") == nil })
	for _, name := range []string{"others", "one", "two"} {
		if f := m.FaultAt("Secret " + ns + "/" + name); f != "" {
			t.Errorf("fault: %s", f)
		}
	}
}

// A class comes, goes and comes back while the Secrets of its Ingresses take long: an Ingress is handed out with its class
// and without its Secret never. One that needs no Secret does not wait for them, nor does one that is served already.
func TestIngressClassComesBack(t *testing.T) {
	t.Parallel()
	a, _ := sharedServer(t)
	const ns, class = "classes", "{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: of-classes}, spec: {controller: tsuji.dev/ingress}}"
	var mu sync.Mutex
	release := make(chan struct{}) // guarded by mu; closed when Secrets may be read
	config := intercept(a.server.Config(), func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		if strings.Contains(r.URL.Path, ns+"/secrets") {
			mu.Lock()
			ch := release
			mu.Unlock()
			select {
			case <-ch:
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}
		return next.RoundTrip(r)
	})
	ingress := func(name, note, tls string) string {
		return fmt.Sprintf(`{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: %s, namespace: %s, annotations: {note: %q}}, spec: {ingressClassName: of-classes,
  %s defaultBackend: {service: {name: app, port: {number: 80}}}}}`, name, ns, note, tls)
	}
	const secure = "tls: [{hosts: [a.example.com], secretName: one}],"
	a.apply(aNamespace(ns))
	a.apply(aSecret(ns, "one", "1") + "\n---\n" + ingress("secure", "1", secure) + "\n---\n" + ingress("plain", "1", ""))
	k := following(t, Config{REST: config, Namespace: ns}, impatient)
	var m sourcetest.Mirror
	get := func(name string) *networkingv1.Ingress {
		return get[*networkingv1.Ingress](&m, cluster.Ingress, ns, name)
	}
	has := func() bool {
		_, ok := m.Objects[cluster.Key{Kind: cluster.IngressClass, Name: "of-classes"}]
		if ok && get("secure") != nil && m.Objects[cluster.Key{Kind: cluster.Secret, Namespace: ns, Name: "one"}] == nil {
			t.Error("an Ingress was handed out with its class, and without its Secret")
		}
		return ok
	}
	m.Until(t, k, "synced", m.Synchronized)
	if get("secure") == nil || get("plain") == nil {
		t.Fatalf("synced with %v", m.Objects)
	}
	for i := range 3 {
		a.apply(class)
		m.Until(t, k, "the class", has)
		if get("secure") != nil || get("plain") == nil {
			t.Errorf("with the class that has come: %v", m.Objects)
		}
		note := fmt.Sprint(i)
		a.apply(ingress("plain", note, "") + "\n---\n" + ingress("secure", note, secure))
		m.Until(t, k, "what needs no Secret", func() bool { return has() && get("plain").Annotations["note"] == note })
		if get("secure") != nil {
			t.Errorf("it was handed out without its Secret")
		}
		mu.Lock()
		close(release)
		release = make(chan struct{})
		mu.Unlock()
		m.Until(t, k, "the Secret, and with it the Ingress", func() bool {
			return has() && get("secure") != nil && get("secure").Annotations["note"] == note
		})
		a.remove("networking.k8s.io/v1", "IngressClass", "", "of-classes")
		m.Until(t, k, "the class is gone, and the Secret with it", func() bool {
			return !has() && m.Objects[cluster.Key{Kind: cluster.Secret, Namespace: ns, Name: "one"}] == nil
		})
		if get("secure") == nil {
			t.Error("the Ingress is gone with its class")
		}
	}
}
