package compile

import (
	"fmt"
	"maps"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// serviceCA is the ConfigMap that OpenShift's operator mounts in routers: the CA that signs the
// certificates of Services.
var serviceCA = id{Namespace: ingressNamespace, Name: "service-ca-bundle"}

// The keys of the ConfigMaps that hold CA certificates.
const (
	serviceCAKey = "service-ca.crt"
	clientCAKey  = "ca-bundle.pem"
)

// caBundle returns the CA certificates in a ConfigMap; nil, and why, if there are none.
func (c *Compiler) caBundle(k id) (bundle []byte, fault string) {
	key := clientCAKey
	if k == serviceCA {
		key = serviceCAKey
	}
	m := c.objects.configMaps[k]
	switch unread := c.objects.unreadConfigMaps[k]; {
	case m == nil && unread != "":
		return nil, fmt.Sprintf("ConfigMap %s cannot be read: %s", k, unread)
	case m == nil:
		return nil, fmt.Sprintf("configmaps %q not found in namespace %s", k.Name, k.Namespace)
	case m.Data[key] == "":
		return nil, fmt.Sprintf("there is no %s in ConfigMap %s/%s", key, k.Namespace, k.Name)
	}
	b := c.crypto.bundle(m.Data[key])
	if b.fault != "" {
		return nil, fmt.Sprintf("%s in ConfigMap %s/%s: %s", key, k.Namespace, k.Name, b.fault)
	}
	return b.pem, ""
}

// serviceCAState is what is known of the cluster's own CA.
type serviceCAState struct {
	good  bool   // there is one, or was once
	fault string // why it cannot be used as it is now; empty: it can
}

// followServiceCA takes over the cluster's own CA if it is good, and marks the Routes that are verified with it if they
// begin or cease to be, or are to be told otherwise. That its content changes is no matter of theirs, unless routers
// refuse some of it.
func (c *Compiler) followServiceCA(d *dirty) {
	kept := &c.kept.serviceCA
	state := serviceCAState{fault: kept.follow(serviceCA, c.caCertificate)}
	state.good = kept.of != (id{})
	held := c.holds.may(tsujiv1.CertificateName(serviceCA.Namespace, tsujiv1.FromConfigMap, serviceCA.Name))
	if state != c.serviceCA || held {
		c.serviceCA = state
		maps.Copy(d.content, c.objects.routesByServiceCA)
	}
}

// useServiceCA marks the cluster's own CA when the first Route would be verified with it, or the last one goes: a hold
// on it may begin or end, whoever refers to it.
func (c *Compiler) useServiceCA(d *dirty) {
	if used := len(c.objects.routesByServiceCA) > 0; used != c.serviceCAUsed {
		c.serviceCAUsed = used
		d.configMaps[serviceCA] = struct{}{}
	}
}

// serviceCAFaults tells that the cluster's own CA, which Routes are verified with, is not as it should be.
func (c *Compiler) serviceCAFaults() []cluster.Fault {
	if !c.serviceCA.good || c.serviceCA.fault == "" || c.refs.configMaps[serviceCA] == 0 {
		return nil
	}
	return []cluster.Fault{{
		Place:   cluster.Key{Kind: cluster.ConfigMap, Namespace: serviceCA.Namespace, Name: serviceCA.Name}.String(),
		Message: printable(c.serviceCA.fault + "; endpoints are verified with the last good one"),
		Remedy:  "put the CA that signs the certificates of Services into " + serviceCAKey + " there",
	}}
}

// serviceCertificates has endpoints verified as what the cluster itself signs: each for the name of its
// Service. What was verified must not cease to be: a CA that vanishes, or cannot be read any more, stays in use as it
// was. One that never could be read refuses the Route.
func (b *builder) serviceCertificates() {
	m, unread := b.c.objects.configMaps[serviceCA], b.c.objects.unreadConfigMaps[serviceCA]
	name := tsujiv1.CertificateName(serviceCA.Namespace, tsujiv1.FromConfigMap, serviceCA.Name)
	switch state := b.c.serviceCA; {
	case state.fault == "":
	case state.good:
		b.lastGood(name, "spec.tls.destinationCACertificate is empty, and "+state.fault,
			"endpoints are verified with the last good one: have it put back, or give the Route a CA of its own")
	case unread == "" && (m == nil || m.Data[serviceCAKey] == ""):
		b.warn("spec.tls.destinationCACertificate is empty, and there is no ConfigMap %s: the certificates of the endpoints "+
			"are not verified", serviceCA)
		return
	default:
		b.fault(required("spec.tls.destinationCACertificate", state.fault))
		return
	}
	b.serviceCA = serviceCA
	b.route.DestinationTls = &tsujiv1.DestinationTLS{Verify: true, VerifyServiceHost: true, Ca: name}
}
