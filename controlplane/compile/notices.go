package compile

import (
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
)

// The reasons with which OpenShift's router tells what happened to the Secret that a Route has its certificate
// from. They are of the moment: what it finds then has a reason of its own.
const (
	reasonSecretDeleted   = "ExternalCertificateSecretDeleted"
	reasonSecretRecreated = "ExternalCertificateSecretRecreated"
	reasonSecretUpdated   = "ExternalCertificateSecretUpdated"
)

// Notice is something that happened to what a Route refers to.
type Notice struct {
	// Namespace and Name are the Route's.
	Namespace, Name string
	// Reason is OpenShift's.
	Reason string
	// Message is for the Route's owner.
	Message string
}

func (n Notice) compare(o Notice) int {
	return compareID(id{Namespace: n.Namespace, Name: n.Name}, id{Namespace: o.Namespace, Name: o.Name})
}

// notice tells the Routes that name a Secret as their certificate what happens to it, before it does. A Route
// that is made of an Ingress is not told, as in OpenShift, where the certificate is copied.
func (c *Compiler) notice(k id, next any) {
	old := c.objects.secrets[k]
	secret, _ := next.(*corev1.Secret)
	for _, r := range c.objects.routesBySecret[k] {
		if r.rule != nil || !r.selected {
			continue
		}
		var reason, what string
		switch {
		case old != nil && next == nil:
			reason, what, r.secretDeleted = reasonSecretDeleted, "deleted", true
		case secret != nil && r.secretDeleted:
			reason, what, r.secretDeleted = reasonSecretRecreated, "recreated", false
		case old != nil && secret != nil && (old.Type != secret.Type || !reflect.DeepEqual(old.Data, secret.Data)):
			reason, what = reasonSecretUpdated, "updated"
		default:
			continue
		}
		c.notices = append(c.notices, Notice{
			Namespace: r.id.Namespace, Name: r.id.Name, Reason: reason, Message: fmt.Sprintf("secret %s %s for route %s", k.Name, what, r.id),
		})
	}
}
