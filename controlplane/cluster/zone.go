package cluster

import (
	"errors"
	"fmt"
	"regexp"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// ZoneVersion is the API group and version of [Zone].
var ZoneVersion = schema.GroupVersion{Group: "tsuji.dev", Version: "v1alpha1"}

// Zone is a part of the cluster that has routers of its own (tsuji.dev/v1alpha1, cluster-scoped). Its
// schema is deploy/kustomize/crd/zones.tsuji.dev.yaml.
type Zone struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	// Spec is what is wanted of the zone.
	Spec ZoneSpec `json:"spec"`
	// Status is what is true of it, from its routers' acks.
	Status ZoneStatus `json:"status,omitzero"`
}

// ZoneSpec is what is wanted of a zone.
type ZoneSpec struct {
	// IngressController is the one that the zone's routers serve; empty means "default".
	IngressController string `json:"ingressController,omitempty"`
	// Order says when releases reach the zone: lower first.
	Order int32 `json:"order,omitempty"`
	// Paused keeps the zone at the version that it has. Endpoints still follow.
	Paused bool `json:"paused,omitempty"`
	// PinnedVersion is a version that the zone is held at, or the beginning of one; empty for none.
	PinnedVersion string `json:"pinnedVersion,omitempty"`
	// EndpointPolicy says which endpoints the zone's routers use; empty means EndpointsAll.
	EndpointPolicy EndpointPolicy `json:"endpointPolicy,omitempty"`
	// Routers is how many to expect; nil: those seen in the last ten minutes.
	Routers *int32 `json:"routers,omitempty"`
	// Addresses are those at which clients reach the zone, for DNS.
	Addresses []string `json:"addresses,omitempty"`
}

// EndpointPolicy says which endpoints a zone's routers use.
type EndpointPolicy string

// The policies.
const (
	// EndpointsAll uses every ready endpoint.
	EndpointsAll EndpointPolicy = "All"
	// EndpointsPreferZone uses those of the zone while there are any.
	EndpointsPreferZone EndpointPolicy = "PreferZone"
)

// ZoneStatus is what is true of a zone.
type ZoneStatus struct {
	// DesiredVersion is the version that the zone should serve.
	DesiredVersion string `json:"desiredVersion,omitempty"`
	// ServingVersion is the version that every router of the zone serves.
	ServingVersion string `json:"servingVersion,omitempty"`
	// Routers are counts of routers.
	Routers ZoneRouters `json:"routers,omitzero"`
	// Conditions are the zone's conditions, one of each type.
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ZoneRouters are counts of a zone's routers.
type ZoneRouters struct {
	// Expected is how many there should be.
	Expected int32 `json:"expected"`
	// Connected is how many are connected to a control plane.
	Connected int32 `json:"connected"`
	// Current is how many serve the desired version.
	Current int32 `json:"current"`
	// Refused is how many refused it.
	Refused int32 `json:"refused"`
}

// ZoneList is a list of Zones.
type ZoneList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []Zone `json:"items"`
}

// pinned is what a pinned version may look like, as in the Zone's schema.
var pinned = regexp.MustCompile(`^([0-9]+-[0-9a-f]{8,64}(\+[0-9a-f]{8,64})?)?$`)

// setDefaults fills in what the Zone's schema says.
func (z *Zone) setDefaults() {
	if z.Spec.IngressController == "" {
		z.Spec.IngressController = "default"
	}
	if z.Spec.EndpointPolicy == "" {
		z.Spec.EndpointPolicy = EndpointsAll
	}
}

// Validate refuses what the Zone's schema refuses.
func (z *Zone) Validate() error {
	switch {
	case z.Spec.EndpointPolicy != EndpointsAll && z.Spec.EndpointPolicy != EndpointsPreferZone:
		return fmt.Errorf("spec.endpointPolicy must be %s or %s", EndpointsAll, EndpointsPreferZone)
	case !pinned.MatchString(z.Spec.PinnedVersion) || len(z.Spec.PinnedVersion) > 160:
		return errors.New("spec.pinnedVersion is no version")
	case z.Spec.Routers != nil && *z.Spec.Routers < 0:
		return errors.New("spec.routers must not be negative")
	}
	return nil
}

// DeepCopy returns a copy that shares nothing with z.
func (z *Zone) DeepCopy() *Zone {
	if z == nil {
		return nil
	}
	out := *z
	z.DeepCopyInto(&out.ObjectMeta)
	if z.Spec.Routers != nil {
		out.Spec.Routers = new(*z.Spec.Routers)
	}
	out.Spec.Addresses = append([]string(nil), z.Spec.Addresses...)
	out.Status.Conditions = nil
	for _, c := range z.Status.Conditions {
		out.Status.Conditions = append(out.Status.Conditions, *c.DeepCopy())
	}
	return &out
}

// DeepCopyObject implements [runtime.Object].
func (z *Zone) DeepCopyObject() runtime.Object { return z.DeepCopy() }

// DeepCopyObject implements [runtime.Object].
func (l *ZoneList) DeepCopyObject() runtime.Object {
	out := *l
	l.DeepCopyInto(&out.ListMeta)
	out.Items = nil
	for i := range l.Items {
		out.Items = append(out.Items, *l.Items[i].DeepCopy())
	}
	return &out
}
