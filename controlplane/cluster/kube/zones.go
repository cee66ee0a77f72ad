package kube

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A name is that of an object whose kind is known.
type name = types.NamespacedName

// zones gives endpoints that do not say their zone that of their node. A cluster's own EndpointSlices say
// it; those that others write, and those from before the node got its zone, may not.
type zones struct {
	ofNode  map[string]string
	lacking map[name]*discoveryv1.EndpointSlice // as the API has them: an endpoint has a node and no zone
	byNode  map[string]map[name]struct{}        // of those, by the nodes of such endpoints
}

func newZones() *zones {
	return &zones{
		ofNode: map[string]string{}, lacking: map[name]*discoveryv1.EndpointSlice{}, byNode: map[string]map[name]struct{}{},
	}
}

// lacks tells whether an endpoint has a node and no zone.
func lacks(e *discoveryv1.Endpoint) bool {
	return (e.Zone == nil || *e.Zone == "") && e.NodeName != nil && *e.NodeName != ""
}

// put takes a slice as the API has it, nil if it is gone, and returns it with its zones.
func (z *zones) put(n name, s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	if old := z.lacking[n]; old != nil {
		for i := range old.Endpoints {
			if e := &old.Endpoints[i]; lacks(e) {
				delete(z.byNode[*e.NodeName], n)
				if len(z.byNode[*e.NodeName]) == 0 {
					delete(z.byNode, *e.NodeName)
				}
			}
		}
		delete(z.lacking, n)
	}
	if s == nil || !slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return lacks(&e) }) {
		return s
	}
	z.lacking[n] = s
	for i := range s.Endpoints {
		if e := &s.Endpoints[i]; lacks(e) {
			if z.byNode[*e.NodeName] == nil {
				z.byNode[*e.NodeName] = map[name]struct{}{}
			}
			z.byNode[*e.NodeName][n] = struct{}{}
		}
	}
	return z.fill(s)
}

// fill returns a copy of the slice with zones.
func (z *zones) fill(s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	out := *s
	out.Endpoints = slices.Clone(s.Endpoints)
	for i := range out.Endpoints {
		if e := &out.Endpoints[i]; lacks(e) {
			if zone := z.ofNode[*e.NodeName]; zone != "" {
				e.Zone = &zone
			}
		}
	}
	return &out
}

// putNode takes a node, nil if it is gone, and returns the slices whose zones may differ for it.
func (z *zones) putNode(n string, obj metav1.Object) map[name]struct{} {
	zone := ""
	if obj != nil {
		zone = one(obj.GetLabels()[corev1.LabelTopologyZone])
	}
	if z.ofNode[n] == zone {
		return nil
	}
	if zone == "" {
		delete(z.ofNode, n)
	} else {
		z.ofNode[n] = zone
	}
	return z.byNode[n]
}
