package kube

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

// replacedFor is how long it is told that the storage was replaced, after what it holds was handed out.
const replacedFor = time.Hour

// apiServer is the place of faults that are not of one kind.
const apiServer = "API server"

// faultsLocked returns what a person must mend, and whether there is more if it lasts.
func (e *epoch) faultsLocked() (out []cluster.Fault, more bool) {
	for _, f := range e.bad {
		out = append(out, f)
	}
	out = append(out, e.crowdedLocked()...)
	now := e.kube.now()
	for f := range e.failing {
		lasts := now.Sub(f.since) >= e.kube.timing.unreachable
		more = more || !lasts
		if fault, ok := f.faultLocked(lasts); ok {
			out = append(out, fault)
		}
	}
	return out, more
}

// faultLocked says what is wrong with a feed whose last request failed, if that is anything to mend, or is when it
// lasts.
func (f *feed) faultLocked(lasts bool) (cluster.Fault, bool) {
	e, err := f.epoch, f.failure
	res := e.kube.client.resources[f.kind]
	out := cluster.Fault{Place: string(f.kind), Message: res.api + " cannot be read"}
	meanwhile := "what was read before stays in force"
	if e.kube.current == nil {
		meanwhile = "nothing is served before"
	}
	if f.ref != nil {
		out.Place, out.Message = f.ref.key.String(), "it cannot be read"
		meanwhile = "it stays as it was"
		switch e.objects[f.kind][name{Namespace: f.ref.key.Namespace, Name: f.ref.key.Name}].(type) {
		case nil, *cluster.Unread:
			meanwhile = "what refers to it goes without"
		}
	}
	var status apierrors.APIStatus
	switch {
	case apierrors.IsUnauthorized(err):
		return cluster.Fault{
			Place:   apiServer,
			Message: fmt.Sprintf("the API server %s does not know us: %s; %s", e.kube.client.host, status401, meanwhile),
			Remedy:  "renew the token or certificate that the kubeconfig has, or the Pod's service account",
		}, lasts
	case apierrors.IsForbidden(err):
		if f.kind == node {
			meanwhile = "endpoints that do not say their zone are used without"
		}
		out.Message += fmt.Sprintf(" (%s); %s", reasonOf(err), meanwhile)
		out.Remedy = fmt.Sprintf("allow the verbs list and watch on %s %s", res.api, f.where())
		return out, true
	case f.absent(err) && (res.optional || f.kind == cluster.Route && e.ingresses.HaveClass()):
		out.Message = fmt.Sprintf("this cluster has no %s any more; what was read before stays in force", res.api)
		out.Remedy = "install its CustomResourceDefinition again; to do without, restart the control plane"
		return out, len(e.objects[f.kind]) > 0
	case f.absent(err):
		out.Message = fmt.Sprintf("this cluster has no %s; %s", res.api, meanwhile)
		out.Remedy = "install the CustomResourceDefinition, or, to serve Ingresses only, an IngressClass with controller " +
			cluster.IngressClassController + "; on OpenShift, see that the openshift-apiserver is available"
		return out, true
	case errors.As(err, &status):
		out.Message += fmt.Sprintf(": %s; %s", reasonOf(err), meanwhile)
		out.Remedy = "look at the API server's log"
		return out, lasts
	default:
		return cluster.Fault{
			Place:   apiServer,
			Message: fmt.Sprintf("the API server %s cannot be reached: %s; %s", e.kube.client.host, cause(err), meanwhile),
			Remedy:  "is it running, and is this its address, and its certificate authority?",
		}, lasts && f.ref == nil
	}
}

const status401 = "401 Unauthorized"

// where says which rights are meant.
func (f *feed) where() string {
	switch {
	case f.ref != nil && !f.kind.Namespaced():
		return fmt.Sprintf("in the cluster (resourceNames: [%s])", f.ref.key.Name)
	case f.ref != nil:
		return fmt.Sprintf("in namespace %s (resourceNames: [%s])", f.ref.key.Namespace, f.ref.key.Name)
	case f.namespace != "":
		return "in namespace " + f.namespace
	}
	return "in the cluster"
}

// reasonOf returns what the API server said.
func reasonOf(err error) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return status.Status().Message
	}
	return err.Error()
}

// cause returns what is wrong with a connection, without what is another each time.
func cause(err error) string {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e.Op + ": " + e.Err.Error()
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}
